"""What a training loop keeps and how often it runs, by hand."""

from typing import Any

import pytest

from ftadvisor import Estimate, estimate
from ftadvisor.estimation.numerics import numerics
from ftadvisor.estimation.rates import issue_rate
from ftadvisor.estimation.sharding import sharding
from ftadvisor.estimation.states import galore_state_bytes, weight_bytes
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.gpus import find_gpu
from ftadvisor.sources.models import find_model
from ftadvisor.sources.trainers import find_trainer
from ftadvisor.units import GIB

LLAMA = "llama3.1-8b"


def ask(model: str = LLAMA, gpu: str = "h100-sxm5-80gb", **options: Any) -> Estimate:
    return estimate(model, gpu=gpu, **options)


def step_seconds(**options: Any) -> float:
    time = ask(**options).time
    assert time is not None
    return time.step_seconds


def total_seconds(**options: Any) -> float:
    time = ask(**options).time
    assert time is not None
    return time.total_seconds


def part(name: str, model: str = LLAMA, **options: Any) -> float:
    return ask(model, **options).memory.parts.get(name, 0)


def test_deepspeed_trains_half_precision_through_fp32_copies():
    params = find_model(LLAMA).spec.num_params
    for strategy, weights in (("zero1", 2), ("zero2", 2), ("zero3", 2 / 8)):
        found = ask(technique="full", num_gpus=8, strategy=strategy).memory.parts
        assert found["weights"] == pytest.approx(weights * params, rel=1e-3)
        assert found["optimizer"] == pytest.approx(12 * params / 8, rel=1e-3)


def test_fsdp_keeps_what_it_trains_in_fp32():
    found = ask(technique="full", num_gpus=8, strategy="fsdp").memory.parts
    params = find_model(LLAMA).spec.num_params
    assert found["weights"] == pytest.approx(4 * params / 8, rel=1e-3)
    assert found["optimizer"] == pytest.approx(8 * params / 8, rel=1e-3)


def test_one_sequence_alone_needs_no_mask_and_no_repeated_keys():
    """Without a mask the eight key and value heads stay eight; with one they become 32."""
    common = {"technique": "lora", "gradient_checkpointing": "none", "longest_length": 1024}
    one, two = (part("activations", micro_batch_size=n, **common) for n in (1, 2))
    repeated = 2 * (32 - 8) * 128 * 2 * 1024 * 32
    assert two - 2 * one > 2 * repeated


def test_packed_samples_are_told_apart_by_a_mask_that_flash_attention_does_not_need():
    common = {"technique": "lora", "packing": True, "micro_batch_size": 8, "max_length": 4096}
    masked = ask(gpu="b200", **common)
    flash = ask(gpu="b200", attn_implementation="flash_attention_2", **common)
    mask = (8 * 4096) ** 2
    assert masked.memory.allocated_bytes - flash.memory.allocated_bytes >= mask
    assert masked.time
    assert flash.time
    assert masked.time.step_seconds > 2 * flash.time.step_seconds
    joined = ask(gpu="b200", objective="cpt", **common)
    assert joined.memory.allocated_bytes < masked.memory.allocated_bytes


def test_all_answers_of_a_step_are_generated_together():
    """Eight micro-batches of 8 take as long as one to answer, and eight times the cache."""
    common = {"technique": "lora", "objective": "grpo", "micro_batch_size": 8}
    one, eight = (step_seconds(gradient_accumulation_steps=n, **common) for n in (1, 8))
    assert eight < 1.5 * one
    cached = 8 * 8 * 1024 * 32 * 2 * 8 * 128 * 2
    long = ask(gradient_accumulation_steps=8, mean_length=512, longest_length=512, **common).memory
    assert long.peak_phase == "generation"
    assert long.parts["activations"] > cached


def test_every_answer_to_a_prompt_counts():
    common = {"technique": "lora", "micro_batch_size": 8}
    two, eight = (total_seconds(objective="grpo", num_generations=n, **common) for n in (2, 8))
    assert eight == pytest.approx(4 * two)
    assert ask(objective="rloo", **common).settings["num_generations"] == 2


def test_second_models_run_forward_without_gradients():
    """KTO's three further forwards are one more than two of DPO's two sequences."""
    sft, kto = (
        step_seconds(technique="lora", objective=o, micro_batch_size=8) for o in ("sft", "kto")
    )
    assert 1.5 < kto / sft < 2.2
    with_reference = ask(technique="full", objective="rloo", micro_batch_size=8).memory.parts
    alone = ask(technique="full", objective="grpo", micro_batch_size=8).memory.parts
    assert with_reference["weights"] == pytest.approx(2 * alone["weights"], rel=1e-3)


def test_the_optimizer_moves_its_own_states():
    common = {"technique": "full", "gpu": "h200"}
    plain, small, none = (
        step_seconds(optim=o, **common) for o in ("adamw_torch_fused", "adamw_8bit", "sgd")
    )
    assert plain > small > none
    assert step_seconds(max_grad_norm=0.0, **common) < plain


