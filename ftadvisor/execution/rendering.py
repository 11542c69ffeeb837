"""Conversations that the chat template refuses, or shows without their calls: known before a model
is loaded.

A template may know no system message, or ask for turns that alternate; where it knows no tools, a
call would be learnt as an answer of nothing.
"""

from __future__ import annotations

from typing import Any, cast

from ftadvisor.errors import InvalidSettingError, first_line, quoted
from ftadvisor.execution import stack
from ftadvisor.execution.conversation import TOOLS, is_conversational
from ftadvisor.execution.examples import Examples, Row
from ftadvisor.execution.journal import Journal

ANSWERS = ("completion", "chosen", "rejected")
SHOWN = 3


def rendered(examples: Examples, tokenizer: Any, journal: Journal) -> Examples:
    """The examples that the template renders; what is left out is told.

    Raises InvalidSettingError where none is left to train on.
    """
    reasons: dict[Any, str | None] = {}
    faults: list[str] = []

    def kept(rows: list[Row]) -> list[Row]:
        found: list[Row] = []
        for number, row in enumerate(rows, 1):
            kind = _kind(row)
            if kind not in reasons:
                reasons[kind] = _reason(row, tokenizer)
            reason = reasons[kind]
            if reason is None:
                found.append(row)
            else:
                faults.append(f"example {number} {reason}")
        return found

    train = kept(examples.train)
    if not train:
        raise InvalidSettingError(
            f"The chat template can render none of the examples ({faults[0]}).",
            ["rows as the model's template wants them", "another chat_template of its tokenizer"],
        )
    held_out = kept(examples.held_out)
    if not faults:
        return examples
    journal.say("data", f"{len(faults)} examples left out ({'; '.join(faults[:SHOWN])})")
    return examples._replace(train=train, held_out=held_out)


def _kind(row: Row) -> Any:
    """What templates go by: rows of one kind are rendered once. Calls have contents of their own
    that some look at.
    """
    if not is_conversational(row):
        return None
    turns = [turn for conversation in _conversations(row) for turn in (*conversation, {})]
    if TOOLS in row or any("tool_calls" in turn for turn in turns):
        return id(row)
    return tuple((turn.get("role"), bool(turn.get("content"))) for turn in turns)


def _conversations(row: Row) -> list[list[Row]]:
    if "messages" in row:
        return [row["messages"]]
    answers = [row[name] for name in ANSWERS if isinstance(row.get(name), list)]
    return [[*row["prompt"], *answer] for answer in answers or [[]]]


def _reason(row: Row, tokenizer: Any) -> str | None:
    """Why a conversation cannot be rendered; None: it can."""
    if not is_conversational(row):
        return None
    for turns in _conversations(row):
        try:
            text = tokenizer.apply_chat_template(
                turns, tools=row.get(TOOLS), tokenize=False,
                add_generation_prompt=turns[-1]["role"] == "user",
            )  # fmt: skip
        except (stack.jinja2.TemplateError, TypeError, ValueError) as error:
            return f"is refused by the chat template: {first_line(error)}"
        for turn in turns:
            for call in cast("list[Row]", turn.get("tool_calls") or []):
                name = str(call["function"]["name"])
                if name not in text:
                    return f"calls {quoted(name)}, which the chat template does not show"
    return None
