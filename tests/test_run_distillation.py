"""Distillation: the student follows its teacher, and what cannot be followed is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from execution_models import write_rows

import ftadvisor
from ftadvisor.errors import InvalidSettingError

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
def test_the_student_gets_closer_to_its_teacher(
    student: Path, teacher: Path, tmp_path: Path, seed: int
):
    """Closer than the same student, rows and steps without a teacher: on the data's answers and on
    its own."""
    data = write_rows(tmp_path / "picks.jsonl", picks(16, seed))
    options: dict[str, Any] = {"seed": seed, "learning_rate": 1e-3, "max_steps": 40,
                               "technique": "full", "dataset": data}  # fmt: skip
    alone = tmp_path / "alone"
    ftadvisor.run(model=str(student), output_dir=alone, **{**SMALL, **options})
    without = divergence(alone, teacher)
    assert without < divergence(student, teacher)
    for name, lmbda in (("off-policy", 0.0), ("on-policy", 1.0)):
        out = tmp_path / name
        distilled(student, teacher, tmp_path, lmbda=lmbda, output_dir=out, **options)
        assert divergence(out, teacher) < without


def answers(count: int, seed: int, odds: list[int]) -> list[dict[str, Any]]:
    """The same questions, each answered by these odds."""
    drawn, words, found = random.Random(seed), ("red", "green", "blue", "black"), picks(count, seed)
    for row in found:
        row["messages"][1]["content"] = f"I take {drawn.choices(words, odds)[0]}"
    return found


@pytest.fixture(scope="session")
def unbiased(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both begin as: it takes each colour as often."""
    place = tmp_path_factory.mktemp("unbiased")
    return learnt(models["decoder"], place, answers(256, 9, [1, 1, 1, 1]), 80)


@pytest.fixture(scope="session")
def fond(unbiased: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that has learnt to like one colour."""
    place = tmp_path_factory.mktemp("fond")
    return learnt(unbiased, place, answers(256, 100, [12, 2, 1, 1]), 40)


def distance(folder: Path, teacher: Path) -> float:
    """KL of the teacher's odds of a colour from the student's."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher)
    text = tokenizer.apply_chat_template(
        picks(1, 0)[0]["messages"][:1], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(f"{text}I take", add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        own, other = (
            AutoModelForCausalLM.from_pretrained(path).eval()(ids).logits[0, -1].log_softmax(-1)
            for path in (folder, teacher)
        )
    return torch.nn.functional.kl_div(own, other, reduction="sum", log_target=True).item()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_lora_student_learns_its_teachers_odds(
    unbiased: Path, fond: Path, tmp_path: Path, seed: int
):
    """From the base that the teacher began as, on the data's answers, its own, and both. The data
    shows none of the odds. Frozen heads of random models put other odds into few directions: an
    adapter that is trained to the end leaves 0.6 of the distance."""
    options: dict[str, Any] = {
        "seed": seed, "max_steps": 40, "lora_r": 16, "lora_dropout": 0.0,
        "lora_target_modules": "all-linear",
        "dataset": write_rows(tmp_path / "picks.jsonl", answers(16, seed, [1, 1, 1, 1])),
    }  # fmt: skip
    before = distance(unbiased, fond)
    for lmbda in (0.0, 0.5, 1.0):
        out = tmp_path / str(lmbda)
        distilled(unbiased, fond, tmp_path, lmbda=lmbda, output_dir=out, **options)
        assert distance(out, fond) < 0.8 * before


@pytest.mark.parametrize("technique", ["qlora", "adalora"])
def test_an_adapter_follows_too(student: Path, teacher: Path, tmp_path: Path, technique: str):
    """A quantised base, and AdaLoRA's regularisation, which TRL's loss leaves out; the teacher is
    frozen in its own dtype."""
    from transformers import AutoModelForCausalLM

    from ftadvisor.execution.trainers import BUILDERS, distillation, orthogonal

    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(teacher).to(torch.bfloat16).save_pretrained(half)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (half / name).write_bytes((teacher / name).read_bytes())
    made: list[Any] = []
    terms: list[Any] = []
    real = orthogonal.regularisation

    def kept(of: Any) -> Any:
        made.append(distillation.build(of))
        return made[-1]

    def spied(adapted: Any) -> Any:
        terms.append(real(adapted))
        return terms[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILDERS, "distillation", kept)
        patch.setattr(orthogonal, "regularisation", spied)
        report = distilled(
            student, half, tmp_path, technique=technique, gradient_accumulation_steps=2,
            micro_batch_size=4,
        )  # fmt: skip
    assert report.status == "done"
    # A dozen steps of an adapter on two projections move these models, and teach them nothing yet.
    found = report.metrics["eval_loss"]
    assert found.after != found.before
    assert all(row["grad_norm"] > 0 for row in report.losses)
    assert "perplexity" not in report.metrics
    followed = made[0].teacher_model
    assert {p.dtype for p in followed.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in followed.parameters())
    assert len(terms) == (24 if technique == "adalora" else 0)
    assert (tmp_path / "out/adapter_model.safetensors").exists()


def test_prompts_alone_are_enough(student: Path, teacher: Path, tmp_path: Path):
    """The student answers them; prompts above max_length are left out, and told."""
    asked = [{"prompt": f"Pick {i}"} for i in range(16)]
    data = write_rows(tmp_path / "r.jsonl", [*asked, {"prompt": "and " * 300}])
    report = distilled(
        student, teacher, tmp_path, dataset=data, max_steps=2, eval_share=0.0, lmbda=1.0
    )
    assert report.status == "done"
    assert "1 prompts above max_length left out" in [event.what for event in report.events]
    assert report.plan.settings["teacher_model"] == str(teacher)


def test_a_teacher_with_other_tokens(
    student: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As many of them, which the configurations cannot tell apart."""
    from transformers import AutoModelForCausalLM

    for path in teacher.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    words = json.loads((tmp_path / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (tmp_path / "tokenizer.json").write_text(json.dumps(words))
    (tmp_path / "weights").mkdir()
    loaded: list[str] = []
    real = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained",
        lambda name, **options: loaded.append(str(name)) or real(name, **options),
    )  # fmt: skip
    with pytest.raises(InvalidSettingError, match="as many tokens as the student, but others"):
        distilled(student, tmp_path, tmp_path / "weights", max_steps=1)
    assert loaded == [str(student)]
