"""Plan files: YAML that is read, edited and run again."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ftadvisor.errors import DataFileError, InvalidSettingError, quoted
from ftadvisor.schema.estimate import CostEstimate, Estimate, MemoryEstimate, TimeEstimate
from ftadvisor.schema.plan import SCHEMA_VERSION, Plan, PlanDataset, PlanHardware
from ftadvisor.schema.read_only import read_only
from ftadvisor.schema.workload import Workload
from ftadvisor.sources.field_checks import (
    NULL,
    OBJECT,
    TEXT,
    Kind,
    any_of,
    check_row,
    record_kinds,
    required,
    table,
    whole,
)
from ftadvisor.sources.text_files import replace_text
from ftadvisor.sources.training_settings import PLAN_SETTINGS, TRAINING
from ftadvisor.sources.yaml_files import dump_yaml, read_yaml

PLAN_FILE = "plan.yaml"
"""Of an output directory."""
LEAST_PLAN = "model: llama3.2-1b\ntechnique: lora\ndataset: train.jsonl"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_ORDER = (
    "schema_version", "model", "technique", "objective", "hardware", "dataset", "workload",
    "settings", "seed", "estimate",
)  # fmt: skip
"""What a reader looks for first; the estimate is long, and last."""
_LARGEST_SEED = 2**32
_NEEDED = {"model": TEXT, "technique": TEXT}
_OR_NULL = any_of(OBJECT, NULL)
_OPTIONAL: dict[str, Kind] = {
    "schema_version": whole(1),
    "objective": any_of(TEXT, NULL),
    "dataset": Kind("a path, or an object with one", lambda v: v is None or TEXT.holds(v)
                    or OBJECT.holds(v)),
    "hardware": _OR_NULL,
    "workload": _OR_NULL,
    "settings": _OR_NULL,
    "seed": Kind("a whole number from 0 on", lambda v: type(v) is int and 0 <= v < _LARGEST_SEED),
    "estimate": _OR_NULL,
}  # fmt: skip
_DATASET: dict[str, Kind] = {
    "format": any_of(TEXT, NULL), "columns": table(TEXT, "names"), "split": TEXT,
}  # fmt: skip
_HARDWARE: dict[str, Kind] = {"gpu": any_of(TEXT, NULL), "num_gpus": whole(1)}
_OF_PARTS = {"parts": table(whole(), "bytes"), "price_date": Kind("a text", _is_text)}
_PARTS = {"memory": MemoryEstimate, "time": TimeEstimate, "cost": CostEstimate}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDraft:
    """A plan file whose shape is right; its names and settings are still to be looked up."""

    file: str
    model: str
    technique: str
    objective: str | None
    dataset: PlanDataset | None
    hardware: PlanHardware
    workload: Workload | None
    settings: dict[str, Any]
    seed: int
    estimate: Estimate | None
    use_case: str | None = None
    """Where it is known: no plan says it, and the rules ask."""


def write_plan(plan: Plan, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a plan as YAML. An interrupted write leaves what was there before.

    Raises InvalidSettingError where the place cannot be written, or holds something that is no
    plan and `overwrite` is not set.
    """
    place = Path(path).expanduser()
    if not overwrite and place.exists() and not _holds_plan(place):
        raise InvalidSettingError(
            f"{quoted(str(path))} exists and is no plan: it is not overwritten.",
            ["another name", "delete it first"],
        )
    try:
        replace_text(place, plan_text(plan))
    except OSError as error:
        raise InvalidSettingError(
            f"{quoted(str(path))} cannot be written: {error.strerror or error}.",
            ["a place that can be written"],
        ) from None


def plan_text(plan: Plan) -> str:
    """A plan as its file has it."""
    return dump_yaml(plan_parts(plan))


def plan_parts(plan: Plan) -> dict[str, Any]:
    """A plan's content in the order of its file."""
    content = plan.as_dict()
    return {name: content[name] for name in _ORDER}


def _holds_plan(place: Path) -> bool:
    """Whether a file is a plan, a broken or a newer one too: what names a model and a technique."""
    try:
        content: Any = read_yaml(place, "plan", LEAST_PLAN)
    except (DataFileError, InvalidSettingError):
        return False
    return type(content) is dict and {"model", "technique"} <= content.keys()


