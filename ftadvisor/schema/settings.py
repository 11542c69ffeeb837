"""Everything that is chosen for one training run, resolved: no default is left open here.

Numeric fields hold plain numbers, or numpy arrays of one shape when many settings are evaluated at
once; the formulas in `estimation` do not distinguish.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Dtype = Literal["fp32", "bf16", "fp16"]
Autocast = Literal["none", "bf16", "fp16"]
Precision = Literal["bf16", "fp16", "amp-bf16", "amp-fp16", "fp32", "fp8"]
"""Presets of weights_dtype and autocast; no field of its own."""
Quantization = Literal["none", "nf4", "nf4-dq", "int8", "gptq-int4", "gptq-int8", "awq-int4"]
Checkpointing = Literal["none", "full", "selective"]
AttnImplementation = Literal["eager", "sdpa", "flash_attention_2"]
ALL_LINEAR = "all-linear"
"""In the place of the names of adapted modules: every linear layer but the head (PEFT's word)."""
Strategy = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp", "fsdp-shard-grad-op"]
FSDP = ("fsdp", "fsdp-shard-grad-op")
"""Of the strategies those that torch divides with."""
ZERO = ("zero1", "zero2", "zero3")
"""Those that DeepSpeed divides with: optimizer states, gradients too, weights too."""
Objective = Literal[
    "sft", "clm", "cpt", "seq_cls", "token_cls", "seq2seq", "distillation",
    "reward", "dpo", "kto", "orpo", "grpo", "rloo", "ppo",
]  # fmt: skip
LossKernel = Literal["torch", "inplace", "fused_linear", "chunked"]

MAX_TARGET_LENGTH = 128
"""The default of Transformers' summarization and translation examples [tokens]."""

Number = Any
"""A float, an int, or a numpy array of them: the arithmetic is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One training run's settings, in the spelling of Transformers, PEFT, TRL and DeepSpeed."""

    technique: str
    """What is trained, in PEFT's spelling: full, lora, qlora, ..."""
    objective: Objective = "sft"
    micro_batch_size: Number = 1
    """Sequences per GPU in one forward pass."""
    gradient_accumulation_steps: Number = 1
    max_length: Number = 1024
    """Tokens per sequence after truncation or packing."""
    packing: bool = False
    mean_length: Number = 0.0
    """Unpadded tokens per sequence, on average [tokens]."""
    mean_padded_length: Number = 0.0
    """Tokens per sequence with padding, on average: what is really computed."""
    longest_length: Number = 0
    """Tokens of the longest padded sequence that is really run: the peak follows it."""
    typical_length: Number = 0
    """Tokens per sequence of the median padded batch: how far lengths vary decides how much of the
    allocator's cache can be used again. 0: every batch is as long as the longest."""
    weights_dtype: Dtype = "bf16"
    """What the base weights (the trained weights, for full) are stored in."""
    autocast: Autocast = "none"
    fp8: bool = False
    """The layers' matrix products run in fp8 (Transformer Engine, torchao)."""
    adapter_dtype: Dtype = "fp32"
    quantization: Quantization = "none"
    quantization_group_size: int = 128
    """Weights that share a scale (GPTQ, AWQ); -1: a whole row."""
    prepare_kbit: bool | None = None
    """What a quantised base leaves unquantised goes to fp32 (PEFT's
    prepare_model_for_kbit_training); None: as the trainer does."""
    optim: str = "adamw_torch_fused"
    gradient_checkpointing: Checkpointing = "none"
    attn_implementation: AttnImplementation = "sdpa"
    lora_r: Number = 16
    lora_alpha: Number = 32
    lora_dropout: float = 0.0
    lora_target_modules: tuple[str, ...] = ()
    """Suffixes of module names, as in PEFT; empty: the technique's default for the model."""
    peft_config: dict[str, Any] = field(default_factory=dict[str, Any])
    """The technique's further options, in PEFT's own names."""
    max_grad_norm: float = 1.0
    """Gradient clipping; 0: none."""
    loss_kernel: LossKernel = "torch"
    fused_norm: bool = False
    """RMSNorm by a fused kernel (Liger, unsloth): keeps its input only."""
    fused_mlp: bool = False
    """Gate and activation by a fused kernel (Liger's SwiGLU): keeps its inputs only."""
    fused_lora: bool = False
    """LoRA by a fused kernel (unsloth, foak): shared input, adapters not sharded."""
    num_gpus: Number = 1
    strategy: Strategy = "none"
    offload_optimizer: bool = False
    offload_params: bool = False
    num_generations: int = 8
    """Completions per prompt (GRPO, RLOO)."""
    max_completion_length: Number = 512
    reference_model: bool = False
    """A second frozen copy of the model is kept (DPO, KTO, GRPO with beta > 0 on full)."""
    max_target_length: Number = MAX_TARGET_LENGTH
    """Tokens that an encoder-decoder's decoder reads; max_length is its source's."""
    num_images: Number = 0
    """Images per sequence (vision-language models)."""
