"""What the loss keeps per token: the logits in their several copies, and the final hidden state.

For a vocabulary of 128,256 each fp32 copy is half a megabyte per token, so the number of copies,
which is a property of the training program and its version, often decides the peak.
"""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.arithmetic import select
from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES, Numerics
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import Number, Settings
from ftadvisor.schema.trainer import Trainer


class LogitBytes(NamedTuple):
    """Bytes per logit at the two candidate peaks of the loss."""

    forward: Number
    backward: Number
    held: float
    """Kept until backward has ended because the program holds the outputs."""
    per_chunk: float = 0.0
    """Temporaries of one chunk of the loss, per logit of the chunk."""


class LossBytes(NamedTuple):
    """What the loss costs; bytes per logit, and per token for the final hidden state."""

    logits: LogitBytes
    forward_per_token: Number
    """The final norm's copies and output, while the loss runs forward."""
    backward_per_token: Number
    forward_per_scored: Number = 0
    """Kept of the hidden states that a fused head scores."""
    backward_per_scored: Number = 0
    tile_tokens: int = 0
    """Tokens of the tile that a fused head works on."""
    tile_bytes_per_token: float = 0.0
    head_chunk: int = 0
    """Weights of the head that a fused head casts at a time; 0: the head is not fused."""
    weight_gradient: float = 0.0
    """Copies of the head's gradient that a fused head forms in backward [bytes]."""


FUSED_TILE_TOKENS = 4096
FUSED_TILE_LOGITS = 32_768
"""The tile of TRL's fused head (trl/kernels/chunked_logprob.py, trl/trainer/utils.py)."""


def loss_bytes(model: ModelSpec, settings: Settings, n: Numerics, trainer: Trainer) -> LossBytes:
    """Copies of logits and of the final hidden state alive in the loss."""
    h = model.hidden_size
    if model.final_norm == "rms":
        kept = (n.residual if settings.fused_norm else FP32_BYTES) * h + FP32_BYTES
    elif model.final_norm == "layer":
        kept = (FP32_BYTES if n.autocast else n.residual) * h + 2 * FP32_BYTES
    else:
        kept = 0
    # A trained norm written in Python keeps the normalised copy; a trained head keeps its input.
    in_python = model.final_norm == "rms" and not settings.fused_norm
    normalised = n.residual * h if in_python and n.trained else 0
    if settings.loss_kernel == "chunked":
        return _fused_head(model, n, kept + normalised, in_torch=trainer.cpu_kernels)
    trained = normalised + n.head * h if n.trained else 0
    source = _source_output(settings, n, kept, h) if model.family == "encdec" else 0
    if settings.loss_kernel == "fused_linear":
        return _liger_head(model, n, kept + trained)
    return LossBytes(
        logits=logit_bytes(model, settings, n, trainer),
        forward_per_token=kept + max(trained, n.residual * h) + source,
        backward_per_token=kept + trained + source,
    )


def _source_output(settings: Settings, n: Numerics, norm: float, h: int) -> Number:
    """The encoder's last norm and its output, which it hands on [bytes per target token]."""
    per_target = settings.longest_length / settings.max_target_length
    return (norm + n.residual * h) * per_target


def _liger_head(model: ModelSpec, n: Numerics, kept: float) -> LossBytes:
    """Liger's fused head and loss, which forms both gradients in its forward.

    Ref: liger_kernel/ops/fused_linear_cross_entropy.py 0.8.5: grad_input as the hidden states,
    grad_weight in the weight's dtype, each chunk's added in place; the chunk of logits is small.
    """
    h = model.hidden_size
    return LossBytes(
        logits=LogitBytes(0.0, 0.0, 0.0),
        forward_per_token=kept + n.residual * h,
        backward_per_token=kept + n.residual * h,
        head_chunk=model.vocab_size * h if n.trained else 0,
        weight_gradient=float(n.weight * model.vocab_size * h) if n.trained else 0.0,
    )


def _fused_head(model: ModelSpec, n: Numerics, kept: float, *, in_torch: bool) -> LossBytes:
    """TRL's head and loss in tiles: the logits of 4096 tokens by 32,768 entries at a time.

    The hidden states of scored positions are copied and kept; backward accumulates their gradient
    in fp32 and casts it, and the same for a trained head's weight. The tile's buffer has its full
    width; weights cast for it, and what is made from it, are no wider than the vocabulary.
    Without Triton (`in_torch`) backward works on copies of the tile: scaled logits twice,
    log-probabilities, probabilities, their gradient, the target's place as bytes, its distance
    from the probabilities and that times what arrives.
    Ref: trl 1.16 trl/kernels/chunked_logprob.py, ChunkedLogProbFunction, _backward_tile.
    """
    h = model.hidden_size
    width = min(FUSED_TILE_LOGITS, model.vocab_size)
    copies = (7 * FP32_BYTES + 1) * width if in_torch else 0
    scored = n.residual * h
    gradient = (FP32_BYTES + n.residual) * h
    weight: float = 0
    if n.trained:
        # An fp32 weight's gradient needs no cast.
        weight = (FP32_BYTES + (n.weight if n.weight != FP32_BYTES else 0)) * model.vocab_size * h
        weight += HALF_BYTES * width * h if n.autocast else 0
    elif n.autocast and n.weight == FP32_BYTES:
        # The cast tile of weights before is held until the next one is cast.
        weight = (
            HALF_BYTES * h * max(0, min(FUSED_TILE_LOGITS, model.vocab_size - FUSED_TILE_LOGITS))
        )
    return LossBytes(
        logits=LogitBytes(0.0, 0.0, 0.0),
        forward_per_token=kept + n.residual * h,
        backward_per_token=kept,
        forward_per_scored=scored,
        backward_per_scored=scored + gradient,
        tile_tokens=FUSED_TILE_TOKENS,
        tile_bytes_per_token=float(n.head * FUSED_TILE_LOGITS + copies),
        head_chunk=width * h,
        weight_gradient=float(weight),
    )


