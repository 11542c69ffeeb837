"""config.json to anatomy: published counts, Transformers' own counts, configs that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from ftadvisor.sources.architectures import read_model

PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "llama-7b": (6_738_415_616, {"model_type": "llama"}),
    "Llama-3.1-8B": (
        8_030_261_248,
        {
            "model_type": "llama",
            "vocab_size": 128256,
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
        },
    ),
    "Mistral-7B-v0.1": (7_241_732_096, {"model_type": "mistral"}),
    "Mixtral-8x7B": (46_702_792_704, {"model_type": "mixtral"}),
    "Qwen2.5-7B": (
        7_615_616_512,
        {
            "model_type": "qwen2",
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
    ),
    "gemma-2-2b": (2_614_341_888, {"model_type": "gemma2"}),
    "gpt2": (124_439_808, {"model_type": "gpt2"}),
    "phi-1_5": (1_418_270_720, {"model_type": "phi"}),
    "Phi-3-mini": (3_821_079_552, {"model_type": "phi3"}),
    "falcon-7b": (6_921_720_704, {"model_type": "falcon"}),
    "gpt-neox-20b": (20_554_567_680, {"model_type": "gpt_neox"}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    count, config = PUBLISHED[name]
    spec, _ = read_model(config, name)
    assert spec.num_params == count
