"""Training programs by name: `data/trainers.json` to records."""

from __future__ import annotations

from functools import cache
from typing import Any, cast, get_args

from ftadvisor.errors import UnknownNameError
from ftadvisor.schema.settings import Dtype, Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.field_checks import (
    NAMES,
    OBJECT,
    SWITCH,
    TEXT,
    check_row,
    listed,
    one_of,
    record_kinds,
    rows_by_id,
)

DEFAULT_TRAINER = "trl-1.16"
"""What ftadvisor itself runs."""
TRAINERS_OF_OBJECTIVES = {
    "seq_cls": "transformers-5",
    "token_cls": "transformers-5",
    "seq2seq": "transformers-5",
}
"""What it runs where TRL has no trainer."""

_FILE = "trainers.json"
_NEEDED = {
    "id": TEXT, "framework": TEXT, "versions": TEXT, "facts": OBJECT, "defaults": OBJECT,
    "published_as": listed(OBJECT, "objects"),
}  # fmt: skip
_OPTIONAL = {
    "checked": TEXT,
    "note": TEXT,
    "facts_about_defaults": OBJECT,
    "measured": SWITCH,
    "objective_defaults": OBJECT,
}
_RULE = {
    "framework_config": TEXT, "id_prefix": NAMES, "transformers_min": TEXT,
    "transformers_max": TEXT,
}  # fmt: skip
_OWN_DEFAULTS = {"trained_weights_dtype": one_of((*get_args(Dtype), "checkpoint"))}
"""Defaults that are no settings."""
_NOT_FACTS = (
    "id", "framework", "versions", "measured", "stand_in", "defaults", "objective_defaults",
    "cpu_kernels",
)  # fmt: skip
"""Fields of the record that the row has elsewhere, or not at all."""


@cache
def trainer_rows() -> dict[str, dict[str, Any]]:
    """The file's rows by id."""
    rows = rows_by_id(_FILE, read_json(_FILE))
    return {id_: check_row(_FILE, id_, row, _NEEDED, _OPTIONAL) for id_, row in rows.items()}


def check_trainers() -> None:
    """Raise DataFileError at the first row of the file that cannot be right."""
    for id_ in trainer_rows():
        find_trainer(id_)


@cache
def find_trainer(name: str = DEFAULT_TRAINER, *, on_cpu: bool = False) -> Trainer:
    """The trainer of that id, as it runs on a GPU or on a processor. Raises UnknownNameError with
    near misses."""
    rows = trainer_rows()
    row = rows.get(name) or rows.get(name.strip().lower().replace("_", "-"))
    if row is None:
        raise UnknownNameError("trainer", name, list(rows), see="ftadvisor list trainers")
    facts: dict[str, Any] = _facts(row)
    for number, rule in enumerate(row["published_as"], start=1):
        place = f"published_as.{number}"
        check_row(_FILE, row["id"], rule, {"framework": TEXT}, _RULE, inside=place)
    kinds = record_kinds(Settings) | _OWN_DEFAULTS
    check_row(_FILE, row["id"], row["defaults"], {}, kinds, inside="defaults")
    facts = {k: tuple(cast("list[Any]", v)) if isinstance(v, list) else v for k, v in facts.items()}
    return Trainer(
        id=row["id"],
        framework=row["framework"],
        versions=row["versions"],
        cpu_kernels=on_cpu,
        defaults=row["defaults"],
        objective_defaults=row.get("objective_defaults", {}),
        # Most programs that a name is published for are those that rows were published of.
        measured=row.get("measured", bool(row["published_as"])),
        **facts,
    )


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    """What is known of the loop, by the record's field; each with the line that shows it."""
    kinds = {name: kind for name, kind in record_kinds(Trainer).items() if name not in _NOT_FACTS}
    entries = dict.fromkeys(kinds, OBJECT)
    found = check_row(_FILE, row["id"], row["facts"], {}, entries, inside="facts")
    for name, fact in found.items():
        needed = {"value": kinds[name], "source": TEXT}
        check_row(_FILE, row["id"], fact, needed, inside=f"facts.{name}")
    return {name: fact["value"] for name, fact in found.items()}
