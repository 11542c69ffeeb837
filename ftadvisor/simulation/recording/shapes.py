"""What meta tensors cannot answer: values that decide shapes, and kernels without a meta form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftadvisor.simulation.stack import TorchDispatchMode, aten, torch

_IN_PLACE = frozenset(
    getattr(packet, overload)
    for name in ("_fused_adamw_", "_fused_adam_", "_fused_sgd_", "_fused_adagrad_")
    if (packet := getattr(aten, name, None)) is not None
    for overload in packet.overloads()
    if overload in ("default", "tensor_lr")
)
"""The fused optimizers: they allocate nothing, and have no meta kernel."""


def answered(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    padded: bool,
    selected: Mapping[int, int] | None = None,
) -> tuple[bool, Any]:
    """Whether an operation is answered here, and its result.

    A mask is all True exactly where nothing is padded; every index of `nonzero` is one that counts,
    so a selection by a mask keeps all tokens: the most that it can keep. `selected` says how many
    it keeps where that is known, by the mask's size.
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
        return True, aten.index.Tensor(args[0], _as_positions(args[1], selected or {}))
    if func is aten.bincount.default:
        least = int(args[2]) if len(args) > 2 else 1
        return True, torch.empty((max(least, 1),), dtype=torch.long, device="meta")
    if func._opname == "_grouped_mm" and args[0].dtype != torch.bfloat16:
        return True, _grouped_product(func, args, kwargs)
    if func._opname in _INT8:
        return True, _INT8[func._opname](*args, **kwargs)
    if func is aten._to_copy.default and _leaves_meta(args[0], kwargs):
        return True, func(*args, **{**kwargs, "device": torch.device("meta")})
    return False, None


def _grouped_product(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """CUDA takes fp16 and fp32 too, one expert after the other; the meta kernel does not."""
    halves = tuple(torch.empty_like(tensor, dtype=torch.bfloat16) for tensor in args[:2])
    out = func(*halves, *args[2:], **kwargs)
    return torch.empty_strided(out.shape, out.stride(), dtype=args[0].dtype, device="meta")


def _int8_quantized(tensor: Any, threshold: float = 0.0) -> Any:
    """int8_vectorwise_quant: no column is an outlier."""
    rows = tensor.numel() // tensor.shape[-1]
    outliers = torch.empty(0, dtype=torch.long, device="meta") if threshold > 0.0 else None
    scales = torch.empty(rows, dtype=torch.float32, device="meta")
    return torch.empty_like(tensor, dtype=torch.int8), scales, outliers


def _int8_mixed(tensor: Any, quantized: Any, weight: Any, *_: Any, **__: Any) -> Any:
    """int8_mixed_scaled_mm, without the columns that stay in half precision."""
    shape = (*quantized.shape[:-1], weight.shape[0])
    return tensor.new_empty(shape), tensor.new_empty((quantized.shape[0], 0))


_INT8 = {"int8_vectorwise_quant": _int8_quantized, "int8_mixed_scaled_mm": _int8_mixed}
"""bitsandbytes' operations whose shapes depend on how many outliers there are."""


def _leaves_meta(tensor: Any, kwargs: dict[str, Any]) -> bool:
    """Whether values that do not exist are to be copied to the CPU."""
    device = kwargs.get("device")
    return tensor.device.type == "meta" and device is not None and device.type != "meta"


def _scalar(tensor: Any, *, padded: bool) -> bool | float | int:
    if tensor.dtype == torch.bool:
        return not padded
    return 1.0 if tensor.is_floating_point() else 1


def _is_mask(index: Any) -> bool:
    return index is not None and index.device.type == "meta" and index.dtype == torch.bool


def _as_positions(indices: Any, selected: Mapping[int, int]) -> list[Any]:
    """Boolean indices as the positions that they select, which are all unless `selected` says."""
    positions: list[Any] = []
    for index in indices:
        if not _is_mask(index):
            positions.append(index)
            continue
        # CUDA finds them by nonzero, so they are a storage of their own.
        number = selected.get(index.numel(), index.numel())
        found = torch.empty((index.dim(), number), dtype=torch.long, device="meta")
        positions.extend(found.unbind(0))
    return positions


class Answers(TorchDispatchMode):
    """Builds what asks for values while it is made: adapters that look at weights."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        found, out = answered(func, args, kwargs, padded=True)
        return out if found else func(*args, **kwargs)
