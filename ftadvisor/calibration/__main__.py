"""Refits `data/coefficients/` from `data/measurements/` and prints how well the fits do."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from ftadvisor.calibration.cases import repository_cases
from ftadvisor.calibration.cpu_fit import CpuFit, fit_cpu
from ftadvisor.calibration.memory_fit import MemoryFit, fit_memory
from ftadvisor.calibration.time_fit import TimeFit, fit_time
from ftadvisor.sources.data_files import data_dir

DIGITS = 6
"""Significant digits that are kept: far beyond what the rows decide, and the same everywhere."""


def content(fit: MemoryFit | TimeFit | CpuFit) -> dict[str, Any]:
    """What a coefficients file says of a fit."""
    return {
        "about": "written by python -m ftadvisor.calibration; see docs/accuracy.md",
        "coefficients": rounded(asdict(fit.coefficients)),
        "intervals": {k: rounded(i._asdict()) for k, i in sorted(fit.intervals.items())},
        "left_out": rounded(fit.left_out),
    }


def rounded(value: Any) -> Any:
    """Numbers to `DIGITS` significant digits, all the way down."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return value


def main() -> None:
    """Write memory.json, time.json and cpu.json anew."""
    cases = repository_cases()
    time = fit_time(cases)
    fits: dict[str, MemoryFit | TimeFit | CpuFit] = {
        "memory": fit_memory(cases), "time": time, "cpu": fit_cpu(time.coefficients),
    }  # fmt: skip
    for name, fit in fits.items():
        path = data_dir() / "coefficients" / f"{name}.json"
        path.write_text(json.dumps(content(fit), indent=1) + "\n", encoding="utf-8")
        for source, errors in fit.left_out.items():
            line = f"{name}, left out {source}: median {errors['median_abs_error']:.1%}"
            sys.stdout.write(f"{line} of {errors['rows']} rows\n")


if __name__ == "__main__":
    main()
