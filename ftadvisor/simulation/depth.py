"""All layers from a few: every moment of the step grows with the depth along a straight line."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.allocator import rounded
from ftadvisor.simulation.building import transformers_config
from ftadvisor.simulation.litgpt import prompt_of
from ftadvisor.simulation.pattern import Pattern, layer_of, layer_pattern
from ftadvisor.simulation.recording import EMPTY_CACHE, Recording
from ftadvisor.simulation.replaying import parts_at
from ftadvisor.simulation.splicing import layers_to_record, spliced
from ftadvisor.simulation.step import record_step

Moment = tuple[str, str]
"""A phase, and the place in the model where an allocation of it is made."""


class Height(NamedTuple):
    """The most that is alive in a moment, and the event that reached it."""

    live_bytes: int
    event: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepStep:
    """Live storages of all layers, from recordings of a few."""

    live_bytes: int
    """The peak: what torch allocates, but for what its allocator leaves unsplit [bytes]."""
    peak_phase: str
    peak_place: str
    """layer n, counted from the first; -n from the last; empty: outside the layers."""
    phases: dict[str, int]
    """The most that is alive in each phase."""
    parts: dict[str, int]
    """What is alive at the peak, by kind."""
    num_trainable_params: int
    num_layers: int
    recorded_layers: tuple[int, ...]
    seconds: float


def deep_step(
    config: dict[str, Any],
    settings: Settings,
    trainer: Trainer,
    *,
    compute_capability: tuple[int, int],
) -> DeepStep:
    """The step of the whole model, from two recordings that differ by one period of its layers."""
    pattern = _pattern(config, settings, trainer)

    def record(layers: int | None) -> Recording:
        return record_step(
            config, settings, trainer, compute_capability=compute_capability, num_layers=layers
        )

    if pattern is None or pattern.fewest + pattern.period >= pattern.num_layers:
        whole = record(None)
        return _of_whole(whole)
    fewer, more = record(pattern.fewest), record(pattern.fewest + pattern.period)
    return extrapolated(fewer, more, pattern)


def deep_recording(
    config: dict[str, Any],
    settings: Settings,
    trainer: Trainer,
    *,
    compute_capability: tuple[int, int],
) -> Recording:
    """The recording of the whole model, spliced from a few layers' where they repeat."""
    pattern = _pattern(config, settings, trainer)
    shallow = None if pattern is None else layers_to_record(pattern)
    if pattern is None or shallow is None or shallow >= pattern.num_layers:
        return record_step(config, settings, trainer, compute_capability=compute_capability)
    recording = record_step(
        config, settings, trainer, compute_capability=compute_capability, num_layers=shallow
    )
    return spliced(recording, pattern)


def _pattern(config: dict[str, Any], settings: Settings, trainer: Trainer) -> Pattern | None:
    """None too where adapters sit in some layers only, which no few layers stand for."""
    options = settings.peft_config
    some = settings.technique == "adaption_prompt" or options.get("layers_to_transform")
    found = None if some else layer_pattern(transformers_config(config))
    prompt = prompt_of(settings) if trainer.model_code == "litgpt" else None
    if found is None or prompt is None:
        return found
    return found._replace(prefix=max(found.prefix, prompt.first_layer))


def extrapolated(fewer: Recording, more: Recording, pattern: Pattern) -> DeepStep:
    """Both recordings' line, followed to the pattern's depth, moment by moment."""
    first, second = moments(fewer, pattern), moments(more, pattern)
    steps = (pattern.num_layers - fewer.num_layers) // pattern.period
    heights = {
        moment: height.live_bytes + steps * (second[moment].live_bytes - height.live_bytes)
        for moment, height in first.items()
        if moment in second
    }
    peak = max(heights, key=lambda moment: heights[moment])
    phases: dict[str, int] = {}
    for (phase, _), height in heights.items():
        phases[phase] = max(phases.get(phase, 0), height)
    low, high = (
        parts_at(recording, found[peak].event)
        for recording, found in ((fewer, first), (more, second))
    )
    parts = Counter({k: v + steps * (high.get(k, 0) - v) for k, v in low.items()})
    trained = fewer.num_trainable_params
    return DeepStep(
        live_bytes=heights[peak],
        peak_phase=peak[0],
        peak_place=peak[1],
        phases=phases,
        parts=dict(parts.most_common()),
        num_trainable_params=trained + steps * (more.num_trainable_params - trained),
        num_layers=pattern.num_layers,
        recorded_layers=(fewer.num_layers, more.num_layers),
        seconds=fewer.seconds + more.seconds,
    )


def moments(recording: Recording, pattern: Pattern) -> dict[Moment, Height]:
    """The highest point of every moment.

    Layers in the middle lie between the first and the last: along a straight line, neither can be
    the highest without one of the two being as high.
    """
    found: dict[Moment, Height] = {}
    live = 0
    phases = iter([*recording.phases[1:], None])
    phase, following = recording.phases[0], next(phases)
    for index, event in enumerate(recording.events):
        while following is not None and index >= following.start:
            phase, following = following, next(phases)
        if event == EMPTY_CACHE:
            continue
        allocation = recording.allocations[abs(event) - 1]
        if event < 0:
            live -= rounded(allocation.size)
            continue
        live += rounded(allocation.size)
        moment = (phase.name, _place(allocation.module, recording.num_layers, pattern))
        if moment not in found or live > found[moment].live_bytes:
            found[moment] = Height(live, index)
    return found


def _place(module: str, num_layers: int, pattern: Pattern) -> str:
    layer = layer_of(module)
    if layer is None:
        return ""
    if layer < pattern.prefix + pattern.period:
        return f"layer {layer}"
    return f"layer {layer - num_layers}"


def _of_whole(recording: Recording) -> DeepStep:
    pattern = Pattern(recording.num_layers, recording.num_layers, 1)
    return extrapolated(recording, recording, pattern)
