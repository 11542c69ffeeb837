"""Writes data/coefficients/simulated.json: how far measured memory lies from simulated memory, and
the longest batches that no source states.

python scripts/simulated_intervals.py, with the packages of the `run` extra. Takes minutes, and goes
on where it was stopped: simulations are kept (FTADVISOR_HOME).
"""

from __future__ import annotations

import json
import sys
from bisect import bisect_left
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftadvisor.api.simulating import simulated_step
from ftadvisor.api.validating import validate
from ftadvisor.calibration.cases import case_of
from ftadvisor.calibration.quantiles import percentile, residual_interval
from ftadvisor.errors import FtadvisorError, UnsupportedError
from ftadvisor.schema.coefficients import Interval
from ftadvisor.sources.measurements import read_measurements
from ftadvisor.sources.models import model_config
from ftadvisor.units import GIB
from ftadvisor.validation.rows import counts_for_memory

DATA = Path(__file__).resolve().parent.parent / "data"
ROWS = DATA / "measurements" / "h100.jsonl"
FITTED_ON = "peft-mmqa-lora--llama-3.2-3B-rank32@51c2ff666"
"""PEFT's table does not say how long its longest padded batch is; this row's figure decides it."""
ABOUT = "90 % intervals of simulated figures: measured over simulated; see docs/how-simulated.md"
SOURCE = (
    "scripts/simulated_intervals.py on data/measurements/h100.jsonl (residuals); one GPU and two "
    "trainers, looked at while the simulation was built, so no interval is narrower than 2 %, of "
    "reserved and device memory 3 %"
)
LEAST = {"allocated": 0.02, "needed": 0.02, "reserved": 0.03, "device": 0.03}
"""Half of the narrowest interval: other cards, models and loops are not these."""
FEWEST_ROWS, LEAST_INSIDE = 8, 0.85
"""Below, a program's simulated figures take the closed form's intervals."""
MEASURED = {
    "allocated": "memory_gib", "reserved": "memory_gib_reserved", "device": "memory_gib_device",
}  # fmt: skip


def main() -> None:
    """Compute, write, and print the errors."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for m in read_measurements(ROWS):
        if m.memory_metric != "allocated":
            # A row of several figures is read as one of each.
            continue
        try:
            case = case_of(m)
            found = case.situation
            gpu = case.gpu.id if case.gpu else None
            step = simulated_step(model_config(m.model), found.settings, found.trainer, gpu)
        except UnsupportedError as error:
            print(f"{m.id}: {error.message}", file=sys.stderr)
            continue
        except FtadvisorError as error:
            raise SystemExit(str(error)) from None
        for metric, name in MEASURED.items():
            if m.row.get(name):
                ratios[metric].append(m.row[name] * GIB / getattr(step, f"{metric}_bytes"))
        row = ", ".join(f"{metric} {values[-1] - 1:+.2%}" for metric, values in ratios.items())
        print(f"{m.id}: measured over simulated: {row}")
    # What a run gets by with is allocated memory and a constant.
    ratios["needed"] = ratios["allocated"]
    residuals = {metric: residual_interval(values) for metric, values in ratios.items()}
    file = DATA / "coefficients" / "simulated.json"
    content = {
        "about": ABOUT,
        "source": SOURCE,
        **entries(residuals),
        "longest_batches": longest_batches(),
        "checked_trainers": checked_trainers(),
    }
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for metric, values in ratios.items():
        errors = [abs(1 / value - 1) for value in values]
        print(f"{metric}: {len(errors)} rows, median {percentile(errors, 0.5):.2%}")


def longest_batches() -> dict[str, dict[str, Any]]:
    """The fewest tokens that reach the reserved memory of the row that is fitted on."""
    published = read_measurements(DATA / "measurements" / "published.jsonl")
    m = next(m for m in published if m.id == FITTED_ON)
    case = case_of(m)
    measured = (m.memory_gib or 0.0) * GIB

    def reserved(tokens: int) -> float:
        settings = replace(case.situation.settings, longest_length=float(tokens))
        gpu = case.gpu.id if case.gpu else None
        step = simulated_step(model_config(m.model), settings, case.situation.trainer, gpu)
        return step.reserved_bytes

    tokens = range(int(m.row["mean_tokens_per_sample"]), m.row["max_length"] + 1)
    place = bisect_left(tokens, measured, key=reserved)
    nearest = min(tokens[max(place - 1, 0) : place + 1], key=lambda t: abs(reserved(t) - measured))
    return {m.source: {"tokens": nearest, "fitted_on": m.id}}


def checked_trainers() -> dict[str, dict[str, Any]]:
    """Programs of whose published rows, eight at least, the intervals contain most."""
    inside: dict[str, list[bool]] = defaultdict(list)
    for row in validate(simulate=True).rows:
        m = row.measurement
        if row.memory is None or row.case is None or not counts_for_memory(m):
            continue
        far = abs(row.memory.error)
        metric = m.memory_metric if m.memory_metric in LEAST else "device"
        inside[row.case.situation.trainer.id].append(far <= LEAST[metric])
    return {
        trainer: {"rows": len(found), "inside": round(sum(found) / len(found), 3)}
        for trainer, found in sorted(inside.items())
        if len(found) >= FEWEST_ROWS and sum(found) >= LEAST_INSIDE * len(found)
    }


def entries(residuals: dict[str, Interval]) -> dict[str, dict[str, Any]]:
    """What the file holds: intervals as they are used, and as the rows have them."""
    wide = {
        metric: Interval(min(found.low, 1 - LEAST[metric]), max(found.high, 1 + LEAST[metric]), n)
        for metric, found in residuals.items()
        for n in (found.rows,)
    }
    return {"intervals": _rounded(wide), "residuals": _rounded(residuals)}


def _rounded(found: dict[str, Interval]) -> dict[str, Any]:
    return {
        metric: {"low": float(f"{low:.6g}"), "high": float(f"{high:.6g}"), "rows": rows}
        for metric, (low, high, rows) in found.items()
    }


if __name__ == "__main__":
    main()
