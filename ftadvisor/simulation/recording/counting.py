"""FLOPs, bytes moved and kernels of one operation."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

from ftadvisor.simulation.recording.record import Category
from ftadvisor.simulation.stack import flop_registry, torch

NO_KERNEL = frozenset({
    "view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "slice", "select",
    "unsqueeze", "squeeze", "detach", "alias", "split", "split_with_sizes", "unbind", "as_strided",
    "diagonal", "unfold", "empty", "empty_like", "empty_strided", "new_empty", "is_same_size",
    "_local_scalar_dense", "resize_", "_reshape_alias", "lift_fresh", "set_",
})  # fmt: skip
"""Operations of ATen that launch nothing."""
LOSS = frozenset({
    "_log_softmax", "_log_softmax_backward_data", "nll_loss_forward", "nll_loss_backward",
})  # fmt: skip
HEADS = ("lm_head", "embed_out", "output_projection")
"""What the language-model head is called in Transformers."""
_MATRIX = frozenset({"mm", "addmm", "bmm", "baddbmm", "_grouped_mm"})


class Count(NamedTuple):
    """Of one operation, or of several of one category."""

    category: Category
    flops: float
    moved_bytes: float
    kernels: int

    def plus(self, other: Count) -> Count:
        """Both together."""
        return Count(
            self.category,
            self.flops + other.flops,
            self.moved_bytes + other.moved_bytes,
            self.kernels + other.kernels,
        )


def count(
    func: Any, name: str, args: Any, kwargs: Any, out: Any, *, optimizer: bool, module: str
) -> Count | None:
    """What an operation costs; None for views and the like.

    A product of two matrices counts 2 FLOPs per multiplication and addition. Attention counts all
    keys, also those that a causal mask hides, as torch's own counter does.
    """
    if name in NO_KERNEL:
        return None
    flops = _flops(func, name, args, kwargs, out)
    kernels = 1
    if name.startswith(("_foreach_", "_fused_a", "_fused_s")):
        # One launch serves a whole list of tensors, as far as its argument block goes.
        kernels = max(1, math.ceil(len(args[0]) / 64))
    category = _category(name, flops, module, optimizer=optimizer)
    return Count(category, flops, _moved(args, kwargs, out), kernels)


def _category(name: str, flops: float, module: str, *, optimizer: bool) -> Category:
    if optimizer:
        return "optimizer"
    if "dequantize" in name:
        return "dequantisation"
    if name.startswith("_scaled_dot_product"):
        return "attention"
    if name in LOSS or module.rpartition(".")[2] in HEADS:
        return "logits"
    if flops:
        # Two activations are multiplied in eager attention only.
        return "attention" if name in ("bmm", "baddbmm") and "attn" in module else "linear"
    return "elementwise"


def _flops(func: Any, name: str, args: Any, kwargs: Any, out: Any) -> float:
    if name == "_grouped_mm":
        return _grouped(args)
    if name == "gemm_4bit":
        return 2.0 * args[0].numel() * args[2][0]
    if name.startswith("int8_") and name.endswith("scaled_mm"):
        return 2.0 * args[0].numel() * args[2 if "mixed" in name else 1].shape[0]
    formula = flop_registry.get(func.overloadpacket)
    if formula is None:
        return 0.0
    return float(formula(*args, **kwargs, out_val=out))


def _grouped(args: Any) -> float:
    """Each row meets one expert's matrix; a weight's gradient sums over all rows."""
    first, second = args[0], args[1]
    if first.dim() == 2 and second.dim() == 2:
        return 2.0 * first.shape[0] * first.shape[1] * second.shape[1]
    return (
        2.0
        * first.shape[-2]
        * first.shape[-1]
        * second.shape[-1]
        * (first.shape[0] if first.dim() == 3 else 1)
    )


def _moved(args: Any, kwargs: Any, out: Any) -> float:
    """Bytes of the tensors read and written, each once; expanded ones as they are stored."""
    sizes: dict[tuple[int, int, int], int] = {}
    _gather(args, sizes)
    if kwargs:
        _gather(tuple(kwargs.values()), sizes)
    _gather(out, sizes)
    return float(sum(sizes.values()))


def _gather(value: Any, sizes: dict[tuple[int, int, int], int]) -> None:
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        key = (storage._cdata, value.storage_offset(), value.numel())
        sizes[key] = min(value.numel() * value.element_size(), storage.nbytes())
    elif isinstance(value, list | tuple):
        for part in cast("list[Any]", value):
            _gather(part, sizes)
