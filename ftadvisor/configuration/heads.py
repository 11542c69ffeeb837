"""A head of its own where a checkpoint has one and its model's class does not say so."""

from __future__ import annotations

from typing import Any


def untie_head(model: Any) -> None:
    """Give a model built without weights the head that its checkpoint has.

    T5's family states `tie_word_embeddings` itself whatever config.json says (transformers 5.23
    models/t5/configuration_t5.py, __post_init__), and loading leaves apart what a checkpoint has
    twice (modeling_utils.py, tie_weights): FLAN-T5 has a head of its own, but not when it is made
    of its configuration.
    """
    head, shared = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is shared.weight:
        head.weight = type(head.weight)(head.weight.detach().clone())
