"""Hardware and programs that the shipped fit has never seen, before and after one row of each.

    python scripts/one_row.py

Leaves each (GPU, program) of data/measurements/ out of the fit of time, gives its first row by id
as the probe, and prints the median errors of the others, pooled and with each group counted once:
the fit is made anew each time, so that it takes minutes.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import defaultdict
from functools import cache

import numpy as np

from ftadvisor.calibration.cases import Case, repository_cases
from ftadvisor.calibration.own_fit import Shipped, fit_calibration, log_seconds, machine_of
from ftadvisor.calibration.time_fit import fit_coefficients, timed
from ftadvisor.schema.coefficients import TimeCoefficients
from ftadvisor.sources.coefficients import cpu_coefficients, memory_coefficients, time_intervals


@cache
def groups() -> dict[str, list[Case]]:
    """Published rows by GPU and program."""
    found: dict[str, list[Case]] = defaultdict(list)
    for case in timed(repository_cases()):
        assert case.gpu is not None
        found[f"{case.gpu.id} {case.measurement.row['framework']}"].append(case)
    return found


def apart(rows: list[Case]) -> tuple[Case, list[Case]]:
    """The first row by id, which is given as the probe, and the others."""
    probe = min(rows, key=lambda case: case.measurement.id)
    return probe, [row for row in rows if row is not probe]


def factors_of(probe: Case, known: Shipped) -> np.ndarray:
    """Logarithms of what one row moves; what its host was measured to take is the row's own."""
    found = fit_calibration([probe], known, {}).machines[machine_of(probe)].factors
    return np.log([found.rate, found.bandwidth, found.host / probe.situation.host_slowness])


def errors_of(cases: list[Case], c: TimeCoefficients, factors: np.ndarray) -> list[float]:
    """Absolute errors of micro-steps at logarithms of factors."""
    found: list[float] = []
    for case in cases:
        assert case.gpu is not None
        seconds = math.log(case.measurement.micro_step_seconds or 1)
        found.append(abs(math.expm1(log_seconds(case, case.gpu, c, factors) - seconds)))
    return found


def main() -> int:
    """Print each group, the largest first, and all together."""
    published = groups()
    cases = [case for rows in published.values() for case in rows]
    before: list[float] = []
    after: list[float] = []
    middles: list[tuple[float, float]] = []
    for name, rows in sorted(published.items(), key=lambda item: -len(item[1])):
        if len(rows) < 2:
            continue
        c = fit_coefficients([case for case in cases if all(case is not row for row in rows)])
        probe, rest = apart(rows)
        known = Shipped(c, time_intervals(), memory_coefficients(), cpu_coefficients())
        plain = errors_of(rest, c, np.zeros(3))
        moved = errors_of(rest, c, factors_of(probe, known))
        before, after = before + plain, after + moved
        middles.append((statistics.median(plain), statistics.median(moved)))
        print(
            f"{name:75} {len(rest):3} rows {statistics.median(plain):6.1%}"
            f" -> {statistics.median(moved):6.1%}",
            flush=True,
        )
    print(
        f"all: {len(after)} rows, median {statistics.median(before):.1%} without,"
        f" {statistics.median(after):.1%} with one row"
    )
    means = [statistics.fmean(found) for found in zip(*middles, strict=True)]
    print(
        f"{len(middles)} groups, mean of their medians {means[0]:.1%} without, {means[1]:.1%} with"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
