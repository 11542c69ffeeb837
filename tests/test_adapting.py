"""`all-linear` where PEFT takes layers that it fails of: alone, in a run, and simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from execution_models import SIZES, build, rows, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

from safetensors.torch import load_file  # noqa: E402

import ftadvisor  # noqa: E402
from ftadvisor.configuration.adapter_config import adapter_config, peft_config  # noqa: E402
from ftadvisor.estimation.prediction import adapter_of  # noqa: E402
from ftadvisor.execution.adapting import adapt  # noqa: E402
from ftadvisor.schema.settings import Settings  # noqa: E402
from ftadvisor.simulation.step import prepared_model  # noqa: E402
from ftadvisor.sources.architectures import read_model  # noqa: E402
from ftadvisor.sources.techniques import expert_modules, find_technique  # noqa: E402
from ftadvisor.sources.trainers import find_trainer  # noqa: E402

EXPERTS = {"num_key_value_heads": 2, "num_local_experts": 4}
MIXER = {"vocab_size": 600, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8,
         "num_heads": 4, "head_dim": 32, "n_groups": 1}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "router": ("phimoe", {**SIZES, **EXPERTS}, "sft", "router"),
    "router of Llama 4": (
        "llama4_text",
        {**SIZES, **EXPERTS, "head_dim": 16, "intermediate_size_mlp": 128},
        "sft", "router",
    ),
    "head of a classifier": ("bert", SIZES, "token_cls", "classifier"),
    "Mamba's output": ("mamba2", MIXER, "sft", "out_proj"),
}  # fmt: skip
"""Model type, sizes, objective, and the layer that PEFT fails of."""

each_kind = pytest.mark.parametrize("kind", KINDS)


def built(kind: str) -> tuple[Any, Settings, str]:
    model_type, sizes, objective, left_out = KINDS[kind]
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    cls = transformers.AutoModelForCausalLM
    if objective == "token_cls":
        cls = transformers.AutoModelForTokenClassification
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = Settings(
        technique="lora", objective=objective, lora_target_modules=("all-linear",), lora_r=4
    )
    return cls.from_config(config), settings, left_out


def trained(model: Any) -> dict[str, Any]:
    return {name: p.shape for name, p in model.named_parameters() if p.requires_grad}


def step(model: Any) -> dict[str, Any]:
    """Gradients of what trains, by name."""
    ids = torch.arange(16).reshape(2, 8) + 3
    labels = (
        ids % 2
        if hasattr(model.config, "num_labels") and model.config.model_type == "bert"
        else ids
    )
    model.train()
    model(input_ids=ids, labels=labels).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@each_kind
def test_peft_alone_fails(kind: str):
    model, settings, _ = built(kind)
    name, options = adapter_config(settings, model.config.model_type, encoder_decoder=False)
    cls = peft.PEFT_TYPE_TO_CONFIG_MAPPING[name]
    with pytest.raises((AttributeError, TypeError, ValueError)):
        step(peft.get_peft_model(model, cls(**options)))


@each_kind
def test_a_run_adapts_all_others(kind: str):
    model, settings, left_out = built(kind)
    linear = {
        name for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    }  # fmt: skip
    adapted = adapt(model, settings, 2)
    found = {
        name.removeprefix("base_model.model.")
        for name, module in adapted.named_modules()
        if hasattr(module, "lora_A")
    }
    assert found == {name for name in linear if name.rpartition(".")[2] != left_out}
    assert any(grad is not None and grad.any() for grad in step(adapted).values())


@each_kind
def test_the_simulation_trains_the_same(kind: str):
    model, settings, _ = built(kind)
    config = model.config.to_dict()
    trainer = find_trainer("transformers-5")
    simulated = prepared_model(config, settings, trainer, None)
    trained = {
        n: p.shape for n, p in adapt(model, settings, 2).named_parameters() if p.requires_grad
    }
    assert {n: p.shape for n, p in simulated.named_parameters() if p.requires_grad} == trained


MIXTURES = {
    "mixtral": {**SIZES, **EXPERTS},
    "qwen3_moe": {**SIZES, "num_key_value_heads": 2, "head_dim": 16, "num_experts": 4,
                  "num_experts_per_tok": 2,
                  "moe_intermediate_size": 32},
    "deepseek_v3": {**SIZES, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
                    "num_experts_per_tok": 2, "moe_intermediate_size": 32, "q_lora_rank": 16,
                    "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
                    "v_head_dim": 16, "first_k_dense_replace": 1},
}  # fmt: skip


@pytest.mark.parametrize("model_type", MIXTURES)
def test_experts_are_left_alone(model_type: str):
    """PEFT alone would adapt the parameters of all of them; run, simulation and estimate do not."""
    config = transformers.AutoConfig.for_model(model_type, **MIXTURES[model_type])
    settings = Settings(
        technique="lora", lora_target_modules=("all-linear",), lora_r=4, lora_dropout=0.1
    )
    with torch.device("meta"):
        model, alone = (transformers.AutoModelForCausalLM.from_config(config) for _ in range(2))
        wrapped = peft.get_peft_model(alone, peft.LoraConfig(r=4, target_modules="all-linear"))
    assert any("experts" in name for name in trained(wrapped))
    found = trained(adapt(model, settings, 2))
    assert found
    assert all("self_attn" in name for name in found)
    simulated = prepared_model(config.to_dict(), settings, find_trainer("transformers-5"), None)
    assert trained(simulated) == found
    spec = read_model(config.to_dict(), model_type)[0]
    cost = adapter_of(spec, settings, find_trainer("trl-1.16"), find_technique("lora"))
    assert cost is not None
    assert cost.num_trainable_params == sum(shape.numel() for shape in found.values())


def test_the_names_of_experts_are_peft_s():
    from peft.utils import transformers_weight_conversion as conversion

    for model_type, base in conversion._MODEL_TO_CONVERSION_PATTERN.items():
        names = conversion._MOE_TARGET_MODULE_MAPPING.get(base, {})
        if model_type[0].islower():
            assert set(expert_modules("lora", model_type)) == set(names), model_type


def excluded(**options: Any) -> Any:
    model = built("router")[0]
    return peft_config(peft, model, Settings(technique="lora", **options)).exclude_modules


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["gate_proj"], {"gate_proj", "router"}),
        (["router"], {"router"}),
        (".*up_proj", ".*up_proj"),
    ],
)
def test_what_the_user_leaves_out_stays_out(given: Any, found: Any):
    own = {"lora_target_modules": ("all-linear",), "peft_config": {"exclude_modules": given}}
    assert excluded(**own) == found


def test_named_layers_are_taken_at_their_word():
    assert excluded(lora_target_modules=("router", "q_proj")) is None


def test_a_tagger_is_trained_with_all_linear_layers(tmp_path: Path):
    out = tmp_path / "out"
    report = ftadvisor.run(
        model=str(build(tmp_path)["encoder"]),
        dataset=str(write_rows(tmp_path / "rows.jsonl", rows("token_cls", 12))),
        technique="lora", lora_target_modules="all-linear", objective="token_cls",
        precision="fp32", max_steps=2, max_length=64, output_dir=out,
    )  # fmt: skip
    assert report.status == "done"
    names = set(load_file(out / "adapter_model.safetensors"))
    assert any("intermediate.dense.lora_A" in name for name in names)
    assert [name for name in names if "classifier" in name and "lora" in name] == []
