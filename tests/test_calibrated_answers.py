"""One calibration, the same numbers from every question."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftadvisor import compare, estimate, fit, load_calibration, recommend
from ftadvisor.api import calibrating
from ftadvisor.api.estimator import estimate_subject
from ftadvisor.api.plan_files import (
    complete_plan,
    estimate_on,
    estimate_plan,
    plan_subject,
    read_plan,
)
from ftadvisor.api.recommender import answer
from ftadvisor.api.remedies import ways_to_fit
from ftadvisor.api.situation import question_of, situation_of
from ftadvisor.calibration.cases import read_cases, repository_cases
from ftadvisor.calibration.own_fit import Shipped, fit_calibration
from ftadvisor.cli.entry import main
from ftadvisor.errors import InvalidSettingError
from ftadvisor.estimation.calibrated import cpu_of
from ftadvisor.schema.calibration import Adjusted, Calibration, Factors
from ftadvisor.schema.coefficients import Interval
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.settings import Settings
from ftadvisor.sources import kept_fit, records
from ftadvisor.sources.coefficients import (
    cpu_coefficients,
    memory_coefficients,
    time_coefficients,
    time_intervals,
)
from ftadvisor.sources.kept_fit import FILE
from ftadvisor.sources.measurements import measurements_of
from ftadvisor.sources.own_rows import Ran, machine_id, row_of
from ftadvisor.sources.plans import draft_of, write_plan
from ftadvisor.sources.techniques import find_technique
from ftadvisor.units import GIB

SLOWER = Adjusted(Factors(0.7, 0.8, 1.5, 2.0), 0.9 * GIB, Interval(0.9, 1.2, 30), 30)
MEASURED = Calibration(gpus={"rtx-4090": SLOWER}, families={"ampere": SLOWER})
MODEL = "llama-3.2-1b"
WISHES = {"num_examples": 20_000, "mean_length": 400}


def same(found: Estimate, expected: Estimate) -> bool:
    return (found.memory, found.time, found.cost) == (
        expected.memory, expected.time, expected.cost,
    )  # fmt: skip


def test_all_questions_use_the_calibration_that_they_are_given():
    expected = estimate(MODEL, gpu="rtx4090", calibration=MEASURED)
    plain = estimate(MODEL, gpu="rtx4090")
    assert expected.memory.device_bytes > plain.memory.device_bytes
    assert expected.time
    assert plain.time
    assert expected.time.total_seconds > 1.1 * plain.time.total_seconds
    rows = compare(MODEL, gpu="rtx4090", calibration=MEASURED).rows
    assert same(next(r.estimate for r in rows if r.name == "lora"), expected)
    of = {"gpu": "rtx4090", "technique": "lora", "micro_batch_size": 4, "max_length": 512}
    found = fit(MODEL, calibration=MEASURED, **of)
    (length,) = found.batches[0].lengths or (found.batches[0].longest,)
    assert length
    assert length.estimate
    settings = {k: length.estimate.settings[k] for k in ("gradient_checkpointing",)}
    again = {**of, **settings, "longest_length": 512}
    assert same(length.estimate, estimate(MODEL, calibration=MEASURED, **again))
    assert not same(length.estimate, estimate(MODEL, **again))


def test_single_changes_are_calibrated_too():
    asked = {"gpu": "rtx4090", "technique": "full"}
    plainly = {r.change: r.device_bytes for r in ways_to_fit("llama3.1-8b", **asked)}
    own = {
        r.change: r.device_bytes for r in ways_to_fit("llama3.1-8b", calibration=MEASURED, **asked)
    }
    lora = "technique lora"
    (change,) = (name for name in own if lora in name)
    assert own[change] > plainly[change]
    # Of another GPU nothing was measured.
    larger = [name for name in own.keys() & plainly.keys() if name.startswith("gpu ")]
    assert larger
    assert all(own[name] == plainly[name] for name in larger if "a100" not in name)


def estimated(plan: Plan, calibration: Calibration | None) -> Estimate:
    return estimate_subject(plan_subject(plan, calibration), find_technique(plan.technique))


@pytest.mark.parametrize("gpu", ["rtx4090", ["l40s", "rtx3090", "rtx4090"], "any"])
def test_a_recommended_plan_has_the_calibrated_estimate(gpu: str | list[str]):
    found = recommend(MODEL, gpu=gpu, calibration=MEASURED, **WISHES)
    assert found.plan
    plans = [found.plan, *(other.plan for other in found.alternatives)]
    for plan in plans:
        assert same(plan.estimate, estimated(plan, MEASURED))
    # The search's own arrays say what the plan's estimate says.
    assert found.plan.estimate.time
    situation = replace(situation_of(None, gpu, None, None, dict(WISHES)), calibration=MEASURED)
    best = answer(question_of(situation, MODEL)).chosen.best
    assert best
    high = found.plan.estimate.time.total_high_seconds
    assert best.number("total_high_seconds") == pytest.approx(high, rel=1e-6)
    own = next(s for s in found.standings if s.technique == found.plan.technique)
    assert own.total_seconds == pytest.approx(found.plan.estimate.time.total_seconds, rel=1e-6)
    assert own.device_bytes == pytest.approx(found.plan.estimate.memory.device_bytes, rel=1e-6)


def test_a_search_weighs_gpus_by_their_own_measurements():
    asked = {"gpu": ["l40s", "rtx4090"], "goal": "time", **WISHES}
    slow = SLOWER._replace(factors=Factors(0.1, 0.1, 5.0, 1.0))
    plain = recommend(MODEL, **asked)
    assert plain.plan
    named = {"l40s": "rtx-4090", "rtx-4090": "l40s"}
    first = plain.plan.hardware.gpu
    assert first
    turned = recommend(MODEL, calibration=Calibration(gpus={first: slow}), **asked)
    assert turned.plan
    assert turned.plan.hardware.gpu == named[first]


def test_a_calibration_of_other_gpus_changes_nothing():
    other = Calibration(gpus={"h100-sxm5-80gb": SLOWER})
    asked = {"gpu": ["l40s", "rtx3090"], **WISHES}
    assert recommend(MODEL, calibration=other, **asked) == recommend(MODEL, **asked)
    assert compare(MODEL, gpu="l40s", calibration=other) == compare(MODEL, gpu="l40s")
    assert fit(gpu="l40s", calibration=other) == fit(gpu="l40s")


PROBED = Calibration(
    cpu=cpu_of(
        {
            "usable_bytes": 16 * GIB, "copy_bytes_per_second": 1e10,
            "flops_per_second": {"fp32": 2e11, "bf16": 1e12},
        }
    )
)  # fmt: skip
"""A processor of which nothing else was measured."""


def test_a_processor_is_recommended_for_once_it_was_probed():
    unknown = recommend(MODEL, gpu="cpu", **WISHES)
    assert unknown.plan
    assert unknown.plan.estimate.time is None
    assert any("ftadvisor probe has measured" in said for said in unknown.warnings)
    known = recommend(MODEL, gpu="cpu", calibration=PROBED, **WISHES)
    assert known.plan
    assert known.plan.hardware.gpu == "cpu"
    assert same(known.plan.estimate, estimated(known.plan, PROBED))
    assert known.plan.estimate.verdict == "fits"
    assert not any("probe" in said for said in known.warnings)
    # The search's own arrays say what the plan's estimate says.
    own = next(s for s in known.standings if s.technique == known.plan.technique)
    assert known.plan.estimate.time
    assert own.device_bytes == pytest.approx(known.plan.estimate.memory.device_bytes, rel=1e-6)
    assert own.total_seconds == pytest.approx(known.plan.estimate.time.total_seconds, rel=1e-6)
    # Several processes share it.
    shared = recommend(MODEL, gpu="cpu", num_gpus=2, calibration=PROBED, **WISHES)
    assert shared.plan
    assert shared.plan.estimate.time is None


def test_a_plan_for_a_processor_is_read_with_and_without_its_calibration(tmp_path: Path):
    found = recommend(MODEL, gpu="cpu", calibration=PROBED, **WISHES)
    assert found.plan
    write_plan(found.plan, tmp_path / "plan.yaml")
    assert read_plan(tmp_path / "plan.yaml", PROBED) == found.plan
    assert read_plan(tmp_path / "plan.yaml") == found.plan
    least = {"model": MODEL, "technique": "lora", "hardware": {"gpu": "cpu"}}
    unknown = complete_plan(draft_of("a plan", least))
    assert unknown.hardware.gpu == "cpu"
    assert unknown.estimate.time is None
    known = complete_plan(draft_of("a plan", least), PROBED)
    assert known.estimate.gpu == "cpu"
    assert estimate_on("cpu", unknown, PROBED) == estimate_plan(known, PROBED)
    assert estimate_on("cpu", unknown) is None


SHARED: dict[str, Any] = {"gpu": "l40s", "technique": "full", "num_gpus": 2, "strategy": "fsdp"}


def linked(link: float) -> Calibration:
    return Calibration(here={"l40s": "this"}, links={"this": link})


def test_a_measured_link_is_what_several_gpus_share_by():
    plain = estimate(MODEL, **SHARED)
    found = {link: estimate(MODEL, calibration=linked(link), **SHARED) for link in (1e9, 1e11)}
    seconds = [e.time.step_seconds for e in (found[1e9], plain, found[1e11]) if e.time]
    assert seconds == sorted(seconds, reverse=True)
    assert len(set(seconds)) == 3
    # Weights gathered twice and gradients scattered once, of which each rank holds one half.
    moved = 3 * 2 * plain.num_params * 0.5
    assert seconds[0] == pytest.approx(moved / 1e9, rel=0.25)
    assert all(e.memory == plain.memory for e in found.values())
    alone = {"gpu": "l40s", "technique": "full"}
    assert estimate(MODEL, calibration=linked(1e9), **alone).time == estimate(MODEL, **alone).time
    assert any("link between GPUs" in said for said in found[1e9].assumptions)
    assert calibrating.speaks_of(linked(1e9), "l40s")
    assert not calibrating.speaks_of(linked(1e9), "rtx4090")


def test_a_search_over_several_gpus_uses_their_link():
    asked: dict[str, Any] = {"gpu": "l40s", "num_gpus": 4, "goal": "time", **WISHES}
    found = recommend(MODEL, calibration=linked(5e8), **asked)
    assert found.plan
    assert same(found.plan.estimate, estimated(found.plan, linked(5e8)))
    own = next(s for s in found.standings if s.technique == found.plan.technique)
    assert found.plan.estimate.time
    assert own.total_seconds == pytest.approx(found.plan.estimate.time.total_seconds, rel=1e-6)
    full = [
        next(s.total_seconds for s in r.standings if s.technique == "full")
        for r in (found, recommend(MODEL, **asked))
    ]
    assert full[0] > full[1]


def test_a_probed_machine_gives_its_link(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from ftadvisor.sources.own_rows import machine_id

    monkeypatch.setenv("FTADVISOR_HOME", str(tmp_path))
    own = machine_id("NVIDIA L40S")
    for id_ in (own, "another"):
        records.keep_machine({"id": id_, "device": "NVIDIA L40S", "link_bytes_per_second": 4e9})
    for _ in range(2):
        found = calibrating.load_calibration()
        assert found
        assert found.here["l40s"] == own
        assert found.links[own] == 4e9
        assert same(
            estimate(MODEL, calibration=found, **SHARED),
            estimate(MODEL, calibration=linked(4e9), **SHARED),
        )


def test_the_fit_takes_the_link_as_it_was_measured():
    """A run of two GPUs whose slowness the link explains leaves the other factors alone."""
    found = estimate(MODEL, calibration=linked(1e9), **SHARED)
    assert found.time
    settings = Settings(technique="full", objective="sft", **found.settings)
    took = {"step_seconds": found.time.step_seconds}
    row = row_of(Ran(found.model, found.trainer, settings, "l40s", "run", "done", took, {}))
    row |= {"machine": "this"}
    shipped = Shipped(
        time_coefficients(), time_intervals(), memory_coefficients(), cpu_coefficients()
    )
    for links, moves in (({"this": 1e9}, False), ({}, True)):
        cases, _ = read_cases(measurements_of(row))
        fitted = fit_calibration(cases, shipped, {}, None, links)
        away = max(abs(f - 1) for f in fitted.machines["this"].factors)
        assert (away > 0.03) == moves


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home with measurements of an l40s."""
    monkeypatch.setenv("FTADVISOR_HOME", str(tmp_path))
    rows = [c for c in repository_cases() if c.gpu is not None and c.gpu.id == "l40s"]
    for case in [c for c in rows if c.measurement.micro_step_seconds][:5]:
        records.append_record(case.measurement.row)
    return tmp_path


