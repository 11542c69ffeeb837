"""The bytes of a step's phases, worked by hand for a small Llama.

Three layers of width 64; four heads of 16 for queries, two for keys and values; 160 features inside
the feed-forward part; 1000 words. A layer's matrices have 64 x 64 weights for q and for o, 64 x 32
for k and for v, 64 x 160 for gate, up and down.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ftadvisor.estimation.ladder import ladder, needed_bytes
from ftadvisor.estimation.memory import step_phases
from ftadvisor.estimation.phases import Phase
from ftadvisor.estimation.terms import NO_ADAPTER
from ftadvisor.schema.coefficients import MemoryCoefficients
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.architectures import read_model
from ftadvisor.sources.trainers import find_trainer
from ftadvisor.units import GIB

LAYERS, WIDTH, KV_WIDTH, INNER, VOCAB, HEADS = 3, 64, 32, 160, 1000, 4
LAYER_WEIGHTS = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160
LAYER = LAYER_WEIGHTS + 2 * 64
OUTSIDE = 2 * 1000 * 64 + 64
PARAMS = 3 * LAYER + OUTSIDE
LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip
ROWS, LENGTH = 2, 96
TOKENS = ROWS * LENGTH
BF16, FP32 = 2, 4
ADAPTER = NO_ADAPTER._replace(num_trainable_params=1000)
FROZEN: dict[str, Any] = {"technique": "lora"}


def small(**changes: Any) -> ModelSpec:
    return read_model(LLAMA | changes, "small")[0]


def phases(
    model: ModelSpec | None = None, trainer: str = "trl-1.16", **options: Any
) -> dict[str, Phase]:
    """Of two rows of 96 tokens all in bf16; everything is trained unless a technique is named."""
    given: dict[str, Any] = {"technique": "full", "micro_batch_size": ROWS, **options}
    given.setdefault("longest_length", LENGTH)
    adapter = None if given["technique"] in ("full", "galore") else ADAPTER
    return step_phases(model or small(), Settings(**given), find_trainer(trainer), adapter, "8.0")


def more(phase: str, part: str, than: dict[str, Any] | None = None, /, **options: Any) -> float:
    """By how much a part of a phase grows when these options are added to others [bytes]."""
    before, after = (phases(**(than or {}) | o)[phase] for o in ({}, options))
    return getattr(after, part) - getattr(before, part)


def test_the_small_llama_is_as_it_is_described():
    assert small().num_params == PARAMS


# ---- Objectives: who is held, and how many rows are trained ----

HELD = {
    "sft": "policy", "orpo": "policy", "dpo": "policy reference", "kto": "policy reference",
    "distillation": "student teacher", "ppo": "policy reference reward value",
}  # fmt: skip


@pytest.mark.parametrize("objective", HELD)
def test_models_held_where_everything_is_trained(objective: str):
    weights = phases(objective=objective)["optimizer_step"].weights
    assert weights == BF16 * PARAMS * len(HELD[objective].split())


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
@pytest.mark.parametrize("reference", [False, True])
def test_a_policy_has_a_reference_where_it_keeps_its_distance(objective: str, *, reference: bool):
    weights = phases(objective=objective, reference_model=reference)["optimizer_step"].weights
    assert weights == BF16 * PARAMS * (2 if reference else 1)


@pytest.mark.parametrize("objective", ["dpo", "kto", "grpo", "rloo"])
def test_with_an_adapter_the_reference_is_the_base(objective: str):
    options: dict[str, Any] = FROZEN | {"objective": objective, "reference_model": True}
    assert phases(**options)["optimizer_step"].weights == BF16 * PARAMS
    assert phases(**FROZEN, objective="distillation")["optimizer_step"].weights == 4 * PARAMS


def test_a_teacher_comes_in_half_precision():
    found = phases(objective="distillation", weights_dtype="fp32", autocast="bf16")
    assert found["optimizer_step"].weights == (FP32 + BF16) * PARAMS


# Kept of each token and layer in bf16, everything trained and nothing padded: two norms (the input
# in fp32, its normalised copy, a scalar), q, k, v and the result of attention with a scalar for
# each head, the inputs of q, k, v and of gate and up, and gate, its activation, up and product.
KEPT = (
    2 * (FP32 * WIDTH + BF16 * WIDTH + FP32)
    + BF16 * (64 + 32 + 32 + 64) + FP32 * HEADS
    + 2 * BF16 * WIDTH
    + 4 * BF16 * INNER
)  # fmt: skip
# Of the final norm: its input in fp32 and a scalar, its normalised copy, and what it puts out.
AT_HEAD = FP32 * WIDTH + FP32 + 2 * BF16 * WIDTH


@pytest.mark.parametrize(("objective", "rows"), [("sft", 2), ("kto", 2), ("dpo", 4), ("orpo", 4)])
def test_a_pair_is_two_rows(objective: str, rows: int):
    kernel = "torch" if objective == "orpo" else "chunked"
    found = phases(objective=objective, loss_kernel=kernel)["loss_forward"]
    scored = 0 if objective == "orpo" else BF16 * WIDTH
    assert found.activations == rows * LENGTH * (LAYERS * KEPT + AT_HEAD + scored)


@pytest.mark.parametrize(("objective", "rows"), [("seq_cls", 2), ("token_cls", 2), ("reward", 4)])
def test_scores_are_no_logits(objective: str, rows: int):
    """And there is no head: a matrix of 1000 words less."""
    found = phases(objective=objective, loss_kernel="chunked")
    assert all(phase.logits == 0 for phase in found.values())
    assert found["loss_forward"].weights == BF16 * (PARAMS - VOCAB * WIDTH)
    assert found["loss_forward"].activations == rows * LENGTH * (LAYERS * KEPT + AT_HEAD)


@pytest.mark.parametrize(
    ("dtypes", "per_logit"),
    [
        # The fp32 logits, log-probabilities of the chosen half, two gradients.
        ({"autocast": "bf16"}, FP32 + FP32 / 2 + 2 * FP32),
        ({"weights_dtype": "fp32"}, FP32 + FP32 / 2 + 2 * FP32),
        # Half precision is scored row by row: two gradients, and the chosen half's.
        ({}, 2 * BF16 + BF16 / 2),
    ],
)
def test_orpo_needs_whole_logits(dtypes: dict[str, Any], per_logit: float):
    for kernel in ("torch", "chunked"):
        found = phases(objective="orpo", loss_kernel=kernel, **dtypes)["loss_backward"]
        assert found.logits == 2 * TOKENS * VOCAB * per_logit


def test_a_reference_reads_while_the_policy_s_activations_wait():
    """Its widest moment: gate's activation, up and their product, the stream before and after the
    attention, the norm's output and the embedding, which callers hold. fp32 weights are cast for
    either model, and a checkpoint drops the policy's casts."""
    for objective, rows in (("dpo", 4), ("kto", 2)):
        found = phases(objective=objective, loss_kernel="chunked")
        waiting = found["loss_forward"].activations
        reading = rows * LENGTH * (3 * BF16 * INNER + 4 * BF16 * WIDTH)
        assert found["reference_forward"].activations == waiting + reading
    cast = BF16 * LAYERS * LAYER_WEIGHTS
    for checkpointing, models in (("none", 2), ("full", 1)):
        mixed = phases(
            objective="dpo", weights_dtype="fp32", autocast="bf16", loss_kernel="chunked",
            gradient_checkpointing=checkpointing,
        )  # fmt: skip
        assert mixed["reference_forward"].temporaries == models * cast


