"""What the loss keeps per token: the logits in their several copies, and the final hidden state.

For a vocabulary of 128,256 each fp32 copy is half a megabyte per token, so the number of copies,
which is a property of the training program and its version, often decides the peak.
"""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.arithmetic import select
from ftadvisor.estimation.numerics import FP32_BYTES, Numerics
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import LossKernel, Number
from ftadvisor.schema.trainer import Trainer


class LossBytes(NamedTuple):
    """Bytes per logit and per token at the two candidate peaks of the loss."""

    forward_per_logit: Number
    backward_per_logit: Number
    held_per_logit: float
    """Kept until backward has ended because the program holds the outputs."""
    forward_per_token: float
    """The final norm's copies and output, while the loss runs forward."""
    backward_per_token: float


def loss_bytes(
    model: ModelSpec,
    n: Numerics,
    trainer: Trainer,
    kernel: LossKernel,
    micro_batch_size: Number,
    *,
    fused_norm: bool,
) -> LossBytes:
    """Copies of the logits alive in the loss.

    Cross-entropy upcasts half-precision logits to fp32 (4 bytes), makes log-probabilities (4), and
    in backward holds those, the gradient of the likelihood and its product (3 x 4). Who else holds
    logits then differs by program: `ForwardCausalLMLoss` leaves the caller's half-precision copy
    alive, Transformers before 4.46 freed it; both shift a copy of the fp32 logits by one position
    (no copy for a single sequence, whose slice is contiguous). Ref: transformers/loss/loss_utils.py
    and modeling_llama.py of 4.40.2, 4.45.2 and 4.48.1; confirmed by slopes over batch size.
    """
    h, c = model.hidden_size, n.head
    half = c if c != FP32_BYTES else 0
    if kernel in ("fused_linear", "chunked"):
        forward = backward = held = 0.0
    elif not trainer.logits_upcast:
        forward, backward = 3.0 * c, 3.0 * c
        held = float(c) if trainer.holds_outputs else 0.0
    else:
        shift = _shift_copy(trainer, micro_batch_size)
        caller = half if (trainer.half_logits_held or trainer.holds_outputs) else 0
        held = 0.0
        if trainer.holds_outputs:
            held = float(FP32_BYTES if trainer.outputs_upcast or not half else half)
        if kernel == "inplace":
            forward = caller + FP32_BYTES + shift
            backward = 2.0 * FP32_BYTES
        else:
            forward = caller + 2 * FP32_BYTES + shift
            backward = 3.0 * FP32_BYTES
        if trainer.outputs_upcast:
            # The upcast happens in the wrapper around the model: only the fp32 copy is left.
            forward = forward - caller
        backward = backward + held
        if model.final_softcap:
            forward, backward = forward + c, backward + c
    kept = n.residual * h if fused_norm else FP32_BYTES * h + FP32_BYTES
    if model.final_norm == "layer":
        kept = (FP32_BYTES if n.autocast else n.residual) * h + 2 * FP32_BYTES
    if model.final_norm == "none":
        kept = 0
    # A trained head keeps its input; a trained norm written in Python keeps the normalised copy.
    normalised = n.residual * h if model.final_norm == "rms" and not fused_norm else 0
    trained = normalised + c * h if n.trained else 0
    return LossBytes(
        forward_per_logit=forward,
        backward_per_logit=backward,
        held_per_logit=held,
        forward_per_token=kept + max(trained, n.residual * h),
        backward_per_token=kept + trained,
    )


def _shift_copy(trainer: Trainer, micro_batch_size: Number) -> Number:
    if not trainer.shift_copies_logits:
        return 0
    return select(micro_batch_size > 1, FP32_BYTES, 0)
