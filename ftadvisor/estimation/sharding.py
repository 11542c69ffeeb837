"""What is divided over GPUs, what is gathered while it is needed, what buffers that takes."""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES, Numerics
from ftadvisor.estimation.states import WeightBytes, trainable_dtype_bytes
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import ZERO, Number, Settings
from ftadvisor.schema.trainer import Trainer

DDP_BUCKETS_PER_GRADIENT = 1.0
"""DDP copies gradients into buckets of the same total size (gradient_as_bucket_view is False)."""
ZERO_MAX_LIVE_PARAMETERS = 1e9
"""stage3_max_live_parameters of DeepSpeed's default: gathered parameters kept for reuse."""
CHUNKED = 2
"""FSDP2, which cuts every parameter apart from the others."""


class Sharding(NamedTuple):
    """Divisors and gathered bytes of one rank."""

    weights: Number
    """Base weights resident on this rank [bytes]."""
    gathered_root: Number
    """Embeddings, head and final norm, whole while forward and backward run [bytes]."""
    gathered_layer: Number
    """One layer's weights, whole while it computes [bytes]."""
    adapter_divisor: Number
    gradient_divisor: Number
    optimizer_divisor: Number
    buffers: Number
    """Communication buffers that torch's allocator holds [bytes]."""
    unsharded_gradients: Number
    """Gradients that accumulation keeps whole [bytes per trained byte]; 0: sharded."""
    retains_checkpoints: bool
    """Every checkpointed input and its gradient stay until backward has ended."""
    flat_gradients: Number = 0.0
    """Gradients that accumulation keeps for frozen weights too, because they share a flat parameter
    with trained ones [bytes]."""
    bucket: Number = 0.0
    """Gradients that DeepSpeed collects before it reduces them, in a buffer of that size."""


def sharding(
    model: ModelSpec, settings: Settings, n: Numerics, trainer: Trainer, w: WeightBytes
) -> Sharding:
    """One rank's share under each strategy.

    FSDP full shard: each layer is a unit, gathered while it computes; the root unit (embeddings,
    head, last norm) stays gathered from forward to the end of backward. Quantisation constants are
    not flattened into the unit: every rank keeps them all. Adapters that a fused kernel reads are
    excluded from wrapping, so every rank keeps those too. Frozen units with reentrant checkpointing
    hold every recomputed input to the end of backward (the reshard hook is registered on them).
    Ref: torch/distributed/fsdp/_runtime_utils.py; the bytes per token of pairs of published rows
    that differ only in batch size.
    """
    gpus = settings.num_gpus
    lora = not n.trained
    if trainer.fsdp_version == CHUNKED and settings.strategy.startswith("fsdp"):
        return _chunked(model, settings, n, trainer, w)
    if settings.strategy in ZERO:
        return _zero(model, settings, n, w)
    layer = max((b.num_params_per_layer for b in model.blocks), default=0)
    constants = w.quantization_constants
    per_layer = (w.layers - constants) * layer / _all_layer_params(model)
    match settings.strategy:
        case "fsdp":
            gather = 1.0 if n.weight == HALF_BYTES or lora else HALF_BYTES / FP32_BYTES
            return Sharding(
                weights=(w.total - constants) / gpus + constants,
                gathered_root=w.outside * gather,
                gathered_layer=per_layer * gather,
                adapter_divisor=1 if settings.fused_lora else gpus,
                gradient_divisor=gpus,
                optimizer_divisor=gpus,
                buffers=0.0,
                unsharded_gradients=1.0 if trainer.sharded_accumulation_unsharded else 0.0,
                retains_checkpoints=lora
                and trainer.reentrant_checkpointing
                and not trainer.checkpoints_within_units,
                flat_gradients=w.total if lora and trainer.flat_params_mixed else 0.0,
            )
        case "fsdp-shard-grad-op":
            return Sharding(w.total, 0.0, 0.0, 1, gpus, gpus, 0.0, 0.0, False)
        case _:
            buckets = DDP_BUCKETS_PER_GRADIENT if settings.strategy == "ddp" else 0.0
            return Sharding(w.total, 0.0, 0.0, 1, 1, 1, buckets, 0.0, False)


