"""Evaluation around a run and by itself, with models that really answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from execution_models import rows, write_rows

import ftadvisor
from ftadvisor.api.running import preview
from ftadvisor.cli import main
from ftadvisor.errors import DataFileError, InvalidSettingError
from ftadvisor.execution.examples import read_held_out
from ftadvisor.schema.plan import PlanDataset

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

SMALL: dict[str, Any] = {
    "precision": "fp32", "micro_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 6,
    "max_length": 64, "learning_rate": 5e-3, "eval_share": 0.2, "eval_answers": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def train(
    model: Path, place: Path, technique: str, objective: str = "sft", **options: Any
) -> ftadvisor.Report:
    if "dataset" not in options:
        options["dataset"] = str(write_rows(place / f"{objective}.jsonl", rows(objective)))
    return ftadvisor.run(
        model=str(model), technique=technique, objective=objective,
        **{**SMALL, "output_dir": place / "out", **options},
    )  # fmt: skip


def test_losses_are_those_of_the_model(models: dict[str, Path], tmp_path: Path):
    """Each row's loss by hand, over the answer's tokens alone; a prompt's adapter does not count
    before training."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = train(models["decoder"], tmp_path, "prompt_tuning", max_steps=1)
    model = AutoModelForCausalLM.from_pretrained(models["decoder"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(models["decoder"])
    held_out = {answer.reference for answer in report.answers}
    assert len(held_out) == 3
    from ftadvisor.execution.examples import read_examples
    from ftadvisor.schema.run import RunSettings

    assert report.plan.dataset is not None
    run = RunSettings(output_dir="", eval_share=0.2)
    total = tokens = 0.0
    for row in read_examples(report.plan.dataset, "sft", run, 0).held_out:
        whole = tokenizer.apply_chat_template(row["messages"], return_dict=False)
        asked = tokenizer.apply_chat_template(
            row["messages"][:1], add_generation_prompt=True, return_dict=False
        )
        ids = torch.tensor([whole])
        labels = ids.clone()
        labels[:, : len(asked)] = -100
        # What stands behind an answer's end is not learnt.
        learnt = whole.index(tokenizer.convert_tokens_to_ids("<|im_end|>"), len(asked)) + 1
        labels[:, learnt:] = -100
        count = learnt - len(asked)
        with torch.no_grad():
            total += model(input_ids=ids, labels=labels).loss.item() * count
        tokens += count
    assert report.metrics["eval_loss"].before == pytest.approx(total / tokens, rel=1e-4)


def test_answers_stop_where_a_turn_ends_and_do_not_see_padding(models: dict[str, Path]):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ftadvisor.execution.evaluation import answers

    model = AutoModelForCausalLM.from_pretrained(models["decoder"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(models["decoder"])
    ends = answers.ends(tokenizer, model)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in ends
    tokenizer.padding_side = "left"
    asked = [
        answers.Question(text, tokenizer(text)["input_ids"], "")
        for text in ("short", "a much longer question that has many more tokens than the other")
    ]
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": ends,
               "pad_token_id": tokenizer.pad_token_id, "use_cache": True}  # fmt: skip
    together = answers._answered(model.eval(), tokenizer, asked, options)
    assert together == [answers._answered(model, tokenizer, [q], options)[0] for q in asked]


def test_evaluating_moves_nothing(models: dict[str, Path], tmp_path: Path):
    """With answers, metrics and general text or without: the same losses."""
    losses: list[list[float]] = []
    for name, count in (("none", 0), ("some", 8)):
        place = tmp_path / name
        place.mkdir()
        report = train(models["decoder"], place, "lora", eval_answers=count, lora_dropout=0.1)
        losses.append([row["loss"] for row in report.losses])
        assert bool(report.answers) == bool(count)
    assert losses[0] == losses[1]


def test_everything_people_read_is_written(models: dict[str, Path], tmp_path: Path):
    report = train(models["encoder"], tmp_path, "lora", "seq_cls")
    assert {"accuracy", "f1", "mcc", "eval_loss"} == {*report.metrics}
    accuracy = report.metrics["accuracy"]
    assert accuracy.low is not None
    assert accuracy.high is not None
    out = tmp_path / "out"
    assert "<svg" in (out / "report.html").read_text()
    # PEFT's own card is replaced.
    card = (out / "README.md").read_text()
    assert "| classes | neg, pos |" in card
    assert "More Information Needed" not in card
    # The plan alone would train for all of its epochs, on other rows.
    again = "`ftadvisor run plan.yaml --max-steps 6 --eval-share 0.2`"
    assert f"trains it again: {again}" in " ".join(card.split())
    assert json.loads((out / "report.json").read_text())["labels"] == ["neg", "pos"]
    assert [row["step"] for row in report.memory] == [1, 2, 3, 4, 5, 6]


def test_eval_alone_repeats_the_run(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The adapter as it was saved, on the same rows; its base is what there was before."""
    other = write_rows(tmp_path / "other.jsonl", rows("sft", 50)[40:])
    report = train(models["decoder"], tmp_path, "lora", eval_dataset=str(other))
    found = ftadvisor.evaluate(tmp_path / "out", dataset=other, metrics=["perplexity"])
    assert {*found.metrics} == {"perplexity"}
    for now, then in zip(found.metrics["perplexity"], report.metrics["perplexity"], strict=True):
        assert now == pytest.approx(then, rel=1e-4)
    assert main(["eval", str(tmp_path / "out"), "--dataset", str(other), "--json",
                 "--metrics", "bleu"]) == 0  # fmt: skip
    answer = json.loads(capsys.readouterr().out)
    assert {*answer["metrics"]} == {"bleu"}
    assert answer["base"] == str(models["decoder"])
    with pytest.raises(InvalidSettingError, match="was trained for sft"):
        ftadvisor.evaluate(tmp_path / "out", dataset=other, objective="clm")
    with pytest.raises(InvalidSettingError, match="bleau"):
        ftadvisor.evaluate(tmp_path / "out", dataset=other, metrics=["bleau"])
    with pytest.raises(InvalidSettingError, match=r"mcc: not measured for sft.*perplexity"):
        ftadvisor.evaluate(tmp_path / "out", dataset=other, metrics=["mcc"], eval_answers=0)
    found = ftadvisor.evaluate(tmp_path / "out", dataset=other, metrics=["mcc", "perplexity"])
    assert "mcc: not measured for sft here" in [event.what for event in found.events]


@pytest.mark.parametrize(
    ("technique", "objective"),
    [("bottleneck", "sft"), ("adaption_prompt", "sft"), ("adalora", "sft"), ("adalora", "seq_cls"),
     ("adalora", "token_cls")],
)  # fmt: skip
@pytest.mark.parametrize("planned", [True, False])
def test_eval_reads_adapters_that_ask_for_more(
    models: dict[str, Path], tmp_path: Path, technique: str, objective: str, planned: bool
):
    """PEFT knows no bottleneck adapters, finds no regularisation in an AdaLoRA that does not train,
    and adds it to what is no measure of it; under autocast it was taken off again but for what
    rounding had left, a hundredth of a nat."""
    data = write_rows(tmp_path / "rest.jsonl", rows(objective, 9))
    model = models["decoder" if objective == "sft" else "encoder"]
    report = train(
        model, tmp_path, technique, objective, eval_dataset=str(data), eval_answers=0,
        precision="amp-bf16",
    )  # fmt: skip
    given: dict[str, Any] = {}
    if not planned:
        (tmp_path / "out/plan.yaml").unlink()
        given = {"objective": objective, "precision": "amp-bf16", "max_length": 64}
    found = ftadvisor.evaluate(tmp_path / "out", dataset=data, eval_answers=0, **given)
    assert report.metrics.keys() == found.metrics.keys()
    for name, metric in report.metrics.items():
        assert found.metrics[name].after == pytest.approx(metric.after, rel=2e-3), name
        if objective == "sft":
            # The other's head is drawn anew.
            assert found.metrics[name].before == pytest.approx(metric.before, rel=2e-3), name


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_eval_of_what_was_merged_is_that_of_the_adapter(
    models: dict[str, Path], tmp_path: Path, objective: str
):
    """It went by lengths and numerics of its own, and a preference was measured from itself."""
    pairs = [{"prompt": f"say {i}", "chosen": f"it is {i}", "rejected": f"no {i} " * 9}
             for i in range(24)]  # fmt: skip
    data = write_rows(tmp_path / "data.jsonl", pairs if objective == "dpo" else rows("sft"))
    out = tmp_path / "out"
    train(models["decoder"], tmp_path, "lora", objective, dataset=str(data), max_length=24,
          merge=True, eval_share=0.0, learning_rate=0.02)  # fmt: skip
    adapter = ftadvisor.evaluate(out, dataset=data, eval_answers=0).metrics
    merged = ftadvisor.evaluate(out / "merged", dataset=data, eval_answers=0)
    assert merged.objective == objective
    assert merged.metrics.keys() == adapter.keys()
    for name, metric in merged.metrics.items():
        assert metric.before is None
        assert metric.after == pytest.approx(adapter[name].after, rel=1e-4), name
    if objective == "dpo":
        assert (merged.metrics["reward_margin"].after or 0) > 0.01
    for place in (out, out / "merged"):
        with pytest.raises(InvalidSettingError, match=r"max_length 512: .* says otherwise"):
            ftadvisor.evaluate(place, dataset=data, max_length=512)


def test_rows_that_max_length_leaves_nothing_of(models: dict[str, Path], tmp_path: Path):
    """Held-out ones were not told, eval went by its first row, a preview by its first three."""
    long = {"prompt": "word " * 200, "completion": "yes"}
    short = [{"prompt": f"say {i}", "completion": f"it is {i}"} for i in range(8)]
    data = str(write_rows(tmp_path / "data.jsonl", [long, long, long, *short]))
    other = write_rows(tmp_path / "other.jsonl", [long, *short[:2]])
    report = train(models["decoder"], tmp_path, "lora", dataset=data, eval_dataset=str(other),
                   max_length=32, eval_answers=0)  # fmt: skip
    assert report.status == "done"
    told = "1 held-out examples are not evaluated: max_length leaves nothing of them"
    assert told in [event.what for event in report.events]
    found = ftadvisor.evaluate(tmp_path / "out", dataset=other, eval_answers=0)
    assert told in [event.what for event in found.events]
    assert found.metrics["eval_loss"].after == pytest.approx(report.metrics["eval_loss"].after)
    shown = preview(model=str(models["decoder"]), technique="lora", dataset=data, max_length=32,
                    eval_share=0.0)  # fmt: skip
    assert ["".join(p.text for p in e if p.learnt)[:7] for e in shown.examples] == [
        f"it is {i}" for i in range(3)
    ]
    assert "3 examples left out: max_length leaves nothing to learn" in shown.notes


def test_eval_of_a_directory_takes_what_was_held_out(tmp_path: Path):
    """Rows that it was not trained on, where the data say which these are."""
    write_rows(tmp_path / "train.jsonl", rows("sft", 6))
    write_rows(tmp_path / "test.jsonl", rows("sft", 2))
    dataset = PlanDataset(path=str(tmp_path), format=None, columns={}, split="train")
    assert len(read_held_out(dataset, "sft").held_out) == 2


def test_eval_of_prompts_that_cannot_be_switched_off(models: dict[str, Path], tmp_path: Path):
    """PEFT's disable_adapter fails of them without a language head."""
    report = train(models["encoder"], tmp_path, "prefix_tuning", "token_cls", eval_share=0.0)
    assert report.status == "done"
    rest = write_rows(tmp_path / "rest.jsonl", rows("token_cls", 6))
    found = ftadvisor.evaluate(tmp_path / "out", dataset=rest)
    assert found.metrics["accuracy"].before is None
    assert found.metrics["accuracy"].after is not None
    assert any("cannot be switched off" in event.what for event in found.events)


def test_eval_knows_the_classes_of_the_run(models: dict[str, Path], tmp_path: Path):
    """In the run's order, though the rows have but one of them; others are refused."""
    train(models["encoder"], tmp_path, "full", "seq_cls", max_steps=20)
    good = write_rows(tmp_path / "good.jsonl", [{"text": "good nice happy", "label": "pos"}] * 4)
    assert ftadvisor.evaluate(tmp_path / "out", dataset=good).metrics["accuracy"].after == 1.0
    odd = write_rows(tmp_path / "odd.jsonl", [{"text": "so so", "label": "meh"}] * 4)
    with pytest.raises(DataFileError, match="none of the model's classes"):
        ftadvisor.evaluate(tmp_path / "out", dataset=odd)


def test_preview_shows_what_is_learnt_and_writes_nothing(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = write_rows(tmp_path / "train.jsonl", rows("sft"))
    words = ["run", "--preview", "--model", str(models["decoder"]), "--technique", "lora",
             "--dataset", str(data), "--output-dir", str(tmp_path / "out")]  # fmt: skip
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.count("{+the sum is") == 3
    assert out.count("<|im_end|>+}") == 3
    assert not (tmp_path / "out").exists()
    pair = write_rows(tmp_path / "pair.jsonl", rows("seq2seq"))
    words = [*words[:3], str(models["encdec"]), *words[4:6], "--objective", "seq2seq",
             "--dataset", str(pair), "--json"]  # fmt: skip
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)["examples"][0]
    assert [(piece["text"], piece["learnt"]) for piece in first] == [
        ("say 0", False), ("it is 0</s>", True),
    ]  # fmt: skip
