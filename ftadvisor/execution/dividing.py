"""How processes share a model: what is divided is on the CPU until the engine takes it, piece by
piece. Whole, it may not fit on any GPU.
"""

from __future__ import annotations

from typing import Any

from ftadvisor.execution import stack
from ftadvisor.execution.products import free_weights
from ftadvisor.schema.settings import FSDP, ZERO, Settings


def share(trainer: Any, settings: Settings) -> None:
    """Let the training wrap the model, whatever an evaluation before it has made of it.

    accelerate takes a model that was prepared for evaluation as prepared for training too, without
    DDP: each process would train alone, without a word (transformers 5.23 trainer.py line 2920,
    accelerate 1.15 accelerator.py lines 1806 and 2074).
    """
    if settings.strategy in FSDP:
        _wrap_layers(trainer.model)
    divide(trainer.model, settings, trainer.args)
    if settings.num_gpus == 1 or settings.strategy != "ddp":
        return
    from ftadvisor.execution.callbacks.sharing import SharingCallback

    trainer.accelerator.free_memory()
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    if "_is_accelerate_prepared" in vars(trainer.model):
        del trainer.model._is_accelerate_prepared
    trainer.add_callback(SharingCallback(trainer))


def divide(model: Any, settings: Settings, args: Any) -> None:
    """What ZeRO-3 divides: a model on the CPU parameter by parameter, each of which is on the GPU
    for a moment.

    The engine itself would move all of it there first, and then divide (DeepSpeed 0.19.8
    runtime/engine.py, _configure_distributed_model). What that does besides is done here: the cast
    to the dtype of mixed precision, and the buffers, which are not divided; so are four-bit
    weights' scales, which are no parameters.
    """
    if settings.strategy != "zero3":
        return
    half = {"bf16": stack.torch.bfloat16, "fp16": stack.torch.float16}.get(settings.autocast)
    for parameter in model.parameters():
        scales = getattr(parameter, "quant_state", None)
        if scales is not None:
            scales.to(args.device)
            free_weights()
        elif half is not None and parameter.is_floating_point():
            parameter.data = parameter.data.to(half)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(args.device)
    place = "cpu" if settings.offload_params else None
    dtype = half or next(model.parameters()).dtype
    stack.deepspeed.zero.Init(module=model, dtype=dtype, remote_device=place)


def _wrap_layers(model: Any) -> None:
    """Leave out of the layers that FSDP divides one by one a class that holds the embeddings, as
    encoders name one: accelerate divides the embeddings besides, and torch cannot do it twice
    (accelerate 1.15 utils/fsdp_utils.py line 861).
    """
    embeddings = model.get_input_embeddings()
    holding = {
        type(m).__name__ for m in model.modules() if any(embeddings is e for e in m.modules())
    }
    model._no_split_modules = [
        name for name in model._no_split_modules or () if name not in holding
    ]


def evaluates_first(settings: Settings) -> bool:
    """Whether the model can be evaluated before the training has wrapped it.

    DeepSpeed's engine for evaluation alone is another one than for training, and for FSDP2
    accelerate prepares no model without its optimizer (1.15 accelerator.py line 1517).
    """
    return settings.strategy not in (*ZERO, *FSDP)
