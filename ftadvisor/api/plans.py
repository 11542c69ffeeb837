"""A candidate to a plan: every setting, and its estimate by the same road as `estimate`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ftadvisor.advice.choice import Candidate
from ftadvisor.advice.question import Question
from ftadvisor.api.estimator import Subject, estimate_subject
from ftadvisor.api.situation import Situation
from ftadvisor.configuration.effects import of_technique
from ftadvisor.schema.dataset import DatasetProfile
from ftadvisor.schema.plan import Plan, PlanDataset, PlanHardware
from ftadvisor.units import format_share

OUTSIDE = ("price", "technique", "learning_rate", "global_batch_size")
"""Given options that are no settings of the estimate."""
UNBALANCED = 5
"""Rows of the largest class over those of the smallest from which accuracy alone misleads."""
MANY_NEAR_DUPLICATES = 0.05


def plan_of(situation: Situation, question: Question, best: Candidate) -> Plan:
    """The plan of one candidate."""
    structure, offer = best.evaluated.structure, best.offer
    options = candidate_options(question, best)
    subject = Subject(
        name=question.model.id,
        model=question.model,
        objective=question.objective,
        gpu=offer.gpu if offer else None,
        trainer=question.trainer,
        workload=replace(question.workload, num_train_epochs=structure.hyper.num_train_epochs),
        options=options,
        assumptions=(),
    )
    estimate = estimate_subject(subject, structure.technique)
    trained = {k: v for k, v in structure.hyper.training_only.items() if k != "global_batch_size"}
    settings = {**estimate.settings, **trained}
    for name in ("learning_rate",):
        settings[name] = question.options.get(name, settings[name])
    settings["global_batch_size"] = (
        settings["micro_batch_size"]
        * settings["gradient_accumulation_steps"]
        * settings["num_gpus"]
    )
    profile = situation.profile
    return Plan(
        model=question.model.id,
        dataset=_dataset(profile) if profile else None,
        hardware=PlanHardware(
            gpu=offer.gpu.id if offer else None, num_gpus=int(settings["num_gpus"])
        ),
        technique=estimate.technique,
        objective=question.objective,
        settings=settings,
        seed=situation.wish.seed,
        estimate=estimate,
    )


def candidate_options(question: Question, best: Candidate) -> dict[str, Any]:
    """The candidate as options of `estimate`."""
    structure = best.evaluated.structure
    given = of_technique(dict(question.options), structure.technique)
    given = {k: v for k, v in given.items() if k not in OUTSIDE}
    options: dict[str, Any] = {
        **structure.hyper.options,
        **{k: v for k, v in structure.options.items() if k != "strategy"},
        **given,
        "micro_batch_size": best.setting("micro_batch_size"),
        "gradient_accumulation_steps": best.setting("gradient_accumulation_steps"),
        "max_length": question.max_length,
    }
    gpus = best.setting("num_gpus")
    if gpus > 1:
        options |= {"num_gpus": gpus, "strategy": structure.options["strategy"]}
    price = question.options.get("price")
    return {**options, "price": price} if price is not None else options


def _dataset(profile: DatasetProfile) -> PlanDataset:
    return PlanDataset(
        path=profile.path,
        format=profile.format,
        columns=dict(profile.columns),
        split=profile.split,
    )


def dataset_of(profile: DatasetProfile | None) -> Iterator[str]:
    """What is wrong with the data, a sentence each."""
    if profile is None:
        return
    rows = max(profile.num_rows, 1)
    if profile.duplicate_rows:
        repeated = profile.duplicate_rows
        yield (
            f"{repeated:,} of {rows:,} rows repeat another one exactly"
            f" ({format_share(repeated / rows)}): {rows - repeated:,} are distinct. Remove them."
        )
    if profile.broken_rows:
        first = "; ".join(f"line {p.line}: {p.what}" for p in profile.problems[:3])
        yield f"{_rows(profile.broken_rows, 'broken ')} left out ({first})."
    if profile.empty_rows:
        yield f"{_rows(profile.empty_rows, 'empty ')} left out."
    if profile.leaked_rows:
        yield f"{_rows(profile.leaked_rows)} in the evaluation split too, which flatters."
    if profile.format is None and len(profile.formats) > 1:
        kinds = ", ".join(f"{count:,} {name}" for name, count in profile.formats.items())
        yield f"Rows of several formats ({kinds}): only one kind can be trained on at a time."
    counts = list(profile.class_counts.values())
    if len(counts) > 1 and min(counts) * UNBALANCED < max(counts):
        yield (
            f"Classes are unbalanced: {max(counts):,} rows of the largest,"
            f" {min(counts):,} of the smallest. Look at F1, not at accuracy alone."
        )
    near = profile.near_duplicates
    if near.value > MANY_NEAR_DUPLICATES:
        yield f"About {format_share(near.value)} of the rows nearly repeat another one."


def _rows(count: int, kind: str = "") -> str:
    return f"1 {kind}row is" if count == 1 else f"{count:,} {kind}rows are"
