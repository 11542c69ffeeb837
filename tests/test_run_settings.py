"""Every setting that a plan may hold arrives in the libraries' objects, or is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from execution_models import rows, write_rows
from test_run_input import NEEDS_STACK, model, refused

from ftadvisor.api.running import run
from ftadvisor.errors import FtadvisorError
from ftadvisor.execution import arguments, kernels
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.optimizers import optimizer_rows
from ftadvisor.sources.training_settings import PLAN_SETTINGS

__all__ = ["model"]

DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
CHECKPOINTING = {False: "none", True: "full"}


def lora(trainer: Any) -> Any:
    return trainer.model.peft_config["default"]


def dtype(tensor: Any) -> str:
    return DTYPES[str(tensor.dtype).removeprefix("torch.")]


def adapter(trainer: Any) -> Any:
    return next(p for n, p in trainer.model.named_parameters() if "lora_A" in n)


ARRIVES: dict[str, Callable[[Any], Any]] = {
    "learning_rate": lambda t: t.args.learning_rate,
    "lr_scheduler_type": lambda t: t.args.lr_scheduler_type.value,
    "warmup_steps": lambda t: t.args.warmup_steps,
    "weight_decay": lambda t: t.args.weight_decay,
    "num_train_epochs": lambda t: t.args.num_train_epochs,
    "micro_batch_size": lambda t: t.args.per_device_train_batch_size,
    "gradient_accumulation_steps": lambda t: t.args.gradient_accumulation_steps,
    "global_batch_size": lambda t: t.args.train_batch_size * t.args.gradient_accumulation_steps,
    "max_length": lambda t: t.args.max_length,
    "packing": lambda t: t.args.packing,
    "optim": lambda t: t.args.optim.value,
    "max_grad_norm": lambda t: t.args.max_grad_norm,
    "autocast": lambda t: "bf16" if t.args.bf16 else "fp16" if t.args.fp16 else "none",
    "weights_dtype": lambda t: dtype(t.model.get_input_embeddings().weight),
    "adapter_dtype": lambda t: dtype(adapter(t)),
    "attn_implementation": lambda t: t.model.config._attn_implementation,
    "gradient_checkpointing": lambda t: CHECKPOINTING[t.args.activation_checkpointing],
    "quantization": lambda t: {
        (True, True): "nf4-dq", (True, False): "nf4",
    }[(t.model.is_loaded_in_4bit,
       t.model.config.quantization_config.bnb_4bit_use_double_quant)],
    "prepare_kbit": lambda t: dtype(t.model.get_input_embeddings().weight) == "fp32",
    "lora_r": lambda t: lora(t).r,
    "lora_alpha": lambda t: lora(t).lora_alpha,
    "lora_dropout": lambda t: lora(t).lora_dropout,
    "lora_target_modules": lambda t: tuple(sorted(lora(t).target_modules)),
    "peft_config": lambda t: {"init_lora_weights": lora(t).init_lora_weights},
    "max_target_length": lambda t: max(len(row["labels"]) for row in t.train_dataset),
    "beta": lambda t: t.beta,
    "lmbda": lambda t: t.lmbda,
    "teacher_model": lambda t: t.teacher_model.config._name_or_path,
    "max_completion_length": lambda t: t.args.max_completion_length,
}  # fmt: skip
ELSEWHERE = {
    "precision": "a preset of weights_dtype and autocast; fp8 is refused",
    "loss_kernel": "the trainer has one; others are refused",
    "fused_norm": "Liger's, which runs on GPUs: its options and refusals are tested below",
    "fused_mlp": "as fused_norm",
    "mean_length": "describes the data, for the estimate",
    "longest_length": "describes the data, for the estimate",
    "num_images": "describes the data, for the estimate; the rows have the images",
    "trainer": "another than the one that runs is refused",
    "price": "for the estimate's cost",
    "strategy": "how processes share the model: tested where they are started",
    "offload_optimizer": "as strategy",
    "offload_params": "as strategy",
    "num_generations": "of policy optimisation: tested with it",
}
"""Settings that are in no trainer's object here, and why."""
PLAIN = {"precision": "fp32", "max_steps": 1, "eval_share": 0.0}
SFT: dict[str, Any] = {
    "technique": "lora", "weights_dtype": "fp32", "autocast": "bf16", "adapter_dtype": "bf16",
    "micro_batch_size": 2, "gradient_accumulation_steps": 3, "global_batch_size": 6,
    "max_length": 48, "packing": True, "optim": "adafactor", "max_grad_norm": 0.5,
    "attn_implementation": "eager", "gradient_checkpointing": "full", "lora_r": 3,
    "lora_alpha": 5, "lora_dropout": 0.125, "lora_target_modules": ("k_proj", "up_proj"),
    "peft_config": {"init_lora_weights": "gaussian"}, "learning_rate": 3e-4,
    "lr_scheduler_type": "cosine", "warmup_steps": 0.25, "weight_decay": 0.02,
    "num_train_epochs": 2.0,
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "sft": SFT,
    "clm": {"technique": "qlora", "quantization": "nf4-dq", "prepare_kbit": True,
            "gradient_checkpointing": "none", "packing": False},
    "seq2seq": {"technique": "full", **PLAIN, "max_target_length": 4},
    "distillation": {"technique": "lora", **PLAIN, "beta": 0.25, "lmbda": 0.5,
                     "max_completion_length": 7},
}  # fmt: skip


class Made(BaseException):
    """The trainer is made: enough was seen. No Exception, which a run would report as a failure."""