# ---- Generation ----

PROMPT, ANSWER = 16, 96
GENERATING: dict[str, Any] = {
    "objective": "grpo",
    "longest_length": PROMPT,
    "max_completion_length": ANSWER,
}
CACHED = LAYERS * (KV_WIDTH + KV_WIDTH)


def test_the_last_token_of_an_answer_meets_a_full_cache():
    """Six answers at once; growing the cache copies one layer's keys. The logits of one token each
    in bf16, and in fp32 themselves, their probabilities and a quotient of these."""
    found = phases(**GENERATING, gradient_accumulation_steps=3)["generation"]
    tokens = 3 * ROWS * (PROMPT + ANSWER - 1)
    assert found.activations == tokens * BF16 * (CACHED + KV_WIDTH)
    assert found.logits == 3 * ROWS * VOCAB * (BF16 + 3 * FP32)
    assert (found.temporaries, found.gathered) == (0, 0)


def test_a_cache_of_fp32_weights_is_twice_as_large():
    options: dict[str, Any] = GENERATING | {"weights_dtype": "fp32", "autocast": "bf16"}
    found = phases(**options)["generation"]
    assert found.activations == ROWS * (PROMPT + ANSWER - 1) * FP32 * (CACHED + KV_WIDTH)
    # Autocast keeps a copy of every matrix that it casts, the head's among them.
    assert found.temporaries == BF16 * (LAYERS * LAYER_WEIGHTS + VOCAB * WIDTH)


def test_long_prompts_are_the_peak_of_generation():
    """What one layer needs besides the cache while it reads them: see the reference's reading."""
    short: dict[str, Any] = {**GENERATING, "max_completion_length": 1}
    found = phases(**short)["generation"]
    reading = 3 * BF16 * INNER + 4 * BF16 * WIDTH
    assert found.activations == ROWS * PROMPT * (BF16 * CACHED + reading)


def test_generation_gathers_what_is_sharded():
    """Outside the layers and one of them, in the bf16 in which both are stored."""
    found = phases(**GENERATING, **FROZEN, strategy="fsdp", num_gpus=4)["generation"]
    assert found.gathered == BF16 * (OUTSIDE + LAYER)


def test_few_tokens_copy_the_experts_that_they_need():
    """Two of eight experts for each of six rows, three matrices of 64 x 160."""
    model = small(model_type="mixtral", num_local_experts=8, num_experts_per_tok=2)
    found = phases(model, **GENERATING, gradient_accumulation_steps=3)["generation"]
    cache = 3 * ROWS * (PROMPT + ANSWER - 1) * BF16 * (CACHED + KV_WIDTH)
    assert found.activations == cache + 3 * ROWS * 2 * 3 * WIDTH * INNER * BF16


def test_a_latent_is_cached_with_the_rotated_part_of_its_keys():
    """24 features and 8 that are rotated. A layer multiplies all of them out again: keys of 16
    features and values of 12 for each head, and joins the keys with the 8."""
    model = small(
        model_type="deepseek_v3", kv_lora_rank=24, q_lora_rank=None, qk_nope_head_dim=16,
        qk_rope_head_dim=8, v_head_dim=12, first_k_dense_replace=LAYERS, head_dim=8,
        num_key_value_heads=HEADS,
    )  # fmt: skip
    answers: dict[str, Any] = {**GENERATING, "longest_length": 1}
    found = phases(model, **answers)["generation"]
    formed = HEADS * (16 + 12) + HEADS * (16 + 8)
    assert found.activations == ROWS * ANSWER * BF16 * (LAYERS * (24 + 8) + formed)


