"""FLOPs, bytes and seconds of a step, worked by hand for a small Llama.

Three layers of width 64; four heads of 16 for queries, two for keys and values; 160 features inside
the feed-forward part; 1000 words: a layer multiplies with 64 x 64 weights for q and for o, 64 x 32
for k and for v, 64 x 160 for gate, up and down. Two rows of 96 tokens.

For seconds the GPU is made up: rates are round, one kind of work is slow and no other takes time.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from ftadvisor.estimation.objectives import objective_cost
from ftadvisor.estimation.rates import Rates, rates
from ftadvisor.estimation.terms import NO_ADAPTER, AdapterBytes
from ftadvisor.estimation.time import RunTime, StepTime, run_time, step_time_at
from ftadvisor.estimation.work import Work, micro_batch_work
from ftadvisor.schema.coefficients import Interval, TimeCoefficients
from ftadvisor.schema.model import LayerKernels, ModelSpec
from ftadvisor.schema.settings import AttnImplementation, Settings
from ftadvisor.schema.workload import Workload
from ftadvisor.sources.architectures import read_model
from ftadvisor.sources.coefficients import time_coefficients
from ftadvisor.sources.gpus import find_gpu
from ftadvisor.sources.trainers import find_trainer

LAYERS, WIDTH, INNER, VOCAB, HEADS, HEAD = 3, 64, 160, 1000, 4, 16
LAYER_WEIGHTS = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160
PARAMS = 3 * (LAYER_WEIGHTS + 2 * 64) + 2 * 1000 * 64 + 64
ROWS, LENGTH = 2, 96
TOKENS = ROWS * LENGTH
BF16, FP32 = 2, 4
LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 2,
    "head_dim": HEAD, "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip
KERNELS = LayerKernels(trained=(10, 20), mixed=(15, 25), frozen=(8, 12))
SMALL = replace(read_model(LLAMA, "small")[0], kernels=KERNELS)

PRODUCT = 2 * LAYERS * LAYER_WEIGHTS * TOKENS
"""One pass of all tokens through all layers' matrices: a multiplication and an addition each."""
HEAD_PRODUCT = 2 * VOCAB * WIDTH * TOKENS
# A query meets 48 of 96 keys on average: 16 features each for its score and for the sum of values.
CAUSAL = LAYERS * TOKENS * HEADS * (LENGTH / 2) * 2 * (HEAD + HEAD)
FORWARD = 2 * 18 + 1.5 * 8 + 2.5 * 5 + 6
"""Reads and writes of the stream: two norms in Python, q (64 wide) and k (32) rotated, 160 features
gated, two sums. Backward the same operations' own."""
BACKWARD = 2 * 28 + 1.5 * 8 + 2.5 * 9 + 6


def work(
    model: ModelSpec = SMALL,
    *,
    trained: bool = True,
    kernel: AttnImplementation = "sdpa",
    one_row: bool = False,
    **options: Any,
) -> Work:
    given: dict[str, Any] = {"micro_batch_size": ROWS, **options}
    settings = Settings(technique="full" if trained else "lora", **given)
    cost = objective_cost(settings, trains_base=trained)
    trainer = find_trainer("transformers-5")
    return micro_batch_work(
        model, settings, cost, LENGTH, kernel, trainer, trained=trained, one_row=one_row
    )


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("checkpointing", "again"), [("none", 0), ("full", 1), ("selective", 0.5)])
def test_passes_through_the_layers(checkpointing: str, again: float, *, trained: bool):
    """Forward, the gradient that is passed on, that of the weights; forward once more under
    checkpoints, or half of it. Nothing of the head is run again."""
    passes = 2 + trained
    found = work(trained=trained, gradient_checkpointing=checkpointing)
    assert found.linear_flops == pytest.approx((passes + again) * PRODUCT + passes * HEAD_PRODUCT)
    # Backward: scores again, and gradients of values, probabilities, queries and keys.
    assert found.attention_flops == pytest.approx(CAUSAL * (1 + again + 5 / 2))
    assert found.model_flops == pytest.approx(
        passes * (PRODUCT + HEAD_PRODUCT) + CAUSAL * (1 + 5 / 2)
    )
    assert found.layer_passes == LAYERS * (2 + again)
    moved = BF16 * LAYERS * WIDTH * TOKENS * (FORWARD * (1 + again) + BACKWARD)
    assert found.elementwise_bytes == pytest.approx(moved)
    # All of them are of a stream of one width.
    assert found.narrow_flops == pytest.approx(found.linear_flops / WIDTH)
    # Log-softmax reads and writes, the loss reads, and the gradients of both.
    assert found.logit_bytes == FP32 * VOCAB * TOKENS * 6
    forward, backward = (10, 20) if trained else (8, 12)
    assert found.kernels == LAYERS * (forward * (1 + again) + backward)


