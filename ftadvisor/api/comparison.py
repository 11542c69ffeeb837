"""`compare`: techniques, GPUs or models side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack, cast, get_args

from ftadvisor.api.calibrating import find_hardware
from ftadvisor.api.estimator import (
    DEFAULT_TECHNIQUE,
    Subject,
    estimate_subject,
    subject_from,
    take_workload,
    task_of,
)
from ftadvisor.api.remedies import rungs
from ftadvisor.api.wishes import use_case_of
from ftadvisor.configuration.effects import (
    asked_of,
    check_some_technique,
    check_technique,
    of_technique,
)
from ftadvisor.configuration.options import check_options, check_text
from ftadvisor.errors import FtadvisorError, InvalidSettingError
from ftadvisor.schema.calibration import Calibration
from ftadvisor.schema.comparison import Axis, Compared, Comparison, QualityPoints
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.options import Options
from ftadvisor.schema.read_only import read_only
from ftadvisor.schema.remedy import Remedy
from ftadvisor.schema.situation import Facts, UseCase
from ftadvisor.schema.technique import Technique
from ftadvisor.schema.workload import Workload
from ftadvisor.sources.gpus import GpuMatch
from ftadvisor.sources.models import FoundModel, find_model
from ftadvisor.sources.techniques import all_techniques, find_technique

USUAL_USE_CASE = "instruction"
"""What the reference data are for."""
AXES: tuple[Axis, ...] = get_args(Axis)


@dataclass(frozen=True, slots=True)
class _Sides:
    """What is compared, as records, and what all rows share."""

    models: tuple[FoundModel, ...]
    gpus: tuple[GpuMatch | None, ...]
    techniques: tuple[Technique, ...]
    named: bool
    """The techniques are the person's, not all sensible ones."""
    said: tuple[str, ...]
    objective: str | None
    options: dict[str, Any]
    workload: Workload
    calibration: Calibration | None


def compare(
    model: str | Sequence[str],
    *,
    gpu: str | Sequence[str] | None = None,
    technique: str | Sequence[str] | None = None,
    objective: str | None = None,
    use_case: str | None = None,
    calibration: Calibration | None = None,
    **options: Unpack[Options],
) -> Comparison:
    """Estimates that differ in one thing: in technique, GPU or model, whichever has several values.

    With one model, one GPU and no technique, all sensible techniques are compared. Techniques come
    with the accuracy that published comparisons of such a `use_case` let expect.
    `calibration`: as in `estimate`. Raises FtadvisorError for what cannot be answered, for two
    things that differ, and for nothing that does.
    """
    given = {
        "technique": _names("technique", technique),
        "gpu": _names("gpu", gpu),
        "model": _names("model", model),
    }
    axis = _axis(given)
    sides = _sides(given, axis, objective, dict(options), calibration)
    purpose = use_case_of(use_case)
    if purpose is not None and axis != "technique":
        raise InvalidSettingError(
            f"use_case {purpose} with several values of {axis}: it tells the quality of techniques"
            " apart, and here is one.",
            ["--technique lora qlora full"],
        )
    rows = _rows(sides, axis, purpose or USUAL_USE_CASE)
    assumed = axis == "technique" and purpose is None
    fitting = [row for row in rows if row.estimate.verdict != "does_not_fit"]
    return Comparison(
        axis=axis,
        rows=rows,
        best=read_only(_best(fitting)),
        assumptions=(f"use_case {USUAL_USE_CASE}: none was given",) if assumed else (),
        remedies=() if fitting else _ladder(sides, rows),
    )


def _names(axis: str, given: object) -> tuple[str, ...]:
    if given is None:
        return ()
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple):
        raise InvalidSettingError.of(axis, given, "be one name or several")
    for name in cast("Sequence[object]", names):
        check_text(axis, name)
    return tuple(dict.fromkeys(cast("Sequence[str]", names)))


def _axis(given: dict[str, tuple[str, ...]]) -> Axis:
    """The one thing with several values. Raises InvalidSettingError for none or two."""
    if not given["model"]:
        raise InvalidSettingError(
            "--model is missing.", ["--model llama-7b", "ftadvisor list models"]
        )
    several: list[Axis] = [axis for axis in AXES if len(given[axis]) > 1]
    if len(several) > 1:
        what = " and ".join(f"{len(given[axis])} values of {axis}" for axis in several)
        raise InvalidSettingError(
            f"{what}: one comparison varies one thing.",
            [f"--{axis} {given[axis][0]}" for axis in several],
        )
    if not several and given["technique"]:
        raise InvalidSettingError(
            "one model, one technique and at most one GPU: nothing differs.",
            ["--technique lora qlora full", "--gpu rtx3090 rtx4090", "ftadvisor estimate"],
        )
    return several[0] if several else "technique"


def _sides(
    given: dict[str, tuple[str, ...]],
    axis: Axis,
    objective: str | None,
    options: dict[str, Any],
    calibration: Calibration | None,
) -> _Sides:
    checked = check_options(options)
    techniques, purposes = _techniques(given["technique"], objective)
    said: tuple[str, ...] = ()
    if axis != "technique" and not techniques:
        techniques = (find_technique(DEFAULT_TECHNIQUE),)
        said = (f"technique {DEFAULT_TECHNIQUE}: none was given",)
    named = bool(techniques)
    techniques = techniques or tuple(t for t in all_techniques() if t.sensible)
    check_some_technique(checked)
    if not any(asked_of(checked, technique) for technique in techniques):
        check_technique(checked, techniques[0])
    return _Sides(
        models=tuple(find_model(name) for name in given["model"]),
        gpus=tuple(find_hardware(name, calibration) for name in given["gpu"]) or (None,),
        techniques=techniques,
        named=named,
        said=said,
        objective=purposes,
        workload=take_workload(checked),
        options=checked,
        calibration=calibration,
    )


