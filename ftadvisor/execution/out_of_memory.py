"""Too little memory: the same batch in smaller pieces."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace

from ftadvisor.execution import stack
from ftadvisor.schema.settings import Settings

WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)
"""Of RuntimeErrors: the CUDA runtime's own, the CPU allocator's (c10/core/impl/alloc_cpu.cpp:
"can't allocate memory" on Linux, "not enough memory" on Windows), and those of libraries that
allocate their workspaces themselves."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it, or what it was raised from, says that memory ran out."""
    return any(
        isinstance(e, (MemoryError, stack.torch.OutOfMemoryError))
        or (isinstance(e, RuntimeError) and any(words in str(e) for words in WORDS))
        for e in _chain(error)
    )


def halved(settings: Settings) -> Settings | None:
    """The same effective batch of micro-batches that are half as large, or the next divisor below;
    None: there is none. KTO compares the examples of a micro-batch, and needs two.
    """
    size = settings.micro_batch_size
    least = 2 if settings.objective == "kto" else 1
    smaller = next((n for n in range(size // 2, least - 1, -1) if size % n == 0), None)
    if smaller is None:
        return None
    steps = settings.gradient_accumulation_steps * (size // smaller)
    return replace(settings, micro_batch_size=smaller, gradient_accumulation_steps=steps)


def free_memory() -> None:
    """What the failed attempt still holds; no frame of its traceback may be alive."""
    gc.collect()
    if stack.torch.cuda.is_available():
        stack.torch.cuda.empty_cache()
        stack.torch.cuda.reset_peak_memory_stats()


def _chain(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