def test_kernels_that_cast_weights():
    found = work(weights_dtype="fp32", autocast="bf16")
    assert found.kernels == LAYERS * (15 + 25)


# The passes of each row that is trained: without gradients, by whom.
FORWARDS = {
    "sft": "", "orpo": "", "reward": "", "dpo": "reference", "distillation": "teacher",
    "kto": "policy-mismatched reference reference-mismatched",
    "ppo": "reference reward value",
}  # fmt: skip


@pytest.mark.parametrize("objective", FORWARDS)
def test_passes_of_an_objective(objective: str):
    """Chosen and rejected are two rows; a reward model puts out one score, not the vocabulary."""
    rows = 2 if objective in ("dpo", "orpo", "reward") else 1
    forwards = len(FORWARDS[objective].split())
    head = 0 if objective == "reward" else HEAD_PRODUCT
    found = work(objective=objective, max_completion_length=LENGTH)
    assert found.linear_flops == rows * (3 + forwards) * (PRODUCT + head)
    # Answers end where they end: padded, and so not skipped.
    keys = 2 if objective in ("distillation", "ppo") else 1
    assert found.attention_flops == pytest.approx(rows * keys * CAUSAL * (3.5 + forwards))
    logits = 0 if objective == "reward" else FP32 * VOCAB * TOKENS
    assert found.logit_bytes == rows * logits * (6 + forwards)
    assert found.layer_passes == LAYERS * (2 + forwards)
    assert found.kernels == LAYERS * (10 * (1 + forwards) + 20)
    assert found.model_flops == pytest.approx(rows * (3 * (PRODUCT + head) + 3.5 * CAUSAL))


@pytest.mark.parametrize(
    ("objective", "reference", "forwards"),
    [("grpo", False, 0), ("grpo", True, 1), ("rloo", False, 1), ("rloo", True, 2)],
)
def test_a_policy_is_read_by_its_reference_and_rloo_s_by_its_own_past(
    objective: str, forwards: int, *, reference: bool
):
    for trained in (False, True):
        found = work(
            objective=objective, reference_model=reference, trained=trained,
            max_completion_length=LENGTH,
        )  # fmt: skip
        passes = 2 + trained + forwards
        assert found.linear_flops == passes * (PRODUCT + HEAD_PRODUCT)


def test_a_head_in_tiles_is_multiplied_once_more():
    assert work(loss_kernel="chunked").linear_flops == 3 * PRODUCT + 4 * HEAD_PRODUCT
    # Liger forms the gradients where it has the logits.
    assert work(loss_kernel="fused_linear").linear_flops == 3 * PRODUCT + 3 * HEAD_PRODUCT
    # Not where the loss needs whole logits.
    pairs = work(loss_kernel="chunked", objective="orpo").linear_flops
    assert pairs == 2 * 3 * (PRODUCT + HEAD_PRODUCT)


@pytest.mark.parametrize("objective", ["grpo", "distillation"])
def test_of_an_answer_alone_the_logits_are_made(objective: str):
    """Of 96 tokens the last 32; a teacher makes its own."""
    answered: dict[str, Any] = {"max_completion_length": 32, "objective": objective}
    found = work(**answered)
    forwards = 1 if objective == "distillation" else 0
    assert found.linear_flops == (3 + forwards) * (PRODUCT + HEAD_PRODUCT / 3)
    assert found.logit_bytes == FP32 * VOCAB * TOKENS / 3 * (6 + forwards)