def test_a_fused_head_scores_the_answer_alone():
    """Of 112 tokens 96; padded as generated answers are, which end where they end."""
    answered = phases(**GENERATING, loss_kernel="chunked")
    padded: dict[str, Any] = {"longest_length": PROMPT + ANSWER, "typical_length": PROMPT + ANSWER}
    trained = phases(**padded, loss_kernel="chunked")
    before, after = (p["loss_forward"].activations for p in (answered, trained))
    assert after - before == ROWS * PROMPT * BF16 * WIDTH
    assert answered["loss_forward"].logits == ROWS * ANSWER * 32_768 * BF16


def test_a_divergence_takes_two_tiles_in_fp32():
    found = phases(objective="distillation", max_completion_length=ANSWER, loss_kernel="chunked")
    for phase in ("loss_forward", "loss_backward"):
        assert found[phase].logits == ROWS * ANSWER * 32_768 * (FP32 + FP32 + BF16)


# ---- Layers and losses by fused kernels ----


def test_a_fused_norm_keeps_its_input_and_a_scalar():
    """Of a frozen one Transformers keeps the input in fp32, of a trained one the product that its
    weight multiplies too; two in a layer and the last."""
    norms = TOKENS * (2 * LAYERS + 1)
    frozen = more("loss_forward", "activations", FROZEN, fused_norm=True)
    assert frozen == -norms * WIDTH * (FP32 - BF16)
    trained = more("loss_forward", "activations", fused_norm=True)
    # Where the last norm writes a copy of its own product its output needs none.
    assert trained == -norms * WIDTH * (FP32 + BF16 - BF16)


def test_fused_norms_of_queries_and_keys():
    """Of each head 16 features in bf16 and a scalar, not 16 in fp32 and a scalar."""
    model = small(model_type="qwen3")
    before, after = (
        phases(model, **FROZEN, fused_norm=fused)["loss_forward"].activations
        for fused in (False, True)
    )
    features = 2 * WIDTH + WIDTH + KV_WIDTH
    assert before - after == TOKENS * (LAYERS * features + WIDTH) * (FP32 - BF16)


def test_a_fused_feed_forward_part_makes_its_activation_again():
    assert more("loss_forward", "activations", fused_mlp=True) == -TOKENS * LAYERS * BF16 * INNER


def test_gradients_of_a_gated_product():
    """One layer at work: all that it keeps, what arrives, and gradients of product, gate and up
    beside the gate's activation's. Its widest weight's gradient waits for none of them."""
    found = phases(**FROZEN, gradient_checkpointing="full")["last_layer_backward"]
    frozen = (
        2 * (FP32 * WIDTH + FP32) + BF16 * (64 + 32 + 32 + 64) + FP32 * HEADS + 3 * BF16 * INNER
    )
    assert found.activations == TOKENS * (BF16 * WIDTH + frozen + 3 * BF16 * INNER + BF16 * WIDTH)


def test_a_fused_head_keeps_what_it_scores_and_a_gradient_in_fp32():
    """Until backward has cast it: 2 bytes kept, 4 summed, 2 cast; a tile of 32,768 words in bf16
    however few there are. The trained head's gradient is summed in fp32 and cast as well."""
    found = phases(loss_kernel="chunked")["loss_backward"]
    norm = FP32 * WIDTH + FP32 + BF16 * WIDTH
    assert found.activations == TOKENS * (LAYERS * KEPT + norm + (2 + 4 + 2) * WIDTH)
    assert found.logits == TOKENS * 32_768 * BF16
    assert found.temporaries == VOCAB * WIDTH * (FP32 + BF16)
    frozen = phases(**FROZEN, loss_kernel="chunked")["loss_backward"]
    assert frozen.temporaries == 0
    long = phases(**FROZEN, loss_kernel="chunked", longest_length=5000)["loss_backward"]
    assert long.logits == 4096 * 32_768 * BF16


@pytest.mark.parametrize(("vocab", "rows"), [(50_000, 32_768), (VOCAB, VOCAB)])
def test_a_fused_head_of_fp32_is_cast_a_piece_at_a_time(vocab: int, rows: int):
    """32,768 rows of it, or all where there are fewer (`weight[start:end]` in chunked_logprob.py),
    once for the logits and once for the gradient, beside the sum in fp32."""
    mixed: dict[str, Any] = {"weights_dtype": "fp32", "autocast": "bf16", "loss_kernel": "chunked"}
    found = phases(small(vocab_size=vocab), **mixed, gradient_checkpointing="full")
    piece = BF16 * rows * WIDTH
    assert found["loss_forward"].temporaries == BF16 * LAYERS * LAYER_WEIGHTS + piece
    assert found["loss_backward"].temporaries == piece + piece + FP32 * vocab * WIDTH


def test_liger_s_head_forms_its_gradient_with_the_loss():
    found = phases(loss_kernel="fused_linear")
    assert found["loss_backward"].temporaries == BF16 * VOCAB * WIDTH
    assert found["loss_backward"].logits == 0
    assert "head_gradient" not in found
    mixed = phases(
        loss_kernel="fused_linear", weights_dtype="fp32", autocast="bf16",
        gradient_checkpointing="full",
    )  # fmt: skip
    cast = BF16 * VOCAB * WIDTH
    assert mixed["loss_backward"].temporaries == cast + FP32 * VOCAB * WIDTH
    # Alone it is added to nothing; an untied head's has accumulated elsewhere.
    assert mixed["first_layer_backward"].temporaries >= FP32 * VOCAB * WIDTH


