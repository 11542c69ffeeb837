"""What a few types hold beside what all do, worked out by hand: ALiBi masks of every head, buffers
of causal masks, LLM.int8's inputs, and what lies between the embedding and the first layer."""

from __future__ import annotations

from typing import Any

import pytest

from ftadvisor.estimation.adapters import adapter_bytes
from ftadvisor.estimation.attention import alibi_scores
from ftadvisor.estimation.feedforward import mlp_saved
from ftadvisor.estimation.memory import step_phases
from ftadvisor.estimation.numerics import numerics
from ftadvisor.estimation.stack import embedding_kept, matrix_inputs
from ftadvisor.estimation.terms import Terms, outlive_checkpoints, terms
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.models import find_model
from ftadvisor.sources.trainers import find_trainer

TRAINER = find_trainer("trl-1.16")
PRECISIONS: dict[str, dict[str, Any]] = {
    "bf16": {"weights_dtype": "bf16"},
    "amp-bf16": {"weights_dtype": "fp32", "autocast": "bf16"},
    "fp32": {"weights_dtype": "fp32"},
}


def settings(**changed: Any) -> Settings:
    asked: dict[str, Any] = {
        "technique": "lora", "micro_batch_size": 2, "longest_length": 128, "max_length": 128,
        "lora_target_modules": ("q_proj",), "gradient_checkpointing": "full",
    }  # fmt: skip
    return Settings(**asked | changed)


def terms_of(model: str, **changed: Any) -> Terms:
    spec, asked = find_model(model).spec, settings(**changed)
    if asked.technique == "full":
        return terms(spec, asked, TRAINER, None)
    n = numerics(asked, TRAINER, trains_base=False, layer_norm=spec.layer_norm)
    return terms(spec, asked, TRAINER, adapter_bytes(spec, asked, n, TRAINER, 256))


FALCON_TARGETS = ("query_key_value",)
BERT: dict[str, Any] = {"objective": "seq_cls", "lora_target_modules": ("query",)}


@pytest.mark.parametrize(
    ("precision", "bytes_per_score"),
    [
        # Products 2, in fp32 4, with ALiBi 4, with the mask 4, in the softmax's dtype 2, softmax 2,
        # and the previous layer's softmax 2.
        ("bf16", 20),
        # Products 2, in fp32 4, with ALiBi 4, with the mask 4, softmax 4, the previous one 4.
        ("amp-bf16", 22),
        # Products 4, with ALiBi 4, with the mask 4, softmax 4, the previous one 4.
        ("fp32", 20),
    ],
)
def test_alibi_in_eager_attention(precision: str, bytes_per_score: int):
    t = terms_of("falcon-rw-1b", attn_implementation="eager", lora_target_modules=FALCON_TARGETS,
                 **PRECISIONS[precision])  # fmt: skip
    (layer,) = t.layers
    assert alibi_scores(layer.block, t.n, checkpointed=True) == 32 * bytes_per_score
    assert layer.activations.attention_per_key == 32 * bytes_per_score


@pytest.mark.parametrize(
    ("changed", "held"),
    [
        ({"attn_implementation": "eager"}, 2),
        # Without checkpoints nothing but the stack's own loop holds the eager mask.
        ({"attn_implementation": "eager", "gradient_checkpointing": "none"}, 0),
        ({"gradient_checkpointing": "none"}, 2),
        ({**PRECISIONS["amp-bf16"]}, 4),
        # Each layer then keeps a copy of its own.
        ({**PRECISIONS["amp-bf16"], "gradient_checkpointing": "none"}, 0),
    ],
)
def test_alibi_mask_has_every_heads_rows(changed: dict[str, Any], held: int):
    t = terms_of("falcon-rw-1b", lora_target_modules=FALCON_TARGETS, **changed)
    assert t.mask_bytes == 2 * 32 * 128 * 128 * held


def test_autocast_copies_the_alibi_mask_for_each_layer():
    half, wide = (
        terms_of("falcon-rw-1b", lora_target_modules=FALCON_TARGETS, **PRECISIONS[name])
        for name in ("bf16", "amp-bf16")
    )
    assert half.layers[0].activations.saved_per_key == 0
    assert wide.layers[0].activations.saved_per_key == 2 * 32


def test_falcons_bias_makes_the_first_matrix_put_out_fp32():
    (layer,) = find_model("falcon-rw-1b").spec.blocks
    n = numerics(settings(**PRECISIONS["amp-bf16"]), TRAINER, trains_base=False, layer_norm=True)
    assert mlp_saved(layer, n, fused=False, grouped=True).kept == 4 * 8192
    # falcon-7b has no bias.
    (layer,) = find_model("falcon-7b").spec.blocks
    assert mlp_saved(layer, n, fused=False, grouped=True).kept == 2 * 18176


