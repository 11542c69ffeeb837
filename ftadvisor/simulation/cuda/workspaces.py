"""Memory that kernels and libraries take without any operation that shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftadvisor.simulation.cuda.grids import Grid
from ftadvisor.simulation.cuda.reductions import is_reduction, reduction_buffer
from ftadvisor.simulation.stack import torch
from ftadvisor.units import KIB

FP32 = 4

CUBLAS_WORKSPACE = 8_519_680
"""cublasGetWorkspace: `:4096:2:16:8` of CUBLAS_WORKSPACE_CONFIG, (2 * 4096 + 8 * 16) KiB
and no more below Hopper (aten/src/ATen/cuda/CublasHandlePool.cpp, getChosenWorkspaceSize)."""
CUBLAS_WORKSPACE_HOPPER = 32 * KIB * KIB
"""`:32768:1` from compute capability 9.0 on."""


CUDNN_LEAST = 256
"""Bytes that cuDNN's attention asks for even where it needs nothing."""
EMBEDDING_UNSORTED, EMBEDDING_ROWS = 3072, 10
"""Tokens up to which an embedding's gradient is summed unsorted; rows that a thread sums."""
EFFICIENT_LOCK = 16
"""Of each tile of efficient attention's dq: a lock, a counter, and padding."""
BEFORE_RESULT = frozenset({"gemm_4bit"})
"""Operations whose temporaries are made before their result."""
PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "addmv", "mv", "dot", "gemm_4bit"})
"""Operations that call cuBLAS."""
MASK_FIRST = frozenset({"native_dropout"})
"""Operations that make their second result first (aten/src/ATen/native/cuda/Dropout.cu)."""


def cublas_workspace(compute_capability: tuple[int, int]) -> int:
    """Bytes per handle and stream: the forward's thread has one, autograd's another."""
    hopper = compute_capability >= (9, 0)
    return CUBLAS_WORKSPACE_HOPPER if hopper else CUBLAS_WORKSPACE


def kernel_workspaces(func: Any, args: tuple[Any, ...], out: Any, grid: Grid) -> tuple[int, ...]:
    """Temporaries that an operation's kernel allocates and frees before it returns [bytes]."""
    name = func._opname
    if is_reduction(name, args, out):
        size = reduction_buffer(args[0], out, grid)
        return (size,) if size else ()
    formula = _FORMULAS.get(name)
    return () if formula is None else formula(args)


def _round(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _flash_backward(args: tuple[Any, ...]) -> tuple[int, ...]:
    """dq_accum and dsoftmax_sum in fp32; with grouped heads dk and dv of all query heads
    (aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_bwd).
    """
    query, key = args[1], args[2]
    batch, heads, length, width = query.shape
    rows = batch * heads * _round(length, 128)
    sizes = [rows * _round(width, 32) * FP32, rows * FP32]
    if key.shape[1] != heads:
        sizes += [batch * heads * key.shape[2] * width * query.element_size()] * 2
    return tuple(sizes)


def _efficient_backward(args: tuple[Any, ...]) -> tuple[int, ...]:
    """delta, and below fp32 an fp32 accumulator of dq with a lock for each tile; with heads beyond
    128 also of dk and dv, which then do not fit in registers
    (aten/src/ATen/native/transformers/cuda/attention_backward.cu and mem_eff_attention/
    kernel_backward.h, workspace_elements_gq, gk, gv; to the byte a trace of T5 on an H100).
    """
    query, key = args[1], args[2]
    batch, heads, length, width = query.shape
    rows = batch * heads
    sizes = [rows * length * FP32]
    if query.dtype != torch.float32:
        tile = 64 if width <= 64 else 128
        tiles = -(-length // tile)
        size = rows * tiles * (tile * _round(width, 64) * FP32 + EFFICIENT_LOCK)
        if width > 128:
            size += 2 * rows * _round(key.shape[2], 64) * _round(width, 64) * FP32
        sizes.append(size)
    return tuple(sizes)


def _cudnn_forward(args: tuple[Any, ...]) -> tuple[int, ...]:
    return (CUDNN_LEAST,)


def _cudnn_backward(args: tuple[Any, ...]) -> tuple[int, ...]:
    """An fp32 accumulator of dq and a row sum; grouped heads' dk and dv before they are summed.

    To the byte what traces of an H100 with torch 2.11 show, with and without grouped heads.
    """
    query, key = args[1], args[2]
    batch, heads, length, width = query.shape
    size = batch * heads * length * (width + 1) * FP32
    if key.shape[1] != heads:
        size += 2 * batch * heads * key.shape[2] * width * query.element_size()
    return (size + CUDNN_LEAST,)


def _softmax_backward(args: tuple[Any, ...]) -> tuple[int, ...]:
    """The product of gradient and result, before its sum (aten/src/ATen/native/cuda/SoftMax.cu,
    softmax_backward_cuda_out: `Tensor tmp = grad * output`).
    """
    return (args[0].numel() * max(args[0].element_size(), args[1].element_size()),)


def _embedding_backward(args: tuple[Any, ...]) -> tuple[int, ...]:
    """Partial sums in fp32 of each token's gradient, from 3072 tokens on
    (aten/src/ATen/native/cuda/EmbeddingBackwardKernel.cu, embedding_backward_cuda_kernel), and the
    sorted indices.
    """
    grad, indices, vocabulary = args[0], args[1], args[2]
    number = indices.numel()
    if number <= EMBEDDING_UNSORTED:
        return ()
    segments = number // EMBEDDING_ROWS + min(number, vocabulary)
    return (segments * grad.shape[-1] * FP32,)


def _gemm_4bit(args: tuple[Any, ...]) -> tuple[int, ...]:
    """The weight unpacked into the input's dtype, and scales that are quantised themselves
    (bitsandbytes/backends/cuda/ops.py, _dequant_linear_fallback: from some dozens of tokens on).
    """
    inputs, shape = args[0], args[2]
    size = shape[0] * shape[1] * inputs.element_size()
    scales = args[7] if len(args) > 7 else None
    return (size,) if scales is None else (scales.numel() * FP32, scales.numel() * FP32, size)


def _int8_product(args: tuple[Any, ...]) -> tuple[int, ...]:
    """The product in int32, before it is scaled (int8_scaled_mm, int8_mixed_scaled_mm)."""
    rows = args[0].numel() // args[0].shape[-1]
    weight = next(t for t in args[1:] if t is not None and t.dtype == torch.int8 and t.dim() == 2)
    return (rows * weight.shape[0] * FP32,)


_FORMULAS: dict[str, Callable[[tuple[Any, ...]], tuple[int, ...]]] = {
    "_scaled_dot_product_flash_attention_backward": _flash_backward,
    "_scaled_dot_product_efficient_attention_backward": _efficient_backward,
    "_scaled_dot_product_cudnn_attention_backward": _cudnn_backward,
    "_scaled_dot_product_cudnn_attention": _cudnn_forward,
    "_softmax_backward_data": _softmax_backward,
    "embedding_dense_backward": _embedding_backward,
    "gemm_4bit": _gemm_4bit,
    "int8_scaled_mm": _int8_product,
}
