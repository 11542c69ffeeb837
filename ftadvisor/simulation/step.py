"""One training step, simulated: the door to this room."""

from __future__ import annotations

import gc
import logging
import time
import warnings
from collections import Counter
from contextlib import ExitStack
from typing import Any

from ftadvisor.configuration.depths import depth
from ftadvisor.errors import FtadvisorError, UnsupportedError, first_line, quoted
from ftadvisor.schema.settings import FSDP, Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.cuda.attention import flash_masks
from ftadvisor.simulation.cuda.grids import Grid
from ftadvisor.simulation.litgpt.program import litgpt_model
from ftadvisor.simulation.model.adapting import adapt
from ftadvisor.simulation.model.building import UNBUILDABLE, build_model
from ftadvisor.simulation.model.checkpointing import checkpoint_options
from ftadvisor.simulation.model.fused import fuse_layers
from ftadvisor.simulation.model.kbit import hidden_tensors, quantize
from ftadvisor.simulation.recording.dispatch import as_cuda
from ftadvisor.simulation.recording.pattern import layer_of
from ftadvisor.simulation.recording.record import Recording
from ftadvisor.simulation.recording.recorder import Recorder
from ftadvisor.simulation.sharding.rank import Rank, check_sharding, rank_of
from ftadvisor.simulation.stack import peft, torch, transformers
from ftadvisor.simulation.training.loop import has_mask, run_steps
from ftadvisor.simulation.training.losses import add_fused_head, triton_kernels
from ftadvisor.simulation.training.objectives import (
    PROGRAMS,
    Objective,
    check_objective,
    held_models,
    objective_of,
)
from ftadvisor.simulation.training.optimizers import steps_on_meta
from ftadvisor.sources.techniques import find_technique


def record_step(
    config: dict[str, Any],
    settings: Settings,
    trainer: Trainer,
    *,
    compute_capability: tuple[int, int],
    num_layers: int | None = None,
    grid: Grid | None = None,
) -> Recording:
    """Two optimizer steps of the real model, PEFT wrapper, loss and optimizer, on meta tensors.

    Args:
        config: a config.json's keys.
        settings: resolved settings of a run.
        trainer: whose loop runs.
        compute_capability: of the GPU, (9, 0) for an H100.
        num_layers: only so many of the model's layers; None: all.
        grid: the GPU's; None: of the largest with its compute capability.
    Raises UnsupportedError for what cannot be run without weights, with the reason.
    """
    check_supported(settings, trainer)
    began = time.perf_counter()
    _be_quiet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = prepared_model(config, settings, trainer, num_layers)
        recorder = _recorder(settings, trainer, compute_capability, grid)
        fuse_layers(model, settings, recorder.grid.multiprocessors)
        rank = rank_of(model, recorder, settings, trainer)
        objective = objective_of(model, config, settings, trainer, num_layers, recorder)
        with steps_on_meta(), triton_kernels(), as_cuda(recorder), ExitStack() as stack:
            if settings.attn_implementation == "flash_attention_2":
                stack.enter_context(flash_masks())
            rank.adopt()
            for prefix, each in held_models(model, objective).items():
                adopt_model(each, recorder, prefix, moved=trainer.moves_model)
                stack.callback(recorder.watch_modules(each, prefix))
            _run(rank, recorder, settings, trainer, objective)
    seconds = time.perf_counter() - began
    layers = depth(model.config)
    recording = recorder.recording(num_layers=layers, **trained_facts(model), seconds=seconds)
    del model, rank, objective
    gc.collect()
    return recording


def _recorder(
    settings: Settings, trainer: Trainer, compute_capability: tuple[int, int], grid: Grid | None
) -> Recorder:
    return Recorder(
        padded=has_mask(settings, trainer),
        compute_capability=compute_capability,
        flash=settings.attn_implementation == "flash_attention_2",
        grid=grid,
    )


def _failed(settings: Settings, model: Any, error: Exception) -> UnsupportedError:
    what = f"{settings.technique} of model_type {quoted(model.config.model_type)}"
    reason = f"its step fails in a library or for want of values ({first_line(error)})"
    return UnsupportedError.of(what, reason, ["the closed form"])


def check_supported(settings: Settings, trainer: Trainer) -> None:
    """Raise UnsupportedError for what this room does not simulate."""
    refused = {
        "fp8": settings.fp8,
        "offloading": settings.offload_optimizer or settings.offload_params,
        "fused LoRA (unsloth's or foak's kernels)": settings.fused_lora,
        "Liger's kernels in a program's own layers": (settings.fused_norm or settings.fused_mlp)
        and trainer.model_code != "transformers",
        f"{trainer.framework}'s own model code": trainer.model_code
        not in ("transformers", "litgpt"),
    }
    check_sharding(settings, trainer)
    for what, asked in refused.items():
        if asked:
            raise UnsupportedError.of(what, "it is not simulated", ["the closed form"])
    check_objective(settings, trainer)


