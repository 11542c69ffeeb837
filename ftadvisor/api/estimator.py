"""`estimate` and `estimates`: names to records, records to an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from ftadvisor.api.calibrating import find_hardware, fitted_for
from ftadvisor.api.costing import cost_of
from ftadvisor.api.wording import said_of
from ftadvisor.configuration.contradictions import check_batch
from ftadvisor.configuration.effects import (
    asked_of,
    check_some_technique,
    check_subject,
    check_technique,
    of_technique,
)
from ftadvisor.configuration.objectives import objective_of
from ftadvisor.configuration.options import check_options, check_text
from ftadvisor.configuration.settings import resolve
from ftadvisor.errors import FtadvisorError, InvalidSettingError, UnsupportedError
from ftadvisor.estimation.calibrated import is_cpu
from ftadvisor.estimation.prediction import (
    MemoryPrediction,
    adapter_of,
    predict_memory,
    verdict,
)
from ftadvisor.estimation.terms import AdapterBytes
from ftadvisor.estimation.time import RunTime, run_time, step_time
from ftadvisor.schema.calibration import Calibration
from ftadvisor.schema.estimate import Estimate, MemoryEstimate, TimeEstimate
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.options import Options
from ftadvisor.schema.read_only import read_only
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.technique import Technique
from ftadvisor.schema.trainer import Trainer
from ftadvisor.schema.workload import Workload
from ftadvisor.sources.gpus import GpuMatch, all_gpus
from ftadvisor.sources.models import FoundModel, find_model
from ftadvisor.sources.techniques import all_techniques, find_task, find_technique
from ftadvisor.sources.trainers import (
    DEFAULT_TRAINER,
    TRAINERS_OF_OBJECTIVES,
    find_trainer,
)
from ftadvisor.sources.workloads import reference_workload, token_workload

DEFAULT_TECHNIQUE = "lora"
SETTING_NAMES = tuple(f.name for f in fields(Settings) if f.name not in ("technique", "objective"))


@dataclass(frozen=True, slots=True)
class Subject:
    """What all techniques of one question share."""

    name: str
    model: ModelSpec
    objective: str
    gpu: Gpu | None
    trainer: Trainer
    workload: Workload
    options: dict[str, Any]
    assumptions: tuple[str, ...]
    calibration: Calibration | None = None


def estimate(
    model: str,
    *,
    gpu: str | None = None,
    technique: str | None = None,
    objective: str | None = None,
    simulate: bool = False,
    calibration: Calibration | None = None,
    **options: Unpack[Options],
) -> Estimate:
    """Memory, time and cost of one run.

    `model` is a catalogue name, a config.json or its directory, or a hub id; `technique` is lora
    when none is given. `simulate`: memory from the simulated step (`method` says whether that was
    possible) instead of the closed form; it needs the `run` extra and takes seconds. `calibration`:
    what `load_calibration` makes of the user's own measurements. Raises
    FtadvisorError (UnknownNameError, InvalidSettingError, ...) for what cannot be answered; its
    message says what to write instead.
    """
    if simulate:
        # Only who asks for it pays for its imports.
        from ftadvisor.api import simulating

        asked: dict[str, Any] = {"gpu": gpu, "technique": technique, "objective": objective}
        return simulating.simulate(model, calibration=calibration, **asked, **options).estimate
    chosen, purpose = task_of(technique, objective)
    subject = subject_of(model, gpu, purpose, dict(options), calibration)
    said = () if chosen else (f"technique {DEFAULT_TECHNIQUE}: none was given",)
    return _asked(subject, chosen or DEFAULT_TECHNIQUE, said)


def estimates(
    model: str,
    *,
    gpu: str | None = None,
    technique: str | None = None,
    objective: str | None = None,
    simulate: bool = False,
    calibration: Calibration | None = None,
    **options: Unpack[Options],
) -> tuple[Estimate, ...]:
    """The same for one technique, or for all sensible ones when none is given.

    Techniques that the other options exclude are left out; when they exclude all (or all that have
    the settings which only some have), the first reason is raised.
    """
    chosen, purpose = task_of(technique, objective)
    if chosen and simulate:
        only: dict[str, Any] = {"gpu": gpu, "technique": technique, "objective": objective}
        only["calibration"] = calibration
        return (estimate(model, simulate=True, **only, **options),)
    subject = subject_of(model, gpu, purpose, dict(options), calibration)
    if chosen:
        return (_asked(subject, chosen, ()),)
    found: list[Estimate] = []
    refused: list[FtadvisorError] = []
    check_some_technique(subject.options)
    answered = False
    for candidate in all_techniques():
        if not candidate.sensible:
            continue
        asked = asked_of(subject.options, candidate)
        try:
            row = replace(subject, options=of_technique(subject.options, candidate))
            found.append(estimate_subject(row, candidate, ()))
        except FtadvisorError as error:
            refused += [error] if asked else []
        else:
            answered = answered or asked
    if refused and not answered:
        raise refused[0]
    answers = tuple({e.technique: e for e in found}.values())
    return _simulated(model, answers) if simulate else answers


def _simulated(model: str, found: tuple[Estimate, ...]) -> tuple[Estimate, ...]:
    from ftadvisor.api.simulating import simulated
    from ftadvisor.sources.models import model_config

    config = model_config(model)
    return tuple(simulated(estimate, config).estimate for estimate in found)


def _asked(subject: Subject, technique_id: str, said: tuple[str, ...]) -> Estimate:
    """One technique, asked for by name: a setting that it has not is a mistake."""
    technique = find_technique(technique_id)
    check_technique(subject.options, technique)
    return estimate_subject(subject, technique, said)


def task_of(technique: str | None, objective: str | None) -> tuple[str | None, str | None]:
    """The technique's id and the objective that two names mean; None where one is left open."""
    for name, value in (("technique", technique), ("objective", objective)):
        if value is not None:
            check_text(name, value)
    return find_task(technique, objective)


