"""A rule in words: when it holds and what it does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ftadvisor.schema import rule as schema
from ftadvisor.schema.rule import Clause, Effect, Rule
from ftadvisor.units import format_count, format_share, format_usd

EVIDENCE = {
    "opened": "read at its source",
    "secondary": "read on a page that cites it",
    "abstract": "read in the abstract only",
    "recalled": "recalled, not checked",
    "derived": "follows from the program or from a library's code",
    "given": "said by you",
}
"""How well a figure is known, in words."""
LAYERS = {
    "physics": "what can be run at all; nothing overrides it",
    "user": "a rule of your own; only physics overrides it",
    "evidence": "published evidence; outranks convention",
    "convention": "what is usual, where evidence does not decide",
}
"""What each layer yields to."""
_SUBJECTS = {
    "num_params": "the model's size in parameters",
    "size_class": "the model's size class",
    "family": "the model's family",
    "modality": "the model's modality",
    "use_case": "the use case",
    "data_format": "the data's format",
    "has_labels": "whether there are labels",
    "num_examples": "the number of examples",
    "num_tokens": "the number of tokens in one pass",
    "mean_tokens": "the mean length in tokens",
    "examples_per_class": "the number of examples of the smallest class",
    "num_classes": "the number of classes",
    "duplicate_share": "the share of repeated rows",
    "goal": "the goal",
    "accelerator": "the accelerator",
    "gpu_memory_gib": "the usable memory of a GPU in GiB",
    "num_gpus": "the number of GPUs",
    "budget_usd": "the budget",
    "deadline_hours": "the deadline in hours",
    "objective": "the objective",
    "technique": "the technique",
    "quantization": "the base's quantization",
    "lora_r": "lora_r",
    "num_steps": "the number of optimizer steps",
    "global_batch_size": "the global batch size",
}
_SENTENCES = {
    "has_labels": ("the data has labels", "the data has no labels"),
    "multilingual": ("the text is not English alone", "the text is English"),
    "keep_abilities": (
        "the base's other abilities must survive",
        "the base's other abilities need not survive",
    ),
    "has_bf16": ("the GPU computes in bf16", "the GPU has no bf16"),
    "fits_unquantized": (
        "LoRA fits on the base in 16 bits",
        "LoRA does not fit on the base in 16 bits",
    ),
}
"""(where it is true, where it is false)."""
_COUNTS = {"num_params", "num_examples", "num_tokens", "mean_tokens", "examples_per_class"}


def fact_words(fact: str) -> str:
    """What a fact is, in words."""
    return f"whether {_SENTENCES[fact][0]}" if fact in _SENTENCES else _SUBJECTS[fact]


def condition(rule: Rule) -> str:
    """When the rule holds, in words."""
    if not rule.when:
        return "where it is computed" if rule.layer == "physics" else "always"
    by_fact: dict[str, list[Clause]] = {}
    for clause in rule.when:
        by_fact.setdefault(clause.fact, []).append(clause)
    return "; ".join(_about_one_fact(fact, clauses) for fact, clauses in by_fact.items())


def _about_one_fact(fact: str, clauses: list[Clause]) -> str:
    sure = [c for c in clauses if isinstance(c.value, bool) and c.operator == "is"]
    if fact in _SENTENCES and sure:
        return _SENTENCES[fact][0 if sure[0].value else 1]
    return f"{_SUBJECTS.get(fact, fact)} is {' and '.join(map(_predicate, clauses))}"


def _predicate(clause: Clause) -> str:
    match clause.operator:
        case "known":
            return "known" if clause.value else "not known"
        case "in":
            return _alternatives(map(str, clause.value))
        case "not_in":
            return f"not {_alternatives(map(str, clause.value))}"
        case "below":
            return f"below {_amount(clause.fact, clause.value)}"
        case "at_least":
            return f"at least {_amount(clause.fact, clause.value)}"
        case "is":
            return _amount(clause.fact, clause.value)


def _alternatives(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _amount(fact: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if fact == "budget_usd":
        return format_usd(value)
    if fact == "duplicate_share":
        return format_share(value)
    if fact in _COUNTS:
        number, _, unit = format_count(value).partition(" ")
        short = number.rstrip("0").rstrip(".") if "." in number else number
        return f"{short} {unit}".strip()
    return f"{value:g}"


def consequence(effect: Effect) -> str:
    """What one effect does, in words."""
    match effect:
        case schema.Quality(technique, versus, points, spread):
            return f"{technique} {points:+g} ± {spread:g} points against {versus}"
        case schema.Recommend(techniques):
            return f"speaks for {', '.join(techniques)}"
        case schema.Avoid(techniques):
            return f"speaks against {', '.join(techniques)}"
        case schema.Set(setting, value):
            return f"sets {setting} to {value}"
        case schema.Limit(setting, at_least, at_most):
            ends = (("at least", at_least), ("at most", at_most))
            said = " and ".join(f"{word} {end:g}" for word, end in ends if end is not None)
            return f"keeps {setting} {said}"
        case schema.Objectives(objectives):
            return f"trains for {', else '.join(objectives)}"
        case schema.Measure(metrics):
            return f"measures {', '.join(metrics)}"
        case schema.Sizes(sizes):
            return f"usual sizes: {', '.join(sizes)}"
        case schema.Warn(sentence):
            return f"warns: {sentence}"
        case schema.Note(sentence):
            return f"notes: {sentence}"
        case schema.FirstTry(what, sign):
            return f"before fine-tuning: {what}; {sign}"
