"""One measurement beside its prediction: like metric with like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ftadvisor.calibration.cases import Case, case_of
from ftadvisor.errors import FtadvisorError, UnsupportedError
from ftadvisor.estimation.prediction import MemoryPrediction, predict_memory, verdict
from ftadvisor.estimation.time import step_time
from ftadvisor.schema.measurement import Measurement
from ftadvisor.sources.coefficients import (
    memory_coefficients,
    memory_intervals,
    time_coefficients,
    time_intervals,
)
from ftadvisor.units import GIB
from ftadvisor.validation.scores import Scored

Predictor = Callable[[Case], MemoryPrediction]


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement beside its prediction."""

    measurement: Measurement
    case: Case | None
    unsupported: str | None
    memory: Scored | None
    """Like metric with like; unknown metrics are set beside reserved memory and not scored."""
    time: Scored | None
    verdict: str | None

    def counts_for(self, what: str) -> bool:
        """Whether its memory, or its time, is scored."""
        test = counts_for_memory if what == "memory" else counts_for_time
        return test(self.measurement)

    def as_dict(self) -> dict[str, Any]:
        """The row as `ftadvisor validate --json` prints it."""
        m, memory, time = self.measurement, self.memory, self.time
        return {
            "id": m.id,
            "metric": m.memory_metric,
            "grade": m.grade,
            "predicted_gib": memory.predicted if memory else None,
            "low_gib": memory.low if memory else None,
            "high_gib": memory.high if memory else None,
            "measured_gib": m.memory_gib,
            "error": memory.error if memory and m.memory_gib else None,
            "predicted_seconds": time.predicted if time else None,
            "low_seconds": time.low if time else None,
            "high_seconds": time.high if time else None,
            "measured_seconds": m.micro_step_seconds,
            "time_error": time.error if time and m.micro_step_seconds else None,
            "verdict": self.verdict,
            "unsupported": self.unsupported,
        }


def counts_for_memory(m: Measurement) -> bool:
    """Grades A and B with a memory figure whose metric is known."""
    known = m.memory_metric in ("allocated", "reserved", "device")
    return m.memory_gib is not None and known and m.grade in ("A", "B")


def counts_for_time(m: Measurement) -> bool:
    """Grades A and B with the seconds of a micro-step."""
    return m.micro_step_seconds is not None and m.grade in ("A", "B")


def ran(m: Measurement) -> bool:
    """Whether it finished, or at least is not known to have failed."""
    return not m.oom and (m.memory_gib is not None or m.micro_step_seconds is not None)


def row_of(m: Measurement, predict: Predictor | None = None) -> Row:
    """Predict one measurement; why not, where that is impossible.

    `predict` says its memory in the closed form's place.
    """
    try:
        case = case_of(m)
    except FtadvisorError as error:
        return Row(m, None, error.message, None, None, None)
    reason = case.situation.memory_unsupported
    try:
        memory = (predict or closed_form)(case)
    except UnsupportedError as error:
        return Row(m, case, reason or error.message, None, _time_score(case), None)
    usable = case.gpu.usable_bytes if case.gpu else None
    called = verdict(memory, usable) if usable and not reason else None
    scored = None if reason else _memory_score(m, memory)
    return Row(m, case, reason, scored, _time_score(case), called)


def closed_form(case: Case) -> MemoryPrediction:
    """The memory of a measurement's run, by the formulas."""
    return predict_memory(
        case.model,
        case.situation.settings,
        case.situation.trainer,
        case.adapter,
        memory_coefficients(),
        memory_intervals(),
        case.gpu.usable_bytes if case.gpu else None,
        case.gpu.compute_capability if case.gpu else "",
    )


def _memory_score(m: Measurement, memory: MemoryPrediction) -> Scored:
    metric = m.memory_metric if m.memory_metric in ("allocated", "device") else "reserved"
    found = {
        "allocated": memory.allocated,
        "reserved": memory.reserved,
        "device": memory.device,
    }[metric]
    return _scored(m, [b / GIB for b in found], m.memory_gib or 0.0, lower_bound=m.lower_bound)


def _time_score(case: Case) -> Scored | None:
    if case.gpu is None:
        return None
    s = case.situation
    found = step_time(
        case.model,
        s.settings,
        s.trainer,
        case.adapter,
        case.gpu,
        time_coefficients(),
        time_intervals(),
        s.host_slowness,
    )
    m = case.measurement
    seconds = [
        found.micro_step_seconds,
        found.micro_step_low_seconds,
        found.micro_step_high_seconds,
    ]
    return _scored(m, seconds, m.micro_step_seconds or 0.0, lower_bound=False)


def _scored(m: Measurement, bounded: list[float], measured: float, *, lower_bound: bool) -> Scored:
    predicted, low, high = bounded
    return Scored(
        id=m.id,
        source=m.source,
        technique=str(m.row["technique"]),
        gpu=m.gpu,
        predicted=predicted,
        low=low,
        high=high,
        measured=measured,
        lower_bound=lower_bound,
    )
