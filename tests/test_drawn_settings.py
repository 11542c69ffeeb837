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


SHORT: dict[str, Any] = {"micro_batch_size": 4, "max_length": 512, "mean_length": 400}
FULL: dict[str, Any] = {"technique": "full", "gradient_checkpointing": "full"}
LORA: dict[str, Any] = {"technique": "lora", "gradient_checkpointing": "full"}
EAGER: dict[str, Any] = {"attn_implementation": "eager"}
MOMENTS: list[tuple[str, dict[str, Any]]] = [
    # Embeddings and head of a base that is prepared for k-bit training are fp32.
    ("qwen2.5-0.5b", LORA | {"technique": "qlora", "prepare_kbit": True, "precision": "bf16"}),
    # TRL's bf16 adapters; weights quantised from fp32, which backward unpacks to fp32.
    ("pythia-410m", {"technique": "qlora", "precision": "amp-bf16",
                     "gradient_checkpointing": "none",
                     "lora_target_modules": "all-linear"}),
    # Scores and masks wait while the feed-forward part goes back.
    ("gpt2", LORA | EAGER | {"precision": "amp-bf16"}),
    # A tied head's gradient beside what has accumulated.
    ("qwen2.5-0.5b", FULL | {"precision": "amp-bf16", "gradient_accumulation_steps": 2,
                             "max_length": 128, "mean_length": 128, "micro_batch_size": 2}),
    ("qwen2.5-0.5b", FULL | {"precision": "bf16", "optim": "adagrad"}),
    # The second forward ends in a norm behind the sum.
    ("bert-base-uncased", LORA | {"precision": "amp-bf16", "objective": "seq_cls"}),
    ("bert-base-uncased", {"technique": "ln_tuning", "precision": "amp-bf16",
                           "gradient_checkpointing": "none", "objective": "token_cls"}),
    # The decoder's tensors are gone when the encoder's attention goes back.
    ("bart-base", EAGER | {"technique": "lora", "precision": "amp-bf16", "objective": "seq2seq",
                           "gradient_checkpointing": "none", "max_target_length": 64,
                           "max_length": 1024, "mean_length": 1024}),
    # Experts' gathered inputs and outputs.
    ("granite-3.1-1b-a400m-base", LORA | {"precision": "bf16", "max_length": 2048,
                                          "mean_length": 2048, "micro_batch_size": 2}),
    # A cache of half precision where no rotation makes keys fp32.
    ("opt-350m", FULL | {"precision": "amp-bf16", "objective": "grpo", "num_generations": 4,
                             "max_completion_length": 64, "gradient_accumulation_steps": 4}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "asked"), MOMENTS)
def test_moments_that_are_a_peak_now_and_then(model: str, asked: dict[str, Any]):
    found = SHORT | asked
    closed = estimate(model, **found).memory.allocated_bytes
    step = simulate(model, **found).step
    assert step is not None
    assert closed == pytest.approx(step.allocated_bytes, rel=0.03)
