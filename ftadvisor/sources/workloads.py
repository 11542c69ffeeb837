"""Workloads that no file says: the reference one, and a token count."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from ftadvisor.errors import DataFileError, quoted
from ftadvisor.schema.workload import Workload
from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.field_checks import POSITIVE, TEXT, check_row, rows_by_id

REFERENCE_WORKLOAD = "alpaca"
_FILE = "workloads.json"
_NUMBERS = (
    "num_examples", "mean_tokens", "longest_tokens", "padded_over_mean", "num_train_epochs",
)  # fmt: skip
_NEEDED = {"id": TEXT, "source": TEXT} | dict.fromkeys(_NUMBERS, POSITIVE)
_OPTIONAL = {"checked": TEXT, "padding_source": TEXT}


@cache
def reference_workload(num_train_epochs: float | None = None) -> Workload:
    """What estimates are for when no dataset is given; for its own number of epochs or another."""
    row = _row(REFERENCE_WORKLOAD)
    return Workload(
        name=row["id"],
        num_examples=row["num_examples"],
        mean_tokens=row["mean_tokens"],
        longest_tokens=row["longest_tokens"],
        padded_over_mean=row["padded_over_mean"],
        num_train_epochs=num_train_epochs or row["num_train_epochs"],
    )


def check_workloads() -> None:
    """Raise DataFileError at the first row of the file that cannot be right."""
    for id_ in (REFERENCE_WORKLOAD, *rows_by_id(_FILE, read_json(_FILE))):
        _row(id_)


@cache
def _row(id_: str) -> dict[str, Any]:
    rows = rows_by_id(_FILE, read_json(_FILE))
    if id_ not in rows:
        raise DataFileError(_FILE, None, "id", f"no row has {quoted(id_)}", f'{{"id": "{id_}"}}')
    return check_row(_FILE, id_, rows[id_], _NEEDED, _OPTIONAL)


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
