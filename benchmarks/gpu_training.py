"""Build one setting's model and data, train a few steps with the real trainer, measure."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from statistics import median, pstdev
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

WARM_UP_STEPS, TIMED_STEPS = 2, 10
ENOUGH_SECONDS = 5.0
"""After so long, a run with three timed steps is stopped."""
GIB = 2**30
CLASSES = {"seq_cls": AutoModelForSequenceClassification, "seq2seq": AutoModelForSeq2SeqLM}
TASKS = {"seq_cls": "SEQ_CLS", "seq2seq": "SEQ_2_SEQ_LM"}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SHORT_SAMPLE_TOKENS = 300
"""Samples that packing joins."""


def measured(
    setting: dict[str, Any], config: dict[str, Any], trace: bool = False
) -> dict[str, Any]:
    """Peak memory and step times, or that it ran out of memory."""
    cuda = torch.cuda.is_available()
    try:
        trainer, clock = trainer_of(setting, config, trace)
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    except torch.OutOfMemoryError as error:
        return {"oom": True, "memory_gib": None, "notes": str(error)[:200]}
    found = clock.times(setting.get("gradient_accumulation_steps", 1)) | lengths(setting)
    model = trainer.model
    found["num_trainable_params"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found["oom"] = False
    if cuda:
        found |= {
            "memory_gib": torch.cuda.max_memory_allocated() / GIB,
            "memory_gib_reserved": torch.cuda.max_memory_reserved() / GIB,
            "memory_gib_device": device_bytes() / GIB,
            "memory_gib_between_steps": clock.between_bytes / GIB,
        }
    if clock.events:
        found["allocations"] = clock.events
    return found


def device_bytes() -> int:
    """What the driver has given to this process, or in all where it does not say."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
        if process.pid == os.getpid() and process.usedGpuMemory:
            return process.usedGpuMemory
    free, total = torch.cuda.mem_get_info()
    return total - free


def lengths(setting: dict[str, Any]) -> dict[str, Any]:
    """What was fed, in the words of data/measurements/FORMAT.md."""
    if setting.get("padded"):
        sizes = padded_lengths(setting)
        return {
            "longest_sequence_tokens": max(sizes),
            "mean_tokens_per_sample": sum(sizes) / len(sizes),
        }
    return {}


def padded_lengths(setting: dict[str, Any]) -> list[int]:
    """Of one batch: evenly from three tenths of the longest to the longest."""
    count, longest = setting["micro_batch_size"], setting["max_length"]
    return [round(longest * (1 - 0.7 * i / max(count - 1, 1))) for i in range(count)]


class Clock(TrainerCallback):
    """Step times, what stays allocated between steps, and the last step's allocations."""

    def __init__(self, trace: bool) -> None:
        self.ends: list[float] = []
        self.between_bytes = 0
        self.trace, self.tracing = trace and torch.cuda.is_available(), False
        self.events: list[Any] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.between_bytes = max(self.between_bytes, torch.cuda.memory_allocated())
        self.ends.append(time.perf_counter())
        timed = len(self.ends) - WARM_UP_STEPS
        over = timed >= 3 and self.ends[-1] - self.ends[0] > ENOUGH_SECONDS
        if self.tracing:
            self.events = allocations()
            control.should_training_stop = True
        elif self.trace and (over or timed >= TIMED_STEPS - 1):
            torch.cuda.memory._record_memory_history(context="alloc", stacks="python")
            self.tracing = True
        elif over:
            control.should_training_stop = True

    def times(self, accumulation: int) -> dict[str, Any]:
        """Of the timed steps; the traced one is none of them."""
        ends = self.ends[:-1] if self.events else self.ends
        steps = [b - a for a, b in pairwise(ends)][WARM_UP_STEPS - 1 :]
        return {
            "micro_step_seconds": median(steps) / accumulation,
            "step_seconds": median(steps),
            "step_seconds_spread": pstdev(steps) / median(steps),
            "num_timed_steps": len(steps),
        }


