"""All settings that make sense, evaluated at once with the estimate's own formulas.

A structure is what cannot be an array: technique, quantisation, checkpointing, optimizer, packing,
strategy. For each, micro-batch sizes and numbers of GPUs are one array; memory is computed once,
time for each kind of GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from ftadvisor.advice.hyperparameters import Hyperparameters, hyperparameters
from ftadvisor.advice.question import Offer, Question
from ftadvisor.configuration.effects import of_technique
from ftadvisor.configuration.settings import resolve
from ftadvisor.errors import FtadvisorError
from ftadvisor.estimation.cost import run_cost
from ftadvisor.estimation.objectives import ANSWERS_IN_GROUPS
from ftadvisor.estimation.prediction import adapter_of, predict_memory
from ftadvisor.estimation.time import run_time, step_time
from ftadvisor.schema.settings import Number, Settings
from ftadvisor.schema.technique import Technique
from ftadvisor.sources.lengths import BatchLengths, batch_lengths
from ftadvisor.units import HOUR

MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)
PACKABLE = frozenset({"sft", "clm", "cpt"})
ONE_GPU = ("none",)
SEVERAL_GPUS = ("ddp", "zero2", "zero3", "fsdp")
BITSANDBYTES = frozenset({"cuda", "rocm", "xpu", "cpu", None})
"""Accelerators that bitsandbytes 0.50 has kernels for; None: not known yet."""


@dataclass(frozen=True, slots=True)
class Structure:
    """One combination of what is named, not counted."""

    technique: Technique
    options: dict[str, Any]
    hyper: Hyperparameters


class Evaluated(NamedTuple):
    """A structure on one kind of GPU: arrays over micro-batch sizes and numbers of GPUs."""

    structure: Structure
    offer: Offer | None
    settings: Settings
    """Its numbers are arrays."""
    device_bytes: Number
    device_high_bytes: Number
    fits: Number
    total_seconds: Number
    total_high_seconds: Number
    gpu_hours: Number
    total_usd: Number | None

    @property
    def size(self) -> int:
        """Candidates in the arrays."""
        return int(self.device_bytes.size)


class Refused(NamedTuple):
    """A technique that cannot be combined with what was asked, and why."""

    technique: str
    error: FtadvisorError


class Found(NamedTuple):
    """All that was evaluated, and the techniques that were refused."""

    evaluated: tuple[Evaluated, ...]
    refused: tuple[Refused, ...]

    @property
    def num_candidates(self) -> int:
        """Settings that were compared."""
        return sum(e.size for e in self.evaluated)


def search(question: Question) -> Found:
    """Every candidate of every technique on every offer."""
    found: list[Evaluated] = []
    refused: list[Refused] = []
    for technique in question.techniques:
        first: FtadvisorError | None = None
        before = len(found)
        for structure in structures(question, technique):
            try:
                found += evaluate(question, structure)
            except FtadvisorError as error:
                first = first or error
        if len(found) == before and first is not None:
            refused.append(Refused(technique.id, first))
    return Found(tuple(found), tuple(refused))


def structures(question: Question, technique: Technique) -> Iterator[Structure]:
    """The named choices of one technique: what the person fixed, else what makes sense."""
    hyper = hyperparameters(question, technique.id, adapts=not technique.trains_base)
    axes = _axes(question, technique)
    for chosen in itertools.product(*axes.values()):
        yield Structure(technique, dict(zip(axes, chosen, strict=True)), hyper)


def _axes(question: Question, technique: Technique) -> dict[str, Sequence[Any]]:
    bits = question.facts.accelerator in BITSANDBYTES
    counts = {n for offer in question.offers for n in offer.counts} or {1}
    strategies = (ONE_GPU if 1 in counts else ()) + (SEVERAL_GPUS if max(counts) > 1 else ())
    packed = question.objective in PACKABLE and question.model.family == "decoder"
    axes: dict[str, Sequence[Any]] = {
        "quantization": ("none",),
        "gradient_checkpointing": ("none",)
        if technique.forbids_checkpointing
        else ("none", "full"),
        "optim": ("adamw_torch_fused",),
        "packing": (False, True) if packed else (False,),
        "strategy": strategies,
    }
    if question.objective == "cpt" and packed:
        axes["packing"] = (True,)
    if technique.id == "qlora":
        axes["quantization"] = ("nf4", "nf4-dq") if bits else ()
    elif technique.id == "lora" and bits:
        axes["quantization"] = ("none", "int8")
    if technique.trains_base and bits:
        axes["optim"] = ("adamw_torch_fused", "adamw_8bit")
    for name, value in technique.settings.items():
        if name in axes and name != "quantization":
            axes[name] = (value,)
    return {name: _fixed(question.options, name, values) for name, values in axes.items()}


def _fixed(options: Mapping[str, Any], name: str, values: Sequence[Any]) -> Sequence[Any]:
    return (options[name],) if name in options else values


def evaluate(question: Question, structure: Structure) -> list[Evaluated]:
    """Memory once, time on each offer. Raises FtadvisorError for what excludes each other."""
    several = structure.options["strategy"] != "none"
    offers = [(offer, [n for n in offer.counts if (n > 1) == several]) for offer in question.offers]
    counts = sorted({n for _, own in offers for n in own}) or [1]
    settings, technique, grid = _settings(question, structure, counts)
    if settings is None:
        return []
    model, trainer, fitted = question.model, question.trainer, question.fitted
    adapter = adapter_of(model, settings, trainer, technique)
    found: list[Evaluated] = []
    for offer, own in offers or [(None, [1])]:
        usable = offer.gpu.usable_bytes if offer else None
        if offer is not None and not own:
            continue
        memory = predict_memory(
            model, settings, trainer, adapter, fitted.memory, fitted.memory_intervals, usable
        )
        fits = _isin(grid.num_gpus, own)
        if usable is not None:
            fits = fits & (memory.device.high <= usable)
        zero = 0.0 * grid.num_gpus
        seconds = high = hours = zero
        usd = None
        if offer is not None:
            step = step_time(
                model, settings, trainer, adapter, offer.gpu, fitted.time, fitted.time_intervals
            )
            workload = replace(question.workload, num_train_epochs=structure.hyper.num_train_epochs)
            run = run_time(step, settings, workload, offer.gpu)
            seconds, high = run.total_seconds, run.total_high_seconds
            hours = seconds * grid.num_gpus / HOUR
            if offer.usd_per_gpu_hour is not None:
                usd = run_cost(run, grid.num_gpus, offer.usd_per_gpu_hour).total_usd
        found.append(
            Evaluated(
                replace_technique(structure, technique), offer, settings, memory.device.value,
                memory.device.high, fits, seconds + zero, high + zero, hours + zero, usd,
            )
        )  # fmt: skip
    return found


def replace_technique(structure: Structure, technique: Technique) -> Structure:
    """The structure under the technique's final name: lora on a 4-bit base is qlora."""
    return replace(structure, technique=technique)


