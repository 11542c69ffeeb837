"""Rows of a split, one file after the other."""

from __future__ import annotations

from collections.abc import Iterator

from ftadvisor.errors import UnsupportedError
from ftadvisor.sources.datasets.blocks import Meter, blocks
from ftadvisor.sources.datasets.columnar_rows import arrow_rows, parquet_rows
from ftadvisor.sources.datasets.files import DataFile, size_of
from ftadvisor.sources.datasets.json_rows import Row, json_rows
from ftadvisor.sources.datasets.table_rows import csv_rows, text_rows


def rows_of(file: DataFile, meter: Meter, *, binary: bool = False) -> Iterator[Row]:
    """Numbered rows of one file: a dictionary, a Fault, None for a blank one, or what else it is.

    `binary`: bytes too, which images are made of; else only that there are some. Raises a
    FtadvisorError for a file that as a whole is not what its name says.
    """
    size = size_of(file.path)
    yield from _rows_of(file, meter, binary=binary)
    meter.close(size)


def _rows_of(file: DataFile, meter: Meter, *, binary: bool) -> Iterator[Row]:
    if file.kind in ("parquet", "arrow"):
        if file.compression:
            raise UnsupportedError.of(
                file.path.name, "such files are packed inside", ["the unpacked file"]
            )
        read = parquet_rows if file.kind == "parquet" else arrow_rows
        return read(file.path, meter, binary=binary)
    content = blocks(file, meter)
    match file.kind:
        case "json":
            plain = file.path.name.lower().removesuffix(file.compression)
            return json_rows(content, file.path, lines_only=not plain.endswith(".json"))
        case "csv":
            return csv_rows(content, file.path, ",")
        case "tsv":
            return csv_rows(content, file.path, "\t")
        case _:
            return text_rows(content)
