"""Optimizers and objectives with what they are: `data/optimizers.json`, `data/objectives.json`."""

from __future__ import annotations

from functools import cache
from typing import Any

from ftadvisor.errors import UnknownNameError
from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.field_checks import NAMES, TEXT, Kind, check_row, rows_by_id

LIST = "ftadvisor list optimizers"


@cache
def optimizer_rows() -> dict[str, dict[str, Any]]:
    """The rows of the file by id, the best known first."""
    needed = {"id": TEXT, "sentence": TEXT, "also": NAMES}
    return _checked("optimizers.json", "optimizers", needed)


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
    needed = {"id": TEXT, "name": TEXT, "sentence": TEXT}
    return list(_checked("objectives.json", "objectives", needed).values())


def _checked(file: str, place: str, needed: dict[str, Kind]) -> dict[str, dict[str, Any]]:
    content = read_json(file)
    rows = rows_by_id(file, content.get(place) if isinstance(content, dict) else None, place)  # pyright: ignore[reportUnknownMemberType]
    return {id_: check_row(file, id_, row, needed) for id_, row in rows.items()}