def test_commands_load_it_and_say_so(measured: Path, capsys: pytest.CaptureFixture[str]):
    with (measured / records.NAME).open("a") as file:
        file.write("{cut\n")
        file.write("{}\n")
    for words in (
        ["estimate", "--model", MODEL, "--gpu", "l40s", "--technique", "lora"],
        ["compare", "--model", MODEL, "--gpu", "l40s", "--technique", "lora", "full"],
        ["fit", "--model", MODEL, "--gpu", "l40s", "--technique", "lora"],
        ["recommend", "--model", MODEL, "--gpu", "l40s"],
    ):
        assert main([*words, "--json"]) == 0
        said = capsys.readouterr()
        assert "calibrated with" in said.out, words
        assert "cannot be read" in said.err, words
        assert main(words) == 0
        assert "calibrated with" in capsys.readouterr().out.replace("\n  ", " "), words
        assert main([*words, "--json", "--no-calibration"]) == 0
        said = capsys.readouterr()
        assert "calibrated with" not in said.out
        assert said.err == ""


def test_a_processor_whose_calibration_was_left_out_is_told_how_it_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """`ftadvisor probe` alone is of no use to who has probed."""
    monkeypatch.setenv("FTADVISOR_HOME", str(tmp_path))
    records.keep_machine(
        {"id": machine_id("cpu"), "usable_bytes": 2**34, "copy_bytes_per_second": 1e10,
         "flops_per_second": {"fp32": 5e10}}
    )  # fmt: skip
    asked: dict[str, Any] = {"gpu": "cpu", "technique": "lora"}
    with pytest.raises(InvalidSettingError, match="left out") as said:
        estimate(MODEL, **asked)
    assert "calibration=load_calibration() in Python" in said.value.suggestions
    assert estimate(MODEL, **asked, calibration=load_calibration()).time