def test_keys_that_are_multiplied():
    """SDPA skips the later half where no mask is passed; eager attention and padded rows do not. In
    one row all queries of the batch meet all its keys."""
    assert work(kernel="flash_attention_2").attention_flops == pytest.approx(3.5 * CAUSAL)
    padded = work(typical_length=LENGTH)
    assert padded.attention_flops == pytest.approx(3.5 * 2 * CAUSAL)
    eager = work(kernel="eager")
    assert eager.attention_flops == pytest.approx(3.5 * 2 * CAUSAL)
    assert work(one_row=True).attention_flops == pytest.approx(3.5 * 2 * CAUSAL * ROWS)
    for found in (padded, eager):
        assert found.model_flops == pytest.approx(3 * (PRODUCT + HEAD_PRODUCT) + 3.5 * CAUSAL)
    # Scores in bf16, of forward once and in either of the passes that follow.
    assert eager.score_bytes == BF16 * LAYERS * TOKENS * HEADS * LENGTH * 3
    assert padded.score_bytes == 0


def test_keys_within_a_window():
    """Of 24: the first 24 queries meet 12 on average, the other 72 all 24."""
    model = read_model(LLAMA | {"model_type": "mistral", "sliding_window": 24}, "small")[0]
    found = work(model, kernel="flash_attention_2").attention_flops
    seen = (24 * 12 + 72 * 24) / 96
    assert found == pytest.approx(3.5 * CAUSAL * seen / 48)
    # SDPA is handed a mask and multiplies all of them.
    assert work(model).attention_flops == pytest.approx(3.5 * CAUSAL * 2)


def test_four_bit_weights_are_unpacked_in_every_pass():
    found = work(trained=False, quantization="nf4", gradient_checkpointing="full")
    assert found.dequantized_weights == 3 * LAYERS * LAYER_WEIGHTS
    assert work(trained=False).dequantized_weights == 0


def test_an_encoder_reads_the_source_and_a_decoder_the_target():
    """Per layer q, k, v and o of 64 x 64, two matrices of 64 x 160; a decoder's four once more."""
    model = read_model(
        {
            "model_type": "t5", "vocab_size": VOCAB, "d_model": WIDTH, "d_kv": HEAD, "d_ff": INNER,
            "num_layers": LAYERS, "num_decoder_layers": LAYERS, "num_heads": HEADS,
            "tie_word_embeddings": True,
        },
        "small",
    )[0]  # fmt: skip
    target = 8
    found = work(model, objective="seq2seq", max_target_length=target).linear_flops
    encoder = 2 * LAYERS * (4 * 64 * 64 + 2 * 64 * 160) * ROWS * LENGTH
    decoder = 2 * LAYERS * (8 * 64 * 64 + 2 * 64 * 160) * ROWS * target
    head = 2 * VOCAB * WIDTH * ROWS * target
    assert found == 3 * (encoder + decoder + head)


# ---- Seconds ----

FREE = Rates(
    peak=inf, linear_peak=1e9, efficiency=0.5, bandwidth=inf, cache=0.0, issue=inf, link=inf,
    network=inf, host=inf, host_slowness=1.0,
)  # fmt: skip
NOTHING = FREE._replace(linear_peak=1e30)
"""All rates without end (a matrix rate that is infinite has no tokens to half of it)."""
PLAIN: TimeCoefficients = replace(
    time_coefficients(),
    half_tokens_per_teraflops=0.0,
    half_width=0.0,
    attention_share={"default": 0.25},
    elementwise_passes=0.8,
    score_passes=8.0,
    dequantized_per_cycle={"default": 0.5, "nf4": 0.8},
    launch_seconds={"default": 0.0},
    adapter_passes=1.5,
    matrix_passes=0.5,
    kernel_seconds=0.0,
    gather_seconds=0.0,
    step_seconds=0.0,
    exposed=0.5,
)
EXACT = Interval(0.8, 1.5, 100)


def step(
    r: Rates,
    c: TimeCoefficients = PLAIN,
    adapter: AdapterBytes | None = None,
    trainer: str = "transformers-5",
    **options: Any,
) -> StepTime:
    given: dict[str, Any] = {
        "micro_batch_size": ROWS,
        "mean_length": LENGTH,
        "max_grad_norm": 0.0,
        **options,
    }
    settings = Settings(technique="full" if adapter is None else "lora", **given)
    return step_time_at(SMALL, settings, find_trainer(trainer), adapter, r, c, EXACT)


