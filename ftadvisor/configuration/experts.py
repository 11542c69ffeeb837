"""What a mixture's configuration calls the number of its experts."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from ftadvisor.configuration.depths import text_config


def name_experts(config: Any) -> None:
    """Let a mixture's configuration answer to `num_experts`, as Mixtral's does.

    TRL 1.16 asks all mixtures that have a router's loss for it (trainer/utils.py line 1679), and
    Phi-3.5-MoE's and Granite's know `num_local_experts` alone. This object alone becomes of a class
    that does: what an object itself holds is saved with it, and Transformers' own class is every
    other model's too.
    """
    text = text_config(config)
    if hasattr(text, "num_local_experts") and not hasattr(text, "num_experts"):
        text.__class__ = _with_name(cast("type[Any]", type(text)))


@cache
def _with_name(known: type[Any]) -> type[Any]:
    names = {**known.attribute_map, "num_experts": "num_local_experts"}
    return type(known.__name__, (known,), {"attribute_map": names, "__module__": known.__module__})