@pytest.mark.parametrize(
    ("model", "buffers"),
    [
        # One of 2048 positions squared in each of 12 layers.
        ("gpt-neo-125m", 12 * 2048**2),
        ("starcoderbase-1b", 8192**2),
        ("gpt2", 0),
    ],
)
def test_causal_masks_that_are_buffers(model: str, buffers: int):
    spec = find_model(model).spec
    assert spec.buffer_bytes == buffers
    phases = step_phases(spec, settings(technique="full"), TRAINER, None)
    assert phases["loss_forward"].weights == 2 * spec.num_params + buffers


def test_int8_inputs_outlive_checkpoints_that_are_not_reentrant():
    asked = settings(quantization="int8")
    assert outlive_checkpoints(asked, TRAINER)
    assert not outlive_checkpoints(asked, find_trainer("fsdp_qlora"))
    assert not outlive_checkpoints(settings(quantization="nf4"), TRAINER)


def test_int8_inputs_are_alive_in_the_loss():
    model = find_model("llama-3.2-1b").spec

    def activations(quantization: Any) -> Any:
        asked = settings(quantization=quantization)
        n = numerics(asked, TRAINER, trains_base=False)
        a = adapter_bytes(model, asked, n, TRAINER, 256)
        return step_phases(model, asked, TRAINER, a)["loss_forward"].activations

    # Of q, k and v, of gate and up, of the down projection and of the output, in 16 layers.
    inputs = 256 * 16 * 2 * (2 * 2048 + 8192 + 2048)
    assert activations("int8") - activations("none") == inputs


def test_int8_inputs_of_an_encoder_decoder():
    t = terms_of("bart-base", quantization="int8", objective="seq2seq", max_target_length=32)
    # Of the MLP and of the outputs; the layer's own input is its checkpoint.
    encoder = 2 * 128 * 6 * (768 + 3072 + 768)
    # Besides, attention to the source reads the target and puts out once more.
    decoder = 2 * 32 * 6 * (2 * 768 + 3072 + 2 * 768)
    assert matrix_inputs(t, 2, 2) == 2 * (encoder + decoder)


@pytest.mark.parametrize(
    ("model", "changed", "per_feature"),
    [
        # The embedding, the sum that the norm reads, dropout's mask.
        ("bert-base-uncased", {**BERT}, 2 + 2 + 1),
        ("bert-base-uncased", {**BERT, **PRECISIONS["fp32"]}, 4 + 4 + 1),
        # Trained, the embedding's output is nothing that backward needs.
        ("bert-base-uncased", {**BERT, "technique": "full"}, 2 + 1),
        # The frozen embedding is not reached.
        ("bert-base-uncased", {**BERT, "gradient_checkpointing": "none"}, 0),
        ("gpt2", {"lora_target_modules": ("c_attn",)}, 2 + 1),
        ("llama-3.2-1b", {}, 0),
    ],
)
def test_between_embedding_and_first_layer(model: str, changed: dict[str, Any], per_feature: int):
    t = terms_of(model, **changed)
    assert embedding_kept(t) == 2 * 128 * per_feature * t.model.hidden_size


@pytest.mark.parametrize(
    ("quantization", "precision", "outside", "head"),
    [
        # Prepared, embeddings and head are fp32, and so are the logits.
        ("nf4", {"weights_dtype": "bf16"}, 4, 4),
        # TRL puts both back to half precision where it is told bf16 and the base has 4 bits.
        ("nf4", {"weights_dtype": "fp32", "autocast": "bf16"}, 2, 2),
        ("int8", {"weights_dtype": "fp32", "autocast": "bf16"}, 4, 2),
    ],
)
def test_orpo_prepares_embeddings_and_head(
    quantization: Any, precision: dict[str, Any], outside: int, head: int
):
    asked = settings(quantization=quantization, objective="orpo", **precision)
    n = numerics(asked, TRAINER, trains_base=False)
    assert (n.outside, n.head) == (outside, head)


def test_a_fused_head_holds_two_cast_tiles_of_its_weights():
    t = terms_of("gpt2", lora_target_modules=("c_attn",), loss_kernel="chunked",
                 **PRECISIONS["amp-bf16"])  # fmt: skip
    # One of 32,768 rows, and the rest of 50,257 beside it.
    assert t.loss.head_chunk == 32_768 * 768
    assert t.loss.weight_gradient == 2 * (50_257 - 32_768) * 768
