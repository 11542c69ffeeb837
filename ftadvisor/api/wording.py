"""What is trained on, in words."""

from __future__ import annotations

from functools import lru_cache

from ftadvisor.schema.workload import Workload
from ftadvisor.units import format_count


@lru_cache
def said_of(workload: Workload, mean_length: float | None) -> str:
    """What is trained on, in one sentence; with a mean length of the user's, as long samples."""
    padding = workload.padded_over_mean
    sorted_by_length = f", {padding - 1:.0%} padding" if padding else ""
    epochs = f"{workload.num_train_epochs:g} epoch" + "s" * (workload.num_train_epochs != 1)
    error = workload.token_error
    guessed = (
        f", a token taken to be {workload.characters_per_token:.3g} characters (±{error:.0%})"
        if workload.characters_per_token
        else ""
    )
    broken = workload.broken_rows
    left_out = f"; {broken:,} rows that cannot be used are left out" if broken else ""
    mean = mean_length or workload.mean_tokens
    as_many = "as many tokens as " if mean_length else ""
    examples = f"{workload.num_examples * workload.mean_tokens / mean:,.0f}"
    return (
        f"time and cost are for {as_many}{workload.name}: {examples} example"
        f"{'s' * (examples != '1')} of {mean:.0f} tokens on average, {epochs},"
        f" {format_count(workload.num_tokens)} tokens{sorted_by_length}{guessed}{left_out}"
    )
