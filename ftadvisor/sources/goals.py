"""What each goal is worth: `data/rules/goals.json`."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from ftadvisor.sources.data_files import read_json


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
    """By goal."""
    content = read_json("rules/goals.json")
    extra = float(content["recommended_points"])
    doubling = content["points_per_doubling_of_gpus"]
    unfelt = float(content["unfelt_seconds"])
    return {
        goal: GoalWorth(
            row["time"], row["cost"], row["memory"], extra, doubling, unfelt, content["needed_only"]
        )
        for goal, row in content["points_per_halving"].items()
    }


@cache
def weighed_techniques() -> tuple[str, ...]:
    """Techniques that are weighed where none is asked for."""
    return tuple(read_json("rules/goals.json")["weighed"])
