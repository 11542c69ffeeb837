"""What a question may say: the keyword arguments of `estimate`, and the command's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, TypedDict


class Options(TypedDict, total=False):
    """All optional; what is not given takes the trainer's default. Names as in `Settings`."""

    num_gpus: int
    quantization: str
    prepare_kbit: bool
    lora_r: int
    lora_alpha: float
    lora_dropout: float
    lora_target_modules: str | Sequence[str]
    peft_config: Mapping[str, Any]
    micro_batch_size: int
    gradient_accumulation_steps: int
    max_length: int
    packing: bool
    mean_length: float
    """Unpadded tokens per sequence, on average."""
    longest_length: int
    """Tokens of the longest padded sequence that is really run."""
    max_target_length: int
    """Tokens of the target (encoder-decoders); max_length is the source's."""
    num_images: int
    precision: str
    """A preset of weights_dtype and autocast: bf16, fp16, amp-bf16, amp-fp16, fp32, fp8."""
    weights_dtype: str
    autocast: str
    adapter_dtype: str
    optim: str
    max_grad_norm: float
    attn_implementation: str
    loss_kernel: str
    fused_norm: bool
    fused_mlp: bool
    gradient_checkpointing: str | bool
    strategy: str
    offload_optimizer: bool
    offload_params: bool
    num_generations: int
    max_completion_length: int
    reference_model: bool
    trainer: str
    dataset: str | PathLike[str]
    num_tokens: float
    """Tokens to train on in all, instead of a dataset."""
    num_train_epochs: float
    price: float
    """USD per GPU-hour, instead of the dated price list."""


class Wishes(Options, total=False):
    """What `recommend` takes besides: what the person wants and what is known of the data."""

    use_case: str
    labels: bool
    """Whether the data says what the right answer is."""
    goal: str
    """quality, time, cost, memory or balanced."""
    budget_usd: float
    deadline_hours: float
    rules: str | PathLike[str]
    """A YAML file with further rules."""
    languages: Sequence[str]
    keep_abilities: bool
    """What the model could do before must survive."""
    license: str
    """permissive, where a model is proposed."""
    size: str
    """small, medium or large, where a model is proposed."""
    num_examples: float
    data_format: str
    learning_rate: float
    global_batch_size: int
    """Sequences of an optimizer step, all GPUs."""
    seed: int
