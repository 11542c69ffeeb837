"""`ftadvisor probe`: short real steps on this machine."""

from __future__ import annotations

from typing import Any

from ftadvisor.cli.aside import said_aside
from ftadvisor.cli.command import Argument, Command, Group
from ftadvisor.cli.options import JSON, SETTINGS
from ftadvisor.cli.printing import print_answer


def run(given: dict[str, Any]) -> int:
    """Probe the machine, or a plan on it; always 0."""
    from ftadvisor.api.probing import probe, probe_machine
    from ftadvisor.render.probe import machine_document, probe_document

    as_json = given.pop("json", False)
    with said_aside():
        if not given:
            machine = probe_machine()
            print_answer(machine, lambda: machine_document(machine), as_json=as_json)
            return 0
        found = probe(**given)
    print_answer(found, lambda: probe_document(found), as_json=as_json)
    return 0


COMMAND = Command(
    name="probe",
    summary="A minute of real steps on this machine, after which estimates for it are sharper. "
    "Needs pip install 'ftadvisor[run]'.",
    usage="probe [PLAN.yaml] [--model MODEL --technique T] [options]",
    arguments=(
        Argument(
            "plan",
            "PLAN.yaml",
            "A plan. Without it and without --model the machine itself is probed.",
        ),
    ),
    groups=(*SETTINGS, Group("Output", (JSON,))),
    examples=(
        ("ftadvisor probe", "what does this machine do at its best?"),
        ("ftadvisor probe plan.yaml", "what will this plan take here?"),
        ("ftadvisor probe --model llama3.1-8b --technique qlora", "the same without a plan"),
    ),
    run=run,
    details="A plan is probed with its model's real layers, but two and four of them, with random "
    "weights: nothing is downloaded. The plan's technique, quantisation, batch and length are its "
    "own. The measurement is kept in the user's data directory (FTADVISOR_HOME overrides it), and "
    "`ftadvisor estimate` uses it from then on.",
)
