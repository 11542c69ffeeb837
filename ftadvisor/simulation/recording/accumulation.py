"""Where autograd adds a gradient to another in place."""

from __future__ import annotations

import inspect
from typing import Any

from ftadvisor.simulation.stack import torch

ENGINE = "_engine_run_backward"
FRAMES = 6
"""Between a dispatch mode and the code that called the operation."""
OWNERS = 4
"""Of a tensor that the engine alone holds: buffer, dispatcher, Python's wrapper, the call."""
STORAGE_OWNERS = 2
"""Of its storage: the tensor, and the object that asks."""


def adds_in_place(args: tuple[Any, ...]) -> bool:
    """Whether an addition is the engine's own, of a gradient that nobody else holds.

    Two uses of a tensor give it two gradients, whose sum takes no memory of its own
    (torch/csrc/autograd/input_buffer.cpp, can_accumulate_inplace). Under a dispatch mode, which the
    recorder is, the engine adds out of place instead.
    """
    if torch.is_grad_enabled() or len(args) != 2 or not from_engine():
        return False
    first, second = args
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return False
    alone = first._use_count() <= OWNERS and first.shape == second.shape
    storage = first.untyped_storage()
    only = torch._C._storage_Use_Count(storage._cdata) <= STORAGE_OWNERS
    return alone and only and first.dtype == second.dtype and _dense(first)


def from_engine() -> bool:
    """Whether autograd itself, and no function in Python, runs the operation."""
    frame = inspect.currentframe()
    for _ in range(FRAMES):
        frame = frame.f_back if frame is not None else None
        if frame is None:
            return False
        if frame.f_code.co_name == ENGINE:
            return True
    return False


def _dense(tensor: Any) -> bool:
    """is_non_overlapping_and_dense."""
    expected = 1
    for size, stride in sorted(
        zip(tensor.shape, tensor.stride(), strict=True), key=lambda pair: pair[1]
    ):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True