def seconds(*args: Any, **options: Any) -> float:
    return step(*args, **options).step_seconds


def test_matrices_run_at_their_share_of_the_rate():
    expected = 3 * (PRODUCT + HEAD_PRODUCT) / (1e9 * 0.5)
    found = step(FREE)
    assert found.micro_step_seconds == found.step_seconds == pytest.approx(expected)
    assert found.micro_step_low_seconds == pytest.approx(0.8 * expected)
    assert found.micro_step_high_seconds == pytest.approx(1.5 * expected)
    assert seconds(FREE, gradient_accumulation_steps=3) == pytest.approx(3 * expected)
    # Two tokens for each TFLOP/s, of 48: half of 192 tokens' rate less than all of it.
    slow = replace(PLAIN, half_tokens_per_teraflops=2.0)
    fast = FREE._replace(linear_peak=48e12)
    found = seconds(fast, slow)
    assert found == pytest.approx(
        3 * (PRODUCT + HEAD_PRODUCT) / (48e12 * 0.5 * TOKENS / (TOKENS + 96))
    )
    # A stream of 64 features, where 192 have half of the rate: a quarter of it.
    narrow = replace(PLAIN, half_width=192.0)
    assert seconds(FREE, narrow) == pytest.approx(4 * expected)


def test_attention_runs_at_a_share_of_that():
    found = seconds(NOTHING._replace(peak=1e9))
    assert found == pytest.approx(3.5 * CAUSAL / (1e9 * 0.5 * 0.25))
    # Hopper's products are issued in a way that fused attention was not written for.
    older = NOTHING._replace(peak=1e9, fused_attention=0.5)
    assert seconds(older) == pytest.approx(2 * found)
    eager = {"adapter": NO_ADAPTER, "attn_implementation": "eager"}
    assert seconds(older, **eager) == seconds(NOTHING._replace(peak=1e9), **eager)


def test_bytes_move_at_the_memory_s_rate():
    r = NOTHING._replace(bandwidth=1e9)
    stream = 0.8 * BF16 * LAYERS * WIDTH * TOKENS * (FORWARD + BACKWARD)
    logits = FP32 * VOCAB * TOKENS * 6
    adapter = NO_ADAPTER
    assert seconds(r, adapter=adapter) == pytest.approx((stream + logits) / 1e9)
    eager = seconds(r, adapter=adapter, attn_implementation="eager") - seconds(r, adapter=adapter)
    assert eager == pytest.approx(8 * BF16 * LAYERS * TOKENS * HEADS * LENGTH * 3 / 1e9)


def test_what_an_optimizer_moves():
    """Weights and two states are read and written, gradients read; a norm to be clipped reads the
    gradients, and clipping reads and writes them."""
    idle = replace(PLAIN, elementwise_passes=0.0)
    r = NOTHING._replace(bandwidth=1e9, host=1e6)
    logits = seconds(r, idle, NO_ADAPTER)

    def moved(adapter: AdapterBytes | None = None, **options: Any) -> float:
        steps = options.get("gradient_accumulation_steps", 1)
        return seconds(r, idle, adapter, **options) - steps * logits

    adamw = PARAMS * BF16 * (2 + 2 * 2 + 1)
    assert moved() == pytest.approx(adamw / 1e9)
    assert moved(optim="sgd") == pytest.approx(PARAMS * BF16 * 3 / 1e9)
    clipped = adamw + PARAMS * BF16 * 3
    assert moved(max_grad_norm=1.0) == pytest.approx(clipped / 1e9)
    assert moved(offload_optimizer=True) == pytest.approx(adamw / 1e6)
    adapter = NO_ADAPTER._replace(num_trainable_params=1000)
    assert moved(adapter) == pytest.approx(1000 * FP32 * 7 / 1e9)
    assert moved(gradient_accumulation_steps=4) == pytest.approx(adamw / 1e9)
    assert moved(strategy="fsdp", num_gpus=4) == pytest.approx(adamw / 4 / 1e9)


def test_four_bit_weights_take_cycles():
    """0.8 weights of a multiprocessor's cycle: forward and backward unpack each once."""
    adapter = NO_ADAPTER._replace(num_trainable_params=1)
    found = seconds(NOTHING._replace(issue=1e6), adapter=adapter, quantization="nf4")
    assert found == pytest.approx(2 * LAYERS * LAYER_WEIGHTS / (0.8 * 1e6))


