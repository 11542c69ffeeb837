"""Why this plan, and why not the others: rules that fired and numbers that decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ftadvisor.advice.choice import Chosen
from ftadvisor.advice.engine import Fired, Verdicts
from ftadvisor.advice.quality import TIED_POINTS, Pooled
from ftadvisor.advice.question import Question
from ftadvisor.advice.search import Found
from ftadvisor.advice.table import Candidate
from ftadvisor.errors import FtadvisorError
from ftadvisor.schema.plan import Measurement, Reason, Rejected
from ftadvisor.schema.rule import (
    Avoid,
    FirstTry,
    Measure,
    Note,
    Objectives,
    Quality,
    Recommend,
    Rule,
    Warn,
)
from ftadvisor.units import format_bytes, format_duration, format_usd

LIMITS, OBJECTIVE, TECHNIQUE = "limits", "objective", "technique"
COMPARISON, BACKGROUND = "comparison", "background"
"""What a reason can be about, besides a setting."""
COMPARISONS_SHOWN = 8
"""Of two techniques, the strongest first."""
PLAN_FACTS = frozenset({"technique", "quantization", "lora_r", "num_steps", "global_batch_size"})
"""What only a candidate has."""


def reason(rule: Rule, about: str, overrides: tuple[str, ...] = ()) -> Reason:
    """A rule as a reason for what it decided."""
    return Reason(rule.id, rule.reason, rule.source, rule.evidence, overrides, about)


def marked(sentence: str, rule: Rule) -> str:
    """A rule's sentence; where it is recalled, the reader is told."""
    if rule.evidence != "recalled":
        return sentence
    return f"{sentence} (Recalled, not checked: {rule.id}.)"


def reasons(question: Question, chosen: Chosen, verdicts: Verdicts) -> tuple[Reason, ...]:
    """The rules that decided the plan, what is asked first; each once."""
    by_id = {rule.id: rule for rule in question.rules}
    found: list[Reason] = [reason(by_id[id_], LIMITS) for id_ in _computed(question, chosen)]
    objective = verdicts.objective()
    if objective is not None and question.objective in objective.value:
        found.append(reason(objective.rule, OBJECTIVE, objective.overridden))
    found += [
        reason(r, OBJECTIVE)
        for r, effect in verdicts.effects(Objectives)
        if question.objective in effect.objectives
    ]
    if chosen.best is not None:
        found += _of_technique(chosen.best, verdicts, chosen)
        found += _of_settings(chosen.best)
    found += [
        reason(r, BACKGROUND) for kind in (Warn, Note, FirstTry) for r, _ in verdicts.effects(kind)
    ]
    first: dict[str, Reason] = {}
    for one in found:
        first.setdefault(one.rule, one)
    return tuple(first.values())


def _computed(question: Question, chosen: Chosen) -> Iterator[str]:
    """Physics and wishes that left something out."""
    if question.asked:
        yield "user-asked"
    if any(not limits.fits for limits in chosen.limits.values()):
        yield "does-not-fit"
    if any(limits.fits and not limits.in_budget for limits in chosen.limits.values()):
        yield "over-budget"
    if any(limits.fits and not limits.in_time for limits in chosen.limits.values()):
        yield "over-deadline"
    if question.facts.has_bf16 is False and question.facts.accelerator == "cuda":
        yield "no-bf16"
    if question.options.get("quantization", "none") != "none":
        yield "quantized-base"
    if question.facts.family == "encoder":
        yield "encoder-only-objective"
    limit = question.model.max_position_embeddings
    if limit and question.longest_tokens > limit:
        yield "context-too-long"


def _of_technique(best: Candidate, verdicts: Verdicts, chosen: Chosen) -> Iterator[Reason]:
    for rule, effect in verdicts.effects(Recommend):
        if best.technique in effect.techniques:
            yield reason(rule, TECHNIQUE)
    for rule in _comparisons(best.technique, verdicts, chosen):
        yield reason(rule, COMPARISON)
    for rule, _ in verdicts.effects(Avoid):
        yield reason(rule, TECHNIQUE)
    # What speaks for other techniques too is part of the situation.
    for rule, _ in verdicts.effects(Recommend):
        yield reason(rule, BACKGROUND)


def _comparisons(best: str, verdicts: Verdicts, chosen: Chosen) -> list[Rule]:
    """Those of the chosen technique with another one, the best of the others first."""
    compared: Counter[str] = Counter()
    found: list[tuple[float, Rule]] = []
    for rule, effect in verdicts.effects(Quality):
        ends = {effect.technique, effect.versus}
        for other in ends - {best} if best in ends else ():
            compared[other] += 1
            if other in chosen.limits and compared[other] <= COMPARISONS_SHOWN:
                found.append((-(chosen.points.get(other) or 0.0), rule))
    return [rule for _, rule in sorted(found, key=lambda pair: pair[0])]


def _of_settings(best: Candidate) -> Iterator[Reason]:
    hyper = best.evaluated.structure.hyper
    taken = best.evaluated.structure.options
    for name, rule in hyper.moved:
        yield reason(rule, name)
    for name, fired in hyper.fired.items():
        # The search may have found a better value: the rule is no reason for that one.
        if taken.get(name, fired.value) == fired.value:
            yield reason(fired.rule, name, fired.overridden)
    for rule, effect in hyper.verdicts.effects(Recommend):
        if best.technique in effect.techniques:
            yield reason(rule, TECHNIQUE)
    for kind in (Warn, Note, Quality):
        for rule, _ in hyper.verdicts.effects(kind):
            if any(c.fact in PLAN_FACTS for c in rule.when):
                yield reason(rule, BACKGROUND)


