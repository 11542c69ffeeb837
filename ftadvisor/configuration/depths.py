"""How many layers a model's configuration states, and the same model with fewer.

Works on Transformers' configuration objects, without importing Transformers.
"""

from __future__ import annotations

import copy
from typing import Any, cast

from ftadvisor.errors import UnsupportedError, quoted

DEPTHS = (
    "num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers",
    "n_layer", "n_layers",
)  # fmt: skip
"""What Transformers' configurations call the number of layers."""


def text_config(config: Any) -> Any:
    """The language model's part of a configuration."""
    return getattr(config, "text_config", None) or config


def depth(config: Any) -> int:
    """Layers of the text stack (of the encoder, where there are two)."""
    text = text_config(config)
    for name in DEPTHS:
        found = getattr(text, name, None)
        if isinstance(found, int) and found > 0:
            return found
    raise UnsupportedError.of(f"model_type {quoted(config.model_type)}", "it states no depth")


def listed(config: Any) -> dict[str, list[Any]]:
    """The lists of a configuration, by their names."""
    values = cast("dict[str, Any]", vars(config))
    return {name: value for name, value in values.items() if isinstance(value, list)}


def with_layers(config: Any, num_layers: int) -> Any:
    """The configuration with its first layers only; an encoder and a decoder are cut alike."""
    config = copy.deepcopy(config)
    text = text_config(config)
    full = depth(config)
    lists = {name: value[:num_layers] for name, value in listed(text).items() if len(value) == full}
    for name in DEPTHS:
        found = getattr(text, name, None)
        if isinstance(found, int) and found > 0:
            setattr(text, name, num_layers)
    for name, value in lists.items():
        setattr(text, name, value)
    return config
