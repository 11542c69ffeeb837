"""What a bottleneck adapter is made of, and what its adapter_config.json holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftadvisor.execution import stack

PEFT_TYPE = "BOTTLENECK"
PLACEMENTS = ("pfeiffer", "houlsby")

PeftConfig: Any = stack.peft.PeftConfig


@dataclass
class BottleneckConfig(PeftConfig):
    """PEFT's common fields and these; data/techniques.json has the defaults' sources."""

    adapter_length: int = 128
    """Width of the bottleneck: features between its two matrices."""
    placement: str = "pfeiffer"
    """`pfeiffer`: after each feed-forward part (arXiv:2005.00247); `houlsby`: after each
    self-attention too (arXiv:1902.00751)."""
    target_modules: Any = None
    """Names of modules, or a regular expression of theirs; None: found by the placement."""
    modules_to_save: list[str] | None = None
    """Trained whole beside the adapters: heads."""

    def __post_init__(self) -> None:
        PeftConfig.__post_init__(self)
        self.peft_type = PEFT_TYPE
        if self.placement not in PLACEMENTS:
            raise ValueError(f"placement must be one of {', '.join(PLACEMENTS)}")
