"""All settings that make sense, evaluated at once with the estimate's own formulas.

A structure is what cannot be an array: technique, quantisation, checkpointing, optimizer, packing,
strategy. For each, micro-batch sizes and numbers of GPUs are one array; memory is computed once,
time for each kind of GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from ftadvisor.advice.grid import Grid, grid_of, lengths_of
from ftadvisor.advice.hyperparameters import Hyperparameters, hyperparameters
from ftadvisor.advice.question import Offer, Question
from ftadvisor.configuration.effects import of_technique
from ftadvisor.configuration.settings import resolve
from ftadvisor.errors import FtadvisorError, InvalidSettingError
from ftadvisor.estimation.calibrated import Fitted
from ftadvisor.estimation.objectives import ANSWERS_IN_GROUPS
from ftadvisor.estimation.phases import cublas_bytes
from ftadvisor.estimation.prediction import (
    Bounded,
    MemoryPrediction,
    adapter_of,
    on_card,
    on_gpus,
    predict_memory,
)
from ftadvisor.estimation.rates import Rates, rates
from ftadvisor.estimation.terms import AdapterBytes
from ftadvisor.estimation.time import RunTime, run_time, step_time_at, time_kind
from ftadvisor.estimation.uncertainty import interval
from ftadvisor.schema.coefficients import Interval
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.settings import Number, Settings
from ftadvisor.schema.technique import Technique
from ftadvisor.units import HOUR

PACKABLE = frozenset({"sft", "clm", "cpt"})
ONE_GPU = ("none",)
SEVERAL_GPUS = ("ddp", "zero2", "zero3", "fsdp")
ADAPTERS_ON_SEVERAL = ("ddp", "zero3")
"""An adapter's gradients and states are small: only the base is worth dividing."""
BITSANDBYTES = frozenset({"cuda", "rocm", "xpu", "cpu", None})
"""Accelerators that bitsandbytes 0.50 has kernels for; None: not known yet."""


@dataclass(frozen=True, slots=True)
class Structure:
    """One combination of what is named, not counted."""

    technique: Technique
    options: dict[str, Any]
    hyper: Hyperparameters


class Evaluated(NamedTuple):
    """A structure: arrays over micro-batch sizes, numbers of GPUs and kinds of GPU."""

    structure: Structure
    settings: Settings
    """Its numbers are arrays."""
    offers: tuple[Offer, ...]
    offer_index: Number
    """Which of the offers; -1: no GPU was named."""
    rented: Number
    """1 where the GPUs are not at hand."""
    device_bytes: Number
    device_high_bytes: Number
    fits: Number
    total_seconds: Number
    total_high_seconds: Number
    gpu_hours: Number
    total_usd: Number
    """Not a number where no price is known."""

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
    axes = _axes(question, technique, hyper)
    for chosen in itertools.product(*axes.values()):
        yield Structure(technique, dict(zip(axes, chosen, strict=True)), hyper)


def _axes(
    question: Question, technique: Technique, hyper: Hyperparameters
) -> dict[str, Sequence[Any]]:
    bits = question.facts.accelerator in BITSANDBYTES
    counts = {n for offer in question.offers for n in offer.counts} or {1}
    many = SEVERAL_GPUS if technique.trains_base else ADAPTERS_ON_SEVERAL
    strategies = (ONE_GPU if 1 in counts else ()) + (many if max(counts) > 1 else ())
    packed = question.objective in PACKABLE and question.model.family == "decoder"
    axes: dict[str, Sequence[Any]] = {
        "quantization": ("none",),
        "gradient_checkpointing": ("none",)
        if technique.forbids_checkpointing
        else ("none", "full"),
        "optim": ("adamw_torch_fused",),
        "packing": _packing(hyper) if packed else (False,),
        "strategy": strategies,
    }
    if technique.id == "qlora":
        axes["quantization"] = ("nf4", "nf4-dq") if bits else ()
    elif technique.id == "lora" and bits:
        axes["quantization"] = ("none", "int8")
    if technique.trains_base and bits:
        axes["optim"] = ("adamw_torch_fused", "adamw_8bit")
    for name, fired in hyper.fired.items():
        # What a convention says of an axis, the search may know better; a person's own rule not.
        if name in axes and fired.rule.layer == "user":
            axes[name] = (fired.value,)
    for name, value in technique.settings.items():
        if name in axes and name != "quantization":
            axes[name] = (value,)
    given = question.options
    return {name: (given[name],) if name in given else values for name, values in axes.items()}


