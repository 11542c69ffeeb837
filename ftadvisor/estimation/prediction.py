"""Peak memory of a run with its interval: phases, ladder and residuals put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from ftadvisor.errors import InvalidSettingError, quoted
from ftadvisor.estimation.adapters import adapter_bytes, classifier_params
from ftadvisor.estimation.arithmetic import largest, select, smallest
from ftadvisor.estimation.ladder import capped, ladder, needed_bytes
from ftadvisor.estimation.memory import step_phases
from ftadvisor.estimation.numerics import as_quantized, numerics
from ftadvisor.estimation.objectives import CLASSIFYING
from ftadvisor.estimation.phases import Phase
from ftadvisor.estimation.terms import AdapterBytes
from ftadvisor.estimation.uncertainty import interval, memory_kind
from ftadvisor.schema.coefficients import Interval, MemoryCoefficients
from ftadvisor.schema.estimate import Verdict
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import Number, Settings
from ftadvisor.schema.technique import Technique
from ftadvisor.schema.trainer import Trainer


class Bounded(NamedTuple):
    """A figure and the ends of its 90 % interval."""

    value: Number
    low: Number
    high: Number


class MemoryPrediction(NamedTuple):
    """Peak memory of one GPU [bytes]."""

    allocated: Bounded
    reserved: Bounded
    device: Bounded
    needed: Bounded
    """The least device memory that the run gets by with: what a verdict compares with the card."""
    phases: dict[str, Phase]
    num_trainable_params: Number


def adapter_of(
    model: ModelSpec, settings: Settings, trainer: Trainer, technique: Technique
) -> AdapterBytes | None:
    """What the technique adds to the base; None where the base itself trains.

    Raises InvalidSettingError for a peft_config whose values are not of PEFT's kinds.
    """
    if technique.trains_base:
        return None
    settings = as_quantized(model, settings, trainer)
    n = numerics(settings, trainer, trains_base=False, layer_norm=model.layer_norm)
    tokens = settings.micro_batch_size * settings.longest_length
    if not settings.peft_config:
        return adapter_bytes(model, settings, n, trainer, tokens)
    try:
        found = adapter_bytes(model, settings, n, trainer, tokens)
        # A text or a list where a number must be comes out as one.
        return AdapterBytes(*(value + 0 for value in found))
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise InvalidSettingError(
            f"peft_config {quoted(settings.peft_config)} is not one of {technique.name}'s.",
            ["the values' kinds as PEFT's config class gives them"],
        ) from error


def predict_memory(
    model: ModelSpec,
    settings: Settings,
    trainer: Trainer,
    adapter: AdapterBytes | None,
    coefficients: MemoryCoefficients,
    intervals: Mapping[str, Interval],
    usable_bytes: Number | None,
    compute_capability: str = "",
) -> MemoryPrediction:
    """Allocated, reserved and device memory at the peak, each with its interval [bytes].

    `usable_bytes`: what the card has of it (`on_card`); None: no card is named.
    """
    fitted = coefficients, intervals
    memory = _anywhere(model, settings, trainer, adapter, *fitted, compute_capability)
    return memory if usable_bytes is None else on_card(memory, usable_bytes)


def _anywhere(
    model: ModelSpec,
    settings: Settings,
    trainer: Trainer,
    adapter: AdapterBytes | None,
    coefficients: MemoryCoefficients,
    intervals: Mapping[str, Interval],
    compute_capability: str,
) -> MemoryPrediction:
    phases = step_phases(model, settings, trainer, adapter, compute_capability)
    allocated = largest(*(phase.total for phase in phases.values()))
    above = ladder(phases, settings, trainer, coefficients)
    kind = memory_kind(settings, trainer)
    found = (
        _bounded(allocated, interval(intervals, "allocated", kind)),
        _bounded(above.reserved, interval(intervals, "reserved", kind)),
        _bounded(above.device, interval(intervals, "device", kind)),
        _bounded(needed_bytes(allocated, settings), interval(intervals, "needed", kind)),
    )
    if trainer.stand_in and settings.loss_kernel == "torch":
        # Nobody knows whether this program forms its logits at all.
        fused = replace(settings, loss_kernel="fused_linear")
        known = replace(trainer, stand_in=False)
        least = _anywhere(model, fused, known, adapter, coefficients, intervals, compute_capability)
        found = tuple(
            f._replace(low=smallest(f.low, f.low / f.value * other.value))
            for f, other in zip(found, least[:4], strict=True)
        )
    bounded, reserved, device, needed = found
    return MemoryPrediction(
        allocated=bounded,
        reserved=reserved,
        device=device,
        needed=needed,
        phases=phases,
        num_trainable_params=_trained_params(model, settings)
        if adapter is None
        else adapter.num_trainable_params,
    )


def _trained_params(model: ModelSpec, settings: Settings) -> int:
    """Of a base that trains; a decoder's scores stand in the place of its head."""
    if settings.objective not in CLASSIFYING or model.family != "decoder":
        return model.num_params
    headless = replace(model, tie_word_embeddings=True, lm_head_bias=False)
    return headless.num_params + classifier_params(model, settings)


def on_card(memory: MemoryPrediction, usable_bytes: Number) -> MemoryPrediction:
    """The same on a card: the allocator frees its cache before it reports out of memory, so that
    neither reserved nor device memory exceeds the card when what is allocated fits."""
    reserved = capped(memory.reserved.value, memory.allocated.value, usable_bytes)
    device = _moved(memory.device, reserved + memory.device.value - memory.reserved.value)
    return memory._replace(
        reserved=_moved(memory.reserved, reserved),
        device=_on_the_card(device, memory.needed, usable_bytes),
    )


def on_gpus(memory: MemoryPrediction, more_bytes: Number) -> MemoryPrediction:
    """The same on GPUs whose cuBLAS takes so many bytes more than where it was computed for."""
    allocated, reserved, device, needed = (_moved(b, b.value + more_bytes) for b in memory[:4])
    return memory._replace(allocated=allocated, reserved=reserved, device=device, needed=needed)


def _moved(found: Bounded, value: Number) -> Bounded:
    """Another value with the same relative interval."""
    return Bounded(value, value * (found.low / found.value), value * (found.high / found.value))


def verdict(memory: MemoryPrediction, usable_bytes: float) -> Verdict:
    """By both ends of the device interval, which already allow for a cache that is given back."""
    if memory.device.high <= usable_bytes:
        return "fits"
    return "does_not_fit" if memory.device.low > usable_bytes else "tight"


def _bounded(value: Number, found: Interval) -> Bounded:
    return Bounded(value, value * found.low, value * found.high)


def _on_the_card(device: Bounded, needed: Bounded, usable_bytes: Number) -> Bounded:
    """The device interval that a card of this size allows.

    The allocator returns its cache before it gives up, so a run whose needs fit shows at most what
    the card has, and one whose needs may not fit may show more than the card has.
    """
    fits = needed.high <= usable_bytes
    fails = needed.low > usable_bytes
    high = select(fits, smallest(device.high, usable_bytes), largest(device.high, needed.high))
    low = select(
        fails, largest(device.low, needed.low), smallest(device.low, needed.value, usable_bytes)
    )
    low = select(fits, smallest(device.low, usable_bytes), low)
    return Bounded(smallest(largest(device.value, low), high), low, high)
