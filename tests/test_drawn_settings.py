"""Settings drawn at random: the closed form's allocated memory beside the simulated step's."""

from __future__ import annotations

import random
import statistics
from typing import Any

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("trl")
pytest.importorskip("bitsandbytes")

from ftadvisor import estimate, simulate  # noqa: E402
from ftadvisor.errors import FtadvisorError  # noqa: E402

DECODERS = (
    "llama-3.2-1b", "qwen2.5-0.5b", "qwen3-0.6b", "gemma-3-1b", "phi-2", "phi-3-mini", "gpt2",
    "pythia-410m", "opt-350m", "bloom-560m", "smollm2-360m", "olmo-2-1b", "mistral-7b",
    "stablelm-2-1.6b", "qwen1.5-moe-a2.7b", "starcoder2-3b", "granite-3.1-2b",
)  # fmt: skip
ENCODERS = (
    "bert-base-uncased", "roberta-base", "distilbert-base-uncased", "deberta-v3-base",
    "albert-base-v2", "modernbert-base", "electra-base",
)  # fmt: skip
PAIRS = ("t5-small", "t5-base", "flan-t5-base", "bart-base")
TECHNIQUES = (
    "full", "full", "full", "lora", "lora", "qlora", "qlora", "dora", "ia3", "prompt_tuning",
    "vera", "ln_tuning", "oft",
)  # fmt: skip
OPTIMIZERS = (
    "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "sgd", "adafactor",
    "lion_32bit",
)  # fmt: skip
RANKS = ("lora", "qlora", "dora", "vera")


def drawn(r: random.Random) -> tuple[str, dict[str, Any]]:
    model = r.choice([*DECODERS, *DECODERS, *ENCODERS, *PAIRS])
    length = r.choice([128, 256, 512])
    asked: dict[str, Any] = {
        "technique": r.choice(TECHNIQUES), "micro_batch_size": r.choice([1, 2, 4, 8]),
        "max_length": length, "mean_length": length, "optim": r.choice(OPTIMIZERS),
        "precision": r.choice(["bf16", "bf16", "amp-bf16", "amp-bf16", "fp32"]),
        "gradient_checkpointing": r.choice(["none", "full"]),
        "attn_implementation": r.choice(["sdpa", "sdpa", "eager"]),
    }  # fmt: skip
    if asked["technique"] in RANKS:
        asked["lora_r"] = r.choice([4, 16, 64])
    if model in ENCODERS:
        asked["objective"] = r.choice(["seq_cls", "token_cls"])
    elif model in PAIRS:
        asked["objective"] = "seq2seq"
    else:
        asked["objective"] = r.choice(["sft", "sft", "clm", "dpo", "kto", "orpo", "reward"])
    return model, asked


def test_drawn_settings_agree():
    r = random.Random(20261127)
    errors: list[tuple[float, str]] = []
    while len(errors) < 60:
        model, asked = drawn(r)
        try:
            closed = estimate(model, **asked).memory.allocated_bytes
            step = simulate(model, **asked).step
        except FtadvisorError:
            # What excludes each other is another test's.
            continue
        if step is not None:
            errors.append((closed / step.allocated_bytes - 1, f"{model} {asked}"))
    sizes = sorted(abs(error) for error, _ in errors)
    worst = max(errors, key=lambda pair: abs(pair[0]))
    assert statistics.median(sizes) < 0.015
    assert sizes[53] < 0.05, worst
    assert sizes[-1] < 0.12, worst
