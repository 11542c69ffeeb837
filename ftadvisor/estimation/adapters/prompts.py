"""Techniques that put trained vectors before the text, and small networks between the parts."""

from __future__ import annotations

from typing import Any

from ftadvisor.estimation.activations import is_padded, layer_activations
from ftadvisor.estimation.adapters.cost import Cost, Run
from ftadvisor.estimation.arithmetic import select
from ftadvisor.estimation.numerics import FP32_BYTES
from ftadvisor.schema.model import Block
from ftadvisor.schema.settings import Number


def text_blocks(run: Run) -> tuple[Block, ...]:
    """Blocks that the text passes, without an encoder's."""
    return tuple(b for b in run.model.blocks if b.stream == "text")


def submodules(run: Run) -> int:
    """PEFT puts one prompt before an encoder and one before its decoder."""
    given = run.settings.peft_config.get("num_transformer_submodules")
    return given or (2 if run.model.family == "encdec" else 1)


def prompt_tuning(run: Run) -> Cost:
    """num_virtual_tokens embeddings. Ref: peft/tuners/prompt_tuning/model.py."""
    width = run.model.hidden_size
    return Cost(params=run.option("num_virtual_tokens") * submodules(run) * width)


def p_tuning(run: Run) -> Cost:
    """Embeddings and the network that they pass: three linear layers, or two LSTM directions.

    MLP: in -> hidden -> hidden -> out. LSTM: four gates, two biases each, both directions, later
    layers read both; then 2 hidden -> 2 hidden -> out. Ref: peft/tuners/p_tuning/model.py.
    """
    d = run.model.hidden_size
    e = run.option("encoder_hidden_size") or d
    embeddings = run.option("num_virtual_tokens") * submodules(run) * d
    if str(run.option("encoder_reparameterization_type")).endswith("LSTM"):
        layers = run.option("encoder_num_layers")
        first = 4 * e * (d + e + 2)
        later = 4 * e * (2 * e + e + 2)
        lstm = 2 * (first + (layers - 1) * later)
        return Cost(params=embeddings + lstm + 2 * e * (2 * e + 1) + d * (2 * e + 1))
    return Cost(params=embeddings + e * (d + 1) + e * (e + 1) + d * (e + 1))


def prefix_tuning(run: Run) -> Cost:
    """Keys and values of num_virtual_tokens for every layer.

    One row of 2 * layers * key width per token, looked up for every sequence. With
    prefix_projection the rows come from a two-layer network.
    Ref: peft/tuners/prefix_tuning/model.py.
    """
    blocks = text_blocks(run)
    tokens = run.option("num_virtual_tokens")
    width = blocks[0].attention.k_width
    rows = 2 * sum(b.num_layers for b in blocks) * width
    if run.option("prefix_projection"):
        e = run.option("encoder_hidden_size") or run.model.hidden_size
        return Cost(params=tokens * width + e * (width + 1) + rows * (e + 1))
    return Cost(params=tokens * rows)


def prefix_tuning_kept(block: Block, run: Run) -> Cost:
    """What one layer keeps because a prefix stands before its keys and values.

    The prefix's looked-up rows, and its share of the longer keys and values that the attention
    keeps. SDPA needs a mask then, with columns for the prefix, so grouped keys and values are
    repeated for all heads even where the text alone needs no mask; the cache that joins them holds
    them unrepeated as long as the model's outputs live.
    Ref: peft/peft_model.py, get_prompt; transformers/cache_utils.py, DynamicLayer.update;
    transformers/integrations/sdpa_attention.py, use_gqa_in_sdpa.
    """
    a, e = block.attention, run.n.attention
    narrow = e * (a.k_width + a.v_width)
    wide = e * a.num_heads * (a.head_dim + a.v_head_dim)
    masks = run.settings.attn_implementation != "flash_attention_2"
    kept = wide if masks else narrow
    prefix = run.settings.micro_batch_size * run.option("num_virtual_tokens")
    per_token = e * run.option("num_virtual_tokens") if masks else 0
    if masks and run.settings.attn_implementation == "sdpa":
        # Padded batches have their mask, and the wide keys, without a prefix.
        per_token = per_token + select(is_padded(run.settings), 0, wide - narrow)
    held = narrow if run.trainer.holds_outputs and kept != narrow else 0
    return Cost(
        saved_per_token=per_token + held,
        saved_bytes=prefix * (narrow + kept + held),
    )


