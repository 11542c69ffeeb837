"""Workloads that no file says: the reference one, and a token count."""

from __future__ import annotations

from dataclasses import replace
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
        padded_over_mean=row["padded_over_mean"],
        num_train_epochs=num_train_epochs or row["num_train_epochs"],
    )


def token_workload(num_tokens: float, num_train_epochs: float) -> Workload:
    """`num_tokens` in all, in examples like the reference's."""
    reference = reference_workload()
    examples = num_tokens / reference.mean_tokens / num_train_epochs
    return replace(
        reference,
        name=f"{num_tokens:g} tokens",
        num_examples=examples,
        num_train_epochs=num_train_epochs,
    )
