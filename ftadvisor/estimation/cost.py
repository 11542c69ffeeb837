"""What a run costs at an hourly price."""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.time import RunTime
from ftadvisor.schema.settings import Number
from ftadvisor.units import HOUR


class Cost(NamedTuple):
    """USD of a whole run, and its 90 % interval (the price is taken as certain)."""

    total_usd: Number
    total_low_usd: Number
    total_high_usd: Number


def run_cost(time: RunTime, num_gpus: Number, usd_per_gpu_hour: float) -> Cost:
    """All GPUs' hours at one price [USD]."""
    hourly = num_gpus * usd_per_gpu_hour / HOUR
    return Cost(
        time.total_seconds * hourly,
        time.total_low_seconds * hourly,
        time.total_high_seconds * hourly,
    )
