"""`recommend`: one plan that would be right, why, and what else there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple, Unpack

from ftadvisor.advice import reasons as why
from ftadvisor.advice.choice import Chosen, choose, fits_unquantized, pareto
from ftadvisor.advice.disagreements import disagreements
from ftadvisor.advice.engine import Verdicts, holding
from ftadvisor.advice.flips import flips
from ftadvisor.advice.misses import missed
from ftadvisor.advice.quality import Pooled, pooled_quality
from ftadvisor.advice.question import Question
from ftadvisor.advice.search import Found, search
from ftadvisor.advice.table import Candidate, Table, tabulate
from ftadvisor.api.alternatives import alternatives
from ftadvisor.api.plans import dataset_of, first_that_fits
from ftadvisor.api.remedies import remedies
from ftadvisor.api.situation import (
    Situation,
    candidates,
    question_of,
    situation_of,
)
from ftadvisor.errors import FtadvisorError, InvalidSettingError
from ftadvisor.schema.calibration import Calibration
from ftadvisor.schema.options import Wishes
from ftadvisor.schema.plan import Plan, Recommendation, Standing
from ftadvisor.sources.goals import goal_worths
from ftadvisor.units import format_usd

MOST_PROPOSALS = 5
"""Models that are tried where none is named."""


class Answer(NamedTuple):
    """One question searched."""

    question: Question
    found: Found
    table: Table
    verdicts: Verdicts
    pooled: Pooled
    chosen: Chosen
    proposed: str
    """Why this model; empty: it was named."""


def recommend(
    model: str | None = None,
    *,
    gpu: str | Iterable[str] | None = None,
    technique: str | None = None,
    objective: str | None = None,
    simulate: bool = False,
    calibration: Calibration | None = None,
    progress: Callable[[int, int], None] | None = None,
    **wishes: Unpack[Wishes],
) -> Recommendation:
    """One plan for a situation, its reasons, what was rejected and what would change it.

    All is optional, but there must be a model, a size, a use case or a dataset to work on. `gpu` is
    a name, several to choose from, `any` (offers of the dated price list) or `cpu`. Settings of
    `estimate` are kept where they are given. `simulate`: memory of the plan and of its alternatives
    from the simulated step; it needs the `run` extra and takes seconds. `calibration`: as in
    `estimate`; the search and the plans use it. `progress` is called with bytes read and bytes in
    all while a dataset is read. Raises FtadvisorError for what cannot be
    answered; that nothing fits is an answer, with `plan` None and `remedies`.
    """
    situation = situation_of(model, gpu, technique, objective, dict(wishes), calibration, progress)
    situation = replace(situation, simulate=simulate)
    _something_to_work_on(model, situation)
    answers: list[Answer] = []
    refusals: list[FtadvisorError] = []
    for name, proposed in candidates(situation, model):
        try:
            answers.append(answer(question_of(situation, name), proposed))
        except FtadvisorError as error:
            if model is not None:
                raise
            refusals.append(error)
            continue
        if answers[-1].chosen.best is not None or len(answers) == MOST_PROPOSALS:
            break
    if not answers:
        raise refusals[0]
    return _recommendation(situation, answers[-1])


def _something_to_work_on(model: str | None, situation: Situation) -> None:
    wish = situation.wish
    if model is None and not (wish.size or wish.facts.use_case or situation.profile):
        raise InvalidSettingError(
            "nothing to work on: give a model, a size, a use case or a dataset.",
            ["--model llama3.1-8b", "--size small", "--use-case chat", "--dataset train.jsonl"],
        )


def answer(question: Question, proposed: str = "") -> Answer:
    """Search one question and choose."""
    found = search(question)
    refusal = why.refusal(question, found)
    if refusal is not None:
        raise refusal
    table = tabulate(question, found)
    facts = replace(question.facts, fits_unquantized=fits_unquantized(table))
    question = replace(question, facts=facts)
    verdicts = holding(question.rules, facts)
    pooled = pooled_quality(verdicts)
    chosen = choose(question, table, verdicts, pooled)
    return Answer(question, found, table, verdicts, pooled, chosen, proposed)


def _recommendation(situation: Situation, a: Answer) -> Recommendation:
    question = a.question
    plan, chosen, refused = first_that_fits(situation, question, a.chosen)
    a = a._replace(chosen=chosen)
    other = alternatives(situation, question, a.table, chosen) if plan else ()
    return Recommendation(
        plan=plan,
        reasons=why.reasons(question, chosen, a.verdicts),
        rejected=why.rejected(question, a.found, chosen, a.pooled),
        alternatives=other,
        standings=_standings(a),
        flips=flips(question, a.table, chosen, goal_worths()),
        evaluation=why.evaluation(a.verdicts),
        warnings=tuple(dict.fromkeys([*refused, *_warnings(situation, a, plan)])),
        remedies=() if plan else remedies(situation, question),
        assumptions=_assumptions(situation, a, plan),
        num_candidates=a.found.num_candidates,
        dataset=situation.profile.as_dict() if situation.profile else None,
        model=question.model.id,
        gpus=tuple(
            f"{max(o.counts)} × {o.gpu.id}" if max(o.counts) > 1 else o.gpu.id
            for o in question.offers
        ),
    )


def _standings(a: Answer) -> tuple[Standing, ...]:
    front = pareto(a.chosen)
    recalled = {rule.id for rule in a.question.rules if rule.evidence == "recalled"}
    rows: list[Standing] = []
    for name in a.chosen.limits:
        pooled = a.pooled.standings.get(name)
        best: Candidate | None = a.chosen.of_technique.get(name)
        rows.append(
            Standing(
                technique=name,
                points=pooled.points if pooled else None,
                low=pooled.low if pooled else None,
                high=pooled.high if pooled else None,
                device_bytes=int(
                    best.number("device_bytes")
                    if best
                    else a.chosen.limits[name].least_device_bytes
                ),
                total_seconds=best.number("total_seconds") if best and a.question.offers else None,
                total_usd=best.total_usd if best else None,
                verdict=("fits" if best else "does_not_fit") if a.question.offers else None,
                on_front=name in front,
                recalled=bool(pooled and recalled & set(pooled.rules)),
            )
        )
    return tuple(rows)


def _warnings(situation: Situation, a: Answer, plan: Plan | None) -> Iterable[str]:
    yield from why.warnings(a.question, a.chosen, a.verdicts, a.pooled)
    yield from disagreements(a.chosen, a.verdicts, a.pooled)
    yield from dataset_of(situation.profile)
    budget, deadline = situation.wish.budget_usd, situation.wish.deadline_seconds
    if plan is None:
        yield from missed(a.question, a.found)
        return
    cost, time = plan.estimate.cost, plan.estimate.time
    if budget is not None and cost is None:
        yield "The budget could not be checked: no price of this GPU is known (--price sets one)."
    if budget is not None and cost is not None and cost.total_high_usd > budget:
        high = format_usd(cost.total_high_usd)
        yield f"The cost may exceed the budget: its 90 % interval ends at {high}."
    if deadline is not None and time is not None and time.total_high_seconds > deadline:
        yield "The run may miss the deadline: the upper end of its 90 % interval is later."
    if situation.on_cpu and not situation.offers:
        yield (
            "How long it takes on a CPU, and whether it fits, is not estimated before ftadvisor"
            " probe has measured what one process does."
        )


def _assumptions(situation: Situation, a: Answer, plan: Plan | None) -> tuple[str, ...]:
    said = list(situation.assumptions)
    if a.proposed:
        said.append(f"model {a.question.model.id}: none was named; {a.proposed}")
    if plan is not None:
        said += plan.estimate.assumptions
        unruled = a.chosen.best.evaluated.structure.hyper.unruled if a.chosen.best else ()
        said += [f"{name} {plan.settings.get(name)}: no rule speaks of it" for name in unruled]
    return tuple(dict.fromkeys(said))