def test_a_simulation_is_asked_with_it(measured: Path, monkeypatch: pytest.MonkeyPatch):
    from ftadvisor import api

    asked: list[Any] = []

    def simulate(model: str, *, calibration: Calibration | None, **_: Any) -> None:
        asked.append(calibration)
        raise InvalidSettingError("enough")

    monkeypatch.setattr(api, "simulate", simulate)
    words = ["simulate", "--model", MODEL, "--technique", "lora"]
    for more in (["--gpu", "l40s"], ["--gpu", "l40s", "--no-calibration"], ["--gpu", "gaudi2"], []):
        assert main([*words, *more]) == 2
    assert asked == [calibrating.load_calibration(), None, None, None]


SCRIPT = """
import json, sys
from ftadvisor.api.calibrating import load_calibration
found = load_calibration()
print(json.dumps([found.as_dict() if found else None, "numpy" in sys.modules]))
"""


def loaded(home: Path, **more: str) -> tuple[dict[str, object], bool]:
    """What another process loads, and whether it had to fit."""
    environment = {**os.environ, "FTADVISOR_HOME": str(home), **more}
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    found, fitted = json.loads(out.stdout)
    return found, fitted


def test_a_fit_is_kept_until_what_it_follows_from_changes(measured: Path, tmp_path: Path):
    first = loaded(measured)
    assert first[1]
    assert loaded(measured) == (first[0], False)
    again = calibrating.load_calibration()
    assert again == calibrating.calibration_of(records.read_records())
    last = records.read_records().rows[-1]
    records.append_record({**last, "id": "slower", "micro_step_seconds": 1.2})
    more = loaded(measured)
    assert more[1]
    assert more[0] != first[0]
    # What is broken is fitted anew.
    (measured / FILE).write_text((measured / FILE).read_text()[:-9])
    assert loaded(measured) == more