def allocations() -> list[Any]:
    """[action, address, bytes, innermost frame outside torch's own autograd] of each event."""
    snapshot = torch.cuda.memory._snapshot()
    torch.cuda.memory._record_memory_history(enabled=None)
    found = []
    for event in snapshot["device_traces"][0]:
        frames = [
            f"{os.path.basename(f['filename'])}:{f['line']}:{f['name']}"
            for f in event.get("frames", ())[:3]
        ]
        found.append([event["action"], event.get("addr", 0), event["size"], frames])
    return [found, [segment(s) for s in snapshot["segments"]]]


def segment(found: dict[str, Any]) -> list[Any]:
    """[address, bytes, its blocks]."""
    blocks = [[b["size"], b["state"], b.get("requested_size")] for b in found["blocks"]]
    return [found["address"], found["total_size"], blocks]


def trainer_of(setting: dict[str, Any], config: dict[str, Any], trace: bool) -> tuple[Any, Clock]:
    """The real trainer, ready to train, and the clock that it will call."""
    model = model_of(setting, config)
    adapter = adapter_of(setting)
    clock = Clock(trace)
    build = trl_trainer if setting["program"] == "trl" else plain_trainer
    trainer = build(setting, model, adapter, clock)
    rows = trainer.train_dataset
    trainer._get_train_sampler = lambda *_: SequentialSampler(rows)
    return trainer, clock


def model_of(setting: dict[str, Any], config: dict[str, Any]) -> Any:
    """Random weights; a quantised base goes through Transformers' own loading."""
    values = {k: v for k, v in config.items() if not k.startswith("_")}
    made = CONFIG_MAPPING[values.pop("model_type")](**values)
    objective = setting.get("objective")
    if objective == "seq_cls":
        made.num_labels = 2
    made.pad_token_id = 0
    if objective == "seq2seq" and getattr(made, "decoder_start_token_id", None) is None:
        made.decoder_start_token_id = 0
    loader = CLASSES.get(objective, AutoModelForCausalLM)
    dtype = DTYPES[setting.get("weights", "bf16")]
    attention = setting.get("attn_implementation", "sdpa")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    quantization = setting.get("quantization", "none")
    if quantization == "none":
        if "deberta" in setting["model"]:
            attention = "eager"
        with torch.device(device):
            return loader.from_config(made, dtype=dtype, attn_implementation=attention)
    bits = (
        BitsAndBytesConfig(load_in_8bit=True)
        if quantization == "int8"
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_use_double_quant=quantization == "nf4-dq",
        )
    )
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in loader.from_config(made).state_dict().items()}
    noise = torch.randn(max(s.numel() for s in shapes.values()), device=device, dtype=dtype) * 0.02
    weights = {n: noise[: s.numel()].view(s).clone() for n, s in shapes.items()}
    kind = loader._model_mapping[type(made)]
    return kind.from_pretrained(
        None, config=made, state_dict=weights, quantization_config=bits, dtype=dtype,
        attn_implementation=attention, device_map={"": device},
    )  # fmt: skip


def adapter_of(setting: dict[str, Any]) -> Any:
    """PEFT's configuration; None where the base itself is trained."""
    from peft import LoraConfig, PeftType, TaskType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    technique = setting["technique"]
    if technique == "full":
        return None
    options = dict(setting.get("peft_config", {}))
    options["task_type"] = TaskType[TASKS.get(setting.get("objective", ""), "CAUSAL_LM")]
    if technique in ("lora", "qlora", "rslora", "dora"):
        if setting.get("lora_r"):
            options |= {"r": setting["lora_r"], "target_modules": setting["lora_target_modules"]}
        switches = {"rslora": {"use_rslora": True}, "dora": {"use_dora": True}}
        return LoraConfig(**options, **switches.get(technique, {}))
    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[technique.upper()]](**options)


