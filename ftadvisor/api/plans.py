"""A candidate to a plan: every setting, and its estimate by the same road as `estimate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftadvisor.api.estimator import Subject, estimate_subject
from ftadvisor.api.situation import Situation
from ftadvisor.configuration.applicable import LENGTHS, Run, applicable
from ftadvisor.configuration.effects import of_technique
from ftadvisor.schema.dataset import DatasetProfile
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.plan import Plan, PlanDataset, PlanHardware
from ftadvisor.sources.models import model_config
from ftadvisor.sources.techniques import find_technique
from ftadvisor.sources.trainers import DEFAULT_TRAINER, TRAINERS_OF_OBJECTIVES
from ftadvisor.sources.training_settings import PLAN_SETTINGS, TRAINING
from ftadvisor.units import format_bytes, format_share

if TYPE_CHECKING:
    from ftadvisor.advice.choice import Chosen
    from ftadvisor.advice.question import Question
    from ftadvisor.advice.table import Candidate

SHOWN_FIRST = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "num_train_epochs",
    "global_batch_size", "micro_batch_size", "gradient_accumulation_steps", "max_length",
    "packing", "beta", "num_generations", "max_completion_length",
)  # fmt: skip
"""Of a plan's settings: what its owner may want to change."""
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
        name=question.name,
        model=question.model,
        objective=question.objective,
        gpu=offer.gpu if offer else None,
        trainer=question.trainer,
        workload=replace(question.workload, num_train_epochs=structure.hyper.num_train_epochs),
        options=options,
        assumptions=(),
        calibration=situation.calibration,
    )
    estimate = estimate_subject(subject, structure.technique)
    if situation.simulate:
        # Only who asks for it pays for its imports.
        from ftadvisor.api.simulating import simulated

        estimate = simulated(estimate, model_config(question.name)).estimate
    profile = situation.profile
    return Plan(
        model=question.name,
        dataset=_dataset(profile) if profile else None,
        hardware=PlanHardware(
            gpu=offer.gpu.id if offer else None, num_gpus=int(estimate.settings["num_gpus"])
        ),
        technique=estimate.technique,
        objective=question.objective,
        workload=subject.workload,
        settings=settings_of(subject, estimate, structure.hyper.training_only, question.options),
        seed=situation.wish.seed,
        estimate=estimate,
    )


def first_that_fits(
    situation: Situation, question: Question, chosen: Chosen
) -> tuple[Plan | None, Chosen, tuple[str, ...]]:
    """The plan of most utility, the choice that it is of, and why better ones are not it.

    The search weighs candidates by the closed form; where the final ones are simulated, one that
    then does not fit gives way to the best of the next technique.
    """
    others = sorted(chosen.of_technique.values(), key=lambda c: -c.utility)
    open_to = [c for c in others if question.technique in (None, c.technique)]
    refused: list[str] = []
    for candidate in open_to:
        plan = plan_of(situation, question, candidate)
        if not situation.simulate or plan.estimate.verdict != "does_not_fit":
            return plan, replace(chosen, best=candidate), tuple(refused)
        needs = format_bytes(plan.estimate.memory.device_bytes)
        refused.append(f"{plan.technique} would be chosen, but simulated it needs {needs}.")
    return None, replace(chosen, best=None), tuple(refused)


def settings_of(
    subject: Subject, estimate: Estimate, training: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What a plan says of its settings: all that the run has, nothing that it has not.

    `training`: what only the trainer reads; `given`: what the person fixed.
    """
    resolved = estimate.settings
    batch = resolved["micro_batch_size"] * resolved["gradient_accumulation_steps"]
    found: dict[str, Any] = {**resolved, **training}
    found |= {k: v for k, v in given.items() if k in TRAINING}
    found["global_batch_size"] = batch * resolved["num_gpus"]
    for name in LENGTHS:
        # How long the data are is the workload's to say, unless the person says otherwise.
        if name not in given or resolved["packing"]:
            found.pop(name, None)
    if resolved["fp8"]:
        found["precision"] = "fp8"
    if "price" in given:
        found["price"] = given["price"]
    usual = TRAINERS_OF_OBJECTIVES.get(subject.objective, DEFAULT_TRAINER)
    if subject.trainer.id != usual:
        found["trainer"] = subject.trainer.id
    run = Run(find_technique(estimate.technique), subject.objective, subject.model.family)
    ordered = {name: found[name] for name in (*SHOWN_FIRST, *PLAN_SETTINGS) if name in found}
    return applicable(ordered, run)


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
