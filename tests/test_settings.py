"""What cannot be meant is refused by name; what is taken for granted is said."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest

from ftadvisor.api import estimate, estimates, list_objectives, list_optimizers
from ftadvisor.api.simulating import settings_of
from ftadvisor.cli import main
from ftadvisor.configuration.adapter_config import adapter_config
from ftadvisor.configuration.experts import name_experts
from ftadvisor.errors import FtadvisorError, InvalidSettingError
from ftadvisor.estimation.states import OPTIMIZERS
from ftadvisor.schema import settings
from ftadvisor.schema.technique import Technique
from ftadvisor.sources.optimizers import optimizer_rows
from ftadvisor.sources.techniques import OBJECTIVES, all_techniques, peft_options

HUGE = 10**400
NAN = float("nan")
APPLE = {"gpu": "apple-m3-max"}
FLASH = {"attn_implementation": "flash_attention_2"}
GALORE, LORA, FULL = {"technique": "galore"}, {"technique": "lora"}, {"technique": "full"}
PROMPTS = ("prompt_tuning", "p_tuning", "prefix_tuning")

Question = dict[str, Any]


def config(technique: str, **options: Any) -> Question:
    return {"technique": technique, "peft_config": options}


WRONG_TYPES: list[tuple[Question, str]] = [
    ({"model": None}, "model is None"),
    ({"model": 5}, "model is 5"),
    ({"model": []}, "model is []"),
    ({"gpu": 3090}, 'must be text. Try: "3090"'),
    ({"gpu": ["rtx3090"]}, "gpu is ['rtx3090']"),
    ({"trainer": 5}, "trainer is 5"),
    ({"dataset": 5}, "dataset is 5"),
    ({"optim": []}, "optim is []"),
    ({"technique": ["lora"]}, "technique is ['lora']"),
    ({"objective": 5}, "objective is 5"),
    ({"quantization": []}, "quantization is []"),
    ({"lora_target_modules": 5}, "lora_target_modules is 5"),
    ({"lora_target_modules": ["q_proj", 5]}, "lora_target_modules is"),
    *(
        ({name: HUGE}, f"{name} is 1000")
        for name in (
            "lora_alpha", "mean_length", "longest_length", "num_tokens", "num_train_epochs",
            "price", "lora_r", "max_length", "max_grad_norm", "lora_dropout",
        )
    ),
    ({"price": 10**5000}, "thousands of digits"),
]  # fmt: skip

PEFT_CONFIGS: list[tuple[Question, str]] = [
    *((config("lora", r=r), f"r is {r!r}: must be") for r in (NAN, 1e308, -64, 0, "x", None, True)),
    *((config("p_tuning", num_virtual_tokens=n), "must be a whole") for n in (-5, 0, 1e8)),
    (config("p_tuning", encoder_hidden_size=-1), "encoder_hidden_size is -1"),
    (config("p_tuning", encoder_reparameterization_type="GRU"), "one of MLP, LSTM"),
    (config("lora", ranks=64), "'ranks' is no option of LoRA. Try: r,"),
    (config("lora", a=1), "'a' is no option of LoRA. Try: r,"),
    (config("lora", use_dorra=True), "use_dora"),
    (config("bottleneck", adapter_len=64), "Try: adapter_length"),
    (config("lora", use_dora=5), "true or false"),
    (config("vera", vera_dropout=7), "from 0 to 1"),
    (config("oft", r=-8), "r is -8"),
    (config("road", variant="x"), "is not one of"),
    (config("trainable_tokens", token_indices=["a"]), "list of whole numbers"),
    (config("lora", target_modules=5), "names of modules"),
    ({**config("lora", r=64), "lora_r": 8}, "lora_r 8 and peft_config r 64"),
    ({**config("lora", target_modules=["q_proj"]), "lora_target_modules": "v_proj"}, "the same"),
]

LENGTHS: list[tuple[Question, str]] = [
    ({"mean_length": 2000, "max_length": 1024}, "mean_length 2000 with max_length 1024"),
    ({"mean_length": 500, "longest_length": 400}, "mean_length 500 with longest_length 400"),
    ({"longest_length": 2000, "max_length": 1024}, "longest_length 2000 with max_length 1024"),
    ({"longest_length": 1}, "128 tokens on average"),
    ({"mean_length": 1e-300}, "mean_length is 1e-300"),
    ({"mean_length": 500, "packing": True}, "no effect with packing"),
    ({"objective": "grpo", "max_completion_length": 5000}, "takes at most 2048"),
    ({"objective": "grpo", "max_length": 2000}, "--max-length 1536"),
    *(
        ({"model": "gpt2", **config(t, num_virtual_tokens=200_000)}, "takes at most 1024")
        for t in PROMPTS
    ),
    ({"model": "facebook/bart-base", "max_target_length": 5000}, "--max-target-length 1024"),
]

HARDWARE: list[tuple[Question, str]] = [
    *(
        ({"gpu": gpu, **FLASH}, "--attn-implementation sdpa")
        for gpu in ("t4", "rtx2080", "v100-16gb", "gtx1080ti", "p100", APPLE["gpu"])
    ),
    ({**FLASH, "precision": "fp32"}, "fp16 and bf16 only"),
    ({**FLASH, "model": "bigscience/bloom-560m"}, "Transformers' code of bloom has none"),
    ({**APPLE, "num_gpus": 2}, "one Apple GPU"),
    ({**APPLE, "optim": "adamw_8bit"}, "--optim adamw_torch"),
    ({"gpu": "t4", "adapter_dtype": "bf16"}, "no bf16"),
    ({"gpu": "t4", "precision": "fp8"}, "--precision fp16"),
    ({"gpu": "a100-80gb", "precision": "fp8"}, "--precision bf16"),
]

NO_EFFECT: list[tuple[Question, str]] = [
    *(
        ({**technique, **option}, "no effect with technique")
        for technique in (FULL, GALORE)
        for option in (
            {"lora_r": 8}, {"lora_alpha": 8}, {"lora_dropout": 0.1}, {"peft_config": {"r": 8}},
            {"lora_target_modules": "q_proj"}, {"adapter_dtype": "bf16"},
        )
    ),
    ({"technique": "ia3", "lora_r": 8}, "lora_r 8 has no effect with technique ia3"),
    ({"num_images": 1}, "reads no images"),
    ({"num_generations": 4}, "belongs to grpo, rloo"),
    ({"max_completion_length": 64}, "belongs to grpo, rloo, ppo, distillation"),
    ({"reference_model": True}, "objective sft"),
    ({"max_target_length": 64}, "encoder-decoders"),
    ({"prepare_kbit": True}, "quantised base"),
    ({**GALORE, "optim": "adamw_8bit"}, "--optim galore_adamw"),
    ({**FULL, "optim": "galore_adamw"}, "--technique galore"),
    ({"lora_target_modules": ["q_proj", "v_porj"]}, "Try: v_proj"),
    ({"num_gpus": 2, "strategy": "none"}, "--strategy ddp"),
    ({"technique": "trainable_tokens"}, "token_indices"),
]  # fmt: skip

ENGINES: list[tuple[Question, str]] = [
    ({**FULL, "offload_params": True}, "--strategy zero3"),
    ({**FULL, "offload_optimizer": True}, "--strategy zero2"),
    ({**FULL, "offload_params": True, "num_gpus": 2}, "strategy ddp"),
    ({**FULL, "offload_params": True, "strategy": "zero2"}, "zero3, fsdp"),
    ({**FULL, "offload_optimizer": True, "strategy": "ddp", "num_gpus": 2}, "strategy ddp"),
    ({"objective": "grpo", "num_generations": 1}, "at least 2"),
    ({"objective": "grpo", "micro_batch_size": 6, "num_generations": 4}, "--micro-batch-size 8"),
    ({"objective": "rloo", "micro_batch_size": 3, "num_gpus": 3, "num_generations": 2}, "batch of"),
    ({"objective": "kto", "micro_batch_size": 1}, "--micro-batch-size 2"),
]

UNKNOWN: list[tuple[Question, str]] = [
    ({"optim": "xx"}, "`ftadvisor list optimizers`"),
    ({"optim": "adamw_hf"}, "Did you mean: adamw_torch,"),
    ({"objective": "xx"}, "`ftadvisor list objectives`"),
]

INVALID = [*WRONG_TYPES, *PEFT_CONFIGS, *LENGTHS, *HARDWARE, *NO_EFFECT, *ENGINES]


def asked(question: Question) -> Question:
    return {"model": "llama-7b", "gpu": "rtx4090", **question}


@pytest.mark.parametrize(("question", "word"), INVALID, ids=range(len(INVALID)))
def test_what_cannot_be_is_an_invalid_setting(question: Question, word: str):
    with pytest.raises(InvalidSettingError) as caught:
        estimate(**asked(question))
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("question", "word"), UNKNOWN)
def test_an_unknown_name_says_where_the_known_ones_stand(question: Question, word: str):
    with pytest.raises(FtadvisorError, match=word):
        estimate(**asked(question))


POSSIBLE: list[tuple[Question, str]] = [
    (config("lora", bias="none", fan_in_fan_out=False, task_type="CAUSAL_LM"), "lora_r 8"),
    (config("lora", init_lora_weights="pissa", use_rslora=True), "lora_r 8"),
    (config("lora", modules_to_save=["lm_head"]), "peft_config modules_to_save is not counted"),
    (config("p_tuning", encoder_hidden_size=None), ""),
    (config("oft", r=8), ""),
    (config("osf", rank_pattern={"q_proj": 64}), ""),
    (config("trainable_tokens", token_indices=[1, 2]), ""),
    ({"mean_length": 500}, "13,313 examples of 500 tokens on average"),
    ({"model": "gpt2", "technique": "prompt_tuning"}, "max_length 1004: the model's context"),
    ({"model": "t5-small", "max_target_length": 5000}, ""),
    ({**FLASH, "precision": "amp-bf16"}, ""),
    ({**APPLE, "technique": "qlora"}, "Apple GPUs"),
    ({"num_images": 0, "reference_model": False, "prepare_kbit": False}, ""),
    ({"model": "Qwen/Qwen2-VL-2B-Instruct"}, "num_images 0: text only"),
    ({**FULL, "offload_optimizer": True, "strategy": "zero2"}, ""),
    ({**FULL, "offload_params": True, "offload_optimizer": True, "strategy": "fsdp"}, ""),
    ({"objective": "grpo", "micro_batch_size": 6, "num_generations": 3}, ""),
    ({"objective": "kto", "micro_batch_size": 2}, ""),
]


@pytest.mark.parametrize(("question", "said"), POSSIBLE, ids=range(len(POSSIBLE)))
def test_what_can_be_is_answered_with_what_was_assumed(question: Question, said: str):
    found = estimate(**asked(question))
    assert any(said in assumption for assumption in found.assumptions)


def test_a_rank_in_peft_config_is_the_rank():
    found = estimate(**asked(config("lora", r=64)))
    asked_for = estimate(**asked({**LORA, "lora_r": 64}))
    assert found.settings["lora_r"] == 64
    assert found.memory == asked_for.memory
    assert not any("lora_r" in said for said in found.assumptions)


ROWS = ("full", "lora", "dora", "qlora", "ia3", "bottleneck", "prefix_tuning", "prompt_tuning")
TABLES: list[Question] = [
    {"lora_r": 64}, {"lora_target_modules": ["q_proj"]}, {"prepare_kbit": True},
    {"peft_config": {"num_virtual_tokens": 50}}, {"adapter_dtype": "bf16"},
]  # fmt: skip


@pytest.mark.parametrize("question", TABLES, ids=str)
def test_a_table_takes_a_setting_for_the_techniques_that_have_it(question: Question):
    assert tuple(e.technique for e in estimates(**asked(question))) == ROWS


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ({"lora_target_modules": ["q_porj"]}, "q_porj"),
        ({"peft_config": {"num_virtual_tokens": -5}}, "is -5"),
        ({"peft_config": {"zzz": 1}}, "no option of any technique"),
        ({"peft_config": {"r": 64}, "lora_r": 8}, "the same thing"),
        ({"num_images": 1}, "reads no images"),
    ],
)
def test_a_table_does_not_hide_a_mistake(question: Question, word: str):
    with pytest.raises(InvalidSettingError, match=word):
        estimates(**asked(question))


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ({"model": None}, "model is null"),
        ({"model": 5}, "model is 5"),
        ({"gpu": 3090}, "gpu is 3090"),
        ({"peft_config": {"r": NAN}}, "r is nan"),
        ({"num_tokens": HUGE}, "num_tokens is 1"),
    ],
)
def test_a_line_of_a_file_is_refused_by_name(
    question: Question, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"model": "llama-7b", **question}))
    assert main(["estimate", str(path), "--technique", "lora"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "invalid_setting"
    assert word in error["message"]


def test_a_model_beside_the_file_holds_for_its_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"technique": "qlora"}\n')
    assert main(["estimate", str(path), "--model", "gpt2"]) == 0
    assert json.loads(capsys.readouterr().out)["technique"] == "qlora"


def test_what_the_lists_name_is_what_is_known():
    assert {row["id"] for row in list_optimizers()} == set(OPTIMIZERS)
    assert {row["id"] for row in list_objectives()} == set(OBJECTIVES)
    others = [name for row in optimizer_rows().values() for name in row["also"]]
    assert len(others) == len(set(others))
    assert not set(others) & set(OPTIMIZERS)


def test_every_value_that_the_help_lists_works():
    for name in ("weights_dtype", "adapter_dtype"):
        for dtype in get_args(settings.Dtype):
            assert estimate(**asked({**LORA, name: dtype})).settings[name] == dtype


@pytest.mark.parametrize("technique", all_techniques(), ids=lambda t: t.id)
def test_a_techniques_own_defaults_are_among_its_options(technique: Technique):
    assert set(technique.settings.get("peft_config", {})) <= set(peft_options(technique.id))


@pytest.mark.slow
def test_options_are_those_of_the_installed_peft():
    peft = pytest.importorskip("peft")
    for kind in peft.PeftType:
        if kind.lower() in {t.id for t in all_techniques()}:
            cls = peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
            assert set(peft_options(kind.lower())) == set(cls.__dataclass_fields__), kind


def test_flash_attention_that_only_a_trainer_asks_for_is_said_where_there_is_none():
    """It was counted as SDPA, and the settings said otherwise."""
    found = {
        model: estimate(model, technique="qlora", trainer="fsdp_qlora-2024-01")
        for model in ("mpt-7b", "llama-7b")
    }
    kernels = {model: e.settings["attn_implementation"] for model, e in found.items()}
    assert kernels == {"mpt-7b": "sdpa", "llama-7b": "flash_attention_2"}
    said = {model: [s for s in e.assumptions if "attn" in s] for model, e in found.items()}
    assert said == {
        "mpt-7b": ["attn_implementation sdpa: mpt has no FlashAttention"],
        "llama-7b": [],
    }


def test_a_mixture_is_named_alone():
    """Transformers' class stays as it is: it is every other model's too."""

    class Mixture:
        attribute_map: ClassVar[dict[str, str]] = {"size": "hidden_size"}
        num_local_experts = 4
        hidden_size = 64

        def __getattr__(self, name: str) -> Any:
            if name in type(self).attribute_map:
                return getattr(self, type(self).attribute_map[name])
            raise AttributeError(name)

    named, other = Mixture(), Mixture()
    name_experts(named)
    assert (named.num_experts, named.size) == (4, 64)
    assert not hasattr(other, "num_experts")
    assert Mixture.attribute_map == {"size": "hidden_size"}
    assert isinstance(copy.deepcopy(named), Mixture)
    assert copy.deepcopy(named).num_experts == 4
    assert vars(named) == {}


def test_lists_reach_peft_as_lists():
    """A frozen record holds tuples, and a tuple is one index of several dimensions."""
    options = {"technique": "trainable_tokens", "peft_config": {"token_indices": [5, 6]}}
    subject = settings_of(estimate("llama-7b", **options))
    made = adapter_config(subject, "llama", encoder_decoder=False)
    assert made.options["token_indices"] == [5, 6]
    assert type(made.options["token_indices"]) is list
