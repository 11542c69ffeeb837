"""Which kernel `scaled_dot_product_attention` takes on a GPU, and that kernel's meta form.

From aten/src/ATen/native/transformers/cuda/sdp_utils.cpp and attention.cpp of torch 2.13: the first
back end of the priority order whose conditions hold. Data-centre Hopper and Blackwell (9.0, 10.0)
ask cuDNN first (check_prefer_cudnn_attention); all others flash, efficient, math.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from ftadvisor.simulation.stack import aten, masking_utils, torch

Backend = Literal["cudnn", "flash", "efficient", "math"]

HALF = (torch.float16, torch.bfloat16)
LARGEST_HEAD = 256
"""Of flash attention, and of cuDNN on Hopper."""
LARGEST_HEAD_CUDNN = 128
FLASH_FROM = (8, 0)
SMALL_CARDS = frozenset({(8, 6), (8, 9), (12, 0), (12, 1)})
"""Too little shared memory for flash's backward with the widest heads."""
CUDNN_FIRST = frozenset({(9, 0), (10, 0)})
MASK_ALIGNMENT = 8
HEAD_ALIGNMENT = 8
"""Features that flash pads a head to; efficient takes no other heads in half precision."""
HEAD_ALIGNMENT_FP32 = 4


class Problem(NamedTuple):
    """What decides the back end."""

    dtype: Any
    head_dim: int
    value_head_dim: int
    query_length: int
    key_length: int
    masked: bool
    causal: bool
    grouped: bool
    """Fewer key than query heads, which the kernel is to share (enable_gqa)."""
    dropout: float
    needs_grad: bool
    mask_needs_grad: bool = False
    """The mask is a bias that trains (T5's): only efficient attention has its gradient."""
    broadcast: bool = False
    """Fewer key heads without enable_gqa (Falcon's one), or one batch of keys for all (a prompt's):
    no fused kernel broadcasts them
    (sdp_utils_cpp.h, check_batch_size_and_num_heads_dense)."""


def backend(
    problem: Problem, compute_capability: tuple[int, int], *, flash: bool = False
) -> Backend:
    """The back end that torch chooses; `flash`: the program asks for flash attention itself."""
    if flash and _flash(problem, compute_capability):
        return "flash"
    if problem.broadcast:
        return "math"
    if compute_capability in CUDNN_FIRST and _cudnn(problem, compute_capability):
        return "cudnn"
    if _flash(problem, compute_capability):
        return "flash"
    if _efficient(problem, compute_capability):
        return "efficient"
    return "math"


def _cudnn(p: Problem, compute_capability: tuple[int, int]) -> bool:
    largest = LARGEST_HEAD if compute_capability == (9, 0) else LARGEST_HEAD_CUDNN
    aligned = p.head_dim % HEAD_ALIGNMENT == 0 and p.value_head_dim % HEAD_ALIGNMENT == 0
    fits = max(p.head_dim, p.value_head_dim) <= largest
    long_enough = p.query_length > 1 and p.key_length > 1 and not p.mask_needs_grad
    return p.dtype in HALF and aligned and fits and long_enough


def _flash(p: Problem, compute_capability: tuple[int, int]) -> bool:
    if p.dtype not in HALF or p.masked or compute_capability < FLASH_FROM:
        return False
    if p.head_dim != p.value_head_dim or p.head_dim > LARGEST_HEAD:
        return False
    if p.causal and p.query_length != p.key_length:
        return False
    if p.needs_grad and compute_capability in SMALL_CARDS:
        # check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120
        return p.head_dim <= 192 or (p.head_dim > 224 and p.dropout == 0.0)
    return True


def _efficient(p: Problem, compute_capability: tuple[int, int]) -> bool:
    if p.grouped or (p.dtype == torch.bfloat16 and compute_capability < FLASH_FROM):
        return False
    alignment = HEAD_ALIGNMENT if p.dtype in HALF else HEAD_ALIGNMENT_FP32
    return p.head_dim % alignment == 0 and p.value_head_dim % alignment == 0


@contextmanager
def flash_masks() -> Generator[None]:
    """flash-attn's kernel takes no mask: causality and a sliding window are arguments of it
    (transformers/masking_utils.py, flash_attention_mask). SDPA's flash kernel stands for it.
    """
    masks = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    usual = masks["sdpa"]
    masks["sdpa"] = masking_utils.flash_attention_mask
    try:
        yield
    finally:
        masks["sdpa"] = usual


def problem_of(
    query: Any, key: Any, value: Any, mask: Any, dropout: float, causal: bool, gqa: bool
) -> Problem:
    """The conditions, read off the tensors."""
    grad = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    unequal = query.dim() == 4 and query.shape[1] != key.shape[1]
    return Problem(
        dtype=query.dtype,
        head_dim=query.shape[-1],
        value_head_dim=value.shape[-1],
        query_length=query.shape[-2],
        key_length=key.shape[-2],
        masked=mask is not None,
        causal=causal,
        grouped=gqa and unequal,
        dropout=dropout,
        needs_grad=grad,
        mask_needs_grad=torch.is_grad_enabled() and mask is not None and mask.requires_grad,
        broadcast=(unequal and not gqa) or query.shape[0] != key.shape[0],
    )


def attend(
    chosen: Backend,
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    dropout: float,
    causal: bool,
    scale: float | None,
    gqa: bool,
) -> Any:
    """The attention of one back end, as attention.cpp calls it."""
    if chosen == "math":
        return aten._scaled_dot_product_attention_math(
            query, key, value, mask, dropout, causal, None, scale=scale, enable_gqa=gqa
        )[0]
    if mask is not None and mask.dtype == torch.bool:
        # convert_boolean_attn_mask
        hidden = torch.scalar_tensor(float("-inf"), dtype=query.dtype, device=query.device)
        mask = torch.where(mask, 0.0, hidden)
    if chosen == "flash":
        return _attend_flash(query, key, value, dropout, causal, scale)
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    if chosen == "cudnn":
        return aten._scaled_dot_product_cudnn_attention(
            query, key, value, mask, needs_grad, dropout, causal, False, scale=scale
        )[0]
    if mask is not None:
        mask = _aligned(mask).expand(*query.shape[:3], key.shape[2])
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, needs_grad, dropout, causal, scale=scale
    )[0]


def _attend_flash(
    query: Any, key: Any, value: Any, dropout: float, causal: bool, scale: float | None
) -> Any:
    width = query.shape[-1]
    pad = -width % HEAD_ALIGNMENT
    scale = 1.0 / math.sqrt(width) if scale is None else scale
    if pad:
        query, key, value = (torch.nn.functional.pad(t, (0, pad)) for t in (query, key, value))
    out = aten._scaled_dot_product_flash_attention(
        query, key, value, dropout, causal, False, scale=scale
    )[0]
    return out[..., :width] if pad else out


def _aligned(mask: Any) -> Any:
    """pad_bias: rows of a mask begin at multiples of eight elements."""
    width = mask.shape[-1]
    pad = -width % MASK_ALIGNMENT
    return torch.nn.functional.pad(mask, (0, pad))[..., :width] if pad else mask