def common(setting: dict[str, Any]) -> dict[str, Any]:
    """Arguments that both trainers take."""
    cuda = torch.cuda.is_available()
    checkpointing = setting.get("gradient_checkpointing", setting["program"] == "trl")
    return {
        "output_dir": "out", "max_steps": WARM_UP_STEPS + (TIMED_STEPS if cuda else 1),
        "per_device_train_batch_size": setting["micro_batch_size"],
        "gradient_accumulation_steps": setting.get("gradient_accumulation_steps", 1),
        "bf16": setting.get("autocast", True), "optim": setting.get("optim", "adamw_torch_fused"),
        "gradient_checkpointing": checkpointing,
        "save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True,
        "use_cpu": not cuda, "remove_unused_columns": False,
    }  # fmt: skip


def plain_trainer(setting: dict[str, Any], model: Any, adapter: Any, clock: Clock) -> Any:
    if adapter is not None:
        from peft import get_peft_model

        model = get_peft_model(model, adapter)
        if setting.get("gradient_checkpointing"):
            model.enable_input_require_grads()
    arguments = TrainingArguments(**common(setting))
    return Trainer(
        model=model, args=arguments, train_dataset=examples(setting, arguments), callbacks=[clock],
        data_collator=padded,
    )  # fmt: skip


def padded(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """One batch, padded on the right to its longest row."""
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    batch: dict[str, torch.Tensor] = {}
    for key in rows[0]:
        longest = max(len(row[key]) for row in rows)
        values = [row[key] + [fill[key]] * (longest - len(row[key])) for row in rows]
        batch[key] = torch.tensor(values)
        if key == "labels" and longest == 1:
            batch[key] = batch[key][:, 0]
    return batch


def examples(setting: dict[str, Any], arguments: Any) -> list[dict[str, list[int]]]:
    """As many rows of random tokens as the run reads."""
    per_step = setting["micro_batch_size"] * setting.get("gradient_accumulation_steps", 1)
    sizes = padded_lengths(setting) if setting.get("padded") else [setting["max_length"]]
    objective = setting.get("objective")
    found = []
    for i in range(per_step * arguments.max_steps):
        ids = torch.randint(5, 500, (sizes[i % len(sizes)],)).tolist()
        row = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids}
        if objective == "seq_cls":
            row["labels"] = [i % 2]
        elif objective == "seq2seq":
            row["labels"] = ids[: setting["max_target_length"]]
        found.append(row)
    return found


def tokenizer() -> Any:
    """One word, one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, 500)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def trl_trainer(setting: dict[str, Any], model: Any, adapter: Any, clock: Clock) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    shared = {"max_length": setting["max_length"], **common(setting)}
    if setting.get("objective") == "dpo":
        arguments = DPOConfig(**shared)
        half = " ".join(["w7"] * (setting["max_length"] // 2))
        rows = [{"prompt": half, "chosen": half, "rejected": half}]
        data = Dataset.from_list(rows * (setting["micro_batch_size"] * arguments.max_steps))
        kind = DPOTrainer
    else:
        arguments = SFTConfig(**shared, packing=bool(setting.get("packing")))
        rows = examples(packed(setting), arguments)
        data = Dataset.from_list([{"input_ids": row["input_ids"]} for row in rows])
        kind = SFTTrainer
    return kind(
        model=model, args=arguments, train_dataset=data, processing_class=tokenizer(),
        peft_config=adapter, callbacks=[clock],
    )  # fmt: skip


def packed(setting: dict[str, Any]) -> dict[str, Any]:
    """For packing, more and shorter samples, of which several make one row."""
    if not setting.get("packing"):
        return setting
    per_row = setting["max_length"] // SHORT_SAMPLE_TOKENS + 1
    many = setting["micro_batch_size"] * per_row
    return {**setting, "micro_batch_size": many, "max_length": SHORT_SAMPLE_TOKENS}