def test_other_code_fits_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A checkout changes without its version."""
    (tmp_path / "part").mkdir()
    code = tmp_path / "part" / "code.py"
    code.write_text("FACTOR = 1\n")
    monkeypatch.setattr(kept_fit, "ROOMS", (*kept_fit.ROOMS, str(tmp_path)))
    before = kept_fit.origin()
    assert kept_fit.origin() == before
    code.write_text("FACTOR = 2.0\n")
    assert kept_fit.origin() != before


def test_other_libraries_fit_anew(measured: Path, tmp_path: Path):
    from ftadvisor.sources.own_rows import machine_id

    last = records.read_records().rows[-1]
    here = {"gpu_as_published": "l40s", "machine": machine_id("l40s"), "gpu": "l40s"}
    records.append_record({**last, **here, "id": "here", "versions": {"peft": "9.9.9"}})
    installed = tmp_path / "installed"
    place = installed / "peft-9.9.9.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Name: peft\nVersion: 9.9.9\n")
    path = f"{installed}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    found, _ = loaded(measured, PYTHONPATH=path)
    assert not any("stale" in said for said in found["warnings"])
    assert loaded(measured, PYTHONPATH=path) == (found, False)
    place.rename(installed / "peft-9.9.10.dist-info")
    changed = (installed / "peft-9.9.10.dist-info" / "METADATA").write_text(
        "Name: peft\nVersion: 9.9.10\n"
    )
    assert changed
    found, fitted = loaded(measured, PYTHONPATH=path)
    assert fitted
    assert any("stale" in said for said in found["warnings"])


def test_show_and_reset_follow_the_measurements(measured: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["calibration", "--json"]) == 0
    shown = capsys.readouterr().out
    assert main(["calibration", "--json"]) == 0
    assert capsys.readouterr().out == shown
    assert main(["calibration", "reset"]) == 0
    capsys.readouterr()
    assert main(["calibration", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {}
    records.keep_machine({"id": "x"})
    assert main(["calibration", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpus"] == {}


def test_what_was_kept_is_what_was_fitted():
    found = replace(MEASURED, here={"cpu": "x"}, links={"x": 0.1}, outliers=("a",), warnings=("b",))
    assert Calibration.from_dict(json.loads(json.dumps(found.as_dict()))) == found
