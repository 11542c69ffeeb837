"""PEFT's own wrapper around a model on meta."""

from __future__ import annotations

import warnings
from typing import Any

from ftadvisor.configuration.adapter_config import adapter_config
from ftadvisor.errors import UnsupportedError
from ftadvisor.schema.settings import Settings
from ftadvisor.simulation.model.building import DTYPES, UNBUILDABLE, first_line
from ftadvisor.simulation.model.kbit import HEADS
from ftadvisor.simulation.recording.shapes import Answers
from ftadvisor.simulation.stack import peft, torch
from ftadvisor.sources.techniques import find_technique, peft_options

MAMBA_TYPES = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
MAMBA_MODULES = ("out_proj", "conv1d")
"""peft/tuners/tuners_utils.py, _check_lora_target_modules_mamba."""
NEED_VALUES = {
    "adamss": "it clusters the weights' values (scikit-learn), which decides what trains",
    "frod": "its step reads the sizes of its sparse matrices from tensors",
    "shira": "it draws indices by value, and torch has no sparse kernels for meta tensors",
}
"""Why these cannot be simulated: tuners/adamss/layer.py, frod/layer.py (_get_frod_tensors) and
shira/layer.py (update_layer, get_delta_weight) of PEFT 0.21.2.
"""


def adapt(model: Any, settings: Settings, *, ranks_train: bool = True) -> Any:
    """The model with its adapters; the base is frozen.

    `ranks_train`: AdaLoRA's ranks do, as in PEFT 0.21.2; the table of PEFT's own benchmark, with a
    PEFT of before, counts none of them.

    Raises UnsupportedError for a technique that PEFT has not, or that needs real weights.
    """
    technique = find_technique(settings.technique)
    if technique.id in NEED_VALUES:
        raise UnsupportedError.of(technique.name, NEED_VALUES[technique.id], ["the closed form"])
    try:
        config = peft_config(model, settings)
    except (ImportError, ValueError, TypeError) as error:
        # Some classes refuse options that contradict each other, or want another library.
        reason = f"PEFT's class refuses it ({first_line(error)})"
        raise UnsupportedError.of(technique.name, reason, ["the closed form"]) from error
    kept = settings.adapter_dtype == "fp32"
    try:
        with torch.device("meta"), Answers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=kept)
    except UNBUILDABLE as error:
        reason = f"PEFT cannot make it without real weights ({first_line(error)})"
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
    technique, of_model = find_technique(settings.technique), model.config
    found = adapter_config(
        settings,
        of_model.model_type,
        encoder_decoder=of_model.is_encoder_decoder,
        num_layers=getattr(of_model.get_text_config(), "num_hidden_layers", None),
    )
    name = found.peft_type
    cls: Any = peft.PEFT_TYPE_TO_CONFIG_MAPPING.get(getattr(peft.PeftType, name, name))
    if cls is None:
        raise UnsupportedError.of(technique.name, "PEFT has no such technique")
    options = found.options
    linear = options.get("target_modules") == "all-linear" and not settings.lora_target_modules
    if linear and "exclude_modules" in peft_options(technique.id):
        options["exclude_modules"] = _not_adaptable(model) or None
    return cls(**options)


def _not_adaptable(model: Any) -> list[str]:
    """Modules that PEFT would adapt and fail of: routers that are linear layers and return more
    than a tensor, heads that train anyway, and what it refuses in Mamba's layers.
    """
    found = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, torch.nn.Linear) and "router" in type(module).__name__.lower())
        or name.endswith(HEADS)
    ]
    if model.config.model_type in MAMBA_TYPES:
        found += MAMBA_MODULES
    return found


def _train_ranks(model: Any) -> None:
    """PEFT moves AdaLoRA's ranks to the GPU, and what was moved becomes a parameter that trains
    (tuners_utils.py, _move_adapter_to_device_of_base_layer; torch's ParameterDict): each layer then
    keeps its update to divide by them. An H100's count of trained parameters has them too.
    """
    for name, parameter in model.named_parameters():
        if ".ranknum." in name:
            parameter.requires_grad = True


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
