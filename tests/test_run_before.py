"""What a run measures before and after: of the base, of the text alone, by an independent sum."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from execution_models import SIZES, rows, tokenizer, write_rows
from test_run import train

from ftadvisor.execution.evaluation.forgetting import paragraphs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
pytest.importorskip("trl")
import transformers  # noqa: E402

ONE_STEP: dict[str, Any] = {"max_steps": 1, "save_steps": 0, "eval_answers": 0}
OPTIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "adalora": {},
    # These do not start as nothing.
    "fourierft": {},
    "c3a": {"peft_config": {"block_size": 16}},
    "prompt_tuning": {},
    # Of exactly two tokens, which as a tuple were one place in the matrix.
    "trainable_tokens": {"peft_config": {"token_indices": [5, 6]}},
}


def nll(model: Any, ids: Any) -> tuple[float, int]:
    """Of all tokens but the first, from the logits; and how many they are."""
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1]
    chosen = torch.log_softmax(logits.double(), -1).gather(1, ids[0, 1:, None])
    return -float(chosen.sum()), ids.shape[1] - 1


def perplexity(pairs: list[tuple[float, int]]) -> float:
    return math.exp(sum(loss for loss, _ in pairs) / sum(count for _, count in pairs))


def general(place: Path, max_length: int = 64) -> float:
    model = transformers.AutoModelForCausalLM.from_pretrained(place).eval()
    encode = transformers.AutoTokenizer.from_pretrained(place)
    texts = [
        encode(text, truncation=True, max_length=max_length, return_tensors="pt")["input_ids"]
        for text in paragraphs()
    ]
    return perplexity([nll(model, ids) for ids in texts])


@pytest.mark.parametrize("technique", OPTIONS)
def test_before_is_the_base(models: dict[str, Path], tmp_path: Path, technique: str):
    """Without what an adapter starts with, and without what PEFT adds to the loss of AdaLoRA."""
    data = write_rows(tmp_path / "train.jsonl", rows("clm", 8))
    held_out = write_rows(tmp_path / "held_out.jsonl", rows("clm", 4))
    report = train(
        models, tmp_path, technique, "clm", dataset=data, eval_dataset=held_out, **ONE_STEP,
        **OPTIONS[technique],
    )  # fmt: skip
    assert report.status == "done"
    model = transformers.AutoModelForCausalLM.from_pretrained(models["decoder"]).eval()
    encode = transformers.AutoTokenizer.from_pretrained(models["decoder"])
    texts = [
        encode(row["text"] + "</s>", truncation=True, max_length=64, return_tensors="pt")
        for row in rows("clm", 4)
    ]
    expected = perplexity([nll(model, text["input_ids"]) for text in texts])
    assert report.metrics["perplexity"].before == pytest.approx(expected, rel=1e-4)
    before = report.metrics["general_perplexity"].before
    assert before == pytest.approx(general(models["decoder"]), rel=1e-4)


def test_a_mixture_s_perplexity_is_of_the_text(models: dict[str, Path], tmp_path: Path):
    """Not of what its routers' balancing adds to the loss: exp of 2 times its weight too much."""
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        **SIZES, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        router_aux_loss_coef=0.2, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    place = tmp_path / "mixtral"
    model = transformers.MixtralForCausalLM(config).eval()
    model.save_pretrained(place)
    tokenizer().save_pretrained(place)
    held_out = write_rows(tmp_path / "held_out.jsonl", rows("clm", 4))
    report = train(models, tmp_path, "lora", "clm", model=place, eval_dataset=held_out, **ONE_STEP)
    encode = transformers.AutoTokenizer.from_pretrained(place)
    texts = [
        encode(row["text"] + "</s>", truncation=True, max_length=64, return_tensors="pt")
        for row in rows("clm", 4)
    ]
    expected = perplexity([nll(model, text["input_ids"]) for text in texts])
    assert report.metrics["perplexity"].before == pytest.approx(expected, rel=1e-4)
    assert report.metrics["general_perplexity"].before == pytest.approx(general(place), rel=1e-4)


