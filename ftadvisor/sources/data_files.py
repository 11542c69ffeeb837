"""Where the data files are, and how JSON is read from them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ftadvisor.errors import DataFileError


@cache
def data_dir() -> Path:
    """The directory `data`: beside the package in a checkout, inside it when installed.

    Raises DataFileError when it is in neither place.
    """
    package = Path(__file__).resolve().parent.parent
    for place in (package / "data", package.parent / "data"):
        if (place / "trainers.json").is_file():
            return place
    raise DataFileError("data", None, None, "is missing", "reinstall ftadvisor")


def read_json(name: str) -> Any:
    """The content of a data file. Raises DataFileError that says what is wrong with it."""
    path = data_dir() / name
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataFileError(name, None, None, f"cannot be read: {error}", "valid JSON") from error
