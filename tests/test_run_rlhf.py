"""RLHF end to end: a model that answers, a reward model of it, and a policy against that."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from execution_models import write_rows

import ftadvisor

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

TOY: dict[str, Any] = {
    "precision": "fp32", "gradient_accumulation_steps": 1, "max_length": 64, "warmup_steps": 0,
    "gradient_checkpointing": "none",
}  # fmt: skip
ANSWERS = ("good", "bad")
PROMPTS = [f"Say {i}" for i in range(32)]
STEPS = 12


@pytest.fixture(scope="module")
def answering(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has been taught to answer good as often as bad, and to end there."""
    from transformers import AutoTokenizer

    place = tmp_path_factory.mktemp("rlhf")
    base = shutil.copytree(models["decoder"], place / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    # A policy must be able to end an answer: the chat template ends it so.
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.save_pretrained(base)
    asked = [{"prompt": prompt, "completion": answer} for prompt in PROMPTS for answer in ANSWERS]
    data = write_rows(place / "sft.jsonl", asked)
    report = ftadvisor.run(
        model=str(base), technique="full", objective="sft", dataset=str(data), max_steps=30,
        learning_rate=5e-3, micro_batch_size=16, output_dir=place / "sft", **TOY,
    )  # fmt: skip
    assert report.losses[-1]["loss"] < 1.0
    return place / "sft"


def reward_model(answering: Path, place: Path, technique: str) -> tuple[Path, float]:
    """A reward model of it that prefers good, whole or an adapter; and by how much it does."""
    asked = [{"prompt": prompt, "chosen": "good", "rejected": "bad"} for prompt in PROMPTS]
    data = write_rows(place / "pairs.jsonl", asked)
    report = ftadvisor.run(
        model=str(answering), technique=technique, objective="reward", dataset=str(data),
        max_steps=12, learning_rate=2e-3 if technique == "full" else 1e-2, micro_batch_size=8,
        eval_share=0.2, output_dir=place / "reward", **TOY,
    )  # fmt: skip
    assert report.metrics["reward_accuracy"].after == 1.0
    margin = report.metrics["reward_margin"]
    assert margin.before is not None
    assert margin.after is not None
    assert margin.after > margin.before + 0.5
    return place / "reward", margin.after


@pytest.mark.parametrize(
    ("objective", "technique", "reward"), [("rloo", "full", "lora"), ("grpo", "lora", "full")]
)
def test_the_reward_rises(
    answering: Path, tmp_path: Path, objective: str, technique: str, reward: str
):
    """Over three seeds, against a model that was trained to prefer one of two answers."""
    place, margin = reward_model(answering, tmp_path, reward)
    data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    for seed in range(3):
        report = ftadvisor.run(
            model=str(answering), technique=technique, objective=objective, dataset=str(data),
            reward_model=place, beta=0.02, num_generations=8, micro_batch_size=16,
            max_completion_length=4, max_steps=STEPS, seed=seed, eval_share=0.0,
            learning_rate=2e-3 if technique == "full" else 2e-2,
            output_dir=tmp_path / str(seed), **TOY,
        )  # fmt: skip
        rewards = [row["reward"] for row in report.losses]
        # It answers good half of the time at first, so that half the margin can be won.
        assert fmean(rewards[-2:]) - fmean(rewards[:2]) > 0.15 * margin
        # The reference is there, and the distance to it is measured: none before the first step.
        distances = [row["kl"] for row in report.losses]
        assert distances[0] == pytest.approx(0, abs=1e-3)
        assert distances[-1] > 1e-3