def test_the_host_launches_kernel_after_kernel():
    c = replace(PLAIN, launch_seconds={"default": 1e-5}, step_seconds=0.01)
    assert seconds(NOTHING, c) == pytest.approx(0.01 + 1e-5 * LAYERS * 30)
    slow = NOTHING._replace(host_slowness=3.0)
    assert seconds(slow, c) == pytest.approx(3 * (0.01 + 1e-5 * LAYERS * 30))
    # Half of an adapter's kernels are a forward's: with checkpoints there are three passes.
    adapter = NO_ADAPTER._replace(num_trainable_params=1, kernels=100)
    found = seconds(NOTHING, c, adapter, gradient_checkpointing="full")
    assert found == pytest.approx(0.01 + 1e-5 * (LAYERS * (8 * 2 + 12) + 150))
    # Each layer's shards are gathered for forward and backward, and its gradients scattered.
    c = replace(PLAIN, gather_seconds=0.01)
    assert seconds(NOTHING, c, strategy="fsdp", num_gpus=4) == pytest.approx(0.01 * LAYERS * 3)
    assert seconds(slow, c, NO_ADAPTER, strategy="fsdp", num_gpus=4) == pytest.approx(
        3 * 0.01 * LAYERS * 2
    )
    for other in ("ddp", "zero3"):
        assert seconds(NOTHING, c, strategy=other, num_gpus=4) == pytest.approx(0, abs=1e-9)
    least = replace(PLAIN, kernel_seconds=1e-4)
    assert seconds(NOTHING, least, adapter, gradient_checkpointing="full") == pytest.approx(0.015)


def test_gpu_and_host_overlap_but_where_the_host_waits():
    """Fourth powers add: equal times take 2 to the quarter of one. litgpt's LoRA waits."""
    computed = seconds(FREE, adapter=NO_ADAPTER)
    c = replace(PLAIN, step_seconds=computed, overlap_power=4.0)
    assert seconds(FREE, c, NO_ADAPTER) == pytest.approx(computed * 2**0.25)
    assert seconds(FREE, c, NO_ADAPTER, "litgpt-2023") == pytest.approx(2 * computed)


def test_what_an_adapter_moves():
    adapter = NO_ADAPTER._replace(
        num_trainable_params=0, moved_tensors=100, tensor_per_token=32, moved_bytes=7000
    )
    found = seconds(NOTHING._replace(bandwidth=1e9), adapter=adapter)
    base = seconds(NOTHING._replace(bandwidth=1e9), adapter=NO_ADAPTER)
    assert found - base == pytest.approx((1.5 * 100 * 32 * TOKENS + 0.5 * 7000) / 1e9)


def test_virtual_tokens_are_tokens():
    prompt = NO_ADAPTER._replace(virtual_tokens=4)
    found = seconds(FREE, adapter=prompt) / seconds(FREE, adapter=NO_ADAPTER)
    assert found == pytest.approx(100 / 96)


@pytest.mark.parametrize(
    ("strategy", "times"),
    [
        # Weights are gathered for forward and for backward, gradients scattered.
        ("fsdp", 3),
        ("zero3", 3),
        # A reduction is a scatter and a gather.
        ("ddp", 2),
        ("zero2", 2),
    ],
)
def test_what_several_gpus_exchange(strategy: str, times: int):
    """Each holds a fourth of it already; nine stand in two machines."""
    common: dict[str, Any] = {"strategy": strategy, "optim": "sgd"}
    r = NOTHING._replace(link=1e9, network=1e6)
    found = seconds(r, num_gpus=4, **common)
    assert found == pytest.approx(times * BF16 * PARAMS * 3 / 4 / 1e9)
    found = seconds(r, num_gpus=9, **common)
    assert found == pytest.approx(times * BF16 * PARAMS * 8 / 9 / 1e6)
    twice = seconds(r, num_gpus=4, **common, gradient_accumulation_steps=2)
    gathers = strategy in ("fsdp", "zero3")
    assert twice == pytest.approx((2 if gathers else 1) * times * BF16 * PARAMS * 3 / 4 / 1e9)


