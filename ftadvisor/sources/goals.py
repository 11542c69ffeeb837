"""What each goal is worth: `data/rules/goals.json`."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, cast, get_args

from ftadvisor.schema.situation import Goal
from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.field_checks import (
    NAMES,
    OBJECT,
    TEXT,
    Kind,
    check_row,
    check_value,
    listed,
    number,
    one_of,
)
from ftadvisor.sources.techniques import technique_ids

_FILE = "rules/goals.json"
_POINTS = number()
_NEEDED = {
    "about": TEXT, "checked": TEXT, "source": TEXT, "points_per_halving": OBJECT,
    "recommended_points": _POINTS, "recommended_reason": TEXT, "weighed": NAMES,
    "weighed_reason": TEXT, "needed_only": OBJECT, "needed_only_reason": TEXT,
    "points_per_doubling_of_gpus": OBJECT, "gpus_reason": TEXT, "unfelt_seconds": _POINTS,
    "unfelt_reason": TEXT,
}  # fmt: skip


class GoalWorth(NamedTuple):
    """Accuracy points that one would give for a halving of each."""

    time: float
    cost: float
    memory: float
    recommended: float
    """What a convention is worth."""
    gpus: dict[str, float]
    """What a doubling of the number of GPUs costs: at_hand, rented."""
    unfelt_seconds: float
    """Added to a time before its logarithm is taken [s]."""
    needed_only: dict[str, dict[str, float]]
    """Settings that are taken only where they are needed: setting, value, points."""


@cache
def goal_worths() -> dict[Any, GoalWorth]:
    """By goal. Raises DataFileError for a file that cannot be right."""
    content = check_row(_FILE, None, read_json(_FILE), _NEEDED)
    gpus = content["points_per_doubling_of_gpus"]
    check_row(
        _FILE, None, gpus, {"at_hand": _POINTS, "rented": _POINTS},
        inside="points_per_doubling_of_gpus",
    )  # fmt: skip
    for name, values in content["needed_only"].items():
        kinds: dict[str, Kind] = {}
        if isinstance(values, dict):
            kinds = dict.fromkeys(cast("dict[str, Any]", values), _POINTS)
        check_row(_FILE, None, values, kinds, inside=f"needed_only.{name}")
    found: dict[Any, GoalWorth] = {}
    rows = check_row(
        _FILE, None, content["points_per_halving"], dict.fromkeys(get_args(Goal), OBJECT),
        inside="points_per_halving",
    )  # fmt: skip
    for goal, row in rows.items():
        check_row(_FILE, goal, row, {"time": _POINTS, "cost": _POINTS, "memory": _POINTS})
        found[goal] = GoalWorth(
            row["time"], row["cost"], row["memory"], content["recommended_points"], gpus,
            content["unfelt_seconds"], content["needed_only"],
        )  # fmt: skip
    known = one_of(technique_ids())
    check_value(_FILE, None, "weighed", content["weighed"], listed(known, "techniques"))
    return found


@cache
def weighed_techniques() -> tuple[str, ...]:
    """Techniques that are weighed where none is asked for."""
    return tuple(read_json(_FILE)["weighed"])
