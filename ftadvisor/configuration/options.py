"""A user's options one by one: known names, known values, sane sizes."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, cast, get_args

from ftadvisor.errors import InvalidSettingError, UnknownNameError, quoted
from ftadvisor.schema.options import Options
from ftadvisor.schema.settings import (
    AttnImplementation,
    Autocast,
    Checkpointing,
    Dtype,
    LossKernel,
    Quantization,
    Strategy,
)
from ftadvisor.sources.optimizers import check_optimizer

PRECISIONS: dict[str, dict[str, str]] = {
    "bf16": {"weights_dtype": "bf16", "autocast": "none"},
    "fp16": {"weights_dtype": "fp16", "autocast": "none"},
    "amp-bf16": {"weights_dtype": "fp32", "autocast": "bf16"},
    "amp-fp16": {"weights_dtype": "fp32", "autocast": "fp16"},
    "fp32": {"weights_dtype": "fp32", "autocast": "none"},
    "fp8": {"weights_dtype": "bf16", "autocast": "bf16"},
}
CHOICES: dict[str, tuple[str, ...]] = {
    "quantization": get_args(Quantization),
    "gradient_checkpointing": get_args(Checkpointing),
    "attn_implementation": get_args(AttnImplementation),
    "strategy": get_args(Strategy),
    "weights_dtype": get_args(Dtype),
    "autocast": get_args(Autocast),
    "adapter_dtype": get_args(Dtype),
    "loss_kernel": get_args(LossKernel),
    "precision": tuple(PRECISIONS),
}
LARGEST: dict[str, float] = {
    "micro_batch_size": 1e5,
    "gradient_accumulation_steps": 1e6,
    "max_length": 1e8,
    "lora_r": 1e5,
    "num_gpus": 1e5,
    "num_generations": 1e4,
    "max_completion_length": 1e7,
    "max_target_length": 1e7,
    "num_images": 1e4,
}
"""Above these a number is a typo, not a setting."""

LARGEST_REAL: dict[str, float] = {
    "lora_alpha": 1e7,
    "num_tokens": 1e18,
    "num_train_epochs": 1e6,
    "price": 1e6,
}
"""The same for figures that need not be whole; they must be above 0."""
LONGEST = 1e8
LENGTHS = ("mean_length", "longest_length")
"""Tokens of a sequence, on average or at most: no sequence has less than one."""
STEEPEST = 1e9
"""No gradient norm is above it."""
TEXTS = ("optim", "trainer")
SWITCHES = (
    "prepare_kbit",
    "packing",
    "fused_norm",
    "fused_mlp",
    "offload_optimizer",
    "offload_params",
    "reference_model",
)
_NAMES = frozenset(Options.__annotations__)
_HELP = "ftadvisor estimate --help"


def check_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given (not None), in one spelling.

    Raises UnknownNameError or InvalidSettingError for what means nothing by itself.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name in CHOICES:
            given[name] = _choice(name, value)
        elif name in LARGEST:
            given[name] = _whole(name, value)
        elif name in LARGEST_REAL:
            if not _is_number(value) or not 0 < value <= LARGEST_REAL[name]:
                most = f"{LARGEST_REAL[name]:,.0f}"
                raise InvalidSettingError.of(name, value, f"be a number above 0, at most {most}")
        elif name in LENGTHS:
            if not _is_number(value) or not 1 <= value <= LONGEST:
                raise InvalidSettingError.of(name, value, f"be a number from 1 to {LONGEST:,.0f}")
        elif name in SWITCHES:
            if not isinstance(value, bool):
                raise InvalidSettingError.of(name, value, "be true or false")
        elif name in TEXTS:
            check_text(name, value)
        elif name not in _NAMES:
            raise UnknownNameError("setting", name, _NAMES, see=_HELP)
    if "optim" in given:
        check_optimizer(given["optim"])
    _check_rest(given)
    return given


def check_text(name: str, value: object) -> None:
    """Raise InvalidSettingError for a name that is no text: a number in JSON, null, a list."""
    if not isinstance(value, str):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        quotes = [f'"{quoted(value)}"'] if number else []
        raise InvalidSettingError.of(name, value, "be text", quotes)


def _choice(name: str, value: object) -> str:
    if name == "gradient_checkpointing" and isinstance(value, bool):
        return "full" if value else "none"
    check_text(name, value)
    if value not in CHOICES[name]:
        raise UnknownNameError(name, value, CHOICES[name], see=_HELP)
    return str(value)


def _whole(name: str, value: object) -> int:
    least = 0 if name == "num_images" else 1
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not least <= value <= LARGEST[name]
        or int(value) != value
    ):
        raise InvalidSettingError.of(
            name, value, f"be a whole number from {least} to {LARGEST[name]:,.0f}"
        )
    return int(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_rest(given: dict[str, Any]) -> None:
    dropout, norm = given.get("lora_dropout", 0.0), given.get("max_grad_norm", 0.0)
    if not _is_number(dropout) or not 0 <= dropout < 1:
        raise InvalidSettingError.of("lora_dropout", dropout, "be a number from 0 to below 1")
    if not _is_number(norm) or not 0 <= norm <= STEEPEST:
        raise InvalidSettingError.of(
            "max_grad_norm", norm, f"be 0 (none) or a number above it, at most {STEEPEST:,.0f}"
        )
    targets = given.get("lora_target_modules")
    if targets is not None:
        given["lora_target_modules"] = module_names(targets)
    dataset = given.get("dataset")
    if dataset is not None and not isinstance(dataset, str | PathLike):
        raise InvalidSettingError.of("dataset", dataset, "be the path of a file")
    config: Any = given.get("peft_config")
    if config is not None:
        if not isinstance(config, Mapping) or not all(isinstance(key, str) for key in config):  # pyright: ignore[reportUnknownVariableType]
            raise InvalidSettingError.of("peft_config", config, "be an object of PEFT's options")  # pyright: ignore[reportUnknownArgumentType]
        given["peft_config"] = dict(cast("Mapping[str, Any]", config))


def module_names(given: object) -> tuple[str, ...]:
    """One name or several, as a tuple. Raises InvalidSettingError for anything else."""
    names: object = (given,) if isinstance(given, str) else given
    if isinstance(names, list | tuple | set | frozenset):
        found = tuple(cast("list[object]", names))
        if found and all(isinstance(name, str) and name for name in found):
            return cast("tuple[str, ...]", found)
    raise InvalidSettingError.of(
        "lora_target_modules", given, "be names of modules", ["all-linear"]
    )
