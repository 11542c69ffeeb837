"""How a model's layers repeat, and which few of them stand for all."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from ftadvisor.configuration.depths import DEPTHS, depth, listed, text_config

_LAYER = re.compile(r"\.(?:layers|h|layer|block|blocks)\.(\d+)(?:\.|$)")


class Pattern(NamedTuple):
    """Layers of their own first, then ever the same few."""

    num_layers: int
    prefix: int
    period: int

    @property
    def middle(self) -> range:
        """The period that stands for all others: behind one layer, which the embedding precedes."""
        return range(self.prefix + 1, self.prefix + 1 + self.period)

    @property
    def recorded(self) -> int:
        """Layers of the shallow model: up to the middle, it, and as all of them end, one at least.

        What a layer hands to the next is gone before the one after that, so one neighbour on either
        side is enough.
        """
        behind = self.num_layers - self.middle.start - 1
        return min(self.middle.stop + 1 + behind % self.period, self.num_layers)


def layer_pattern(config: Any) -> Pattern | None:
    """The pattern of a configuration's layers; None where an encoder and a decoder differ, or where
    all layers are one module, whose name does not tell them apart (ALBERT)."""
    text = text_config(config)
    if hasattr(text, "num_hidden_groups"):
        return None
    found = {getattr(text, name) for name in DEPTHS if isinstance(getattr(text, name, None), int)}
    if len(found) > 1:
        return None
    number = depth(config)
    kinds = [_kind(text, index) for index in range(number)]
    for prefix in range(number):
        for period in range(1, max(2, (number - prefix) // 2 + 1)):
            tail = kinds[prefix:]
            if all(kind == tail[at % period] for at, kind in enumerate(tail)):
                return Pattern(number, prefix, period)
    return Pattern(number, number, 1)


def _kind(config: Any, index: int) -> tuple[Any, ...]:
    """All that a configuration says of one layer."""
    number = depth(config)
    kind: list[Any] = [value[index] for value in listed(config).values() if len(value) == number]
    kind.append(index < (getattr(config, "first_k_dense_replace", 0) or 0))
    kind.append(index in (getattr(config, "mlp_only_layers", None) or ()))
    step = getattr(config, "decoder_sparse_step", 1) or 1
    kind.append((index + 1) % step)
    # T5's first layer alone holds the table of relative positions.
    kind.append(config.model_type in ("t5", "mt5", "umt5") and index == 0)
    return tuple(kind)


@cache
def layer_of(module: str) -> int | None:
    """The layer that a module belongs to; None: outside of all, or inside a vision tower."""
    if "vision" in module or "visual" in module:
        return None
    found = _LAYER.search("." + module)
    return int(found[1]) if found else None
