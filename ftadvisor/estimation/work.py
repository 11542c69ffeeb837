"""What one micro-batch makes a GPU do: FLOPs and bytes by kind, before any speed is known.

6 FLOPs per parameter and token (Kaplan et al. 2020): 2 forward, 2 for the gradient that is passed
on, 2 for the weight's own. Frozen weights need no gradient of their own; recomputation is one more
forward of the layers.
"""

from __future__ import annotations

from operator import add
from typing import NamedTuple

from ftadvisor.estimation.activations import is_padded
from ftadvisor.estimation.arithmetic import select, smallest
from ftadvisor.estimation.elementwise import StreamPasses, stream_passes
from ftadvisor.estimation.numerics import DTYPE_BYTES, FP32_BYTES, HALF_BYTES
from ftadvisor.estimation.objectives import ObjectiveCost
from ftadvisor.schema.model import Block, LayerKernels, ModelSpec
from ftadvisor.schema.settings import AttnImplementation, Number, Settings
from ftadvisor.schema.trainer import Trainer

SELECTIVE_RECOMPUTED = 0.5
"""Share of a layer's matrix products that selective checkpointing runs again: attention's output
and every second product are kept (torchtitan's policy)."""
ATTENTION_BACKWARD = 2.5
"""Products of flash attention's backward over its forward's: five over two (Dao 2022)."""
CROSS_ENTROPY_PASSES = 6
"""fp32 logits written or read by log-softmax, loss and their backward."""


class Work(NamedTuple):
    """One rank's micro-batch, forward and backward."""

    linear_flops: Number
    narrow_flops: Number
    """The same over the width of the stream that each product is of."""
    attention_flops: Number
    score_bytes: Number
    """Eager attention's scores, once for each pass over a layer; fused kernels never write them."""
    elementwise_bytes: Number
    logit_bytes: Number
    dequantized_weights: Number
    """Matrix elements that are unpacked."""
    layer_passes: float
    """Layers run, forward, backward and again."""
    kernels: float
    """What the host launches for them."""
    model_flops: Number
    """The same without recomputation: what MFU counts."""


def micro_batch_work(
    model: ModelSpec,
    settings: Settings,
    objective: ObjectiveCost,
    length: Number,
    kernel: AttnImplementation,
    trainer: Trainer,
    *,
    trained: bool,
    one_row: bool = False,
) -> Work:
    """FLOPs and bytes of one micro-batch of sequences padded to `length` tokens.

    `kernel` is the attention that really runs; `one_row`: all sequences stand in one row, kept
    apart by a mask that the kernel does not skip.
    """
    again = {"none": 0.0, "full": 1.0, "selective": SELECTIVE_RECOMPUTED}
    passes = _Passes(
        again[settings.gradient_checkpointing],
        1.0 if trained else 0.0,
        objective.frozen_forwards,
    )
    sequences = settings.micro_batch_size * objective.sequences
    target = settings.max_target_length if model.family == "encdec" else length
    head = 0 if objective.classifies or model.family == "encoder" else _head_weights(model)
    scored = target
    if objective.generates and not objective.full_logits:
        # The prompt's logits are not made (trl 1.16 trl/trainer/utils.py, add_fused_lm_head).
        scored = settings.max_completion_length
    # Liger forms the gradients where it has the logits, and makes none again.
    twice = settings.loss_kernel == "chunked" and not objective.full_logits
    found = _head_work(model, head, sequences * scored, passes, twice=twice)
    for block in model.blocks:
        own_length = length if block.stream == "source" else target
        tokens, keys = _tokens(model, block, settings, sequences, own_length)
        row = tokens if one_row and block.stream == "text" else None
        launched = _launched(model.kernels, settings, passes)
        stream = stream_passes(block, settings, trainer)
        more = _block_work(block, settings, kernel, tokens, keys, row, passes, launched, stream)
        found = Work(*map(add, found, more))
    return found


class _Passes(NamedTuple):
    """How often a layer is run besides forward and the gradient that is passed on."""

    again: float
    own: float
    """1 where weights are trained: the product for their own gradient."""
    frozen: float
    """Forward passes of second models."""