def read_draft(path: str | os.PathLike[str]) -> PlanDraft:
    """The file of a plan, every key and value of a kind that can be right.

    Raises DataFileError (file, field, what to write), InvalidSettingError where there is no file.
    """
    place = Path(path).expanduser()
    return draft_of(place.name, read_yaml(place, "plan", LEAST_PLAN))


def draft_of(file: str, content: Any) -> PlanDraft:
    """The draft that a file's content is; `file` is what errors call it."""
    if type(content) is not dict or not content:
        raise DataFileError(file, None, None, "is no plan", LEAST_PLAN)
    _check_version(file, cast("dict[str, Any]", content))
    row = check_row(file, None, content, _NEEDED, _OPTIONAL)
    workload = row.get("workload")
    settings = _settings(file, row.get("settings") or {})
    hardware = check_row(
        file, None, row.get("hardware") or {}, {}, _HARDWARE, inside="hardware"
    )  # fmt: skip
    return PlanDraft(
        file=file,
        model=row["model"],
        technique=row["technique"],
        objective=row.get("objective"),
        dataset=_dataset(file, row.get("dataset")),
        hardware=PlanHardware(gpu=hardware.get("gpu"), num_gpus=hardware.get("num_gpus", 1)),
        workload=None if workload is None else _workload(file, workload, settings),
        settings=settings,
        seed=row.get("seed", 0),
        estimate=_estimate(file, row.get("estimate")),
    )


def _check_version(file: str, content: dict[str, Any]) -> None:
    version = content.get("schema_version", SCHEMA_VERSION)
    if type(version) is int and version > SCHEMA_VERSION:
        raise DataFileError(
            file, None, "schema_version",
            f"is {version}: a newer ftadvisor wrote this plan, this one reads up to"
            f" {SCHEMA_VERSION}", "pip install --upgrade ftadvisor",
        )  # fmt: skip


def _settings(file: str, values: dict[str, Any]) -> dict[str, Any]:
    """Names of all settings, and values of those that only the trainer reads."""
    anything = Kind("a value", lambda _: True)
    kinds = {name: TRAINING.get(name, anything) for name in PLAN_SETTINGS}
    if "num_gpus" in values:
        raise DataFileError(
            file, None, "settings.num_gpus", "is said elsewhere", "hardware: {num_gpus: ...}"
        )
    if "seed" in values:
        raise DataFileError(file, None, "settings.seed", "is said elsewhere", "seed at the top")
    return dict(check_row(file, None, values, {}, kinds, inside="settings"))


def _dataset(file: str, value: Any) -> PlanDataset | None:
    if value is None:
        return None
    row: Any = {"path": value} if isinstance(value, str) else value
    row = check_row(file, None, row, {"path": TEXT}, _DATASET, inside="dataset")
    return PlanDataset(
        path=row["path"],
        format=row.get("format"),
        columns=dict(row.get("columns", {})),
        split=row.get("split", "train"),
    )


def _workload(file: str, values: Any, settings: dict[str, Any]) -> Workload:
    kinds = record_kinds(Workload)
    needed = required(Workload)
    optional = {k: v for k, v in kinds.items() if k not in needed and k != "num_train_epochs"}
    row = check_row(file, None, values, needed, optional, inside="workload")
    found = Workload(**row)
    epochs = settings.get("num_train_epochs")
    return found if epochs is None else replace(found, num_train_epochs=float(epochs))


def _estimate(file: str, values: Any) -> Estimate | None:
    """The estimate that a plan was written with."""
    if values is None:
        return None
    needed = required(Estimate) | {"settings": OBJECT}
    optional = {k: v for k, v in record_kinds(Estimate).items() if k not in needed}
    row = dict(check_row(file, None, values, needed, optional, inside="estimate"))
    for name, part in _PARTS.items():
        if row[name] is not None or name == "memory":
            kinds = {k: _OF_PARTS.get(k, kind) for k, kind in record_kinds(part).items()}
            row[name] = part(**check_row(file, None, row[name], kinds, inside=f"estimate.{name}"))
    row["memory"] = replace(row["memory"], parts=read_only(row["memory"].parts))
    row["settings"] = read_only(row["settings"])
    row |= {name: tuple(row.get(name, ())) for name in ("assumptions", "fits_on")}
    return Estimate(**row)
