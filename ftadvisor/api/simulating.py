"""`simulate`: an estimate whose memory is that of the real step, run on meta tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Unpack, cast

from ftadvisor.api.estimator import estimate, fits_on, memory_record
from ftadvisor.errors import FtadvisorError, UnsupportedError
from ftadvisor.estimation.calibrated import CPU
from ftadvisor.estimation.ladder import needed_bytes, outside_allocator_bytes, variation
from ftadvisor.estimation.prediction import Bounded, MemoryPrediction, on_card, verdict
from ftadvisor.schema.calibration import Calibration
from ftadvisor.schema.coefficients import Interval
from ftadvisor.schema.estimate import Estimate, MemoryEstimate
from ftadvisor.schema.options import Options
from ftadvisor.schema.read_only import writable
from ftadvisor.schema.settings import Objective, Settings
from ftadvisor.schema.simulation import SimulatedStep, Simulation
from ftadvisor.schema.trainer import Trainer
from ftadvisor.sources.coefficients import (
    checked_trainers,
    memory_coefficients,
    simulated_intervals,
)
from ftadvisor.sources.gpus import find_gpu
from ftadvisor.sources.models import find_model, model_config, with_code
from ftadvisor.sources.trainers import find_trainer

NOT_SIMULATED = "memory is the closed form's (analytic), not simulated"


def simulate(
    model: str,
    *,
    gpu: str | None = None,
    technique: str | None = None,
    objective: str | None = None,
    trust_remote_code: bool = False,
    calibration: Calibration | None = None,
    **options: Unpack[Options],
) -> Simulation:
    """The training step of one run, simulated: peak memory, who holds it, timeline and work.

    Takes what `estimate` takes. Needs the `run` extra (MissingExtraError), but no GPU, no weights
    and no network. `trust_remote_code`: run the modelling code in the model's own directory, which
    is otherwise never executed. What cannot be simulated gets the closed form's answer: `step` is
    None then, and `reason` says why. A model that the closed form does not describe has memory
    only. `calibration`: as in `estimate`.
    """
    try:
        find_model(model)
    except UnsupportedError as error:
        from ftadvisor.api.unseen import simulate_unseen

        return simulate_unseen(error, model, gpu, technique, objective, dict(options))
    asked: dict[str, Any] = {"gpu": gpu, "technique": technique, "objective": objective}
    found = estimate(model, calibration=calibration, **asked, **options)
    return simulated(found, with_code(model) if trust_remote_code else model_config(model))


def simulated(closed: Estimate, config: Mapping[str, Any]) -> Simulation:
    """An estimate with its memory simulated; `config`: the model's config.json."""
    settings = settings_of(closed)
    trainer = find_trainer(closed.trainer)
    try:
        step = simulated_step(config, settings, trainer, closed.gpu)
    except UnsupportedError as error:
        why = f"{NOT_SIMULATED}: {error.message.rstrip('.')}"
        analytic = replace(closed, assumptions=(why, *closed.assumptions))
        return Simulation(estimate=analytic, step=None, reason=error.message)
    memory = prediction(step, settings, trainer, closed.memory)
    said: list[str] = []
    if settings.num_gpus > 1:
        said = [
            "upper ends of reserved and device memory are at least the closed form's: what"
            " communication streams keep apart in the cache is not replayed"
        ]
    if variation(settings, trainer)[0] > 0:
        said.append(
            "upper ends of reserved and device memory are at least the closed form's: two steps do"
            " not show how the cache grows while lengths vary"
        )
    if closed.gpu_usable_bytes:
        memory = on_card(memory, closed.gpu_usable_bytes)
    answer = replace(
        closed,
        method="simulated",
        num_trainable_params=step.num_trainable_params,
        memory=memory_record(memory, step.parts, step.peak_phase),
        verdict=verdict(memory, closed.gpu_usable_bytes) if closed.gpu_usable_bytes else None,
        assumptions=(*closed.assumptions, *step.assumptions, *said),
        fits_on=() if closed.gpu else fits_on(memory, settings),
    )
    return Simulation(estimate=answer, step=step)


def simulated_step(
    config: Mapping[str, Any], settings: Settings, trainer: Trainer, gpu: str | None
) -> SimulatedStep:
    """The step on a GPU of that name. Raises UnsupportedError with the reason where it cannot be
    simulated, whatever the libraries fail of.
    """
    if gpu == CPU:
        what = "a GPU's allocator is what is replayed"
        raise UnsupportedError.of("simulating a CPU", what, ["leave --gpu out"])
    from ftadvisor.simulation.simulation import simulate_step

    context = float(outside_allocator_bytes(settings, memory_coefficients()))
    try:
        return simulate_step(config, settings, trainer, find_gpu(gpu) if gpu else None, context)
    except FtadvisorError:
        raise
    except Exception as error:
        # A model's code may fail of anything where its tensors have no values.
        if os.environ.get("FTADVISOR_DEBUG"):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise UnsupportedError.of(f"{settings.technique} on this model", what) from error


def settings_of(estimate: Estimate) -> Settings:
    """The settings that an estimate is for."""
    values = writable(dict(estimate.settings))
    objective = cast("Objective", estimate.objective)
    return Settings(technique=estimate.technique, objective=objective, **values)


def prediction(
    step: SimulatedStep, settings: Settings, trainer: Trainer, closed: MemoryEstimate | None
) -> MemoryPrediction:
    """The simulated figures with their intervals.

    `closed`: the closed form's figures. Where lengths vary the cache grows over many steps, with
    several GPUs it is kept apart by stream, and a program that nobody has held to measurements may
    be far off: the interval is then at least as wide as theirs.
    """
    table = simulated_intervals()
    allocated = _around(step.allocated_bytes, table["allocated"])
    reserved = _around(step.reserved_bytes, table["reserved"])
    device = _around(step.device_bytes, table["device"])
    needed = _around(needed_bytes(step.allocated_bytes, settings), table["needed"])
    if closed is not None and (settings.num_gpus > 1 or variation(settings, trainer)[0] > 0):
        reserved = _reaching(reserved, closed.reserved_high_bytes)
        device = _reaching(device, closed.device_high_bytes)
    if closed is not None and trainer.id not in checked_trainers():
        c = closed
        of_allocated = Bounded(c.allocated_bytes, c.allocated_low_bytes, c.allocated_high_bytes)
        of_reserved = Bounded(c.reserved_bytes, c.reserved_low_bytes, c.reserved_high_bytes)
        of_device = Bounded(c.device_bytes, c.device_low_bytes, c.device_high_bytes)
        allocated, needed = (_as_wide(b, of_allocated) for b in (allocated, needed))
        reserved, device = _as_wide(reserved, of_reserved), _as_wide(device, of_device)
    return MemoryPrediction(allocated, reserved, device, needed, {}, step.num_trainable_params)


def _around(value: float, interval: Interval) -> Bounded:
    return Bounded(value, value * interval.low, value * interval.high)


def _as_wide(found: Bounded, other: Bounded) -> Bounded:
    """With ends at least as far off, relatively, as another's."""
    low, high = (found.value * (end / other.value) for end in (other.low, other.high))
    return Bounded(found.value, min(found.low, low), max(found.high, high))


def _reaching(found: Bounded, high: float) -> Bounded:
    return found._replace(high=max(found.high, high))
