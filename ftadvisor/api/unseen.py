"""`simulate` of a model that the closed form does not describe: memory, and no time."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

from ftadvisor.api.estimator import (
    DEFAULT_TECHNIQUE,
    SETTING_NAMES,
    Subject,
    fits_on,
    memory_record,
    subject_from,
    take_workload,
    task_of,
)
from ftadvisor.api.simulating import prediction, simulated_step
from ftadvisor.configuration.contradictions import check_batch
from ftadvisor.configuration.effects import check_technique
from ftadvisor.configuration.options import check_options
from ftadvisor.configuration.settings import resolve
from ftadvisor.errors import UnsupportedError
from ftadvisor.estimation.prediction import on_card, verdict
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.read_only import read_only
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.simulation import SimulatedStep, Simulation
from ftadvisor.schema.technique import Technique
from ftadvisor.sources.gpus import match_gpu
from ftadvisor.sources.models import FoundModel, model_config
from ftadvisor.sources.techniques import find_technique
from ftadvisor.sources.trainers import DEFAULT_TRAINER, find_trainer

NOT_TIMED = "no time and no cost, and no closed form beside the simulated memory"


def simulate_unseen(
    refusal: UnsupportedError,
    model: str,
    gpu: str | None,
    technique: str | None,
    objective: str | None,
    options: dict[str, Any],
) -> Simulation:
    """The simulated memory of a model that is not described; `refusal` says why it is not.

    Raises UnsupportedError with both reasons where it cannot be simulated either: there is no
    other answer to fall back on.
    """
    chosen, purpose = task_of(technique, objective)
    config = model_config(model)
    given = check_options(options)
    trainer = find_trainer(given.get("trainer", DEFAULT_TRAINER))
    said = f"{refusal.message.rstrip('.')}: {NOT_TIMED}"
    try:
        spec = import_module("ftadvisor.simulation.model.outline").outline(config, model, trainer)
        matched = match_gpu(gpu) if gpu is not None else None
        workload = take_workload(given)
        subject = subject_from(FoundModel(spec, (said,), None), matched, purpose, given, workload)
        asked = find_technique(chosen or DEFAULT_TECHNIQUE)
        check_technique(subject.options, asked)
        resolved = resolve(
            subject.options, spec, asked, subject.objective, subject.trainer, subject.gpu, workload
        )
        check_batch(resolved.settings)
        step = simulated_step(config, resolved.settings, subject.trainer, gpu)
    except UnsupportedError as error:
        message = f"{refusal.message.rstrip('.')}; and it cannot be simulated: {error.message}"
        raise UnsupportedError(message) from error
    settings, assumed = resolved.settings, resolved.assumptions
    answer = _record(subject, resolved.technique, settings, step)
    assumptions = (*subject.assumptions, *assumed, *step.assumptions)
    return Simulation(estimate=replace(answer, assumptions=assumptions), step=step)


def _record(
    subject: Subject, technique: Technique, settings: Settings, step: SimulatedStep
) -> Estimate:
    usable = subject.gpu.usable_bytes if subject.gpu else None
    memory = prediction(step, settings, subject.trainer, None)
    if usable:
        memory = on_card(memory, usable)
    return Estimate(
        model=subject.name,
        num_params=subject.model.num_params,
        num_trainable_params=step.num_trainable_params,
        gpu=subject.gpu.id if subject.gpu else None,
        num_gpus=int(settings.num_gpus),
        gpu_usable_bytes=usable,
        trainer=subject.trainer.id,
        technique=technique.id,
        objective=settings.objective,
        settings=read_only({name: getattr(settings, name) for name in SETTING_NAMES}),
        method="simulated",
        verdict=verdict(memory, usable) if usable else None,
        memory=memory_record(memory, step.parts, step.peak_phase),
        time=None,
        cost=None,
        assumptions=(),
        fits_on=() if usable else fits_on(memory, settings),
    )
