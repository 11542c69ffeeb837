"""A dataset's size for an estimate, from the same reader as its profile."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, cast

from ftadvisor.schema.dataset import DataFormat
from ftadvisor.schema.workload import Workload
from ftadvisor.sources.datasets.blocks import Meter
from ftadvisor.sources.datasets.examples import Example, example_of
from ftadvisor.sources.datasets.files import find_splits
from ftadvisor.sources.datasets.formats import layout_of
from ftadvisor.sources.datasets.profile import counted
from ftadvisor.sources.datasets.readers import rows_of
from ftadvisor.sources.datasets.tokens import characters_per_token, non_latin_share

FIRST_ROWS = 100


def first_format(path: Path) -> DataFormat | None:
    """The format of the first usable row; None: none near the start has one that is known.

    Raises a FtadvisorError for a path that is no dataset.
    """
    training, _ = find_splits(path.expanduser())
    for _, value in islice(rows_of(training.files[0], Meter(None, 0)), FIRST_ROWS):
        row: Any = value
        layout = layout_of(cast("dict[str, Any]", row)) if row.__class__ is dict else None
        example = example_of(row, layout) if layout else None
        if isinstance(example, Example):
            return example.format
    return None


def read_workload(path: Path, num_train_epochs: float) -> Workload:
    """Sizes of a dataset, its tokens estimated from characters.

    Rows of no known format count too, with all strings in them. Raises a FtadvisorError for a path
    that is no dataset and for one without a usable row.
    """
    training, _ = find_splits(path.expanduser())
    census = counted(training, Meter(None, 0), estimate_only=True)
    ratio, error = characters_per_token(non_latin_share(census.sample.rows()))
    return Workload(
        name=path.resolve().name,
        num_examples=census.num_examples,
        mean_tokens=census.mean / ratio,
        longest_tokens=census.longest / ratio,
        deviation_tokens=census.deviation / ratio,
        num_train_epochs=num_train_epochs,
        token_error=error,
        characters_per_token=ratio,
        broken_rows=census.broken_rows,
    )
