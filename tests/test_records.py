"""The user's own measurements: written side by side, read though damaged, shared without names."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from ftadvisor import estimate
from ftadvisor.api.calibrating import load_calibration
from ftadvisor.calibration.cases import read_cases
from ftadvisor.calibration.own_fit import Shipped, fit_calibration
from ftadvisor.cli.entry import main
from ftadvisor.errors import DataFileError
from ftadvisor.execution.recording import (
    _as_counted as as_counted,  # pyright: ignore[reportPrivateUsage]
)
from ftadvisor.schema.settings import Settings, Strategy
from ftadvisor.sources import records
from ftadvisor.sources.coefficients import (
    cpu_coefficients,
    memory_coefficients,
    time_coefficients,
    time_intervals,
)
from ftadvisor.sources.lengths import published_lengths
from ftadvisor.sources.measurement_rows import checked_rows
from ftadvisor.sources.measurements import measurements_of, situation
from ftadvisor.sources.own_rows import Ran, machine_id, row_of
from ftadvisor.sources.records import append_record, exported, read_records


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    place = tmp_path / "home"
    monkeypatch.setenv("FTADVISOR_HOME", str(place))
    return place


def row(id_: str, **more: Any) -> dict[str, Any]:
    return {
        "id": id_, "source": "own", "grade": "A", "framework": "TRL", "technique": "lora",
        "model": "meta-llama/Llama-3.2-1B", "gpu": "l40s", "lora_r": 8,
        "precision": {"weights": "bf16", "compute": "bf16", "autocast": True},
        "optimizer": "adamw_torch_fused", "micro_batch_size": 4, "max_length": 512,
        "sequence_fill": "full", "versions": {"transformers": "5.23.0"},
        "micro_step_seconds": 0.2, "memory_gib": 6.0, "memory_metric": "allocated", **more,
    }  # fmt: skip


def side_by_side(work: Callable[[str], None]) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=work, args=(name,)) for name in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join()


def write_many(name: str) -> None:
    for i in range(200):
        append_record({"id": f"{name}-{i}", "long": name * 500})


def test_two_processes_write_side_by_side(home: Path):
    side_by_side(write_many)
    found = read_records()
    assert not found.problems
    assert sorted(r["id"] for r in found.rows) == sorted(
        f"{n}-{i}" for n in "ab" for i in range(200)
    )


def keep_many(name: str) -> None:
    for i in range(20):
        records.keep_machine({"id": f"{name}-{i}"})


def test_two_processes_probe_machines_side_by_side(home: Path):
    side_by_side(keep_many)
    assert set(records.kept_machines()) == {f"{n}-{i}" for n in "ab" for i in range(20)}


def test_a_cut_line_and_damage_in_the_middle_are_named(home: Path):
    append_record(row("a"))
    append_record(row("b"))
    file = home / records.NAME
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], '{"id": broken', lines[1], lines[0][:40]]))
    found = read_records()
    assert [r["id"] for r in found.rows] == ["a", "b"]
    assert found.problems == (
        "the last line of measurements.jsonl is cut off: left out",
        "line 2 of measurements.jsonl cannot be read: left out",
    )
    # What follows a cut line begins on a line of its own.
    append_record(row("c"))
    assert [r["id"] for r in read_records().rows] == ["a", "b", "c"]


def test_a_place_that_cannot_be_written_is_said(home: Path):
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file")
    with pytest.raises(DataFileError, match="cannot be written"):
        append_record(row("a"))
    assert read_records().rows == ()


def test_an_export_names_no_place_and_nobody():
    own = row("a", host="alice-laptop", data_path="alice/x.jsonl", predicted={"x": 1})
    local = row("b", model="./alice/model", local_model=True)
    shared, left_out = exported([own, local])
    assert left_out == 1
    assert "alice" not in json.dumps(shared)
    assert shared[0]["micro_step_seconds"] == 0.2


def test_an_export_leaves_out_what_a_person_wrote():
    """PEFT's options hold texts and places; a directory is known by its last part only."""
    options = {
        "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "alice", "num_virtual_tokens": 8,
        "tokenizer_name_or_path": "alice", "init_lora_weights": "models/alice",
    }  # fmt: skip
    (shared,), left_out = exported([row("a", peft_config=options), row("b", model="alice")])
    assert shared["peft_config"] == {"prompt_tuning_init": "TEXT", "num_virtual_tokens": 8}
    assert left_out == 1
    assert exported([row("c", model="llama-3.2-1b")])[1] == 0


