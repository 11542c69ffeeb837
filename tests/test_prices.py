"""Prices: the offers of data/prices.json and which of them a cost is computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import pytest

from ftadvisor.errors import DataFileError
from ftadvisor.sources import prices
from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.gpus import gpu_ids
from ftadvisor.sources.prices import (
    STALE_AFTER_DAYS,
    all_prices,
    cheapest_price,
    check_prices,
    prices_of,
)

TODAY = date(2026, 11, 24)
OFFER: dict[str, Any] = {
    "gpu": "t4",
    "provider": "cloud",
    "usd_per_gpu_hour": 0.5,
    "spot_usd_per_gpu_hour": None,
    "whole_machine": True,
    "instance": "t4.small",
    "gpus_per_instance": 1,
    "region": None,
    "as_of": "2026-11-01",
    "source": "price list",
    "confidence": "high",
    "note": None,
}


@pytest.fixture
def offers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Give the module a file of these offers, each OFFER with some fields changed."""

    def write(*changes: dict[str, Any]) -> None:
        rows = [{k: v for k, v in (OFFER | c).items() if v is not ...} for c in changes]
        monkeypatch.setattr(prices, "read_json", lambda _name: {"prices": rows})
        clear()

    def clear() -> None:
        prices._rows.cache_clear()  # pyright: ignore[reportPrivateUsage]
        cheapest_price.cache_clear()

    yield write
    monkeypatch.undo()
    clear()


def test_every_row_is_right():
    check_prices()
    offers = all_prices(TODAY)
    assert len(offers) >= 60
    assert {price.gpu for price in offers} <= set(gpu_ids())


def test_prices_are_of_one_gpu_for_one_hour():
    for price in all_prices(TODAY):
        assert 0.1 <= price.usd_per_gpu_hour <= 15, price
        if price.spot_usd_per_gpu_hour is not None:
            assert 0.05 <= price.spot_usd_per_gpu_hour < price.usd_per_gpu_hour, price
        assert price.as_of[:4] in ("2025", "2026")
        assert price.source


def test_no_offer_is_none_not_a_guess():
    assert cheapest_price("rtx-3060-12gb", TODAY) is None
    assert prices_of("rtx-3060-12gb", TODAY) == ()


def test_prices_of_a_gpu_are_cheapest_first():
    found = prices_of("h100-sxm5-80gb", TODAY)
    assert len(found) > 5
    hours = [price.usd_per_gpu_hour for price in found]
    assert hours == sorted(hours)
    assert all(price.gpu == "h100-sxm5-80gb" for price in found)


def test_a_confident_offer_beats_a_cheaper_one(offers: Callable[..., None]):
    offers(
        {"provider": "hearsay", "usd_per_gpu_hour": 0.1, "confidence": "low"},
        {"provider": "market", "usd_per_gpu_hour": 0.2, "confidence": "medium"},
        {"provider": "dear", "usd_per_gpu_hour": 0.9},
        {"provider": "list", "usd_per_gpu_hour": 0.8},
    )
    found = cheapest_price("t4", TODAY)
    assert found is not None
    assert found.provider == "list"


def test_a_doubtful_offer_is_better_than_none(offers: Callable[..., None]):
    offers({"provider": "hearsay", "confidence": "low"})
    found = cheapest_price("t4", TODAY)
    assert found is not None
    assert found.provider == "hearsay"


def test_a_gpu_without_its_machine_is_listed_but_not_used(offers: Callable[..., None]):
    offers({"whole_machine": False, "usd_per_gpu_hour": 0.1}, {"provider": "whole"})
    found = cheapest_price("t4", TODAY)
    assert found is not None
    assert found.provider == "whole"
    assert len(prices_of("t4", TODAY)) == 2
    offers({"whole_machine": False})
    assert cheapest_price("t4", TODAY) is None


@pytest.mark.parametrize(
    ("as_of", "first_day"),
    [
        ("2026-06-17", date(2026, 6, 17)),
        ("2026-06", date(2026, 6, 1)),
        ("2026", date(2026, 1, 1)),
    ],
)
def test_a_price_goes_stale(offers: Callable[..., None], as_of: str, first_day: date):
    offers({"as_of": as_of})
    last = first_day + timedelta(days=STALE_AFTER_DAYS)
    assert [p.stale for p in prices_of("t4", last)] == [False]
    assert [p.stale for p in prices_of("t4", last + timedelta(days=1))] == [True]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("usd_per_gpu_hour", "0.50", "USD a GPU-hour"),
        ("usd_per_gpu_hour", 0, "USD a GPU-hour"),
        ("usd_per_gpu_hour", None, "USD a GPU-hour"),
        ("usd_per_gpu_hour", True, "USD a GPU-hour"),
        ("usd_per_gpu_hour", float("inf"), "USD a GPU-hour"),
        ("usd_per_gpu_hour", ..., "is missing"),
        ("usd_per_hour", 0.5, "is no field of a price"),
        ("spot_usd_per_gpu_hour", -1, "USD a GPU-hour"),
        ("as_of", "last week", "2026-11-24, 2026-11 or 2026"),
        ("as_of", "2026-13", "2026-11-24, 2026-11 or 2026"),
        ("as_of", "26", "2026-11-24, 2026-11 or 2026"),
        ("as_of", 2026, "text"),
        ("gpus_per_instance", 0, "at least 1"),
        ("gpus_per_instance", 1.5, "at least 1"),
        ("whole_machine", "yes", "true or false"),
        ("confidence", [], "high or medium or low"),
        ("provider", "", "text"),
    ],
)
def test_bad_rows_name_file_row_and_field(
    offers: Callable[..., None], field: str, value: Any, says: str
):
    offers({}, {field: value})
    with pytest.raises(DataFileError, match=says) as caught:
        check_prices()
    assert caught.value.file == "prices.json"
    assert str(caught.value.row).startswith("2 (t4")
    assert caught.value.field == field
    with pytest.raises(DataFileError, match=says):
        prices_of("t4", TODAY)


@pytest.mark.parametrize(
    "content", [None, [], {}, {"prices": 3}, {"prices": [None]}, {"prices": ["gpu"]}]
)
def test_a_file_of_another_shape_is_named(
    offers: Callable[..., None], monkeypatch: pytest.MonkeyPatch, content: Any
):
    offers({})
    monkeypatch.setattr(prices, "read_json", lambda _name: content)
    with pytest.raises(DataFileError, match=r"prices\.json"):
        check_prices()


def test_a_row_without_a_gpu_is_counted(offers: Callable[..., None]):
    offers({}, {"gpu": ...})
    with pytest.raises(DataFileError, match="2 of prices"):
        cheapest_price("l4", TODAY)


def test_offers_of_one_provider_are_not_repeated():
    rows = read_json("prices.json")["prices"]
    seen = [(row["gpu"], row["provider"], row["instance"]) for row in rows]
    assert len(seen) == len(set(seen))