def prepared_model(
    config: dict[str, Any], settings: Settings, trainer: Trainer, num_layers: int | None
) -> Any:
    """The model as training begins: quantised, adapted, with checkpointing and loss as asked."""
    if trainer.model_code == "litgpt":
        return litgpt_model(config, settings, trainer, num_layers)
    technique = find_technique(settings.technique)
    model = build_model(config, settings, trainer, num_layers)
    if not trainer.grouped_experts and _has_grouped_experts(model):
        reason = "its Transformers runs experts one by one, the installed one in grouped products"
        raise UnsupportedError.of(f"a mixture of experts in {trainer.id}", reason)
    if settings.quantization != "none":
        model = quantize(model, settings, trainer)
        asked = settings.prepare_kbit
        # orpo_trainer.py, unlike TRL 1.16's other trainers, prepares k-bit models.
        prepares = trainer.prepares_kbit or settings.objective == "orpo"
        prepares = prepares if asked is None else asked
        if prepares and settings.strategy not in FSDP:
            peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
            if _halves_embeddings(settings, trainer):
                _embeddings_to_half(model)
    if technique.id != "full" and not technique.trains_base:
        model = adapt(model, settings, ranks_train=trainer.moves_model)
        half = trainer.kbit_adapters_half and settings.objective != "orpo"
        if settings.quantization != "none" and half:
            _adapters_to_half(model)
    if trainer.is_hugging_face or settings.gradient_checkpointing != "none":
        model.config.use_cache = False
    if settings.gradient_checkpointing != "none":
        options = checkpoint_options(settings, trainer)
        try:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        except ValueError as error:
            what = f"checkpointing of model_type {quoted(model.config.model_type)}"
            reason = f"Transformers refuses it ({first_line(error)})"
            raise UnsupportedError.of(what, reason, ["--gradient-checkpointing none"]) from error
        if hasattr(model, "peft_config"):
            model.enable_input_require_grads()
    if settings.loss_kernel == "chunked" and settings.objective not in PROGRAMS:
        add_fused_head(model)
    model.train()
    return model


def _has_grouped_experts(model: Any) -> bool:
    return any(".experts." in name and p.dim() == 3 for name, p in model.named_parameters())


def _halves_embeddings(settings: Settings, trainer: Trainer) -> bool:
    """ORPOTrainer does it where it is told bf16 and the base has 4 bits alone (orpo_trainer.py)."""
    if trainer.kbit_embeddings_fp32 or settings.prepare_kbit:
        return False
    told = settings.autocast == "bf16" and settings.quantization != "int8"
    return told or settings.objective != "orpo"


def _embeddings_to_half(model: Any) -> None:
    """peft_module_casting_to_bf16 puts embeddings and head back."""
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if module is not None:
            module.to(torch.bfloat16)


def _adapters_to_half(model: Any) -> None:
    """TRL: adapters of a quantised base train in bf16 (sft_trainer.py)."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)


def trained_facts(model: Any) -> dict[str, Any]:
    """How many parameters train, in all and by layer (None: outside of all)."""
    trained: Counter[int | None] = Counter()
    gradients: list[tuple[int | None, int]] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            trained[layer_of(name)] += parameter.numel()
            gradients.append((layer_of(name), parameter.nbytes))
    return {
        "trainable_bytes": tuple(gradients),
        "num_trainable_params": trained.total(),
        "trainable_params": tuple(trained.items()),
    }


ON_CPU = "boft_P"
"""PEFT moves what an adapter's lists name (tuners_utils.py, _move_adapter_to_device_of_base_layer),
and BOFT's permutations are in none: they stay on the CPU until the whole model is moved.
"""


def adopt_model(model: Any, recorder: Recorder, prefix: str = "", *, moved: bool = True) -> None:
    """Record what the model holds, each storage once, with its module's name.

    `moved`: the program calls model.to(device) after PEFT has wrapped it.
    """
    for name, parameter in model.named_parameters(remove_duplicate=False):
        kind = "weights" if _of_base(name, parameter, model) else "adapters"
        recorder.adopt(parameter, kind, prefix + name.rpartition(".")[0])
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name.endswith(ON_CPU) and not moved:
            continue
        recorder.adopt(buffer, "buffers", prefix + name.rpartition(".")[0])
    for name, module in model.named_modules():
        for tensor in hidden_tensors(module):
            recorder.adopt(tensor, "weights", prefix + name)


def _of_base(name: str, parameter: Any, model: Any) -> bool:
    adapted = hasattr(model, "peft_config") or getattr(model, "adapted", False)
    return not (adapted and parameter.requires_grad)


def _run(
    rank: Rank,
    recorder: Recorder,
    settings: Settings,
    trainer: Trainer,
    objective: Objective | None,
) -> None:
    try:
        run_steps(rank, recorder, settings, trainer, objective)
    except FtadvisorError:
        raise
    except UNBUILDABLE as error:
        raise _failed(settings, rank.model, error) from error


def _be_quiet() -> None:
    transformers.logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
