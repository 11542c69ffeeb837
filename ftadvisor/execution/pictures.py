"""Images of a row, with the conversation that they stand in, as TRL's SFTTrainer reads both.

Images stay where they are until a batch needs them: an example holds the datasets library's own
`{"path", "bytes"}` (features/image.py), and only that each one can be opened is looked at here.
"""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Any, NamedTuple, cast

from ftadvisor.errors import InvalidSettingError, quoted
from ftadvisor.execution import conversation, stack
from ftadvisor.sources.datasets.blocks import Fault
from ftadvisor.sources.datasets.formats import Layout

Row = dict[str, Any]
IMAGES = "images"
"""The column of an example's images."""
ILLUSTRATED = ("sft",)
"""Objectives that learn from images."""
MARK = "<image>"
"""Where LLaVA's data put an image in a text."""
_PART = {"type": "image", "text": None}
_WEB = ("http://", "https://")


class NoImageError(ValueError):
    """An image that is not there, or is none; the message says which and why."""


class _Found(NamedTuple):
    """Images in the order that the text has them."""

    images: list[Row]
    folder: Path


def check_sees(model: str, family: str) -> None:
    """Raise InvalidSettingError for a model that reads no images."""
    if family != "vlm":
        raise InvalidSettingError(
            f"The rows have images, and {model} reads none.",
            ["a vision-language model", "a dataset of text"],
        )


def illustrated(row: Row, layout: Layout, folder: Path) -> Row | Fault:
    """`prompt`, `completion` and `images`, or `messages` and `images`, of one row.

    `folder`: the data file's, from which paths go. Parts of a message are all of one shape, which
    Arrow asks for. A Fault says what is wrong with an image.
    """
    given: Any = row.get(layout.image) if layout.image else None
    listed: list[Any] = [] if given in (None, "") else [given]
    beside = cast("list[Any]", given) if isinstance(given, list) else listed
    found = _Found([], folder)
    try:
        own = [image_of(value, folder) for value in beside]
        made = _said(row, layout)
        if made is None:
            return Fault(f"is {layout.format}, with the columns {', '.join(map(quoted, row))}")
        asked = "messages" if "messages" in made else "prompt"
        turns = [_parted(message, own, found) for message in made[asked]]
        if own and not _put_in(turns, own, found):
            return Fault("has images and nobody who shows them")
        made[asked] = turns
        if asked == "prompt":
            made["completion"] = [_parted(m, [], found) for m in made["completion"]]
    except NoImageError as error:
        return Fault(str(error))
    return {**made, IMAGES: found.images}


def alike(train: list[Row], held_out: list[Row]) -> tuple[list[Row], list[Row]]:
    """Where a row has images, the others get none of them: a batch is of one shape."""
    if not any(IMAGES in row for row in (*train, *held_out)):
        return train, held_out
    return [_bare(row) for row in train], [_bare(row) for row in held_out]


def _bare(row: Row) -> Row:
    if IMAGES in row:
        return row
    found = _Found([], Path())
    turns = {k: [_parted(message, [], found) for message in row[k]] for k in row if k != "text"}
    return {**turns, IMAGES: []}


def image_of(value: Any, folder: Path) -> Row:
    """One image as the datasets library holds it. Raises NoImageError, naming it."""
    if isinstance(value, dict):
        whole = cast("Row", value)
        if whole.get("bytes"):
            value = whole["bytes"]
        else:
            value = whole.get("path") or whole.get("url")
    if isinstance(value, str) and value.startswith("data:"):
        try:
            value = base64.b64decode(value.partition(",")[2], validate=True)
        except binascii.Error:
            raise NoImageError("has an image whose base64 is broken") from None
    if isinstance(value, bytes):
        _check(io.BytesIO(value), "an image of bytes")
        return {"path": None, "bytes": value}
    if not isinstance(value, str) or not value:
        raise NoImageError(f"has {quoted(value)} for an image")
    if value.startswith(_WEB):
        raise NoImageError(f"has an image in the web, {quoted(value)}: it must be fetched before")
    path = folder / Path(value.removeprefix("file://")).expanduser()
    if not path.is_file():
        raise NoImageError(f"has the image {quoted(value)}, which is not there")
    _check(path, f"the image {quoted(value)}")
    return {"path": str(path), "bytes": None}


def _check(source: Any, what: str) -> None:
    """The head of the file, and its checksums: pixels are read when the trainer is made."""
    module = stack.PIL_Image
    try:
        with module.open(source) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, module.DecompressionBombError) as error:
        why = " ".join(str(error).partition(":")[0].split())[:80]
        raise NoImageError(f"has {what}, which cannot be read ({why})") from None


def _said(row: Row, layout: Layout) -> Row | None:
    """The row's conversation, its messages as they are."""
    parts = {part.role: row.get(part.column) for part in layout.parts}
    if "messages" in parts:
        system = conversation.system_of(parts)
        return {"messages": [*system, *_raw(parts["messages"])]}
    text = parts.get("text")
    if text is not None and "completion" not in parts and "output" not in parts:
        # A caption is what an image is answered with.
        ask: list[Row] = [{"role": "user", "content": ""}]
        return {"prompt": ask, "completion": [{"role": "assistant", "content": text}]}
    kind = "instruction" if "instruction" in parts else "prompt_completion"
    return conversation.supervised(row, layout._replace(format=kind))


def _raw(messages: Any) -> list[Row]:
    """Messages with roles that chat templates know, their contents untouched."""
    named = conversation.messages_of([{**m, "content": "", "value": ""} for m in messages])
    return [
        {"role": name["role"], "content": m.get("content", m.get("value"))}
        for name, m in zip(named, messages, strict=True)
    ]


def _parted(message: Row, own: list[Row], found: _Found) -> Row:
    """The message's content as parts: images that it holds, or that it marks, in their places."""
    content: Any = message["content"]
    parts: list[Row] = []
    for part in [content] if isinstance(content, str | None) else cast("list[Any]", content):
        if isinstance(part, dict) and str(cast("Row", part).get("type")).startswith("image"):
            whole = cast("Row", part)
            held = whole.get("image") or whole.get("image_url") or whole.get("path")
            if held is None and not own:
                raise NoImageError("marks more images than it has")
            image = own.pop(0) if held is None else image_of(held, found.folder)
            found.images.append(image)
            parts.append(dict(_PART))
            continue
        text = part if isinstance(part, str) else str(cast("Row", part or {}).get("text") or "")
        pieces = text.split(MARK)
        if len(pieces) - 1 > len(own):
            pieces = [text]
        for number, piece in enumerate(pieces):
            if number:
                found.images.append(own.pop(0))
                parts.append(dict(_PART))
            if piece.strip():
                parts.append({"type": "text", "text": piece.strip("\n") if number else piece})
    return {"role": message["role"], "content": parts}


def _put_in(turns: list[Row], own: list[Row], found: _Found) -> bool:
    """Images without a place go before the first question, as TRL puts them."""
    for turn in turns:
        if turn["role"] == "user":
            turn["content"] = [dict(_PART) for _ in own] + turn["content"]
            found.images[:0] = own
            own.clear()
            return True
    return False
