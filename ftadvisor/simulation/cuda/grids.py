"""How many thread blocks a GPU runs at once, which sizes the buffers of divided sums."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from ftadvisor.schema.hardware import Gpu
from ftadvisor.sources.gpus import all_gpus

USUAL_CAPABILITY = (8, 0)
"""Of the GPU that is simulated where none is named: an A100."""


class Grid(NamedTuple):
    """What a kernel's grid is sized by."""

    multiprocessors: int
    resident_threads: int
    """At most, on one of them."""


def grid_of(gpu: Gpu | None, compute_capability: tuple[int, int]) -> Grid:
    """A GPU's own; where its number is unknown that of the largest one of its kind."""
    own = None if gpu is None else _grid(gpu)
    return own or largest_grid(compute_capability) or _a100()


@cache
def largest_grid(compute_capability: tuple[int, int]) -> Grid | None:
    """Of the GPUs with this compute capability; None: of none is it known."""
    named = ".".join(map(str, compute_capability))
    found = [_grid(gpu) for gpu in all_gpus() if gpu.compute_capability == named]
    return max((grid for grid in found if grid is not None), default=None)


def assumed_grid(gpu: Gpu | None, compute_capability: tuple[int, int]) -> str | None:
    """What is taken for granted about a GPU's multiprocessors; None: nothing."""
    if gpu is None or gpu.multiprocessors:
        return None
    taken = grid_of(gpu, compute_capability).multiprocessors
    whose = "largest GPU of its compute capability" if largest_grid(compute_capability) else "A100"
    return f"simulated with {taken} multiprocessors, the {whose}'s: {gpu.name}'s are not known"


def _grid(gpu: Gpu) -> Grid | None:
    if not gpu.multiprocessors or not gpu.resident_threads:
        return None
    return Grid(gpu.multiprocessors, gpu.resident_threads)


def _a100() -> Grid:
    found = largest_grid(USUAL_CAPABILITY)
    assert found is not None
    return found
