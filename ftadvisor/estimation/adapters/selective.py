"""Techniques that train a few parameters of the base's kind: norms, biases, embeddings."""

from __future__ import annotations

from ftadvisor.estimation.adapters.cost import Cost, Run, Target
from ftadvisor.estimation.norms import norm_saved, residual_bytes
from ftadvisor.estimation.numerics import FP32_BYTES
from ftadvisor.schema.model import Block
from ftadvisor.schema.settings import Number
from ftadvisor.sources.techniques import default_target_modules

_FINAL_NORMS = frozenset({"norm", "ln_f", "final_layernorm"})
_ALL_NORMS = frozenset({"layer_norm", "output.LayerNorm"})
"""Names that stand for all norms of a layer: T5's and BERT's."""


def beft(t: Target, run: Run) -> Cost:
    """A trained bias: its gradient is a sum of the output's, nothing is kept."""
    return Cost(params=t.rows, backward_per_token=run.weight * t.rows)


def ln_tuning(run: Run) -> Cost:
    """Weights (and biases) of the norms: a layer's and the final one.

    Ref: peft/tuners/ln_tuning/layer.py; the names of constants.py, where each but the final norm's
    stands for one norm of a layer.
    """
    total: Number = 0
    for b in run.model.blocks:
        if b.stream != "image":
            each = b.hidden_size * (2 if b.norm_bias else 1)
            total = total + b.num_layers * tuned_norms(b, run) * each
    return Cost(params=total + _final(run))


def _names(run: Run) -> tuple[str, ...] | None:
    asked = run.settings.lora_target_modules
    return asked or default_target_modules("ln_tuning", run.model.model_type)


def tuned_norms(block: Block, run: Run) -> int:
    """Norms of one layer that are trained."""
    have = sum(1 for w in block.norm_widths if w == block.hidden_size)
    names = _names(run)
    if names is None or _ALL_NORMS.intersection(names):
        return have
    return min(have, len([n for n in names if n not in _FINAL_NORMS]))


def _final(run: Run) -> int:
    names = _names(run)
    model = run.model
    if names is not None and not _FINAL_NORMS & set(names) and "layer_norm" not in names:
        return 0
    bias = model.blocks[0].norm_bias and model.final_norm == "layer"
    each = model.hidden_size * (2 if bias else 1)
    stacks = 2 if model.family == "encdec" else 1
    return each * stacks if model.final_norm != "none" else 0


def ln_tuning_kept(block: Block, run: Run) -> Cost:
    """What a layer's norms keep because they train: the normalised copy that a weight multiplies in
    Python; a kernel forms the weight's gradient from what it keeps anyway."""
    if run.settings.fused_norm or run.trainer.low_precision_norm:
        return Cost()
    n, kind = run.n, block.traits.norm
    wide = residual_bytes(block, n) == FP32_BYTES
    frozen, trained = (
        norm_saved(kind, block.hidden_size, 1, n._replace(trained=trains), wide=wide)
        for trains in (False, True)
    )
    return Cost(saved_per_token=(trained - frozen) * tuned_norms(block, run))


def trainable_tokens(run: Run) -> Cost:
    """Embeddings of the chosen tokens, put into a copy of the embedding in every forward.

    A head that is tied to the embedding multiplies by such a copy, which is kept.
    Ref: peft/tuners/trainable_tokens/layer.py, get_merged_weights.
    """
    tokens = len(run.option("token_indices"))
    matrix = run.n.weight * run.model.num_embedding_params
    return Cost(
        params=tokens * run.model.embedding_width,
        saved_bytes=matrix if run.model.tie_word_embeddings else 0,
        temporary_bytes=matrix,
    )
