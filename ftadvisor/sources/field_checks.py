"""What each field of a data file may hold: described once as a `Kind`, checked in one place.

A row that becomes a record has its kinds from the record's annotations (`record_kinds`), so that a
field cannot be in the one and not in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from types import NoneType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from ftadvisor.errors import DataFileError, near_misses, quoted

_TOO_LARGE = 1e18
"""No quantity of a data file; infinity and not-a-number, which Python's JSON reads, are not below
it."""
_MOST_NAMED = 8


class Kind:
    """What a value must be: `write` says it to a person (`a text`), `holds` tests it."""

    __slots__ = ("holds", "write")

    def __init__(self, write: str, holds: Callable[[Any], bool]) -> None:
        self.write = write
        self.holds = holds


def number(low: float = 0, high: float = _TOO_LARGE, write: str = "a number from 0 on") -> Kind:
    """A number from `low` to below `high`."""
    return Kind(write, lambda v: type(v) in (int, float) and low <= v < high)


def whole(low: int = 0) -> Kind:
    """A whole number from `low` on."""
    return Kind(f"a whole number from {low} on", lambda v: type(v) is int and low <= v < _TOO_LARGE)


def one_of(values: Iterable[Any]) -> Kind:
    """One of some words."""
    known = tuple(values)
    return Kind(" or ".join(map(str, known)), lambda v: isinstance(v, str) and v in known)


def listed(item: Kind, what: str) -> Kind:
    """A list whose items are all of one kind."""
    return Kind(
        f"a list of {what}",
        lambda v: isinstance(v, list) and all(map(item.holds, cast("list[Any]", v))),
    )


def table(item: Kind, what: str) -> Kind:
    """An object whose values are all of one kind."""
    return Kind(
        f"an object of {what}",
        lambda v: isinstance(v, dict) and all(map(item.holds, cast("dict[str, Any]", v).values())),
    )


def any_of(*kinds: Kind) -> Kind:
    """One of several kinds."""
    write = ", or ".join(kind.write for kind in kinds)
    return Kind(write, lambda v: any(kind.holds(v) for kind in kinds))


TEXT = Kind("a text", lambda v: isinstance(v, str) and bool(v.strip()))
SWITCH = Kind("true or false", lambda v: isinstance(v, bool))
NULL = Kind("null", lambda v: v is None)
OBJECT = Kind("an object", lambda v: isinstance(v, dict))
ANYTHING = Kind("a value", lambda _: True)
NAMES = listed(TEXT, "names")
POSITIVE = number(1e-300, write="a number above 0")
SHARE = number(0, 1.000001, "a number from 0 to 1")


def check_row(
    file: str,
    row: str | None,
    values: Any,
    needed: Mapping[str, Kind],
    optional: Mapping[str, Kind] | None = None,
    *,
    inside: str = "",
) -> dict[str, Any]:
    """The row as it is. Raises DataFileError: file, row, field and what to write.

    `inside`: the field of the row that holds `values`, where it is not the row itself.
    """
    if not isinstance(values, dict):
        raise DataFileError(file, row, inside or None, f"is {quoted(values)}", "an object")
    found = cast("dict[str, Any]", values)
    kinds = {**needed, **(optional or {})}
    lead = f"{inside}." if inside else ""
    for name in found:
        if name not in kinds:
            absent = [key for key in kinds if key not in found]
            near = near_misses(name, absent) or near_misses(name, kinds)
            others = "one of " + ", ".join(absent[:_MOST_NAMED]) if absent else f"no {name}"
            write = near[0] if near else others
            raise DataFileError(file, row, lead + name, "is no known field", write)
    for name, kind in needed.items():
        if name not in found:
            raise DataFileError(file, row, lead + name, "is missing", kind.write)
    for name, value in found.items():
        check_value(file, row, lead + name, value, kinds[name])
    return found


def check_value(file: str, row: str | None, field: str, value: Any, kind: Kind) -> None:
    """Raise DataFileError where a value is not of its kind."""
    if not kind.holds(value):
        raise DataFileError(file, row, field, f"is {quoted(value)}", kind.write)


def rows_by_id(file: str, content: Any, place: str | None = None) -> dict[str, dict[str, Any]]:
    """A list of rows by their ids, of which nothing else is checked yet.

    `place`: the key of the file that holds the list. Raises DataFileError for anything else.
    """
    rows = cast("list[Any]", content) if isinstance(content, list) else []
    if not rows:
        problem = "holds no row" if content == [] else "is no list of rows"
        raise DataFileError(file, None, place, problem, '[{"id": ...}, ...]')
    found: dict[str, dict[str, Any]] = {}
    for position, row in enumerate(rows, start=1):
        name: Any = cast("dict[str, Any]", row).get("id") if isinstance(row, dict) else None
        if not TEXT.holds(name):
            problem = "is missing" if name is None else f"is {quoted(name)}"
            raise DataFileError(file, f"number {position}", "id", problem, "a unique name")
        if name in found:
            raise DataFileError(file, name, "id", "occurs twice", "a unique name")
        found[name] = row
    return found


@cache
def record_kinds(record: type) -> dict[str, Kind]:
    """The kinds of a record's fields, by its annotations: quantities are numbers from 0 on."""
    hints = get_type_hints(record)
    if not hasattr(record, "__dataclass_fields__"):
        return {name: _kind(hint) for name, hint in hints.items()}
    return {f.name: _kind(hints[f.name], f) for f in fields(record)}


def required(record: type) -> dict[str, Kind]:
    """The kinds of those fields that have no default."""
    kinds = record_kinds(record)
    return {f.name: kinds[f.name] for f in fields(record) if not _has_default(f)}


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _kind(hint: Any, field: Field[Any] | None = None) -> Kind:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any and field is not None and type(field.default) in (int, float):
        # A number or an array of them: a data file has numbers.
        return _kind(type(field.default))
    if origin is Literal:
        return one_of(arguments)
    if origin is tuple or origin is list:
        return listed(_kind(arguments[0]), "names" if arguments[0] is str else "values")
    if origin is dict:
        inner = _kind(arguments[1])
        return OBJECT if inner is ANYTHING else table(inner, "numbers")
    if origin is Union or str(origin) == "<class 'types.UnionType'>":
        return any_of(*map(_kind, arguments))
    return _PLAIN.get(hint, ANYTHING)


_PLAIN: dict[Any, Kind] = {
    str: TEXT, bool: SWITCH, int: whole(), float: number(), NoneType: NULL,
}  # fmt: skip
