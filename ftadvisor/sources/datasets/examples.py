"""What a row holds under its layout: its text, its class, or why it cannot be used."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from ftadvisor.schema.dataset import DataFormat
from ftadvisor.sources.datasets.blocks import Fault
from ftadvisor.sources.datasets.formats import VERDICTS, Layout

BETWEEN = "\x1f"
"""Stands between the parts of an example's text, so that they cannot run into each other."""

ROLES = dict.fromkeys(
    ("system", "developer", "user", "human", "tool", "function", "observation", "tool_response"),
    False,
) | dict.fromkeys(
    ("assistant", "gpt", "model", "bot", "chatgpt", "function_call", "tool_call"), True
)
"""Of OpenAI's messages and of ShareGPT's, and whether what they say is learnt."""


class Example(NamedTuple):
    """A row that can be trained on."""

    format: DataFormat
    text: str
    """All parts."""
    size: float
    """Characters of one sequence."""
    classes: tuple[str, ...] = ()
    beside: str | None = ""
    """What else tells it from others: its images; None where that is not read."""


def example_of(row: dict[str, Any], layout: Layout) -> Example | Fault | None:
    """The row's example; None where it holds no text at all."""
    texts: list[str] = []
    size = 0.0
    empty = ""
    kind = layout.format
    for role, column, needed, weight in layout.parts:
        value: Any = row.get(column)
        if value.__class__ is not str or role == "messages":
            if value is None:
                value = ""
                empty = empty or (f"column {column!r} is missing" if needed else "")
            else:
                found = _messages(value, column, answered=role in ("messages", "completion"))
                if isinstance(found, Fault):
                    return found
                value, image = found
                kind = "image_text" if image and kind == "chat" else kind
        if needed and not empty and (not value or value.isspace()):
            empty = f"column {column!r} is empty"
        texts.append(value)
        size += weight * len(value)
    if empty:
        return None if not any(text.strip() for text in texts) else Fault(empty)
    if layout.label or layout.image or kind in ("preference", "image_text"):
        return _completed(row, layout, kind, texts, size)
    return Example(kind, BETWEEN.join(texts), size)


def all_text(row: Any) -> str:
    """All strings in a row, whatever they are: for rows of no known format."""
    if isinstance(row, str):
        return row
    if isinstance(row, dict):
        row = list(cast("dict[str, Any]", row).values())
    if isinstance(row, list):
        return BETWEEN.join(text for part in cast("list[Any]", row) if (text := all_text(part)))
    return ""


def _completed(
    row: dict[str, Any], layout: Layout, kind: DataFormat, texts: list[str], size: float
) -> Example | Fault:
    """The example with what stands beside its text: classes, a verdict, images."""
    if layout.format == "preference":
        if texts[-1] == texts[-2]:
            return Fault("chosen and rejected are the same")
        if (
            len(texts) > 2
            and layout.parts[-3].role == "prompt"
            and _starts_with_prompt(row, layout)
        ):
            size -= len(texts[-3])
    beside = ""
    if layout.image:
        image = row.get(layout.image)
        if image is not None and image not in ("", []):
            beside = all_text(image) or None
        elif any(part.role == "messages" for part in layout.parts):
            kind = "chat"
        elif kind == "image_text":
            return Fault(f"column {layout.image!r} holds no image")
    elif kind == "image_text":
        beside = all_text(row.get(layout.parts[-1].column))
    classes = _classes(row.get(layout.label), layout) if layout.label else ()
    if isinstance(classes, Fault):
        return classes
    return Example(kind, BETWEEN.join(texts), size, classes, beside)


def _starts_with_prompt(row: dict[str, Any], layout: Layout) -> bool:
    """Whether the chosen conversation repeats the prompt, as UltraFeedback's does."""
    chosen = row[layout.parts[-2].column]
    if not isinstance(chosen, list):
        return False
    first = cast("list[dict[str, Any]]", chosen)[0]
    return not ROLES[first.get("role") or first["from"]]


def _classes(value: Any, layout: Layout) -> tuple[str, ...] | Fault:
    """The row's class, several where it has several; of an unpaired preference the verdict."""
    if value is None or value == "":
        return Fault(f"column {layout.label!r} is missing")
    if layout.format == "unpaired_preference":
        verdict = value if isinstance(value, bool) else VERDICTS.get(str(value).lower())
        if verdict is None:
            return Fault(f"column {layout.label!r} is {_kind(value)}, not true or false")
        return (str(verdict).lower(),)
    if isinstance(value, list):
        several = cast("list[Any]", value)
        if all(isinstance(one, str | int) for one in several):
            return tuple(str(one) for one in several)
    if isinstance(value, dict | list):
        return Fault(f"column {layout.label!r} is {_kind(value)}, not a class")
    # The datasets library's mark for a label that is kept secret.
    if value == -1:
        return Fault(
            f"column {layout.label!r} is -1, which stands for no label; a class has another name"
        )
    return (str(value),)


def _messages(value: Any, column: str, *, answered: bool) -> tuple[str, bool] | Fault:
    """The text of messages, and whether there is an image in them."""
    if not isinstance(value, list):
        return Fault(f"column {column!r} is {_kind(value)}, not text")
    texts: list[str] = []
    image = learnt = False
    for message in cast("list[Any]", value):
        if message.__class__ is not dict:
            what = f"is {_kind(message)}, not an object"
            return Fault(f"message {len(texts) + 1} of {column!r} {what}")
        role, content = message.get("role"), message.get("content")
        if role is None:
            role = message.get("from")
        if content is None:
            content = message.get("value")
        if role.__class__ is not str or role not in ROLES:
            what = "has no role" if role is None else f"has the role {str(role)[:40]!r}"
            return Fault(f"message {len(texts) + 1} of {column!r} {what}")
        if content.__class__ is not str:
            found = _content(content, message)
            if found is None:
                return Fault(f"message {len(texts) + 1} of {column!r} has no text")
            content, seen = found
            image = image or seen
        # An answer of nothing teaches to say nothing.
        learnt = learnt or (ROLES[role] and bool(content) and not content.isspace())
        texts.append(content)
    if texts and answered and not learnt:
        return Fault(f"column {column!r} holds no answer to learn from")
    return BETWEEN.join(texts), image


def _content(content: Any, message: dict[str, Any]) -> tuple[str, bool] | None:
    """Text and images of a message that is not simply a string."""
    calls = all_text(message.get("tool_calls"))
    if isinstance(content, list):
        parts = [
            cast("dict[str, Any]", part)
            for part in cast("list[Any]", content)
            if isinstance(part, dict)
        ]
        image = any(str(part.get("type")).startswith(("image", "video")) for part in parts)
        text = BETWEEN.join(str(part.get("text") or "") for part in parts)
        return text + BETWEEN * bool(calls) + calls, image
    return (calls, False) if calls else None


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "an object"
