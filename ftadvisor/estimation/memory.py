"""Peak allocated memory of a training step: a maximum over phases, each a sum of named parts.

Phases, in the order of a step: generation (reinforcement learning), the loss at the end of forward,
the start of backward, the backward of the first and of the last layer processed, the end of
backward where embedding gradients are added, the optimizer's step. Which one is the peak changes
with vocabulary, checkpointing, optimizer and program version, so all are computed.
"""

from __future__ import annotations

from ftadvisor.estimation import phases
from ftadvisor.estimation.phases import Phase
from ftadvisor.estimation.terms import AdapterBytes, terms
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer


def step_phases(
    model: ModelSpec, settings: Settings, trainer: Trainer, adapter: AdapterBytes | None
) -> dict[str, Phase]:
    """Bytes alive in each phase of a step, by part; the allocated peak is the largest total.

    `adapter` is None where the base's own weights train. Numeric settings may be numpy arrays of
    one shape; the parts then are arrays of that shape.
    """
    t = terms(model, settings, trainer, adapter)
    found = {
        "loss_forward": phases.loss_forward(t),
        "loss_backward": phases.loss_backward(t),
        "first_layer_backward": phases.layer_backward(t, first=True),
        "last_layer_backward": phases.layer_backward(t, first=False),
        "end_of_backward": phases.end_of_backward(t),
        "optimizer_step": phases.optimizer_step(t),
    }
    if t.n.trained:
        found["head_gradient"] = phases.head_gradient(t)
    if t.n.kbit and trainer.dequantizes_head_twice:
        found["quantized_head_backward"] = phases.quantized_head_backward(t)
    if t.objective.generates:
        found["generation"] = phases.generation(t)
    return found
