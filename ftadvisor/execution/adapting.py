"""What is trained: the whole model, or an adapter of PEFT's on a frozen base."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from ftadvisor.configuration import adapter_config
from ftadvisor.errors import UnsupportedError, first_line
from ftadvisor.execution import stack
from ftadvisor.execution.loading import DTYPES
from ftadvisor.execution.naming import check_names
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.techniques import find_technique


def adapt(model: Any, settings: Settings, total_steps: int) -> Any:
    """The model as it will be trained.

    Raises UnsupportedError for a technique that PEFT has not, or refuses for this model.
    """
    technique = find_technique(settings.technique)
    if technique.trains_base:
        return model
    if settings.prepare_kbit:
        model = stack.peft.prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=settings.gradient_checkpointing != "none"
        )
    config = peft_config(model, settings, total_steps)
    try:
        adapted = stack.peft.get_peft_model(
            model, config, autocast_adapter_dtype=settings.adapter_dtype == "fp32"
        )
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = f"PEFT refuses it ({first_line(error)})"
        raise UnsupportedError.of(technique.name, reason) from error
    set_adapter_dtype(adapted, settings)
    if technique.id == "adaption_prompt":
        _see_new_forward(adapted.base_model)
    return adapted


def peft_config(model: Any, settings: Settings, total_steps: int) -> Any:
    """PEFT's configuration object.

    Raises UnsupportedError where it has none, InvalidSettingError for names the model has not.
    """
    check_names(model, settings.peft_config)
    if settings.technique == "bottleneck":
        # Importing it registers it; PEFT is expensive to import.
        import_module("ftadvisor.execution.bottleneck")
    return adapter_config.peft_config(stack.peft, model, settings, total_steps=total_steps)


def read_adapter(model: Any, place: str) -> Any:
    """The model with the adapter that lies there."""
    kind = json.loads((Path(place) / "adapter_config.json").read_text(encoding="utf-8"))
    name = kind.get("peft_type")
    if name == "BOTTLENECK":
        import_module("ftadvisor.execution.bottleneck")
    adapted = stack.peft.PeftModel.from_pretrained(model, place)
    if name in ("ADAPTION_PROMPT", "ADALORA"):
        # And of an AdaLoRA that does not train PEFT finds no regularisation, which it adds to
        # every loss (peft 0.21.2 tuners/adalora/model.py, forward).
        _see_new_forward(adapted.base_model)
    return adapted


def _see_new_forward(tuner: Any) -> None:
    """PEFT keeps the forward that the model has at first (peft 0.21.2 tuners/adaption_prompt/
    model.py line 57), and TRL gives it another (trl 1.16 trainer/sft_trainer.py line 1144).
    """

    def forward(*args: Any, **options: Any) -> Any:
        return tuner.model(*args, **options)

    tuner.forward = forward


def set_adapter_dtype(model: Any, settings: Settings) -> None:
    """Trained parameters in the plan's dtype, whatever a trainer made of them: TRL stores adapters
    of a quantised base in bf16 unasked (trl 1.16 trainer/sft_trainer.py line 911; study 2.7).
    """
    if find_technique(settings.technique).trains_base:
        return
    dtype = getattr(stack.torch, DTYPES[settings.adapter_dtype])
    for name, parameter in model.named_parameters():
        if settings.autocast == "none" and ".modules_to_save." in name:
            # A head takes what the base's layers put out, and nothing casts it: it stays as the
            # one that it replaces, which no trainer touches.
            # Of one within another that is replaced too, the inner one has the original.
            outer, _, inner = name.rpartition(".modules_to_save.default.")
            replaced = f"{outer}.original_module.{inner}"
            parameter.data = parameter.data.to(model.get_parameter(replaced).dtype)
            continue
        if parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def load_as_trained(trainer: Any, settings: Settings) -> None:
    """A checkpoint's adapter comes back in the plan's dtype: PEFT's load_adapter makes fp32 of bf16
    unasked (peft 0.21.2 peft_model.py, autocast_adapter_dtype), and so another run.
    """
    load = trainer._load_from_checkpoint

    def loaded(*args: Any, **options: Any) -> None:
        load(*args, **options)
        set_adapter_dtype(trainer.model, settings)

    trainer._load_from_checkpoint = loaded