def subject_of(
    model: str,
    gpu: str | None,
    objective: str | None,
    options: dict[str, Any],
    calibration: Calibration | None = None,
) -> Subject:
    """Names to records. Raises FtadvisorError for those that mean nothing."""
    given = check_options(options)
    check_text("model", model)
    if gpu is not None:
        check_text("gpu", gpu)
    found = find_model(model)
    matched = find_hardware(gpu, calibration) if gpu is not None else None
    return subject_from(found, matched, objective, given, take_workload(given), calibration)


def subject_from(
    found: FoundModel,
    matched: GpuMatch | None,
    objective: str | None,
    options: dict[str, Any],
    workload: Workload,
    calibration: Calibration | None = None,
) -> Subject:
    """The same from records. Raises FtadvisorError for what the model cannot be trained for."""
    given = dict(options)
    purpose, assumed = objective_of(found.spec, objective)
    check_subject(given, found.spec, purpose)
    usual = TRAINERS_OF_OBJECTIVES.get(purpose, DEFAULT_TRAINER)
    said = [*found.assumptions, *assumed]
    if matched is not None:
        said += [
            said_of(workload, given.get("mean_length")),
            *([matched.assumption] if matched.assumption else []),
        ]
    gpu = matched.gpu if matched else None
    return Subject(
        name=found.spec.id,
        model=found.spec,
        objective=purpose,
        gpu=gpu,
        trainer=find_trainer(given.pop("trainer", usual), on_cpu=is_cpu(gpu)),
        workload=workload,
        options=given,
        assumptions=tuple(said),
        calibration=calibration,
    )


def take_workload(options: dict[str, Any]) -> Workload:
    """What is trained on; takes its options out of the others."""
    dataset, tokens = options.pop("dataset", None), options.pop("num_tokens", None)
    epochs = options.pop("num_train_epochs", None)
    if dataset is not None and tokens is not None:
        raise InvalidSettingError(
            "dataset and num_tokens both say how much there is to train on.", ["--num-tokens only"]
        )
    if dataset is not None:
        # The readers cost a start-up that only a dataset should pay.
        from ftadvisor.sources.datasets import read_workload

        return read_workload(Path(dataset), epochs or 1.0)
    if tokens is not None:
        return token_workload(tokens, epochs or 1.0)
    return reference_workload(epochs)


class Predicted(NamedTuple):
    """A run's memory, and what it was computed from."""

    settings: Settings
    technique: Technique
    """lora on a 4-bit base has become qlora."""
    adapter: AdapterBytes | None
    memory: MemoryPrediction
    assumptions: tuple[str, ...]


def predict(subject: Subject, technique: Technique) -> Predicted:
    """Memory alone, by the road that every estimate takes: what a search asks many times."""
    model, gpu, trainer = subject.model, subject.gpu, subject.trainer
    resolved = resolve(
        subject.options, model, technique, subject.objective, trainer, gpu, subject.workload
    )
    settings, technique = resolved.settings, resolved.technique
    check_batch(settings)
    if is_cpu(gpu) and settings.num_gpus > 1:
        raise UnsupportedError.of(
            f"{settings.num_gpus} processes on one processor",
            "they share it, and nobody has measured how",
            ["--num-gpus 1", "no --gpu: memory alone"],
        )
    adapter = adapter_of(model, settings, trainer, technique)
    usable = gpu.usable_bytes if gpu else None
    fitted = fitted_for(gpu, subject.calibration)[:2]
    capability = gpu.compute_capability if gpu else ""
    memory = predict_memory(model, settings, trainer, adapter, *fitted, usable, capability)
    return Predicted(settings, technique, adapter, memory, resolved.assumptions)


