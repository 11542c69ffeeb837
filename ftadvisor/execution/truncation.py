"""Examples that max_length cuts: a model that is taught by them never learns where answers end."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ftadvisor.execution.training import Training

TOKENS = "input_ids"


def say_truncated(of: Training, trainer: Any) -> None:
    """How many examples fill max_length: the libraries cut what is longer, and say nothing."""
    data, longest = trainer.train_dataset, of.settings.max_length
    if of.settings.packing or of.plan.objective == "cpt":
        # Joined examples fill it by design.
        return
    if TOKENS not in (getattr(data, "column_names", None) or ()):
        return
    arrow: Any = import_module("pyarrow.compute")
    lengths = arrow.list_value_length(data.with_format("arrow")[TOKENS])
    count = arrow.sum(arrow.greater_equal(lengths, int(longest))).as_py()
    if count:
        of.journal.say(
            "data",
            f"{count:,} of {len(data):,} examples fill max_length {longest}: what a longer one has"
            " beyond it is cut off",
        )
