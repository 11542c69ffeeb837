"""What is kept of weights and inputs besides activations: copies that autocast, gather and LLM.int8
leave behind, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from ftadvisor.estimation.adapters import adapter_bytes
from ftadvisor.estimation.attention import disentangled_saved
from ftadvisor.estimation.memory import step_phases
from ftadvisor.estimation.numerics import numerics
from ftadvisor.estimation.stack import matrix_inputs
from ftadvisor.estimation.terms import terms
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.architectures import read_model
from ftadvisor.sources.models import find_model
from ftadvisor.sources.trainers import find_trainer

LAYER = 60_817_408
"""Matrix elements of a layer of Llama-3.2-1B: 2048 x (2048 + 512 + 512 + 2048 + 3 x 8192)."""
TRAINER = find_trainer("trl-1.16")


def llama() -> ModelSpec:
    return find_model("llama-3.2-1b").spec


def saved(model: ModelSpec, **options: Any) -> tuple[float, float]:
    settings = Settings(
        lora_r=8, lora_target_modules=("q_proj",), **{"technique": "lora", **options}
    )
    n = numerics(settings, TRAINER, trains_base=False)
    a = adapter_bytes(model, settings, n, TRAINER, 1024)
    return float(a.saved_bytes), float(a.saved_bytes_per_layer)


@pytest.mark.parametrize("technique", ["lora", "ia3", "ln_tuning"])
def test_autocast_keeps_a_half_copy_of_each_frozen_fp32_matrix(technique: str):
    asked = {"technique": technique, "weights_dtype": "fp32"}
    plain, widest = saved(llama(), **asked, autocast="none")
    cast, widest_cast = saved(llama(), **asked, autocast="bf16")
    assert cast - plain == pytest.approx(16 * 2 * LAYER, rel=1e-3)
    assert widest_cast - widest == pytest.approx(2 * LAYER, rel=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"weights_dtype": "bf16", "autocast": "bf16"},
        {"weights_dtype": "fp32", "autocast": "bf16", "strategy": "fsdp", "num_gpus": 2},
        {"weights_dtype": "fp32", "autocast": "bf16", "technique": "qlora", "quantization": "nf4"},
    ],
)
def test_nothing_is_cast_that_is_half_sharded_or_quantised(options: dict[str, Any]):
    assert saved(llama(), **options)[0] < 2 * LAYER


def test_a_tower_that_sees_no_image_keeps_nothing():
    model = find_model("qwen2-vl-2b").spec
    asked = {"weights_dtype": "fp32", "autocast": "bf16"}
    blind, seeing = (saved(model, **asked, num_images=images)[0] for images in (0, 1))
    assert seeing - blind == pytest.approx(2 * model.num_image_weights, rel=0.01)
    asked = {"technique": "lokr", "weights_dtype": "bf16"}
    targets = {"lora_r": 8, "lora_target_modules": ("qkv", "q_proj")}
    sizes: list[float] = []
    for images in (0, 1):
        settings = Settings(**asked, **targets, num_images=images)
        n = numerics(settings, TRAINER, trains_base=False)
        sizes.append(float(adapter_bytes(model, settings, n, TRAINER, 1024).saved_bytes))
    assert sizes[1] > sizes[0]


def test_a_quantised_base_beside_fp32_weights_puts_out_fp32():
    asked = {"technique": "qlora", "quantization": "nf4", "autocast": "bf16", "prepare_kbit": False}
    wide, half = (
        numerics(Settings(**asked, weights_dtype=d), TRAINER, trains_base=False)  # pyright: ignore
        for d in ("fp32", "bf16")
    )
    assert (wide.compute, wide.residual, wide.attention) == (4, 4, 2)
    assert half.compute == 2


def test_int8_keeps_inputs_as_they_came():
    settings = Settings(
        technique="lora", quantization="int8", weights_dtype="fp32", autocast="bf16",
        micro_batch_size=2, longest_length=128, max_length=128, lora_target_modules=("q_proj",),
        gradient_checkpointing="full",
    )  # fmt: skip
    n = numerics(settings, TRAINER, trains_base=False)
    a = adapter_bytes(llama(), settings, n, TRAINER, 256)
    t = terms(llama(), settings, TRAINER, a)
    # Of 256 tokens in 16 layers: fp32 for q, k and v and for gate and up, the products, and half
    # for what attention puts out.
    by_hand = 256 * 16 * (4 * (2 * 2048 + 8192) + 2 * 2048)
    assert matrix_inputs(t, t.n.compute, t.n.attention) == by_hand


def test_deberta_keeps_the_scores_of_all_positions():
    model = find_model("deberta-v3-base").spec
    (block,) = model.blocks
    # Two kinds of 2 x 256 positions for each of 12 heads, copies of their keys and queries (768
    # wide) for each sequence of 256 tokens, and the scaled keys.
    assert block.attention.scored_positions == 1024
    settings = Settings(technique="full", weights_dtype="bf16")
    n = numerics(settings, TRAINER, trains_base=True)
    by_hand = 2 * (1024 * 12 + 1024 * 768 / 256 + 768)
    assert disentangled_saved(block, n, 256) == pytest.approx(by_hand)
    frozen = numerics(settings, TRAINER, trains_base=False)
    assert disentangled_saved(block, frozen, 256) == pytest.approx(by_hand + 2 * 768)
    assert find_model("bert-base-uncased").spec.blocks[0].attention.scored_positions == 0


def test_an_encoder_decoders_table_is_added_up_in_the_middle():
    t5 = {
        "model_type": "t5", "vocab_size": 1000, "d_model": 64, "d_ff": 128, "d_kv": 16,
        "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0,
    }  # fmt: skip
    settings = Settings(
        technique="full", objective="seq2seq", weights_dtype="bf16", longest_length=64,
        max_length=64, max_target_length=32,
    )  # fmt: skip
    table = 2 * 1000 * 64
    tied, apart = (
        step_phases(
            read_model({**t5, "tie_word_embeddings": tie}, "t5")[0],
            settings, find_trainer("transformers-5"), None, "8.0",
        )
        for tie in (True, False)
    )  # fmt: skip
    # The head's gradient and the decoder's, and their sum; the encoder's layers are kept still.
    middle = tied["embeddings_join"]
    assert middle.temporaries == 3 * table
    assert middle.activations > 0
    # With a head of its own, the encoder's is added to the decoder's at the end.
    assert "embeddings_join" not in apart
    assert apart["end_of_backward"].temporaries == table


def test_deberta_keeps_where_each_key_lies():
    model = find_model("deberta-v3-base").spec
    settings = Settings(
        technique="full", objective="seq_cls", weights_dtype="bf16", micro_batch_size=4,
        longest_length=256, max_length=256,
    )  # fmt: skip
    (layer,) = terms(model, settings, TRAINER, None).layers
    # For each head the softmax, what dropout left of it and its mask; two int64 for all heads of
    # the four sequences.
    assert layer.activations.saved_per_key == 12 * (2 + 2 + 1) + 2 * 8 / 4
