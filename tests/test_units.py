import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftadvisor import units


def test_factors_are_the_defined_ones():
    assert units.GIB == 2**30
    assert units.MIB == 2**20
    assert units.KIB == 2**10
    assert units.GB == 10**9
    assert units.TERA == 10**12
    assert units.DAY == 24 * units.HOUR == 24 * 60 * units.MINUTE
    assert units.JOULES_PER_KWH == 3_600_000


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0.00 GiB"),
        (24e9, "22.4 GiB"),
        (23.5 * units.GIB, "23.5 GiB"),
        (4.25 * units.GIB, "4.25 GiB"),
        (9.994 * units.GIB, "9.99 GiB"),
        (9.996 * units.GIB, "10.0 GiB"),
        (1536 * units.GIB, "1,536.0 GiB"),
        (-0.5 * units.GIB, "-0.50 GiB"),
    ],
)
def test_bytes(num_bytes: float, text: str):
    assert units.format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0852, "85.2 ms"),
        (0.00024, "0.24 ms"),
        (0.9999, "1.0 s"),
        (42, "42.0 s"),
        (119, "119.0 s"),
        (750, "12.5 min"),
        (11.4 * 3600, "11.4 h"),
        (3.1 * 86400, "3.1 days"),
        (1234 * 86400, "1,234.0 days"),
    ],
)
def test_duration(seconds: float, text: str):
    assert units.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0.419, "$0.42"), (12.3, "$12.30"), (999.996, "$1,000"), (1234.4, "$1,234"), (-2, "-$2.00")],
)
def test_usd(usd: float, text: str):
    assert units.format_usd(usd) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (512, "512"),
        (0.25, "0.25"),
        (52_002, "52.0 k"),
        (999_600, "1.00 M"),
        (4_194_304, "4.19 M"),
        (6_738_415_616, "6.74 B"),
        (405e9, "405 B"),
        (1.5e12, "1.50 T"),
    ],
)
def test_count(count: float, text: str):
    assert units.format_count(count) == text


def test_share():
    assert units.format_share(0.00512) == "0.5 %"
    assert units.format_share(0.0996) == "10 %"
    assert units.format_share(1.2) == "120 %"


def test_range_names_a_shared_unit_once():
    assert units.format_range(36_000, 50_000, units.format_duration) == "10.0–13.9 h"
    assert units.format_range(60, 50_000, units.format_duration) == "60.0 s–13.9 h"
    assert units.format_range(1, 2.5, units.format_usd) == "$1.00–$2.50"


@given(st.floats(min_value=2**20, max_value=2**50))
def test_printed_bytes_read_back(num_bytes: float):
    number, unit = units.format_bytes(num_bytes).split()
    assert unit == "GiB"
    printed = float(number.replace(",", "")) * units.GIB
    assert math.isclose(printed, num_bytes, rel_tol=0.0051, abs_tol=0.0051 * units.GIB)
