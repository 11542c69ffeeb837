"""PEFT's own wrapper around a model on meta."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

from ftadvisor.configuration.peft_config import AS_SETTINGS
from ftadvisor.errors import UnsupportedError
from ftadvisor.schema.settings import Settings
from ftadvisor.simulation.building import DTYPES
from ftadvisor.simulation.shapes import Answers
from ftadvisor.simulation.stack import peft, torch
from ftadvisor.sources.techniques import default_target_modules, find_technique, peft_own_options

PEFT_TYPES = {"qlora": "LORA", "dora": "LORA", "rslora": "LORA", "bone": "MISS"}
"""Techniques that PEFT has under another name."""
SWITCHES = {"dora": {"use_dora": True}, "rslora": {"use_rslora": True}}
TASKS = {"seq_cls": "SEQ_CLS", "reward": "SEQ_CLS", "token_cls": "TOKEN_CLS"}
NO_TARGETS = frozenset({"prompt_tuning", "prefix_tuning", "p_tuning", "adaption_prompt"})


UNBUILDABLE = (
    NotImplementedError, RuntimeError, ValueError, TypeError, AttributeError, ImportError,
)  # fmt: skip
"""What PEFT raises where it looks at weights, or where a library that it needs is missing."""


def adapt(model: Any, settings: Settings, *, ranks_train: bool = True) -> Any:
    """The model with its adapters; the base is frozen.

    `ranks_train`: AdaLoRA's ranks do, as in PEFT 0.21.2; the table of PEFT's own benchmark, with a
    PEFT of before, counts none of them.

    Raises UnsupportedError for a technique that PEFT has not, or that needs real weights.
    """
    technique = find_technique(settings.technique)
    try:
        config = peft_config(model, settings)
    except (ImportError, ValueError, TypeError) as error:
        # AdaMSS wants scikit-learn; some classes refuse options that contradict each other.
        reason = f"PEFT's class refuses it ({str(error).strip()[:160]})"
        raise UnsupportedError.of(technique.name, reason, ["the closed form"]) from error
    kept = settings.adapter_dtype == "fp32"
    try:
        with torch.device("meta"), Answers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=kept)
    except UNBUILDABLE as error:
        reason = f"PEFT cannot make it without real weights ({str(error).strip()[:160]})"
        raise UnsupportedError.of(technique.name, reason, ["the closed form"]) from error
    for parameter in adapted.parameters():
        if parameter.device.type != "meta":
            _to_meta(adapted)
            break
    if technique.id == "adalora" and ranks_train:
        _train_ranks(adapted)
    if not kept:
        for parameter in adapted.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.to(DTYPES[settings.adapter_dtype])
    return adapted


def peft_config(model: Any, settings: Settings) -> Any:
    """The configuration that these settings are in PEFT."""
    technique = find_technique(settings.technique)
    name = PEFT_TYPES.get(technique.id, technique.id.upper())
    cls: Any = peft.PEFT_TYPE_TO_CONFIG_MAPPING.get(getattr(peft.PeftType, name, name))
    if cls is None:
        raise UnsupportedError.of(technique.name, "PEFT has no such technique")
    fields = {field.name for field in dataclasses.fields(cls)}
    options: dict[str, Any] = dict(technique.settings.get("peft_config", {}))
    own = {option for option, setting in AS_SETTINGS.items() if setting in technique.settings}
    # A setting of all that are LoRA, whose default is none of a technique's own.
    own |= {"lora_dropout"} if "lora_alpha" in own else set()
    for option in own & fields:
        options[option] = getattr(settings, AS_SETTINGS[option])
    options |= {key: value for key, value in settings.peft_config.items() if value is not None}
    options |= SWITCHES.get(technique.id, {})
    options = {k: v for k, v in options.items() if k in fields and k not in peft_own_options()}
    if technique.id not in NO_TARGETS and "target_modules" in fields:
        options["target_modules"] = _targets(model, settings, options)
    if options.get("oft_block_size"):
        # The two are the matrix's width together; PEFT takes one of them.
        options.pop("r", None)
    options["task_type"] = TASKS.get(settings.objective, _task(model))
    return cls(**{key: value for key, value in options.items() if value is not None})


def _targets(model: Any, settings: Settings, options: dict[str, Any]) -> list[str] | str | None:
    if settings.lora_target_modules:
        names = list(settings.lora_target_modules)
        return names[0] if names == ["all-linear"] else names
    given = options.get("target_modules")
    if given:
        return given
    found = default_target_modules(settings.technique, model.config.model_type)
    return list(found) if found else None


def _train_ranks(model: Any) -> None:
    """PEFT moves AdaLoRA's ranks to the GPU, and what was moved becomes a parameter that trains
    (tuners_utils.py, _move_adapter_to_device_of_base_layer; torch's ParameterDict): each layer then
    keeps its update to divide by them. An H100's count of trained parameters has them too.
    """
    for name, parameter in model.named_parameters():
        if ".ranknum." in name:
            parameter.requires_grad = True


def _task(model: Any) -> str:
    if model.config.is_encoder_decoder:
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM"


def _to_meta(model: Any) -> None:
    """What a technique computed on the CPU at its start lives on the GPU too."""
    for module in model.modules():
        for parameters in (module._parameters, module._buffers):
            for name, tensor in parameters.items():
                if tensor is None or tensor.device.type == "meta":
                    continue
                there = torch.empty_like(tensor, device="meta")
                if isinstance(tensor, torch.nn.Parameter):
                    there = torch.nn.Parameter(there, requires_grad=tensor.requires_grad)
                parameters[name] = there
