"""Techniques side by side: one table and one picture of the same figures."""

from __future__ import annotations

import xml.dom.minidom
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ftadvisor import estimate
from ftadvisor.api import benchmarking
from ftadvisor.api.probing import figures
from ftadvisor.cli.entry import main
from ftadvisor.errors import InvalidSettingError, UnsupportedError
from ftadvisor.estimation.calibrated import CPU, cpu_of
from ftadvisor.render.benchmark import benchmark_document, benchmark_picture
from ftadvisor.render.picture import write_picture
from ftadvisor.render.terminal import print_document
from ftadvisor.schema.benchmark import Benched, Benchmark
from ftadvisor.schema.calibration import Calibration
from ftadvisor.schema.probe import Extrapolated, Probe
from ftadvisor.schema.report import Metric, Report
from ftadvisor.units import GIB, HOUR


def probed(step_seconds: float, gib: float, usd: float | None) -> Probe:
    whole = Extrapolated(16, step_seconds, step_seconds, 0.1, round(gib * GIB), None, None, "loss")
    after = {"tokens_per_second": 1000.0, "total_seconds": 600.0}
    if usd is not None:
        after |= {"total_usd": usd, "total_low_usd": usd / 2, "total_high_usd": usd * 2}
    return Probe(
        machine="here", slices=(), whole=whole, predicted={}, calibrated=after, warnings=()
    )


def test_a_budget_of_time_without_a_measured_step():
    """Where fewer layers took longer, the calibrated estimate's step counts, else nothing can."""
    found = probed(2.0, 1.0, None)
    noisy = replace(found, whole=found.whole._replace(step_seconds=None))
    steps = benchmarking._steps  # pyright: ignore[reportPrivateUsage]
    plan = cast("Any", SimpleNamespace(estimate=SimpleNamespace(settings={})))
    assert steps(plan, found, None, 60.0) == 30
    assert steps(plan, replace(noisy, calibrated={"step_seconds": 3.0}), None, 60.0) == 20
    with pytest.raises(UnsupportedError, match="measured no step"):
        steps(plan, noisy, None, 60.0)


def trained(**metrics: Metric) -> Report:
    return Report(
        status="done", plan=cast("Any", None), output_dir="out", predicted={},
        measured={"total_seconds": 90.0}, losses=(), metrics=metrics, events=(), versions={},
        seed=0,
    )  # fmt: skip


def of(*rows: Benched) -> Benchmark:
    return Benchmark(
        model="a <model>", dataset="d.jsonl", rows=rows, train_tokens=None, train_seconds=None
    )


def printed(found: Benchmark, capsys: pytest.CaptureFixture[str]) -> str:
    print_document(benchmark_document(found))
    return capsys.readouterr().out


def test_cost_stands_beside_time_and_memory(capsys: pytest.CaptureFixture[str]):
    rows = (
        Benched(technique="lora", probe=probed(0.5, 12.0, 1.25), report=None),
        Benched(technique="full", probe=probed(1.0, 48.0, None), report=None),
        Benched(technique="qlora", probe=None, report=None, problem="no bitsandbytes"),
    )
    said = printed(of(*rows), capsys).splitlines()
    table = {line.split()[0]: line for line in said[1:5] if line}
    assert "$1.25" in table["lora"]
    assert "unknown" in table["full"]
    assert "qlora: no bitsandbytes" in "\n".join(said)
    bars = said[said.index("") :]
    (lora,) = (line for line in bars if line.startswith("lora "))
    # Of what is longest in its column: half the time, a quarter of the memory, all of the cost.
    assert [len(bar) for bar in lora.split()[1:]] == [8, 4, 16]
    (full,) = (line for line in bars if line.startswith("full "))
    assert full.split()[-1] == "unknown"


def test_a_picture_shows_quality_time_memory_and_cost(tmp_path: Path):
    loss = Metric(before=3.0, after=2.0, low=1.9, high=2.1)
    rows = (
        Benched(technique="lora", probe=probed(0.5, 12.0, 1.25), report=trained(eval_loss=loss)),
        Benched(technique="full", probe=probed(1.0, 48.0, None), report=None),
    )
    file = tmp_path / "b.svg"
    write_picture(str(file), benchmark_picture(of(*rows)))
    text = file.read_text()
    xml.dom.minidom.parseString(text)
    for said in ("eval_loss", "held out, less is better", "500 ms", "48.0 GiB", "$1.25", "unknown",
                 "a &lt;model&gt;", "Dotted: before training"):  # fmt: skip
        assert said in text, said
    # The ground; bars of time and of memory for both rows, of quality and of cost for one.
    assert text.count("<rect") == 1 + 2 + 2 + 1 + 1
    untrained = benchmark_picture(of(rows[1])).svg()
    assert "held out" not in untrained
    assert "Dotted" not in untrained


