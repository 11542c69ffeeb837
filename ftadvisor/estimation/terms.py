"""What the phases of a step are sums of, resolved once for a run."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple

from ftadvisor.estimation.activations import (
    LayerActivations,
    is_padded,
    layer_activations,
    packing_needs_mask,
)
from ftadvisor.estimation.arithmetic import select
from ftadvisor.estimation.blocks import unsplit_share, unsplit_weights
from ftadvisor.estimation.loss import LossBytes, loss_bytes
from ftadvisor.estimation.numerics import FP32_BYTES, Numerics, as_quantized, numerics
from ftadvisor.estimation.objectives import DROPS_NOTHING, ObjectiveCost, objective_cost
from ftadvisor.estimation.sharding import Sharding, sharding
from ftadvisor.estimation.states import NF4_BLOCK, WeightBytes, trainable_dtype_bytes, weight_bytes
from ftadvisor.schema.model import Block, Linear, ModelSpec
from ftadvisor.schema.settings import AttnImplementation, Number, Settings
from ftadvisor.schema.trainer import Trainer


class AdapterBytes(NamedTuple):
    """What an adapter technique adds, as the memory model reads it."""

    num_trainable_params: Number
    buffers_bytes: Number
    saved_per_token: Number
    """All layers [bytes per token]."""
    saved_per_token_per_layer: Number
    saved_bytes: Number
    """Weight-sized tensors kept from forward to backward, all layers."""
    saved_bytes_per_layer: Number
    temporary_bytes: Number
    backward_per_token: Number
    """Most alive beside a layer's saved tensors in an adapter's own backward [bytes per token]."""
    virtual_tokens: int
    kernels: Number = 0
    """Launched in a forward and a backward, all layers."""
    moved_tensors: Number = 0
    """Tensors with a row for each token that they read or write, all layers."""
    tensor_per_token: Number = 0
    """Mean size of such a tensor [bytes per token]."""
    moved_bytes: Number = 0
    """Read and written of tensors whose size does not follow the tokens, all layers."""
    forward_per_token: Number = 0
    """Most alive beside all that a layer keeps while an adapted matrix runs [bytes per token]."""
    freed_per_token: Number = 0
    """Kept by the matrix that backward begins with [bytes per token]."""
    outside_attention_per_token: Number = 0
    """Of `saved_per_token_per_layer` what is gone when backward reaches the layer's attention."""
    saved_per_source_token: Number = 0
    """One layer of an encoder, of which there is one kind [bytes per token of its source]."""
    num_unreached_params: Number = 0
    """Of the trainable ones, those of a vision tower that sees no image: no gradient, no states."""
    num_unpaged_params: Number = 0
    """Of the trainable ones, those in tensors whose states a paged optimizer does not page."""
    num_head_params: Number = 0
    """Of the trainable ones, a classifier's new head: it keeps the base's dtype."""


class Layer(NamedTuple):
    """One block's layers and the tokens that pass them."""

    block: Block
    activations: LayerActivations
    tokens: Number
    """Tokens of a micro-batch in this block's stream."""
    keys: Number
    """Keys that a query of this block sees at most."""


class Terms(NamedTuple):
    """Everything that the phases are sums of [bytes unless the name says otherwise]."""

    model: ModelSpec
    settings: Settings
    n: Numerics
    trainer: Trainer
    objective: ObjectiveCost
    weights: WeightBytes
    shard: Sharding
    loss: LossBytes
    adapter: AdapterBytes
    layers: tuple[Layer, ...]
    trainable_params: Number
    trainable_bytes: int
    """Of one trained parameter, and of its gradient."""
    tokens: Number
    """Text tokens of a micro-batch, padding and virtual tokens included."""
    scored: Number
    """Those of them that the fused head scores: generated ones, or all."""
    length: Number
    """Text tokens of one sequence."""
    vocab_size: int
    """Entries that the head puts out; 0 for a classifier."""
    unsplit: Unsplit
    mask_bytes: Number
    """A mask that lives as long as the layers' tensors do [bytes]."""


class Unsplit(NamedTuple):
    """What the allocator leaves unsplit, over what is cut."""

    weights: Number
    """Of the layers' matrices, and of their gradients and states."""
    activations: Number


NOTHING = Unsplit(0.0, 0.0)
NO_ADAPTER = AdapterBytes(0, 0, 0, 0, 0, 0, 0, 0, 0)


