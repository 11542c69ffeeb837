"""Rows to what TRL calls prompt-completion and language-modelling examples."""

from __future__ import annotations

from typing import Any, cast

from ftadvisor.sources.datasets.examples import ROLES
from ftadvisor.sources.datasets.formats import Layout

Row = dict[str, Any]
SPEAKERS = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant",
            "chatgpt": "assistant", "developer": "system"}  # fmt: skip
"""ShareGPT's names of the roles that chat templates know."""


def supervised(row: Row, layout: Layout) -> Row | None:
    """`messages`; `prompt` and `completion` as messages; or `text`."""
    parts = {part.role: row.get(part.column) for part in layout.parts}
    match layout.format:
        case "chat":
            return {"messages": [*system_of(parts), *messages_of(parts["messages"])]}
        case "instruction":
            asked = "\n\n".join(filter(None, (parts["instruction"], parts.get("input"))))
            return _turn(parts, asked, parts["output"])
        case "prompt_completion":
            prompt = parts.get("prompt")
            if parts.get("input"):
                prompt = "\n\n".join(filter(None, (parts["input"], _text(prompt))))
            return _turn(parts, prompt, parts["completion"])
        case "raw":
            return {"text": parts["text"]}
        case "labelled":
            return {"text": parts["text"]} if "second" not in parts else None
        case _:
            return None


def is_conversational(example: Row) -> bool:
    """Whether the chat template makes a text of it."""
    return "messages" in example or isinstance(example.get("prompt"), list)


def source_target(row: Row, layout: Layout) -> Row | None:
    """`source` and `target`, plain text."""
    found = supervised(row, layout)
    if found is None or "prompt" not in found:
        return None
    return {
        "source": "\n\n".join(message["content"] for message in found["prompt"]),
        "target": "\n\n".join(message["content"] for message in found["completion"]),
    }


def asked(row: Row, layout: Layout) -> Row | None:
    """`prompt`, and `completion` where the row has an answer: what a student answers itself."""
    if layout.format == "prompts":
        (part,) = layout.parts
        return {"prompt": _said_by("user", row[part.column])}
    found = supervised(row, layout)
    if found is None or "text" in found:
        return None
    return split_turn(found["messages"]) if "messages" in found else found


def messages_of(value: Any) -> list[Row]:
    """OpenAI's or ShareGPT's messages, as chat templates read them."""
    found: list[Row] = []
    for message in cast("list[Row]", value):
        role = message.get("role") or message["from"]
        content = message.get("content")
        content = message.get("value") if content is None else content
        found.append({"role": SPEAKERS.get(role, role), "content": _text(content)})
    return found


def completed(row: Row, layout: Layout) -> Row:
    """The row with its answer, whatever is said of it; a format that has one."""
    known = layout if layout.format != "unpaired_preference" else _unjudged(layout)
    return cast("Row", supervised(row, known))


def question(parts: Row, value: Any) -> list[Row]:
    """What is asked, after what the system says."""
    return [*system_of(parts), *_said_by("user", value)]


def answer(value: Any) -> list[Row]:
    """What is answered: a text as one message; messages as they are."""
    return _said_by("assistant", value)


def split_turn(messages: list[Row]) -> Row | None:
    """The last answer as the completion of all before it; None: there is none."""
    for i in range(len(messages) - 1, 0, -1):
        if ROLES.get(messages[i]["role"]):
            return {"prompt": messages[:i], "completion": [messages[i]]}
    return None


def _turn(parts: Row, prompt: Any, completion: Any) -> Row:
    return {"prompt": question(parts, prompt), "completion": answer(completion)}


def _said_by(role: str, value: Any) -> list[Row]:
    """A text as that role's message; messages as they are."""
    if isinstance(value, list):
        return messages_of(value)
    return [{"role": role, "content": value or ""}]


def _unjudged(layout: Layout) -> Layout:
    return layout._replace(format="prompt_completion", label=None)


def system_of(parts: Row) -> list[Row]:
    """The system's message, where there is one."""
    said = parts.get("system")
    return [{"role": "system", "content": said}] if said else []


def _text(content: Any) -> str:
    """Text of a column or a message: of several parts or messages, theirs in order."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = cast("list[Any]", content)
    found = [part if isinstance(part, str) else _part(cast("Row", part)) for part in parts]
    return "\n\n".join(text for text in found if text)


def _part(part: Row) -> str:
    return _text(next((part[k] for k in ("text", "content", "value") if part.get(k)), ""))
