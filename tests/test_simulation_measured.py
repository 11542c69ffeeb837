"""The simulated step against measurements: an H100's own rows and slices, and PEFT's table.

FTADVISOR_ALL_ROWS=1 takes every row; unset, some of each, in under four minutes.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

from ftadvisor.errors import UnsupportedError  # noqa: E402
from ftadvisor.schema.measurement import Measurement  # noqa: E402
from ftadvisor.simulation.depth import deep_recording  # noqa: E402
from ftadvisor.simulation.recording import Replay  # noqa: E402
from ftadvisor.simulation.replaying import replay  # noqa: E402
from ftadvisor.simulation.step import record_step  # noqa: E402
from ftadvisor.sources.data_files import data_dir  # noqa: E402
from ftadvisor.sources.measurements import read_measurements, situation  # noqa: E402
from ftadvisor.sources.models import model_config  # noqa: E402

ALL = bool(os.environ.get("FTADVISOR_ALL_ROWS"))
GIB = 2**30
HOPPER, ADA = (9, 0), (8, 9)
MEASURED = data_dir() / "measurements"

H100_SKIPPED = {
    "57-": "out of memory, nothing measured",
    "58-": "out of memory, nothing measured",
    "59-": "DPO is not simulated",
}
PACKED_TOKENS = 1800
"""Of a packed row of 2048: six samples of 300 (benchmarks/gpu_training.py, SHORT_SAMPLE_TOKENS)."""

PEFT_LONGEST = 672.0
"""Tokens of the longest padded batch, fitted on the row of LoRA of rank 32 alone."""
PEFT_SKIPPED = {
    "adamss": "scikit-learn clusters its weights",
    "frod": "its step asks for values",
    "osf": "what it trains follows from its weights",
    "shira": "its indices are drawn from weights",
    "boft": "its CUDA extension allocates less than its Python code",
    "lily": "generation at batch 50 lies above the training step",
    "prefixtuning--llama-3.2-3B-lr": "generation at batch 50 lies above the training step",
}


class Score(NamedTuple):
    row: str
    allocated: float
    reserved: float
    """Errors [%]."""


def chosen(rows: list[Measurement], every: int) -> list[Measurement]:
    return rows if ALL else rows[::every]


def rows_of(path: str, source: str = "") -> list[Measurement]:
    found = read_measurements(MEASURED / path)
    return [
        m for m in found if not m.id.endswith(" reserved") and (not source or m.source == source)
    ]


def simulated(m: Measurement, capability: tuple[int, int], **changes: Any) -> Replay:
    found = situation(m)
    settings = replace(found.settings, **changes)
    layers = m.row.get("num_hidden_layers")
    config = model_config(m.model)
    if layers:
        recording = record_step(
            config, settings, found.trainer, compute_capability=capability, num_layers=layers
        )
    else:
        recording = deep_recording(config, settings, found.trainer, compute_capability=capability)
    return replay(recording)


def score(m: Measurement, result: Replay) -> Score:
    """Errors of both figures, where the row states them."""
    reserved = m.row.get("memory_gib_reserved")
    if reserved is None and m.memory_metric == "reserved":
        reserved = m.memory_gib
    measured = m.memory_gib if m.memory_metric == "allocated" else None
    return Score(
        m.id,
        100 * (result.allocated_bytes / GIB / measured - 1) if measured else 0.0,
        100 * (result.reserved_bytes / GIB / reserved - 1) if reserved else 0.0,
    )


def printed(scores: list[Score]) -> str:
    """All rows, the worst first."""
    ordered = sorted(scores, key=lambda s: -max(abs(s.allocated), abs(s.reserved)))
    lines = [f"{s.row:60s} {s.allocated:+7.2f} % {s.reserved:+7.2f} %" for s in ordered]
    sys.stdout.write("\n".join(["", *lines, ""]))
    return "\n".join(lines[:5])


def share_within(errors: list[float], bound: float) -> float:
    return sum(abs(error) <= bound for error in errors) / len(errors)


def test_an_h100_at_full_depth():
    rows = [m for m in rows_of("h100.jsonl") if m.id[:3] not in H100_SKIPPED]
    scores: list[Score] = []
    for m in chosen(rows, 2):
        packed = {"max_length": PACKED_TOKENS, "longest_length": PACKED_TOKENS}
        changes = packed if m.row.get("packing") else {}
        scores.append(score(m, simulated(m, HOPPER, **changes)))
    worst = printed(scores)
    allocated = [s.allocated for s in scores]
    reserved = [s.reserved for s in scores]
    assert median(map(abs, allocated)) <= 0.02, worst
    assert max(map(abs, allocated)) <= 0.3, worst
    assert median(map(abs, reserved)) <= 0.5, worst
    assert share_within(reserved, 2.5) >= 0.95, worst


def test_slices_of_an_h100():
    """Allocated only: their process has run the full depth before, which pins segments."""
    scores = [score(m, simulated(m, HOPPER)) for m in chosen(rows_of("slices/h100.jsonl"), 2)]
    worst = printed([Score(s.row, s.allocated, 0.0) for s in scores])
    allocated = [abs(s.allocated) for s in scores]
    assert median(allocated) <= 0.02, worst
    assert max(allocated) <= 0.3, worst


def test_peft_s_table():
    """Reserved over a whole run, of every method that can be built without weights."""
    scores: list[Score] = []
    for m in chosen(rows_of("published.jsonl", "PEFT MetaMathQA"), 2):
        if any(f"mmqa-{name}" in m.id for name in PEFT_SKIPPED):
            continue
        scores.append(score(m, simulated(m, ADA, longest_length=PEFT_LONGEST)))
    worst = printed(scores)
    errors = [s.reserved for s in scores]
    assert median(map(abs, errors)) <= 0.5, worst
    assert share_within(errors, 2.0) >= 0.9, worst


@pytest.mark.parametrize("name", ["adamss", "frod", "shira"])
def test_methods_that_cannot_be_simulated_say_so(name: str):
    for m in rows_of("published.jsonl", "PEFT MetaMathQA"):
        if f"mmqa-{name}-" in m.id:
            with pytest.raises(UnsupportedError):
                simulated(m, ADA)
            return
    pytest.fail(name)