def terms(
    model: ModelSpec, settings: Settings, trainer: Trainer, adapter: AdapterBytes | None
) -> Terms:
    """Resolve the terms of one run. `adapter` is None where the base itself trains."""
    trains_base = adapter is None
    settings = _as_it_runs(model, settings, trainer)
    if trainer.model_code == "litgpt":
        model = _as_litgpt_writes_it(model)
    n = numerics(settings, trainer, trains_base=trains_base, layer_norm=model.layer_norm)
    objective = objective_cost(settings, trains_base=trains_base)
    if objective.full_logits and settings.loss_kernel in ("chunked", "fused_linear"):
        settings = replace(settings, loss_kernel="torch")
    if objective.classifies:
        settings = replace(settings, loss_kernel="torch")
    model = _as_it_trains(model, settings, objective)
    a = adapter or NO_ADAPTER
    trainable_bytes = trainable_dtype_bytes(settings, n, trainer)
    w = weight_bytes(model, settings, n, trainer)
    completion = settings.max_completion_length if objective.generates else 0
    length = settings.longest_length + completion + a.virtual_tokens
    sequences = settings.micro_batch_size * objective.sequences
    # An encoder-decoder's logits and decoder follow the target, its encoder the source.
    text = settings.max_target_length if model.family == "encdec" else length
    layers = tuple(
        _layer(model, b, settings, n, trainer, sequences, length if b.stream == "source" else text)
        for b in model.blocks
    )
    return Terms(
        model=model,
        settings=settings,
        n=n,
        trainer=trainer,
        objective=objective,
        weights=w,
        shard=sharding(model, settings, n, trainer, w),
        loss=loss_bytes(model, settings, n, trainer),
        adapter=a,
        layers=layers,
        trainable_params=_with_gradients(model, settings)
        if trains_base
        else _in_adapter_dtype(a, n.weight, trainable_bytes),
        trainable_bytes=trainable_bytes,
        tokens=sequences * text,
        scored=sequences * (completion or text),
        length=text,
        vocab_size=0 if objective.classifies or model.family == "encoder" else model.vocab_size,
        unsplit=_unsplit(layers[-1], settings, n, trainer),
        mask_bytes=_mask_bytes(_read_first(layers), settings, n, trainer),
    )


def _as_it_trains(model: ModelSpec, settings: Settings, objective: ObjectiveCost) -> ModelSpec:
    if objective.classifies:
        # The classifier has no language-model head, only a matrix of a few rows.
        model = replace(model, tie_word_embeddings=True, lm_head_bias=False)
    if settings.objective in DROPS_NOTHING and not settings.lora_dropout:
        return _without_dropout(model)
    return model


def _read_first(layers: tuple[Layer, ...]) -> Layer:
    """The layers that hold the widest mask: an encoder's where there is one, else the last."""
    return next((x for x in layers if x.block.stream == "source"), layers[-1])


def _mask_bytes(last: Layer, settings: Settings, n: Numerics, trainer: Trainer) -> Number:
    """Packed samples are kept apart by a boolean mask of the micro-batch in one row; Falcon's ALiBi
    mask is the embedding's dtype for each head, and checkpoints or SDPA's graph hold it, unless
    autocast hands SDPA a copy. Padding's mask only checkpoints hold, as their argument: boolean,
    eager attention's in the embedding's dtype (transformers 5.23 masking_utils.py).
    """
    if last.block.traits.alibi_mask:
        given = settings.attn_implementation == "sdpa" and not n.autocast
        held = given or settings.gradient_checkpointing != "none"
        mask = n.residual * last.block.attention.num_heads
        return last.tokens * last.keys * mask if held else 0
    if packing_needs_mask(settings, trainer):
        return last.tokens**2
    checkpointed = settings.gradient_checkpointing != "none"
    if not checkpointed or trainer.model_code != "transformers":
        return 0
    if settings.attn_implementation == "eager":
        return last.tokens * last.keys * n.outside
    padded = settings.attn_implementation == "sdpa" and is_padded(settings)
    return select(padded, last.tokens * last.keys, 0)


def _as_it_runs(model: ModelSpec, settings: Settings, trainer: Trainer) -> Settings:
    settings = as_quantized(model, settings, trainer)
    kernel = attention_kernel(model, settings, trainer)
    if kernel == settings.attn_implementation:
        return settings
    return replace(settings, attn_implementation=kernel)


def _unsplit(last: Layer, settings: Settings, n: Numerics, trainer: Trainer) -> Unsplit:
    """Of layers like the last, whose tensors are as wide as the stream or as the feed-forward;
    malloc cuts to the byte."""
    if trainer.cpu_kernels:
        return NOTHING
    block = last.block
    stream = n.compute * block.hidden_size * last.tokens
    wide = n.compute * block.mlp.intermediate_size * last.tokens
    part = last.activations.of_mlp
    element, scale = n.weight, 0.0
    if settings.quantization.startswith("nf4"):
        element, scale = 0.5, (1 if settings.quantization == "nf4-dq" else FP32_BYTES) / NF4_BLOCK
    return Unsplit(
        weights=unsplit_weights(block, element, scale, stream),
        activations=part * unsplit_share(wide, stream) + (1 - part) * unsplit_share(stream, stream),
    )


def _in_adapter_dtype(a: AdapterBytes, weight: float, trained: float) -> Number:
    """Adapter parameters with a gradient; a head's are as many as have its bytes."""
    narrower = 1 - min(1.0, weight / trained)
    return a.num_trainable_params - a.num_unreached_params - narrower * a.num_head_params


