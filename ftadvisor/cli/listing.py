"""`ftadvisor list`: what the catalogues hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ftadvisor.cli.command import Argument, Command, Group
from ftadvisor.cli.options import JSON
from ftadvisor.cli.printing import print_answer
from ftadvisor.errors import near_misses

KINDS = ("models", "gpus", "techniques", "objectives", "optimizers", "trainers", "prices")


def run(given: dict[str, Any]) -> int:
    """Print the rows whose names hold the pattern; always 0."""
    from ftadvisor import api
    from ftadvisor.render.listing import listing_document

    listed = {
        "models": api.list_models,
        "gpus": api.list_gpus,
        "techniques": api.list_techniques,
        "objectives": api.list_objectives,
        "optimizers": api.list_optimizers,
        "trainers": api.list_trainers,
        "prices": api.list_prices,
    }
    kind: str = given["kind"]
    pattern = given.get("pattern")
    rows = listed[kind](pattern)
    near = near_misses(pattern, _names(listed[kind]())) if pattern and not rows else ()
    print_answer(
        {kind: rows},
        lambda: listing_document(kind, rows, pattern, near),
        as_json=given.get("json", False),
    )
    return 0


def _names(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield from (row.get("id") or row["gpu"], *row.get("aliases", ()))


COMMAND = Command(
    name="list",
    summary="What has a name here: models, GPUs, techniques, objectives, optimizers, trainers and "
    "prices.",
    usage=f"list {'|'.join(KINDS)} [PATTERN]",
    arguments=(
        Argument("kind", "|".join(KINDS), "Which catalogue.", required=True, choices=KINDS),
        Argument(
            "pattern", "PATTERN", "Only names that hold this; case and punctuation do not count."
        ),
    ),
    groups=(Group("Output", (JSON,)),),
    examples=(
        ("ftadvisor list gpus 4090", "is my card known?"),
        ("ftadvisor list models llama-3", "what are its names?"),
        ("ftadvisor list techniques", "what can be trained?"),
        ("ftadvisor list prices h100", "what does an hour cost, and where?"),
    ),
    run=run,
)
