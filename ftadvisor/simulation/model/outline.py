"""What Transformers' code says of a model that the closed form does not describe."""

from __future__ import annotations

from typing import Any

from ftadvisor.configuration.depths import text_config
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.model.building import build_model, head_of, transformers_config


def outline(config: dict[str, Any], id: str, trainer: Trainer) -> ModelSpec:
    """The model without its layers: kind, sizes and number of parameters.

    Raises UnsupportedError where Transformers cannot build it from its configuration.
    """
    made = transformers_config(config)
    text = text_config(made)
    model = build_model(config, Settings(technique="full", objective="sft"), trainer, None)
    hidden, vocab = int(text.hidden_size), int(text.vocab_size)
    num_params: int = sum(p.numel() for p in model.parameters())
    return ModelSpec(
        id=id,
        model_type=made.model_type,
        family=head_of(made)[1],
        hidden_size=hidden,
        vocab_size=vocab,
        tie_word_embeddings=True,
        max_position_embeddings=int(getattr(text, "max_position_embeddings", 0) or 0),
        blocks=(),
        embedding_width=hidden,
        num_other_embedding_params=0,
        final_norm="rms",
        num_other_params=num_params - vocab * hidden,
        supports_sdpa=bool(model._supports_sdpa),
        supports_flash_attention=bool(model._supports_flash_attn),
    )
