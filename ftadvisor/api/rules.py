"""The rules that `recommend` follows, as rows, and one of them with all that is known of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike, fspath
from typing import Any, cast

from ftadvisor.advice.wording import EVIDENCE, LAYERS, condition, consequence
from ftadvisor.errors import InvalidSettingError, UnknownNameError
from ftadvisor.schema.rule import Rule
from ftadvisor.sources.rules import find_rule, rules_with

_NAMING_FACTS = frozenset(
    {"use_case", "technique", "objective", "data_format", "goal", "size_class", "family",
     "accelerator", "quantization", "modality"}
)  # fmt: skip
"""Facts whose values are names that a person may ask for."""


def list_rules(
    pattern: str | None = None,
    *,
    about: str | Iterable[str] = (),
    rules: str | PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Rules as rows: those that hold `pattern` somewhere, and that are about all words of `about`.

    `about` names techniques, topics, use cases, settings and the like; `rules` is a YAML file with
    further rules. Raises UnknownNameError, with near misses, for a word that no rule is about.
    """
    found = _rules(rules)
    words = [_bare(word) for word in ([about] if isinstance(about, str) else about)]
    subjects = {rule.id: {_bare(word) for word in _subjects(rule)} for rule in found}
    known = sorted(set[str]().union(*subjects.values()))
    for word in words:
        if word not in known:
            raise UnknownNameError("topic of a rule", word, known, "ftadvisor rules")
    wanted = " ".join((pattern or "").casefold().split())
    return [
        _row(rule)
        for rule in found
        if set(words) <= subjects[rule.id] and (not wanted or wanted in _text(rule))
    ]


def explain_rule(name: str, *, rules: str | PathLike[str] | None = None) -> dict[str, Any]:
    """One rule: when it holds, what it does, who says so, and which rules say otherwise.

    Raises UnknownNameError with near misses.
    """
    found = _rules(rules)
    rule = find_rule(found, name)
    against = {*rule.contradicts, *(r.id for r in found if rule.id in r.contradicts)}
    return _row(rule) | {
        "layer_in_words": LAYERS[rule.layer],
        "contradicted_by": [
            {"id": r.id, "reason": r.reason, "evidence": r.evidence}
            for r in found
            if r.id in against
        ],
    }


def _rules(path: str | PathLike[str] | None) -> tuple[Rule, ...]:
    if path is not None and not fspath(path):
        raise InvalidSettingError.of("rules", path, "be a YAML file", ["--rules rules.yaml"])
    return rules_with(None if path is None else fspath(path))


def _row(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "layer": rule.layer,
        "topic": rule.topic,
        "reason": rule.reason,
        "when": [clause._asdict() for clause in rule.when],
        "when_in_words": condition(rule),
        "effects": [
            {"effect": type(effect).__name__.lower(), **effect._asdict()} for effect in rule.effects
        ],
        "effects_in_words": [consequence(effect) for effect in rule.effects],
        "number": rule.number,
        "source": rule.source,
        "url": rule.url,
        "date": rule.date,
        "evidence": rule.evidence,
        "evidence_in_words": EVIDENCE[rule.evidence],
        "confidence": rule.confidence,
        "contradicts": list(rule.contradicts),
    }


def _subjects(rule: Rule) -> Iterator[str]:
    """The names that a rule is about."""
    yield from (rule.topic, rule.layer, rule.evidence)
    for clause in rule.when:
        if clause.fact in _NAMING_FACTS:
            yield from _names(clause.value)
    for effect in rule.effects:
        for key, value in effect._asdict().items():
            if key in ("technique", "versus", "setting") or isinstance(value, tuple):
                yield from _names(value)


def _names(value: Any) -> Iterator[str]:
    values = cast("tuple[Any, ...]", value if isinstance(value, tuple) else (value,))
    yield from (one for one in values if isinstance(one, str))


def _text(rule: Rule) -> str:
    return " ".join((rule.id, rule.topic, rule.reason, rule.number, rule.source)).casefold()


def _bare(word: str) -> str:
    return word.casefold().replace("-", "_").replace(" ", "_")