def test_liger_s_frozen_head_leaves_the_gradient_of_what_it_read():
    """Formed with the loss, where a head of its own makes one in backward, from the logits."""
    frozen = {"loss_kernel": "torch", "technique": "ln_tuning"}
    backward = more("loss_backward", "activations", frozen, loss_kernel="fused_linear")
    assert backward == TOKENS * BF16 * WIDTH
    assert more("loss_forward", "activations", frozen, loss_kernel="fused_linear") == 0


@pytest.mark.parametrize(
    ("kernel", "copies"),
    [
        # Log-probabilities, the gradient of the likelihood and their product; one less in place.
        ("torch", 3),
        ("inplace", 2),
    ],
)
def test_fp32_copies_of_logits_in_backward(kernel: str, copies: int):
    found = phases(trainer="transformers-5", loss_kernel=kernel)["loss_backward"]
    assert found.logits == TOKENS * VOCAB * copies * FP32
    capped = phases(
        read_model({"model_type": "gemma2", **sized()}, "small")[0],
        trainer="transformers-5", loss_kernel=kernel, technique="lora",
    )["loss_backward"]  # fmt: skip
    assert capped.logits == TOKENS * VOCAB * (copies * FP32 + BF16)


def sized() -> dict[str, Any]:
    return {key: value for key, value in LLAMA.items() if key != "model_type"}


# ---- Checkpoints ----


def test_selective_checkpoints_keep_attention_s_result():
    """Beside a layer's input what attention puts out, and a scalar of each head; torchtitan also
    what every second product puts out: q, v, gate (w1) and down (w2)."""
    common: dict[str, Any] = {"gradient_checkpointing": "full"}
    attention = TOKENS * LAYERS * (BF16 * WIDTH + FP32 * HEADS)
    found = more("loss_forward", "activations", common, gradient_checkpointing="selective")
    assert found == attention
    products = TOKENS * LAYERS * BF16 * (WIDTH + KV_WIDTH + INNER + WIDTH)
    common: dict[str, Any] = {"trainer": "torchtitan", **common}
    found = more("loss_forward", "activations", common, gradient_checkpointing="selective")
    assert found == attention + products


def test_a_checkpoint_is_a_layer_s_input():
    found = phases(**FROZEN, gradient_checkpointing="full")["loss_forward"].activations
    head = FP32 * WIDTH + FP32 + BF16 * WIDTH
    assert found == TOKENS * (LAYERS * BF16 * WIDTH + head)


# ---- Sharding ----

MIXED: dict[str, Any] = {"weights_dtype": "fp32", "autocast": "bf16"}


def test_engines_divide_four_bit_weights():
    """A byte holds two of them. An fp32 scale serves 64, and every rank has all scales."""
    options: dict[str, Any] = FROZEN | {"quantization": "nf4", "num_gpus": 4}
    found = phases(**options, strategy="fsdp")
    scales = LAYERS * LAYER_WEIGHTS * 4 / 64
    layer = LAYER_WEIGHTS * 0.5 + 2 * WIDTH * BF16
    cut = LAYERS * layer + BF16 * OUTSIDE
    working = found["first_layer_backward"]
    assert working.weights == pytest.approx(scales + cut / 4)
    assert working.gathered == pytest.approx(BF16 * OUTSIDE + layer)
    zero = phases(**options, strategy="zero3")["first_layer_backward"]
    assert zero.weights == pytest.approx(scales + cut / 4)
    # Four bits are stored in what is gathered, and not halved with fp32 numbers.
    mixed = phases(**options | MIXED, strategy="fsdp")["first_layer_backward"]
    assert mixed.gathered >= BF16 * OUTSIDE + LAYER_WEIGHTS * 0.5
    kept = phases(**options, strategy="fsdp-shard-grad-op")["first_layer_backward"]
    # Their norms are prepared in fp32.
    assert kept.gathered == pytest.approx(cut, rel=0.01)


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_deepspeed_collects_gradients_in_a_buffer(strategy: str):
    """Transformers makes it as large as a matrix of the hidden size."""
    alone = phases(**MIXED)["loss_forward"].workspace
    found = phases(**MIXED, strategy=strategy, num_gpus=4)["loss_forward"].workspace
    assert found - alone == WIDTH**2 * BF16


def test_fsdp2_keeps_all_weights_gathered_where_gradients_alone_are_cut():
    found = phases(strategy="fsdp-shard-grad-op", num_gpus=4, **MIXED)["first_layer_backward"]
    assert found.weights == FP32 * PARAMS / 4
    assert found.gathered == BF16 * PARAMS
    cut = phases(strategy="fsdp", num_gpus=4, **MIXED)["first_layer_backward"]
    assert cut.gathered == BF16 * (OUTSIDE + LAYER)
    # The head's gradient is whole until the root unit is reduced, at the end.
    for phase in ("first_layer_backward", "last_layer_backward"):
        found = phases(strategy="fsdp", num_gpus=4, **MIXED)[phase]
        assert found.temporaries == BF16 * (WIDTH * INNER + VOCAB * WIDTH)


def test_accumulated_gradients_are_whole_and_in_half_precision():
    options: dict[str, Any] = MIXED | {"strategy": "fsdp", "num_gpus": 4}
    assert phases(**options)["loss_forward"].gradients == 0
    found = phases(**options, gradient_accumulation_steps=2)["loss_forward"].gradients
    assert found == BF16 * PARAMS
    alone = phases(weights_dtype="fp32", gradient_accumulation_steps=2)["loss_forward"]
    assert alone.gradients == FP32 * PARAMS


