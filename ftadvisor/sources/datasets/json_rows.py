"""Rows of JSON: one object a line, or one list of objects."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, cast

from ftadvisor.errors import DataFileError
from ftadvisor.sources.datasets.blocks import LONGEST_ROW_BYTES, Fault, decoded, lines
from ftadvisor.sources.datasets.formats import layout_of

Row = tuple[int, Any]
"""A row's number and its value: a dictionary, a Fault, None for a blank line, or any other."""

_WHITE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


def json_rows(source: Iterator[bytes], path: Path, *, lines_only: bool) -> Iterator[Row]:
    """Rows of a JSON file, however it is laid out; its name only says what a broken one is."""
    ahead: list[bytes] = []
    for block in source:
        ahead.append(block)
        if block.strip():
            break
    start = b"".join(ahead).lstrip()
    whole = chain(ahead, source)
    if start.startswith(b"["):
        return _rows_of_list(whole, path)
    if start.startswith(b"{") and not lines_only and not _is_of_lines(start):
        return _row_of_object(whole, path)
    return _rows_of_lines(whole)


def _is_of_lines(start: bytes) -> bool:
    """Whether the first line is an object, or the two after it are and it is a broken one."""
    first, *others = start.split(b"\n", 3)[:3]
    if not others:
        # It goes on past the first block: a long row.
        return True
    return isinstance(_careful(first), dict) or (
        len(others) == 2 and all(isinstance(_careful(line), dict) for line in others)
    )


def _rows_of_lines(source: Iterable[bytes]) -> Iterator[Row]:
    for number, line in lines(source):
        if isinstance(line, Fault):
            yield number, line
            continue
        try:
            text = line.decode()
            value, end = _decode(text)
            if end == len(text):
                yield number, value
                continue
        except (ValueError, RecursionError):
            pass
        # White space around, a carriage return, nothing at all, or a fault to describe.
        yield number, _careful(line)


def _careful(line: bytes) -> Any:
    text = decoded(line)
    if isinstance(text, Fault):
        return text
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return Fault(_said(error))


def _said(error: Exception) -> str:
    match error:
        case json.JSONDecodeError():
            return f"is not JSON: {error.msg} at character {error.pos + 1}"
        case RecursionError():
            return "is nested too deeply"
        case _:
            return f"is not JSON: {str(error).partition(';')[0]}"


def _row_of_object(source: Iterable[bytes], path: Path) -> Iterator[Row]:
    """A file that is one object over many lines."""
    content = b""
    for block in source:
        content += block
        if len(content) > LONGEST_ROW_BYTES:
            _refuse(path, "is one object of more than 32 MB", f"jq -c . {path.name} > rows.jsonl")
    value = _careful(content)
    if isinstance(value, Fault) and "Extra data" in value.what:
        _refuse(path, "holds objects over many lines", f"jq -c . {path.name} > rows.jsonl")
    if isinstance(value, dict) and layout_of(cast("dict[str, Any]", value)) is None:
        for key, inner in cast("dict[str, Any]", value).items():
            if isinstance(inner, list) and inner and isinstance(inner[0], dict):
                write = f"jq -c '.[\"{key}\"][]' {path.name} > rows.jsonl"
                _refuse(path, f"is one object whose field {key!r} holds the rows", write)
    yield 1, value


def _rows_of_list(source: Iterable[bytes], path: Path) -> Iterator[Row]:
    """Elements of one list, each as soon as it is whole: the list may be larger than memory."""
    texts = _texts(source, path)
    buffer, at = next(texts), 0
    at = _WHITE.match(buffer).end() + 1  # pyright: ignore[reportOptionalMemberAccess]
    number = 0
    while True:
        value, end, fault = _element(buffer, at, first=number == 0)
        if end < len(buffer):
            number += 1
            if buffer[end] == "]" and value is Ellipsis:
                break
            yield number, value
            if buffer[end] == "]":
                break
            if buffer[end] != ",":
                _refuse(
                    path, f"row {number} is followed by {buffer[end]!r}", "a list: [{...}, {...}]"
                )
            at = end + 1
            continue
        held = len(buffer) - at
        more = _more(texts, held) if held <= LONGEST_ROW_BYTES else ""
        if not more:
            problem = fault or "the list is not closed"
            _refuse(
                path, f"row {number + 1} {problem}" if fault else problem, "a list: [{...}, {...}]"
            )
        buffer, at = buffer[at:] + more, 0


def _element(buffer: str, at: int, *, first: bool) -> tuple[Any, int, str]:
    """An element, where the text after it starts (the end: more must be read), and what is wrong.

    Ellipsis stands for the end of an empty list.
    """
    start = _WHITE.match(buffer, at).end()  # pyright: ignore[reportOptionalMemberAccess]
    if first and buffer[start : start + 1] == "]":
        return Ellipsis, start, ""
    try:
        value, end = _decode(buffer, start)
    except (ValueError, RecursionError) as error:
        return None, len(buffer), _said(error)
    return value, _WHITE.match(buffer, end).end(), ""  # pyright: ignore[reportOptionalMemberAccess]


def _texts(source: Iterable[bytes], path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for block in source:
            yield decoder.decode(block)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        _refuse(path, f"is not UTF-8: byte 0x{byte:02x}", "UTF-8: iconv -f LATIN1 -t UTF-8")


def _more(texts: Iterator[str], at_least: int) -> str:
    """As much again as is held, so that a long element is not parsed over and over."""
    pieces: list[str] = []
    for text in texts:
        pieces.append(text)
        at_least -= len(text)
        if at_least <= 0:
            break
    return "".join(pieces)


def _refuse(path: Path, problem: str, write: str) -> NoReturn:
    raise DataFileError(str(path), None, None, problem, write)
