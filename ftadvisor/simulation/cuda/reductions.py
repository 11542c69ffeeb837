"""The buffer in which several thread blocks that share one sum meet.

A sum over many rows with few results (a bias's or a norm weight's gradient) is divided between
thread blocks, each of which writes its part to global memory: 64 blocks of 128 partial sums in fp32
for 4096 tokens. From aten/src/ATen/native/cuda/Reduce.cuh of torch 2.13, setReduceConfig and
global_memory_size; to the byte what traces of an H100 show.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ftadvisor.simulation.cuda.grids import Grid
from ftadvisor.simulation.stack import torch

THREADS = 512
"""MAX_NUM_THREADS."""
WARP = 32
LEAST_PER_THREAD, MOST_PER_THREAD = 16, 256
VECTOR = 4
"""Values that one load takes (vt0)."""
SMALLEST_VECTORIZED = 128
ACCUMULATOR = 4
"""Bytes of a partial sum: fp32, for half precision too."""


REDUCTIONS = frozenset({
    "sum", "mean", "amax", "amin", "max", "min", "prod", "any", "all", "logsumexp", "argmax",
    "argmin", "linalg_vector_norm", "norm", "var", "std", "var_mean",
})  # fmt: skip


class _Shape(NamedTuple):
    """A reduction as TensorIterator sees it, its dimensions merged."""

    outputs: int
    inputs: int
    """Per output."""
    along_fastest: bool
    merged: bool
    """All is reduced, as one dimension."""
    unit_stride: bool


def reduction_buffer(source: Any, out: Any, grid: Grid) -> int:
    """Bytes of the buffer; 0: no sum is divided between blocks."""
    if source.numel() == 0 or out.numel() == 0 or out.numel() == source.numel():
        return 0
    return _buffer(_shape(source, out), grid)


def _shape(source: Any, out: Any) -> _Shape:
    outputs = out.numel()
    inputs = source.numel() // outputs
    kept = _kept(source, out)
    strides = [
        (stride, not kept[at])
        for at, (size, stride) in enumerate(zip(source.shape, source.stride(), strict=True))
        if size > 1
    ]
    fastest, reduced = min(strides)
    return _Shape(outputs, inputs, reduced, outputs == 1 and source.is_contiguous(), fastest == 1)


def _kept(source: Any, out: Any) -> list[bool]:
    """Which of the source's dimensions the result still has."""
    if out.dim() == source.dim():
        return [a == b for a, b in zip(source.shape, out.shape, strict=True)]
    kept = [False] * source.dim()
    sizes = list(out.shape)
    for at in reversed(range(source.dim())):
        if sizes and source.shape[at] == sizes[-1]:
            sizes.pop()
            kept[at] = True
    return kept


def _buffer(shape: _Shape, card: Grid) -> int:
    vector = 1
    if shape.along_fastest:
        wide, high = shape.inputs, shape.outputs
        if shape.unit_stride and shape.merged and wide > SMALLEST_VECTORIZED:
            wide //= VECTOR
    else:
        wide, high = shape.outputs, shape.inputs
        if shape.unit_stride and shape.outputs % VECTOR == 0:
            vector = VECTOR
            wide //= VECTOR
    width, height = _block(wide, high, THREADS // vector)
    step_input, step_output = (width, 1) if shape.along_fastest else (1, width)
    if _up(shape.inputs, step_input) < min(height * LEAST_PER_THREAD, MOST_PER_THREAD):
        return 0
    step_input *= height
    per_thread = _up(shape.inputs, step_input)
    grid = _up(shape.outputs // vector, step_output)
    target = card.multiprocessors * (card.resident_threads // (width * height))
    if per_thread < MOST_PER_THREAD or grid > target:
        return 0
    blocks = max(
        min(_up(target, grid), _up(per_thread, LEAST_PER_THREAD)),
        _up(per_thread, MOST_PER_THREAD),
    )
    if blocks <= 1:
        return 0
    size = ACCUMULATOR * shape.outputs * blocks
    return size if shape.along_fastest else size * width * vector


def _block(wide: int, high: int, threads: int) -> tuple[int, int]:
    """set_block_dimension."""
    wide = _last_power(wide) if wide < threads else threads
    high = _last_power(high) if high < threads else threads
    width = min(wide, WARP)
    height = min(high, threads // width)
    return min(wide, threads // height), height


def _last_power(n: int) -> int:
    return 1 << max(0, n.bit_length() - 1)


def _up(a: int, b: int) -> int:
    return -(-a // b)


def is_reduction(name: str, args: tuple[Any, ...], out: Any) -> bool:
    """Whether an operation reduces its first argument by TensorIterator's kernel."""
    both = name in REDUCTIONS and isinstance(out, torch.Tensor)
    return both and bool(args) and isinstance(args[0], torch.Tensor)
