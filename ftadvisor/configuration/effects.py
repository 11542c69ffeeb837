"""Settings that change nothing: refused, with what they belong to.

A table over all techniques takes a setting for those that have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from ftadvisor.configuration.objectives import GENERATING, GROUPED
from ftadvisor.configuration.peft_config import check_stated_once, unknown_peft_option
from ftadvisor.errors import InvalidSettingError, quoted
from ftadvisor.estimation.numerics import KEEPS_BASE_DTYPE
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.technique import Technique
from ftadvisor.sources.techniques import all_techniques, peft_options

OF_OBJECTIVES: Final = {
    "num_generations": GROUPED,
    "reference_model": GROUPED,
    "max_completion_length": GENERATING,
}
OWN_TARGETS: Final = frozenset({"adaption_prompt", "trainable_tokens"})
"""Their target_modules name attentions and embeddings, which are found without it."""
SHOWN: Final = 5


def _adapts_modules(technique: Technique) -> bool:
    return technique.id not in OWN_TARGETS and "target_modules" in peft_options(technique.id)


OF_TECHNIQUES: Final[dict[str, Callable[[Technique], bool]]] = {
    "lora_r": lambda t: "lora_r" in t.settings,
    "lora_alpha": lambda t: "lora_alpha" in peft_options(t.id),
    "lora_dropout": lambda t: "lora_dropout" in peft_options(t.id),
    "lora_target_modules": _adapts_modules,
    "peft_config": lambda t: bool(peft_options(t.id)),
    "adapter_dtype": lambda t: not t.trains_base and t.id not in KEEPS_BASE_DTYPE,
    "prepare_kbit": lambda t: t.settings.get("quantization", "none") != "none",
}
"""Whether a technique has the setting."""


def check_subject(given: Mapping[str, Any], model: ModelSpec, objective: str) -> None:
    """Raise InvalidSettingError for what neither the objective nor the model has.

    A setting that is off (0 images, no reference model) says what is so anyway.
    """
    for name, objectives in OF_OBJECTIVES.items():
        if given.get(name) and objective not in objectives:
            raise _no_effect(
                name,
                given[name],
                f"objective {objective}",
                f"it belongs to {', '.join(objectives)}",
                [f"--objective {objectives[0]}"],
            )
    if given.get("num_images") and model.family != "vlm":
        raise _no_effect("num_images", given["num_images"], model.id, "it reads no images")
    if "max_target_length" in given and model.family != "encdec":
        value = given["max_target_length"]
        why = "only encoder-decoders have a target of its own length"
        raise _no_effect("max_target_length", value, model.id, why, [f"--max-length {value}"])
    if given.get("packing"):
        for name in ("mean_length", "longest_length"):
            if name in given:
                why = "packing joins samples to sequences of max_length"
                raise _no_effect(name, given[name], "packing", why, ["--no-packing"])


def check_technique(given: Mapping[str, Any], technique: Technique) -> None:
    """Raise InvalidSettingError for what the technique has not, or what is said twice."""
    for name in given:
        if name in OF_TECHNIQUES and not _has(given, technique, name):
            raise _not_of(name, given[name], technique)
    if "peft_config" in given:
        check_stated_once(dict(given), technique)


def of_technique(given: dict[str, Any], technique: Technique) -> dict[str, Any]:
    """The options without those that the technique has not: one row of the table."""
    found = {
        name: value
        for name, value in given.items()
        if name not in OF_TECHNIQUES or _has(given, technique, name)
    }
    if "peft_config" in found:
        known = peft_options(technique.id)
        found["peft_config"] = {k: v for k, v in found["peft_config"].items() if k in known}
        check_stated_once(found, technique)
    return found


def check_some_technique(given: Mapping[str, Any]) -> None:
    """Raise InvalidSettingError for an option in peft_config that no technique has."""
    if "peft_config" in given:
        known = {name: "" for t in all_techniques() for name in peft_options(t.id)}
        for name in given["peft_config"]:
            if name not in known:
                raise unknown_peft_option(name, "any technique", known)


def asked_of(given: Mapping[str, Any], technique: Technique) -> bool:
    """Whether the technique has at least one of the settings that only some have."""
    asked = {name: _has(given, technique, name) for name in OF_TECHNIQUES if name in given}
    if "peft_config" in asked:
        known = peft_options(technique.id)
        asked["peft_config"] = any(name in known for name in given["peft_config"])
    return any(asked.values()) or not asked


def _has(given: Mapping[str, Any], technique: Technique, name: str) -> bool:
    if name == "prepare_kbit" and given.get("quantization", "none") != "none":
        return True
    # What is switched off, or empty, asks for nothing.
    nothing = name in ("prepare_kbit", "peft_config") and not given[name]
    return nothing or OF_TECHNIQUES[name](technique)


def _not_of(name: str, value: object, technique: Technique) -> InvalidSettingError:
    what = f"technique {technique.id}"
    if name == "prepare_kbit":
        why = "it prepares a quantised base"
        return _no_effect(name, value, what, why, ["--quantization nf4"])
    owners = sorted(
        (t for t in all_techniques() if OF_TECHNIQUES[name](t)), key=lambda t: not t.sensible
    )
    more = "" if len(owners) <= SHOWN else f" and {len(owners) - SHOWN} more"
    names = ", ".join(t.id for t in owners[:SHOWN])
    return _no_effect(
        name, value, what, f"it belongs to {names}{more}", [f"--technique {owners[0].id}"]
    )


def _no_effect(
    name: str, value: object, what: str, why: str, suggestions: list[str] | None = None
) -> InvalidSettingError:
    return InvalidSettingError(
        f"{name} {quoted(value)} has no effect with {what}: {why}.",
        [*(suggestions or []), f"leave {name} out"],
    )
