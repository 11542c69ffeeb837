"""Records as JSON: plain values only, no rich."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast


def as_plain(value: Any) -> Any:
    """A record, or anything made of records, as what JSON has: objects, lists, numbers, strings."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "as_dict"):
        return as_plain(value.as_dict())
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return {f.name: as_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        found = cast("Mapping[Any, Any]", value)
        return {str(key): as_plain(item) for key, item in found.items()}
    if isinstance(value, tuple | list | set | frozenset):
        items = cast("Iterable[Any]", value)
        ordered = sorted(items) if isinstance(value, set | frozenset) else items
        return [as_plain(item) for item in ordered]
    return str(value)


def as_json(value: Any) -> str:
    """JSON for people and programs, ASCII so that no terminal can spoil it.

    Raises ValueError for a number that JSON does not have (infinity, NaN).
    """
    return json.dumps(as_plain(value), indent=2, allow_nan=False)


def as_line(value: Any) -> str:
    """The same on one line."""
    return json.dumps(as_plain(value), allow_nan=False, separators=(",", ":"))