def bottleneck(run: Run) -> Cost:
    """Down, activation, up and a residual after every feed-forward part, with biases; Houlsby's
    placement has another after every self-attention.

    Ref: arXiv:1902.00751 section 2.1; swift/tuners/adapter.py, AdapterModule.forward;
    execution/bottleneck/layer.py.
    """
    m = run.option("adapter_length")
    params: Number = 0
    for b in run.model.blocks:
        if b.stream != "image":
            params = params + b.num_layers * (2 * b.hidden_size * m + m + b.hidden_size)
    return Cost(params=_bottlenecks(run) * params)


def bottleneck_kept(block: Block, run: Run) -> Cost:
    """The input of the first matrix, its output for the activation, and the activation."""
    m, c = run.option("adapter_length"), run.compute
    return Cost(saved_per_token=_bottlenecks(run) * (c * block.hidden_size + 2 * c * m))


def _bottlenecks(run: Run) -> int:
    """Of one layer."""
    return 2 if run.option("placement") == "houlsby" else 1


def adaption_prompt(run: Run) -> Cost:
    """adapter_len vectors and one gate for each of the last adapter_layers layers.

    Ref: peft/tuners/adaption_prompt/layer.py, AdaptedAttention.forward.
    """
    length = run.option("adapter_len")
    layers = adapted_layers(run)
    return Cost(params=layers * (length * run.model.hidden_size + 1))


def adapted_layers(run: Run) -> int:
    """Layers that LLaMA-Adapter adapts: the last ones."""
    total = sum(b.num_layers for b in text_blocks(run))
    return min(int(run.option("adapter_layers")), total)


def unreached(run: Run) -> Number:
    """What layers below the first adapted one would keep: no gradient reaches them [bytes/token].

    Only the last layers have anything that trains, and nothing below asks for a gradient unless
    activations are checkpointed (peft/tuners/adaption_prompt/model.py).
    """
    block = text_blocks(run)[-1]
    layers = sum(b.num_layers for b in text_blocks(run)) - adapted_layers(run)
    found = layer_activations(run.model, block, run.settings, run.n, run.trainer)
    return layers * (found.saved + found.saved_per_key * run.settings.longest_length)


def adaption_prompt_kept(block: Block, run: Run) -> Cost:
    """What one adapted layer keeps.

    It projects its prompt to keys and values (repeated for every sequence and query head), scores
    them with its queries, computed a second time, and adds the result through the gate. Kept: the
    queries, the softmax in fp32, its copy in the base's dtype where that is another, and its
    product with the gate.
    """
    a, e = block.attention, run.n.compute
    length: Any = run.option("adapter_len")
    copy = e if e != FP32_BYTES else 0
    per_token = e * a.q_width + a.num_heads * length * (FP32_BYTES + copy + e)
    prompt = run.settings.micro_batch_size * length * 2 * e * a.q_width
    return Cost(saved_per_token=per_token, saved_bytes=prompt)


def llamapro(run: Run) -> Cost:
    """num_new_blocks copies of layers, all of whose weights train.

    Ref: arXiv:2401.02415 section 3; swift/tuners/llamapro.py.
    """
    block = text_blocks(run)[-1]
    return Cost(params=new_blocks(run) * block.num_params_per_layer)


def new_blocks(run: Run) -> int:
    """Layers that LLaMA-Pro adds; each stands for as many of the old ones."""
    return int(run.option("num_new_blocks"))


def llamapro_kept(block: Block, run: Run) -> Cost:
    """What one new layer keeps: all that a trained layer does."""
    n = run.n._replace(trained=True)
    found = layer_activations(run.model, block, run.settings, n, run.trainer)
    keys = found.saved_per_key * run.settings.longest_length
    return Cost(saved_per_token=found.saved + keys)