def test_answers_are_greedy_whatever_the_model_says(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = Path(shutil.copytree(models["encdec"], tmp_path / "model"))
    config = json.loads((place / "generation_config.json").read_text())
    (place / "generation_config.json").write_text(json.dumps({**config, "num_beams": 4}))

    def beams(*_: Any, **__: Any) -> None:
        raise AssertionError("beams were searched")

    monkeypatch.setattr(transformers.GenerationMixin, "_beam_search", beams)
    options = {**ONE_STEP, "eval_answers": 2}
    report = train(models, tmp_path, "full", "seq2seq", model=place, **options)
    assert report.status == "done"
    assert len(report.answers) == 2


def test_a_model_stops_where_it_was_taught_to(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its base's end token is another than the template's; an adapter names its base for good."""
    monkeypatch.chdir(models["decoder"].parent)
    train(models, tmp_path, "lora", model="decoder", merge=True, **ONE_STEP)
    merged = json.loads((tmp_path / "out/merged/generation_config.json").read_text())
    assert merged["eos_token_id"] == [3, 5]
    adapter = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(models["decoder"])
    (tmp_path / "full").mkdir()
    train(models, tmp_path / "full", "full", **ONE_STEP)
    whole = json.loads((tmp_path / "full/out/generation_config.json").read_text())
    assert whole["eos_token_id"] == [3, 5]


def test_words_are_tokenised_as_in_a_text(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A byte-level tokenizer read them without the spaces between them."""
    from ftadvisor.execution.trainers import BUILDERS, classification

    found: list[str] = []

    def spied(of: Any) -> Any:
        trainer = classification.build_token(of)
        row = trainer.train_dataset[0]
        found.append(of.tokenizer.decode(row["input_ids"]))
        pieces = of.tokenizer.convert_ids_to_tokens(row["input_ids"])
        pairs = zip(pieces, row["labels"], strict=True)
        found.extend(piece for piece, label in pairs if label != -100)
        return trainer

    monkeypatch.setitem(BUILDERS, "token_cls", spied)
    train(models, tmp_path, "lora", "token_cls", **ONE_STEP)
    assert found[0].startswith("Anna lives in Paris")
    # The first token of each word carries its class.
    assert [piece[0] for piece in found[1:]] == ["A", "Ġ", "Ġ", "Ġ"]


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_a_model_prefers_nothing_to_itself(models: dict[str, Path], tmp_path: Path, objective: str):
    """An accuracy of 0 before, by ties, would make of any training a triumph."""
    pairs = [{"prompt": f"say {i}", "chosen": "yes", "rejected": "no"} for i in range(12)]
    data = write_rows(tmp_path / "r.jsonl", pairs)
    report = train(models, tmp_path, "lora", objective, dataset=data, **ONE_STEP)
    accuracy = report.metrics["reward_accuracy"]
    assert accuracy.before is None
    assert accuracy.after is not None
    assert any("prefers nothing" in event.what for event in report.events)


def test_a_checkpoint_s_own_head_keeps_its_classes(models: dict[str, Path], tmp_path: Path):
    """In the alphabet's order its weights stood for the other class: its best answers were wrong
    before, and training unlearnt them.
    """
    names = {0: "positive", 1: "negative", 2: "mixed"}
    torch.manual_seed(0)
    config = transformers.BertConfig(
        **SIZES, id2label=names, label2id={name: i for i, name in names.items()}
    )
    place = tmp_path / "classifier"
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(place)
    tokenizer().save_pretrained(place)
    encode = transformers.AutoTokenizer.from_pretrained(place)
    texts = [f"a text of number {i}" for i in range(12)]
    labelled: list[dict[str, Any]] = []
    for i, text in enumerate(texts):
        with torch.no_grad():
            best = model(**encode(text, return_tensors="pt")).logits[0, :2].argmax()
        # Two of its three classes; a few rows wrong, so that both occur.
        labelled.append({"text": text, "label": names[(int(best) + (i % 4 == 0)) % 2]})
    data = write_rows(tmp_path / "r.jsonl", labelled)
    report = train(
        models, tmp_path, "lora", "seq_cls", model=place, dataset=data, eval_dataset=data,
        **ONE_STEP,
    )  # fmt: skip
    assert report.labels == tuple(names.values())
    hits = 0
    for row in labelled:
        with torch.no_grad():
            best = model(**encode(row["text"], return_tensors="pt")).logits[0].argmax()
        hits += names[int(best)] == row["label"]
    assert report.metrics["accuracy"].before == pytest.approx(hits / len(labelled))
    assert json.loads((tmp_path / "out/labels.json").read_text())["0"] == "positive"


@pytest.mark.parametrize("objective", ["orpo", "reward"])
def test_nothing_changes_where_nothing_is_learnt(
    models: dict[str, Path], tmp_path: Path, objective: str
):
    """Before and after are computed alike under autocast: from halves before the training and from
    fp32 after it, the margin of ORPO's rewards would change by a seventh."""
    pairs = [{"prompt": f"say {i}", "chosen": "yes", "rejected": "no"} for i in range(12)]
    data = write_rows(tmp_path / "r.jsonl", pairs)
    report = train(
        models, tmp_path, "lora", objective, dataset=data, precision="amp-bf16",
        learning_rate=1e-12, **ONE_STEP,
    )  # fmt: skip
    assert report.plan.estimate.settings["autocast"] == "bf16"
    for name, metric in report.metrics.items():
        assert metric.before == metric.after, name


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_every_prompt_counts_once(models: dict[str, Path], tmp_path: Path, objective: str):
    """Nine prompts in batches of four: the ninth alone was a third of the mean."""
    (tmp_path / "of_prompts.py").write_text(
        "def score(prompts, **_):\n    return [float(len(str(p))) for p in prompts]\n"
    )
    asked = [{"prompt": "Say " + "x" * (i * i)} for i in range(9)]
    data = write_rows(tmp_path / "train.jsonl", asked)
    held_out = write_rows(tmp_path / "held_out.jsonl", asked)
    report = train(
        models, tmp_path, "lora", objective, dataset=data, eval_dataset=held_out, max_length=200,
        reward_function=f"{tmp_path / 'of_prompts.py'}:score", num_generations=2,
        max_completion_length=2, micro_batch_size=4, eval_steps=1, **ONE_STEP,
    )  # fmt: skip
    chats = [[{"role": "user", "content": row["prompt"]}] for row in asked]
    expected = sum(len(str(chat)) for chat in chats) / 9
    metric = report.metrics["mean_reward"]
    assert metric.before == metric.after == pytest.approx(expected)
    rows_of_log = (tmp_path / "out/log.jsonl").read_text().splitlines()
    middle = [row["eval_reward"] for row in map(json.loads, rows_of_log) if "eval_reward" in row]
    assert middle == [pytest.approx(expected)] * 3


def test_batches_of_one_size():
    from types import SimpleNamespace

    from ftadvisor.execution.journal import Journal
    from ftadvisor.execution.trainers.building import evenly

    def tried(count: int, size: int, world: int) -> tuple[int, int, int]:
        of: Any = SimpleNamespace(
            device=SimpleNamespace(world_size=world),
            settings=SimpleNamespace(micro_batch_size=size), journal=Journal(),
        )  # fmt: skip
        found, kept = evenly(of, [{}] * count)
        return found, len(kept), len(of.journal.events)

    assert tried(9, 4, 1) == (3, 9, 0)
    assert tried(3, 8, 1) == (3, 3, 0)
    assert tried(200, 64, 1) == (50, 200, 0)
    # A prime: 30 x 6 of 181 leave out one, 64 would 53.
    assert tried(181, 64, 1) == (60, 180, 1)
    assert tried(9, 4, 2) == (4, 8, 1)
    assert tried(2, 4, 3) == (1, 1, 1)
    assert tried(0, 4, 1) == (1, 0, 0)


@pytest.mark.parametrize("most", [2, 0])
def test_answers_are_drawn_fewer_at_once(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
):
    """Memory for two answers at once gives all; memory for none, a run that says so."""
    real = transformers.GenerationMixin.generate

    def generate(self: Any, *args: Any, **options: Any) -> Any:
        if len(options["input_ids"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, *args, **options)

    monkeypatch.setattr(transformers.GenerationMixin, "generate", generate)
    report = train(models, tmp_path, "lora", max_steps=1, eval_share=0.2, eval_answers=5)
    assert report.status == "done"
    assert len(report.answers) == (5 if most else 0)
    assert ("no answers" in str(report.events)) is not bool(most)


@pytest.mark.parametrize("failures", [1, 2])
def test_what_is_trained_is_not_trained_again_to_be_measured(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
):
    """Without checkpoints: once more without the optimizer, then not at all."""
    from ftadvisor.execution import run

    real, tried = run.measure, []

    def measure(trainer: Any, of: Any, *, base: bool) -> Any:
        if not base:
            tried.append(trainer.optimizer)
            if len(tried) <= failures:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(trainer, of, base=base)

    monkeypatch.setattr(run, "measure", measure)
    report = train(models, tmp_path, "lora", max_steps=2, save_steps=0)
    assert report.status == "done"
    assert [row["step"] for row in report.losses] == [1, 2]
    assert len(tried) == 2
    assert tried[1] is None
    assert (tmp_path / "out/adapter_model.safetensors").is_file()
    told = [event.what for event in report.events if event.kind == "out_of_memory"]
    assert len(told) == failures - 1
    assert (report.metrics["eval_loss"].after is None) is (failures == 2)
