"""Which format a row has, and which column is what in it."""

from __future__ import annotations

from typing import Any, NamedTuple

from ftadvisor.schema.dataset import DataFormat

NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "dialog", "turns"),
    "chosen": ("chosen", "chosen_response", "response_chosen"),
    "rejected": ("rejected", "rejected_response", "response_rejected"),
    "instruction": ("instruction",),
    "input": ("input", "context"),
    "output": ("output", "response", "answer", "completion", "target"),
    "prompt": (
        *("prompt", "question", "query", "problem", "document", "article"),
        *("input", "source", "text"),
    ),
    "completion": (
        *("completion", "response", "solution", "answer", "output", "target"),
        *("summary", "highlights"),
    ),
    "answer": ("answer", "solution", "ground_truth", "target", "reference"),
    "text": ("text", "content", "sentence", "sentence1", "premise", "review", "document", "body"),
    "second": ("sentence2", "hypothesis", "text_pair", "text2"),
    "label": ("label_text", "label", "labels", "class", "category", "sentiment", "intent"),
    "image": ("image", "images", "image_path", "img", "image_url", "image_file", "file_name"),
    "caption": ("caption", "captions"),
    "system": ("system", "system_prompt"),
}
"""A role and the columns that play it, those that win first."""

GIVEN_ANSWER = ("answer", "solution", "ground_truth", "target", "reference")
"""Beside a column called `prompt` these are what a reward function checks against, as in TRL's
datasets for GRPO; beside a `question` they are what is learnt."""

VERDICTS = {"true": True, "false": False}
"""What CSV makes of the boolean of an unpaired preference."""


class Part(NamedTuple):
    """A column of text or messages."""

    role: str
    column: str
    needed: bool = True
    """A row in which it is empty cannot be used."""
    weight: float = 1.0
    """Of its length in the example's: a pair is two sequences, its length their mean."""


class Layout(NamedTuple):
    """What a row with certain columns is."""

    format: DataFormat
    parts: tuple[Part, ...]
    label: str | None = None
    image: str | None = None

    @property
    def columns(self) -> dict[str, str]:
        """Roles to column names."""
        found = {part.role: part.column for part in self.parts}
        if self.label:
            found["label"] = self.label
        if self.image:
            found["image"] = self.image
        return found


def layout_of(row: dict[str, Any]) -> Layout | None:
    """The format that the columns tell; None: none that is known."""
    spelt = {name.lower(): name for name in reversed(row) if name}
    by_role = {
        role: next((spelt[name] for name in names if name in spelt), None)
        for role, names in NAMES.items()
    }
    return (
        _preference(by_role)
        or _with_image(by_role)
        or _unpaired(by_role, row)
        or _chat(by_role)
        or _pair(by_role, spelt)
        or _text(by_role)
        or _alone(by_role)
    )


def _optional(by_role: dict[str, str | None], *roles: str) -> tuple[Part, ...]:
    return tuple(Part(role, name, needed=False) for role in roles if (name := by_role[role]))


def _preference(by_role: dict[str, str | None]) -> Layout | None:
    chosen, rejected = by_role["chosen"], by_role["rejected"]
    if not (chosen and rejected):
        return None
    prompt = by_role["prompt"] or by_role["instruction"]
    parts = [*_optional(by_role, "system")]
    if prompt:
        parts.append(Part("prompt", prompt, needed=False))
    parts += [Part("chosen", chosen, weight=0.5), Part("rejected", rejected, weight=0.5)]
    return Layout("preference", tuple(parts), image=by_role["image"])


def _with_image(by_role: dict[str, str | None]) -> Layout | None:
    image = by_role["image"]
    if not image:
        return None
    text = (
        _chat(by_role)
        or _instruction(by_role)
        or _completion(by_role)
        or _column(by_role, "caption", "image_text")
        or _column(by_role, "text", "image_text")
    )
    return Layout("image_text", text.parts, image=image) if text else None


def _unpaired(by_role: dict[str, str | None], row: dict[str, Any]) -> Layout | None:
    label, pair = by_role["label"], _completion(by_role)
    if not (label and pair):
        return None
    value = row[label]
    verdict = value is None or isinstance(value, bool) or str(value).lower() in VERDICTS
    return Layout("unpaired_preference", pair.parts, label=label) if verdict else None


def _chat(by_role: dict[str, str | None]) -> Layout | None:
    messages = by_role["messages"]
    if not messages:
        return None
    return Layout("chat", (*_optional(by_role, "system"), Part("messages", messages)))


def _pair(by_role: dict[str, str | None], spelt: dict[str, str]) -> Layout | None:
    given = by_role["prompt"] == spelt.get("prompt", "") and by_role["completion"]
    if given and given.lower() in GIVEN_ANSWER:
        return _prompts(by_role, by_role["prompt"] or "")
    return _instruction(by_role) or _completion(by_role)


def _instruction(by_role: dict[str, str | None]) -> Layout | None:
    instruction, output = by_role["instruction"], by_role["output"]
    if not (instruction and output):
        return None
    parts = (
        *_optional(by_role, "system"),
        Part("instruction", instruction),
        *_optional(by_role, "input"),
        Part("output", output),
    )
    return Layout("instruction", parts)


def _completion(by_role: dict[str, str | None]) -> Layout | None:
    prompt, completion = by_role["prompt"], by_role["completion"]
    if not (prompt and completion) or prompt == completion:
        return None
    read = by_role["input"] if by_role["input"] != prompt else None
    parts = (
        *_optional(by_role, "system"),
        *((Part("input", read, needed=False),) if read else ()),
        # Text alone may be taught as the completion of nothing.
        Part("prompt", prompt, needed=False),
        Part("completion", completion),
    )
    return Layout("prompt_completion", parts)


def _text(by_role: dict[str, str | None]) -> Layout | None:
    text, label = by_role["text"], by_role["label"]
    if not (text and label):
        return None
    return Layout("labelled", (Part("text", text), *_optional(by_role, "second")), label=label)


def _column(by_role: dict[str, str | None], role: str, kind: DataFormat) -> Layout | None:
    name = by_role[role]
    return Layout(kind, (Part("text" if role == "caption" else role, name),)) if name else None


def _alone(by_role: dict[str, str | None]) -> Layout | None:
    found = _column(by_role, "text", "raw")
    if found is None and (name := by_role["prompt"] or by_role["instruction"]):
        found = _prompts(by_role, name)
    return found


def _prompts(by_role: dict[str, str | None], name: str) -> Layout:
    return Layout("prompts", (*_optional(by_role, "system"), Part("prompt", name)))