def _techniques(
    names: tuple[str, ...], objective: str | None
) -> tuple[tuple[Technique, ...], str | None]:
    """The techniques, and the objective that they or it name."""
    found = [task_of(name, objective) for name in names] or [task_of(None, objective)]
    purposes = list(dict.fromkeys(purpose for _, purpose in found))
    if len(purposes) > 1:
        raise InvalidSettingError(
            f"the techniques {', '.join(names)} name different objectives.", ["--objective sft"]
        )
    ids = dict.fromkeys(chosen or DEFAULT_TECHNIQUE for chosen, _ in found) if names else {}
    return tuple(find_technique(id_) for id_ in ids), purposes[0]


def _rows(sides: _Sides, axis: Axis, use_case: str) -> tuple[Compared, ...]:
    """One row for each value, two that come to the same once (lora on four bits is qlora)."""
    found: dict[str, Estimate] = {}
    refused: list[FtadvisorError] = []
    for model in sides.models:
        for gpu in sides.gpus:
            for technique in sides.techniques:
                try:
                    estimate = _estimate(sides, model, gpu, technique)
                except FtadvisorError as error:
                    if sides.named:
                        raise
                    refused.append(error)
                    continue
                found.setdefault(str(getattr(estimate, axis)), estimate)
    if not found:
        raise refused[0]
    points = _quality(sides, next(iter(found.values())), use_case) if axis == "technique" else {}
    return tuple(
        Compared(name=name, estimate=estimate, quality=points.get(name))
        for name, estimate in found.items()
    )


def _estimate(
    sides: _Sides, model: FoundModel, gpu: GpuMatch | None, technique: Technique
) -> Estimate:
    return estimate_subject(_subject(sides, model, gpu, technique), technique, sides.said)


def _subject(
    sides: _Sides, model: FoundModel, gpu: GpuMatch | None, technique: Technique
) -> Subject:
    options = of_technique(sides.options, technique)
    of = model, gpu, sides.objective, options, sides.workload
    return subject_from(*of, sides.calibration)


def _quality(sides: _Sides, first: Estimate, use_case: str) -> dict[str, QualityPoints]:
    """Points over LoRA by technique, where a chain of comparisons reaches it."""
    # The rules and numpy cost a start-up that only this table should pay.
    from ftadvisor.advice.engine import holding
    from ftadvisor.advice.facts import with_gpu, with_model
    from ftadvisor.advice.quality import pooled_quality
    from ftadvisor.sources.rules import built_in_rules

    model, gpu, work = sides.models[0], sides.gpus[0], sides.workload
    modality = "vision" if "image" in (model.row or {}).get("modality", "text") else "text"
    known = Facts(objective=first.objective, use_case=cast("UseCase", use_case))
    facts = with_model(known, model.spec, modality=modality)
    if gpu is not None:
        facts = with_gpu(facts, gpu.gpu, first.num_gpus)
    facts = replace(
        facts,
        num_examples=float(work.num_examples),
        num_tokens=float(work.num_examples * work.mean_tokens),
        mean_tokens=float(work.mean_tokens),
    )
    pooled = pooled_quality(holding(built_in_rules(), facts))
    return {
        name: QualityPoints(points=s.points, low=s.low, high=s.high, rules=s.rules)
        for name, s in pooled.standings.items()
    }


MEASURES: dict[str, Callable[[Compared], float | None]] = {
    "memory": lambda row: row.estimate.memory.device_bytes,
    "tokens_per_second": lambda row: -t.tokens_per_second if (t := row.estimate.time) else None,
    "time": lambda row: t.total_seconds if (t := row.estimate.time) else None,
    "cost": lambda row: c.total_usd if (c := row.estimate.cost) else None,
    "quality": lambda row: -row.quality.points if row.quality else None,
}
"""What is compared; the smallest is best."""


def _best(rows: Iterable[Compared]) -> dict[str, tuple[str, ...]]:
    """The best rows of each measure; a measure in which all are alike has none."""
    found: dict[str, tuple[str, ...]] = {}
    for measure, of in MEASURES.items():
        values = {row.name: value for row in rows if (value := of(row)) is not None}
        least = min(values.values(), default=None)
        names = tuple(name for name, value in values.items() if value == least)
        found |= {measure: names} if len(names) < len(values) else {}
    return found


def _ladder(sides: _Sides, rows: Sequence[Compared]) -> tuple[Remedy, ...]:
    """The single changes of the row that needs least."""
    least = min(rows, key=lambda row: row.estimate.memory.device_bytes).estimate
    model = next(m for m in sides.models if m.spec.id == least.model)
    gpu = next(g for g in sides.gpus if g is not None and g.gpu.id == least.gpu)
    technique = find_technique(least.technique)
    return rungs(_subject(sides, model, gpu, technique), technique)
