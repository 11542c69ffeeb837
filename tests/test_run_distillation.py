"""Distillation: the student follows its teacher, and what cannot be followed is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from execution_models import write_rows

import ftadvisor

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
pytest.importorskip("trl")

SMALL: dict[str, Any] = {
    "precision": "fp32", "micro_batch_size": 8, "gradient_accumulation_steps": 1, "max_length": 64,
    "eval_share": 0.2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def picks(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions with several answers, one of them likelier: what a few rows show is mostly chance,
    and a teacher that has read many knows the odds."""
    words = ("red", "green", "blue", "black")
    drawn = random.Random(seed)

    def odds(i: int) -> list[int]:
        return [6 if word == i % 4 else 1 for word in range(4)]

    return [
        {
            "messages": [
                {"role": "user", "content": f"Pick {i % 16}"},
                {"role": "assistant", "content": f"I take {drawn.choices(words, odds(i))[0]}"},
            ]
        }
        for i in range(count)
    ]


def learnt(model: Path, place: Path, rows: list[dict[str, Any]], steps: int) -> Path:
    data = write_rows(place / "picks.jsonl", rows)
    out = place / "model"
    ftadvisor.run(
        model=str(model), technique="full", dataset=str(data), output_dir=out, max_steps=steps,
        learning_rate=3e-3, **{**SMALL, "eval_share": 0.0},
    )  # fmt: skip
    return out


@pytest.fixture(scope="session")
def teacher(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt something, and so has something to teach."""
    place = tmp_path_factory.mktemp("teacher")
    return learnt(models["decoder"], place, picks(256, seed=100), 80)


@pytest.fixture(scope="session")
def student(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that can answer, from a few rows: what a student generates is to be worth a lesson."""
    place = tmp_path_factory.mktemp("student")
    return learnt(models["decoder"], place, picks(32, seed=7), 50)


def distilled(model: Path, teacher: Path, place: Path, **options: Any) -> ftadvisor.Report:
    data = options.pop("dataset", None) or write_rows(place / "picks.jsonl", picks(32, seed=1))
    given = {"technique": "lora", "learning_rate": 5e-3, "max_steps": 12,
             "max_completion_length": 16, "output_dir": place / "out", **options}  # fmt: skip
    return ftadvisor.run(
        model=str(model), objective="distillation", teacher_model=str(teacher), dataset=str(data),
        **{**SMALL, **given},
    )  # fmt: skip


def divergence(folder: Path, teacher: Path) -> float:
    """Mean KL of the teacher's next tokens from the student's, on answers to other questions."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher)
    student, followed = (
        AutoModelForCausalLM.from_pretrained(path).eval() for path in (folder, teacher)
    )
    found: list[float] = []
    for row in picks(16, seed=50):
        messages = row["messages"]
        prompt = tokenizer.apply_chat_template(
            messages[:1], add_generation_prompt=True, return_dict=False
        )
        ids = torch.tensor([tokenizer.apply_chat_template(messages, return_dict=False)])
        with torch.no_grad():
            own, other = (m(ids).logits[0, len(prompt) - 1 : -1] for m in (student, followed))
        kl = torch.nn.functional.kl_div(
            own.log_softmax(-1), other.log_softmax(-1), reduction="batchmean", log_target=True
        )
        found.append(kl.item())
    return sum(found) / len(found)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("lmbda", [0.0, 1.0])
def test_the_student_gets_closer_to_its_teacher(
    student: Path, teacher: Path, tmp_path: Path, seed: int, lmbda: float
):
    """Closer than the same student, rows and steps without a teacher."""
    data = write_rows(tmp_path / "picks.jsonl", picks(16, seed))
    options: dict[str, Any] = {"seed": seed, "learning_rate": 1e-3, "max_steps": 40,
                               "technique": "full", "dataset": data}  # fmt: skip
    alone = tmp_path / "alone"
    ftadvisor.run(model=str(student), output_dir=alone, **{**SMALL, **options})
    distilled(student, teacher, tmp_path, lmbda=lmbda, **options)
    found = divergence(tmp_path / "out", teacher)
    assert found < divergence(student, teacher)
    assert found < divergence(alone, teacher)
