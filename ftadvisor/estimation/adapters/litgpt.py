"""LoRA and LLaMA-Adapter as litgpt writes them: one fused projection puts out q, k and v."""

from __future__ import annotations

from ftadvisor.errors import InvalidSettingError
from ftadvisor.estimation.adapters.cost import Cost, Run
from ftadvisor.schema.model import Block
from ftadvisor.schema.settings import Number

_NAMES = {
    "q": "q", "k": "k", "v": "v", "proj": "proj", "projection": "proj", "mlp": "mlp",
    "q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "proj", "query": "q", "key": "k",
    "value": "v", "gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp", "head": "head",
}  # fmt: skip
_DEFAULT = ("q", "v")
"""litgpt finetune/lora.py: lora_query and lora_value are on."""


def lora(block: Block, run: Run) -> Cost:
    """One layer's adapters.

    The adapted ones of q, k and v share one dropped-out input (its copy and a one-byte mask); where
    not all three are adapted, their update is kept to be scattered into zeros of the full width.
    Every other matrix is a plain LoRA. Ref: litgpt/lora.py, LoRAQKVLinear.forward and zero_pad.
    """
    names = switches(run)
    a, r, c, h = block.attention, run.rank, run.compute, block.hidden_size
    per_input = c + (1 if run.settings.lora_dropout else 0)
    widths = {"q": a.q_width, "k": a.k_width, "v": a.v_width}
    parts = [p for p in widths if p in names]
    out = sum(widths[p] for p in parts)
    params: Number = r * (len(parts) * h + out)
    kept: Number = (per_input * h if parts else 0) + c * r * len(parts)
    if run.trainer.pads_lora_output and len(parts) < len(widths):
        kept = kept + c * out
    plain = [(a.out_width, h)] if "proj" in names else []
    if "mlp" in names:
        plain += [(w.in_features, w.out_features) for w in block.linears if w.part == "mlp"]
    for columns, rows in plain:
        params = params + r * (columns + rows)
        kept = kept + per_input * columns + c * r
    return Cost(params=params, saved_per_token=kept)


def switches(run: Run) -> frozenset[str]:
    """Which matrices are adapted, in litgpt's words. Raises InvalidSettingError for others."""
    asked = run.settings.lora_target_modules or _DEFAULT
    if "all-linear" in asked:
        return frozenset(_NAMES.values()) - {"head"}
    unknown = [name for name in asked if name not in _NAMES]
    if unknown:
        raise InvalidSettingError(
            f"lora_target_modules {', '.join(unknown)}: not among what litgpt adapts.",
            sorted(set(_NAMES.values())),
        )
    return frozenset(_NAMES[name] for name in asked)
