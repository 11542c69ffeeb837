"""config.json to anatomy: published counts, Transformers' own counts, configs that cannot be."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftadvisor.configuration.adapter_config import not_adaptable
from ftadvisor.errors import DataFileError, FtadvisorError, UnsupportedError
from ftadvisor.schema.model import ModelSpec
from ftadvisor.sources.architectures import read_model
from ftadvisor.sources.architectures.config import architectures, row_of, traits_of
from ftadvisor.sources.data_files import data_dir


def spec_of(**config: Any) -> ModelSpec:
    return read_model(config, "test")[0]


# Counts as the publishers' safetensors files or papers give them; the keys as in their config.json.
PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "llama-7b": (6_738_415_616, {"model_type": "llama"}),
    "Llama-3.1-8B": (
        8_030_261_248,
        {
            "model_type": "llama",
            "vocab_size": 128256,
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
        },
    ),
    "Mistral-7B-v0.1": (7_241_732_096, {"model_type": "mistral"}),
    "Mixtral-8x7B": (46_702_792_704, {"model_type": "mixtral"}),
    "Qwen2.5-7B": (
        7_615_616_512,
        {
            "model_type": "qwen2",
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
    ),
    "gemma-2-2b": (2_614_341_888, {"model_type": "gemma2"}),
    "gpt2": (124_439_808, {"model_type": "gpt2"}),
    "phi-1_5": (1_418_270_720, {"model_type": "phi"}),
    "Phi-3-mini": (3_821_079_552, {"model_type": "phi3"}),
    "falcon-7b": (6_921_720_704, {"model_type": "falcon"}),
    "gpt-neox-20b": (20_554_567_680, {"model_type": "gpt_neox"}),
    "gpt-j-6b": (6_050_882_784, {"model_type": "gptj"}),
    "DeepSeek-V3 without its prediction layer": (671_026_404_352, {"model_type": "deepseek_v3"}),
    "gpt-oss-120b": (116_829_156_672, {"model_type": "gpt_oss"}),
    "Qwen-7B": (7_721_324_544, {"model_type": "qwen"}),
    "Qwen-VL-Chat": (9_656_935_168, {"model_type": "qwen", "visual": {}}),
    "chatglm3-6b": (
        6_243_584_000,
        {
            "model_type": "chatglm",
            "ffn_hidden_size": 13696,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "add_qkv_bias": True,
        },
    ),
    "internlm2-7b": (
        7_737_708_544,
        {
            "model_type": "internlm2",
            "vocab_size": 92544,
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "bias": False,
        },
    ),
    "Baichuan2-13B": (
        13_896_668_160,
        {
            "model_type": "baichuan",
            "hidden_size": 5120,
            "intermediate_size": 13696,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
        },
    ),
    "deepseek-moe-16b": (
        16_375_728_128,
        {
            "model_type": "deepseek",
            "hidden_size": 2048,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "num_experts_per_tok": 6,
            "moe_intermediate_size": 1408,
            "intermediate_size": 10944,
            "first_k_dense_replace": 1,
        },
    ),
    "bert-base": (109_482_240, {"model_type": "bert"}),
    "distilbert-base": (66_362_880, {"model_type": "distilbert"}),
    "t5-small": (60_506_624, {"model_type": "t5"}),
    "flan-t5-small": (
        76_961_152,
        {
            "model_type": "t5",
            "feed_forward_proj": "gated-gelu",
            "d_ff": 1024,
            "num_heads": 6,
            "num_layers": 8,
            "tie_word_embeddings": False,
        },
    ),
    "bart-large": (406_291_456, {"model_type": "bart"}),
    "deberta-v3-base": (
        183_831_552,
        {
            "model_type": "deberta-v2",
            "hidden_size": 768,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "intermediate_size": 3072,
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": "p2c|c2p",
            "position_biased_input": False,
        },
    ),
    "bloom-560m": (
        559_214_592,
        {"model_type": "bloom", "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16},
    ),
    "Qwen2.5-VL-7B": (
        8_292_166_656,
        {
            "model_type": "qwen2_5_vl",
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vision_config": {
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "out_hidden_size": 3584,
            },
        },
    ),
    "gemma-3-4b": (
        4_300_079_472,
        {
            "model_type": "gemma3",
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "num_hidden_layers": 34,
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_attention_heads": 16,
                "num_hidden_layers": 27,
                "patch_size": 14,
                "image_size": 896,
                "vision_use_head": False,
            },
        },
    ),
    "llava-1.5-7b": (
        7_063_427_072,
        {"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    count, config = PUBLISHED[name]
    assert read_model(config, name)[0].num_params == count


# What Transformers needs beside its own defaults to build a type, and what else is worth building.
NEEDED: dict[str, dict[str, Any]] = {
    "glm4_moe": {"head_dim": 128},
    "deepseek_v2": {"num_experts_per_tok": 6},
    "nemotron": {"num_key_value_heads": 8},
    "hunyuan_v1_dense": {"head_dim": 128},
    "ministral": {"head_dim": 128},
    "dbrx": {"attn_config": {"rope_theta": 1e4}},
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"num_key_value_heads": 8, "attention_bias": True, "mlp_bias": True}),
    ("llama", {"hidden_size": 512, "num_attention_heads": 8, "tie_word_embeddings": True}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 71, "bias": True}),
    ("falcon", {"alibi": True, "parallel_attn": False, "multi_query": False}),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 10, "num_key_value_heads": 4}),
    ("qwen2_moe", {"mlp_only_layers": [1, 3], "use_sliding_window": True}),
    ("qwen3_moe", {"decoder_sparse_step": 2}),
    ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    ("phi", {"qk_layernorm": True}),
    ("opt", {"word_embed_proj_dim": 512, "do_layer_norm_before": False}),
    ("opt", {"enable_bias": False, "layer_norm_elementwise_affine": False}),
    ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True}),
    ("cohere", {"use_qk_norm": True, "num_key_value_heads": 8}),
    ("cohere2", {"sliding_window_pattern": 3}),
    ("gpt_bigcode", {"multi_query": False}),
    (
        "dbrx",
        {
            "d_model": 6144,
            "n_heads": 48,
            "n_layers": 4,
            "attn_config": {"kv_n_heads": 8, "rope_theta": 1e4},
            "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
        },
    ),
    (
        "deepseek_v2",
        {
            "q_lora_rank": None,
            "num_experts_per_tok": 6,
            "first_k_dense_replace": 1,
            "hidden_size": 2048,
            "num_attention_heads": 16,
        },
    ),
    ("llama4_text", {"interleave_moe_layer_step": 2, "num_local_experts": 128}),
    ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 32}),
    ("glm4_moe", {"head_dim": 128, "use_qk_norm": True, "first_k_dense_replace": 3}),
    ("albert", {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}),
    ("electra", {"embedding_size": 768, "hidden_size": 768, "num_attention_heads": 12}),
    (
        "deberta-v2",
        {
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": "p2c|c2p",
            "position_biased_input": False,
        },
    ),
    (
        "deberta-v2",
        {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "type_vocab_size": 2,
            "conv_kernel_size": 3,
            "embedding_size": 512,
        },
    ),
    ("deberta", {"relative_attention": True, "pos_att_type": "c2p|p2c"}),
    ("modernbert", {"norm_bias": True, "global_attn_every_n_layers": 2}),
    ("t5", {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 3, "d_ff": 1024}),
    ("bart", {"encoder_layers": 6, "decoder_layers": 3, "encoder_attention_heads": 8}),
    ("qwen2_vl", {"tie_word_embeddings": True, "num_key_value_heads": 4, "vocab_size": 151936}),
    ("internvl", {"vision_config": {"use_mask_token": True, "norm_type": "rms_norm"}}),
    (
        "llava",
        {
            "text_config": {"model_type": "mistral"},
            "vision_config": {"model_type": "pixtral"},
            "vision_feature_layer": [-2, -1],
        },
    ),
]
# Tables whose keys are another file's or another record's.
FREE_TABLES = ("traits", "dropouts", "variants", "rotary", "intermediate")
# Sides that Transformers builds only as a part of another model.
PARTS = ("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "mllama_text_model", "qwen_vl")


def buildable() -> list[tuple[str, dict[str, Any]]]:
    rows = architectures()
    return [
        *(
            (name, NEEDED.get(name, {}))
            for name, row in rows.items()
            if "refused" not in row
            and not row.get("remote_code")
            and name not in PARTS
            and (row["layout"] != "vision" or row.get("alone"))
        ),
        *VARIANTS,
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model_type", "given"), buildable())
def test_counts_and_module_names_are_those_of_transformers(
    model_type: str, given: dict[str, Any]
) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(model_type, **json.loads(json.dumps(given)))
    auto = {
        "decoder": transformers.AutoModelForCausalLM,
        "encoder": transformers.AutoModel,
        "encoder_decoder": transformers.AutoModelForSeq2SeqLM,
        "vision_language": transformers.AutoModelForImageTextToText,
        "vision": transformers.AutoModel,
    }[architectures()[model_type]["layout"]]
    with torch.device("meta"):
        model = auto.from_config(config)
    kinds = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    left_out = not_adaptable(model)
    modules = Counter(
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        and name.rpartition(".")[2] not in left_out
        and re.search(r"\.\d+\.", name)
        and not re.search("merger|perceiver", name)
    )
    for values in (
        {"model_type": model_type, **given},
        json.loads(config.to_json_string(use_diff=False)),
    ):
        spec, _ = read_model(values, model_type)
        assert spec.num_params == sum(p.numel() for p in model.parameters())
        named: Counter[str] = Counter()
        for block in spec.blocks:
            for linear in block.linears:
                copies = linear.count * (1 if block.shared else block.num_layers)
                named[linear.name] += copies if linear.module else 0
        assert +named == modules


def test_a_head_of_the_checkpoints_own_is_said() -> None:
    tied, said = read_model({"model_type": "t5"}, "t5")
    untied, said_untied = read_model({"model_type": "t5", "tie_word_embeddings": False}, "t5")
    assert untied.num_params - tied.num_params == 32128 * 512
    assert not any("head" in sentence for sentence in said)
    assert any("tie_word_embeddings" in sentence for sentence in said_untied)


def test_sizes_that_the_file_leaves_out_are_said() -> None:
    _, said = read_model({"model_type": "llama", "hidden_size": 2048}, "x")
    assert "num_hidden_layers 32" in said[0]
    assert "hidden_size" not in said[0]


def test_sliding_layers_are_a_block_of_their_own() -> None:
    spec = spec_of(model_type="gemma3_text", num_hidden_layers=13)
    windows = {b.attention.sliding_window: b.num_layers for b in spec.blocks}
    assert windows == {4096: 11, None: 2}
    listed = ["full_attention"] * 3 + ["sliding_attention"]
    spec = spec_of(model_type="gpt_oss", num_hidden_layers=4, layer_types=listed)
    assert {b.attention.sliding_window: b.num_layers for b in spec.blocks} == {None: 3, 128: 1}


def test_latent_attention_has_a_key_per_head() -> None:
    attention = spec_of(model_type="deepseek_v3").blocks[0].attention
    assert (attention.latent_dim, attention.q_latent_dim) == (512, 1536)
    assert (attention.k_width, attention.v_width) == (128 * 192, 128 * 128)


def test_experts_are_no_modules_of_their_own() -> None:
    linears = spec_of(model_type="mixtral").blocks[0].linears
    experts = [linear for linear in linears if linear.part == "experts"]
    assert [(e.name, e.count, e.module) for e in experts] == [
        ("gate_up_proj", 8, False),
        ("down_proj", 8, False),
    ]


def test_a_decoder_layer_attends_to_the_source() -> None:
    encoder, decoder = spec_of(model_type="t5").blocks
    assert (encoder.stream, decoder.stream) == ("source", "text")
    assert [e.name for e in decoder.linears if e.part == "cross_attention"] == ["q", "k", "v", "o"]
    assert decoder.cross_attention
    assert not encoder.attention.causal


@pytest.mark.parametrize(
    ("model_type", "tokens", "patches"),
    [
        ("llava", 576, 577),
        ("llava_next", 576 + 48 * 48 + 48, 5 * 577),
        ("paligemma", 256, 256),
        ("gemma3", 256, 14 * 14),
        ("qwen2_vl", 256, 1024),
    ],
)
def test_tokens_of_an_image(model_type: str, tokens: int, patches: int) -> None:
    spec = spec_of(model_type=model_type)
    assert (spec.image_tokens, spec.image_patches) == (tokens, patches)
    assert {b.stream for b in spec.blocks} == {"image", "text"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ([], "not a JSON object"),
        ({}, "model_type"),
        ({"model_type": 7}, "not a name"),
        ({"model_type": "llama", "hidden_size": "4096"}, "hidden_size"),
        ({"model_type": "llama", "hidden_size": True}, "hidden_size"),
        ({"model_type": "llama", "hidden_size": 4096.5}, "hidden_size"),
        ({"model_type": "llama", "hidden_size": math.nan}, "hidden_size"),
        ({"model_type": "llama", "num_hidden_layers": -1}, "out of range"),
        ({"model_type": "llama", "vocab_size": 1e30}, "out of range"),
        ({"model_type": "llama", "hidden_size": 4097}, "does not divide"),
        ({"model_type": "llama", "num_key_value_heads": 5}, "does not divide"),
        ({"model_type": "llama", "tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"model_type": "llama", "attention_dropout": 3}, "attention_dropout"),
        ({"model_type": "gpt2", "n_embd": 0}, "n_embd"),
        ({"model_type": "gemma2", "layer_types": "all"}, "not a list"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"]}, "1 of 26"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"] * 27}, "27 of 26"),
        ({"model_type": "llama", "layer_types": ["full_attention"]}, "1 of 32"),
        ({"model_type": "llama", "hidden_act": "sliu"}, "hidden_act'"),
        ({"model_type": "mixtral", "hidden_act": "zzz"}, "hidden_act'"),
        ({"model_type": "t5", "feed_forward_proj": "x"}, "feed_forward_proj'"),
        ({"model_type": "t5", "feed_forward_proj": "gated-x"}, "feed_forward_proj'"),
        ({"model_type": "bart", "activation_function": "gated-gelu"}, "activation_function'"),
        ({"model_type": "qwen2", "sliding_window": -4}, "sliding_window'"),
        ({"model_type": "llama", "sliding_window": -4}, "sliding_window'"),
        ({"model_type": "llama", "tie_word_embeddings": -1}, "tie_word_embeddings'"),
        ({"model_type": "llama", "tie_word_embeddings": 2}, "tie_word_embeddings'"),
        ({"model_type": "mixtral", "num_experts_per_tok": 9}, "9 of 8"),
        ({"model_type": "llava", "text_config": 3}, "not an object"),
        ({"model_type": "llava", "text_config": {"model_type": "bert"}}, "no decoder"),
        ({"model_type": "llava", "vision_config": {"image_size": [1, 2]}}, "image_size"),
        ({"model_type": "chatglm", "inner_hidden_size": 1}, "ffn_hidden_size"),
        ({"model_type": "gpt_neo", "attention_types": [[1]]}, "attention_types"),
    ],
)
def test_broken_configs_are_named(config: Any, words: str) -> None:
    with pytest.raises(DataFileError, match=re.escape(words)) as caught:
        read_model(config, "some/model")
    assert "some/model" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "nearest"),
    [("mamba2", "llama"), ("jamba", "mixtral"), ("lama", "llama"), ("qwen2_5", "qwen2_5_vl")],
)
def test_kinds_that_are_not_described_are_refused(model_type: str, nearest: str) -> None:
    with pytest.raises(UnsupportedError, match=model_type) as caught:
        read_model({"model_type": model_type}, "x")
    assert nearest in caught.value.suggestions


@pytest.mark.parametrize("model_type", ["gemma2", "llama"])
@pytest.mark.parametrize("kind", ["linear_attention", "zzz"])
def test_other_layers_than_attention_are_refused(model_type: str, kind: str) -> None:
    config = {"model_type": model_type, "layer_types": [kind] * 26}
    with pytest.raises(UnsupportedError, match=f"{kind}' in layer_types"):
        read_model(config, "x")


HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 10**40),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_config_ends_in_a_traceback(data: st.DataObject) -> None:
    rows = {name: row for name, row in architectures().items() if "refused" not in row}
    name = data.draw(st.sampled_from(sorted(rows)))
    keys = [*rows[name].get("defaults", {}), "text_config", "vision_config", "rope_parameters"]
    changes = data.draw(st.dictionaries(st.sampled_from(keys), HOSTILE, max_size=3))
    try:
        spec, said = read_model({"model_type": name, **changes}, "x")
    except FtadvisorError:
        return
    assert spec.num_params > 0
    assert all(isinstance(sentence, str) for sentence in said)


def test_every_row_says_where_it_was_read() -> None:
    for name, row in architectures().items():
        assert row.get("source") or row.get("refused"), name


def test_every_field_is_explained_and_used() -> None:
    used: set[str] = set()
    for row in architectures().values():
        for field, value in row.items():
            used.add(field)
            if isinstance(value, dict) and field not in ("defaults", "keys", *FREE_TABLES):
                used.update(f"{field}.{inner}" for inner in value)
    fields = json.loads((data_dir() / "architectures.json").read_text())["fields"]
    assert used == fields.keys()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("qvk", ["q_proj"], "row 'llama', field 'qvk': is no known field. Write: qkv"),
        ("traits", {"plaice": "pre"}, "field 'traits.plaice': is no known field. Write: place"),
    ],
)
def test_a_typo_in_the_data_is_named(
    monkeypatch: pytest.MonkeyPatch, field: str, value: Any, words: str
) -> None:
    monkeypatch.setitem(architectures()["llama"], field, value)
    for cached in (row_of, traits_of):
        cached.cache_clear()
    try:
        with pytest.raises(DataFileError, match=re.escape(words)):
            read_model({"model_type": "llama"}, "x")
    finally:
        row_of.cache_clear()
        traits_of.cache_clear()


@pytest.mark.parametrize(
    ("model_type", "trait", "value"),
    [
        # As simulated steps of these types keep them.
        ("qwen3", "norm", "rms"),
        ("gemma2", "place", "sandwich"),
        ("olmo2", "place", "post_out"),
        ("gpt_neox", "place", "parallel2"),
        ("cohere", "norm", "ln_cohere"),
        ("gpt2", "act", "gelu_new"),
        ("gpt2", "residual_dropouts", 2),
        ("opt", "act", "relu"),
        ("falcon", "always_mask", True),
        ("gptj", "upcast_qk", True),
        ("mixtral", "moe", "mixtral"),
        ("t5", "norm", "rms_t5"),
        ("t5", "mlp_dropouts", 1),
    ],
)
def test_how_a_layer_is_written(model_type: str, trait: str, value: object) -> None:
    assert getattr(spec_of(model_type=model_type).blocks[-1].traits, trait) == value


def test_what_the_configuration_decides_about_a_layer() -> None:
    config = {"model_type": "falcon", "new_decoder_architecture": True}
    assert spec_of(**config).blocks[0].traits.place == "parallel2"
    assert spec_of(**config, parallel_attn=False).blocks[0].traits.place == "pre"
    plain = spec_of(model_type="gpt2", resid_pdrop=0, activation_function="gelu").blocks[0].traits
    assert (plain.residual_dropouts, plain.act) == (0, "std")
    sparse, dense = spec_of(model_type="deepseek_v3").blocks[::-1]
    assert (sparse.traits.moe, dense.traits.moe) == ("mixtral", "none")


def test_kernels_that_a_type_lacks() -> None:
    assert not spec_of(model_type="bloom").supports_sdpa
    assert spec_of(model_type="gemma2").supports_flash_attention
    assert not spec_of(model_type="t5").supports_flash_attention
    assert spec_of(model_type="llama").supports_sdpa
