"""Every option that more than one command takes, with its sentence: help and documents quote it.

`estimate` takes all of them; what is estimated in one place is recommended, simulated and run with
the same names elsewhere.
"""

from __future__ import annotations

from ftadvisor.cli.command import Group, Option
from ftadvisor.cli.values import mapping, number, text, whole

SUBJECT = Group(
    "Model and GPU",
    (
        Option(
            "model",
            text,
            "MODEL",
            "A name (llama-7b), a Hugging Face id, or a config.json or its directory.",
            also=("model_name", "model_name_or_path", "model_id", "base_model", "checkpoint"),
        ),
        Option(
            "gpu",
            text,
            "GPU",
            "A GPU, loosely spelt (rtx3060, h100-80gb). Without one: the memory, and the GPUs on "
            "which it fits.",
            also=("gpu_type", "gpu_name", "device", "card", "hardware", "accelerator"),
        ),
        Option(
            "num_gpus",
            whole,
            "N",
            "GPUs of this kind, one process each (default: 1).",
            also=("gpus", "num_processes", "nproc_per_node", "world_size", "gpu_count"),
        ),
    ),
)

TASK = Group(
    "What is trained, and what for",
    (
        Option(
            "technique",
            text,
            "T",
            "full, lora, qlora, prompt_tuning ... (`ftadvisor list techniques`). Without it: one "
            "line for each that makes sense.",
            also=("method", "peft_type", "peft_method", "peft", "mode", "finetuning_type"),
        ),
        Option(
            "objective",
            text,
            "O",
            "What the training is for (`ftadvisor list objectives`; default: sft).",
            choices="Objective",
            also=("task", "task_type", "stage", "loss_type", "use_case"),
        ),
        Option(
            "quantization",
            text,
            "Q",
            "What the frozen base is stored in.",
            choices="Quantization",
            also=("quant", "bits", "quantize", "load_in_4bit", "load_in_8bit", "quant_method"),
        ),
        Option("prepare_kbit", None, "", "What the base leaves unquantised goes to fp32 (PEFT)."),
        Option("lora_r", whole, "N", "Rank of the update.", also=("rank", "r", "lora_rank")),
        Option("lora_alpha", number, "X", "The update is scaled by lora_alpha / lora_r."),
        Option("lora_dropout", number, "P", "Dropout before the update.", also=("dropout",)),
        Option(
            "lora_target_modules",
            text,
            "NAME",
            "Layers that are adapted, by the end of their names (q_proj v_proj), or all-linear.",
            many=True,
            also=("target_modules", "lora_modules"),
        ),
        Option(
            "peft_config",
            mapping,
            "JSON",
            "The technique's further options in PEFT's own names: a JSON object, or a file with "
            "one.",
        ),
    ),
)

BATCH = Group(
    "Batch and sequence",
    (
        Option(
            "micro_batch_size",
            whole,
            "N",
            "Sequences per GPU in one forward pass.",
            also=(
                "batch_size",
                "bs",
                "per_device_train_batch_size",
                "train_micro_batch_size_per_gpu",
            ),
        ),
        Option(
            "gradient_accumulation_steps",
            whole,
            "N",
            "Micro-batches per optimizer step.",
            also=("grad_accum", "accumulation_steps", "gradient_accumulation"),
        ),
        Option(
            "max_length",
            whole,
            "TOKENS",
            "Tokens per sequence after truncation or packing.",
            also=("max_seq_length", "seq_len", "seq_length", "context_length", "block_size"),
        ),
        Option("packing", None, "", "Join samples to sequences of max_length.", also=("pack",)),
        Option("mean_length", number, "TOKENS", "Unpadded tokens per sequence, on average."),
        Option(
            "longest_length",
            whole,
            "TOKENS",
            "The longest padded sequence that is really run: the peak follows it.",
        ),
        Option("max_target_length", whole, "TOKENS", "Tokens of the target (encoder-decoders)."),
        Option("num_images", whole, "N", "Images per sequence (vision-language models)."),
    ),
)

