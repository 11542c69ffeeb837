"""Rows of CSV and of plain text."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path

from ftadvisor.errors import DataFileError, quoted
from ftadvisor.sources.datasets.blocks import LONGEST_ROW_BYTES, Fault, decoded, lines
from ftadvisor.sources.datasets.json_rows import Row

DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


class _Lines:
    """Feeds the csv module line by line, and knows what it was fed."""

    def __init__(self, source: Iterable[bytes]) -> None:
        self._lines = lines(source)
        self.number = 0
        self.ended = False
        self.fault: Fault | None = None

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        for number, line in self._lines:
            self.number = number
            text = line if isinstance(line, Fault) else decoded(line)
            if isinstance(text, Fault):
                self.fault = text
                text = ""
            return text + "\n"
        self.ended = True
        raise StopIteration


def csv_rows(source: Iterable[bytes], path: Path, delimiter: str) -> Iterator[Row]:
    """Rows by the names in the header; numbered by the line they start in."""
    # The csv module's own limit of 131,072 characters is shorter than some documents.
    csv.field_size_limit(LONGEST_ROW_BYTES)
    feed = _Lines(source)
    table = csv.reader(feed, delimiter=delimiter)
    header = _header(table, feed, path, delimiter)
    while not feed.ended:
        start = feed.number + 1
        try:
            cells = next(table, None)
        except csv.Error as error:
            fault = Fault(f"cannot be read: {error} (a quote that is never closed?)")
            yield start, fault
            continue
        if cells is None:
            break
        if feed.fault is not None:
            fault, feed.fault = feed.fault, None
            yield start, fault
        elif feed.ended:
            # Only within quotes does the reader ask for a line beyond the last.
            yield start, Fault("opens a quote that is never closed")
        elif not cells:
            yield start, None
        elif len(cells) > len(header):
            yield start, Fault(f"has {len(cells)} cells for {len(header)} columns")
        else:
            yield start, dict(zip_longest(header, cells))


def _header(table: Iterator[list[str]], feed: _Lines, path: Path, delimiter: str) -> list[str]:
    try:
        header = next((cells for cells in table if cells), None) or [""]
    except csv.Error as error:
        raise DataFileError(str(path), 1, None, f"no header: {error}", "column names") from None
    if feed.fault is not None:
        raise DataFileError(str(path), feed.number, None, feed.fault.what, "a header in UTF-8")
    if len(header) == 1:
        for other, name in DELIMITERS.items():
            if other != delimiter and other in header[0]:
                raise DataFileError(
                    str(path),
                    feed.number,
                    None,
                    f"columns are separated by {name}",
                    f"{DELIMITERS[delimiter]} between columns",
                )
    repeated = {name for name in header if header.count(name) > 1}
    if repeated:
        problem = f"column {quoted(min(repeated))} stands twice in the header"
        raise DataFileError(str(path), feed.number, None, problem, "each column once")
    return header


def text_rows(source: Iterable[bytes]) -> Iterator[Row]:
    """Each line is a text, as the datasets library reads such files."""
    for number, line in lines(source):
        text = line if isinstance(line, Fault) else decoded(line)
        if isinstance(text, Fault):
            yield number, text
        elif not text.strip():
            yield number, None
        elif "\0" in text:
            yield number, Fault("holds a null byte")
        else:
            yield number, {"text": text}