def test_what_was_exported_comes_back_as_this_machines(tmp_path: Path):
    """The driver's name of the GPU is part of the machine's id, and tells boards apart."""
    device = "NVIDIA L40S"
    append_record(row("a", machine=machine_id(device), gpu_as_published=device))
    before = load_calibration()
    shared = tmp_path / "rows.jsonl"
    assert main(["calibration", "export", str(shared)]) == 0
    assert main(["calibration", "reset"]) == 0
    assert main(["calibration", "import", str(shared)]) == 0
    after = load_calibration()
    assert before is not None
    assert after is not None
    assert after.here == before.here
    assert "l40s" in after.here


def test_damage_and_unknown_models_leave_an_estimate(
    home: Path, capsys: pytest.CaptureFixture[str]
):
    append_record(row("a"))
    append_record(row("b", model="no/such-model-anywhere"))
    append_record(row("c", lora_r=0))
    with (home / records.NAME).open("a") as file:
        file.write("{half")
    asked = ["estimate", "--model", "llama-3.2-1b", "--gpu", "l40s", "--technique", "lora"]
    assert main([*asked, "--json"]) == 0
    said = capsys.readouterr()
    assert "cut off" in said.err
    assert "lora_r" in said.err
    own = json.loads(said.out)["estimates"][0]
    assert any("calibrated with 1 measurement" in text for text in own["assumptions"])
    assert main([*asked, "--json", "--no-calibration"]) == 0
    plain = json.loads(capsys.readouterr().out)["estimates"][0]
    assert not any("calibrated" in text for text in plain["assumptions"])