def test_ddp_copies_gradients_into_buckets():
    assert more("loss_forward", "workspace", strategy="ddp", num_gpus=4) == BF16 * PARAMS


def test_fsdp1_gathers_a_layer_and_what_is_outside():
    """Its frozen units keep every recomputed input and its gradient but the last layer's."""
    common: dict[str, Any] = FROZEN | {
        "trainer": "fms-hf-tuning-4.45",
        "num_gpus": 4,
        "strategy": "fsdp",
    }
    found = phases(**common)["first_layer_backward"]
    assert found.weights == pytest.approx(BF16 * PARAMS / 4)
    assert found.gathered == pytest.approx(BF16 * (OUTSIDE + LAYER))
    quantized = phases(**common, quantization="nf4")["optimizer_step"]
    scales = LAYERS * LAYER_WEIGHTS * 4 / 64
    divided = LAYERS * (LAYER_WEIGHTS / 2 + 2 * WIDTH * BF16) + BF16 * OUTSIDE
    assert quantized.weights == pytest.approx(divided / 4 + scales)


def test_zero3_gathers_all_of_a_small_model():
    """stage3_max_live_parameters is a billion: what is gathered stays."""
    found = phases(**FROZEN, strategy="zero3", num_gpus=4)["first_layer_backward"]
    assert found.gathered == pytest.approx(BF16 * (PARAMS + LAYER))


# ---- Optimizers ----

# States of each parameter: AdamW two in the parameter's bf16; bitsandbytes in fp32, or in a byte
# and an fp32 scale for 256 of them; AdEMAMix three, Lion one. torch's
# foreach form roots all second moments at once.
EIGHT_BIT = 1 + 4 / 256
STATES = {
    "adamw_torch": (2 * BF16, BF16), "adamw_torch_fused": (2 * BF16, 0), "ademamix": (3 * FP32, 0),
    "lion": (FP32, 0), "lion_32bit": (FP32, 0), "sgd": (0, 0),
    "rmsprop": (BF16, BF16), "rmsprop_bnb": (FP32, 0), "adagrad": (BF16, 2 * BF16),
    "paged_adamw": (0, 0), "paged_adamw_8bit": (2 * FP32 / 256, 0),
    "paged_lion_8bit": (FP32 / 256, 0),
}  # fmt: skip


@pytest.mark.parametrize("optim", STATES)
def test_states_of_an_optimizer(optim: str):
    """Paged ones are in managed memory, which torch does not count, but for their scales."""
    found = phases(optim=optim)["optimizer_step"]
    state, temporary = STATES[optim]
    assert found.temporaries == temporary * PARAMS
    # Embeddings keep 32-bit states where others have 8 bits: no scales, once they are paged.
    scaled = PARAMS - (VOCAB * WIDTH if "8bit" in optim else 0)
    assert found.optimizer == state * scaled
    assert found.gradients == BF16 * PARAMS


@pytest.mark.parametrize(
    ("optim", "states"),
    [("adamw_8bit", 2), ("adamw_bnb_8bit", 2), ("ademamix_8bit", 3), ("lion_8bit", 1)],
)
def test_states_in_eight_bits_but_for_the_embedding(optim: str, states: int):
    """Transformers keeps the embedding's in fp32."""
    found = phases(optim=optim)["optimizer_step"].optimizer
    embedding = VOCAB * WIDTH
    assert found == pytest.approx(
        states * (EIGHT_BIT * (PARAMS - embedding) + FP32 * embedding), rel=1e-9
    )
    adapter = phases(**FROZEN, optim=optim)["optimizer_step"].optimizer
    assert adapter == pytest.approx(states * EIGHT_BIT * 1000)


def test_galore_s_states_in_eight_bits():
    """Rank 16: two states of 16 rows or columns of each matrix, and a bf16 projection."""
    found = phases(technique="galore", optim="galore_adamw_8bit", peft_config={"rank": 16})
    wide, narrow = 64 + 64 + 64 + 64 + 3 * 160, 64 + 64 + 32 + 32 + 3 * 64
    rest = 2 * (PARAMS - LAYERS * LAYER_WEIGHTS)
    states = LAYERS * 2 * 16 * wide + rest
    expected = EIGHT_BIT * states + BF16 * LAYERS * 16 * narrow
    assert found["optimizer_step"].optimizer == pytest.approx(expected)


def test_what_is_offloaded_is_elsewhere():
    common: dict[str, Any] = {"num_gpus": 4, "strategy": "zero3"}
    kept = phases(**common)["optimizer_step"]
    assert phases(**common, offload_optimizer=True)["optimizer_step"].optimizer == 0
    assert phases(**common, offload_params=True)["optimizer_step"].weights == 0
    assert kept.optimizer == pytest.approx((4 + 8) * PARAMS / 4)
    assert kept.weights == pytest.approx(2 * PARAMS / 4)
    two = phases(**common, offload_params=True, objective="dpo")["optimizer_step"]
    assert two.weights == pytest.approx(2 * PARAMS / 4)


# ---- Single heads for keys and values ----


def one_key_head(model_type: str, **names: Any) -> ModelSpec:
    shared: dict[str, Any] = {
        "vocab_size": VOCAB,
        "multi_query": True,
        "max_position_embeddings": 8192,
    }
    return read_model({"model_type": model_type, **shared, **names}, "small")[0]


