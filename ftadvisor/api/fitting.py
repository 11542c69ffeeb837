"""`fit`: the largest model, the smallest card, the largest batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from ftadvisor.api.calibrating import find_hardware
from ftadvisor.api.estimator import Subject, take_workload, task_of
from ftadvisor.api.largest_batches import largest_batches
from ftadvisor.api.largest_models import largest_models, models_by_size
from ftadvisor.api.remedies import rungs
from ftadvisor.api.smallest_cards import smallest_cards
from ftadvisor.api.smallest_run import Ask, judge, smallest
from ftadvisor.configuration.options import check_options, check_text
from ftadvisor.errors import FtadvisorError, InvalidSettingError
from ftadvisor.schema.calibration import Calibration
from ftadvisor.schema.fit import Fit
from ftadvisor.schema.options import Options
from ftadvisor.schema.remedy import Remedy
from ftadvisor.schema.technique import Technique
from ftadvisor.sources.gpus import GpuMatch, all_gpus
from ftadvisor.sources.models import FoundModel, find_model
from ftadvisor.sources.techniques import find_technique


def fit(
    model: str | None = None,
    *,
    gpu: str | None = None,
    technique: str | None = None,
    objective: str | None = None,
    calibration: Calibration | None = None,
    **options: Unpack[Options],
) -> Fit:
    """What fits, of the one thing that is left open.

    With a GPU, the largest model of the catalogue for each technique; with a model, the smallest
    card and the fewest of each kind; with both, the largest micro_batch_size for each max_length
    and the longest max_length. Every figure is `estimate`'s, for the smallest batch and gradient
    checkpointing unless the options say otherwise. That nothing fits is an answer, with
    `remedies`. `calibration`: as in `estimate`. Raises FtadvisorError for what cannot be answered.
    """
    if model is None and gpu is None:
        raise InvalidSettingError(
            "neither a model nor a GPU: what shall fit on what?",
            ["--gpu rtx3060", "--model llama3.1-8b --technique qlora"],
        )
    for name, value in (("model", model), ("gpu", gpu)):
        if value is not None:
            check_text(name, value)
    chosen, purpose = task_of(technique, objective)
    given = check_options(dict(options))
    from_dataset = "dataset" in given
    ask = Ask(
        gpu=find_hardware(gpu, calibration) if gpu is not None else None,
        technique=find_technique(chosen) if chosen else None,
        objective=purpose,
        workload=take_workload(given),
        options=given,
        from_dataset=from_dataset,
        calibration=calibration,
    )
    found = find_model(model) if model is not None else None
    return _with_remedies(_answer(ask, found), ask, found)


def _answer(ask: Ask, found: FoundModel | None) -> Fit:
    gpu = ask.gpu.gpu.id if ask.gpu else None
    said = (ask.gpu.assumption,) if ask.gpu and ask.gpu.assumption else ()
    if found is None:
        models = largest_models(ask)
        return Fit(model=None, gpu=gpu, models=models, assumptions=said)
    name = found.spec.id
    if ask.gpu is None:
        cards = smallest_cards(ask, found)
        return Fit(model=name, gpu=None, cards=cards.fits, tight_cards=cards.tight)
    return Fit(model=name, gpu=gpu, batches=largest_batches(ask, found), assumptions=said)


def _with_remedies(answer: Fit, ask: Ask, found: FoundModel | None) -> Fit:
    if answer.something_fits:
        return answer
    # Without a model, the smallest of the catalogue; without a GPU, the largest.
    model = found or models_by_size()[-1]
    return replace(answer, remedies=_ladder(ask, model, ask.gpu or _largest_gpu()))


def _ladder(ask: Ask, found: FoundModel, gpu: GpuMatch) -> tuple[Remedy, ...]:
    """Of the technique that was named, else of the one that needs least."""
    runs: list[tuple[int, Subject, Technique]] = []
    refused: list[FtadvisorError] = []
    for technique in ask.techniques():
        try:
            subject = smallest(ask.subject(found, gpu), technique)
            runs.append((judge(subject, technique).device_bytes, subject, technique))
        except FtadvisorError as error:
            refused.append(error)
    if not runs:
        raise refused[0]
    _, subject, technique = min(runs, key=lambda run: run[0])
    return rungs(subject, technique)


def _largest_gpu() -> GpuMatch:
    return GpuMatch(max(all_gpus(), key=lambda gpu: gpu.usable_bytes), None)
