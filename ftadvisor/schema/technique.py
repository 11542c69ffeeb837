"""A fine-tuning technique: what it trains, and what PEFT calls its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Technique:
    """One row of `data/techniques.json`."""

    id: str
    """In PEFT's spelling: full, lora, qlora, prefix_tuning, ..."""
    name: str
    """For people: "QLoRA"."""
    sentence: str
    """What it does, one line."""
    family: Literal["full", "lora", "reparameterized", "prompt", "selective", "adapter"]
    settings: dict[str, Any]
    """Defaults, in the names of `schema.settings.Settings` (lora_r, lora_alpha, quantization,
    peft_config, ...)."""
    trains_base: bool
    """The base's own weights train (all, or blocks of them)."""
    forbids_checkpointing: bool
    """PEFT refuses gradient checkpointing with it."""
    quantizable: bool
    """Works on a base quantised by bitsandbytes."""
    sensible: bool
    """Shown in the table of `ftadvisor estimate` without --technique."""
    source: str
