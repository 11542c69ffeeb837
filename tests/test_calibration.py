"""Shipped coefficients come out of the repository's own rows by the repository's own code."""

from __future__ import annotations

import random

import pytest

from ftadvisor.calibration.cases import repository_cases
from ftadvisor.calibration.memory_fit import fit_memory
from ftadvisor.calibration.quantiles import residual_interval
from ftadvisor.sources.coefficients import memory_coefficients, memory_intervals


@pytest.mark.slow
def test_refitting_reproduces_the_shipped_memory_coefficients() -> None:
    fit = fit_memory(repository_cases())
    assert fit.coefficients == memory_coefficients()
    assert fit.intervals == memory_intervals()


def test_an_interval_of_ninety_percent_holds_ninety_percent_of_what_comes_next() -> None:
    draw = random.Random(1)
    held = total = 0
    for _ in range(400):
        found = residual_interval([draw.gauss(1, 0.1) for _ in range(40)])
        total += 10
        held += sum(found.low <= draw.gauss(1, 0.1) <= found.high for _ in range(10))
    assert 0.88 < held / total < 0.93
