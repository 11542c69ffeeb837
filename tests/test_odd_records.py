"""What stands in the user's own files does not keep an estimate from coming out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftadvisor import estimate
from ftadvisor.api.calibrating import load_calibration
from ftadvisor.cli import main
from ftadvisor.sources.own_rows import machine_id
from ftadvisor.sources.records import drop_records, read_machines

ROW: dict[str, Any] = {
    "id": "a", "source": "own", "grade": "A", "framework": "TRL", "model": "gpt2",
    "technique": "lora", "gpu": "l40s", "micro_batch_size": 1, "max_length": 128,
    "micro_step_seconds": 0.1, "memory_gib": 1.0, "memory_metric": "allocated",
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTADVISOR_HOME", str(tmp_path))
    return tmp_path


def without_gpu() -> dict[str, Any]:
    here = {"machine": machine_id("cpu"), "gpu_as_published": "cpu"}
    return {k: v for k, v in {**ROW, **here}.items() if k != "gpu"}


@pytest.mark.parametrize(
    "row",
    [
        {**ROW, "step_seconds_spread": "x"},
        {**ROW, "micro_step_seconds": "x"},
        {**ROW, "memory_gib_device": -1},
        without_gpu(),
    ],
)
def test_a_row_that_breaks_the_rules(
    home: Path, row: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    # What cannot be read is no row: a row's number among the others is not its line's.
    (home / "measurements.jsonl").write_text("{cut\n" + json.dumps(row) + "\n")
    found = load_calibration()
    assert found is not None
    assert any("measurement a: field" in said for said in found.warnings)
    # In an export it would make the whole file refused.
    assert main(["calibration", "export"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "left out: measurement a: field" in said.err
    assert estimate("gpt2", gpu="l40s", technique="lora", calibration=found).time
    assert main(["measurements"]) == 0
    assert main(["calibration"]) == 0


@pytest.mark.parametrize(
    "machines",
    [
        json.dumps({machine_id("cpu"): {"usable_bytes": "much"}}),
        json.dumps({"z": {"device": "NVIDIA L40S", "link_bytes_per_second": "fast"}}),
        json.dumps({"z": {"flops_per_second": [1.0]}}),
        '{"a": {',
        "[]",
    ],
)
def test_a_machine_that_cannot_be_read(home: Path, machines: str):
    (home / "measurements.jsonl").write_text(json.dumps(ROW) + "\n")
    (home / "machines.json").write_text(machines)
    assert read_machines()[0] == {}
    found = load_calibration()
    assert found is not None
    assert any("machines.json" in said for said in found.warnings)
    assert estimate("gpt2", gpu="l40s", technique="lora", calibration=found).time


def test_a_machine_of_which_little_is_known(home: Path):
    (home / "measurements.jsonl").write_text(json.dumps(ROW) + "\n")
    (home / "machines.json").write_text(json.dumps({machine_id("cpu"): {"name": "x"}}))
    found = load_calibration()
    assert found is not None
    assert found.cpu is None


def test_what_was_put_aside_stays(home: Path):
    for text in ("first\n", "second\n"):
        (home / "measurements.jsonl").write_text(text)
        drop_records()
    assert (home / "measurements.old.jsonl").read_text() == "first\n"
    assert (home / "measurements.old-2.jsonl").read_text() == "second\n"


def test_reset_starts_over_and_says_what_it_moved(home: Path, capsys: pytest.CaptureFixture[str]):
    """What a machine's probe measured calibrates too: its rates, its link."""
    (home / "measurements.jsonl").write_text(json.dumps(ROW) + "\n")
    (home / "machines.json").write_text('{"x": {"id": "x"}}')
    assert load_calibration() is not None
    assert (home / "calibration.json").exists()
    assert main(["calibration", "reset", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    aside = [home / "measurements.old.jsonl", home / "machines.old.json"]
    assert said == {"aside": list(map(str, aside)), "removed": str(home / "calibration.json")}
    assert sorted(home.iterdir()) == sorted(aside)
    assert aside[1].read_text() == '{"x": {"id": "x"}}'
    assert load_calibration() is None
    # Both get the same number, and nothing is overwritten.
    (home / "machines.json").write_text("{}")
    assert main(["calibration", "reset"]) == 0
    assert "machines.old-2.json" in capsys.readouterr().out.replace("\n", "")
    assert aside[1].read_text() == '{"x": {"id": "x"}}'
    assert main(["calibration", "reset"]) == 0
    assert "no measurements" in capsys.readouterr().out
    assert main(["calibration", "reset", "rows.jsonl"]) == 2
