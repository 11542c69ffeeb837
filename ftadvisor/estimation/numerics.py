"""Bytes per element of what a run stores and computes, by settings and trainer."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import FSDP, ZERO, Settings
from ftadvisor.schema.trainer import Trainer

DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
FP32_BYTES = 4
HALF_BYTES = 2
DROPOUT_MASK_BYTES = 1

BITSANDBYTES = frozenset({"nf4", "nf4-dq", "int8"})
SHARDED = frozenset({*ZERO, *FSDP})
PARAMETER_SHARDED = frozenset({"zero3", "fsdp"})

KEEPS_BASE_DTYPE = frozenset({"llamapro", "adaption_prompt", "adapter", "adapter_v2", "ln_tuning"})
"""Techniques whose parameters are made in the base's dtype and not cast: copies of its layers and
norms, and prompts, which are no PEFT tuner layers (peft/tuners/adaption_prompt/layer.py)."""

PREPARES_KBIT = frozenset({"orpo"})
"""Objectives whose trainer prepares a quantised base (trl/experimental/orpo/orpo_trainer.py)."""


def in_deepspeed(settings: Settings, trainer: Trainer) -> bool:
    """Whether DeepSpeed's engine shards; llm-foundry calls a form of FSDP zero2."""
    return trainer.zero_engine == "deepspeed" and settings.strategy.startswith("zero")


class Numerics(NamedTuple):
    """Bytes per element, and the switches that decide which tensors exist."""

    weight: int
    """A base weight that is not quantised."""
    compute: int
    """A feature that a layer's matrix product puts out."""
    head: int
    """A logit as the head puts it out."""
    residual: int
    """A feature of the residual stream between the layers."""
    attention: int
    """A feature of q, k and v as the attention kernel reads them."""
    adapter: int
    """An adapter's weight."""
    norm_weight: int
    outside: int
    """A weight of the embeddings and the head."""
    dropout_mask: int
    """What dropout keeps of an element: a byte that says whether it was dropped; on a processor the
    factor that it was multiplied by, in its own dtype (aten/src/ATen/native/Dropout.cpp,
    is_fused_kernel_acceptable)."""
    trained: bool
    """The base's own weights are trained."""
    autocast: bool
    kbit: bool
    """The base is quantised."""

    @property
    def recasts_input(self) -> bool:
        """Autocast makes a half-precision copy of a layer's input for each matrix that reads it."""
        return self.autocast and self.residual != self.compute


def as_quantized(model: ModelSpec, settings: Settings, trainer: Trainer) -> Settings:
    """The settings, without a quantisation that finds no matrix.

    Since Transformers 5 bitsandbytes converts nn.Linear itself alone, no class derived from it
    (transformers 5.23 integrations/bitsandbytes.py, replace_with_bnb_linear: type(module)).
    """
    none = settings.quantization in BITSANDBYTES and quantizes_nothing(model, trainer)
    return replace(settings, quantization="none") if none else settings


def quantizes_nothing(model: ModelSpec, trainer: Trainer) -> bool:
    """Whether bitsandbytes leaves all of a model as it is."""
    return trainer.grouped_experts and all(b.traits.own_linears for b in model.blocks)


def _computed(settings: Settings, *, trains_base: bool, deepspeed: bool) -> tuple[int, bool]:
    """Bytes of a weight as it is computed with, and whether autocast is on."""
    weight = DTYPE_BYTES[settings.weights_dtype]
    # TRL reroutes the student through `forward` of the class, which leaves accelerate's autocast
    # out (trl/trainer/distillation_trainer.py, _ForwardRedirection).
    if settings.autocast == "none" or settings.objective == "distillation":
        return weight, False
    if deepspeed:
        # The engine casts the module and all that trains in it; nothing is autocast then
        # (accelerate/accelerator.py; deepspeed/runtime/engine.py, _configure_distributed_model).
        return HALF_BYTES, False
    if trains_base and settings.strategy in FSDP:
        # FSDP's mixed precision gathers the units in half precision: nothing computes in fp32.
        return HALF_BYTES, True
    return weight, True


def _read_by_attention(settings: Settings, compute: int, *, wide: bool) -> int:
    """Bytes of a query's feature, `wide` where queries come in the dtype of an fp32 stream, which
    FlashAttention converts first (transformers 5.23 integrations/flash_attention.py,
    get_target_dtype).
    """
    kept = wide and settings.attn_implementation != "flash_attention_2"
    return FP32_BYTES if kept else compute


def numerics(
    settings: Settings, trainer: Trainer, *, trains_base: bool, layer_norm: bool = False
) -> Numerics:
    """Resolve the dtypes of a run [bytes per element].

    Autocast computes matrix products in half precision whatever the weights are stored in. k-bit
    preparation leaves the norms in fp32, so the residual stream becomes fp32 and bitsandbytes'
    layers, which return their input's dtype, follow it (peft/utils/other.py,
    prepare_model_for_kbit_training; bitsandbytes/nn/modules.py, Linear4bit.forward). Where autocast
    makes the layers' norms put out fp32 (`layer_norm`, torch's own), or what is not quantised is
    fp32, they follow too.
    """
    deepspeed = in_deepspeed(settings, trainer)
    weight, autocast = _computed(settings, trains_base=trains_base, deepspeed=deepspeed)
    kbit = settings.quantization != "none"
    asked = settings.prepare_kbit
    own = settings.objective in PREPARES_KBIT
    prepares = trainer.prepares_kbit or own if asked is None else asked
    prepared = kbit and prepares and settings.strategy not in PARAMETER_SHARDED
    wide_residual = prepared and (trainer.kbit_residual_fp32 or own or bool(asked))
    if settings.quantization in BITSANDBYTES and autocast and (layer_norm or weight == FP32_BYTES):
        wide_residual = True
    outside = weight
    if prepared and (trainer.kbit_embeddings_fp32 or own or bool(asked)):
        # peft_module_casting_to_bf16, where TRL is told bf16 and the base has 4 bits; a program
        # that is asked to prepare by itself casts nothing back.
        cast = own and not asked and settings.autocast == "bf16"
        cast = cast and settings.quantization != "int8"
        outside = HALF_BYTES if cast else FP32_BYTES
    compute = HALF_BYTES if autocast else weight
    residual = FP32_BYTES if wide_residual else weight
    adapter = DTYPE_BYTES[settings.adapter_dtype]
    if settings.technique in KEEPS_BASE_DTYPE or (deepspeed and weight == HALF_BYTES):
        adapter = weight
    return Numerics(
        weight=weight,
        compute=FP32_BYTES if wide_residual else compute,
        head=HALF_BYTES if autocast else outside,
        residual=residual,
        attention=_read_by_attention(settings, compute, wide=wide_residual and not autocast),
        adapter=adapter,
        norm_weight=FP32_BYTES if prepared else weight,
        outside=outside,
        dropout_mask=compute if trainer.cpu_kernels else DROPOUT_MASK_BYTES,
        trained=trains_base,
        autocast=autocast,
        kbit=kbit,
    )
