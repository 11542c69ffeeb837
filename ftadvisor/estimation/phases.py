"""Bytes alive at each moment of a step that can be its peak. See `memory` for which wins."""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.arithmetic import largest, select, smallest
from ftadvisor.estimation.loss import FUSED_TILE_LOGITS, FUSED_TILE_TOKENS
from ftadvisor.estimation.moments import Moment
from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES
from ftadvisor.estimation.stack import (
    embedding_kept,
    inputs_kept,
    saved_by_last,
)
from ftadvisor.estimation.states import (
    GALORE_RANK,
    adafactor_step_bytes,
    embedded_params,
    galore_state_bytes,
    is_paged,
    run_optimizer_bytes,
    unpaged_state_bytes,
    wide_embedding_bytes,
)
from ftadvisor.estimation.terms import Terms
from ftadvisor.schema.settings import Number

CUBLAS_WORKSPACE_BYTES = 8_519_680
"""4096 KiB x 2 + 16 KiB x 8 (aten/src/ATen/cuda/CublasHandlePool.cpp, parseChosenWorkspaceSize)."""
HOPPER_WORKSPACE_BYTES = 33_554_432
"""The same from compute capability 9.0 on: 4096 KiB x 8."""
CUBLAS_THREADS = 2
"""One workspace per thread and stream that calls cuBLAS: the forward's and autograd's."""


def cublas_bytes(compute_capability: str) -> int:
    """cuBLAS's workspaces on a GPU; without one, or on another vendor's, the smaller; none on a CPU
    [bytes]."""
    if compute_capability == NO_CUDA:
        return 0
    major = compute_capability.partition(".")[0]
    hopper = major.isdecimal() and int(major) >= HOPPER_MAJOR
    return CUBLAS_THREADS * (HOPPER_WORKSPACE_BYTES if hopper else CUBLAS_WORKSPACE_BYTES)


HOPPER_MAJOR = 9
NO_CUDA = "0"
"""In the place of a CPU's compute capability."""


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
    unsplit: Number
    """What is left of blocks that the allocator does not split."""

    @property
    def total(self) -> Number:
        """All parts [bytes]."""
        return sum(self)


def static(t: Terms, compute_capability: str) -> Phase:
    """The parts that are there in every phase: what does not depend on the batch."""
    trainable = t.trainable_params
    optimizer = run_optimizer_bytes(t.settings, t.n, t.trainer, t.trainable_bytes)
    weights = t.shard.weights
    adapters = t.adapter.buffers_bytes
    if t.n.trained:
        if t.trainable_bytes != t.n.weight:
            weights = weights * (t.trainable_bytes / t.n.weight)
    else:
        held = trainable + t.adapter.num_unreached_params
        adapters = adapters + held * t.trainable_bytes / t.shard.adapter_divisor
    states = trainable * optimizer.state
    if t.n.trained and t.trainer.model_code in ("transformers", "remote"):
        states = states + wide_embedding_bytes(t.model, t.settings.optim, optimizer.state)
    if t.settings.optim.startswith("galore"):
        rank = t.settings.peft_config.get("rank", GALORE_RANK)
        states = galore_state_bytes(t.model, t.settings.optim, t.trainable_bytes, rank)
    if t.settings.offload_optimizer:
        states = 0
    elif is_paged(t.settings.optim) and not t.trainer.cpu_kernels:
        # An embedding's states have 32 bits, and no scales.
        scaled = trainable - (embedded_params(t.model) if t.n.trained else 0)
        small = t.adapter.num_unpaged_params
        states = unpaged_state_bytes(t.settings.optim, optimizer.state, scaled, small)
    if t.settings.offload_params:
        weights = 0 * weights
    second = t.shard.weights
    if t.settings.objective == "distillation":
        # A teacher is loaded in its checkpoint's dtype (trl/trainer/distillation_trainer.py).
        second = second * min(1.0, HALF_BYTES / t.n.weight)
    weights = weights + t.objective.frozen_models * second
    weights = weights + (1 + t.objective.frozen_models) * t.model.buffer_bytes
    return Phase(
        weights=weights,
        gathered=0,
        adapters=adapters,
        optimizer=states / _optimizer_divisor(t),
        gradients=0,
        activations=0,
        logits=0,
        temporaries=0,
        workspace=cublas_bytes(compute_capability)
        + (t.shard.buffers * trainable + t.shard.bucket) * t.trainable_bytes,
        unsplit=t.unsplit.weights * (weights + (states if t.n.trained else 0)),
    )


