"""Shipped coefficients come out of the repository's own rows by the repository's own code."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

import pytest

from ftadvisor.calibration.__main__ import content
from ftadvisor.calibration.cases import repository_cases
from ftadvisor.calibration.cpu_fit import cpu_cases, fit_cpu
from ftadvisor.calibration.memory_fit import PRIORS, fit_ladder, fit_memory, targets_of
from ftadvisor.calibration.quantiles import residual_interval
from ftadvisor.calibration.time_fit import fit_time
from ftadvisor.sources.coefficients import time_coefficients
from ftadvisor.sources.data_files import read_json
from ftadvisor.units import GIB

SAME = 1e-3
"""Fits on another processor differ in their last digits."""


def assert_alike(found: Any, shipped: Any, path: str = "") -> None:
    if isinstance(shipped, dict):
        assert found.keys() == shipped.keys(), path
        for key, value in shipped.items():
            assert_alike(found[key], value, f"{path}/{key}")
    elif isinstance(shipped, float):
        assert math.isclose(found, shipped, rel_tol=SAME, abs_tol=SAME), path
    else:
        assert found == shipped, path


@pytest.mark.slow
@pytest.mark.parametrize(("what", "fit"), [("memory", fit_memory), ("time", fit_time)])
def test_refitting_reproduces_the_shipped_coefficients(what: str, fit: Any) -> None:
    assert_alike(content(fit(repository_cases())), read_json(f"coefficients/{what}.json"))


def test_refitting_reproduces_a_processors_shares() -> None:
    assert_alike(content(fit_cpu(time_coefficients())), read_json("coefficients/cpu.json"))


def test_a_processors_memory_is_what_torch_allocated() -> None:
    # Models of five kinds, adapted in six ways: their kernels keep what a GPU's do not.
    errors = {
        case.measurement.id: case.allocated_bytes / GIB / (case.measurement.memory_gib or 1) - 1
        for case, _ in cpu_cases()
    }
    assert statistics.median(map(abs, errors.values())) < 0.015
    assert max(map(abs, errors.values())) < 0.1
    exact = ("gpt2-12-full", "gpt2-24-lora", "llama-8-full", "bert-24-full", "t5-12-lora")
    for name in exact:
        assert abs(errors[f"cpu-2-of-2-{name}"]) < 0.015, name


def test_coefficients_that_no_row_tells_stay_at_their_priors() -> None:
    allocated = [c for c in repository_cases() if c.measurement.memory_metric == "allocated"]
    # Without nvidia-smi's figures beside them these rows say nothing of the ladder.
    targets = [t for t in targets_of(allocated) if t.metric != "device"]
    fitted = fit_ladder(targets)
    assert {name: getattr(fitted, name) for name in PRIORS} == {
        name: prior for name, (prior, _) in PRIORS.items()
    }


def test_an_interval_of_ninety_percent_holds_ninety_percent_of_what_comes_next() -> None:
    draw = random.Random(1)
    held = total = 0
    for _ in range(400):
        found = residual_interval([draw.gauss(1, 0.1) for _ in range(40)])
        total += 10
        held += sum(found.low <= draw.gauss(1, 0.1) <= found.high for _ in range(10))
    assert 0.88 < held / total < 0.93
