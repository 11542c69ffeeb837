"""What Transformers and PEFT build from a configuration is simulated, or refused by name."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

from transformers import AutoConfig  # noqa: E402

from ftadvisor import estimate, simulate  # noqa: E402
from ftadvisor.errors import UnsupportedError  # noqa: E402
from ftadvisor.schema.settings import Settings  # noqa: E402
from ftadvisor.simulation.model.adapting import NOT_SIMULATED  # noqa: E402
from ftadvisor.simulation.model.building import head_of  # noqa: E402
from ftadvisor.simulation.recording.record import Recording  # noqa: E402
from ftadvisor.simulation.step import prepared_model, record_step  # noqa: E402
from ftadvisor.sources.models import model_config  # noqa: E402
from ftadvisor.sources.techniques import all_techniques  # noqa: E402
from ftadvisor.sources.trainers import find_trainer  # noqa: E402

FLAT = {"loss_kernel": "torch", "gradient_checkpointing": "none"}
OBJECTIVES = {"encoder": "seq_cls", "encdec": "seq2seq"}
WAYS: dict[str, dict[str, Any]] = {
    "full": {"technique": "full"},
    "lora": {"technique": "lora"},
    "qlora": {"technique": "qlora", "quantization": "nf4-dq"},
}
SIMULATED = (
    "llama", "mixtral", "qwen2_moe", "qwen3_moe", "gemma3_text", "phi3", "phimoe", "gpt2", "bloom",
    "deepseek_v3", "gpt_oss", "distilbert", "roberta", "deberta-v2", "t5", "pegasus", "llava",
    "qwen2_vl", "zamba2",
)  # fmt: skip
"""One of each kind that failed once, and some that the closed form does not describe."""
TINY: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 512, "intermediate_size": 1024,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
}  # fmt: skip


def configuration(model_type: str) -> dict[str, Any]:
    values = AutoConfig.for_model(model_type).to_dict()
    return {
        k: v for k, v in values.items() if v is not None and k not in ("dtype", "architectures")
    }


def settings_of(trainer: str, **options: Any) -> Settings:
    known = {field.name for field in dataclasses.fields(Settings)}
    defaults = {k: v for k, v in find_trainer(trainer).defaults.items() if k in known}
    return Settings(**{**defaults, "micro_batch_size": 2, "max_length": 64, **options})


def recorded(config: dict[str, Any], trainer: str, **options: Any) -> Recording:
    return record_step(
        config,
        settings_of(trainer, **options),
        find_trainer(trainer),
        compute_capability=(8, 0),
        num_layers=2,
    )


def prepared(config: dict[str, Any], **options: Any) -> Any:
    return prepared_model(config, settings_of("trl-1.16", **options), find_trainer("trl-1.16"), 2)


@pytest.mark.parametrize("model_type", SIMULATED)
@pytest.mark.parametrize("way", WAYS)
def test_architectures(model_type: str, way: str):
    family = head_of(AutoConfig.for_model(model_type))[1]
    trainer = "transformers-5" if family in OBJECTIVES else "trl-1.16"
    objective = OBJECTIVES.get(family, "sft")
    found = recorded(configuration(model_type), trainer, objective=objective, **WAYS[way])
    kinds = {a.kind for a in found.allocations}
    assert {"weights", "activations", "gradients", "optimizer"} <= kinds
    assert ("adapters" in kinds) == (way != "full")


LENGTHS = {"typical_length": 48, "mean_length": 48, "longest_length": 64}
"""PEFT's benchmark pads: VB-LoRA asks a question whose answer is taken from that."""
NOT_PEFT_S = {"llamapro", "adapter", "adapter_v2"}
OPTIONS: dict[str, dict[str, Any]] = {
    "adalora": {"total_step": 100},
    "adaption_prompt": {"adapter_layers": 2},
    "trainable_tokens": {"token_indices": [0, 1, 2]},
}


@pytest.mark.parametrize("technique", [t.id for t in all_techniques() if not t.trains_base])
def test_every_method_of_peft_is_simulated_or_refused_by_name(technique: str):
    options = {"technique": technique, "peft_config": OPTIONS.get(technique, {})}

    def found() -> Recording:
        return recorded(TINY, "peft-method-comparison", **LENGTHS, **options)

    if technique in NOT_PEFT_S or technique in NOT_SIMULATED:
        with pytest.raises(UnsupportedError, match=NOT_SIMULATED.get(technique, "no such")[:20]):
            found()
        return
    assert found().num_trainable_params > 0