def test_falcon_forms_its_scores():
    """A single key head that meets all queries' heads as it is: no fused kernel takes it and SDPA
    multiplies out the scores, in fp32 whatever it is given. Kept are q, k and v of four heads, and
    the softmax; backward holds that, its gradient, their product and the scores' gradient."""
    model = one_key_head(
        "falcon", hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        parallel_attn=True, new_decoder_architecture=False, bias=False, alibi=False,
    )  # fmt: skip
    common: dict[str, Any] = FROZEN | {"model": model, "micro_batch_size": 1}
    short, long = (phases(**common, longest_length=n) for n in (100, 300))

    def per_token(found: dict[str, Phase], phase: str, length: int) -> float:
        return found[phase].activations / length

    kept = per_token(long, "loss_forward", 300) - per_token(short, "loss_forward", 100)
    assert kept == pytest.approx(LAYERS * 200 * HEADS * FP32)
    working = "last_layer_backward"
    stored: dict[str, Any] = {"gradient_checkpointing": "full"}
    far, farther = (
        per_token(phases(**common, **stored, longest_length=n), working, n) for n in (1000, 3000)
    )
    assert farther - far == pytest.approx(2000 * HEADS * 4 * FP32)
    flash = phases(**common, attn_implementation="flash_attention_2", longest_length=100)
    # It keeps q, result, and one k and v in bf16, which indexing copied, and a scalar of each head.
    other = BF16 * (2 * WIDTH + 2 * 16) + FP32 * HEADS
    own = FP32 * 3 * WIDTH + 100 * HEADS * FP32
    gap = per_token(short, "loss_forward", 100) - per_token(flash, "loss_forward", 100)
    assert gap == pytest.approx(LAYERS * (own - other))


def test_gpt_bigcode_expands_its_key_head_without_a_copy():
    """Transformers repeats a single head by a view. Padding then adds a mask in bf16, nothing
    else."""
    model = one_key_head(
        "gpt_bigcode", n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, attn_pdrop=0.0
    )  # fmt: skip
    found = more("loss_forward", "activations", FROZEN | {"model": model}, typical_length=LENGTH)
    assert found == TOKENS * LAYERS * LENGTH * BF16
    grouped = more("loss_forward", "activations", FROZEN, typical_length=LENGTH)
    copied = 2 * (WIDTH - KV_WIDTH) * BF16
    assert grouped == TOKENS * LAYERS * (LENGTH * BF16 + copied)


# ---- What programs keep of their logits ----


def test_a_compiled_loss_reads_logits_and_writes_their_gradient():
    found = phases(trainer="torchtitan", loss_kernel="torch")
    assert found["loss_forward"].logits == TOKENS * VOCAB * BF16
    assert found["loss_backward"].logits == TOKENS * VOCAB * 2 * BF16


def test_litgpt_s_loss_in_chunks():
    """Whole in fp32, their log-probabilities, and joining the chunks' gradients one copy more; with
    a frozen base the head too puts out chunks. Within one of 128 tokens two copies more."""
    common: dict[str, Any] = {"trainer": "litgpt-2024", "longest_length": 512}
    tokens, chunk = ROWS * 512, 2 * FP32 * ROWS * 128
    trained = phases(**common)
    assert trained["loss_forward"].logits == VOCAB * (tokens * 3 * FP32 + chunk)
    assert trained["loss_backward"].logits == VOCAB * (tokens * 3 * FP32 + chunk)
    frozen = phases(**common, **FROZEN)
    assert frozen["loss_backward"].logits == VOCAB * (tokens * 2 * FP32 + chunk)


def test_shifted_logits_are_a_copy_but_of_one_row():
    """By Transformers before 4.48: the half-precision logits, fp32 ones and log-probabilities."""
    common: dict[str, Any] = FROZEN | {"trainer": "transformers-4.40"}
    two, one = (phases(**common, micro_batch_size=n)["loss_forward"].logits for n in (2, 1))
    assert two - 2 * one == TOKENS * VOCAB * FP32


# ---- Weights that are quantised ----


@pytest.mark.parametrize(
    ("quantization", "group", "each"),
    [
        ("nf4", 128, 0.5 + 4 / 64),  # an fp32 scale for 64 weights
        ("nf4-dq", 128, 0.5 + 1 / 64 + 4 / (64 * 256)),  # a byte, and for 256 of them an fp32 one
        ("int8", 128, 1),
        ("gptq-int4", 128, 0.5 + (2 + 0.5) / 128),  # a half-precision scale and a zero of 4 bits
        ("awq-int4", 64, 0.5 + (2 + 0.5) / 64),
        ("gptq-int4", -1, 0.5),
        ("gptq-int8", 128, 1 + (2 + 1) / 128),
    ],
)
def test_bytes_of_a_quantised_weight(quantization: str, group: int, each: float):
    found = phases(**FROZEN, quantization=quantization, quantization_group_size=group)
    rest = BF16 * (LAYERS * 2 * WIDTH + OUTSIDE)
    weights = found["optimizer_step"].weights
    assert weights == pytest.approx(each * LAYERS * LAYER_WEIGHTS + rest, rel=1e-9)


def test_what_is_unpacked_is_half_precision():
    """The widest matrix, 64 x 160, beside a layer's backward."""
    for quantization in ("nf4", "int8"):
        found = phases(**FROZEN, quantization=quantization, longest_length=8)
        assert found["last_layer_backward"].temporaries == WIDTH * INNER * BF16


# ---- Gradients and casts ----


