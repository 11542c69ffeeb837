"""PEFT's own wrapper around a model on meta."""

from __future__ import annotations

import warnings
from typing import Any

from ftadvisor.configuration.adapter_config import peft_config
from ftadvisor.errors import UnsupportedError, first_line
from ftadvisor.schema.settings import Settings
from ftadvisor.simulation.model.building import DTYPES, UNBUILDABLE
from ftadvisor.simulation.recording.shapes import Answers
from ftadvisor.simulation.stack import peft, torch
from ftadvisor.sources.techniques import find_technique

NOT_SIMULATED = {
    "bottleneck": "its tuner is a run's own, and PEFT has no such technique before one",
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
    if technique.id in NOT_SIMULATED:
        raise UnsupportedError.of(technique.name, NOT_SIMULATED[technique.id], ["the closed form"])
    config = peft_config(peft, model, settings, instead=["the closed form"])
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
