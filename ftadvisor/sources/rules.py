"""Rules of `data/rules/` and of a user's YAML file, each row checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from ftadvisor.errors import DataFileError, UnknownNameError, near_misses, quoted
from ftadvisor.schema import rule as schema
from ftadvisor.schema.rule import Effect, Layer, Rule
from ftadvisor.schema.settings import Objective, Settings
from ftadvisor.sources.data_files import data_dir, read_json
from ftadvisor.sources.field_checks import (
    NAMES,
    POSITIVE,
    TEXT,
    Kind,
    any_of,
    number,
    record_kinds,
)
from ftadvisor.sources.rule_clauses import nearest, read_clauses
from ftadvisor.sources.techniques import technique_ids
from ftadvisor.sources.training_settings import RULED, TRAINING
from ftadvisor.sources.yaml_files import read_yaml

FILES: dict[str, Layer] = {
    "physics.json": "physics",
    "evidence.json": "evidence",
    "seed.json": "convention",
    "objectives.json": "evidence",
    "settings.json": "convention",
    "measures.json": "convention",
}
"""Each file of data/rules and what its rows yield to."""
TEXTS = ("topic", "reason", "number", "source", "url", "date")
_ROW = ("id", *TEXTS, "when", "effects", "evidence", "confidence")
_OPTIONAL = ("contradicts", "checked")
_USER_NEEDS = ("id", "when", "effects", "reason")


class _Place(NamedTuple):
    """Where in which file something is wrong."""

    file: str
    row: int | str

    def wrong(self, field: str, problem: str, write: str) -> DataFileError:
        return DataFileError(self.file, self.row, field, problem, write)


@cache
def built_in_rules() -> tuple[Rule, ...]:
    """All rules of `data/rules/`. Raises DataFileError: file, row, field, what to write."""
    found: list[Rule] = []
    for file, layer in FILES.items():
        if (data_dir() / "rules" / file).is_file():
            content: Any = read_json(f"rules/{file}")
            found += _rules(f"rules/{file}", content, layer, needs=_ROW)
    return _unique(found)


def rules_with(path: str | None) -> tuple[Rule, ...]:
    """The built-in rules and those of a user's YAML file; one with a known id replaces that rule.

    Raises InvalidSettingError for a file that cannot be read, DataFileError for a wrong row.
    """
    rules = built_in_rules()
    if path is None:
        return rules
    own = {rule.id: rule for rule in read_user_rules(Path(path))}
    return (*(own.pop(rule.id, rule) for rule in rules), *own.values())


def read_user_rules(path: Path) -> tuple[Rule, ...]:
    """A user's rules: a YAML list of rows, or `rules:` with one.

    `id`, `when`, `effects` and `reason` are needed; the rest is known to be the user's.
    """
    content: Any = read_yaml(path, "rules file", "a list of rules")
    rows = _rules(path.name, content, "user", needs=_USER_NEEDS)
    return _unique(rows, path.name)


def find_rule(rules: Iterable[Rule], name: str) -> Rule:
    """The rule of that id. Raises UnknownNameError with near misses."""
    by_id = {rule.id: rule for rule in rules}
    if name not in by_id:
        raise UnknownNameError("rule", name, by_id, see="ftadvisor rules")
    return by_id[name]


def _unique(rules: list[Rule], file: str = "rules") -> tuple[Rule, ...]:
    seen: set[str] = set()
    for rule in rules:
        if rule.id in seen:
            raise DataFileError(file, rule.id, "id", "stands twice", "an id of its own")
        seen.add(rule.id)
    return tuple(rules)


def _rules(file: str, content: Any, layer: Layer, needs: tuple[str, ...]) -> list[Rule]:
    rows: Any = cast("Any", content).get("rules") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows:
        raise DataFileError(file, None, "rules", "is no list of rules", "[{id: ...}, ...]")
    return [
        _rule(file, number, row, layer, needs)
        for number, row in enumerate(cast("list[Any]", rows), start=1)
    ]


def _rule(file: str, number: int, row: Any, layer: Layer, needs: tuple[str, ...]) -> Rule:
    if not isinstance(row, dict):
        raise DataFileError(file, f"{number} of rules", None, "is no object", "keys and values")
    fields_of = cast("dict[Any, Any]", row)
    place = _Place(file, str(fields_of.get("id", f"{number} of rules")))
    for key in fields_of:
        if key not in (*_ROW, *_OPTIONAL):
            raise place.wrong(str(key), "is no field of a rule", " or ".join(_ROW))
    for key in needs:
        if key not in fields_of:
            raise place.wrong(key, "is missing", "a value")
    given: dict[str, Any] = {"evidence": "given", "confidence": "high", **fields_of}
    for key in ("id", *TEXTS):
        if not isinstance(given.setdefault(key, ""), str):
            raise place.wrong(key, f"is {quoted(given[key])}", "text")
    if not given["id"]:
        raise place.wrong("id", "is empty", "a short name")
    for key, kind in (("evidence", schema.Evidence), ("confidence", schema.Confidence)):
        if given[key] not in get_args(kind):
            raise place.wrong(key, f"is {quoted(given[key])}", " or ".join(get_args(kind)))
    return Rule(
        **{key: given[key] for key in ("id", *TEXTS, "evidence", "confidence")},
        layer=layer,
        when=read_clauses(place.wrong, given["when"]),
        effects=_effects(place, given["effects"]),
        contradicts=_contradicted(place, given.get("contradicts", [])),
    )


def _contradicted(place: _Place, ids: Any) -> tuple[str, ...]:
    if not isinstance(ids, list) or not all(isinstance(i, str) for i in cast("list[Any]", ids)):
        raise place.wrong("contradicts", "is no list of ids", "a list of rules' ids")
    return tuple(cast("list[str]", ids))


def _effects(place: _Place, effects: Any) -> tuple[Effect, ...]:
    if not isinstance(effects, list) or not effects:
        raise place.wrong("effects", "is no list", "a list of effects")
    return tuple(_effect(place, n, e) for n, e in enumerate(cast("list[Any]", effects), start=1))


def _effect(place: _Place, number: int, effect: Any) -> Effect:
    field = f"effects.{number}"
    if not isinstance(effect, dict):
        raise place.wrong(field, "is no object", "{recommend: [lora]}")
    given = cast("dict[str, Any]", effect)
    name = next((key for key in given if key in _READERS), None)
    if name is None:
        raise place.wrong(field, f"does {quoted(list(given))}", " or ".join(_READERS))
    extra = set(given) - {name} - ({"sign"} if name == "first_try" else set())
    if extra:
        raise place.wrong(field, f"also has {quoted(sorted(extra))}", f"only {name}")
    try:
        return _READERS[name](given[name], given)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        missing = isinstance(error, KeyError)
        problem = f"has no {error.args[0]}" if missing else f"does not read: {error}"
        raise place.wrong(f"{field}.{name}", problem, EXAMPLES[name]) from None


def _names(value: Any, known: Iterable[str], noun: str) -> tuple[str, ...]:
    names = cast("list[Any]", value if isinstance(value, list) else [])
    if not names:
        raise ValueError(f"it is no list of {noun}s")
    for name in names:
        if name not in known:
            raise ValueError(f"no {noun} is called {quoted(name)} ({nearest(name, known)})")
    return tuple(names)


def _quality(value: Any, _: dict[str, Any]) -> Effect:
    one, other = _names([value["technique"], value["versus"]], technique_ids(), "technique")
    points, spread = value["points"], value["spread"]
    if not (number(-100, 101).holds(points) and number(1e-9, 101).holds(spread)):
        raise ValueError("points are -100 to 100, their spread above 0")
    if one == other:
        raise ValueError("a technique is no better than itself")
    return schema.Quality(one, other, float(points), float(spread))


def _set(value: Any, _: dict[str, Any]) -> Effect:
    setting, chosen = _only(value)
    kind = _ruled_kinds().get(setting)
    if kind is None:
        near = near_misses(setting, _ruled_kinds())
        raise ValueError(f"{quoted(setting)} is no setting of a rule's ({', '.join(near)})")
    if not kind.holds(chosen):
        raise ValueError(f"{setting} is {quoted(chosen)}, not {kind.write}")
    return schema.Set(setting, chosen)


def _limit(value: Any, _: dict[str, Any]) -> Effect:
    setting, bounds = _only(value)
    kind = _ruled_kinds().get(setting)
    if kind is None or not kind.holds(1):
        raise ValueError(f"{quoted(setting)} is no number that a rule can bound")
    if not isinstance(bounds, dict) or not bounds or set(bounds) - {"at_least", "at_most"}:  # pyright: ignore[reportUnknownArgumentType]
        raise ValueError("at_least, at_most or both")
    found = cast("dict[str, Any]", bounds)
    if not all(number().holds(bound) for bound in found.values()):
        raise ValueError("bounds are numbers from 0 on")
    if found.get("at_least", 0) > found.get("at_most", float("inf")):
        raise ValueError("at_least is above at_most")
    return schema.Limit(setting, found.get("at_least"), found.get("at_most"))


def _only(value: Any) -> tuple[str, Any]:
    if not isinstance(value, dict) or len(cast("dict[Any, Any]", value)) != 1:
        raise ValueError("one setting each")
    ((setting, chosen),) = cast("dict[Any, Any]", value).items()
    return str(setting), chosen


@cache
def _ruled_kinds() -> dict[str, Kind]:
    """What a rule can set, and to what: neither what the search counts out nor what is stated."""
    kinds = record_kinds(Settings) | {
        "lora_target_modules": any_of(TEXT, NAMES), "num_train_epochs": POSITIVE,
    }  # fmt: skip
    return {name: TRAINING.get(name, kinds.get(name)) or TEXT for name in RULED}


def _measures(value: Any, _: dict[str, Any]) -> Effect:
    if not NAMES.holds(value) or not value:
        raise ValueError(f"{quoted(value)} is no list of metrics")
    return schema.Measure(tuple(value))


def _sentence(kind: Callable[[str], Effect]) -> Callable[[Any, dict[str, Any]], Effect]:
    def read(value: Any, _: dict[str, Any]) -> Effect:
        if not isinstance(value, str) or not value:
            raise ValueError("it is no sentence")
        return kind(value)

    return read


def _listed(
    kind: Callable[[tuple[str, ...]], Effect], known: Callable[[], Iterable[str]], noun: str
) -> Callable[[Any, dict[str, Any]], Effect]:
    return lambda value, _: kind(_names(value, known(), noun))


_READERS: dict[str, Callable[[Any, dict[str, Any]], Effect]] = {
    "quality": _quality,
    "recommend": _listed(schema.Recommend, technique_ids, "technique"),
    "avoid": _listed(schema.Avoid, technique_ids, "technique"),
    "set": _set,
    "limit": _limit,
    "objective": _listed(schema.Objectives, lambda: get_args(Objective), "objective"),
    "measure": _measures,
    "sizes": _listed(schema.Sizes, lambda: ("small", "medium", "large"), "size"),
    "warn": _sentence(schema.Warn),
    "note": _sentence(schema.Note),
    "first_try": lambda value, all_: schema.FirstTry(str(value), str(all_["sign"])),
}
"""By the key that names an effect in the files."""
EXAMPLES = {
    "quality": "{technique: dora, versus: lora, points: 1.0, spread: 2.0}",
    "recommend": "[lora]",
    "avoid": "[full]",
    "set": "{learning_rate: 2e-4}",
    "limit": "{learning_rate: {at_most: 5e-4}}",
    "objective": "[sft]",
    "measure": "[accuracy, f1]",
    "sizes": "[small, medium]",
    "warn": "a sentence",
    "note": "a sentence",
    "first_try": "prompting, with sign: a sentence",
}
"""What to write, by effect."""
