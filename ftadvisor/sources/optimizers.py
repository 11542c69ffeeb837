"""Optimizers and objectives with what they are: `data/optimizers.json`, `data/objectives.json`."""

from __future__ import annotations

from functools import cache
from typing import Any

from ftadvisor.errors import UnknownNameError
from ftadvisor.sources.data_files import read_json

LIST = "ftadvisor list optimizers"


@cache
def optimizer_rows() -> dict[str, dict[str, Any]]:
    """The rows of the file by id, the best known first."""
    return {row["id"]: row for row in read_json("optimizers.json")["optimizers"]}


def check_optimizer(name: str) -> None:
    """Raise UnknownNameError, with what is meant by an old or loose name, for one unknown."""
    rows = optimizer_rows()
    if name in rows:
        return
    error = UnknownNameError("optimizer", name, rows, see=LIST)
    meant = [id_ for id_, row in rows.items() if name.strip().lower() in row["also"]]
    error.suggestions = tuple(dict.fromkeys([*meant, *error.suggestions]))
    raise error


def objective_rows() -> list[dict[str, Any]]:
    """What a training can be for, as rows."""
    rows: list[dict[str, Any]] = read_json("objectives.json")["objectives"]
    return rows
