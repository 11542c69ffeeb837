"""What the repository promises of its own rows; `validate` fails where it does not hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ftadvisor.sources.coefficients import left_out
from ftadvisor.validation.rows import Row, counts_for_memory, counts_for_time, ran
from ftadvisor.validation.scores import Summary, summarize

PEFT_SOURCE = "PEFT MetaMathQA"
FMS_SOURCE = "fms-acceleration"
OWN_SOURCE = "ftadvisor H100 (2026-11)"
LITGPT_SOURCE = "litgpt resource tables"
PEFT_CLOSE = 0.02


@dataclass(frozen=True, slots=True)
class Bound:
    """One promise: a share that must not pass its limit, or must lie between two."""

    name: str
    value: float | None
    """None: nothing to measure it on."""
    limit: float
    least: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the value is within the limits."""
        return self.value is not None and self.least <= self.value <= self.limit

    def as_dict(self) -> dict[str, Any]:
        """For `ftadvisor validate --json`."""
        return {
            "name": self.name,
            "value": self.value,
            "limit": self.limit,
            "least": self.least,
            "holds": self.holds,
        }


def check_bounds(rows: Sequence[Row]) -> tuple[Bound, ...]:
    """All bounds, measured on these rows and on the fits that left one source out."""
    return (*_memory_bounds(rows), *_verdict_bounds(rows), *_time_bounds(rows), *_left_out_bounds())


def check_simulated_bounds(rows: Sequence[Row]) -> tuple[Bound, ...]:
    """What the simulated step promises of published rows that it can run."""

    def others(r: Row) -> bool:
        published = r.measurement.source not in (PEFT_SOURCE, OWN_SOURCE)
        transformers = r.case is not None and r.case.situation.trainer.model_code == "transformers"
        return published and transformers and r.measurement.grade == "A"

    peft = [r.memory for r in rows if r.measurement.source == PEFT_SOURCE and r.memory]
    far = sum(abs(score.error) > PEFT_CLOSE for score in peft) / max(len(peft), 1)
    found = _summary(rows, others)
    litgpt = [
        abs(r.memory.error)
        for r in rows
        if r.measurement.source == LITGPT_SOURCE
        and r.measurement.row["num_gpus"] == 1
        and counts_for_memory(r.measurement)
        and r.memory
    ]
    median = summarize(peft, len(peft)).median_abs_error
    return (
        Bound("simulated memory, PEFT: median", median, 0.005),
        Bound("simulated memory, PEFT: rows more than 2 % off", far, 0.1),
        Bound("simulated memory, other grade A: median", found.median_abs_error, 0.02),
        Bound("simulated memory, other grade A: 90th percentile", found.p90_abs_error, 0.06),
        Bound("simulated memory, litgpt: worst row", max(litgpt, default=None), 0.01),
    )


def _summary(rows: Sequence[Row], keep: Callable[[Row], bool]) -> Summary:
    chosen = [r for r in rows if counts_for_memory(r.measurement) and keep(r)]
    return summarize((r.memory for r in chosen if r.memory), len(chosen))


def _memory_bounds(rows: Sequence[Row]) -> list[Bound]:
    full = _summary(
        rows,
        lambda r: (
            r.measurement.memory_metric == "allocated"
            and r.measurement.row.get("sequence_fill") == "full"
        ),
    )
    grade_a = _summary(rows, lambda r: r.measurement.grade == "A")
    no_peft = _summary(
        rows, lambda r: r.measurement.grade == "A" and r.measurement.source != PEFT_SOURCE
    )
    both = _summary(rows, lambda r: True)
    no_fms = _summary(rows, lambda r: r.measurement.source != FMS_SOURCE)
    return [
        Bound("allocated memory, full-length batches: median", full.median_abs_error, 0.005),
        Bound("allocated memory, full-length batches: 90th percentile", full.p90_abs_error, 0.03),
        Bound("memory, grade A: median", grade_a.median_abs_error, 0.025),
        Bound("memory, grade A: 90th percentile", grade_a.p90_abs_error, 0.14),
        Bound("memory, grade A without PEFT: median", no_peft.median_abs_error, 0.025),
        Bound("memory, grade A without PEFT: 90th percentile", no_peft.p90_abs_error, 0.14),
        Bound("memory, grades A and B: median", both.median_abs_error, 0.03),
        Bound("memory, grades A and B: 90th percentile", both.p90_abs_error, 0.18),
        Bound("memory, without fms-acceleration: median", no_fms.median_abs_error, 0.04),
        Bound("memory: rows not supported", both.unsupported / max(both.rows, 1), 0.1),
        Bound("memory: coverage of 90 % intervals", both.coverage90, 0.96, 0.85),
        Bound("memory: median half-width of intervals", both.median_half_width, 0.10),
    ]


def _verdict_bounds(rows: Sequence[Row]) -> list[Bound]:
    oom = [r.verdict for r in rows if r.measurement.oom and r.verdict]
    done = [r.verdict for r in rows if ran(r.measurement) and r.verdict]
    tight = [*oom, *done].count("tight")
    return [
        Bound("out of memory, called fits", oom.count("fits") / max(len(oom), 1), 0.05),
        Bound("ran, called does not fit", done.count("does_not_fit") / max(len(done), 1), 0.03),
        Bound("called tight", tight / max(len(oom) + len(done), 1), 0.15),
    ]


def _time_bounds(rows: Sequence[Row]) -> list[Bound]:
    chosen = [r for r in rows if counts_for_time(r.measurement)]
    found = summarize((r.time for r in chosen if r.time), len(chosen))
    return [
        Bound("time: median", found.median_abs_error, 0.08),
        Bound("time: 90th percentile", found.p90_abs_error, 0.30),
        Bound("time: coverage of 90 % intervals", found.coverage90, 0.96, 0.85),
        Bound("time: median half-width of intervals", found.median_half_width, 0.25),
    ]


def _left_out_bounds() -> list[Bound]:
    found: list[Bound] = []
    for what, limit in (("memory", 0.06), ("time", 0.20)):
        pooled = left_out(what)["pooled"]
        found.append(
            Bound(f"{what}, one source left out: median", pooled["median_abs_error"], limit)
        )
        found.append(
            Bound(f"{what}, one source left out: coverage", pooled["coverage90"], 0.96, 0.85)
        )
    return found
