"""What would make an impossible run possible."""

from __future__ import annotations

from typing import Any, NamedTuple


class Remedy(NamedTuple):
    """One change that makes an impossible run possible, estimated."""

    change: str
    """What to set: `quantization nf4`."""
    options: dict[str, Any]
    device_bytes: int
    verdict: str
    changes_objective: bool
    """What is learnt changes too, not only how."""
