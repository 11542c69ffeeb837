"""CUDA's autocast policy for tensors that are on no GPU.

Which operations run in the lower precision, which in fp32, which take the widest of their inputs:
aten/src/ATen/autocast_mode.h, AT_FORALL_LOWER_PRECISION_FP and its neighbours, of torch 2.13.
Whether autocast is on is asked of its CPU state, which `torch.autocast("cpu")` sets: checkpointing
keeps and restores that state by itself, and the CPU's own kernels never see a meta tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ftadvisor.simulation.stack import torch

STATE = "cpu"
LOWER = (
    "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "addbmm", "addmv", "addr", "mv", "einsum",
    "chain_matmul", "linalg_multi_dot", "linalg_vecdot", "prelu", "conv1d", "conv2d", "conv3d",
    "conv_transpose1d", "conv_transpose2d.input",
    "_convolution", "convolution", "conv_tbc",
)  # fmt: skip
FP32 = (
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal",
    "rsqrt", "sinh", "tan", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "softplus",
    "layer_norm", "native_layer_norm", "group_norm", "cosine_similarity", "nll_loss", "nll_loss2d",
    "kl_div", "l1_loss", "smooth_l1_loss", "huber_loss", "mse_loss", "margin_ranking_loss",
    "triplet_margin_loss", "binary_cross_entropy_with_logits", "dist", "cdist", "logsumexp",
    "cosine_embedding_loss", "soft_margin_loss", "renorm",
)  # fmt: skip
FP32_BY_ARGUMENT = {
    "softmax.int": 2, "log_softmax.int": 2, "cumsum": 2, "cumprod": 2, "sum": None,
    "sum.dim_IntList": None, "prod": None, "prod.dim_int": None, "linalg_vector_norm": None,
}  # fmt: skip
"""Operations whose output is asked for in fp32 by their `dtype`, and its position if it has one."""
WIDEST = ("addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "index_put",
          "tensordot", "scatter_add")  # fmt: skip

Kernel = Callable[..., Any]


class Casts:
    """The copies of weights that autocast keeps while it is on."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Any, Any]] = {}

    def clear(self) -> None:
        """The outermost autocast context ends."""
        self._copies.clear()

    def lower(self, value: Any) -> Any:
        """A tensor in autocast's dtype; an fp32 leaf that trains and is no view is cast once."""
        dtype = torch.get_autocast_dtype(STATE)
        if isinstance(value, list | tuple):
            return type(cast("Any", value))(self.lower(part) for part in cast("Any", value))
        if not _eligible(value) or value.dtype == dtype or value.dtype == torch.float64:
            return value
        leaf = value.requires_grad and value.is_leaf and not value._is_view()
        if not (value.dtype == torch.float32 and leaf):
            return value.to(dtype)
        if not torch.is_autocast_cache_enabled():
            return value.to(dtype)
        if id(value) not in self._copies:
            # The tensor is kept beside its copy, so that no other takes its id.
            self._copies[id(value)] = (value, value.to(dtype))
        return self._copies[id(value)][1]


def enabled() -> bool:
    """Whether autocast is on."""
    return torch.is_autocast_enabled(STATE)


def _eligible(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def single(value: Any) -> Any:
    """A tensor in fp32, if it was in half precision; other values as they are."""
    half = _eligible(value) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def last_first(cast_one: Callable[[Any], Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Every argument cast, the last before the others: C++ evaluates a call's arguments in no order
    of its own, and GCC's is from the right, so a weight is cast before its input (seen in traces of
    an H100: autocast_mode.h, WrapFunction_).
    """
    return tuple(cast_one(value) for value in reversed(args))[::-1]


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _lower_kernel(name: str, casts: Casts, below: Callable[[], Any]) -> Kernel:
    op = _overload(name)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with below():
            if enabled():
                args = last_first(casts.lower, args)
            return op(*args, **kwargs)

    return kernel


def _single_kernel(name: str, below: Callable[[], Any]) -> Kernel:
    op = _overload(name)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with below():
            if enabled():
                args = last_first(single, args)
            return op(*args, **kwargs)

    return kernel


def _argument_kernel(name: str, position: int | None, below: Callable[[], Any]) -> Kernel:
    op = _overload(name)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with below():
            given = kwargs.get("dtype")
            if position is not None and len(args) > position:
                given = args[position]
                args = args[:position]
            if given is None and enabled() and _eligible(args[0]):
                given = torch.float32
            return op(*args, **{**kwargs, "dtype": given})

    return kernel


def _widest_kernel(name: str, below: Callable[[], Any]) -> Kernel:
    op = _overload(name)

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with below():
            if enabled() and any(_eligible(a) and a.dtype == torch.float32 for a in args):
                args = last_first(single, args)
            return op(*args, **kwargs)

    return kernel


def policy(casts: Casts, below: Callable[[], Any]) -> dict[str, Kernel]:
    """A kernel for each operation that the policy names; `below` excludes the policy's key."""
    kernels = {name: _lower_kernel(name, casts, below) for name in LOWER}
    kernels |= {name: _single_kernel(name, below) for name in FP32}
    kernels |= {
        name: _argument_kernel(name, position, below) for name, position in FP32_BY_ARGUMENT.items()
    }
    return kernels | {name: _widest_kernel(name, below) for name in WIDEST}
