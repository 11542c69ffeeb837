"""What is known when a plan is asked for: the person's wishes and what their model and data are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ftadvisor.schema.dataset import DataFormat

UseCase = Literal[
    "instruction", "chat", "classification", "generation", "summarization", "translation",
    "multimodal", "domain", "alignment", "reasoning", "code", "embedding",
]  # fmt: skip
Goal = Literal["quality", "time", "cost", "memory", "balanced"]
SizeClass = Literal["small", "medium", "large"]
Accelerator = Literal["cuda", "rocm", "xpu", "hpu", "mps", "cpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the rules' conditions can ask about; None: not known, and no condition on it holds.

    The first part is of the question; the last is of one candidate plan.
    """

    num_params: float | None = None
    size_class: SizeClass | None = None
    family: Literal["decoder", "encoder", "encdec"] | None = None
    modality: Literal["text", "vision"] | None = None
    use_case: UseCase | None = None
    data_format: DataFormat | None = None
    has_labels: bool | None = None
    num_examples: float | None = None
    num_tokens: float | None = None
    """Of one pass over the data."""
    mean_tokens: float | None = None
    examples_per_class: float | None = None
    """Of the smallest class."""
    num_classes: float | None = None
    duplicate_share: float | None = None
    multilingual: bool | None = None
    keep_abilities: bool | None = None
    goal: Goal | None = None
    accelerator: Accelerator | None = None
    gpu_memory_gib: float | None = None
    has_bf16: bool | None = None
    num_gpus: float | None = None
    budget_usd: float | None = None
    deadline_hours: float | None = None

    fits_unquantized: bool | None = None
    """LoRA on the base in 16 bits fits, within budget and deadline."""

    objective: str | None = None
    technique: str | None = None
    quantization: str | None = None
    lora_r: float | None = None
    num_steps: float | None = None
    """Optimizer steps of the whole run."""
    global_batch_size: float | None = None
