"""What is alive at one moment and gone at the next, worked by hand for a small Llama."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_phases import BF16, FP32, OUTSIDE, VOCAB, WIDTH, phases, small

from ftadvisor import estimate
from ftadvisor.estimation.adapters import adapter_bytes
from ftadvisor.estimation.numerics import numerics
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.lengths import batch_lengths
from ftadvisor.sources.models import find_model
from ftadvisor.sources.trainers import find_trainer

TABLE = BF16 * VOCAB * WIDTH
NORMS = 3 * 2 * WIDTH


@pytest.mark.parametrize(
    ("tied", "steps", "tables"), [(True, 1, 1), (False, 1, 0), (True, 2, 2), (False, 2, 1)]
)
def test_a_micro_batch_s_embedding_gradients_beside_what_has_accumulated(
    tied: bool, steps: int, tables: int
):
    """A tied head's waits for the embedding's own, and both for their sum."""
    model = small(tie_word_embeddings=tied)
    found = phases(model, gradient_accumulation_steps=steps)
    assert found["end_of_backward"].temporaries == tables * TABLE


@pytest.mark.parametrize(("tied", "tables"), [(True, 1), (False, 0)])
def test_a_tied_head_s_gradient_waits_through_all_layers(tied: bool, tables: int):
    model = small(tie_word_embeddings=tied)
    one, two = (
        phases(model, gradient_accumulation_steps=steps)["last_layer_backward"].temporaries
        for steps in (1, 2)
    )
    assert two - one == tables * TABLE


def test_preparing_a_quantised_base_makes_fp32_of_all_that_is_not_quantised():
    """peft.prepare_model_for_kbit_training: embeddings, head and norms; TRL does not."""
    asked: dict[str, Any] = {"technique": "qlora", "quantization": "nf4", "adapter_dtype": "bf16"}
    plain, prepared = (
        phases(**asked, prepare_kbit=prepares)["optimizer_step"].weights
        for prepares in (False, True)
    )
    assert prepared - plain == (FP32 - BF16) * (OUTSIDE + NORMS)


def test_weights_quantised_from_fp32_are_unpacked_to_fp32_and_cast():
    """bitsandbytes' MatMul4Bit.backward: dequantize_4bit(B, state).to(grad_output.dtype)."""
    asked: dict[str, Any] = {"technique": "qlora", "quantization": "nf4", "longest_length": 8}
    wide = phases(**asked, weights_dtype="fp32", autocast="bf16")["last_layer_backward"]
    half = phases(**asked)["last_layer_backward"]
    assert wide.temporaries == 3 * half.temporaries > 0


def test_a_kernel_forms_a_norm_s_gradient_from_what_it_keeps_anyway():
    def kept(name: str) -> float:
        model, settings = find_model(name).spec, Settings(technique="ln_tuning")
        trainer = find_trainer("transformers-5")
        n = numerics(settings, trainer, trains_base=False, layer_norm=model.layer_norm)
        return adapter_bytes(model, settings, n, trainer, 1).saved_per_token

    assert kept("bert-base-uncased") == 0
    model = find_model("llama-3.2-1b").spec
    assert kept("llama-3.2-1b") == model.num_layers * 2 * BF16 * model.hidden_size


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"technique": "qlora", "precision": "amp-bf16"}, "bf16"),
        ({"technique": "qlora", "precision": "bf16"}, "bf16"),
        ({"technique": "lora", "quantization": "int8", "precision": "fp32"}, "bf16"),
        ({"technique": "qlora", "objective": "orpo", "precision": "bf16"}, "fp32"),
        ({"technique": "lora", "precision": "bf16"}, "fp32"),
        ({"technique": "qlora", "precision": "amp-fp16", "gpu": "t4"}, "fp32"),
    ],
)
def test_trl_trains_adapters_of_a_quantised_base_in_bf16(options: dict[str, Any], dtype: str):
    """Whatever the base was loaded in (trl 1.16 sft_trainer.py), but for ORPO."""
    assert estimate("llama-3.2-1b", **options).settings["adapter_dtype"] == dtype


def test_samples_that_are_all_as_long_as_the_longest_are_alike():
    found = batch_lengths(cap=512, mean=512, mean_of_cut=True)
    assert (found.longest, found.typical, found.mean_padded) == (512, 0, 512)
    assert batch_lengths(cap=512, mean=300, deviation=0.0, longest=300).typical == 0
    # A mean of before they are cut says nothing of the kind.
    assert 0 < batch_lengths(cap=512, mean=512).typical < 512


def test_typical_lengths_come_nearer_to_the_longest_as_the_mean_does():
    typical = [batch_lengths(cap=512, mean=m, mean_of_cut=True).typical for m in (400, 460, 511)]
    assert typical == sorted(typical)
    assert typical[-1] == pytest.approx(511, abs=2)


def test_one_sequence_more_of_one_length_never_reserves_less():
    asked: dict[str, Any] = {"technique": "lora", "max_length": 512, "mean_length": 512}
    reserved = [
        estimate("gpt2", **asked, micro_batch_size=n).memory.reserved_bytes for n in (1, 2, 3)
    ]
    assert reserved == sorted(reserved)


def test_a_reward_model_trains_one_score_in_the_place_of_its_head():
    """llama-3.1-8b's head is not tied: 128,256 by 4,096; a score has 4,096 weights."""
    sft, reward = (
        estimate("llama-3.1-8b", technique="full", objective=objective).num_trainable_params
        for objective in ("sft", "reward")
    )
    assert sft - reward == 128_256 * 4096 - 4096


@pytest.mark.parametrize("objective", ["reward", "dpo"])
def test_trainers_of_preferences_disable_the_model_s_dropout(objective: str):
    """GPT-2's two residual dropouts and its attention's (disable_dropout of trl 1.16's configs)."""
    asked: dict[str, Any] = {"technique": "lora", "gradient_checkpointing": "none"}
    model = find_model("gpt2").spec
    dropless = replace(
        model,
        blocks=tuple(
            replace(b, traits=replace(b.traits, residual_dropouts=0)) for b in model.blocks
        ),
    )
    one, other = (phases(m, objective=objective, **asked) for m in (model, dropless))
    assert one["loss_backward"].total == other["loss_backward"].total
    asked["lora_dropout"] = 0.1
    one, other = (phases(m, objective=objective, **asked) for m in (model, dropless))
    assert one["loss_backward"].total > other["loss_backward"].total


@pytest.mark.parametrize("name", ["t5-small", "gpt2", "falcon-7b", "bert-base-uncased"])
def test_a_model_can_be_looked_up_by_what_it_is_made_of(name: str):
    assert {find_model(name).spec: name}