def test_every_setting_is_looked_at():
    tried = {name for case in CASES.values() for name in case} | {"teacher_model"}
    assert set(PLAN_SETTINGS) == {*ARRIVES, *ELSEWHERE}
    assert not ARRIVES.keys() & ELSEWHERE.keys()
    assert ARRIVES.keys() <= tried


@pytest.mark.slow
@pytest.mark.parametrize("objective", CASES)
def test_a_setting_arrives(
    models: dict[str, Path], tmp_path: Path, objective: str, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("trl")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from ftadvisor.execution.trainers import BUILDERS

    real, made = BUILDERS[objective], list[Any]()

    def spied(of: Any) -> Any:
        made.append(real(of))
        raise Made

    monkeypatch.setitem(BUILDERS, objective, spied)
    name = "sft" if objective == "distillation" else objective
    given = dict(CASES[objective])
    if objective == "distillation":
        given["teacher_model"] = str(models["decoder"])
    data = write_rows(tmp_path / "r.jsonl", rows(name))
    model_of = models["encdec" if objective == "seq2seq" else "decoder"]
    with pytest.raises(Made):
        run(
            model=str(model_of), objective=objective, dataset=str(data),
            output_dir=tmp_path / "out", **given,
        )  # fmt: skip
    (trainer,) = made
    wanted = {setting: value for setting, value in given.items() if setting in ARRIVES}
    assert {setting: ARRIVES[setting](trainer) for setting in wanted} == wanted


@pytest.mark.slow
def test_transformers_knows_every_optimizer():
    pytest.importorskip("transformers")
    from transformers.training_args import OptimizerNames

    for name in optimizer_rows():
        OptimizerNames(arguments.OPTIMIZERS.get(name, name))


def test_ligers_kernels_are_those_that_were_asked_for():
    assert kernels.liger_options(Settings(technique="lora")) == {}
    found = kernels.liger_options(Settings(technique="lora", fused_norm=True))
    on = {name for name, value in found["liger_kernel_config"].items() if value}
    assert found["use_liger_kernel"]
    assert on == {"rms_norm", "layer_norm"}


def says(model: Path, **config: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": config}))


GPTQ = {"quant_method": "gptq", "bits": 4}


@NEEDS_STACK
@pytest.mark.parametrize(
    ("stored", "options", "said"),
    [
        ({}, {"precision": "fp8"}, "fp8"),
        ({}, {"fused_norm": True}, "pip install liger-kernel"),
        ({}, {"fused_mlp": True}, "fused_mlp needs liger-kernel"),
        (
            {},
            {"attn_implementation": "flash_attention_2", "precision": "bf16"},
            "pip install flash",
        ),
        ({}, {"loss_kernel": "fused_linear"}, "--loss-kernel chunked"),
        ({}, {"quantization": "gptq-int4"}, "it is not quantised"),
        (GPTQ, {}, "is quantised already"),
        (GPTQ, {}, "--quantization gptq-int4"),
        (GPTQ, {"quantization": "nf4"}, "is quantised already (gptq, 4 bits)"),
        ({**GPTQ, "bits": 8}, {"quantization": "gptq-int4"}, "otherwise (gptq, 8 bits)"),
        (GPTQ, {"quantization": "gptq-int4"}, "pip install gptqmodel optimum"),
        ({**GPTQ, "quant_method": "awq"}, {"quantization": "awq-int4"}, "pip install gptqmodel"),
        ({"quant_method": "fp8"}, {}, "the original checkpoint"),
    ],
)
def test_refused_by_name(
    model: Path, tmp_path: Path, stored: dict[str, Any], options: dict[str, Any], said: str
):
    if any(map(find_spec, ("liger_kernel", "flash_attn", "kernels", "gptqmodel"))):
        pytest.skip("one of the packages that are missed is here")
    if stored:
        says(model, **stored)
    data = write_rows(tmp_path / "r.jsonl", rows("sft", 5))
    error = refused(model, data, objective="sft", **options)
    assert said in f"{error} {' '.join(error.suggestions)}"


@NEEDS_STACK
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "teacher_model is missing"),
        ({"teacher_model": "other"}, "vocabulary of 700"),
        ({"teacher_model": "same", "technique": "prompt_tuning"}, "virtual tokens"),
        ({"teacher_model": "same", "beta": 2.0}, "from 0 (forward"),
        ({"teacher_model": "same", "lmbda": 0.5}, "rows have none"),
        ({"teacher_model": "same", "objective": "sft"}, "belongs to distillation"),
        ({"teacher_model": "same", "lora_target_modules": ["q_proj", "lm_head"]}, "lm_head"),
    ],
)
def test_a_teacher_that_cannot_be_followed(
    model: Path, tmp_path: Path, options: dict[str, Any], said: str
):
    config = json.loads((model / "config.json").read_text())
    for name, size in (("same", 600), ("other", 700)):
        (tmp_path / name).mkdir()
        text = json.dumps({**config, "vocab_size": size})
        (tmp_path / name / "config.json").write_text(text)
    if "teacher_model" in options:
        options = {**options, "teacher_model": str(tmp_path / options["teacher_model"])}
    asked = [{"prompt": f"What is {i}?"} for i in range(5)]
    data = write_rows(tmp_path / "r.jsonl", asked if options.get("objective") != "sft" else [
        {"text": "one"}] * 5)  # fmt: skip
    error = refused(model, data, **{"objective": "distillation", **options})
    assert isinstance(error, FtadvisorError)
    assert said in str(error)
