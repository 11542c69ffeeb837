"""What a GPU-hour costs: `data/prices.json` to records."""

from __future__ import annotations

from datetime import date
from functools import cache, lru_cache
from typing import Any, cast

from ftadvisor.errors import DataFileError, quoted
from ftadvisor.schema.hardware import Price
from ftadvisor.sources.data_files import read_json

STALE_AFTER_DAYS = 180
"""Half a year: AWS took 44 % off its H100 machines in one step in June 2025."""

_FILE = "prices.json"
_ABSURD = 10_000
"""USD a GPU-hour: more is a price in another currency or of another thing."""
_CONFIDENCES = ("high", "medium", "low")
_TEXTS = ("gpu", "provider", "as_of", "source")
_FIELDS = frozenset(
    (
        *_TEXTS, "usd_per_gpu_hour", "spot_usd_per_gpu_hour", "whole_machine", "instance",
        "gpus_per_instance", "region", "confidence", "note",
    )
)  # fmt: skip


@lru_cache(maxsize=1024)
def cheapest_price(gpu_id: str, today: date) -> Price | None:
    """The offer that a cost is computed from: the lowest on demand of those best vouched for.

    Only offers that include the machine count. A provider's own list (confidence high) comes before
    a marketplace or a second-hand figure, however cheap: those are what a run may cost, not what
    it can be had for. None: no offer of that GPU is known.
    """
    rows = [(n, row) for n, row in _rows_of(gpu_id) if row["whole_machine"]]
    if not rows:
        return None
    number, row = min(
        rows, key=lambda r: (_CONFIDENCES.index(r[1]["confidence"]), r[1]["usd_per_gpu_hour"])
    )
    return _price(number, row, today)


def prices_of(gpu_id: str, today: date) -> tuple[Price, ...]:
    """All offers of a GPU, cheapest first."""
    found = [_price(number, row, today) for number, row in _rows_of(gpu_id)]
    return tuple(sorted(found, key=lambda price: price.usd_per_gpu_hour))


def all_prices(today: date) -> tuple[Price, ...]:
    """All offers, in the file's order. Raises DataFileError at the first row that is wrong."""
    return tuple(_price(n, _checked(n, row), today) for n, row in enumerate(_rows(), start=1))


def check_prices() -> None:
    """Look at every row. Raises DataFileError: file, row, field and what to write."""
    all_prices(date.today())


@cache
def _rows() -> list[dict[str, Any]]:
    content: Any = read_json(_FILE)
    rows: Any = cast("dict[str, Any]", content).get("prices") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise DataFileError(_FILE, None, "prices", "is missing", "a list of offers")
    found = cast("list[dict[str, Any]]", rows)
    for number, row in enumerate(found, start=1):
        if type(row) is not dict or "gpu" not in row:
            raise DataFileError(_FILE, f"{number} of prices", "gpu", "is missing", "a GPU's id")
    return found


def _rows_of(gpu_id: str) -> list[tuple[int, dict[str, Any]]]:
    numbered = enumerate(_rows(), start=1)
    return [(n, _checked(n, row)) for n, row in numbered if row.get("gpu") == gpu_id]


def _price(number: int, row: dict[str, Any], today: date) -> Price:
    return Price(
        gpu=row["gpu"],
        provider=row["provider"],
        usd_per_gpu_hour=row["usd_per_gpu_hour"],
        spot_usd_per_gpu_hour=row["spot_usd_per_gpu_hour"],
        as_of=row["as_of"],
        source=row["source"],
        region=row["region"],
        instance=row["instance"],
        gpus_per_instance=row["gpus_per_instance"],
        stale=(today - _first_day(number, row)).days > STALE_AFTER_DAYS,
    )


def _first_day(number: int, row: dict[str, Any]) -> date:
    """The earliest day that `as_of` can mean: of a month or a year, its first."""
    text = row["as_of"]
    try:
        return date.fromisoformat(text + "YYYY-01-01"[len(text) :])
    except ValueError:
        raise _wrong(
            number, row, "as_of", f"is {quoted(text)}", "2026-11-24, 2026-11 or 2026"
        ) from None


def _checked(number: int, row: dict[str, Any]) -> dict[str, Any]:
    for key in sorted(_FIELDS ^ row.keys()):
        if key in _FIELDS:
            raise _wrong(number, row, key, "is missing", "the value, or null where it is unknown")
        raise _wrong(
            number, row, key, "is no field of a price", "one of " + ", ".join(sorted(_FIELDS))
        )
    for key in _TEXTS:
        if not isinstance(row[key], str) or not row[key]:
            raise _wrong(number, row, key, f"is {quoted(row[key])}", "text")
    for key in ("instance", "region", "note"):
        if row[key] is not None and not isinstance(row[key], str):
            raise _wrong(number, row, key, f"is {quoted(row[key])}", "text, or null")
    for key in ("usd_per_gpu_hour", "spot_usd_per_gpu_hour"):
        value = row[key]
        if value is None and key.startswith("spot"):
            continue
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not 0 < value < _ABSURD
        ):
            raise _wrong(number, row, key, f"is {quoted(value)}", "USD a GPU-hour")
    many = row["gpus_per_instance"]
    if type(many) is not int or many < 1:
        raise _wrong(number, row, "gpus_per_instance", f"is {quoted(many)}", "a count, at least 1")
    if not isinstance(row["whole_machine"], bool):
        raise _wrong(number, row, "whole_machine", "is neither true nor false", "true or false")
    if row["confidence"] not in _CONFIDENCES:
        raise _wrong(
            number, row, "confidence", f"is {quoted(row['confidence'])}", " or ".join(_CONFIDENCES)
        )
    return row


def _wrong(number: int, row: dict[str, Any], field: str, problem: str, write: str) -> DataFileError:
    label = f"{number} ({row.get('gpu')} at {row.get('provider')})"
    return DataFileError(_FILE, label, field, problem, write)
