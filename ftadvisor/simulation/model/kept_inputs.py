"""bitsandbytes' 4-bit product up to 0.43.1, which keeps its input on the node itself.

Read: bitsandbytes 0.41.1 to 0.43.1, autograd/_functions.py, MatMul4Bit (ctx.tensors = (A, B)), and
functional.py, dequantize_4bit. No checkpoint drops what hangs there; it goes with the whole graph.
"""

from __future__ import annotations

from typing import Any

from ftadvisor.simulation.stack import bitsandbytes as bnb
from ftadvisor.simulation.stack import torch


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, keeps: bool) -> Any:
        ctx.kept = x if keeps and ctx.needs_input_grad[0] else None
        ctx.weight = weight
        return torch.nn.functional.linear(x, _unpacked(weight).to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad = grads[0]
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        return torch.matmul(grad, _unpacked(ctx.weight).to(grad.dtype)), None, None, None


def _unpacked(weight: Any) -> Any:
    state = weight.quant_state
    # Scales that are quantised themselves go to fp32 first.
    scales = torch.empty_like(state.absmax, dtype=torch.float32) if state.nested else None
    out = torch.empty(state.shape, dtype=state.dtype, device=weight.device)
    del scales
    return out


class KeepingLinear4bit(bnb.nn.Linear4bit):
    """bitsandbytes' layer up to 0.43.1; `keeps_input` False: as it unpacks its weights alone."""

    keeps_input: bool = True

    def forward(self, x: Any) -> Any:
        """The product with the unpacked weights."""
        return _Product.apply(x, self.weight, self.bias, self.keeps_input)
