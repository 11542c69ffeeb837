"""peft_config against PEFT's own configuration classes: known names, kinds, sane sizes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from ftadvisor.configuration.options import check_options, module_names
from ftadvisor.errors import InvalidSettingError, near_misses, quoted
from ftadvisor.schema.technique import Technique
from ftadvisor.sources.techniques import peft_options, peft_own_options

AS_SETTINGS = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
}
"""Options that have a setting of their own: either may be written, not both."""

LARGEST_SIZE = 10**6
LARGEST_SIZES = {"n_frequency": 10**9, "theta_d_length": 10**9, "r": 10**5}
LEAST_SIZES = {
    "decompose_factor": -1, "hybrid_r": 0, "boft_block_num": 0, "boft_block_size": 0,
    "oft_block_size": 0, "depth": 0, "adapter_start_layer": 0,
}  # fmt: skip
"""Where 0 (or -1) means something; every other size is at least 1."""
SIZES = frozenset(
    (
        *LARGEST_SIZES, *LEAST_SIZES,
        "num_virtual_tokens", "num_transformer_submodules", "encoder_hidden_size",
        "encoder_num_layers", "adapter_len", "adapter_layers", "adapter_length",
        "adapter_prompt_length", "num_new_blocks", "init_r", "gralora_k", "num_B", "stride_A",
        "mini_r", "block_size", "boft_n_butterfly_factor", "num_cayley_neumann_terms",
        "num_vectors", "vector_length", "topk", "u", "num_subspaces", "subspace_rank",
    )
)  # fmt: skip
"""What parameters and kept tensors are proportional to."""
SHOWN = 5
SHARES = frozenset({"weight_tying", "sparse_rate"})
LARGEST_NUMBER = 1e18
NOT_COUNTED = frozenset(
    {
        "modules_to_save", "layers_to_transform", "layers_pattern", "exclude_modules",
        "rank_pattern", "layer_replication", "trainable_token_indices", "target_parameters",
        "n_frequency_pattern", "block_size_pattern", "bias",
    }
)  # fmt: skip
"""What changes a run's memory and is not part of the estimate: said where it is given."""
COUNTED = {"osf": frozenset({"rank_pattern"})}
_KINDS = {
    "whole": "a whole number", "real": "a number", "switch": "true or false", "text": "text",
    "wholes": "a list of whole numbers",
}  # fmt: skip


def with_peft_config(
    given: dict[str, Any], technique: Technique, said: list[str]
) -> dict[str, Any]:
    """The options with peft_config checked; what has a setting of its own has become that.

    Raises InvalidSettingError for a name that PEFT's class has not, or a value that it cannot hold.
    """
    known = peft_options(technique.id)
    options = dict(given)
    kept: dict[str, Any] = {}
    for name, value in given["peft_config"].items():
        if name not in known:
            raise unknown_peft_option(name, technique.name, known)
        found = _checked(name, value, known[name], technique)
        setting = setting_of(name, technique)
        if setting is None or found is None:
            kept[name] = found
        else:
            options[setting] = check_options({setting: found})[setting]
        counted = COUNTED.get(technique.id, ())
        if found and found != "none" and name in NOT_COUNTED and name not in counted:
            said.append(f"peft_config {name} is not counted")
    return {**options, "peft_config": kept}


def setting_of(name: str, technique: Technique) -> str | None:
    """The setting that one of PEFT's options is written as; None: it has none of its own."""
    if name == "r" and "lora_r" not in technique.settings:
        # OFT's r is a number of blocks.
        return None
    return AS_SETTINGS.get(name)


def unknown_peft_option(name: str, owner: str, known: Iterable[str]) -> InvalidSettingError:
    """The error for a name that is none of a technique's options, with near misses."""
    # What PEFT fills in itself, and what two letters resemble, is not what was meant.
    names = [option for option in known if option not in peft_own_options()]
    near = near_misses(name, names) if len(name) > 2 else []
    return InvalidSettingError(
        f"peft_config {quoted(name)} is no option of {owner}.", near or names[:SHOWN]
    )


def _checked(name: str, value: Any, kind: str | list[str | None], technique: Technique) -> Any:
    """The value as PEFT's class holds it."""
    label = f"peft_config {name}"
    if isinstance(kind, list):
        if value not in kind:
            raise InvalidSettingError.of(label, value, f"be one of {', '.join(map(str, kind))}")
        return value
    if value is None and (kind.endswith("?") or kind == "any"):
        return None
    if name == "target_modules" and kind == "any":
        return module_names(value)
    if name in SIZES:
        # OFT's r is a number of blocks, 0 where oft_block_size decides it.
        least = 0 if (technique.id, name) == ("oft", "r") else LEAST_SIZES.get(name, 1)
        return _size(label, value, least, LARGEST_SIZES.get(name, LARGEST_SIZE))
    kind = kind.removesuffix("?")
    if not _is_of(kind, value):
        raise InvalidSettingError.of(label, value, f"be {_KINDS[kind]}")
    if name in SHARES or name.endswith("dropout"):
        share: Any = value
        if not 0 <= share <= 1:
            raise InvalidSettingError.of(label, value, "be a number from 0 to 1")
    return value


def _size(label: str, value: Any, least: int, most: int) -> int:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right or not least <= value <= most or int(value) != value:
        raise InvalidSettingError.of(label, value, f"be a whole number from {least} to {most:,}")
    return int(value)


def _is_of(kind: str, value: Any) -> bool:
    if kind == "any":
        return True
    if kind in ("switch", "text"):
        return isinstance(value, bool if kind == "switch" else str)
    if kind == "wholes":
        if not isinstance(value, list | tuple):
            return False
        numbers = cast("list[object]", value)
        return all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST_NUMBER and (kind == "real" or int(value) == value)


def check_stated_once(given: dict[str, Any], technique: Technique) -> None:
    """Raise InvalidSettingError where a setting and peft_config say two different things."""
    for name, value in given.get("peft_config", {}).items():
        setting = setting_of(name, technique)
        if setting is None or setting not in given or value is None:
            continue
        if name == "target_modules":
            value = module_names(value)
        if value != given[setting]:
            flag = setting.replace("_", "-")
            raise InvalidSettingError(
                f"{setting} {quoted(given[setting])} and peft_config {name} {quoted(value)} say the"
                " same thing differently.",
                [f"--{flag} only"],
            )
