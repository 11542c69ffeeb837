"""`ftadvisor selfcheck`: the closed form beside the simulated step, over many architectures."""

from __future__ import annotations

from typing import Any

from ftadvisor.cli.aside import said_aside
from ftadvisor.cli.command import Command, Group, Option
from ftadvisor.cli.options import JSON
from ftadvisor.cli.printing import print_answer
from ftadvisor.cli.progress import naming
from ftadvisor.cli.values import text

ARCHITECTURE = Option(
    "architecture",
    text,
    "NAME",
    "Only these (llama, mixtral, gemma3 ...).",
    many=True,
    also=("model", "only"),
)
BOUNDS_BROKEN = 1


def run(given: dict[str, Any]) -> int:
    """Print the comparison; 1 when a stated bound does not hold, else 0."""
    from ftadvisor import api
    from ftadvisor.render.selfcheck import selfcheck_document

    with said_aside():
        found = api.selfcheck(given.get("architecture"), progress=naming)
    print_answer(found, lambda: selfcheck_document(found), as_json=given.get("json", False))
    return 0 if found.holds else BOUNDS_BROKEN


COMMAND = Command(
    name="selfcheck",
    summary="The closed form's memory beside the simulated step's, over many architectures and "
    "settings. Needs pip install 'ftadvisor[run]'.",
    usage="selfcheck [--architecture NAME ...]",
    arguments=(),
    groups=(Group("Output", (ARCHITECTURE, JSON)),),
    examples=(("ftadvisor selfcheck --architecture gpt2 bert", "do both agree on these?"),),
    run=run,
    details="Small models of real architectures, each with the techniques, precisions and "
    "checkpointing that change what a step keeps. The exit code is 1 when a stated bound does not "
    "hold. It takes minutes.",
)