def at_moment(
    t: Terms,
    base: Phase,
    *,
    gradients: Number,
    gathered: Number,
    activations: Number,
    logits: Number = 0,
    temporaries: Number = 0,
) -> Phase:
    """`base` with what is gathered now, the fraction of all gradients that is alive, and parts."""
    alive = gradients * t.trainable_params * t.trainable_bytes + _flat_gradients(t)
    left = base.unsplit + t.unsplit.activations * activations
    if t.n.trained:
        left = left + t.unsplit.weights * alive
    weights, _, adapters, optimizer, *_ = base
    return Phase(
        weights,
        gathered,
        adapters,
        optimizer,
        alive,
        activations,
        logits,
        temporaries,
        base.workspace,
        left,
    )


def in_loss(
    t: Terms, base: Phase, activations: Number, logits: Number, temporaries: Number
) -> Phase:
    """`base` in the loss or the head: alive are gradients of earlier micro-batches only."""
    return at_moment(
        t,
        base,
        gradients=accumulated(t),
        gathered=t.shard.gathered_root,
        activations=activations,
        logits=logits,
        temporaries=temporaries,
    )


def _flat_gradients(t: Terms) -> Number:
    return select(t.settings.gradient_accumulation_steps > 1, t.shard.flat_gradients, 0)


def _optimizer_divisor(t: Terms) -> Number:
    return t.shard.adapter_divisor if not t.n.trained else t.shard.optimizer_divisor


def gradient_share(t: Terms) -> Number:
    """Fraction of all gradients that one rank holds after a layer's backward."""
    divisor = t.shard.adapter_divisor if not t.n.trained else t.shard.gradient_divisor
    return 1 / divisor


def accumulated(t: Terms) -> Number:
    """Fraction of gradients alive before the backward of a second micro-batch."""
    held = t.shard.unsharded_gradients or gradient_share(t)
    return select(t.settings.gradient_accumulation_steps > 1, held, 0)


def _retained_gradients(t: Terms) -> Number:
    """Gradients of checkpointed inputs that stay to the end of backward [bytes]."""
    if not t.shard.retains_checkpoints or t.settings.gradient_checkpointing == "none":
        return 0
    layers = sum(x.block.num_layers for x in t.layers)
    return t.tokens * t.n.residual * t.model.hidden_size * max(0, layers - 2)


def cast_weights(t: Terms) -> Number:
    """Half-precision copies of fp32 weights that autocast keeps through forward [bytes]."""
    if not t.n.autocast:
        return 0
    if t.n.trained:
        if t.n.weight == HALF_BYTES or t.settings.strategy == "fsdp":
            return 0
        unread = select(t.settings.num_images > 0, 0, t.model.num_image_weights)
        return HALF_BYTES * (t.model.num_linear_weights - unread)
    if t.n.adapter != FP32_BYTES or t.settings.fused_lora:
        return 0
    return HALF_BYTES * t.trainable_params / t.shard.adapter_divisor


def _cast_head(t: Terms) -> Number:
    """The head's half-precision copy, which its backward frees; a fused head is cast one chunk of
    the vocabulary at a time [bytes]."""
    if not t.n.autocast or t.n.outside == HALF_BYTES:
        return 0
    if t.settings.strategy == "fsdp":
        return 0
    return HALF_BYTES * (t.loss.head_chunk or t.vocab_size * t.model.embedding_width)


