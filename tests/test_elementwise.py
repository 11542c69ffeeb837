"""Reads and writes of a layer's stream, counted by hand for three ways of writing a layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ftadvisor.estimation.elementwise import stream_passes
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.architectures import read_model
from ftadvisor.sources.trainers import find_trainer

COMMON: dict[str, Any] = {
    "vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 512,
}  # fmt: skip
LLAMA = {**COMMON, "model_type": "llama", "intermediate_size": 160, "num_key_value_heads": 2}
GPT2 = {**COMMON, "model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 256}
QWEN3 = {**LLAMA, "model_type": "qwen3", "head_dim": 16}


def counted(
    config: dict[str, Any], trainer: str = "transformers-5", **options: Any
) -> tuple[float, float]:
    block = read_model(config, "small")[0].blocks[0]
    return stream_passes(block, Settings(technique="full", **options), find_trainer(trainer))


def test_norms_in_python_rotations_and_a_gate():
    """q is 64 wide and k 32, so one and a half of the stream; the feed-forward two and a half."""
    rotated, gated = 1.5 * 8, 2.5
    assert counted(LLAMA) == pytest.approx(
        (2 * 18 + rotated + gated * 5 + 6, 2 * 28 + rotated + gated * 9 + 6)
    )
    # Norms over queries' and keys' heads are written as the layer's.
    forward, backward = counted(QWEN3)
    assert (forward - counted(LLAMA)[0], backward - counted(LLAMA)[1]) == (1.5 * 18, 1.5 * 28)


def test_kernels_read_and_write_once():
    fused = counted(LLAMA, fused_norm=True, fused_mlp=True)
    assert fused == pytest.approx((2 * 2 + 1.5 * 8 + 2.5 * 3 + 6, 2 * 3 + 1.5 * 8 + 2.5 * 5 + 6))
    # fms-acceleration's kernels rotate too.
    turned = counted(LLAMA, "fms-hf-tuning-4.45", fused_norm=True, fused_mlp=True)
    assert (fused[0] - turned[0], fused[1] - turned[1]) == pytest.approx((1.5 * 6, 1.5 * 6))
    assert counted(LLAMA, "fms-hf-tuning-4.45") == counted(LLAMA)


def test_layer_norm_and_a_spelled_gelu():
    """Positions are learnt; four times the width goes through nine operations, or one kernel."""
    assert counted(GPT2) == pytest.approx((2 * 2 + 4 * 18 + 6, 2 * 3 + 4 * 22 + 6))
    assert counted(GPT2, "litgpt-2023") == pytest.approx((2 * 2 + 4 * 2 + 6, 2 * 3 + 4 * 3 + 6))


def test_a_mixture_counts_the_experts_that_a_token_visits():
    block = read_model(LLAMA, "small")[0].blocks[0]
    routed = replace(block, mlp=replace(block.mlp, num_experts=8, experts_per_token=2))
    given = Settings(technique="full"), find_trainer("transformers-5")
    more = stream_passes(routed, *given).forward - stream_passes(block, *given).forward
    assert more == pytest.approx(2.5 * 5)
