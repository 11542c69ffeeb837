"""Peak allocated memory of a training step: a maximum over phases, each a sum of named parts.

Phases, in the order of a step: the loss at the end of forward, the start of backward, the backward
of the first and of the last layer processed, the end of backward where embedding gradients are
added, the optimizer's step. Which one is the peak changes with vocabulary, checkpointing, optimizer
and program version, so all are computed and the largest is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ftadvisor.estimation.activations import LayerActivations, layer_activations
from ftadvisor.estimation.arithmetic import largest, select, smallest
from ftadvisor.estimation.loss import LossBytes, loss_bytes
from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES, Numerics, numerics
from ftadvisor.estimation.sharding import Sharding, sharding
from ftadvisor.estimation.states import (
    WeightBytes,
    optimizer_bytes,
    trainable_dtype_bytes,
    weight_bytes,
)
from ftadvisor.schema.model import Block, ModelSpec
from ftadvisor.schema.settings import Number, Settings
from ftadvisor.schema.trainer import Trainer

CUBLAS_WORKSPACE_BYTES = 8_519_680
"""4096 KiB x 2 + 16 KiB x 8, one per thread and stream that calls cuBLAS: the forward's and
autograd's (aten/src/ATen/cuda/CUDABlas.cpp, parseChosenWorkspaceSize)."""


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


class Phase(NamedTuple):
    """Bytes alive at one moment, by what they are for."""

    weights: Number
    gathered: Number
    adapters: Number
    optimizer: Number
    gradients: Number
    activations: Number
    logits: Number
    temporaries: Number
    workspace: Number

    @property
    def total(self) -> Number:
        """All parts [bytes]."""
        return sum(self)


@dataclass(frozen=True, slots=True)
class Terms:
    """Everything that the phases are sums of. Bytes; `per_token` where said."""

    model: ModelSpec
    settings: Settings
    n: Numerics
    trainer: Trainer
    weights: WeightBytes
    shard: Sharding
    loss: LossBytes
    adapter: AdapterBytes
    layers: tuple[tuple[Block, LayerActivations], ...]
    trainable_params: Number
    trainable_bytes: int
    tokens: Number
    length: Number


def peak_memory(
    model: ModelSpec, settings: Settings, trainer: Trainer, adapter: AdapterBytes | None
) -> dict[str, Phase]:
    """Bytes alive in each phase of a step; the peak is the largest total."""
    t = terms(model, settings, trainer, adapter)
    phases = {
        "loss_forward": _loss_forward(t),
        "loss_backward": _loss_backward(t),
        "first_layer_backward": _layer_backward(t, first=True),
        "last_layer_backward": _layer_backward(t, first=False),
        "end_of_backward": _end_of_backward(t),
        "optimizer_step": _optimizer_step(t),
    }
    if t.n.trained:
        phases["head_gradient"] = _head_gradient(t)
    return phases


def terms(
    model: ModelSpec, settings: Settings, trainer: Trainer, adapter: AdapterBytes | None
) -> Terms:
    """Resolve the sums' terms for one run."""
    trains_base = adapter is None
    n = numerics(settings, trainer, trains_base=trains_base)
    w = weight_bytes(model, settings, n, trainer)
    a = adapter or AdapterBytes(model.num_params, 0, 0, 0, 0, 0, 0, 0, 0)
    length = settings.longest_length + a.virtual_tokens
    return Terms(
        model=model,
        settings=settings,
        n=n,
        trainer=trainer,
        weights=w,
        shard=sharding(model, settings, n, trainer, w),
        loss=loss_bytes(model, settings, n, trainer),
        adapter=a,
        layers=tuple((b, layer_activations(model, b, settings, n, trainer)) for b in model.blocks),
        trainable_params=a.num_trainable_params,
        trainable_bytes=trainable_dtype_bytes(settings, n, trainer),
        tokens=settings.micro_batch_size * length,
        length=length,
    )


def _saved_by_layers(t: Terms) -> Number:
    """What all layers keep at the end of forward [bytes]."""
    if t.settings.gradient_checkpointing != "none":
        kept = sum(b.num_layers * t.n.residual * b.hidden_size for b, _ in t.layers)
        if t.n.residual != t.n.weight:
            # The first layer's input is the embedding, still in the weights' dtype.
            kept -= (t.n.residual - t.n.weight) * t.model.hidden_size
        return t.tokens * kept
    per_token = sum(b.num_layers * (a.saved + a.saved_per_key * t.length) for b, a in t.layers)
    return t.tokens * (per_token + t.adapter.saved_per_token) + t.adapter.saved_bytes