def _loss_chunk(t: Terms) -> Number:
    chunk = smallest(t.trainer.loss_chunk_tokens, t.length) * t.settings.micro_batch_size
    tile = smallest(t.scored, t.loss.tile_tokens) * t.loss.tile_bytes_per_token
    if t.settings.objective == "distillation":
        tile = _divergence_tiles(t)
    return chunk * t.vocab_size * t.loss.logits.per_chunk + tile


def _divergence_tiles(t: Terms) -> Number:
    """Two fp32 tiles of log-probabilities, student's and teacher's, and of the
    gradient, which takes the student's place, a copy in the head's dtype [bytes].

    Ref: trl 1.16 trl/kernels/chunked_divergence.py.
    """
    tile = smallest(t.scored, FUSED_TILE_TOKENS) * FUSED_TILE_LOGITS
    return tile * (2 * FP32_BYTES + (t.n.head if t.n.head != FP32_BYTES else 0))


def loss_kept(t: Terms) -> Number:
    """What the loss keeps besides logits, while it runs forward [bytes]."""
    return t.tokens * t.loss.forward_per_token + t.scored * t.loss.forward_per_scored


def loss_forward(t: Terms, base: Phase, saved: Number) -> Phase:
    """The loss at the end of forward."""
    logits = t.tokens * t.vocab_size * t.loss.logits.forward + _loss_chunk(t)
    activations = saved + loss_kept(t) + embedding_kept(t)
    return in_loss(t, base, activations, logits, cast_weights(t) + _cast_head(t))


def loss_backward(t: Terms, base: Phase, saved: Number) -> Phase:
    """The start of backward, in the loss."""
    logits = t.tokens * t.vocab_size * t.loss.logits.backward + _loss_chunk(t)
    activations = saved + t.tokens * t.loss.backward_per_token + embedding_kept(t)
    activations = activations + t.scored * t.loss.backward_per_scored
    cast = cast_weights(t) if t.settings.gradient_checkpointing == "none" else 0
    cast = cast + _cast_head(t)
    return in_loss(t, base, activations, logits, cast + t.loss.weight_gradient)


def quantized_head_backward(t: Terms, base: Phase, saved: Number) -> Phase:
    """The gradient through a quantised head: its weights dequantised (fp16) and cast again.

    Ref: bitsandbytes/autograd/_functions.py, MatMul4Bit: dequantize_4bit(B).to(grad.dtype).
    """
    h = t.model.hidden_size
    logits = t.tokens * t.vocab_size * (t.n.head + t.loss.logits.held)
    activations = saved + t.tokens * (t.loss.backward_per_token + t.n.head * h)
    dequantized = 2 * HALF_BYTES * t.vocab_size * t.model.embedding_width
    return in_loss(t, base, activations, logits, dequantized)


def head_gradient(t: Terms, base: Phase, saved: Number) -> Phase:
    """The gradient of a trained head, while the logits' gradient is alive."""
    h, c = t.model.hidden_size, t.n.head
    logits = t.tokens * t.vocab_size * (c + t.loss.logits.held)
    activations = saved + t.tokens * (t.loss.backward_per_token + c * h)
    return in_loss(t, base, activations, logits, c * t.vocab_size * h)