def test_a_weight_s_gradient_is_beside_its_layer_s_backward():
    """And before it the head's, which waits; embedding and head are apart."""
    found = phases(gradient_checkpointing="full")
    assert found["last_layer_backward"].temporaries == WIDTH * INNER * BF16
    first = found["first_layer_backward"].temporaries
    assert first == BF16 * (WIDTH * INNER + VOCAB * WIDTH)
    # All gradients but the embedding's, which come last.
    assert found["last_layer_backward"].gradients == BF16 * (PARAMS - VOCAB * WIDTH)
    assert found["end_of_backward"].gradients == BF16 * PARAMS
    assert found["head_gradient"].temporaries == BF16 * VOCAB * WIDTH
    tied = phases(small(tie_word_embeddings=True))["end_of_backward"]
    assert tied.temporaries == BF16 * VOCAB * WIDTH


def test_an_fp32_adapter_is_cast_under_autocast():
    """Its copies are kept through forward, and with checkpoints for one layer at a time."""
    found = phases(**FROZEN, autocast="bf16")
    for phase in ("loss_forward", "loss_backward", "first_layer_backward"):
        assert found[phase].temporaries == BF16 * 1000
    assert found["last_layer_backward"].temporaries == 0


def test_virtual_tokens_are_read_with_the_others():
    adapter = ADAPTER._replace(virtual_tokens=8)
    settings = Settings(technique="prompt_tuning", micro_batch_size=ROWS, longest_length=LENGTH)
    found = step_phases(small(), settings, find_trainer("transformers-5"), adapter, "8.0")
    plain = phases(**FROZEN, trainer="transformers-5")
    for name in ("loss_forward", "first_layer_backward"):
        ratio = found[name].activations / plain[name].activations
        assert ratio == pytest.approx(104 / 96)


def test_packed_rows_have_one_mask():
    """A truth value for each pair of the batch's tokens, and in every layer a half."""
    found = more("loss_forward", "activations", FROZEN, packing=True)
    copied = 2 * (WIDTH - KV_WIDTH) * BF16
    assert found == TOKENS**2 + LAYERS * TOKENS * (TOKENS * BF16 + copied)


def test_the_longest_batch_meets_no_gradients_where_it_is_first():
    """In litgpt of 2023; later ones are 0.57 times as long, and meet what has accumulated."""
    common: dict[str, Any] = {"trainer": "litgpt-2023", "gradient_accumulation_steps": 2}
    assert phases(**common, longest_length=4000)["loss_forward"].gradients == 0
    short = phases(**common, longest_length=8)["loss_forward"]
    assert short.gradients == BF16 * PARAMS
    alone = phases(trainer="litgpt-2023", longest_length=8)
    assert short.activations == pytest.approx(0.57 * alone["loss_forward"].activations)


def test_litgpt_holds_its_fp32_logits_to_the_end():
    found = phases(**FROZEN, trainer="litgpt-2023")
    for phase in ("first_layer_backward", "last_layer_backward", "optimizer_step"):
        assert found[phase].logits == TOKENS * VOCAB * FP32


def test_litgpt_quantises_the_head_and_unpacks_it_twice():
    options: dict[str, Any] = FROZEN | {"trainer": "litgpt-2024", "quantization": "nf4"}
    found = phases(**options)
    matrices = LAYERS * LAYER_WEIGHTS + VOCAB * WIDTH
    rest = PARAMS - matrices
    weights = found["optimizer_step"].weights
    assert weights == pytest.approx((0.5 + 4 / 64) * matrices + BF16 * rest)
    assert found["quantized_head_backward"].temporaries == 2 * BF16 * VOCAB * WIDTH


# ---- Checkpoints of earlier programs ----

CHECKPOINTED: dict[str, Any] = FROZEN | {"gradient_checkpointing": "full"}
INPUTS = TOKENS * BF16 * WIDTH


def test_a_reentrant_checkpoint_puts_its_output_beside_the_gradient():
    """Of a Llama without grouped heads, which Transformers 4 would repeat."""
    model = small(num_key_value_heads=HEADS)
    entered, hooked = (
        phases(model, trainer, **CHECKPOINTED)["last_layer_backward"].activations
        for trainer in ("transformers-4.48", "transformers-5")
    )
    assert entered - hooked == INPUTS


def test_frozen_units_of_fsdp1_keep_recomputed_inputs():
    """Those of three layers, and the gradients of all but the first and the last, not one input."""
    cut: dict[str, Any] = {"strategy": "fsdp", "num_gpus": 4}
    common: dict[str, Any] = CHECKPOINTED | {"trainer": "fms-hf-tuning-4.45"}
    found = more("last_layer_backward", "activations", common, **cut)
    assert found == (3 + 1 - 1) * INPUTS
    within: dict[str, Any] = CHECKPOINTED | {"trainer": "fsdp_qlora"}
    assert more("last_layer_backward", "activations", within, **cut) == 0


def test_one_flat_parameter_has_one_gradient():
    """litgpt wraps frozen and trained weights together; each accumulates as it is stored."""
    options: dict[str, Any] = FROZEN | {"trainer": "litgpt-2024", "strategy": "fsdp", "num_gpus": 4}
    found = phases(**options, gradient_accumulation_steps=2)["loss_forward"].gradients
    assert found == BF16 * PARAMS + FP32 * 1000


def test_a_fused_lora_is_not_cut():
    common: dict[str, Any] = FROZEN | {
        "trainer": "fms-hf-tuning-4.45",
        "strategy": "fsdp",
        "num_gpus": 4,
    }
    assert phases(**common)["optimizer_step"].adapters == FP32 * 1000 / 4
    assert phases(**common, fused_lora=True)["optimizer_step"].adapters == FP32 * 1000


