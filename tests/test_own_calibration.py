"""What measurements of one's own make of the estimates."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_row import apart, errors_of, factors_of, groups

from ftadvisor import estimate
from ftadvisor.api import calibrating
from ftadvisor.api.calibrating import fitted_for, load_calibration
from ftadvisor.calibration.cases import Case, case_of, repository_cases
from ftadvisor.calibration.own_fit import Shipped, fit_calibration, log_seconds, machine_of
from ftadvisor.errors import InvalidSettingError, UnsupportedError
from ftadvisor.estimation.calibrated import CPU, cpu_of, cpu_time
from ftadvisor.schema.calibration import Calibration
from ftadvisor.schema.estimate import Estimate
from ftadvisor.sources import records
from ftadvisor.sources.coefficients import (
    cpu_coefficients,
    cpu_memory_interval,
    memory_coefficients,
    time_coefficients,
    time_intervals,
)
from ftadvisor.sources.gpus import find_gpu
from ftadvisor.sources.own_rows import machine_id
from ftadvisor.units import GIB

DOCS = Path(__file__).parent.parent / "docs"
ASKED = {"gpu": "l40s", "technique": "lora", "micro_batch_size": 8, "packing": True}
MACHINE = {
    "usable_bytes": 2**34, "copy_bytes_per_second": 1e10, "flops_per_second": {"fp32": 5e10},
}  # fmt: skip


@cache
def shipped() -> Shipped:
    return Shipped(time_coefficients(), time_intervals(), memory_coefficients(), cpu_coefficients())


def moved(case: Case, ratio: float, machine: str = "here") -> Case:
    """The same run on a machine where it takes `ratio` times the prediction."""
    assert case.gpu is not None
    seconds = ratio * math.exp(log_seconds(case, case.gpu, shipped().time, np.zeros(3)))
    row = {**case.measurement.row, "machine": machine}
    return replace(case, measurement=replace(case.measurement, micro_step_seconds=seconds, row=row))


def ten() -> list[Case]:
    rows = groups()["l40s peft+transformers (custom loop)"][:10]
    noise = random.Random(0)
    return [moved(case, 1.3 * math.exp(noise.gauss(0, 0.03))) for case in rows]


def test_no_data_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("FTADVISOR_HOME", str(tmp_path / "none"))
    assert load_calibration() is None
    empty = fit_calibration([], shipped(), {})
    assert empty == Calibration(here={})
    assert fitted_for(find_gpu("l40s"), empty) == fitted_for(find_gpu("l40s"), None)
    plain = estimate("llama-3.2-1b", **ASKED)
    assert estimate("llama-3.2-1b", calibration=empty, **ASKED) == plain


@pytest.mark.parametrize("place", [0, 4, 9])
def test_one_bad_outlier_among_ten_moves_nothing(place: int):
    rows = ten()
    good = [row for i, row in enumerate(rows) if i != place]
    without = fit_calibration(good, shipped(), {}).machines["here"].factors
    # In place of a good one, which takes 1.3 times the prediction: far off, and hardly.
    for bad in (10.0, 2.0, 1.8, 1.6, 1.2, 1.0, 0.7, 0.2):
        found = fit_calibration([*good, moved(rows[place], bad)], shipped(), {})
        for a, b in zip(found.machines["here"].factors, without, strict=True):
            assert abs(a / b - 1) < 0.05
        if bad == 1.2:
            # Two and a half times the others' own spread is no outlier yet.
            continue
        assert len(found.outliers) == 1
        for table in (found.machines, found.gpus, found.families):
            assert [adjusted.rows for adjusted in table.values()] == [9]


def of_ratios(*ratios: float) -> Calibration:
    """The fit of rows of one machine that took so many times the prediction."""
    rows = groups()["l40s peft+transformers (custom loop)"]
    pairs = zip(rows, ratios, strict=False)
    return fit_calibration([moved(row, ratio) for row, ratio in pairs], shipped(), {})


@pytest.mark.parametrize(
    "ratios",
    [(1.0, 4.0), (1.0, 2.4), (0.25, 1.0, 4.0), (1.0, 1.0, 4.0, 4.0), (0.1, 0.5, 2.0, 10.0)],
)
def test_without_a_majority_nothing_is_rejected(ratios: tuple[float, ...]):
    found = of_ratios(*ratios)
    assert not found.outliers
    assert found.machines["here"].rows == len(ratios)
    # The others do not agree that the machine is slower: it is what they say together.
    between = found.machines["here"].factors.rate
    assert 1 / ratios[-1] < between < 1 / ratios[0]


def test_a_row_whose_steps_lay_far_apart_says_little():
    (case,) = groups()["l40s peft+transformers (custom loop)"][:1]
    said: list[float] = []
    for spread in (0.05, 5.0):
        slow = moved(case, 5.0)
        row = {**slow.measurement.row, "step_seconds_spread": spread}
        slow = replace(slow, measurement=replace(slow.measurement, row=row))
        factors = fit_calibration([slow], shipped(), {}).machines["here"].factors
        said.append(max(abs(math.log(factor)) for factor in factors))
    assert said[0] > 0.2
    assert said[1] < 0.02


@pytest.mark.parametrize("ratios", [(1.3, 1.3, 10.0), (1.3, 1.3, 1.3, 0.1)])
def test_a_majority_of_three_or_four_rejects_the_other(ratios: tuple[float, ...]):
    found = of_ratios(*ratios)
    assert len(found.outliers) == 1
    assert found.machines["here"].rows == len(ratios) - 1
    alone = of_ratios(*ratios[:-1]).machines["here"].factors
    assert found.machines["here"].factors == pytest.approx(alone, rel=0.01)


def test_a_slower_machine_is_seen_and_its_interval_is_its_own():
    found = fit_calibration(ten(), shipped(), {"l40s": "here"})
    gpu = find_gpu("l40s")
    own = estimate("llama-3.2-3b", calibration=found, **ASKED)
    plain = estimate("llama-3.2-3b", **ASKED)
    assert own.time
    assert plain.time
    assert own.time.step_seconds / plain.time.step_seconds == pytest.approx(1.3, rel=0.12)
    assert own.memory == plain.memory
    width = (own.time.total_high_seconds / own.time.total_low_seconds) / (
        plain.time.total_high_seconds / plain.time.total_low_seconds
    )
    assert width < 1
    assert any("calibrated with 10 measurements of this machine" in a for a in own.assumptions)
    # Another GPU of the family is moved less, one of another family not at all.
    assert found.of(replace(gpu, id="another")) is not None
    assert found.of(find_gpu("a100-sxm4-80gb")) is None


def test_runs_of_one_setting_count_as_one():
    """What the formula lacks there is no property of the machine, however often it was measured:
    of other settings an interval from such repeats held one in four."""
    (case,) = groups()["l40s peft+transformers (custom loop)"][:1]
    noise = random.Random(0)
    repeated = [moved(case, 1.3 * math.exp(noise.gauss(0, 0.01))) for _ in range(25)]
    one = fit_calibration([moved(case, 1.3)], shipped(), {}).machines["here"]
    many = fit_calibration(repeated, shipped(), {}).machines["here"]
    assert many.factors == pytest.approx(one.factors, rel=0.05)
    assert many.time[:2] == pytest.approx(one.time[:2], rel=0.05)
    assert many.rows == 25
    # With other data, whose rows are a little longer each time, it is the same setting.
    longer: list[Case] = []
    for i in range(25):
        data = {"sequence_fill": "padded-to-longest", "mean_tokens_per_sample": 200.0 + i}
        row = case.measurement.row | data
        longer.append(moved(case_of(replace(case.measurement, row=row)), 1.3))
    assert len({str(r.situation.settings) for r in longer}) == 25
    varied = fit_calibration(longer, shipped(), {}).machines["here"]
    assert varied.time[:2] == pytest.approx(one.time[:2], rel=0.1)


def test_a_machine_that_nobody_measured_is_as_uncertain_as_shipped():
    """Thirty rows of a machine show how far its own lie from each other, not others from it: those
    of another one of the same GPU lay outside one time in five, where one in ten was promised."""
    found = fit_calibration([*ten() * 3], shipped(), {"l40s": "here"})
    elsewhere = replace(found, here={})

    def width(calibration: Calibration | None, gpu: str) -> float:
        time = estimate("llama-3.2-3b", calibration=calibration, **ASKED | {"gpu": gpu}).time
        assert time
        return time.total_high_seconds / time.total_low_seconds

    assert width(found, "l40s") < 0.8 * width(None, "l40s")
    for gpu in ("l40s", "rtx-4090"):
        assert width(elsewhere, gpu) >= width(None, gpu)
    shown = shipped().intervals["time"]
    for known in (*found.gpus.values(), *found.families.values()):
        assert known.time.low <= shown.low
        assert known.time.high >= shown.high


def test_fit_is_the_same_each_time():
    assert fit_calibration(ten(), shipped(), {}) == fit_calibration(ten(), shipped(), {})


def test_one_published_row_as_the_probe():
    """Each group's row nearest to the middle of its settings is not chosen: the first by id is.

    The shipped numbers were fitted on the same rows; scripts/one_row.py leaves each group out.
    """
    errors: list[float] = []
    before: list[float] = []
    after: list[float] = []
    for rows in groups().values():
        probe, rest = apart(rows)
        if not rest:
            continue
        plain = errors_of(rest, shipped().time, np.zeros(3))
        found = errors_of(rest, shipped().time, factors_of(probe, shipped()))
        errors += found
        before.append(statistics.median(plain))
        after.append(statistics.median(found))
    assert len(errors) > 500
    assert statistics.median(errors) < 0.07
    # Each group once, for the next machine is a draw among machines: the fit knows the large ones.
    assert statistics.fmean(after) < 0.9 * statistics.fmean(before)


def test_a_row_as_far_off_as_the_formula_moves_less_than_its_share_and_a_far_one_all():
    """Twice the prediction is the machine's; a twentieth more is as likely the formula's."""
    (case,) = groups()["l40s peft+transformers (custom loop)"][:1]

    def followed(ratio: float) -> float:
        row = moved(case, ratio)
        known = fit_calibration([row], shipped(), {}).machines["here"].factors
        host = known.host / row.situation.host_slowness
        at = np.log([known.rate, known.bandwidth, host])
        gpu = find_gpu("l40s")
        c = shipped().time
        went = log_seconds(row, gpu, c, at) - log_seconds(row, gpu, c, np.zeros(3))
        return went / math.log(ratio)

    assert 0.1 < followed(1.05) < 0.5
    assert followed(2.0) > 0.9
    assert followed(4.0) > 0.95


def test_intervals_hold_on_the_other_half():
    inside: list[bool] = []
    for seed in range(2):
        for rows in groups().values():
            if len(rows) < 10:
                continue
            # One program may have been run by several sources.
            own = [moved_to(case) for case in rows]
            random.Random(seed).shuffle(own)
            half = len(own) // 2
            found = fit_calibration(own[:half], shipped(), {}).machines["here"]
            factors = np.log(found.factors[:3])
            for case in own[half:]:
                assert case.gpu is not None
                s = math.log(case.measurement.micro_step_seconds or 1)
                slowness = case.situation.host_slowness
                factors[2] = math.log(found.factors.host / slowness)
                ratio = math.exp(s - log_seconds(case, case.gpu, shipped().time, factors))
                inside.append(found.time.low <= ratio <= found.time.high)
    assert len(inside) >= 200
    assert 0.85 <= statistics.fmean(inside) <= 0.96, statistics.fmean(inside)


def moved_to(case: Case) -> Case:
    row = {**case.measurement.row, "machine": "here"}
    return replace(case, measurement=replace(case.measurement, row=row))


def test_a_processor_is_hardware_once_it_was_probed():
    with pytest.raises(InvalidSettingError, match="has not been probed"):
        estimate("llama-3.2-1b", gpu=CPU)
    found = on_a_processor(1)
    assert found.time
    assert found.cost is None
    # No context, and what is freed is given back: memory is what is allocated.
    assert found.memory.device_bytes == pytest.approx(found.memory.allocated_bytes, rel=1e-6)
    assert "workspace" not in found.memory.parts
    # What docs/probing.md says of a processor on which no step was measured.
    width = found.time.total_high_seconds / found.time.total_seconds
    assert width == pytest.approx(math.exp(1.645 * cpu_coefficients().spread))
    assert f"a factor of {width:.1f}" in (DOCS / "probing.md").read_text()
    memory = found.memory
    high = memory.allocated_high_bytes / memory.allocated_bytes
    assert high == pytest.approx(cpu_memory_interval().high)
    with pytest.raises(UnsupportedError, match="2 processes on one processor"):
        on_a_processor(1, num_gpus=2)


def test_a_processor_computes_and_then_runs_python():
    own, double, none = (seconds_on(on_a_processor(n)) for n in (1, 2, 1e9))
    # Twice the rates halve all but Python's share, which nothing overlaps.
    assert double - none == pytest.approx((own - none) / 2, rel=1e-6)
    kernels_seconds = none - time_coefficients().step_seconds
    assert kernels_seconds > 28 * 30 * time_coefficients().launch_seconds["trl-1.16"] / 2


def test_few_tokens_on_a_processor_wait_for_the_weights():
    # 5e10 FLOP/s and 1e10 bytes/s: weights of two bytes take as long to read as five tokens take.
    cpu = cpu_of(MACHINE | {"copy_bytes_per_second": 1e10, "flops_per_second": {"fp32": 5e10}})
    half = cpu_time(time_coefficients(), cpu, cpu_coefficients()).half_tokens_per_teraflops
    assert half * 5e10 / 1e12 == pytest.approx(5)
    one, many = (
        seconds_on(on_a_processor(1, micro_batch_size=1, mean_length=n, longest_length=n))
        for n in (5, 495)
    )
    none = seconds_on(on_a_processor(1e9))
    assert (one - none) / (many - none) == pytest.approx(10 / 500, rel=0.1)


def on_a_processor(times: float, **given: Any) -> Estimate:
    rates = {"copy_bytes_per_second": times * 1e10, "flops_per_second": {"fp32": times * 5e10}}
    probed = Calibration(cpu=cpu_of({**MACHINE, **rates}))
    return estimate("llama-3.2-1b", gpu=CPU, precision="fp32", calibration=probed, **given)


def seconds_on(found: Estimate) -> float:
    assert found.time
    return found.time.step_seconds


def test_context_and_cache_come_from_rows_with_several_metrics():
    rows = [c for c in repository_cases() if c.measurement.source == "ftadvisor H100 (2026-11)"]
    found = fit_calibration(rows, shipped(), {"h100-sxm5-80gb": machine_of(rows[0])})
    context = found.gpus["h100-sxm5-80gb"].context_bytes
    over = [
        (row["memory_gib_device"] - row["memory_gib_reserved"]) * GIB
        for c in rows
        if (row := c.measurement.row).get("memory_gib_device")
    ]
    assert context == pytest.approx(statistics.median(over), rel=0.02)
    plain = estimate("llama-3.2-1b", gpu="h100-sxm5-80gb")
    own = estimate("llama-3.2-1b", gpu="h100-sxm5-80gb", calibration=found)
    assert own.memory.allocated_bytes == plain.memory.allocated_bytes
    assert own.memory.device_bytes - own.memory.reserved_bytes == pytest.approx(context, rel=0.02)


def test_other_versions_make_a_probed_machine_stale(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("FTADVISOR_HOME", str(tmp_path))
    monkeypatch.setattr(calibrating, "_versions", lambda: {"torch": "2.13.0"})
    widths: list[float] = []
    for version in ("2.13.0", "2.12.0"):
        records.keep_machine({**MACHINE, "id": machine_id(CPU), "versions": {"torch": version}})
        for _ in range(2):
            # Fitted, and then as it was kept.
            found = load_calibration()
            assert found
            said = [w for w in found.warnings if "torch 2.12.0 to 2.13.0" in w]
            assert len(said) == (version == "2.12.0")
            own = fitted_for(found.cpu, found).time_intervals["time"]
            widths.append(math.log(own.high))
    assert widths == pytest.approx(
        [w * cpu_coefficients().spread * 1.645 for w in (1, 1, 2**0.5, 2**0.5)]
    )


def test_what_a_processor_allocates_moves_no_ladder():
    """Its kernels keep what a GPU's fuse: its row says nothing of cache or context."""
    rows = [c for c in repository_cases() if c.measurement.source == "ftadvisor H100 (2026-11)"]
    figures = ("memory_gib_reserved", "memory_gib_device")
    own = {k: v for k, v in rows[0].measurement.row.items() if k not in figures}
    own |= {"gpu": CPU, "gpu_as_published": CPU, "machine": "mine", "memory_gib": 40.0}
    ran = case_of(replace(rows[0].measurement, gpu=CPU, row=own, memory_gib=40.0))
    here = {"h100-sxm5-80gb": machine_of(rows[0])}
    cpu = cpu_of(MACHINE)
    without, found = (fit_calibration(r, shipped(), here, cpu) for r in (rows, [*rows, ran]))
    for name in ("context_bytes", "factors"):
        kept = getattr(without.gpus["h100-sxm5-80gb"], name)
        assert getattr(found.gpus["h100-sxm5-80gb"], name) == pytest.approx(kept)
    mine = found.machines["mine"]
    assert (mine.context_bytes, mine.factors.cache) == (None, 1.0)


def test_other_versions_make_it_stale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("FTADVISOR_HOME", str(tmp_path))
    monkeypatch.setattr(calibrating, "_versions", lambda: {"transformers": "5.23.0"})
    widths: list[float] = []
    for version in ("5.23.0", "5.22.0"):
        records.drop_records()
        for case in groups()["l40s peft+transformers (custom loop)"][:5]:
            row = {**case.measurement.row, "machine": machine_id("l40s"), "gpu": "l40s"}
            records.append_record(
                {**row, "gpu_as_published": "l40s", "versions": {"transformers": version}}
            )
        found = load_calibration()
        assert found
        assert any("stale" in said for said in found.warnings) == (version == "5.22.0")
        own = found.machines[machine_id("l40s")].time
        widths.append(own.high / own.low)
    assert widths[1] > widths[0]
