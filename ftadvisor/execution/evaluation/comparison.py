"""All that is measured of a model before training and after it, and the two beside each other."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ftadvisor.errors import first_line
from ftadvisor.execution.classes import CLASSIFYING
from ftadvisor.execution.evaluation import answers, forgetting, metrics
from ftadvisor.execution.evaluation.intervals import interval
from ftadvisor.execution.evaluation.metrics import Tally
from ftadvisor.execution.evaluation.scores import FROM_ITSELF, is_sharded, scores
from ftadvisor.execution.training import Training
from ftadvisor.schema.report import Answer, Metric

SHOWN = 5
"""Answers in the report."""
NOT_TALKING = (*CLASSIFYING, "reward")
"""Objectives whose model has a head in the place of words."""


class Measured(NamedTuple):
    """Of one model."""

    tallies: dict[str, Tally]
    questions: list[answers.Question]
    answers: list[str]


def measure(trainer: Any, of: Training, *, base: bool) -> Measured:
    """Everything that applies to the objective; nothing where no rows are held out.

    `base`: of the model as it was before training.
    """
    if trainer.eval_dataset is None:
        return Measured({}, [], [])
    found = scores(trainer, of.plan.objective, base=base)
    if base and of.plan.objective in FROM_ITSELF:
        _say_once(of, "before: rewards are measured from the model itself, which prefers nothing")
    asked: list[answers.Question] = []
    given: list[str] = []
    talks = of.plan.objective not in NOT_TALKING
    if talks and is_sharded(trainer):
        _say_once(of, "no answers: the model is divided, and is gathered anew for every token")
    elif talks:
        asked = answers.questions(of)
        try:
            given = answers.answers(trainer, of, asked, base=base)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            # What was trained stands without them, and is not to be lost for them.
            what = first_line(error)
            _say_once(of, f"no answers: the model cannot generate here ({what})")
            asked = []
    if talks:
        found |= _said(trainer, of, asked, given, base)
    trainer.log({f"eval_{name.removeprefix('eval_')}": t.value for name, t in found.items()})
    return Measured(found, asked, given)


def _said(
    trainer: Any, of: Training, asked: list[answers.Question], given: list[str], base: bool
) -> dict[str, Tally]:
    """Of answers against their references, and of general text."""
    found: dict[str, Tally] = {}
    pairs = [(a, q.reference) for a, q in zip(given, asked, strict=True) if q.reference]
    if of.plan.objective in answers.COMPARED and pairs:
        found |= metrics.answered(pairs, lambda what: _say_once(of, what))
    if not trainer.model.config.is_encoder_decoder:
        found["general_perplexity"] = forgetting.general_perplexity(trainer, of, base=base)
    return found


def compared(before: Measured, after: Measured, seed: int) -> dict[str, Metric]:
    """Each metric before and after, with the interval of `after`."""
    found: dict[str, Metric] = {}
    for name in dict.fromkeys([*before.tallies, *after.tallies]):
        first, last = before.tallies.get(name), after.tallies.get(name)
        between = interval(last, seed) if last else None
        low, high = between or (None, None)
        found[name] = Metric(_value(first), _value(last), _finite(low), _finite(high))
    return found


def side_by_side(before: Measured, after: Measured) -> tuple[Answer, ...]:
    """The first few questions with both answers."""
    given = zip(before.questions, before.answers, after.answers, strict=False)
    return tuple(Answer(q.prompt, q.reference, old, new) for q, old, new in given)[:SHOWN]


def _say_once(of: Training, what: str) -> None:
    if what not in {event.what for event in of.journal.events}:
        of.journal.say("evaluation", what)


def _value(tally: Tally | None) -> float | None:
    return _finite(tally.value) if tally else None


def _finite(value: float | None) -> float | None:
    """JSON has no other numbers."""
    return value if value is not None and math.isfinite(value) else None
