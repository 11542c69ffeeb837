"""`ftadvisor measurements`: what was measured on this machine."""

from __future__ import annotations

from typing import Any

from ftadvisor.cli.command import Command, Group
from ftadvisor.cli.options import JSON
from ftadvisor.cli.printing import print_answer


def run(given: dict[str, Any]) -> int:
    """Print the user's own rows; always 0."""
    from ftadvisor.render.probe import measurements_document
    from ftadvisor.sources.records import read_records

    found = read_records()
    answer = {
        "file": str(found.path),
        "measurements": list(found.rows),
        "problems": list(found.problems),
    }
    print_answer(
        answer,
        lambda: measurements_document(found.rows, found.problems),
        as_json=given.get("json", False),
    )
    return 0


COMMAND = Command(
    name="measurements",
    summary="What probes and runs measured on this machine.",
    usage="measurements",
    arguments=(),
    groups=(Group("Output", (JSON,)),),
    examples=(("ftadvisor measurements", "what was measured here?"),),
    run=run,
)