def _packing(hyper: Hyperparameters) -> Sequence[bool]:
    """As the rules say; both where none speaks of it."""
    return (hyper.values["packing"],) if "packing" in hyper.values else (False, True)


def _fitted(question: Question, offer: Offer) -> Fitted:
    return offer.calibrated or question.fitted


def evaluate(question: Question, structure: Structure) -> list[Evaluated]:
    """All offers of one structure. Raises FtadvisorError for what excludes each other."""
    several = structure.options["strategy"] != "none"
    if not question.offers:
        return [_without_gpu(question, structure)]
    groups: dict[tuple[Any, ...], list[Offer]] = {}
    for offer in question.offers:
        if any((n > 1) == several for n in offer.counts):
            groups.setdefault(_alike(offer), []).append(offer)
    found = [_on_offers(question, structure, tuple(group)) for group in groups.values()]
    return [e for e in found if e is not None]


def _alike(offer: Offer) -> tuple[Any, ...]:
    """GPUs that settings and memory are the same for, and how many of them can be had."""
    gpu = offer.gpu
    own = gpu.id if offer.calibrated else ""
    return gpu.has_bf16, gpu.kind == "unified", gpu.compute_capability >= "8.0", own, offer.counts


def _without_gpu(question: Question, structure: Structure) -> Evaluated:
    settings, technique, grid = _settings(question, structure, (1,), None)
    memory = _memory(question, settings, technique, question.fitted)
    none = 0.0 * grid.num_gpus
    return Evaluated(
        replace(structure, technique=technique), settings, (), none.astype(int) - 1, none,
        memory.device.value + none, memory.device.high + none, none == 0, none, none, none,
        none + float("nan"),
    )  # fmt: skip


def _memory(
    question: Question, settings: Settings, technique: Technique, fitted: Fitted
) -> MemoryPrediction:
    """On a GPU with the smaller workspaces."""
    model, trainer = question.model, question.trainer
    adapter = adapter_of(model, settings, trainer, technique)
    known = fitted.memory, fitted.memory_intervals, None
    return predict_memory(model, settings, trainer, adapter, *known)


def _on_offers(
    question: Question, structure: Structure, offers: tuple[Offer, ...]
) -> Evaluated | None:
    """Memory once, then every GPU of the offers side by side."""
    import numpy

    several = structure.options["strategy"] != "none"
    counts = [n for n in offers[0].counts if (n > 1) == several]
    settings, technique, grid = _settings(question, structure, counts, offers[0].gpu)
    memory = _memory(question, settings, technique, _fitted(question, offers[0]))
    size, many = grid.num_gpus.size, len(offers)
    usable = numpy.repeat(numpy.array([o.gpu.usable_bytes for o in offers], float), size)
    memory = _repeated(memory, size, many)
    more = [cublas_bytes(o.gpu.compute_capability) - cublas_bytes("") for o in offers]
    if any(more):
        memory = on_gpus(memory, numpy.repeat(numpy.array(more, float), size))
    memory = on_card(memory, usable)
    settings = _tiled(settings, size, many)
    adapter = adapter_of(question.model, settings, question.trainer, technique)
    run = _run(question, structure, settings, adapter, offers, size)
    price = [float("nan") if (p := o.usd_per_gpu_hour) is None else p for o in offers]
    hours = run.total_seconds * settings.num_gpus / HOUR
    return Evaluated(
        structure=replace(structure, technique=technique),
        settings=settings,
        offers=offers,
        offer_index=numpy.repeat(numpy.arange(many), size),
        rented=numpy.repeat(numpy.array([not o.at_hand for o in offers], float), size),
        device_bytes=memory.device.value,
        device_high_bytes=memory.device.high,
        fits=memory.device.high <= usable,
        total_seconds=run.total_seconds,
        total_high_seconds=run.total_high_seconds,
        gpu_hours=hours,
        total_usd=hours * numpy.repeat(numpy.array(price), size),
    )


