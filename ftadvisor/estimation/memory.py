"""Peak allocated memory of a training step: a maximum over phases, each a sum of named parts.

Phases, in the order of a step: generation (reinforcement learning), the loss at the end of forward,
the start of backward, the backward of the first and of the last layer processed, the end of
backward where embedding gradients are added, the optimizer's step. Which one is the peak changes
with vocabulary, checkpointing, optimizer and program version, so all are computed.
"""

from __future__ import annotations

from dataclasses import replace

from ftadvisor.estimation import passes, phases, two_stacks
from ftadvisor.estimation.arithmetic import select
from ftadvisor.estimation.moments import widest_first, widest_last
from ftadvisor.estimation.phases import Phase
from ftadvisor.estimation.stack import saved_by_layers
from ftadvisor.estimation.terms import AdapterBytes, terms
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer

LATER_OVER_LONGEST = 0.57
"""Longest batch of all others over the longest sample, where that one comes first: the 99.9th
percentile of lognormal lengths with deviation 0.7 of the mean is 4.6 times the mean, the longest of
a dataset about 8 times (`sources.lengths`)."""


def step_phases(
    model: ModelSpec,
    settings: Settings,
    trainer: Trainer,
    adapter: AdapterBytes | None,
    compute_capability: str = "",
) -> dict[str, Phase]:
    """Bytes alive in each phase of a step, by part; the allocated peak is the largest total.

    `adapter` is None where the base's own weights train. Numeric settings may be numpy arrays of
    one shape; the parts then are arrays of that shape. `compute_capability` is the GPU's, if any.
    """
    if not trainer.longest_first or settings.packing:
        return _phases(model, settings, trainer, adapter, compute_capability)
    # The longest batch meets no accumulated gradients; those that do are shorter.
    alone = replace(settings, gradient_accumulation_steps=1)
    first = _phases(model, alone, trainer, adapter, compute_capability)
    shorter = replace(settings, longest_length=settings.longest_length * LATER_OVER_LONGEST)
    later = _phases(model, shorter, trainer, adapter, compute_capability)
    return {name: _larger(first[name], later[name]) for name in first}


def _larger(one: Phase, other: Phase) -> Phase:
    wins = one.total >= other.total
    return Phase(*(select(wins, a, b) for a, b in zip(one, other, strict=True)))


def _phases(
    model: ModelSpec,
    settings: Settings,
    trainer: Trainer,
    adapter: AdapterBytes | None,
    compute_capability: str,
) -> dict[str, Phase]:
    t = terms(model, settings, trainer, adapter)
    base, saved = phases.static(t, compute_capability), saved_by_layers(t)
    began, ended = widest_first(t), widest_last(t)
    found = {
        "loss_forward": phases.loss_forward(t, base, saved),
        "loss_backward": phases.loss_backward(t, base, saved),
        "first_layer_backward": phases.layer_backward(t, base, began, saved, first=True),
        "last_layer_backward": phases.layer_backward(t, base, ended, saved, first=False),
        "end_of_backward": phases.end_of_backward(t, base),
        "optimizer_step": phases.optimizer_step(t, base),
    }
    if t.n.trained and not t.loss.head_chunk:
        # A fused head forms its gradient tile by tile, inside the loss.
        found["head_gradient"] = phases.head_gradient(t, base, saved)
    if model.family == "encdec":
        found["source_backward"] = two_stacks.source_backward(t, base, ended)
    if t.n.trained and model.family == "encdec" and model.tie_word_embeddings:
        found["embeddings_join"] = two_stacks.embeddings_join(t, base)
    if t.n.kbit and trainer.dequantizes_head_twice:
        found["quantized_head_backward"] = phases.quantized_head_backward(t, base, saved)
    if t.objective.generates:
        found["generation"] = passes.generation(t, base)
    if settings.objective in passes.REFERENCE_WITHIN:
        found["reference_forward"] = passes.reference_forward(t, base, saved)
    return found
