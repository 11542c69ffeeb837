"""From a word of the command line to a value; what cannot be one is an InvalidSettingError.

Only the type is judged here. Whether a value makes sense is judged once, in `api`, for the command
line and Python alike.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ftadvisor.errors import InvalidSettingError


def text(option: str, word: str) -> str:
    """The word itself."""
    if not word.strip():
        raise InvalidSettingError(f"{option} is empty.")
    return word


def whole(option: str, word: str) -> int:
    """A whole number: `8`, `20_000_000`, `2e7`."""
    try:
        return int(word)
    except ValueError:
        value = number(option, word, "a whole number")
    if value != int(value):
        raise InvalidSettingError.of(option, word, "be a whole number")
    return int(value)


def number(option: str, word: str, what: str = "a number") -> float:
    """A finite number."""
    try:
        value = float(word)
    except ValueError:
        raise InvalidSettingError.of(option, word, f"be {what}") from None
    if not math.isfinite(value):
        raise InvalidSettingError.of(option, word, f"be {what}")
    return value


def mapping(option: str, word: str) -> dict[str, Any]:
    """A JSON object, or the file that holds one."""
    content = word
    if not word.lstrip().startswith("{"):
        try:
            content = Path(word).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError, ValueError):
            raise InvalidSettingError.of(
                option, word, "be a JSON object, or a file with one", [f"{option} '{{\"r\": 8}}'"]
            ) from None
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidSettingError(f"{option} is no JSON object: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidSettingError.of(option, word, "be a JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]
