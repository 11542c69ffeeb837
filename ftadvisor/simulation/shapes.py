"""What meta tensors cannot answer: values that decide shapes, and kernels without a meta form."""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten
_IN_PLACE = frozenset(
    getattr(packet, overload)
    for name in ("_fused_adamw_", "_fused_adam_", "_fused_sgd_", "_fused_adagrad_")
    if (packet := getattr(aten, name, None)) is not None
    for overload in packet.overloads()
    if overload in ("default", "tensor_lr")
)
"""The fused optimizers: they allocate nothing, and have no meta kernel."""


def answered(func: Any, args: tuple[Any, ...], *, padded: bool) -> tuple[bool, Any]:
    """Whether an operation is answered here, and its result.

    A mask is all True exactly where nothing is padded; every index of `nonzero` is one that counts,
    so a selection by a mask keeps all tokens: the most that it can keep.
    """
    if func in _IN_PLACE:
        return True, None
    if func is aten._local_scalar_dense.default and args[0].device.type == "meta":
        return True, _scalar(args[0], padded=padded)
    if func is aten.nonzero.default and args[0].device.type == "meta":
        tensor = args[0]
        indices = torch.empty((tensor.dim(), tensor.numel()), dtype=torch.long, device="meta")
        return True, indices.t()
    if func is aten.index.Tensor and any(_is_mask(index) for index in args[1]):
        return True, aten.index.Tensor(args[0], _as_positions(args[1]))
    if func is aten.bincount.default:
        least = int(args[2]) if len(args) > 2 else 1
        return True, torch.empty((max(least, 1),), dtype=torch.long, device="meta")
    return False, None


def _scalar(tensor: Any, *, padded: bool) -> bool | float | int:
    if tensor.dtype == torch.bool:
        return not padded
    return 1.0 if tensor.is_floating_point() else 1


def _is_mask(index: Any) -> bool:
    return index is not None and index.device.type == "meta" and index.dtype == torch.bool


def _as_positions(indices: Any) -> list[Any]:
    """Boolean indices as the positions that they select, which are all."""
    positions: list[Any] = []
    for index in indices:
        if not _is_mask(index):
            positions.append(index)
            continue
        # CUDA finds them by nonzero, so they are a storage of their own.
        found = torch.empty((index.dim(), index.numel()), dtype=torch.long, device="meta")
        positions.extend(found.unbind(0))
    return positions