def test_what_is_exchanged_for_a_frozen_base():
    r = NOTHING._replace(link=1e9)
    common: dict[str, Any] = {"num_gpus": 4, "adapter": NO_ADAPTER}
    assert seconds(r, strategy="ddp", **common) == pytest.approx(0, abs=1e-12)
    assert seconds(r, strategy="fsdp", **common) == pytest.approx(2 * BF16 * PARAMS * 0.75 / 1e9)
    layers = LAYERS * (LAYER_WEIGHTS * (0.5 + 4 / 64) + 2 * WIDTH * BF16)
    stored = layers + BF16 * (2 * VOCAB * WIDTH + WIDTH)
    found = seconds(r, strategy="fsdp", quantization="nf4", **common)
    assert found == pytest.approx(2 * stored * 0.75 / 1e9)
    # A fourth of all comes from the CPU's memory to each GPU, as often.
    found = seconds(NOTHING._replace(host=1e9), strategy="zero3", offload_params=True, **common)
    assert found == pytest.approx(2 * BF16 * PARAMS / 4 / 1e9)


@pytest.mark.parametrize("trained", [False, True])
def test_a_reference_is_gathered_for_its_forward(*, trained: bool):
    """KTO's is read twice, and the policy without gradients once: three gathers more."""
    adapter = None if trained else NO_ADAPTER
    for objective, more in (("dpo", 1), ("kto", 3)):
        found = seconds(
            NOTHING._replace(link=1e9), adapter=adapter, objective=objective, strategy="fsdp",
            num_gpus=4,
        )  # fmt: skip
        assert found == pytest.approx((2 + trained + more) * BF16 * PARAMS * 0.75 / 1e9)


def test_a_share_of_the_shorter_is_exposed():
    computed = seconds(FREE)
    r = FREE._replace(link=BF16 * PARAMS * 2 * 0.75 / computed / 0.4)
    found = seconds(r, strategy="ddp", num_gpus=4)
    assert found == pytest.approx(computed + 0.5 * 0.4 * computed)


ANSWER = 32
GENERATING: dict[str, Any] = {
    "objective": "grpo", "mean_length": LENGTH - ANSWER, "max_completion_length": ANSWER,
}  # fmt: skip


def test_each_token_reads_the_weights_and_the_cache():
    """Of 64 tokens of a prompt and half of the 32 of an answer, two rows: k and v of three
    layers."""
    idle = replace(PLAIN, elementwise_passes=0.0)
    logits = ROWS * ANSWER * FP32 * VOCAB * 6
    cached = ROWS * (LENGTH - ANSWER / 2) * LAYERS * 2 * 32 * BF16

    def moved(**options: Any) -> float:
        steps = options.get("gradient_accumulation_steps", 1)
        found = seconds(NOTHING._replace(bandwidth=1e9), idle, NO_ADAPTER, **GENERATING, **options)
        return found * 1e9 - steps * logits

    assert moved() == pytest.approx(ANSWER * (BF16 * PARAMS + cached))
    # All micro-batches of a step are answered together.
    three = moved(gradient_accumulation_steps=3)
    assert three == pytest.approx(ANSWER * (BF16 * PARAMS + 3 * cached))
    # fp32 weights are read, and their halves written and read; keys are fp32.
    wide = FP32 * PARAMS + 2 * BF16 * LAYERS * LAYER_WEIGHTS + 2 * cached
    found = moved(weights_dtype="fp32", autocast="bf16")
    assert found == pytest.approx(ANSWER * wide)


def test_each_token_is_multiplied_or_launched():
    """By all matrices and the head, for as many rows as a step answers; the prompts once before."""
    adapter = NO_ADAPTER._replace(kernels=100)
    launched = replace(PLAIN, launch_seconds={"default": 1e-5}, step_seconds=0.001)
    found = seconds(NOTHING, launched, adapter, **GENERATING) - seconds(NOTHING, launched, adapter)
    assert found == pytest.approx(ANSWER * (0.001 + 1e-5 * (LAYERS * 8 + 50)))
    slow = NOTHING._replace(peak=1e9)
    trained = 3 * 2 * 3.5 * CAUSAL / (1e9 * 0.5 * 0.25)
    found = seconds(slow, PLAIN, adapter, **GENERATING, gradient_accumulation_steps=3) - trained
    decoded = ANSWER * 2 * (LAYERS * LAYER_WEIGHTS + VOCAB * WIDTH) * 3 * ROWS
    read = 2 * LAYERS * LAYER_WEIGHTS * 3 * ROWS * (LENGTH - ANSWER)
    assert found == pytest.approx((decoded + read) / (1e9 * 0.5))