NUMERICS = Group(
    "Precision, optimizer and kernels",
    (
        Option(
            "precision",
            text,
            "P",
            "A preset for the three below.",
            choices="Precision",
            also=("dtype", "torch_dtype", "bf16", "fp16", "mixed_precision", "fp8"),
        ),
        Option("weights_dtype", text, "D", "What the weights are stored in.", choices="Dtype"),
        Option("autocast", text, "D", "What the forward pass computes in.", choices="Autocast"),
        Option("adapter_dtype", text, "D", "What adapters are stored in.", choices="Dtype"),
        Option(
            "optim",
            text,
            "NAME",
            "The optimizer, as Transformers names it: adamw_torch_fused, adamw_8bit, adafactor ... "
            "(`ftadvisor list optimizers`).",
            also=("optimizer",),
        ),
        Option("max_grad_norm", number, "X", "Gradient clipping; 0: none.", also=("grad_clip",)),
        Option(
            "attn_implementation",
            text,
            "A",
            "The attention kernel.",
            choices="AttnImplementation",
            also=("attention", "flash_attn", "flash_attention", "use_flash_attention_2"),
        ),
        Option(
            "loss_kernel",
            text,
            "K",
            "How the loss is computed from the logits.",
            choices="LossKernel",
            also=("liger", "use_liger_kernel", "cross_entropy"),
        ),
        Option("fused_norm", None, "", "RMSNorm by a fused kernel (Liger, unsloth)."),
        Option("fused_mlp", None, "", "Gated MLP by a fused kernel (Liger's SwiGLU, GEGLU)."),
    ),
)

SAVING = Group(
    "Saving memory, and several GPUs",
    (
        Option(
            "gradient_checkpointing",
            text,
            "WHICH",
            "Recompute layers in backward; without a value: full.",
            choices="Checkpointing",
            bare="full",
            also=("recompute", "activation_checkpointing", "checkpointing"),
        ),
        Option(
            "strategy",
            text,
            "S",
            "How several GPUs share the model.",
            choices="Strategy",
            also=("zero_stage", "deepspeed", "fsdp", "ddp", "parallelism", "zero"),
        ),
        Option(
            "offload_optimizer", None, "", "Keep optimizer states on the CPU.", also=("offload",)
        ),
        Option("offload_params", None, "", "Keep parameters on the CPU.", also=("cpu_offload",)),
    ),
)

POLICY = Group(
    "Preference and reinforcement learning",
    (
        Option("num_generations", whole, "N", "Completions per prompt (grpo, rloo)."),
        Option("max_completion_length", whole, "TOKENS", "Tokens that are generated at most."),
        Option("reference_model", None, "", "Keep a second, frozen copy of the model."),
    ),
)

WORKLOAD = Group(
    "Trainer, workload and price",
    (
        Option(
            "trainer",
            text,
            "NAME",
            "Whose training loop runs (`ftadvisor list trainers`; default: trl-1.16).",
            also=("framework", "library"),
        ),
        Option(
            "dataset",
            text,
            "FILE",
            "Training data (.jsonl, .json, .csv, .txt, .parquet or a directory) whose size sets "
            "time and cost. Without it: Alpaca's size.",
            also=("data", "train_file", "dataset_name", "data_path"),
        ),
        Option(
            "num_tokens",
            whole,
            "N",
            "Tokens to train on in all, instead of a dataset.",
            also=("tokens", "num_train_tokens", "total_tokens"),
        ),
        Option(
            "num_train_epochs",
            number,
            "X",
            "Passes over the data.",
            also=("epochs", "num_epochs"),
        ),
        Option(
            "price",
            number,
            "USD",
            "Price of one GPU-hour, instead of the dated price list.",
            also=("usd_per_gpu_hour", "cost", "hourly_price", "price_per_hour"),
        ),
    ),
)

SETTINGS = (SUBJECT, TASK, BATCH, NUMERICS, SAVING, POLICY, WORKLOAD)
"""What a run is described with."""

JSON = Option("json", None, "", "Print JSON: the same numbers, in bytes, seconds and USD.")

SIMULATE = Option(
    "simulate",
    None,
    "",
    "Memory from the simulated step (`ftadvisor simulate`) instead of the closed form: slower, "
    "more exact, needs pip install 'ftadvisor[run]'.",
)

CALIBRATION = Option(
    "calibration",
    None,
    "",
    "--no-calibration: as if nothing had been measured on this machine (`ftadvisor calibration`).",
)
