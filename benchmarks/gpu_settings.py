"""What `measure_gpu.py` runs, most telling first: it stops where its time is over."""

from __future__ import annotations

from typing import Any

ALL = "all-linear"
"""Every linear layer but the head, as PEFT spells it."""
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LATENT = ["q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]

TRL: dict[str, Any] = {"program": "trl"}
"""TRL's SFTTrainer: fused head, and checkpointing unless `gradient_checkpointing` says no."""
TRAINER: dict[str, Any] = {"program": "transformers"}
"""Transformers' Trainer: the model's own loss."""
LORA: dict[str, Any] = {"technique": "lora", "lora_r": 16, "lora_target_modules": ALL}
QLORA: dict[str, Any] = {**LORA, "technique": "qlora", "quantization": "nf4"}
FULL: dict[str, Any] = {"technique": "full", "weights": "bf16", "autocast": False}
MIXED: dict[str, Any] = {"technique": "full", "weights": "fp32", "autocast": True}
PLAIN: dict[str, Any] = {"gradient_checkpointing": False}
SLICES: dict[str, Any] = {"slices": (2, 4)}
"""Measured again with so few layers, for what one layer costs."""

SMOLLM, LLAMA_1B = "HuggingFaceTB/SmolLM2-135M", "meta-llama/Llama-3.2-1B"
LLAMA_3B, LLAMA_8B = "meta-llama/Llama-3.2-3B", "meta-llama/Meta-Llama-3.1-8B"
QWEN_SMALL, QWEN3 = "Qwen/Qwen2.5-0.5B", "Qwen/Qwen3-4B-Base"


def _at(model: str, micro_batch_size: int, max_length: int, *parts: dict[str, Any], **more: Any):
    """One setting; later parts win."""
    row: dict[str, Any] = {"model": model, "micro_batch_size": micro_batch_size}
    row["max_length"] = max_length
    for part in parts:
        row |= part
    return row | more


def _methods() -> list[dict[str, Any]]:
    """Each of PEFT's techniques on one model, with the defaults of PEFT or of the papers."""
    linear = {"target_modules": ALL}
    narrow = {"target_modules": ["q_proj", "v_proj"]}
    configs: dict[str, dict[str, Any]] = {
        "dora": {"r": 16, **linear}, "ia3": {}, "vera": {"r": 64, **narrow},
        "loha": {"r": 16, **narrow}, "lokr": {"r": 16, **narrow}, "oft": {"oft_block_size": 32, **linear},
        "adalora": {"init_r": 12, "target_r": 8, "total_step": 100, **linear},
        "boft": {"boft_block_size": 4, **narrow}, "ln_tuning": {},
        "adaption_prompt": {"adapter_len": 10, "adapter_layers": 8},
        "prefix_tuning": {"num_virtual_tokens": 32}, "prompt_tuning": {"num_virtual_tokens": 32},
        "p_tuning": {"num_virtual_tokens": 32, "encoder_hidden_size": 512},
        "rslora": {"r": 64, **linear}, "fourierft": {"n_frequency": 1000, **narrow},
        "randlora": {"r": 32, **linear}, "hra": {"r": 8, **linear}, "vblora": {"r": 4, **narrow},
        "miss": {"r": 32, **linear}, "c3a": {"block_size": 64, **narrow}, "road": {**linear},
        "shira": {"r": 32, **linear},
    }  # fmt: skip
    return [
        _at(LLAMA_1B, 4, 1024, TRAINER, PLAIN, technique=name, peft_config=config)
        for name, config in configs.items()
    ]


def _decoders() -> list[dict[str, Any]]:
    """Sizes, families and programs: where most runs are."""
    return [
        _at(LLAMA_1B, 4, 1024, TRAINER, PLAIN, LORA, SLICES),
        _at(LLAMA_1B, 8, 1024, TRL, LORA, SLICES),
        _at(LLAMA_8B, 2, 2048, TRL, LORA, SLICES),
        _at(LLAMA_8B, 4, 1024, TRL, QLORA, SLICES),
        _at(LLAMA_1B, 4, 1024, TRL, MIXED, SLICES),
        _at(QWEN_SMALL, 8, 1024, TRAINER, PLAIN, FULL, SLICES),
        _at(LLAMA_3B, 4, 681, TRAINER, PLAIN, LORA, lora_r=32, lora_target_modules=["q_proj", "v_proj"]),
        _at(LLAMA_3B, 2, 4096, TRL, LORA),
        _at(LLAMA_8B, 1, 8192, TRL, LORA),
        _at(LLAMA_1B, 8, 1024, TRL, PLAIN, FULL, SLICES),
        _at("mistralai/Mistral-7B-v0.1", 4, 1024, TRAINER, LORA, gradient_checkpointing=True),
        _at(QWEN3, 4, 1024, TRL, PLAIN, LORA, SLICES),
        _at("Qwen/Qwen2.5-7B", 1, 2048, TRAINER, PLAIN, LORA),
        _at("Qwen/Qwen2.5-14B", 2, 2048, TRL, QLORA, quantization="nf4-dq"),
        _at(LLAMA_8B, 2, 1024, TRL, QLORA, quantization="int8"),
        _at("google/gemma-2-2b", 2, 1024, TRAINER, LORA, attn_implementation="eager", slices=(2, 4)),
        _at("google/gemma-3-1b-it", 4, 1024, TRAINER, PLAIN, FULL),
        _at(SMOLLM, 16, 512, TRL, PLAIN, MIXED, SLICES),
        _at(SMOLLM, 1, 512, TRAINER, PLAIN, LORA, SLICES),
        _at("microsoft/Phi-3-mini-4k-instruct", 4, 1024, TRL, LORA, SLICES),
        _at("allenai/OLMoE-1B-7B-0924", 4, 1024, TRAINER, PLAIN, LORA, SLICES, lora_target_modules=ATTENTION),
        _at("openai-community/gpt2-large", 8, 512, TRAINER, PLAIN, MIXED, SLICES),
        _at("EleutherAI/pythia-1.4b", 8, 1024, TRAINER, FULL, gradient_checkpointing=True, slices=(2, 4)),
        _at("facebook/opt-1.3b", 8, 512, TRAINER, PLAIN, LORA),
        _at("bigscience/bloom-1b1", 4, 512, TRAINER, PLAIN, LORA, attn_implementation="eager"),
        _at("tiiuae/falcon-7b", 2, 1024, TRAINER, LORA, gradient_checkpointing=True),
        _at("deepseek-ai/DeepSeek-V2-Lite", 1, 1024, TRL, LORA, SLICES, lora_target_modules=LATENT),
        _at("Qwen/Qwen3-30B-A3B", 1, 1024, TRL, LORA, lora_target_modules=ATTENTION),
    ]  # fmt: skip


def _others() -> list[dict[str, Any]]:
    """Encoders, encoder-decoders, optimizers, padding, accumulation, and what cannot fit."""
    classify = {**TRAINER, **PLAIN, "objective": "seq_cls"}
    translate = {**TRAINER, **PLAIN, "objective": "seq2seq", "max_target_length": 128}
    return [
        _at("google-bert/bert-base-uncased", 32, 128, classify, MIXED, SLICES),
        _at("FacebookAI/roberta-large", 16, 256, classify, LORA, lora_r=8, slices=(2, 4)),
        _at("answerdotai/ModernBERT-base", 16, 512, classify, FULL),
        _at("microsoft/deberta-v3-base", 16, 256, classify, MIXED),
        _at("google-t5/t5-base", 16, 256, translate, MIXED, SLICES),
        _at("google/flan-t5-large", 8, 256, translate, LORA),
        _at("facebook/bart-large", 8, 256, translate, MIXED),
        _at(LLAMA_1B, 8, 1024, TRAINER, PLAIN, LORA, padded=True, slices=(2, 4)),
        _at(LLAMA_1B, 8, 1024, TRL, LORA, padded=True),
        _at(LLAMA_1B, 4, 2048, TRL, LORA, packing=True),
        _at(LLAMA_1B, 4, 1024, TRL, PLAIN, FULL, optim="adamw_torch", gradient_accumulation_steps=4),
        _at(LLAMA_1B, 4, 1024, TRL, PLAIN, FULL, optim="adamw_8bit"),
        _at(LLAMA_1B, 4, 1024, TRL, PLAIN, FULL, optim="adafactor"),
        _at(LLAMA_1B, 4, 1024, TRL, PLAIN, FULL, optim="sgd"),
        _at(LLAMA_1B, 16, 256, TRAINER, PLAIN, LORA),
        _at(LLAMA_1B, 1, 8192, TRAINER, PLAIN, LORA),
        _at(LLAMA_8B, 4, 4096, TRL, PLAIN, LORA),
        _at(LLAMA_8B, 1, 1024, TRL, MIXED),
        _at(LLAMA_1B, 4, 1024, TRL, LORA, objective="dpo"),
    ]  # fmt: skip


def settings() -> list[dict[str, Any]]:
    """All of them, each with an id that says what it is."""
    decoders, others, methods = _decoders(), _others(), _methods()
    rows = [
        *decoders[:16],
        *others[:10],
        *decoders[16:],
        *methods[:13],
        *others[10:],
        *methods[13:],
    ]
    for number, row in enumerate(rows):
        model = row["model"].split("/")[-1].lower()
        row["id"] = (
            f"{number:02d}-{model}-{row['technique']}-{row['micro_batch_size']}x{row['max_length']}"
        )
    return rows
