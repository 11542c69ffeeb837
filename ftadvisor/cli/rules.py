"""`ftadvisor rules`: what a recommendation rests on."""

from __future__ import annotations

from typing import Any

from ftadvisor.cli.command import Argument, Command, Group, Option
from ftadvisor.cli.options import JSON
from ftadvisor.cli.printing import print_answer
from ftadvisor.cli.values import text
from ftadvisor.cli.wishes import RULES

ABOUT = Option(
    "for",
    text,
    "WORD",
    "Only rules about all of these: a technique, topic, use case, objective, setting, layer "
    "(physics, user, evidence, convention) or grade of evidence (recalled).",
    many=True,
    also=("about", "topic", "use_case", "technique"),
)


def run(given: dict[str, Any]) -> int:
    """Print the rules; always 0."""
    from ftadvisor.api.rules import list_rules
    from ftadvisor.render.rules import rules_document

    pattern = given.get("pattern")
    rows = list_rules(pattern, about=given.get("for", ()), rules=given.get("rules"))
    print_answer(
        {"rules": rows}, lambda: rules_document(rows, pattern), as_json=given.get("json", False)
    )
    return 0


COMMAND = Command(
    name="rules",
    summary="The rules that a recommendation rests on: when each holds, and how well it is known.",
    usage="rules [PATTERN] [--for WORD ...] [--rules FILE]",
    arguments=(
        Argument("pattern", "PATTERN", "Only rules whose id, reason, figures or source hold this."),
    ),
    groups=(Group("Which, and output", (ABOUT, RULES, JSON)),),
    examples=(
        ("ftadvisor rules --for qlora", "what is known of QLoRA?"),
        ("ftadvisor rules --for learning_rate dpo", "which learning rates for DPO, and why?"),
        ("ftadvisor rules --for recalled", "which figures has nobody checked?"),
        ("ftadvisor rules arXiv:2405.09673", "what rests on this paper?"),
    ),
    run=run,
)