def _retained_gradients(t: Terms) -> Number:
    """Gradients of checkpointed inputs that stay to the end of backward [bytes]."""
    if not t.shard.retains_checkpoints or t.settings.gradient_checkpointing == "none":
        return 0
    layers = sum(b.num_layers for b, _ in t.layers)
    return t.tokens * t.n.residual * t.model.hidden_size * max(0, layers - 2)


def _static(t: Terms, *, gradients: Number, gathered: Number) -> Phase:
    """The parts that do not depend on the batch."""
    trainable = t.trainable_params
    optimizer = optimizer_bytes(t.settings.optim, t.trainable_bytes)
    weights = t.shard.weights
    adapters = t.adapter.buffers_bytes
    if t.n.trained:
        if t.trainable_bytes != t.n.weight:
            weights = weights * (t.trainable_bytes / t.n.weight)
    else:
        adapters = adapters + trainable * t.trainable_bytes / t.shard.adapter_divisor
    state = 0 if t.settings.offload_optimizer else optimizer.state
    if t.settings.offload_params:
        weights = 0 * weights
    return Phase(
        weights=weights,
        gathered=gathered,
        adapters=adapters,
        optimizer=trainable * state / _optimizer_divisor(t),
        gradients=gradients * trainable * t.trainable_bytes,
        activations=0,
        logits=0,
        temporaries=0,
        workspace=2 * CUBLAS_WORKSPACE_BYTES + t.shard.buffers * trainable * t.trainable_bytes,
    )


def _optimizer_divisor(t: Terms) -> Number:
    return t.shard.adapter_divisor if not t.n.trained else t.shard.optimizer_divisor


def _gradient_share(t: Terms) -> Number:
    """Fraction of all gradients that one rank holds after a layer's backward."""
    divisor = t.shard.adapter_divisor if not t.n.trained else t.shard.gradient_divisor
    return 1 / divisor


def _accumulated(t: Terms) -> Number:
    """Fraction of gradients alive before the backward of a second micro-batch."""
    held = t.shard.unsharded_gradients or _gradient_share(t)
    return select(t.settings.gradient_accumulation_steps > 1, held, 0)


def _cast_weights(t: Terms) -> Number:
    """Half-precision copies of fp32 weights that autocast keeps through forward [bytes]."""
    if not t.n.autocast:
        return 0
    if t.n.trained:
        if t.n.weight == HALF_BYTES or t.settings.strategy == "fsdp":
            return 0
        return HALF_BYTES * (t.model.num_linear_weights + t.model.num_head_params)
    if t.n.adapter != FP32_BYTES:
        return 0
    return HALF_BYTES * t.trainable_params / t.shard.adapter_divisor


def _loss_forward(t: Terms) -> Phase:
    base = _static(t, gradients=_accumulated(t), gathered=t.shard.gathered_root)
    logits = t.tokens * t.model.vocab_size * t.loss.logits.forward + _loss_chunk(t)
    activations = _saved_by_layers(t) + t.tokens * t.loss.forward_per_token + _embedding_kept(t)
    return base._replace(activations=activations, logits=logits, temporaries=_cast_weights(t))


def _loss_backward(t: Terms) -> Phase:
    base = _static(t, gradients=_accumulated(t), gathered=t.shard.gathered_root)
    logits = t.tokens * t.model.vocab_size * t.loss.logits.backward + _loss_chunk(t)
    activations = _saved_by_layers(t) + t.tokens * t.loss.backward_per_token + _embedding_kept(t)
    cast = _cast_weights(t) if t.settings.gradient_checkpointing == "none" else 0
    temporaries = cast + t.loss.weight_gradient
    return base._replace(activations=activations, logits=logits, temporaries=temporaries)


def _loss_chunk(t: Terms) -> Number:
    chunk = smallest(t.trainer.loss_chunk_tokens, t.length) * t.settings.micro_batch_size
    tile = smallest(t.tokens, t.loss.tile_tokens) * t.loss.tile_bytes_per_token
    return chunk * t.model.vocab_size * t.loss.logits.per_chunk + tile


def _embedding_kept(t: Terms) -> Number:
    """The embedding's output where a scaled copy of it goes on (input_require_grads) [bytes]."""
    if t.model.embedding_scale and not t.n.trained:
        return t.tokens * t.n.weight * t.model.hidden_size
    return 0