def estimate_subject(
    subject: Subject, technique: Technique, said: tuple[str, ...] = ()
) -> Estimate:
    """The estimate of one technique for a subject; `said` is assumed besides."""
    model, gpu, trainer = subject.model, subject.gpu, subject.trainer
    settings, technique, adapter, memory, assumed = predict(subject, technique)
    usable = gpu.usable_bytes if gpu else None
    time = cost = None
    extra: list[str] = []
    if gpu is not None:
        time = _run_time(subject, settings, adapter, gpu)
        cost = cost_of(gpu, subject.options.get("price"), time, settings, extra)
        if calibrated := fitted_for(gpu, subject.calibration).said:
            extra.append(calibrated)
        if (
            gpu.l2_cache_bytes is None
            and not is_cpu(gpu)
            and adapter is not None
            and adapter.moved_tensors
        ):
            extra.append(f"the L2 cache of {gpu.id} is not known: the adapter finds nothing there")
    return Estimate(
        model=subject.name,
        num_params=model.num_params,
        num_trainable_params=int(memory.num_trainable_params),
        gpu=gpu.id if gpu else None,
        num_gpus=int(settings.num_gpus),
        gpu_usable_bytes=usable,
        trainer=trainer.id,
        technique=technique.id,
        objective=settings.objective,
        settings=read_only({name: getattr(settings, name) for name in SETTING_NAMES}),
        verdict=verdict(memory, usable) if usable else None,
        memory=memory_estimate(memory),
        time=_time(time) if time else None,
        cost=cost,
        assumptions=(*said, *subject.assumptions, *assumed, *extra),
        fits_on=() if gpu else fits_on(memory, settings),
    )


def _run_time(
    subject: Subject, settings: Settings, adapter: AdapterBytes | None, gpu: Gpu
) -> RunTime:
    fitted = fitted_for(gpu, subject.calibration)
    of = subject.model, settings, subject.trainer, adapter, gpu
    step = step_time(*of, fitted.time, fitted.time_intervals, fitted.host_slowness)
    return run_time(step, settings, subject.workload, gpu.power_watts)


def fits_on(memory: MemoryPrediction, settings: Settings) -> tuple[str, ...]:
    """GPUs of the catalogue that hold the upper end, smallest first."""
    half = "bf16" in (settings.weights_dtype, settings.autocast)
    found = [
        gpu
        for gpu in all_gpus()
        if memory.needed.high <= gpu.usable_bytes and (gpu.has_bf16 or not half)
    ]
    return tuple(gpu.id for gpu in sorted(found, key=lambda gpu: (gpu.usable_bytes, gpu.id)))


def memory_estimate(memory: MemoryPrediction) -> MemoryEstimate:
    """A prediction of the closed form as the record that is printed."""
    phase = max(memory.phases, key=lambda name: memory.phases[name].total)
    parts = {k: round(v) for k, v in memory.phases[phase]._asdict().items() if v >= 1}
    return memory_record(memory, read_only(parts), phase)


def memory_record(
    memory: MemoryPrediction, parts: Mapping[str, int], peak_phase: str
) -> MemoryEstimate:
    """A prediction as the record that is printed; the parts sum to what is allocated."""
    return MemoryEstimate(
        allocated_bytes=sum(parts.values()),
        allocated_low_bytes=round(memory.allocated.low),
        allocated_high_bytes=round(memory.allocated.high),
        reserved_bytes=round(memory.reserved.value),
        reserved_low_bytes=round(memory.reserved.low),
        reserved_high_bytes=round(memory.reserved.high),
        device_bytes=round(memory.device.value),
        device_low_bytes=round(memory.device.low),
        device_high_bytes=round(memory.device.high),
        parts=parts,
        peak_phase=peak_phase,
    )


def _time(time: RunTime) -> TimeEstimate:
    return TimeEstimate(
        tokens_per_second=time.tokens_per_second,
        step_seconds=time.step_seconds,
        total_seconds=time.total_seconds,
        total_low_seconds=time.total_low_seconds,
        total_high_seconds=time.total_high_seconds,
        mfu=time.mfu,
        energy_kwh=time.energy_kwh,
    )
