"""Training programs by name: `data/trainers.json` to records."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from ftadvisor.errors import UnknownNameError
from ftadvisor.schema.trainer import Trainer
from ftadvisor.sources.data_files import read_json

DEFAULT_TRAINER = "trl-1.16"
"""What ftadvisor itself runs."""
TRAINERS_OF_OBJECTIVES = {
    "seq_cls": "transformers-5",
    "token_cls": "transformers-5",
    "seq2seq": "transformers-5",
}
"""What it runs where TRL has no trainer."""


@cache
def trainer_rows() -> dict[str, dict[str, Any]]:
    """The file's rows by id."""
    return {row["id"]: row for row in read_json("trainers.json")}


@cache
def find_trainer(name: str = DEFAULT_TRAINER) -> Trainer:
    """The trainer of that id. Raises UnknownNameError with near misses."""
    rows = trainer_rows()
    row = rows.get(name) or rows.get(name.strip().lower().replace("_", "-"))
    if row is None:
        raise UnknownNameError("trainer", name, list(rows), see="ftadvisor list trainers")
    facts: dict[str, Any] = {key: fact["value"] for key, fact in row["facts"].items()}
    facts = {k: tuple(cast("list[Any]", v)) if isinstance(v, list) else v for k, v in facts.items()}
    return Trainer(
        id=row["id"],
        framework=row["framework"],
        versions=row["versions"],
        defaults=row["defaults"],
        objective_defaults=row.get("objective_defaults", {}),
        measured=bool(row["published_as"]),
        **facts,
    )