def test_llama_4_but_for_trl_s_head():
    config = model_config("meta-llama/Llama-4-Scout-17B-16E")
    assert recorded(config, "transformers-5", technique="lora").num_trainable_params > 0
    with pytest.raises(UnsupportedError, match="base_model"):
        recorded(config, "trl-1.16", technique="lora")


def test_k_bit_layers_are_those_that_transformers_converts():
    """HfQuantizer: Conv1D too, Llama 4's experts one by one, T5's `wo` and routers not at all."""

    def four_bit(config: dict[str, Any], **options: Any) -> set[str]:
        model = prepared(config, technique="qlora", quantization="nf4", **FLAT, **options)
        names = (n for n, m in model.named_modules() if type(m).__name__ == "Linear4bit")
        return {".".join(n.removesuffix(".base_layer").split(".")[-2:]) for n in names}

    assert {"attn.c_attn", "mlp.c_fc"} <= four_bit(configuration("gpt2"))
    t5 = four_bit(configuration("t5"), objective="seq2seq")
    assert "DenseReluDense.wi" in t5
    assert "DenseReluDense.wo" not in t5
    llama4 = four_bit(model_config("meta-llama/Llama-4-Scout-17B-16E"))
    assert "0.gate_proj" in llama4
    assert not any("router" in name for name in llama4)
    assert "classifier.out_proj" not in four_bit(configuration("roberta"), objective="seq_cls")


def test_lily_s_shared_matrices_are_counted_once():
    from ftadvisor.simulation.depth import deep_recording

    config = {**TINY, "num_hidden_layers": 12}
    options = settings_of("peft-method-comparison", technique="lily", **LENGTHS)
    trainer = find_trainer("peft-method-comparison")
    deep = deep_recording(config, options, trainer, compute_capability=(8, 9))
    whole = record_step(config, options, trainer, compute_capability=(8, 9))
    assert deep.num_trainable_params == whole.num_trainable_params


def written(path: Path, **values: Any) -> str:
    file = path / "config.json"
    file.write_text(json.dumps(values))
    return str(file)


def test_a_model_that_the_closed_form_does_not_describe(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("FTADVISOR_HOME", str(tmp_path))
    model = written(tmp_path, **{**TINY, "model_type": "persimmon"})
    found = simulate(model, gpu="l40s", technique="lora", max_length=64)
    assert found.step is not None
    assert found.estimate.method == "simulated"
    assert found.estimate.time is None
    assert any("does not describe it" in said for said in found.estimate.assumptions)
    same = estimate(model, gpu="l40s", technique="lora", max_length=64, simulate=True)
    assert same == found.estimate


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "whisper"}, "no language model"),
        ({"model_type": "persimmon", "hidden_size": 130, "num_attention_heads": 4}, "divisible"),
        ({"model_type": "no_such_type"}, "cannot read its configuration"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: Any, values: dict[str, Any], said: str
):
    monkeypatch.setenv("FTADVISOR_HOME", str(tmp_path))
    with pytest.raises(UnsupportedError, match=said):
        simulate(written(tmp_path, **values), technique="lora")


def test_an_untested_version_warns_once(monkeypatch: pytest.MonkeyPatch):
    from ftadvisor.simulation.versions import UntestedVersionWarning, untested, warn_of_untested

    said = untested({"torch": "2.13.0", "transformers": "6.0.1", "peft": "0.21.2", "trl": "1.16.0",
                     "bitsandbytes": "0.50.2", "accelerate": "1.15.0"})  # fmt: skip
    assert "transformers 6.0.1" in said[0]
    warn_of_untested.cache_clear()
    with pytest.warns(UntestedVersionWarning):
        warn_of_untested(said)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_untested(said)


@pytest.mark.parametrize("model_type", ["phimoe", "granitemoe"])
def test_mixtures_that_count_their_experts_otherwise_have_their_router_s_loss(model_type: str):
    """TRL's preference trainers add it, and ask for `num_experts`."""
    found = recorded(configuration(model_type), "trl-1.16", objective="dpo", technique="lora")
    assert found.num_trainable_params > 0
