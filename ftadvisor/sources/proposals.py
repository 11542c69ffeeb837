"""Models to propose where none is named: `data/starting_models.json`."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from ftadvisor.sources.data_files import read_json
from ftadvisor.sources.models import catalogue_row


class Proposal(NamedTuple):
    """A model that many start from."""

    model: str
    use_cases: tuple[str, ...]
    multilingual: bool
    why: str
    license: str
    context: int


@cache
def permissive_licenses() -> frozenset[str]:
    """Licences that allow any use."""
    return frozenset(read_json("starting_models.json")["permissive"])


@cache
def all_proposals() -> tuple[Proposal, ...]:
    """All rows, the ones to try first first."""
    found: list[Proposal] = []
    for row in read_json("starting_models.json")["models"]:
        facts: dict[str, Any] = catalogue_row(row["model"]) or {}
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