def _block_work(
    block: Block,
    settings: Settings,
    kernel: AttnImplementation,
    tokens: Number,
    keys: Number,
    row: Number | None,
    p: _Passes,
    launched: float,
    moved: StreamPasses,
) -> Work:
    """All layers of one block; `row`: tokens that a mask over everything spans, `launched`: what
    one layer launches, `moved`: how often its stream is."""
    layers = block.num_layers
    product = 2.0 * layers * block.num_active_weights * tokens
    pairs = layers * tokens * block.attention.num_heads
    width = block.attention.head_dim + block.attention.v_head_dim
    computed = (
        2.0
        * pairs
        * width
        * (row if row is not None else _keys_computed(block, settings, kernel, keys))
    )
    needed = 2.0 * pairs * width * _keys_seen(block, keys)
    scores = parameter_bytes(settings) * pairs * keys if kernel == "eager" else 0
    stream = HALF_BYTES * layers * block.hidden_size * tokens
    runs = 2 + p.again + p.frozen
    return Work(
        linear_flops=product * (runs + p.own),
        narrow_flops=product * (runs + p.own) / block.hidden_size,
        attention_flops=computed * (1 + p.again + ATTENTION_BACKWARD + p.frozen),
        score_bytes=scores * (1 + runs),
        elementwise_bytes=stream * (moved.forward * (runs - 1) + moved.backward),
        logit_bytes=0,
        dequantized_weights=0
        if settings.quantization == "none"
        else block.num_linear_weights * runs,
        layer_passes=layers * runs,
        kernels=layers * launched,
        model_flops=product * (2 + p.own) + needed * (1 + ATTENTION_BACKWARD),
    )


def _head_work(model: ModelSpec, head: int, tokens: Number, p: _Passes, *, twice: bool) -> Work:
    """The language-model head and its loss; `twice`: its logits are computed so often, in tiles."""
    product = 2.0 * head * tokens
    logits = FP32_BYTES * model.vocab_size * tokens if head else 0
    return Work(
        linear_flops=product * (2 + twice + p.own + p.frozen),
        narrow_flops=product * (2 + twice + p.own + p.frozen) / model.embedding_width,
        attention_flops=0,
        score_bytes=0,
        elementwise_bytes=0,
        logit_bytes=logits * (CROSS_ENTROPY_PASSES + p.frozen),
        dequantized_weights=0,
        layer_passes=0,
        kernels=0,
        model_flops=product * (2 + p.own),
    )


def _launched(kernels: LayerKernels, settings: Settings, p: _Passes) -> float:
    """Kernels of one layer in a micro-batch: forward as often as it runs, and backward."""
    found = kernels.frozen
    if p.own:
        cast = settings.weights_dtype == "fp32" and settings.autocast != "none"
        found = kernels.mixed if cast else kernels.trained
    forward, backward = found
    return forward * (1 + p.again + p.frozen) + backward


def _keys_seen(block: Block, keys: Number) -> Number:
    """Keys that a query attends to, on average: under a causal mask those before it, within a
    sliding window the last ones."""
    a = block.attention
    if not a.causal:
        return keys
    seen = keys if a.sliding_window is None else smallest(keys, a.sliding_window)
    return seen * (1 - seen / (2 * keys))


def _keys_computed(
    block: Block, settings: Settings, kernel: AttnImplementation, keys: Number
) -> Number:
    """Keys that a query is multiplied with.

    Flash attention skips what is masked. SDPA does so only where no mask is passed: a sliding
    window shorter than the sequence, or the padding of a batch, makes Transformers build one
    (transformers/masking_utils.py, sdpa_mask), and the kernel then computes all keys. Eager
    attention always does.
    """
    seen = _keys_seen(block, keys)
    if kernel == "flash_attention_2" or not block.attention.causal:
        return seen
    if kernel == "eager":
        return keys
    masked = is_padded(settings)
    if block.attention.sliding_window is not None:
        masked = masked | (keys > block.attention.sliding_window)
    return select(masked, keys, seen)


def _tokens(
    model: ModelSpec,
    block: Block,
    settings: Settings,
    sequences: Number,
    length: Number,
) -> tuple[Number, Number]:
    """Tokens of a micro-batch in a block's stream, and tokens of one sequence of them."""
    if block.stream == "image":
        crop = model.image_patches / max(model.image_crops, 1)
        return sequences * model.image_patches * settings.num_images, crop
    return sequences * length, length


def _head_weights(model: ModelSpec) -> int:
    return model.vocab_size * model.embedding_width


def parameter_bytes(settings: Settings) -> int:
    """Bytes of one base parameter as several GPUs exchange it."""
    if settings.autocast != "none":
        return HALF_BYTES
    return DTYPE_BYTES[settings.weights_dtype]