def test_more_is_better_of_accuracy():
    found = of(
        Benched(
            technique="lora", probe=probed(1, 1, 1),
            report=trained(eval_loss=Metric(1.0, 0.5), eval_accuracy=Metric(0.5, 0.9)),
        )
    )  # fmt: skip
    assert "held out, more is better" in benchmark_picture(found).svg()


def test_a_png_is_drawn(tmp_path: Path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "b.png"
    write_picture(
        str(file),
        benchmark_picture(of(Benched(technique="lora", probe=probed(1, 1, None), report=None))),
    )
    assert file.read_bytes().startswith(b"\x89PNG")


def test_a_processor_costs_what_its_owner_says():
    machine = {
        "usable_bytes": 2**34, "copy_bytes_per_second": 1e10, "flops_per_second": {"fp32": 5e10},
    }  # fmt: skip
    asked: dict[str, Any] = {"gpu": CPU, "precision": "fp32"}
    calibration = Calibration(cpu=cpu_of(machine))
    free = estimate("llama-3.2-1b", calibration=calibration, **asked)
    assert free.cost is None
    assert any("no provider's price of cpu" in said for said in free.assumptions)
    found = estimate("llama-3.2-1b", calibration=calibration, price=0.25, **asked)
    assert found.time
    usd = figures(found)["total_usd"]
    assert usd == pytest.approx(0.25 * found.time.total_seconds / HOUR)
    assert "total_usd" not in figures(free)


class Stubbed:
    """Probes and runs that take no time: which were made, and how runs end by technique."""

    def __init__(self) -> None:
        self.probed: list[str] = []
        self.ends: dict[str, Any] = {}

    def probe(self, plan: Any) -> Probe:
        self.probed.append(plan.technique)
        return probed(0.5, 12.0, 1.25)

    def run(self, plan: Any, **_: Any) -> Report:
        end = self.ends.get(plan.technique, "done")
        if isinstance(end, Exception):
            raise end
        return replace(trained(), status=end)


def of_technique(name: str) -> SimpleNamespace:
    return SimpleNamespace(technique=name, estimate=SimpleNamespace(settings={}))


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stubbed:
    made = Stubbed()
    monkeypatch.setattr(benchmarking, "probe", made.probe)
    monkeypatch.setattr(benchmarking, "run", made.run)
    monkeypatch.setattr(benchmarking, "plan_of", lambda _, given: of_technique(given["technique"]))
    monkeypatch.chdir(tmp_path)
    return made


BENCHMARK = [
    "benchmark", "--model", "gpt2", "--dataset", "d.jsonl", "--techniques", "lora,full",
]  # fmt: skip


def test_what_cannot_be_written_is_said_before_a_probe(
    stubbed: Stubbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "benchmark" / "full").mkdir(parents=True)
    (tmp_path / "benchmark" / "full" / "plan.yaml").write_text("")
    (tmp_path / "file").write_text("")
    for words, said in (
        (["--train"], "full' holds another run"),
        (["--train-minutes", "1", "-o", "file"], "is a file"),
        (["--plot", "b.pdf"], "must end in"),
        (["--plot", "no/b.svg"], "there is no directory 'no'"),
    ):
        assert main([*BENCHMARK, *words]) == 2
        assert said in capsys.readouterr().err.replace("\n", " ")
    assert stubbed.probed == []
    # Where nothing is trained, nothing is written there.
    assert main(BENCHMARK) == 0
    assert stubbed.probed == ["lora", "full"]


@pytest.mark.parametrize("end", ["out_of_memory", "diverged", InvalidSettingError("no rows.")])
def test_a_training_that_did_not_end_is_an_exit_code(
    stubbed: Stubbed, capsys: pytest.CaptureFixture[str], end: Any
):
    assert main([*BENCHMARK, "--train"]) == 0
    stubbed.ends["full"] = end
    assert main([*BENCHMARK, "--train", "-o", "other"]) == 1
    said = capsys.readouterr().out
    assert f"full: {'no rows' if isinstance(end, Exception) else 'its training ended: '}" in said
    assert main(BENCHMARK) == 0
