"""When a rule holds: its clauses, each of a kind that its fact can have, and not at odds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cache
from typing import Any, cast, get_args, get_type_hints

from ftadvisor.errors import DataFileError, UnknownNameError, quoted
from ftadvisor.schema.dataset import DataFormat
from ftadvisor.schema.rule import Clause, Operator
from ftadvisor.schema.settings import Objective, Quantization
from ftadvisor.schema.situation import Accelerator, Facts, Goal, SizeClass, UseCase
from ftadvisor.sources.techniques import technique_ids

FACTS = tuple(f.name for f in fields(Facts))
OPERATORS: tuple[str, ...] = get_args(Operator)
Wrong = Callable[[str, str, str], DataFileError]
"""Field, problem and what to write, to the error that names the file and row too."""


def read_clauses(wrong: Wrong, when: Any) -> tuple[Clause, ...]:
    """The clauses of a rule. Raises DataFileError for one that cannot be, or can never hold."""
    if not isinstance(when, dict):
        raise wrong("when", f"is {quoted(when)}", "{fact: {operator: value}}")
    found: list[Clause] = []
    for fact, conditions in cast("dict[Any, Any]", when).items():
        if fact not in FACTS:
            raise wrong(f"when.{fact}", "is no fact", nearest(fact, FACTS))
        if not isinstance(conditions, dict) or not conditions:
            raise wrong(f"when.{fact}", "is no condition", "{is: value} or {at_least: 8}")
        own = [
            _clause(wrong, fact, operator, value)
            for operator, value in cast("dict[Any, Any]", conditions).items()
        ]
        if (problem := never_holds(own)) is not None:
            raise wrong(f"when.{fact}", problem, "conditions that can hold together")
        found += own
    return tuple(found)


def _clause(wrong: Wrong, fact: str, operator: Any, value: Any) -> Clause:
    field = f"when.{fact}.{operator}"
    if operator not in OPERATORS:
        raise wrong(field, "is no operator", " or ".join(OPERATORS))
    known = fact_values().get(fact)
    if operator == "known":
        if not isinstance(value, bool):
            raise wrong(field, f"is {quoted(value)}", "true or false")
        return Clause(fact, operator, value)
    if operator in ("below", "at_least"):
        if known is not None:
            raise wrong(field, f"{fact} is no number", "is or in")
        if not _is_number(value):
            raise wrong(field, f"is {quoted(value)}", "a number")
        return Clause(fact, operator, value)
    if operator in ("in", "not_in"):
        if not isinstance(value, list) or not value:
            raise wrong(field, f"is {quoted(cast('Any', value))}", "a list of values")
        value = tuple(cast("list[Any]", value))
    for one in cast("tuple[Any, ...]", value if isinstance(value, tuple) else (value,)):
        if known is None and not _is_number(one):
            raise wrong(field, f"is {quoted(one)}", "a number")
        if known is not None and not any(one is k or (one == k and one != 1) for k in known):
            raise wrong(field, f"is {quoted(one)}", nearest(one, map(str, known)))
    return Clause(fact, operator, value)


def never_holds(clauses: Iterable[Clause]) -> str | None:
    """Why conditions on one fact exclude each other; None: some value has them all."""
    own = {clause.operator: clause.value for clause in clauses}
    fact = next((clause.fact for clause in clauses), "")
    if own.get("known") is False and len(own) > 1:
        return "asks that it is not known, and what it is"
    low, high = own.get("at_least", float("-inf")), own.get("below", float("inf"))
    if low >= high:
        return f"asks for at least {low:g} and below {high:g}"
    values: set[Any] | None = None
    for operator in ("is", "in"):
        if operator in own:
            given = set(own["in"]) if operator == "in" else {own["is"]}
            values = given if values is None else values & given
    left = set(fact_values().get(fact) or ()) if values is None else values
    if (values is not None or left) and not left - set(own.get("not_in", ())):
        return "leaves no value"
    if values is not None and not any(_between(v, low, high) for v in values):
        return "asks for a value outside its bounds"
    return None


def _between(value: Any, low: float, high: float) -> bool:
    return not _is_number(value) or low <= value < high


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def nearest(value: Any, names: Iterable[str]) -> str:
    """What may have been meant; where nothing is like it, all that there is."""
    names = tuple(names)
    return " or ".join(UnknownNameError("", value, names).suggestions or names)


@cache
def fact_values() -> dict[str, tuple[Any, ...]]:
    """What the facts that are no numbers can be."""
    hints = get_type_hints(Facts)
    switches = [name for name in FACTS if bool in get_args(hints[name])]
    return {
        "size_class": get_args(SizeClass),
        "family": ("decoder", "encoder", "encdec"),
        "modality": ("text", "vision"),
        "use_case": get_args(UseCase),
        "data_format": get_args(DataFormat),
        "goal": get_args(Goal),
        "accelerator": get_args(Accelerator),
        "objective": get_args(Objective),
        "quantization": get_args(Quantization),
        "technique": technique_ids(),
        **dict.fromkeys(switches, (True, False)),
    }