# ---- A whole run ----

WORKLOAD = Workload(name="rows", num_examples=2400, mean_tokens=100, num_train_epochs=2)


def run(workload: Workload = WORKLOAD, **options: Any) -> RunTime:
    """Of steps of 4 s, two micro-batches of 4 rows on each of 3 GPUs of 300 W."""
    batch = {"micro_batch_size": 4, "gradient_accumulation_steps": 2, "num_gpus": 3}
    given: dict[str, Any] = {**batch, "mean_length": 100.0, **options}
    settings = Settings(technique="full", **given)
    taken = StepTime(2.0, 1.6, 3.0, 4.0, 7e9, 1e12)
    return run_time(taken, settings, workload, 300.0)


def test_a_run_is_its_steps():
    """4,800 rows, 24 to a step."""
    found = run()
    assert found.total_seconds == pytest.approx(200 * 4)
    assert found.total_low_seconds == pytest.approx(200 * 4 * 0.8)
    assert found.total_high_seconds == pytest.approx(200 * 4 * 1.5)
    assert found.tokens_per_second == pytest.approx(24 * 100 / 4)
    # Two micro-batches of 7 GFLOPs in 4 s on a GPU of 1 TFLOP/s; three of them at 300 W.
    assert found.mfu == pytest.approx(2 * 7e9 / 4 / 1e12)
    assert found.energy_kwh == pytest.approx(900 * 800 / 3.6e6)


def test_a_token_count_s_own_error_adds_as_a_square():
    found = run(replace(WORKLOAD, token_error=0.15))
    assert found.total_low_seconds == pytest.approx(800 * (1 - (0.2**2 + 0.15**2) ** 0.5))
    assert found.total_high_seconds == pytest.approx(800 * (1 + (0.5**2 + 0.15**2) ** 0.5))


def test_packed_rows_are_full():
    found = run(packing=True, max_length=400)
    assert found.total_seconds == pytest.approx(50 * 4)
    assert found.tokens_per_second == pytest.approx(24 * 400 / 4)


def test_every_answer_to_a_prompt_is_a_row():
    found = run(objective="grpo", num_generations=8, max_completion_length=60)
    assert found.total_seconds == pytest.approx(8 * 200 * 4)
    assert found.tokens_per_second == pytest.approx(24 * 160 / 4)
    assert run(objective="distillation").total_seconds == pytest.approx(200 * 4)


# ---- Rates ----


def test_what_of_a_datasheet_is_used():
    """An H100's NVLink: 900 GB/s both ways, so 450 in one."""
    h100, c = find_gpu("h100-sxm5-80gb"), time_coefficients()
    plain, in_tf32 = find_trainer("transformers-5"), find_trainer("flagperf")
    settings = Settings(technique="full", autocast="bf16")
    found = rates(h100, settings, plain, c)
    assert (found.peak, found.linear_peak) == (989.4e12, 989.4e12)
    eighth = rates(h100, replace(settings, fp8=True), plain, c)
    assert (eighth.peak, eighth.linear_peak) == (989.4e12, 1978.9e12)
    wide = Settings(technique="full", weights_dtype="fp32")
    assert rates(h100, wide, plain, c).peak == pytest.approx(66.9e12)
    assert rates(h100, wide, in_tf32, c).peak == pytest.approx(494.7e12)
    assert found.link == pytest.approx(450e9 * c.link_share["nvlink"])
    assert found.network == pytest.approx(450e9 * c.link_share["between-machines"])
    assert found.bandwidth == pytest.approx(3350e9 * c.bandwidth_share)
    assert found.host == pytest.approx(63e9 * c.link_share["default"])
    assert found.fused_attention == 0.629
    assert rates(find_gpu("a100-sxm4-80gb"), settings, plain, c).fused_attention == 1
