"""Mappings that a frozen record may hold: dictionaries to read, which refuse to be changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, cast


class ReadOnlyDict(dict[str, Any]):
    """A dictionary that cannot be changed, hashes by its content, and pickles as itself.

    A dict rather than a mapping proxy: JSON, pickle and `dataclasses.asdict` know it.
    """

    __slots__ = ()

    def _refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("this cannot be changed; as_dict() gives a copy that can be")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """By the content, whatever its order."""
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[ReadOnlyDict], tuple[dict[str, Any]]]:
        return (type(self), (dict(self),))


def read_only(values: Mapping[str, Any]) -> ReadOnlyDict:
    """A copy that cannot be changed, and nothing inside it either."""
    # Most values are numbers and texts, and this is run for every estimate.
    inside = {k: _frozen(v) for k, v in values.items() if type(v) is dict or type(v) is list}
    return ReadOnlyDict({**values, **inside} if inside else values)


def writable(value: Any) -> Any:
    """Plain dictionaries in the place of read-only ones and of named tuples, at any depth."""
    if isinstance(value, dict):
        return {k: writable(v) for k, v in cast("dict[str, Any]", value).items()}
    if hasattr(value, "_asdict"):
        return writable(value._asdict())
    if isinstance(value, tuple):
        return tuple(map(writable, cast("tuple[Any, ...]", value)))
    return value


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return read_only(cast("dict[str, Any]", value))
    if isinstance(value, list):
        return tuple(map(_frozen, cast("list[Any]", value)))
    return value
