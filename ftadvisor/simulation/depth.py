"""The whole model's step from that of a few layers, where layers repeat."""

from __future__ import annotations

from typing import Any

from ftadvisor.schema.settings import FSDP, Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.cuda.grids import Grid
from ftadvisor.simulation.litgpt.program import prompt_of
from ftadvisor.simulation.model.building import transformers_config
from ftadvisor.simulation.recording.pattern import Pattern, layer_pattern
from ftadvisor.simulation.recording.record import Recording
from ftadvisor.simulation.recording.splicing import spliced
from ftadvisor.simulation.sharding.buckets import with_buckets
from ftadvisor.simulation.sharding.rank import prefetches_flat
from ftadvisor.simulation.step import record_step


def deep_recording(
    config: dict[str, Any],
    settings: Settings,
    trainer: Trainer,
    *,
    compute_capability: tuple[int, int],
    grid: Grid | None = None,
) -> Recording:
    """The recording of the whole model, spliced from a few layers' where they repeat."""
    pattern = _pattern(config, settings, trainer)
    layers = None if pattern is None else pattern.recorded
    recording = record_step(
        config,
        settings,
        trainer,
        compute_capability=compute_capability,
        num_layers=layers,
        grid=grid,
    )
    if pattern is not None:
        recording = spliced(recording, pattern)
    return with_buckets(recording, settings) if settings.strategy == "ddp" else recording


def _pattern(config: dict[str, Any], settings: Settings, trainer: Trainer) -> Pattern | None:
    """None too where no few layers stand for all: adapters sit in some only, or share matrices
    with layers far away (PEFT's lily/model.py, _post_injection_hook), and where FSDP1 prefetches:
    a frozen unit that one layer asks for is freed two layers later, and splicing follows what a
    layer leaves to the next one only. So it is with Adafactor, whose step holds the last
    parameter's temporaries while it makes the next one's, a layer or a group later.
    """
    if settings.strategy in FSDP and prefetches_flat(trainer):
        return None
    if settings.optim == "adafactor":
        return None
    options = settings.peft_config
    some = settings.technique in ("adaption_prompt", "lily") or options.get("layers_to_transform")
    found = None if some else layer_pattern(transformers_config(config))
    prompt = prompt_of(settings) if trainer.model_code == "litgpt" else None
    if found is None or prompt is None:
        return found
    return found._replace(prefix=max(found.prefix, prompt.first_layer))