def layer_backward(t: Terms, base: Phase, widest: Moment, saved: Number, *, first: bool) -> Phase:
    """Backward of the first processed layer (the stack is full) or of the last (gradients are)."""
    gathered = t.shard.gathered_root + t.shard.gathered_layer
    share = accumulated(t) if first else largest(gradient_share(t), accumulated(t))
    if not first:
        share = share - _still_to_come(t)
    checkpointed = t.settings.gradient_checkpointing != "none"
    # A layer's own copies go with its backward; while the first one runs, all others' are alive.
    cast = cast_weights(t) if first and not checkpointed else 0
    shared: Number = 0
    if checkpointed:
        shared = t.tokens * smallest(*(x.activations.is_input for x in t.layers))
    if first:
        stack = saved - (shared if checkpointed else saved_by_last(t))
    elif t.shard.retains_checkpoints and checkpointed:
        stack = saved + _retained_gradients(t) - shared
    else:
        residual = t.tokens * t.n.residual * t.model.hidden_size if checkpointed else 0
        stack = residual - shared + inputs_kept(t) + (t.mask_bytes if checkpointed else 0)
    return at_moment(
        t,
        base,
        gradients=share,
        gathered=gathered,
        activations=stack + widest.activations + embedding_kept(t),
        logits=t.tokens * t.vocab_size * t.loss.logits.held,
        temporaries=widest.temporaries + head_gradient_kept(t, first=first) + cast,
    )


def _still_to_come(t: Terms) -> Number:
    """Fraction of all gradients that only the end of backward makes: an untied embedding's, and
    learned positions'."""
    if not t.n.trained or t.settings.strategy != "none":
        return 0
    made: Number = t.model.num_other_embedding_params
    if not t.model.tie_word_embeddings or t.objective.classifies:
        made = made + t.model.num_embedding_params
    share = made / t.trainable_params
    return select(t.settings.gradient_accumulation_steps > 1, 0, share)


def head_gradient_kept(t: Terms, *, first: bool) -> Number:
    """The head's gradient where it is alive beside what `at_moment` counts: not yet added to the
    embedding's, or unsharded until FSDP reduces the root unit [bytes]."""
    if not t.n.trained:
        return 0
    whole = t.vocab_size * t.model.hidden_size
    if t.settings.strategy == "fsdp":
        return t.n.compute * whole
    # One of its own is added to what has accumulated; a tied one waits for the embedding's.
    added = t.settings.gradient_accumulation_steps > 1
    if first:
        return select(added & (not t.model.tie_word_embeddings), 0, t.n.weight * whole)
    return select(added & _waits_for_embedding(t), t.n.weight * whole, 0)


def _waits_for_embedding(t: Terms) -> bool:
    """Whether a gradient of the embedding's table is there before the end of backward: a tied
    head's, or a decoder's where the encoder reads the same table."""
    return t.model.tie_word_embeddings or t.model.family == "encdec"


def end_of_backward(t: Terms, base: Phase) -> Phase:
    """The embedding's gradient: whole, and twice more where it is added to a tied head's, or an
    encoder's to its decoder's."""
    h = t.model.hidden_size
    temporaries: Number = 0
    if t.n.trained and t.settings.strategy != "fsdp":
        tied = 1 if _waits_for_embedding(t) and t.vocab_size else 0
        # Beside what has accumulated there is the micro-batch's own.
        own = select(t.settings.gradient_accumulation_steps > 1, 1, 0)
        temporaries = (tied + own) * t.trainable_bytes * t.model.vocab_size * h
    return at_moment(
        t,
        base,
        gradients=gradient_share(t),
        gathered=t.shard.gathered_root,
        activations=t.tokens * t.n.residual * h,
        temporaries=temporaries,
    )


def optimizer_step(t: Terms, base: Phase) -> Phase:
    """The optimizer's step: all gradients and its own temporaries."""
    gradients = gradient_share(t) * t.trainable_params * t.trainable_bytes
    step = run_optimizer_bytes(t.settings, t.n, t.trainer, t.trainable_bytes).step_temporary
    held = t.tokens * t.vocab_size * t.loss.logits.held
    temporaries = t.trainable_params * step / _optimizer_divisor(t)
    if t.settings.optim == "adafactor" and t.n.trained:
        temporaries = adafactor_step_bytes(t.model, t.trainable_bytes) / _optimizer_divisor(t)
    left = base.unsplit + (t.unsplit.weights * gradients if t.n.trained else 0)
    return base._replace(gradients=gradients, temporaries=temporaries, logits=held, unsplit=left)
