"""Rows of Parquet files and of the datasets library's Arrow files, through pyarrow."""

from __future__ import annotations

import importlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftadvisor.errors import DataFileError, MissingExtraError
from ftadvisor.sources.datasets.blocks import BLOCK_BYTES, Meter
from ftadvisor.sources.datasets.files import size_of, unreadable
from ftadvisor.sources.datasets.json_rows import Row

BATCH_BYTES = 8_000_000
"""What a batch of rows takes unpacked, about."""
MOST_BATCH_ROWS = 1000


def parquet_rows(path: Path, meter: Meter, *, binary: bool = False) -> Iterator[Row]:
    """Rows of a Parquet file. What images are made of is left unread unless it is asked for."""
    parquet = _module("pyarrow.parquet", path)
    with _readable(path), _opened(parquet, path) as file:
        columns, unread = (None, []) if binary else _leaves(file)
        unpacked = sum(
            file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)
        )
        num_rows = file.metadata.num_rows
        batch = max(1, min(MOST_BATCH_ROWS, BATCH_BYTES * num_rows // max(unpacked, 1)))
        number = 0
        for table in file.iter_batches(batch_size=batch, columns=columns):
            for row in table.to_pylist():
                number += 1
                row.update((name, _PRESENT) for name in unread)
                yield number, row
            meter.at(size_of(path) * number // max(num_rows, 1))


def _opened(parquet: Any, path: Path) -> Any:
    # Without a buffer of its own pyarrow takes whole columns of a row group into memory.
    return parquet.ParquetFile(path, buffer_size=BLOCK_BYTES, pre_buffer=False)


def arrow_rows(path: Path, meter: Meter, *, binary: bool = False) -> Iterator[Row]:
    """Rows of an Arrow stream, as `save_to_disk` writes it, or of an Arrow file."""
    arrow = _module("pyarrow", path)
    ipc = _module("pyarrow.ipc", path)
    with _readable(path), arrow.OSFile(str(path)) as file:
        number = 0
        for table in _batches(ipc, file):
            kinds = () if binary else ("binary", "large_binary")
            unread = [f.name for f in table.schema if str(f.type) in kinds]
            kept = [name for name in table.schema.names if name not in unread]
            for start in range(0, table.num_rows, MOST_BATCH_ROWS):
                for row in table.select(kept).slice(start, MOST_BATCH_ROWS).to_pylist():
                    number += 1
                    row.update((name, _PRESENT) for name in unread)
                    yield number, row
            meter.at(file.tell())


_PRESENT: dict[str, None] = {"path": None}


def _batches(ipc: Any, file: Any) -> Iterator[Any]:
    if file.read(6) == b"ARROW1":
        reader = ipc.open_file(file)
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        return
    file.seek(0)
    yield from ipc.open_stream(file)


def _leaves(file: Any) -> tuple[list[str], list[str]]:
    """Paths of the leaves that are not bytes, and columns that are nothing but bytes."""
    leaves = [file.schema.column(i) for i in range(len(file.schema))]
    kept = [
        leaf.path
        for leaf in leaves
        if leaf.physical_type != "BYTE_ARRAY" or leaf.logical_type.type != "NONE"
    ]
    tops = {path.partition(".")[0] for path in kept}
    return kept, [name for name in file.schema_arrow.names if name not in tops]


@contextmanager
def _readable(path: Path) -> Generator[None]:
    """What pyarrow raises (ValueErrors, OSErrors and KeyErrors), as one clear message."""
    try:
        yield
    except (ValueError, OSError, KeyError) as error:
        if isinstance(error, OSError) and error.errno:
            raise unreadable(path, error) from None
        said = str(error).partition("\n")[0].rstrip(".")
        raise DataFileError(
            str(path), None, None, f"cannot be read: {said}", "the file written anew"
        ) from None


def _module(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError(f"Reading {path.name}", "data") from None
