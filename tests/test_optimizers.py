"""What optimizers keep and form, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from ftadvisor import estimate
from ftadvisor.configuration.adapter_config import adapter_config
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.techniques import default_target_modules

PLAIN: dict[str, Any] = {"micro_batch_size": 1, "max_length": 128, "packing": True}


def optimizer_bytes(model: str, **options: Any) -> float:
    return estimate(model, **PLAIN, **options).memory.parts.get("optimizer", 0)


@pytest.mark.parametrize(
    ("lora_r", "optim", "by_hand"),
    [
        # Rank 16: A and B of q and v have 16 x 4096 elements, too few to be paged: two fp32 states.
        (16, "paged_adamw_32bit", 32 * 4 * 16 * 4096 * 8),
        # Of 8 bits two bytes, and two fp32 scales for each 256.
        (16, "paged_adamw_8bit", 32 * 4 * 16 * 4096 * (2 + 8 / 256)),
        # Rank 64: all are paged, but for the scales of 8-bit states.
        (64, "paged_adamw_32bit", 0),
        (64, "paged_adamw_8bit", 32 * 4 * 64 * 4096 * 8 / 256),
    ],
)
def test_small_tensors_are_not_paged(lora_r: int, optim: str, by_hand: float):
    targets = ["q_proj", "v_proj"]
    found = optimizer_bytes(
        "llama-2-7b", technique="qlora", lora_r=lora_r, lora_target_modules=targets, optim=optim
    )
    assert found == pytest.approx(by_hand, rel=1e-6)


def test_a_paged_optimizer_of_a_whole_model_keeps_scales_alone():
    asked = {"technique": "full", "precision": "bf16"}
    assert optimizer_bytes("llama-3.2-1b", **asked, optim="paged_adamw_32bit") == 0
    model = estimate("llama-3.2-1b", **PLAIN, **asked)
    scales = optimizer_bytes("llama-3.2-1b", **asked, optim="paged_adamw_8bit")
    # Two for each block of 256; the embedding's states have 32 bits, and no scales.
    assert scales == pytest.approx((model.num_params - 128_256 * 2048) * 8 / 256)


@pytest.mark.parametrize(("precision", "copies"), [("bf16", 4), ("fp32", 2)])
def test_adafactor_works_on_the_largest_parameter_in_fp32(precision: str, copies: int):
    found = estimate(
        "llama-3.2-1b", **PLAIN, technique="full", precision=precision, optim="adafactor",
        gradient_checkpointing="full",
    )  # fmt: skip
    # The embedding: 128,256 x 2048. Its peak is the optimizer's step.
    assert found.memory.parts["temporaries"] == copies * 4 * 128_256 * 2048
    assert found.memory.parts.get("optimizer", 0) == 0


def test_norms_are_tuned_where_peft_knows_no_names():
    assert default_target_modules("ln_tuning", "phi3") is None
    settings = Settings(technique="ln_tuning")
    linears = ["qkv_proj", "o_proj"]
    own = ["input_layernorm", "norm"]
    for model_type, expected in (("phi3", own), ("qwen2", ["post_attention_layernorm"])):
        found = adapter_config(
            settings, model_type, encoder_decoder=False, linears=linears, norms=own
        )
        assert found.options["target_modules"] == expected
