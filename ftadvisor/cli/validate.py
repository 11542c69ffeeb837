"""`ftadvisor validate`: predictions beside published measurements."""

from __future__ import annotations

from typing import Any

from ftadvisor.cli.aside import said_aside
from ftadvisor.cli.command import Argument, Command, Group, Option
from ftadvisor.cli.options import JSON, SIMULATE
from ftadvisor.cli.printing import print_answer
from ftadvisor.cli.progress import naming
from ftadvisor.cli.values import text

BY = Option("by", text, "WHAT", "Group the errors by source, technique or gpu (default: source).")
BOUNDS_BROKEN = 1


def run(given: dict[str, Any]) -> int:
    """Print the report; 1 when a stated bound does not hold, else 0."""
    from ftadvisor import api
    from ftadvisor.render.validation import report_document

    simulate = given.get("simulate", False)
    with said_aside():
        report = api.validate(
            given.get("file"), given.get("by"), simulate=simulate, progress=naming
        )
    print_answer(report, lambda: report_document(report), as_json=given.get("json", False))
    return 0 if report.holds else BOUNDS_BROKEN


COMMAND = Command(
    name="validate",
    summary="How wrong are the predictions? Every published measurement, predicted and compared.",
    usage="validate [FILE.jsonl] [--by source|technique|gpu] [--simulate]",
    arguments=(
        Argument(
            "file",
            "FILE.jsonl",
            "Measurements in the format of data/measurements/FORMAT.md (default: the repository's "
            "own, held to its stated bounds).",
        ),
    ),
    groups=(Group("Output", (BY, SIMULATE, JSON)),),
    examples=(
        ("ftadvisor validate", "the repository's own rows"),
        ("ftadvisor validate --by technique", "where is it worst?"),
        ("ftadvisor validate rows.jsonl --simulate", "how wrong is the simulated step?"),
    ),
    run=run,
    details="The exit code is 1 when one of the repository's bounds does not hold.",
)
