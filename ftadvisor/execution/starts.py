"""What LoRA's matrices start as: starts that take from the base, and starts that a run cannot make.

PiSSA and OLoRA cut their matrices out of the base's weights and leave the rest there (peft 0.21.2
tuners/lora/layer.py, pissa_init and olora_init): the model with its adapter is the base at first,
and without it never again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftadvisor.errors import UnsupportedError
from ftadvisor.schema.report import Event

if TYPE_CHECKING:
    from ftadvisor.execution.preflight import Subject

START = "init_lora_weights"
TAKING = ("pissa", "olora")
"""They leave another base than they found."""
_OF_DATA = "it asks for a pass over the data first, which nothing here makes: without, PEFT "
UNMADE = {
    "eva": _OF_DATA + "draws as for any LoRA",
    "lora_ga": _OF_DATA + "draws as for any LoRA",
    "corda": _OF_DATA + "refuses it",
    "loftq": "its base is rounded anew, and who loads the adapter has another",
    "pissa_niter": "its decomposition is drawn at random, and who loads the adapter has another",
}
"""By the beginning of their names, and why a run does not start so."""
FROM_BASE = ("dpo", "kto", "grpo", "rloo")
"""Their reference is the model with its adapter switched off."""


def check_start(of: Subject) -> Iterator[Event]:
    """Raise UnsupportedError for a start that no run makes, or that leaves no reference."""
    start = str(of.settings.peft_config.get(START, "")).lower()
    for name, reason in UNMADE.items():
        if start.startswith(name):
            raise UnsupportedError.of(f"{START} {start}", reason, ["pissa", "olora", "orthogonal"])
    if start.startswith(TAKING) and of.plan.objective in FROM_BASE:
        raise UnsupportedError.of(
            f"{START} {start} with objective {of.plan.objective}",
            "the reference is the model without its adapter, and this start takes from the base",
            ["orthogonal", "without it"],
        )
    yield from ()


def takes_from_base(config: Any) -> bool:
    """Whether the base of an adapter with this configuration is another without it."""
    return str(getattr(config, START, "")).lower().startswith(TAKING)
