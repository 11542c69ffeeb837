"""Rows to what TRL calls prompt-completion and language-modelling examples."""

from __future__ import annotations

import json
from typing import Any, cast

from ftadvisor.sources.datasets.blocks import Fault
from ftadvisor.sources.datasets.examples import ROLES
from ftadvisor.sources.datasets.formats import Layout

Row = dict[str, Any]
SPEAKERS = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant",
            "chatgpt": "assistant", "developer": "system", "observation": "tool",
            "function": "tool", "tool_response": "tool", "function_call": "assistant",
            "tool_call": "assistant"}  # fmt: skip
"""ShareGPT's names of the roles that chat templates know."""
CALLING = ("function_call", "tool_call")
"""Of these the text is a call: an object with a name and arguments, as JSON."""
CARRIED = ("tool_call_id", "name", "reasoning_content", "thinking")
"""What templates read of a message beside its role, its content and its tool_calls."""
TOOLS = "tools"
"""The column of what may be called, as TRL has it (trl 1.16 trainer/sft_trainer.py line 1315)."""


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
        return {"prompt": prompted(row, layout)}
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
        calls = _calls(message, role, content)
        made: Row = {"role": SPEAKERS.get(role, role), "content": _text(content)}
        made |= {name: message[name] for name in CARRIED if message.get(name)}
        if calls:
            made["tool_calls"] = calls
            made["content"] = "" if role in CALLING else made["content"]
        found.append(made)
    return found


def _calls(message: Row, role: str, content: Any) -> list[Row]:
    """The tools that a message calls, as templates read them: arguments as an object."""
    # OpenAI's lists, its first spelling, and ShareGPT's.
    given: Any = message.get("tool_calls") or message.get("function_call")
    if not given and role in CALLING:
        given = _of_json(content)
    several = cast("list[Any]", given) if isinstance(given, list) else [given]
    found: list[Row] = []
    for one in several:
        if not isinstance(one, dict):
            continue
        whole = cast("Row", one)
        call = cast("Row", whole["function"]) if isinstance(whole.get("function"), dict) else whole
        if "name" in call:
            named = {"name": call["name"], "arguments": _of_json(call.get("arguments") or {})}
            identity = {"id": whole["id"]} if whole.get("id") else {}
            found.append({**identity, "type": "function", "function": named})
    return found


def _of_json(value: Any) -> Any:
    """What a text of JSON says; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def tools_of(row: Row) -> Row | Fault:
    """The column of tools, where the row has any."""
    given = _of_json(row.get(TOOLS))
    if not given:
        return {}
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):  # pyright: ignore[reportUnknownVariableType]
        return Fault("has tools that are no list of objects")
    return {TOOLS: given}


def completed(row: Row, layout: Layout) -> Row:
    """The row with its answer, whatever is said of it; a format that has one."""
    known = layout if layout.format != "unpaired_preference" else _unjudged(layout)
    return cast("Row", supervised(row, known))


def prompted(row: Row, layout: Layout) -> list[Row]:
    """The prompt of a row that has no answer."""
    parts = {part.role: row.get(part.column) for part in layout.parts}
    asked = next(value for role, value in parts.items() if role != "system")
    turns = _said_by("user", asked)
    return turns if turns[0]["role"] == "system" else [*system_of(parts), *turns]


def question(parts: Row, value: Any) -> list[Row]:
    """What is asked, after what the system says."""
    return [*system_of(parts), *_said_by("user", value)]


def answer(value: Any) -> list[Row]:
    """What is answered: a text as one message; messages as they are."""
    return _said_by("assistant", value)


def split_turn(messages: list[Row]) -> Row | None:
    """The last answer as the completion of all before it; None: there is none."""
    for i in range(len(messages) - 1, 0, -1):
        one = messages[i]
        if ROLES.get(one["role"]) and (one["content"] or one.get("tool_calls")):
            return {"prompt": messages[:i], "completion": [one]}
    return None


def last_turn(row: Row) -> Row | None:
    """A row of messages with its last answer as the completion, and what else it has."""
    found = split_turn(row["messages"])
    rest = {name: value for name, value in row.items() if name != "messages"}
    return {**found, **rest} if found else None


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
