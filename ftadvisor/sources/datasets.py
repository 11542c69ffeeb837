"""A dataset file's size, read here without a tokenizer."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from ftadvisor.errors import DataFileError, InvalidSettingError
from ftadvisor.schema.workload import Workload

CHARACTERS_PER_TOKEN = 4.0
"""English text under a byte-pair vocabulary of 32 to 128 thousand entries; code and other languages
have fewer. OpenAI's tokenizer help page states 4; Alpaca has about 4.1 with Llama's tokenizer."""

CHARACTERS_ERROR = 0.3
"""Half-width of the interval on a token count from characters: 3 to 5.5 characters a token."""

LONGEST_CELL = 2**31 - 1
"""The csv module's own limit of 131,072 characters is shorter than some documents."""


def read_workload(path: Path, num_train_epochs: float) -> Workload:
    """Sizes of a JSONL, JSON, CSV or text file, its tokens estimated from characters.

    Raises InvalidSettingError for a missing file or an unknown format, DataFileError for a file
    without a readable row.
    """
    if not path.is_file():
        raise InvalidSettingError(
            f"dataset {str(path)!r} is not a file.", ["a .jsonl, .json, .csv or .txt file"]
        )
    lengths = [size for size in _sizes(path) if size > 0]
    if not lengths:
        raise DataFileError(str(path), None, None, "no row with text in it", "rows with text")
    tokens = [size / CHARACTERS_PER_TOKEN for size in lengths]
    mean = sum(tokens) / len(tokens)
    return Workload(
        name=path.name,
        num_examples=len(tokens),
        mean_tokens=mean,
        longest_tokens=max(tokens),
        deviation_tokens=math.sqrt(sum((t - mean) ** 2 for t in tokens) / len(tokens)),
        num_train_epochs=num_train_epochs,
        token_error=CHARACTERS_ERROR,
    )


def _sizes(path: Path) -> Iterator[int]:
    """Characters of each row."""
    suffix = path.suffix.lower()
    try:
        if suffix in (".jsonl", ".ndjson"):
            yield from _jsonl_sizes(path)
        elif suffix == ".json":
            content: Any = json.loads(path.read_text(encoding="utf-8-sig"))
            rows = cast("list[Any]", content) if isinstance(content, list) else [content]
            yield from (_characters(row) for row in rows)
        elif suffix in (".csv", ".tsv"):
            csv.field_size_limit(LONGEST_CELL)
            with path.open(encoding="utf-8-sig", newline="") as file:
                table = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
                yield from (_characters(row) for row in table)
        elif suffix in (".txt", ".md"):
            with path.open(encoding="utf-8-sig") as file:
                yield from (len(line.strip()) for line in file)
        else:
            raise InvalidSettingError(
                f"dataset {path.name!r}: {suffix or 'no suffix'} is not a format that is read.",
                [".jsonl", ".json", ".csv", ".txt"],
            )
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise DataFileError(str(path), None, None, f"cannot be read: {error}", "") from None


def _jsonl_sizes(path: Path) -> Iterator[int]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield _characters(json.loads(line))
            except (json.JSONDecodeError, RecursionError) as error:
                raise DataFileError(
                    str(path), number, None, f"is not JSON: {error}", "one JSON object a line"
                ) from None


def _characters(value: Any) -> int:
    """Characters of all strings in a row, chat messages' contents included."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_characters(v) for v in value.values())  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
    if isinstance(value, list):
        return sum(_characters(v) for v in value)  # pyright: ignore[reportUnknownVariableType]
    return 0
