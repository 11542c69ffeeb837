"""Which settings a run has at all: a plan shows those, and no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from ftadvisor.configuration.effects import OF_OBJECTIVES, OF_TECHNIQUES
from ftadvisor.configuration.objectives import GROUPED
from ftadvisor.errors import InvalidSettingError, quoted
from ftadvisor.schema.technique import Technique

PACKED: Final = ("sft", "clm", "cpt")
"""Objectives whose samples can be joined: TRL's SFTConfig has `packing`, the others' have none."""
WITH_BETA: Final = ("dpo", "kto", "orpo", "distillation", *GROUPED)
"""Their TRL configurations have `beta`."""
TAUGHT: Final = ("distillation",)
"""They follow a teacher."""
OF_OBJECTIVES_ALONE: Final = {"beta": WITH_BETA, "teacher_model": TAUGHT, "lmbda": TAUGHT}
LENGTHS: Final = ("mean_length", "longest_length")


class Run(NamedTuple):
    """What decides it."""

    technique: Technique
    objective: str
    family: str
    """Of the model: decoder, encoder, encdec, vlm."""


def _on(value: Any) -> bool:
    return bool(value)


_WHERE: Final[dict[str, Callable[[Run], bool]]] = {
    "packing": lambda run: run.objective in PACKED and run.family in ("decoder", "vlm"),
    **{
        name: lambda run, objectives=objectives: run.objective in objectives
        for name, objectives in OF_OBJECTIVES_ALONE.items()
    },
    "max_target_length": lambda run: run.family == "encdec",
    "num_images": lambda run: run.family == "vlm",
}
_SAID_WHEN: Final[dict[str, Callable[[Any], bool]]] = {
    "prepare_kbit": lambda value: value is not None,
    "lora_target_modules": _on,
    "peft_config": _on,
    "offload_optimizer": _on,
    "offload_params": _on,
    "fused_norm": _on,
    "fused_mlp": _on,
}
"""Settings that say nothing in some states: off, empty, or left to the library."""


def applies(name: str, run: Run) -> bool:
    """Whether a run has this setting."""
    if name in _WHERE:
        return _WHERE[name](run)
    if name in OF_OBJECTIVES:
        return run.objective in OF_OBJECTIVES[name]
    return name not in OF_TECHNIQUES or name == "prepare_kbit" or OF_TECHNIQUES[name](run.technique)


def applicable(settings: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """The settings that the run has, in their order."""
    return {
        name: value
        for name, value in settings.items()
        if applies(name, run) and (name not in _SAID_WHEN or _SAID_WHEN[name](value))
    }


def check_applicable(given: Mapping[str, Any], run: Run) -> None:
    """Raise InvalidSettingError for what `check_subject` and `check_technique` do not know of."""
    for name, objectives in OF_OBJECTIVES_ALONE.items():
        if name in given and not applies(name, run):
            raise InvalidSettingError(
                f"{name} {quoted(given[name])} has no effect with objective {run.objective}: it"
                f" belongs to {', '.join(objectives)}.",
                [f"leave {name} out"],
            )
    if given.get("packing") and not applies("packing", run):
        raise InvalidSettingError(
            f"packing true with objective {run.objective} of an {run.family}: only"
            f" {', '.join(PACKED)} of decoders join samples.",
            ["leave packing out"],
        )