def _with_gradients(model: ModelSpec, settings: Settings) -> Number:
    """Parameters that backward reaches: without an image none of the tower's, and AdamW makes no
    states for what has no gradient (torch/optim/adamw.py, _init_group)."""
    if not model.num_image_params:
        return model.num_params
    return model.num_params - select(settings.num_images > 0, 0, model.num_image_params)


def attention_kernel(model: ModelSpec, settings: Settings, trainer: Trainer) -> AttnImplementation:
    """The attention that really runs: what the model's code has of what was asked for."""
    asked = settings.attn_implementation
    if model.model_type in trainer.eager_model_types:
        return "eager"
    if trainer.model_code != "transformers":
        return asked
    if asked == "flash_attention_2" and not model.supports_flash_attention:
        asked = "sdpa"
    # A processor's fused kernel drops nothing: with dropout the scores are formed.
    formed = trainer.cpu_kernels and any(b.attention_dropout for b in model.blocks)
    return "eager" if asked == "sdpa" and (formed or not model.supports_sdpa) else asked


@cache
def _without_dropout(model: ModelSpec) -> ModelSpec:
    """The same model as trainers have it that disable dropout."""
    blocks = tuple(
        replace(
            b,
            attention_dropout=0.0,
            hidden_dropout=0.0,
            traits=replace(b.traits, residual_dropouts=0, mlp_dropouts=0, attention_dropout=False),
        )
        for b in model.blocks
    )
    return replace(model, blocks=blocks)


@cache
def _as_litgpt_writes_it(model: ModelSpec) -> ModelSpec:
    """The same model in lit-gpt's code: tanh-GELU is one kernel, embeddings are never tied."""
    blocks = tuple(
        replace(b, traits=replace(b.traits, act="std")) if b.traits.act == "gelu_new" else b
        for b in model.blocks
    )
    return replace(model, blocks=blocks, tie_word_embeddings=False)


def _layer(
    model: ModelSpec,
    block: Block,
    settings: Settings,
    n: Numerics,
    trainer: Trainer,
    sequences: Number,
    length: Number,
) -> Layer:
    if block.stream == "image":
        patches = model.image_patches * settings.num_images
        tokens, keys = sequences * patches, model.image_patches / max(model.image_crops, 1)
    else:
        tokens, keys = sequences * length, length
        if packing_needs_mask(settings, trainer):
            keys = tokens
    activations = layer_activations(model, block, settings, n, trainer)
    saves = n.kbit and trainer.kbit_saves_input
    litgpt = trainer.model_code == "litgpt"
    hung = saves and not litgpt and not outlive_checkpoints(settings, trainer)
    if settings.quantization == "int8" or hung:
        # Backward is handed the inputs: of q, k and v, of gate and up, of the down projection
        # (bitsandbytes/autograd/_functions.py, MatMul8bitLt 0.50, MatMul4Bit 0.42: ctx.tensors).
        inputs = 2 * block.hidden_size + block.mlp.intermediate_size
        activations = _with_inputs(activations, n.compute * inputs)
    if saves and litgpt:
        kept = n.compute * sum(linear.in_features for linear in _apart(block))
        if block.mlp.fused_gate_up:
            kept += n.compute * block.hidden_size
        activations = _with_inputs(activations, kept)
    return Layer(block, activations, tokens, keys)


def outlive_checkpoints(settings: Settings, trainer: Trainer) -> bool:
    """Whether the inputs of quantised matrices stay alive under checkpointing, in all layers.

    bitsandbytes hangs LLM.int8's on its context, and up to 0.43.1 the 4-bit matrices' too
    (autograd/_functions.py, MatMul8bitLt and MatMul4Bit: ctx.tensors). A checkpoint that is not
    reentrant keeps the forward's graph and drops only what is saved for backward
    (torch/utils/checkpoint.py, saved_tensors_hooks); the simulated step has them, and an H100 had.
    """
    if trainer.reentrant_checkpointing or settings.gradient_checkpointing == "none":
        return False
    if settings.quantization == "int8":
        return True
    hung = trainer.kbit_saves_input and trainer.model_code != "litgpt"
    return hung and settings.quantization.startswith("nf4")


def _with_inputs(found: LayerActivations, kept: float) -> LayerActivations:
    """Further matrix inputs kept [bytes per token]."""
    return found._replace(
        saved=found.saved + kept,
        at_product=found.at_product + kept,
        whole=found.whole + kept,
        at_matrix=found.at_matrix + kept,
        at_attention=found.at_attention + kept,
    )


def _apart(block: Block) -> list[Linear]:
    """lit-gpt's quantised matrices, each with an input copy of its own; q, k and v are one."""
    fused = not block.attention.fused_qkv
    found = [linear for linear in block.linears if linear.part != "router"]
    queries = [x for x in found if x.part == "attention" and x.in_features == block.hidden_size]
    return [x for x in found if not fused or x not in queries[1:3]]
