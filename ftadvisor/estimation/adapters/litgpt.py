"""LoRA and LLaMA-Adapter as litgpt writes them: one fused projection puts out q, k and v."""

from __future__ import annotations

from ftadvisor.errors import InvalidSettingError
from ftadvisor.estimation.activations import layer_activations
from ftadvisor.estimation.adapters.cost import Cost, Run
from ftadvisor.estimation.adapters.traffic import Matrix
from ftadvisor.estimation.numerics import FP32_BYTES
from ftadvisor.schema.model import Block
from ftadvisor.schema.settings import ALL_LINEAR, Number, Settings

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
    names = switches(run.settings)
    a, r, c, h = block.attention, run.rank, run.compute, block.hidden_size
    per_input = c + (1 if run.settings.lora_dropout else 0)
    widths = {"q": a.q_width, "k": a.k_width, "v": a.v_width}
    parts = [p for p in widths if p in names]
    out = sum(widths[p] for p in parts)
    params: Number = r * (len(parts) * h + out)
    kept: Number = (per_input * h if parts else 0) + c * r * len(parts)
    if run.trainer.pads_lora_output and len(parts) < len(widths):
        kept = kept + c * out
    for columns, rows in _apart(block, names):
        params = params + r * (columns + rows)
        kept = kept + per_input * columns + c * r
    return Cost(params=params, saved_per_token=kept)


def adapted_matrices(run: Run) -> list[Matrix]:
    """Of all blocks, as wide as what they read; q, k and v are one."""
    names = switches(run.settings)
    found: list[Matrix] = []
    for block in run.model.blocks:
        reads = [block.hidden_size] if names & {"q", "k", "v"} else []
        reads += [columns for columns, _ in _apart(block, names)]
        found += [Matrix(block, columns, columns) for columns in reads]
    return found


def _apart(block: Block, names: frozenset[str]) -> list[tuple[int, int]]:
    """Columns and rows of the adapted matrices of one layer but for q, k and v."""
    found = [(block.attention.out_width, block.hidden_size)] if "proj" in names else []
    if "mlp" in names:
        found += [(w.in_features, w.out_features) for w in block.linears if w.part == "mlp"]
    return found


def switches(settings: Settings) -> frozenset[str]:
    """Which matrices are adapted, in litgpt's words. Raises InvalidSettingError for others."""
    asked = settings.lora_target_modules or _DEFAULT
    if ALL_LINEAR in asked:
        return frozenset(_NAMES.values()) - {"head"}
    unknown = [name for name in asked if name not in _NAMES]
    if unknown:
        raise InvalidSettingError(
            f"lora_target_modules {', '.join(unknown)}: not among what litgpt adapts.",
            sorted(set(_NAMES.values())),
        )
    return frozenset(_NAMES[name] for name in asked)


def adapter(run: Run) -> Cost:
    """adapter_prompt_length vectors and a gate per head, from layer adapter_start_layer on."""
    total: Number = 0
    for block, layers in adapted_layers(run):
        each = run.option("adapter_prompt_length") * block.hidden_size + block.attention.num_heads
        total = total + layers * each
    return Cost(params=total)


def adapted_layers(run: Run) -> list[tuple[Block, int]]:
    """Blocks with their number of layers from adapter_start_layer on."""
    left = int(run.option("adapter_start_layer"))
    found: list[tuple[Block, int]] = []
    for block in run.model.blocks:
        skipped = min(left, block.num_layers)
        left -= skipped
        found.append((block, block.num_layers - skipped))
    return found


def untouched(run: Run) -> Number:
    """What layers before the first adapted one would keep: no gradient reaches them."""
    total: Number = 0
    for block, layers in adapted_layers(run):
        if layers < block.num_layers:
            found = layer_activations(run.model, block, run.settings, run.n, run.trainer)
            each = found.saved + found.saved_per_key * run.settings.longest_length
            total = total + (block.num_layers - layers) * each
    return total


def adapter_kept(block: Block, run: Run) -> Cost:
    """A second attention to the prompt, with the layer's own queries.

    Kept: its output, which the gate scales too, one fp32 statistic per head, its mask in half
    precision (rows padded to eight), and the prompt's keys and values.
    Ref: litgpt/adapter.py, CausalSelfAttention.scaled_dot_product_attention.
    """
    a, e = block.attention, run.n.attention
    length = int(run.option("adapter_prompt_length"))
    prompt = e * length * a.num_heads * (a.head_dim + a.v_head_dim)
    padded = -(-length // _MASK_ALIGNMENT) * _MASK_ALIGNMENT
    per_token = e * a.out_width + FP32_BYTES * a.num_heads + e * padded
    return Cost(saved_per_token=per_token, saved_bytes=prompt)


_MASK_ALIGNMENT = 8
"""aten/src/ATen/native/transformers/attention.cpp, pad_bias: 16 bytes in half precision."""


def adapter_v2(run: Run) -> Cost:
    """LLaMA-Adapter, a scale and a bias for every matrix, the head included, and all norms."""
    model = run.model
    total: Number = adapter(run).params + 2 * model.vocab_size
    for b in model.blocks:
        norms = sum(b.norm_widths) * (2 if b.norm_bias else 1)
        total = total + b.num_layers * (2 * sum(w.out_features for w in b.linears) + norms)
    if model.final_norm != "none":
        bias = model.final_norm == "layer" and model.blocks[0].norm_bias
        total = total + model.hidden_size * (2 if bias else 1)
    return Cost(params=total)


def adapter_v2_kept(block: Block, run: Run) -> Cost:
    """Beside LLaMA-Adapter's: every matrix's output before its scale, every norm's before its.

    Ref: litgpt/adapter_v2.py, AdapterV2Linear.forward.
    """
    first = adapter_kept(block, run)
    outputs = run.n.compute * sum(w.out_features for w in block.linears)
    norms = run.n.residual * sum(block.norm_widths) if block.norm == "rms" else 0
    return first._replace(saved_per_token=first.saved_per_token + outputs + norms)
