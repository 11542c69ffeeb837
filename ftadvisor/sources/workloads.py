"""Workloads that no file says: the reference one, and a token count."""

from __future__ import annotations

from functools import cache

from ftadvisor.schema.workload import Workload
from ftadvisor.sources.data_files import read_json

REFERENCE_WORKLOAD = "alpaca"


@cache
def reference_workload(num_train_epochs: float | None = None) -> Workload:
    """What estimates are for when no dataset is given; for its own number of epochs or another."""
    row = next(r for r in read_json("workloads.json") if r["id"] == REFERENCE_WORKLOAD)
    return Workload(
        name=row["id"],
        num_examples=row["num_examples"],
        mean_tokens=row["mean_tokens"],
        longest_tokens=row["longest_tokens"],
        num_train_epochs=num_train_epochs or row["num_train_epochs"],
    )


def token_workload(num_tokens: float, num_train_epochs: float) -> Workload:
    """`num_tokens` in all, in examples like the reference's."""
    mean = reference_workload().mean_tokens
    return Workload(
        name=f"{num_tokens:g} tokens",
        num_examples=num_tokens / mean / num_train_epochs,
        mean_tokens=mean,
        longest_tokens=reference_workload().longest_tokens,
        num_train_epochs=num_train_epochs,
    )