def logit_bytes(model: ModelSpec, settings: Settings, n: Numerics, trainer: Trainer) -> LogitBytes:
    """Copies of the logits alive in the loss [bytes per logit].

    Cross-entropy upcasts half-precision logits to fp32 (4 bytes), makes log-probabilities (4), and
    in backward holds those, the gradient of the likelihood and its product (3 x 4). Who else holds
    logits then differs by program: `ForCausalLMLoss` leaves the caller's half-precision copy
    alive, Transformers before 4.46 freed it; both shift a copy of the fp32 logits by one position
    (no copy for a single sequence, whose slice is contiguous). Ref: transformers/loss/loss_utils.py
    and modeling_llama.py of 4.40.2, 4.45.2 and 4.48.1; confirmed by slopes over batch size.
    """
    half = n.head if n.head != FP32_BYTES else 0
    kernel = settings.loss_kernel
    if kernel in ("fused_linear", "chunked"):
        return LogitBytes(0.0, 0.0, 0.0)
    if model.family == "encdec":
        return _pair_logits(n)
    if trainer.compiled_loss:
        return LogitBytes(float(n.head), 2.0 * n.head, 0.0)
    own = model.model_type in trainer.upcasts_no_logits and not n.autocast
    if own or not trainer.logits_upcast:
        held = float(n.head) if trainer.holds_outputs else 0.0
        return LogitBytes(3.0 * n.head, 3.0 * n.head + held, held)
    if trainer.loss_chunk_tokens:
        return _chunked_logits(settings, n, trainer)
    if settings.objective == "orpo" and half and not n.autocast:
        return _half_odds(half)
    shift = _shift_copy(trainer, settings.micro_batch_size)
    caller = half if (trainer.half_logits_held or trainer.holds_outputs) else 0
    if trainer.outputs_upcast:
        # The upcast happens in the wrapper around the model: only the fp32 copy is left.
        caller = 0
    held = 0.0
    if trainer.holds_outputs:
        wide = trainer.outputs_upcast or trainer.holds_upcast_outputs or not half
        held = float(FP32_BYTES if wide else half)
    # tanh of the final soft-cap keeps its output.
    capped = n.head if model.final_softcap else 0
    if kernel == "inplace":
        return LogitBytes(
            caller + FP32_BYTES + shift + capped, 2.0 * FP32_BYTES + held + capped, held
        )
    backward = 3.0 * FP32_BYTES + held + capped
    if settings.objective == "orpo":
        # The fp32 logits that accelerate hands out, log-probabilities of the chosen half, and the
        # gradients of log-probabilities and logits (trl/experimental/orpo/orpo_trainer.py).
        backward = FP32_BYTES + FP32_BYTES / 2 + 2.0 * FP32_BYTES
    return LogitBytes(caller + 2 * FP32_BYTES + shift + capped, backward, held)


def _half_odds(half: int) -> LogitBytes:
    """ORPO's where nothing is converted to fp32 [bytes per logit].

    Half precision is scored row by row: there are the logits and, of the chosen half, their shifted
    copy and its log-probabilities; in backward gradients of all, again where the halves join, and
    the half. Ref: trl/experimental/orpo/orpo_trainer.py, concatenated_forward;
    trl/trainer/utils.py, selective_log_softmax.
    """
    return LogitBytes(2.0 * half, 2.5 * half, 0.0)


def _pair_logits(n: Numerics) -> LogitBytes:
    """An encoder-decoder's own cross-entropy, which upcasts nothing [bytes per logit].

    The head's output and its log-softmax in the head's dtype; autocast's fp32 copy for the
    likelihood, and accelerate's of what is put out. Backward holds the gradients of both steps.
    Ref: transformers/models/t5/modeling_t5.py and bart/modeling_bart.py, CrossEntropyLoss;
    aten/src/ATen/native/LossNLL.cpp, cross_entropy_loss_prob_target; the simulated step.
    """
    wide = FP32_BYTES if n.autocast else 0
    return LogitBytes(2.0 * n.head + 2 * wide, max(n.head + 2.0 * wide, 3.0 * n.head), 0.0)


def _chunked_logits(settings: Settings, n: Numerics, trainer: Trainer) -> LogitBytes:
    """lit-gpt's chunked_cross_entropy over logits that the caller holds in fp32.

    The whole fp32 logits (4) live until backward has ended, the chunks' log-probabilities (4) until
    their backward, which replaces them by gradients (4). With `lm_head_chunk_size` the head's
    output is a list of chunks and nothing larger than a chunk is joined; otherwise splitting's
    backward joins the gradients (4 more) and shifting copies the logits (4, more than one
    sequence). Within one chunk: the likelihood's gradient and the product (2 x 4).
    Ref: lit_gpt/utils.py (chunked_cross_entropy), finetune/lora.py, finetune/full.py.
    """
    per_chunk = 2.0 * FP32_BYTES
    if trainer.head_in_chunks and not n.trained:
        return LogitBytes(2.0 * FP32_BYTES, 2.0 * FP32_BYTES, FP32_BYTES, per_chunk)
    shift = select(settings.micro_batch_size > 1, FP32_BYTES, 0)
    return LogitBytes(2.0 * FP32_BYTES + shift, 3.0 * FP32_BYTES, FP32_BYTES, per_chunk)


def _shift_copy(trainer: Trainer, micro_batch_size: Number) -> Number:
    if not trainer.shift_copies_logits:
        return 0
    return select(micro_batch_size > 1, FP32_BYTES, 0)
