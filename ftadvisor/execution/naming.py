"""Names and numbers in peft_config that the model has not: PEFT leaves most of them out in silence,
and would train something else than the plan says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from ftadvisor.errors import InvalidSettingError, near_misses, quoted

ENDS = ("modules_to_save", "exclude_modules")
"""Lists of what modules' names end with."""
PATTERNS = ("rank_pattern", "alpha_pattern")
"""Keys are patterns of what modules' names end with."""
TOKENS = ("trainable_token_indices", "token_indices")


def check_names(model: Any, given: Mapping[str, Any]) -> None:
    """Raise InvalidSettingError for the first name or number that is none of the model's."""
    names = [name for name, _ in model.named_modules()]
    for option in ENDS:
        for name in _texts(given.get(option)):
            if not any(own.endswith(name) for own in names):
                raise _unknown(option, name, names)
    for option in PATTERNS:
        for key in cast("Mapping[str, Any]", given.get(option) or {}):
            if not any(re.match(rf"(.*\.)?({key})$", own) for own in names):
                raise _unknown(option, key, names)
    text = model.config.get_text_config()
    _check_below("layers_to_transform", given, getattr(text, "num_hidden_layers", None), "layers")
    for option in TOKENS:
        _check_below(option, given, getattr(text, "vocab_size", None), "tokens")


def _texts(value: Any) -> list[str]:
    """A list's; a text is a pattern, which may match nothing."""
    return [] if value is None or isinstance(value, str) else [str(name) for name in value]


def _check_below(option: str, given: Mapping[str, Any], count: int | None, what: str) -> None:
    for number in _numbers(given.get(option)):
        if count is not None and not 0 <= number < count:
            raise InvalidSettingError(
                f"peft_config {option} {number}: the model has {count:,} {what}.",
                [f"0 to {count - 1}"],
            )


def _numbers(value: Any) -> Iterable[int]:
    """Of a number, a list of them, or lists by name."""
    if isinstance(value, int):
        return [value]
    lists: list[Any] = [*value.values()] if isinstance(value, Mapping) else [value or ()]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportUnknownArgumentType]
    return [number for one in lists for number in cast("Iterable[int]", one)]


def _unknown(option: str, name: str, names: list[str]) -> InvalidSettingError:
    own = sorted({known.rpartition(".")[2] for known in names} - {""})
    own = [known for known in own if not known.isdigit()]
    return InvalidSettingError(
        f"peft_config {option} {quoted(name)}: no module of the model is called so.",
        near_misses(name, own) or own[:5],
    )