def test_gpt_bigcode_s_cache_keeps_what_checkpoints_drop():
    """Transformers 4 fills it while it trains: q, k and v of each layer in one."""
    model = one_key_head("gpt_bigcode", n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS)
    kept, dropped = (
        phases(model, trainer, **CHECKPOINTED, micro_batch_size=1)["loss_forward"].activations
        for trainer in ("transformers-4.48", "transformers-5")
    )
    assert kept - dropped == LENGTH * LAYERS * BF16 * (WIDTH + 16 + 16)


# ---- From allocated to device memory ----

COEFFICIENTS = MemoryCoefficients(
    working_fraction=0.1, logits_fraction=0.2, emptied_logits_fraction=0.3,
    variable_length_constant=2.0, variable_length_slope=1.5, context_bytes=400.0,
    communication_bytes=900.0,
)  # fmt: skip
ALIVE = Phase(1000, 0, 0, 0, 0, 200, 50, 30, 0, 0)


@pytest.mark.parametrize(
    ("trainer", "typical", "reserved"),
    [
        # A tenth of activations and temporaries is lost, a fifth of the logits is free once more.
        ("transformers-5", 0, 1280 + 23 + 10),
        # Half as long as the longest: logits of all lengths stay, 2 + 1.5 / 2 times those of one.
        ("transformers-5", 48, 1280 + 23 + 50 * 1.75),
        # A program that empties the cache keeps a share of one step's logits.
        ("peft-method-comparison", 48, 1280 + 15),
    ],
)
def test_reserved_and_device_memory(trainer: str, typical: int, reserved: float):
    settings = Settings(technique="full", longest_length=96, typical_length=typical)
    found = ladder({"a": ALIVE}, settings, find_trainer(trainer), COEFFICIENTS)
    assert found == (pytest.approx(reserved), pytest.approx(reserved + 400))
    several = replace(settings, num_gpus=2)
    found = ladder({"a": ALIVE}, several, find_trainer(trainer), COEFFICIENTS)
    assert found.device == pytest.approx(reserved + 1300)


def test_what_a_run_gets_by_with():
    """A context of 0.3 GiB, and as much for NCCL's channels between several."""
    alone = Settings(technique="full")
    assert needed_bytes(GIB, alone) == pytest.approx(1.3 * GIB)
    assert needed_bytes(GIB, replace(alone, num_gpus=2)) == pytest.approx(1.6 * GIB)


# ---- Layers of other kinds, their weights frozen ----

ATTENTION = BF16 * (64 + 32 + 32 + 64) + FP32 * HEADS


def test_gpt_2_keeps_four_tensors_of_its_activation():
    """A LayerNorm its input and two statistics; q, k, v, the result and a scalar of each head; of
    tanh-GELU spelled out in Python four factors. Autocast runs LayerNorm and the power in fp32."""
    model = read_model(
        {
            "model_type": "gpt2", "vocab_size": VOCAB, "n_embd": WIDTH, "n_inner": INNER,
            "n_layer": LAYERS, "n_head": HEADS, "n_positions": 8192, "resid_pdrop": 0.0,
            "attn_pdrop": 0.0, "embd_pdrop": 0.0,
        },
        "small",
    )[0]  # fmt: skip
    common: dict[str, Any] = FROZEN | {"model": model}
    attention = 4 * BF16 * WIDTH + FP32 * HEADS
    for autocast, norm, factors in (
        ("none", BF16 * WIDTH + 8, 4 * BF16), ("bf16", FP32 * WIDTH + 8, BF16 + 3 * FP32),
    ):  # fmt: skip
        found = phases(**common, autocast=autocast)["loss_forward"].activations
        layer = 2 * norm + attention + factors * INNER
        assert found == TOKENS * (LAYERS * layer + norm + BF16 * WIDTH)


def test_a_mixture_keeps_what_its_experts_keep():
    """Of each token in two experts of eight: gate and up, the activation, and the output that the
    routing weight multiplies; four int64 indices. Of a token eight routed logits in fp32; the two
    weights, their quotients and the sum."""
    model = small(model_type="mixtral", num_local_experts=8, num_experts_per_tok=2)
    found = phases(model, **FROZEN)["loss_forward"].activations
    experts = 2 * (BF16 * WIDTH + 3 * BF16 * INNER + 4 * 8) + FP32 * (8 + 2 + 2 + 1)
    norm = FP32 * WIDTH + FP32
    assert found == TOKENS * (LAYERS * (2 * norm + ATTENTION + experts) + norm + BF16 * WIDTH)


def test_an_expert_for_all_tokens_has_a_gate_of_its_own():
    """Its gate, activation and up of 96 features; its output and the gate's one feature."""
    common = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": INNER}
    sizes = {"shared_expert_intermediate_size": 96, "decoder_sparse_step": 1}
    mixture = small(model_type="qwen2_moe", **common, **sizes)
    found = phases(mixture, **FROZEN)["loss_forward"].activations
    experts = 2 * (BF16 * WIDTH + 3 * BF16 * INNER + 4 * 8 + BF16) + FP32 * 8
    shared = 3 * BF16 * 96 + BF16 * (WIDTH + 1)
    norm = FP32 * WIDTH + FP32
    layer = 2 * norm + ATTENTION + experts + shared
    assert found == TOKENS * (LAYERS * layer + norm + BF16 * WIDTH)
