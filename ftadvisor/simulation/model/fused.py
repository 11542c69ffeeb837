"""Liger's kernels in the layers: what they keep and make, from Liger 0.8.5's own code.

Triton compiles for GPUs only, so each function here makes the buffers that its namesake in
liger_kernel/ops makes, and runs no kernel. Rotary embeddings stay Transformers': nothing is kept of
them either way.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

from ftadvisor.errors import UnsupportedError, quoted
from ftadvisor.schema.settings import Settings
from ftadvisor.simulation.stack import torch

NORMS = {
    "llama": True, "mistral": True, "mixtral": True, "ministral": True, "qwen2": True,
    "qwen3": True, "qwen3_moe": True, "smollm3": True, "gemma": True, "gemma2": False,
    "gemma3_text": False,
}  # fmt: skip
"""Model types whose norms Liger replaces (transformers/monkey_patch.py), and whether backward
writes its result over the gradient that arrives: not where two norms follow each other."""
GATED = frozenset({
    "llama", "mistral", "ministral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3_text",
})  # fmt: skip
"""Those whose MLP it replaces; experts have another kernel."""


def fuse_layers(model: Any, settings: Settings, multiprocessors: int) -> None:
    """Give the model's norms and MLPs Liger's forward and backward, where the settings ask.

    Raises UnsupportedError for a model type whose kernels were not read.
    """
    if not (settings.fused_norm or settings.fused_mlp):
        return
    kind = model.config.model_type
    for asked, known, what in (
        (settings.fused_norm, NORMS, "Liger's RMSNorm"),
        (settings.fused_mlp, GATED, "Liger's MLP"),
    ):
        if asked and kind not in known:
            reason = f"it is simulated for {', '.join(sorted(known))}"
            raise UnsupportedError.of(f"{what} in model_type {quoted(kind)}", reason)
    for module in model.modules():
        name = type(module).__name__
        if settings.fused_norm and name.endswith("RMSNorm"):
            module.forward = MethodType(_norm_forward(NORMS[kind], multiprocessors), module)
        elif settings.fused_mlp and name.endswith("MLP") and hasattr(module, "gate_proj"):
            module.forward = MethodType(_gated_forward, module)


def _norm_forward(in_place: bool, multiprocessors: int) -> Any:
    def forward(self: Any, hidden_states: Any) -> Any:
        return _Norm.apply(hidden_states, self.weight, in_place, multiprocessors)

    return forward


def _gated_forward(self: Any, x: Any) -> Any:
    return self.down_proj(_Gated.apply(self.gate_proj(x), self.up_proj(x)))


class _Norm(torch.autograd.Function):
    """ops/rms_norm.py, LigerRMSNormFunction: keeps its input and a fp32 value a row."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, in_place: bool, multiprocessors: int) -> Any:
        x = x.contiguous()
        y = torch.empty_like(x)
        rows = x.numel() // x.shape[-1]
        statistics = torch.empty(rows, dtype=torch.float32, device=x.device)
        ctx.save_for_backward(x, weight, statistics)
        ctx.in_place, ctx.multiprocessors = in_place, multiprocessors
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad = grads[0].contiguous()
        _, weight, _ = ctx.saved_tensors
        partial = None
        if ctx.needs_input_grad[1]:
            shape = (ctx.multiprocessors, weight.shape[0])
            partial = torch.empty(shape, dtype=torch.float32, device=grad.device)
        made = grad if ctx.in_place else torch.zeros_like(grad)
        of_weight = None if partial is None else partial.sum(dim=0).to(weight.dtype)
        return made, of_weight, None, None


class _Gated(torch.autograd.Function):
    """ops/swiglu.py and geglu.py: keeps gate and up, and writes their gradients over them."""

    @staticmethod
    def forward(ctx: Any, gate: Any, up: Any) -> Any:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return torch.empty_like(gate)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grads[0].contiguous()
        gate, up = ctx.saved_tensors
        return gate.view(gate.shape), up.view(up.shape)