class Grid(NamedTuple):
    """The numbers of a structure, one entry a candidate."""

    micro_batch_size: Number
    num_gpus: Number
    gradient_accumulation_steps: Number


def _settings(
    question: Question, structure: Structure, counts: Sequence[int]
) -> tuple[Settings | None, Technique, Grid]:
    """Settings with arrays for the numbers; None where no batch divides so."""
    given = of_technique(dict(question.options), structure.technique)
    batch = structure.hyper.global_batch_size
    options: dict[str, Any] = {
        **structure.hyper.options,
        **{k: v for k, v in structure.options.items() if k != "strategy"},
        **given,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "max_length": question.max_length,
    }
    several = structure.options["strategy"] != "none"
    options |= {"num_gpus": 2, "strategy": structure.options["strategy"]} if several else {}
    if not several:
        options.pop("strategy", None)
        options.pop("num_gpus", None)
    gpu = question.offers[0].gpu if question.offers else None
    resolved = resolve(
        options, question.model, structure.technique, question.objective, question.trainer, gpu,
        question.workload,
    )  # fmt: skip
    together = 1
    if question.objective in ANSWERS_IN_GROUPS:
        together = int(resolved.settings.num_generations)
    grid = _grid(question, batch, counts, together)
    if grid is None:
        return None, resolved.technique, Grid(1, 1, 1)
    settings = replace(
        resolved.settings,
        micro_batch_size=grid.micro_batch_size,
        num_gpus=grid.num_gpus,
        gradient_accumulation_steps=grid.gradient_accumulation_steps,
        **_lengths(question, resolved.settings, grid.micro_batch_size),
    )
    return settings, resolved.technique, grid


def _grid(question: Question, batch: int, counts: Sequence[int], together: int) -> Grid | None:
    """Micro-batches and GPUs that make about the batch; `together`: answers of one prompt."""
    import numpy

    given = question.options
    # KTO pairs the answers of a micro-batch: one alone is refused.
    sizes = MICRO_BATCHES[1:] if question.objective == "kto" else MICRO_BATCHES
    micro = [given["micro_batch_size"]] if "micro_batch_size" in given else sizes
    steps = given.get("gradient_accumulation_steps")
    rows: list[tuple[int, int, int]] = []
    for size, gpus in itertools.product(micro, counts):
        accumulation = steps or max(1, round(batch / (size * gpus)))
        if (size * gpus * accumulation) % together:
            continue
        # A step must not hold more than was meant, unless one sequence on each GPU already does.
        if size == micro[0] or size * gpus <= batch:
            rows.append((size, gpus, accumulation))
    if not rows:
        return None
    columns: Any = numpy.array(rows).T
    return Grid(*columns)


def _lengths(question: Question, one: Settings, micro: Number) -> dict[str, Number]:
    """Lengths of padded batches for each micro-batch size, as `resolve` computes them for one."""
    if one.packing:
        return {}
    import numpy

    workload = question.workload
    mean = question.options.get("mean_length") or min(workload.mean_tokens, one.max_length)
    asked = question.options.get("longest_length") or workload.longest_tokens
    longest = min(asked, one.max_length) if asked else None
    sizes = [int(size) for size in micro]
    found = {
        size: _batch_lengths(one.max_length, mean, workload.deviation_tokens, longest, size)
        for size in set(sizes)
    }
    ratio = workload.padded_over_mean
    padded = [
        found[size].mean_padded if ratio is None else min(mean * ratio, found[size].longest)
        for size in sizes
    ]
    return {
        "mean_length": mean,
        "longest_length": numpy.array([found[size].longest for size in sizes]),
        "typical_length": numpy.array([found[size].typical for size in sizes]),
        "mean_padded_length": numpy.array(padded),
    }


@cache
def _batch_lengths(
    cap: float, mean: float, deviation: float | None, longest: float | None, size: int
) -> BatchLengths:
    return batch_lengths(
        cap=cap, mean=mean, deviation=deviation, longest=longest, micro_batch_size=size
    )


def _isin(values: Number, wanted: Sequence[int]) -> Number:
    import numpy

    return numpy.isin(values, wanted)