def _run(
    question: Question,
    structure: Structure,
    settings: Settings,
    adapter: AdapterBytes | None,
    offers: tuple[Offer, ...],
    size: int,
) -> RunTime:
    """Time of all candidates, each GPU's rates and interval beside the others."""
    import numpy

    trainer = question.trainer
    each: list[Rates] = []
    found: list[Interval] = []
    for offer in offers:
        fitted = _fitted(question, offer)
        of = rates(offer.gpu, settings, trainer, fitted.time)
        each.append(of._replace(host_slowness=fitted.host_slowness))
        kind = time_kind(settings, trainer, offer.gpu, fitted.time)
        found.append(interval(fitted.time_intervals, "time", kind))

    def column(values: Sequence[float]) -> Any:
        return numpy.repeat(numpy.array(values, float), size)

    r = Rates(*(column(values) for values in zip(*each, strict=True)))
    bounds = Interval(column([i.low for i in found]), column([i.high for i in found]), 0)
    # A GPU with its own numbers is alone in its group.
    c = _fitted(question, offers[0]).time
    step = step_time_at(question.model, settings, trainer, adapter, r, c, bounds)
    epochs = structure.hyper.num_train_epochs
    workload = replace(question.workload, num_train_epochs=epochs)
    return run_time(step, settings, workload, None)


def _repeated(memory: MemoryPrediction, size: int, many: int) -> MemoryPrediction:
    """The memory of one GPU's candidates, for several GPUs side by side."""
    import numpy

    figures = (*memory.allocated, *memory.reserved, *memory.device, *memory.needed)
    wide: Any = numpy.empty((len(figures), many, size))
    for place, figure in enumerate(figures):
        wide[place] = figure
    rows: Any = wide.reshape(len(figures), many * size)
    return memory._replace(
        allocated=Bounded(*rows[0:3]),
        reserved=Bounded(*rows[3:6]),
        device=Bounded(*rows[6:9]),
        needed=Bounded(*rows[9:12]),
    )


def _tiled(settings: Settings, size: int, many: int) -> Settings:
    """The settings with their arrays repeated for each GPU."""
    import numpy

    arrays = {
        f.name: numpy.tile(value, many)
        for f in fields(Settings)
        if getattr(value := getattr(settings, f.name), "shape", ()) == (size,)
    }
    return replace(settings, **arrays)


def _settings(
    question: Question, structure: Structure, counts: Sequence[int], gpu: Gpu | None
) -> tuple[Settings, Technique, Grid]:
    """Settings with arrays for the numbers. Raises InvalidSettingError where no batch divides."""
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
    resolved = resolve(
        options, question.model, structure.technique, question.objective, question.trainer, gpu,
        question.workload,
    )  # fmt: skip
    together = 1
    if question.objective in ANSWERS_IN_GROUPS:
        together = int(resolved.settings.num_generations)
    grid = grid_of(question, batch, counts, together)
    if grid is None:
        raise InvalidSettingError(
            f"no micro-batch divides a batch of {batch} into groups of {together} answers.",
            [f"--num-generations {together // 2 or 1}"],
        )
    settings = replace(
        resolved.settings,
        micro_batch_size=grid.micro_batch_size,
        num_gpus=grid.num_gpus,
        gradient_accumulation_steps=grid.gradient_accumulation_steps,
        **lengths_of(question, resolved.settings, grid.micro_batch_size),
    )
    return settings, resolved.technique, grid
