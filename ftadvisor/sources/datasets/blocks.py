"""Bytes of a file, unpacked, in blocks and in lines."""

from __future__ import annotations

import codecs
import importlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from ftadvisor.errors import DataFileError, MissingExtraError
from ftadvisor.sources.datasets.files import DataFile, unreadable

BLOCK_BYTES = 1_000_000
LONGEST_ROW_BYTES = 32_000_000
"""A longer row is no example; without a bound one line could take all memory."""

Progress = Callable[[int, int], None]
"""Told the bytes read so far and those there are."""

ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
MAGIC = (
    (b"\x1f\x8b", "gzip", "its name with .gz at the end"),
    (b"\x28\xb5\x2f\xfd", "Zstandard", "its name with .zst at the end"),
    (b"PK\x03\x04", "a zip archive (or a spreadsheet)", "the file unpacked, or saved as CSV"),
    (b"BZh", "bzip2", "the file unpacked: bunzip2"),
    (b"\xfd7zXZ", "xz", "the file unpacked: unxz"),
    (b"PAR1", "Parquet", "its name with .parquet at the end"),
    (b"ARROW1", "Arrow", "its name with .arrow at the end"),
    (b"SQLite format 3", "a SQLite database", "the table exported as CSV"),
    (b"%PDF", "a PDF", "its text as .txt"),
)
BINARY_SHARE = 0.01
"""Text has no null bytes; of this share on the file is something else."""


class Fault(NamedTuple):
    """What stands in a row's place where none could be read."""

    what: str


class Meter:
    """Counts bytes of all files of a dataset towards one progress callback."""

    def __init__(self, progress: Progress | None, num_bytes: int) -> None:
        self._progress = progress
        self._all = num_bytes
        self._before = 0

    def at(self, done: int) -> None:
        """`done` bytes of the file that is being read."""
        if self._progress is not None:
            self._progress(min(self._before + done, self._all), self._all)

    def close(self, num_bytes: int) -> None:
        """The file of this size is through."""
        self._before += num_bytes
        self.at(0)


def blocks(file: DataFile, meter: Meter) -> Iterator[bytes]:
    """The file's content, unpacked. Raises DataFileError for what is damaged or no text."""
    import zlib

    try:
        with file.path.open("rb") as raw:
            stream = _unpacked(raw, file)
            first = True
            while block := stream.read(BLOCK_BYTES):
                yield _text_of(block, file.path) if first else block
                first = False
                meter.at(raw.tell())
    except (EOFError, zlib.error) as error:
        raise _damaged(file.path, error) from None
    except OSError as error:
        # gzip.BadGzipFile and pyarrow's errors are OSErrors without a number of the system's.
        problem = unreadable(file.path, error) if error.errno else _damaged(file.path, error)
        raise problem from None


def lines(source: Iterable[bytes]) -> Iterator[tuple[int, bytes | Fault]]:
    """Numbered lines without their line feed; what follows the last one counts if it is any."""
    number = 1
    pieces: list[bytes] = []
    held = 0
    for block in source:
        first, *others = block.split(b"\n")
        if held <= LONGEST_ROW_BYTES:
            pieces.append(first)
        held += len(first)
        if not others:
            continue
        yield number, _joined(pieces, held)
        last = others.pop()
        yield from enumerate(others, number + 1)
        number += len(others) + 1
        pieces, held = [last], len(last)
    if held:
        yield number, _joined(pieces, held)


def decoded(line: bytes) -> str | Fault:
    """Text of a line."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return Fault(f"is not UTF-8: byte 0x{line[error.start]:02x} at {error.start + 1}")


def _joined(pieces: list[bytes], size: int) -> bytes | Fault:
    if size > LONGEST_ROW_BYTES:
        return Fault(f"is longer than {LONGEST_ROW_BYTES // 1_000_000} MB")
    return b"".join(pieces)


def _unpacked(raw: IO[bytes], file: DataFile) -> Any:
    if file.compression == ".gz":
        import gzip

        return gzip.open(raw)
    if file.compression == ".zst":
        try:
            arrow: Any = importlib.import_module("pyarrow")
        except ImportError:
            raise MissingExtraError(f"Reading {file.path.name}", "data") from None
        return arrow.CompressedInputStream(arrow.PythonFile(raw, mode="r"), "zstd")
    return raw


def _damaged(path: Path, error: Exception) -> DataFileError:
    return DataFileError(
        str(path), None, None, f"is damaged: {error}", "the file packed anew, or unpacked"
    )


def _text_of(block: bytes, path: Path) -> bytes:
    """The first block without a byte order mark. Raises DataFileError for what is no text."""
    for mark, encoding in ENCODINGS:
        if block.startswith(mark):
            raise _encoded(path, encoding)
    for magic, what, write in MAGIC:
        if block.startswith(magic):
            raise DataFileError(str(path), None, None, f"is {what}, whatever its name says", write)
    nulls = block.count(0)
    if nulls > BINARY_SHARE * len(block):
        # Latin text in UTF-16 without a mark: every other byte is null.
        if nulls > len(block) / 3 and 0 in (block[::2].count(0), block[1::2].count(0)):
            raise _encoded(path, "UTF-16")
        raise DataFileError(str(path), None, None, "is binary, not text", "a text file in UTF-8")
    return block.removeprefix(codecs.BOM_UTF8)


def _encoded(path: Path, encoding: str) -> DataFileError:
    return DataFileError(
        str(path),
        None,
        None,
        f"is {encoding}, which training scripts do not read",
        f"UTF-8: iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}",
    )
