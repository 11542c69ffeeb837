"""LoRA and the techniques that are written like it: two narrow products beside the matrix."""

from __future__ import annotations

from ftadvisor.estimation.adapters.cost import Cost, Run, Target
from ftadvisor.estimation.adapters.targets import matches
from ftadvisor.estimation.numerics import FP32_BYTES
from ftadvisor.schema.settings import Number
from ftadvisor.sources.techniques import target_table


def lora(t: Target, run: Run) -> Cost:
    """r * (in + out) parameters; B(A(dropout(x))) keeps x for A and A(x) for B.

    The backward holds the gradient of the update in the adapter's dtype and that of its input,
    before it is cast back. Ref: peft/tuners/lora/layer.py, Linear.forward.
    """
    r, c = run.rank, run.compute
    if run.settings.fused_lora:
        kept = FUSED_INPUT * t.columns
    else:
        kept = run.kept_input(t, run.settings.lora_dropout)
    return Cost(
        params=r * (t.rows + t.columns),
        saved_per_token=kept + c * r,
        backward_per_token=c * (t.rows + t.columns),
    )


FUSED_INPUT = 2.5
"""Bytes per feature that fused LoRA kernels keep of a target's input. Two in half precision, and
half a one-byte dropout mask: fitted on the fused runs of fms-acceleration, not read in code."""


def dora(t: Target, run: Run) -> Cost:
    """LoRA and one magnitude per output row.

    result + ((m / norm - 1) * base + m / norm * B(A(x)) * scaling): both products are kept for the
    gradient of m, the base's in its own dtype, B's in the adapter's. With dropout the base product
    is computed again from the dropped-out x. The norm needs W + B A whole, twice in the dtype of x,
    built by running A and B over an identity matrix; its graph is dropped at once.
    Ref: peft/tuners/lora/dora.py, DoraLinearLayer.forward.
    """
    plain = lora(t, run)
    wide = max(run.weight, run.input(t))
    base = run.compute if run.settings.lora_dropout else run.n.compute
    matrix = t.rows * t.columns
    return plain._replace(
        params=plain.params + t.rows,
        saved_per_token=plain.saved_per_token + (base + run.compute) * t.rows,
        temporary_bytes=wide * (3 * matrix + t.columns**2),
        backward_per_token=plain.backward_per_token + 2 * FP32_BYTES * t.rows,
    )


def adalora(t: Target, run: Run) -> Cost:
    """A, B and a diagonal E at the rank that training starts with.

    dropout(x) @ (A * E).T @ B.T: keeps x, x (A E)ᵀ, and A * E; 1.5 r at the start, as PEFT's
    defaults (12 for 8), where init_r is not given. Ref: peft/tuners/adalora/layer.py, SVDLinear.
    """
    r = initial_rank(run)
    c = run.compute
    return Cost(
        params=r * (t.rows + t.columns + 1),
        saved_per_token=run.kept_input(t, run.settings.lora_dropout) + c * r,
        saved_bytes=run.weight * r * t.columns,
        backward_per_token=c * (t.rows + t.columns),
    )


def initial_rank(run: Run) -> Number:
    """AdaLoRA's rank before it is pruned."""
    given = run.settings.peft_config.get("init_r")
    return 3 * run.rank // 2 if given is None else given


def ia3(t: Target, run: Run) -> Cost:
    """One scale per output feature, or per input feature of feed-forward modules.

    y * l keeps y: in the base's dtype (PEFT multiplies without a cast and converts after), for
    feed-forward modules x cast to the scale's dtype. Ref: peft/tuners/ia3/layer.py.
    """
    forward = is_feedforward(t, run)
    width = t.columns if forward else t.rows
    e = run.n.compute
    if forward:
        kept = 0 if e == run.weight and t.input_kept else run.weight * width
    else:
        kept = e * width
    return Cost(
        params=width,
        saved_per_token=kept,
        backward_per_token=2 * run.weight * width,
    )


def is_feedforward(t: Target, run: Run) -> bool:
    """Whether (IA)³ scales a module's input instead of its output."""
    given = run.settings.peft_config.get("feedforward_modules")
    names = (
        given if given is not None else target_table("ia3_feedforward").get(run.model.model_type)
    )
    if names is None:
        return t.linear.part == "mlp" and not t.reads_stream
    return matches(t.linear, t.block, tuple(names))
