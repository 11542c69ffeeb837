"""What rules can ask about, taken from the records of a question."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ftadvisor.schema.dataset import DatasetProfile
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.situation import Facts, SizeClass
from ftadvisor.units import GIB

SMALL_BELOW, LARGE_ABOVE = 300e6, 3e9
"""Parameters: the size table of the document that ftadvisor grew from (data/rules/seed.json)."""
LABELLED_FORMATS = frozenset(
    {"instruction", "prompt_completion", "chat", "preference", "unpaired_preference", "labelled",
     "image_text"}
)  # fmt: skip
NON_LATIN_MULTILINGUAL = 0.2
"""From this share of letters outside the Latin script on, text counts as multilingual."""
ACCELERATORS: dict[str, Any] = {
    "amd": "rocm", "intel": "xpu", "habana": "hpu", "apple": "mps", "nvidia": "cuda",
}  # fmt: skip


def size_class(num_params: float) -> SizeClass:
    """small below 300M, medium to 3B, large above."""
    if num_params < SMALL_BELOW:
        return "small"
    return "medium" if num_params <= LARGE_ABOVE else "large"


def with_model(facts: Facts, model: ModelSpec, *, modality: str) -> Facts:
    """The facts of a model added."""
    family: Any = model.family if model.family in ("encoder", "encdec") else "decoder"
    kind: Any = modality
    return replace(
        facts,
        num_params=float(model.num_params),
        size_class=size_class(model.num_params),
        family=family,
        modality=kind,
    )


def with_gpu(facts: Facts, gpu: Gpu, num_gpus: int) -> Facts:
    """The facts of a GPU added."""
    return replace(
        facts,
        accelerator=ACCELERATORS.get(gpu.vendor.lower(), "cuda"),
        gpu_memory_gib=gpu.usable_bytes / GIB,
        has_bf16=gpu.has_bf16,
        num_gpus=float(num_gpus),
    )


def with_dataset(facts: Facts, profile: DatasetProfile) -> Facts:
    """The facts of a dataset added; what the person said outranks what was read."""
    lengths = profile.lengths
    classes = len(profile.class_counts)
    # A row that stands twice teaches nothing the second time.
    distinct = float(max(1, profile.num_examples - profile.duplicate_rows))
    read = {
        "data_format": profile.format,
        "has_labels": None if profile.format is None else profile.format in LABELLED_FORMATS,
        "num_examples": distinct,
        "mean_tokens": lengths.mean if lengths else None,
        "num_tokens": lengths.mean * profile.num_examples if lengths else None,
        "num_classes": float(classes) if classes else None,
        "examples_per_class": float(min(profile.class_counts.values())) if classes else None,
        "duplicate_share": profile.duplicate_rows / max(profile.num_rows, 1),
        "multilingual": profile.non_latin_share >= NON_LATIN_MULTILINGUAL or None,
    }
    return replace(facts, **{k: v for k, v in read.items() if getattr(facts, k) is None})
