"""`ftadvisor explain`: one rule and its source."""

from __future__ import annotations

from typing import Any

from ftadvisor.cli.command import Argument, Command, Group
from ftadvisor.cli.options import JSON
from ftadvisor.cli.printing import print_answer
from ftadvisor.cli.wishes import RULES


def run(given: dict[str, Any]) -> int:
    """Print one rule; always 0."""
    from ftadvisor.api.rules import explain_rule
    from ftadvisor.render.rules import rule_document

    row = explain_rule(given["rule"], rules=given.get("rules"))
    print_answer({"rule": row}, lambda: rule_document(row), as_json=given.get("json", False))
    return 0


COMMAND = Command(
    name="explain",
    summary="One rule: when it holds, what it does, the figures, who says so, and who disagrees.",
    usage="explain RULE [--rules FILE]",
    arguments=(
        Argument("rule", "RULE", "Its id, as `recommend` and `rules` print it.", required=True),
    ),
    groups=(Group("Rules and output", (RULES, JSON)),),
    examples=(("ftadvisor explain lora-default", "why LoRA?"),),
    run=run,
)