def test_galore_by_hand():
    """GPT-2's matrices: 768 x 2304, 768 x 768, 768 x 3072 twice, in 12 layers."""
    model, rank = find_model("gpt2").spec, 128
    wide = 2304 + 768 + 3072 + 3072
    states = 12 * 2 * rank * wide
    projections = 12 * rank * 4 * 768
    matrices = 12 * 768 * (2304 + 768 + 3072 + 3072)
    rest = 2 * (model.num_params - matrices)
    expected = 2 * (states + rest) + 2 * projections
    assert galore_state_bytes(model, "galore_adamw", 2, rank) == expected


def test_int8_keeps_the_inputs_that_its_backward_needs():
    common = {"technique": "lora", "gradient_checkpointing": "none", "micro_batch_size": 2}
    wide = part("activations", gpu="b200", quantization="int8", **common)
    plain = part("activations", gpu="b200", **common)
    assert wide > plain


def test_only_reentrant_checkpoints_drop_the_inputs_of_early_four_bit_products():
    """Up to bitsandbytes 0.43.1, by hand: of q, k and v, of o, of gate and up, of down."""
    common = {"technique": "qlora", "micro_batch_size": 8, "gradient_checkpointing": "full"}
    kept, dropped = (
        part("activations", "llama2-7b", trainer=name, max_length=256, **common)
        for name in ("fsdp_qlora-2024-01", "fsdp_qlora")
    )
    assert kept - dropped == pytest.approx(8 * 256 * 32 * 2 * (3 * 4096 + 11008), rel=0.03)


def test_four_bit_weights_are_unpacked_by_multiprocessors():
    """128 SMs at 2.52 GHz against 108 at 1.41 GHz."""
    ratio = issue_rate(find_gpu("rtx4090")) / issue_rate(find_gpu("a100-sxm4-80gb"))
    assert ratio == pytest.approx(128 * 2.52 / (108 * 1.41), rel=0.01)


def test_what_is_offloaded_must_come_back():
    common = {"technique": "lora", "num_gpus": 4, "strategy": "zero3", "gpu": "rtx3090"}
    near = step_seconds(**common)
    far = step_seconds(offload_params=True, **common)
    shard = 2 * find_model(LLAMA).spec.num_params / 4
    assert far - near > shard / find_gpu("rtx3090").host_link_bytes_per_second


def test_a_quantised_base_is_gathered_as_it_is_stored():
    """On a slow link FSDP of a 4-bit base waits for a quarter of the bytes, and gains on LoRA."""
    common = {"num_gpus": 2, "strategy": "fsdp", "gpu": "rtx3090", "micro_batch_size": 1}
    common |= {"model": "llama-2-70b", "max_length": 256}
    assert step_seconds(technique="qlora", **common) < 0.9 * step_seconds(
        technique="lora", **common
    )


def test_a_window_that_the_kernel_does_not_skip_costs_everything():
    common = {"model": "mistral-7b-v0.1", "technique": "lora", "micro_batch_size": 1}
    common |= {"max_length": 32768, "longest_length": 32768, "mean_length": 32768, "gpu": "b200"}
    skipped = step_seconds(attn_implementation="flash_attention_2", **common)
    assert step_seconds(attn_implementation="sdpa", **common) > 2 * skipped


@pytest.mark.parametrize("model", ["gpt2", "qwen2-0.5b", "t5-small", "gemma-2-2b"])
@pytest.mark.parametrize("trainer", ["trl-1.16", "transformers-5", "trl-2024"])
def test_one_token_more_is_no_step_and_never_less(model: str, trainer: str):
    found = [
        estimate(model, gpu="b200", technique="lora", trainer=trainer, max_length=n)
        for n in (254, 255, 256, 257, 258, 300, 384, 512)
    ]
    sizes = [e.memory.device_bytes for e in found]
    assert sizes == sorted(sizes)
    assert sizes[4] - sizes[0] < max(0.2 * sizes[0], 0.2 * GIB)


def test_fsdp2_gathers_fp32_weights_in_half_precision():
    """Llama-3.2-1B: 16 layers of 60,821,504 parameters, 262,670,336 outside of them (config.json).
    A frozen fp32 base is cut by 4 and, under bf16 autocast, gathered as half its stored bytes.
    """
    settings = Settings(
        technique="lora", strategy="fsdp", num_gpus=4, weights_dtype="fp32", autocast="bf16"
    )
    trainer, model = find_trainer("trl-1.16"), find_model("llama-3.2-1b").spec
    n = numerics(settings, trainer, trains_base=False)
    found = sharding(model, settings, n, trainer, weight_bytes(model, settings, n, trainer))
    assert found.gathered_layer == pytest.approx(2 * 60_821_504)
    assert found.gathered_root == pytest.approx(2 * 262_670_336)
    assert found.weights == pytest.approx(4 * (16 * 60_821_504 + 262_670_336) / 4)
