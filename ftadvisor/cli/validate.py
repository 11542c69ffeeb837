"""`ftadvisor validate`: predictions beside published measurements."""

from __future__ import annotations

from typing import Any

from ftadvisor.cli.command import Argument, Command, Group, Option
from ftadvisor.cli.options import JSON
from ftadvisor.cli.values import text

BY = Option("by", text, "WHAT", "Group the errors by source, technique or gpu (default: source).")
BOUNDS_BROKEN = 1


def run(given: dict[str, Any]) -> int:
    """Print the report; 1 when a stated bound does not hold, else 0."""
    from ftadvisor import api

    report = api.validate(given.get("file"), given.get("by"))
    if given.get("json"):
        from ftadvisor.render.serial import as_json

        print(as_json(report))
    else:
        from ftadvisor.render.terminal import print_document
        from ftadvisor.render.validation import report_document

        print_document(report_document(report))
    return 0 if report.holds else BOUNDS_BROKEN


COMMAND = Command(
    name="validate",
    summary="How wrong are the predictions? Every published measurement, predicted and compared.",
    usage="validate [FILE.jsonl] [--by source|technique|gpu]",
    arguments=(
        Argument(
            "file",
            "FILE.jsonl",
            "Measurements in the format of data/measurements/FORMAT.md (default: the repository's "
            "own, held to its stated bounds).",
        ),
    ),
    groups=(Group("Output", (BY, JSON)),),
    examples=(
        ("ftadvisor validate", "the repository's own rows"),
        ("ftadvisor validate --by technique", "where is it worst?"),
    ),
    run=run,
    details="The exit code is 1 when one of the repository's bounds does not hold.",
)
