"""What a person brings to `recommend`, checked and turned into facts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from ftadvisor.errors import InvalidSettingError, UnknownNameError
from ftadvisor.schema.dataset import DataFormat
from ftadvisor.schema.situation import Facts, Goal, SizeClass, UseCase
from ftadvisor.units import HOUR

USE_CASES: tuple[str, ...] = get_args(UseCase)
SAME_USE_CASE = {
    "rlhf": "alignment", "preference": "alignment", "chatbot": "chat", "conversational": "chat",
    "assistant": "chat", "text_classification": "classification", "text_generation": "generation",
    "text_summarization": "summarization", "vision": "multimodal", "coding": "code",
    "math": "reasoning", "maths": "reasoning", "instruction_following": "instruction",
    "embeddings": "embedding", "domain_adaptation": "domain",
}  # fmt: skip
LIMITS = {"budget_usd": 1e9, "deadline_hours": 1e6, "num_examples": 1e15}
ENGLISH = frozenset({"en", "eng", "english"})
ONLY_WISHES = (
    "use_case", "labels", "goal", "budget_usd", "deadline_hours", "rules", "languages",
    "keep_abilities", "license", "size", "num_examples", "data_format", "seed", "learning_rate",
    "global_batch_size",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wish:
    """The wishes apart from the settings that the person fixed."""

    facts: Facts
    """As far as the person's own words go."""
    goal: Goal
    budget_usd: float | None
    deadline_seconds: float | None
    rules: str | None
    license: str
    """permissive or any."""
    size: SizeClass | None
    seed: int
    fixed: dict[str, Any]
    """learning_rate and global_batch_size, where given."""


def read_wishes(given: dict[str, Any]) -> Wish:
    """Take the wishes out of the options.

    Raises UnknownNameError with near misses, InvalidSettingError for a value that makes no sense.
    """
    own: dict[str, Any] = {
        name: value for name in ONLY_WISHES if (value := given.pop(name, None)) is not None
    }
    for name, largest in LIMITS.items():
        if name in own:
            _positive(name, own[name], largest)
    for name in ("labels", "keep_abilities"):
        if name in own and not isinstance(own[name], bool):
            raise InvalidSettingError.of(name, own[name], "be true or false")
    goal = _one_of("goal", own.get("goal", "balanced"), get_args(Goal))
    deadline = own.get("deadline_hours")
    facts = Facts(
        use_case=cast("Any", use_case_of(own.get("use_case"))),
        data_format=cast("Any", _format(own.get("data_format"))),
        has_labels=own.get("labels"),
        num_examples=_number(own.get("num_examples")),
        multilingual=_multilingual(own.get("languages")),
        keep_abilities=own.get("keep_abilities"),
        goal=cast("Any", goal),
        budget_usd=_number(own.get("budget_usd")),
        deadline_hours=_number(deadline),
    )
    return Wish(
        facts=facts,
        goal=cast("Any", goal),
        budget_usd=facts.budget_usd,
        deadline_seconds=_hours(deadline),
        rules=str(Path(own["rules"])) if "rules" in own else None,
        license=_one_of("license", own.get("license", "any"), ("permissive", "any")),
        size=cast("Any", _size(own.get("size"))),
        seed=_seed(own.get("seed", 0)),
        fixed=_fixed(own),
    )


def _size(value: Any) -> str | None:
    return None if value is None else _one_of("size", value, get_args(SizeClass))


def _fixed(own: dict[str, Any]) -> dict[str, Any]:
    fixed: dict[str, Any] = {}
    if "learning_rate" in own:
        _positive("learning_rate", own["learning_rate"], 10.0)
        fixed["learning_rate"] = float(own["learning_rate"])
    if "global_batch_size" in own:
        _positive("global_batch_size", own["global_batch_size"], 1e6)
        fixed["global_batch_size"] = int(own["global_batch_size"])
    return fixed


def _hours(value: Any) -> float | None:
    return None if value is None else float(value) * HOUR


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _positive(name: str, value: Any, largest: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= largest or not math.isfinite(value):
        raise InvalidSettingError.of(name, value, f"be a number above 0, at most {largest:,.0f}")


def _seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise InvalidSettingError.of("seed", value, "be a whole number from 0 on")
    return value


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> str:
    word = str(value).lower()
    if word not in known:
        raise UnknownNameError(name, value, known, see="ftadvisor recommend --help")
    return word


def use_case_of(value: Any) -> str | None:
    """The use case of that name or another of its names. Raises UnknownNameError."""
    if value is None:
        return None
    word = str(value).strip().lower().replace(" ", "_").replace("-", "_")
    word = SAME_USE_CASE.get(word, word)
    if word not in USE_CASES:
        error = UnknownNameError(
            "use case", value, (*USE_CASES, *SAME_USE_CASE), "ftadvisor recommend --help"
        )
        error.suggestions = error.suggestions or USE_CASES
        raise error
    return word


def _format(value: Any) -> str | None:
    return None if value is None else _one_of("data_format", value, get_args(DataFormat))


def _multilingual(languages: Any) -> bool | None:
    if languages is None:
        return None
    names = [languages] if isinstance(languages, str) else list(languages)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InvalidSettingError.of("languages", languages, "be names of languages", ["en de fr"])
    return any(name.lower() not in ENGLISH for name in names)
