"""Models to propose where none is named: `data/starting_models.json`."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, get_args

from ftadvisor.errors import DataFileError, quoted
from ftadvisor.schema.situation import UseCase
from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.field_checks import NAMES, OBJECT, SWITCH, TEXT, check_row, listed, one_of
from ftadvisor.sources.models import catalogue_row

_FILE = "starting_models.json"


class Proposal(NamedTuple):
    """A model that many start from."""

    model: str
    use_cases: tuple[str, ...]
    multilingual: bool
    why: str
    license: str
    context: int


@cache
def _content() -> dict[str, Any]:
    kinds = {
        "about": TEXT,
        "checked": TEXT,
        "source": TEXT,
        "permissive": NAMES,
        "models": listed(OBJECT, "rows"),
    }
    return check_row(_FILE, None, read_json(_FILE), kinds)


@cache
def permissive_licenses() -> frozenset[str]:
    """Licences that allow any use."""
    return frozenset(_content()["permissive"])


@cache
def all_proposals() -> tuple[Proposal, ...]:
    """All rows, the ones to try first first."""
    found: list[Proposal] = []
    kinds = {
        "model": TEXT,
        "use_cases": listed(one_of(get_args(UseCase)), "use cases"),
        "multilingual": SWITCH,
        "why": TEXT,
    }
    for number, row in enumerate(_content()["models"], start=1):
        check_row(_FILE, f"number {number}", row, kinds)
        facts: dict[str, Any] | None = catalogue_row(row["model"])
        if facts is None:
            raise DataFileError(
                _FILE, f"number {number}", "model", f"is {quoted(row['model'])}", "a catalogue id"
            )
        found.append(
            Proposal(
                row["model"],
                tuple(row["use_cases"]),
                row["multilingual"],
                row["why"],
                str(facts.get("license")),
                int(facts.get("context") or 0),
            )
        )
    return tuple(found)
