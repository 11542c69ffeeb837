"""What a mixture's configuration calls the number of its experts."""

from __future__ import annotations

from typing import Any

from ftadvisor.configuration.depths import text_config


def name_experts(config: Any) -> None:
    """Let a mixture's configuration answer to `num_experts`, as Mixtral's does.

    TRL 1.16 asks all mixtures that have a router's loss for it (trainer/utils.py line 1679), and
    Phi-3.5-MoE's and Granite's know `num_local_experts` alone. The class is told: what an object
    holds is saved with it.
    """
    text = text_config(config)
    if hasattr(text, "num_local_experts") and not hasattr(text, "num_experts"):
        known = text.attribute_map
        text.__class__.attribute_map = {**known, "num_experts": "num_local_experts"}