def test_the_commands(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["calibration"]) == 0
    assert "nothing is calibrated" in capsys.readouterr().out
    append_record(row("a", machine="0123"))
    assert main(["measurements", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["measurements"]) == 1
    assert main(["calibration", "show", "--json"]) == 0
    assert "0123" in json.loads(capsys.readouterr().out)["machines"]
    shared = tmp_path / "rows.jsonl"
    assert main(["calibration", "export", str(shared)]) == 0
    assert "1 measurement exported" in capsys.readouterr().err
    assert main(["calibration", "export", str(shared), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"exported": 1, "left_out": 0, "file": str(shared)}
    assert main(["calibration", "reset"]) == 0
    assert read_records().rows == ()
    capsys.readouterr()
    assert main(["calibration", "show", str(shared), "--json"]) == 0
    assert "0123" in json.loads(capsys.readouterr().out)["machines"]
    assert main(["calibration", "show", str(tmp_path / "none.jsonl")]) == 2
    capsys.readouterr()
    assert main(["calibration", "import", str(shared)]) == 0
    assert "1 measurement imported" in capsys.readouterr().out
    assert main(["calibration", "import", str(shared)]) == 0
    assert [r["id"] for r in read_records().rows] == ["a"]
    assert main(["calibration", "forget"]) == 2
    assert main(["validate", str(shared)]) == 0


def test_a_row_says_every_setting():
    # Of each field something that no other field of a row tells, as far as settings have it.
    ran = Settings(
        technique="qlora", quantization="nf4-dq", adapter_dtype="fp32", max_grad_norm=0.3,
        micro_batch_size=2, max_length=300, mean_length=100.5, mean_padded_length=120.5,
        longest_length=280.5, typical_length=130.5, loss_kernel="fused_linear", fused_norm=True,
        fused_mlp=True, prepare_kbit=True, num_images=2, num_generations=4, objective="grpo",
        max_completion_length=77, reference_model=True, lora_target_modules=("q_proj", "v_proj"),
        offload_optimizer=True, num_gpus=2, strategy="zero2", peft_config={"use_dora": True},
    )  # fmt: skip
    made = row_of(Ran("llama-3.2-1b", "trl-1.16", ran, "l40s", "run", "done", {}, {}))
    made = json.loads(json.dumps(made))
    (m,) = measurements_of(made)
    assert situation(m).settings == ran
    made["settings"]["loss_kernel"] = "none"
    cases, why = read_cases(measurements_of(made))
    assert not cases
    assert "settings.loss_kernel" in next(iter(why.values()))


def test_rows_alike_and_shorter_than_the_limit_are_read_as_long_as_they_are():
    same = {"mean_length": 50.0, "longest_length": 50, "typical_length": 50}
    settings = Settings(technique="lora", micro_batch_size=2, max_length=512, **same)
    row = row_of(Ran("gpt2", "trl-1.16", settings, "cpu", "run", "done", {}, {}))
    assert published_lengths(row)[:4] == (50, 0, 50, 50)
    full = replace(settings, mean_length=512.0, longest_length=512)
    row = row_of(Ran("gpt2", "trl-1.16", full, "cpu", "run", "done", {}, {}))
    assert published_lengths(row)[:4] == (512, 0, 512, 512)


@pytest.mark.parametrize("longest", [20, 60])
def test_a_run_records_the_tokens_that_its_trainer_counted(longest: int):
    """Also where the plan's guess, by characters, has all rows alike."""
    planned = Settings(
        technique="lora", micro_batch_size=2, gradient_accumulation_steps=4, max_length=512,
        mean_length=20.0, longest_length=longest,
    )  # fmt: skip
    counted = as_counted(planned, {"tokens_per_step": 240.0})
    assert (counted.mean_length, counted.longest_length) == (30, longest * 3 / 2)


def test_noisy_measurements_are_counted():
    for id_, said in (("a", "1 measurement has steps"), ("b", "2 measurements have steps")):
        append_record(row(id_, step_seconds_spread=0.5))
        found = load_calibration()
        assert found is not None
        assert any(warning.startswith(said) for warning in found.warnings)


def test_a_file_of_questions_is_calibrated_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    append_record(row("a"))
    asked = {"model": "llama-3.2-1b", "gpu": "l40s", "technique": "lora"}
    file = tmp_path / "q.jsonl"
    file.write_text(f"{json.dumps(asked)}\n{json.dumps({**asked, 'calibration': False})}\n")
    assert main(["estimate", str(file)]) == 0
    own, plain = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert own["time"]["step_seconds"] != plain["time"]["step_seconds"]


def test_a_file_that_is_no_measurements_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": 1}\n')
    assert main(["calibration", "import", str(bad)]) == 2
    assert main(["calibration", "import", str(tmp_path / "none.jsonl")]) == 2
    assert main(["calibration", "import"]) == 2
    assert "import F.jsonl" in capsys.readouterr().err
    assert main(["estimate", "--model", "llama-3.2-1b", "--gpu", "cpu"]) == 2
    assert "ftadvisor probe" in capsys.readouterr().err


def own_row(**options: Any) -> dict[str, Any]:
    settings = Settings(technique="full", max_length=512, packing=True, **options)
    measured = {"step_seconds": 1.0, "allocated_bytes": 2.0**33}
    ran = Ran("llama-3.2-1b", "trl-1.16", settings, "l40s", "run", "done", measured, {})
    return row_of(ran)


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_a_row_of_several_gpus_is_predicted_as_several(strategy: Strategy):
    gpus = 1 if strategy == "none" else 2
    row = own_row(num_gpus=gpus, strategy=strategy)
    (rows, problems) = checked_rows([row])
    assert not problems
    found = situation(measurements_of(rows[0])[0])
    assert found.settings.num_gpus == gpus
    assert found.settings.strategy == strategy
    assert found.memory_unsupported is None


def test_the_fit_compares_a_run_of_two_gpus_with_two():
    """A row that takes what two GPUs should moves nothing; taken for one GPU's it would."""
    found = estimate(
        "llama-3.2-1b", gpu="l40s", technique="full", num_gpus=2, strategy="ddp", packing=True,
        max_length=512, micro_batch_size=1, gradient_accumulation_steps=1,
    )  # fmt: skip
    assert found.time
    settings = Settings(technique="full", objective="sft", **found.settings)
    measured = {"step_seconds": found.time.step_seconds}
    row = row_of(Ran(found.model, found.trainer, settings, "l40s", "run", "done", measured, {}))
    # Those installed here, or none.
    row["versions"] = {"trl": "1.16.0", "transformers": "5.23.0"}
    assert _away(row) < 0.01
    alone = {"num_gpus": 1, "strategy": "none"}
    assert _away(row | alone | {"settings": row["settings"] | alone}) > 0.05


def _away(row: dict[str, Any]) -> float:
    """How far a fit on one row is from what is shipped."""
    cases, _ = read_cases(measurements_of(row))
    shipped = Shipped(
        time_coefficients(), time_intervals(), memory_coefficients(), cpu_coefficients()
    )
    (found,) = fit_calibration(cases, shipped, {}).machines.values()
    return max(abs(factor - 1) for factor in found.factors)
