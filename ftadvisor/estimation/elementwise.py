"""How often a layer's elementwise operations read or write a tensor as wide as its stream.

Counted in half-precision tensors of the residual stream's width, by reading each module's forward
as `activations` does: an operation reads its inputs and writes its output, once each; one that
works in fp32 moves twice as much. Backward counts what autograd's formulas read and write.
Source: transformers/models/*/modeling_*.py, torch/csrc/autograd/derivatives.yaml.
"""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.norms import NORMS_OF_A_LAYER
from ftadvisor.schema.model import Block
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer


class StreamPasses(NamedTuple):
    """Reads and writes of one layer, in half-precision tensors of its stream's width."""

    forward: float
    backward: float


NORM_IN_PYTHON = StreamPasses(18, 28)
"""RMSNorm: to fp32 (1 + 2), squared (2 + 2), its mean (2), scaled (2 + 2), back (2 + 1), times the
weight (1 + 1). Backward: of the weight's product 2, of the cast 3, of the scaling by the statistic
and by the input 4 + 4, of the mean and the square 6, the sum of both 6, the first cast 3."""
NORM_KERNEL = StreamPasses(2, 3)
"""One kernel: reads its input, and backward the gradient too."""
ROTATED = StreamPasses(8, 8)
"""Queries or keys: times the cosine 2, halves turned 2, times the sine 2, and their sum, which may
write where it reads, 2."""
ROTATED_KERNEL = StreamPasses(2, 2)
RESIDUAL_SUMS = StreamPasses(6, 6)
"""Two of them, and backward the gradients of both ways around each."""
GATED = StreamPasses(5, 9)
"""Of the feed-forward width: activation 2, product 3; backward 6 and 3."""
GATED_KERNEL = StreamPasses(3, 5)
PLAIN = StreamPasses(2, 3)
TANH_IN_PYTHON = StreamPasses(18, 22)
"""NewGELUActivation: a power, three products with numbers, two sums with them, tanh, a sum and a
product."""


def stream_passes(block: Block, settings: Settings, trainer: Trainer) -> StreamPasses:
    """All of a layer's, matrix products and attention itself not counted."""
    h, a, mlp, traits = block.hidden_size, block.attention, block.mlp, block.traits
    kernel = settings.fused_norm or trainer.low_precision_norm or traits.norm in ("ln", "ln_np")
    norm = NORM_KERNEL if kernel else NORM_IN_PYTHON
    rotated = (a.q_width + a.k_width) / h
    norms = 0.0
    if block.norm != "none" or traits.norm == "ln_np":
        norms = NORMS_OF_A_LAYER[traits.place] + block.cross_attention
    if a.qk_norm != "none":
        norms += rotated
    wide = mlp.intermediate_size * max(mlp.experts_per_token, 1) + mlp.shared_intermediate_size
    if mlp.gated:
        part = GATED_KERNEL if settings.fused_mlp else GATED
    else:
        # lit-gpt's tanh-GELU is one kernel.
        spelled = traits.act == "gelu_new" and trainer.model_code != "litgpt"
        part = TANH_IN_PYTHON if spelled else PLAIN
    turned = rotated if traits.rope != "none" else 0.0
    rope = ROTATED_KERNEL if settings.fused_norm and trainer.fused_rope else ROTATED
    wide = wide / h
    sums = RESIDUAL_SUMS
    return StreamPasses(
        norms * norm[0] + turned * rope[0] + wide * part[0] + sums[0],
        norms * norm[1] + turned * rope[1] + wide * part[1] + sums[1],
    )