def _zero(model: ModelSpec, settings: Settings, n: Numerics, w: WeightBytes) -> Sharding:
    """DeepSpeed: each stage divides one thing more. Scales of four-bit weights are no parameters:
    every rank has all of them.

    Its gradients are collected in a buffer of `reduce_bucket_size`, which runs leave to
    Transformers: the square of the hidden size.
    Ref: DeepSpeed 0.19.8 runtime/zero/stage_1_and_2.py, setup_buckets, and stage3.py; transformers
    5.23 integrations/deepspeed.py, trainer_config_finalize.
    """
    gpus, stage = settings.num_gpus, ZERO.index(settings.strategy) + 1
    constants = w.quantization_constants
    divides = stage == 3
    layer = max((b.num_params_per_layer for b in model.blocks), default=0)
    per_layer = (w.layers - constants) * layer / _all_layer_params(model)
    return Sharding(
        weights=(w.total - constants) / gpus + constants if divides else w.total,
        gathered_root=min(ZERO_MAX_LIVE_PARAMETERS * n.weight, w.total) if divides else 0.0,
        gathered_layer=per_layer if divides else 0.0,
        adapter_divisor=1,
        gradient_divisor=gpus if stage > 1 else 1,
        optimizer_divisor=gpus,
        buffers=0.0,
        unsharded_gradients=0.0,
        retains_checkpoints=False,
        bucket=model.hidden_size**2,
    )


def _chunked(
    model: ModelSpec, settings: Settings, n: Numerics, trainer: Trainer, w: WeightBytes
) -> Sharding:
    """FSDP2: each parameter is cut along its first dimension and gathered in the half precision of
    mixed precision, layer by layer, or all of it and kept through the step (fsdp-shard-grad-op).

    4-bit weights are cut too where they are stored in a floating dtype, as runs store them; their
    scales are no parameters, and other quantised weights no floats: every rank has all of those.
    Runs load them on the CPU, so that no rank ever has all of them on its GPU.
    Ref: accelerate 1.15 utils/fsdp_utils.py, fsdp2_prepare_model; torch 2.13
    distributed/fsdp/_fully_shard/_fsdp_init.py, _move_states_to_device; the simulated step.
    """
    gpus = settings.num_gpus
    half = HALF_BYTES / FP32_BYTES
    gather = half if settings.autocast != "none" and settings.weights_dtype == "fp32" else 1.0
    if n.trained:
        # Numerics count what trains in the gathered dtype already.
        gather = 1.0
    four_bit = settings.quantization.startswith("nf4")
    whole = w.quantization_constants if four_bit else w.layers if n.kbit else 0.0
    divided = w.total - whole
    layer = max((b.num_params_per_layer for b in model.blocks), default=0)
    # Four bits travel as they are stored.
    in_layers = (w.layers - whole) * (1.0 if n.kbit else gather)
    per_layer = in_layers * layer / _all_layer_params(model)
    kept = settings.strategy == "fsdp-shard-grad-op"
    return Sharding(
        weights=whole + divided / gpus,
        gathered_root=w.outside * gather + (in_layers if kept else 0.0),
        gathered_layer=0.0 if kept else per_layer,
        adapter_divisor=gpus,
        gradient_divisor=gpus,
        optimizer_divisor=gpus,
        buffers=0.0,
        unsharded_gradients=_unsharded(settings, n, trainer),
        retains_checkpoints=False,
    )


def _unsharded(settings: Settings, n: Numerics, trainer: Trainer) -> float:
    """Accumulated gradients over trained bytes: whole, in the dtype that is gathered."""
    if not trainer.sharded_accumulation_unsharded:
        return 0.0
    trained = trainable_dtype_bytes(settings, n, trainer)
    return HALF_BYTES / trained if settings.autocast != "none" else 1.0


def _all_layer_params(model: ModelSpec) -> int:
    return max(1, sum(block.num_params for block in model.blocks))