def _head_gradient(t: Terms) -> Phase:
    base = _static(t, gradients=_accumulated(t), gathered=t.shard.gathered_root)
    h, c = t.model.hidden_size, t.n.compute
    logits = t.tokens * t.model.vocab_size * (c + t.loss.logits.held)
    activations = _saved_by_layers(t) + t.tokens * (t.loss.backward_per_token + c * h)
    return base._replace(
        activations=activations,
        logits=logits,
        temporaries=c * t.model.vocab_size * h,
    )


def _layer_backward(t: Terms, *, first: bool) -> Phase:
    """Backward of the first processed layer (the stack is full) or of the last (gradients are)."""
    layer_gathered = t.shard.gathered_layer
    gathered = t.shard.gathered_root + layer_gathered
    share = _accumulated(t) if first else largest(_gradient_share(t), _accumulated(t))
    base = _static(t, gradients=share, gathered=gathered)
    checkpointed = t.settings.gradient_checkpointing != "none"
    shared = t.tokens * min(a.is_input for _, a in t.layers) if checkpointed else 0
    if first:
        stack = _saved_by_layers(t) - (shared if checkpointed else _saved_by_one(t))
    elif t.shard.retains_checkpoints and checkpointed:
        stack = _saved_by_layers(t) + _retained_gradients(t) - shared
    else:
        residual = t.tokens * t.n.residual * t.model.hidden_size if checkpointed else 0
        stack = residual - shared
    layer, temporaries = _widest_moment(t)
    return base._replace(
        activations=stack + layer + _embedding_kept(t),
        logits=t.tokens * t.model.vocab_size * t.loss.logits.held,
        temporaries=temporaries + _head_gradient_kept(t, first=first),
    )


def _saved_by_one(t: Terms) -> Number:
    saved = min(a.saved + a.saved_per_key * t.length for _, a in t.layers)
    return t.tokens * (saved + t.adapter.saved_per_token_per_layer)


def _widest_moment(t: Terms) -> tuple[Number, Number]:
    """Activations and weight-sized temporaries of the moment with most bytes in one layer."""
    one_weight = t.n.compute * max(
        (x.in_features * x.out_features for b in t.model.blocks for x in b.linears), default=0
    )
    adapter = t.tokens * t.adapter.saved_per_token_per_layer + t.adapter.saved_bytes_per_layer
    own = t.tokens * t.adapter.backward_per_token + t.adapter.temporary_bytes
    dequantized = one_weight if t.settings.quantization.startswith("nf4") else 0
    gradient = one_weight if t.n.trained else 0
    product = t.tokens * max(a.at_product for _, a in t.layers) + adapter
    matrix = t.tokens * max(a.at_matrix for _, a in t.layers) + adapter + own
    attention = adapter + t.tokens * largest(
        *(a.at_attention + a.attention_per_key * t.length for _, a in t.layers)
    )
    temporaries = largest(dequantized, gradient)
    whole = largest(product + gradient, matrix + temporaries, attention + gradient)
    weights = select(whole == matrix + temporaries, temporaries, gradient)
    return whole - weights, weights


def _head_gradient_kept(t: Terms, *, first: bool) -> Number:
    """The head's unsharded gradient, alive until FSDP reduces the root unit [bytes]."""
    if not t.n.trained or not (first or t.settings.strategy == "fsdp"):
        return 0
    return t.n.compute * t.model.vocab_size * t.model.hidden_size


def _end_of_backward(t: Terms) -> Phase:
    """The embedding's gradient: whole, and twice more where it is added to a tied head's."""
    base = _static(t, gradients=_gradient_share(t), gathered=t.shard.gathered_root)
    h = t.model.hidden_size
    temporaries: Number = 0
    if t.n.trained and t.settings.strategy != "fsdp":
        tied = 2 if t.model.tie_word_embeddings else 0
        temporaries = tied * t.trainable_bytes * t.model.vocab_size * h
    activations = t.tokens * t.n.residual * h
    return base._replace(activations=activations, temporaries=temporaries)


def _optimizer_step(t: Terms) -> Phase:
    base = _static(t, gradients=_gradient_share(t), gathered=0)
    step = optimizer_bytes(t.settings.optim, t.trainable_bytes).step_temporary
    held = t.tokens * t.model.vocab_size * t.loss.logits.held
    temporaries = t.trainable_params * step / _optimizer_divisor(t)
    return base._replace(temporaries=temporaries, logits=held)
