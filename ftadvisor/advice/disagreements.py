"""Where rules disagree and the reader has to know: with equal right, or with one of their own."""

from __future__ import annotations

from collections.abc import Iterator

from ftadvisor.advice.choice import Chosen
from ftadvisor.advice.engine import LAYERS, Verdicts
from ftadvisor.advice.quality import NORMAL_90, TIED_POINTS, Pooled
from ftadvisor.schema.rule import Avoid, Limit, Recommend, Rule

SHOWN = 4
"""Rules of a long list."""


def disagreements(chosen: Chosen, verdicts: Verdicts, pooled: Pooled) -> Iterator[str]:
    """One sentence for each."""
    objective = verdicts.objective()
    if objective is not None and objective.tied:
        yield _tie("the objective", objective.rule, objective.tied)
    yield from _on_techniques(verdicts)
    yield from _on_quality(pooled)
    if chosen.best is not None:
        yield from _on_bounds(chosen.best.evaluated.structure.hyper.verdicts)


def _tie(what: str, rule: Rule, tied: tuple[str, ...]) -> str:
    return (
        f"Rules contradict each other on {what}: {rule.id} (followed) and {_listed(tied)} are"
        " equally strong."
    )


def _on_techniques(verdicts: Verdicts) -> Iterator[str]:
    """Recommended by one and advised against by another, one of them the person's."""
    wanted = [(name, r) for r, e in verdicts.effects(Recommend) for name in e.techniques]
    unwanted = [(name, r) for r, e in verdicts.effects(Avoid) for name in e.techniques]
    for name, avoiding in unwanted:
        others = [r for n, r in wanted if n == name]
        own = [r for r in others if r.layer == "user"]
        if avoiding.layer == "user" and others:
            if own:
                yield _tie(name, avoiding, tuple(r.id for r in own))
            else:
                ids = _listed(tuple(r.id for r in others))
                yield f"{avoiding.id} advises against {name} and overrides {ids}."
        elif own:
            ids = _listed(tuple(r.id for r in own))
            yield f"{ids} recommends {name} and overrides {avoiding.id}, which advises against it."


def _on_quality(pooled: Pooled) -> Iterator[str]:
    for rule, c, others in pooled.outranked:
        far = max(NORMAL_90 * c.spread, TIED_POINTS)
        against = tuple(id_ for id_, points in others if abs(points - c.points) > far)
        if against:
            yield (
                f"{rule} says {c.points:+.1f} points for {c.technique} against {c.versus} and"
                f" overrides {_listed(against)}, which say otherwise."
            )


def _on_bounds(verdicts: Verdicts) -> Iterator[str]:
    """What the person's own rule sets outside the bounds of a weaker one."""
    for name in verdicts.setting_names():
        fired = verdicts.setting(name)
        if fired is None or fired.rule.layer != "user" or not isinstance(fired.value, int | float):
            continue
        for rule, bound in verdicts.effects(Limit):
            if bound.setting != name or LAYERS.index(rule.layer) <= LAYERS.index("user"):
                continue
            low = bound.at_least if bound.at_least is not None else fired.value
            high = bound.at_most if bound.at_most is not None else fired.value
            if not low <= fired.value <= high:
                yield (
                    f"{fired.rule.id} sets {name} {fired.value:g} and overrides {rule.id}, which"
                    f" keeps it {_bounds(bound)}."
                )


def _bounds(bound: Limit) -> str:
    said = [f"at or above {bound.at_least:g}"] if bound.at_least is not None else []
    said += [f"at or below {bound.at_most:g}"] if bound.at_most is not None else []
    return " and ".join(said)


def _listed(ids: tuple[str, ...]) -> str:
    more = len(ids) - SHOWN
    return ", ".join(ids[:SHOWN]) + (f" and {more} more" if more > 0 else "")