def rejected(
    question: Question, found: Found, chosen: Chosen, pooled: Pooled
) -> tuple[Rejected, ...]:
    """One entry for each technique that was weighed and not chosen."""
    best = chosen.best
    quantized = question.options.get("quantization", "none") != "none"
    refusing = "quantized-base" if quantized else "not-executable"
    rows = [
        Rejected(refusal.technique, refusal.error.message, refusing) for refusal in found.refused
    ]
    for name in chosen.limits:
        if best is None or name != best.technique:
            rows.append(_rejected(question, chosen, name))
    return tuple(rows)


def _rejected(question: Question, chosen: Chosen, name: str) -> Rejected:
    limits, best = chosen.limits[name], chosen.best
    offers = question.offers
    if not limits.fits and offers:
        needs, has = limits.least_device_bytes, max(o.gpu.usable_bytes for o in offers)
        why = f"may need {format_bytes(needs)} at its smallest, {format_bytes(has)} are usable"
        return Rejected(name, why, "does-not-fit", needs, float(has))
    if not limits.in_budget and limits.least_usd is not None and question.budget_usd:
        why = (
            f"costs {format_usd(limits.least_usd)}, the budget is {format_usd(question.budget_usd)}"
        )
        return Rejected(name, why, "over-budget", limits.least_usd, question.budget_usd)
    if not limits.in_time and limits.least_seconds is not None and question.deadline_seconds:
        least, allowed = limits.least_seconds, question.deadline_seconds
        why = f"takes {format_duration(least)}, the deadline is {format_duration(allowed)}"
        return Rejected(name, why, "over-deadline", least, allowed)
    if question.technique is not None and best is not None:
        return Rejected(name, f"{best.technique} was asked for", "user-asked")
    if name in chosen.avoided:
        rule = next(r for r in question.rules if r.id == chosen.avoided[name])
        return Rejected(name, rule.reason, rule.id)
    points = chosen.points.get(name)
    if points is None:
        return Rejected(
            name, "no published comparison tells how good it is here", "quality-unknown"
        )
    other = chosen.of_technique.get(name)
    if best is None or other is None:
        return Rejected(name, "budget and deadline exclude each other", "over-deadline")
    return Rejected(name, _compared(name, other, best, chosen), "worse-here", points, None)


def _compared(name: str, other: Candidate, best: Candidate, chosen: Chosen) -> str:
    """The numbers of two techniques, those that differ most first."""
    own, top = chosen.points.get(name) or 0.0, chosen.points.get(best.technique) or 0.0
    points = f"{own - top:+.1f} points against {best.technique}"
    if 0 <= own - top < TIED_POINTS:
        points += f" (below {TIED_POINTS:g} is noise)"
    words = [points]
    if best.offer is not None:
        time = other.number("total_seconds") / best.number("total_seconds")
        words.append(f"{time:.2f} × its time")
    memory = other.number("device_bytes") / best.number("device_bytes")
    words.append(f"{memory:.2f} × its memory")
    return ", ".join(words)


def warnings(
    question: Question, chosen: Chosen, verdicts: Verdicts, pooled: Pooled
) -> Iterator[str]:
    """Sentences that the plan's owner must read."""
    for rule, effect in verdicts.effects(Warn):
        if chosen.best is None or _concerns(rule, chosen.best.technique):
            yield marked(effect.sentence, rule)
    for rule, first in verdicts.effects(FirstTry):
        yield marked(f"Before fine-tuning try {first.what}: {first.sign}", rule)
    if chosen.best is None:
        return
    hyper = chosen.best.evaluated.structure.hyper
    for rule, effect in hyper.verdicts.effects(Warn):
        if _concerns(rule, chosen.best.technique):
            yield marked(effect.sentence, rule)
    limit = question.model.max_position_embeddings
    if limit and question.longest_tokens > limit:
        yield (
            f"Some examples are longer than the model's context of {limit:,} tokens: they are cut"
            " there. A model with a longer context would see their ends."
        )
    yield from _ties(hyper.fired.items())
    by_id = {rule.id: rule for rule in question.rules}
    for c in pooled.contradictions:
        if chosen.best.technique == c.technique:
            said = (
                f"Evidence disagrees on {c.technique}: {c.rule} says {c.says:+.1f} points, all of"
                f" it together {c.pooled:+.1f}."
            )
            yield marked(said, by_id[c.rule])
    if chosen.points.get(chosen.best.technique) is None:
        yield f"How good {chosen.best.technique} is here is unknown: nobody has published it."


def _concerns(rule: Rule, technique: str) -> bool:
    """Whether a warning is about the plan, not about a technique that was left out."""
    named = [n for e in rule.effects if isinstance(e, Avoid | Recommend) for n in e.techniques]
    named += [n for e in rule.effects if isinstance(e, Quality) for n in (e.technique, e.versus)]
    return not named or technique in named


def _ties(fired: Iterable[tuple[str, Fired]]) -> Iterator[str]:
    for setting, one in fired:
        if one.tied:
            yield (
                f"Rules contradict each other on {setting}: {one.rule.id} (followed) and"
                f" {', '.join(one.tied)} are equally strong."
            )


def evaluation(verdicts: Verdicts) -> tuple[Measurement, ...]:
    """What to measure before and after training."""
    found: dict[str, Measurement] = {}
    for rule, effect in verdicts.effects(Measure):
        for metric in effect.metrics:
            found.setdefault(metric, Measurement(metric, rule.id, rule.source, rule.evidence))
    return tuple(found.values())


def refusal(question: Question, found: Found) -> FtadvisorError | None:
    """Why the technique that was asked for, or every technique, could not even be evaluated."""
    for refused in found.refused:
        if question.technique in (refused.technique, None if not found.evaluated else ""):
            return refused.error
    return None
