"""Work beside the training that must not change it."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from ftadvisor.execution import stack


@contextmanager
def same_randomness() -> Generator[None]:
    """Every generator that training draws from is afterwards as it was: a data loader draws a seed
    from torch's even in an evaluation (torch 2.13 utils/data/dataloader.py, _BaseDataLoaderIter).
    """
    cuda = stack.torch.cuda
    python, numpy, torch = (
        random.getstate(), stack.numpy.random.get_state(), stack.torch.get_rng_state(),
    )  # fmt: skip
    gpus: Any = cuda.get_rng_state_all() if cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        stack.numpy.random.set_state(numpy)
        stack.torch.set_rng_state(torch)
        if gpus:
            cuda.set_rng_state_all(gpus)


def evaluate_apart(trainer: Any) -> None:
    """Evaluations, in the middle of the training too, leave its losses as they would be without."""
    evaluate = trainer.evaluate

    def evaluated(*args: Any, **options: Any) -> Any:
        with same_randomness():
            return evaluate(*args, **options)

    trainer.evaluate = evaluated
