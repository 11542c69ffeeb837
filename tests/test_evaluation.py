"""Metrics are the libraries' own, over any sample of the rows; what people read is right."""

from __future__ import annotations

import math
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from ftadvisor.api.evaluating import METRICS
from ftadvisor.api.running import planned
from ftadvisor.execution.evaluation import metrics
from ftadvisor.execution.evaluation.forgetting import paragraphs
from ftadvisor.execution.evaluation.intervals import interval
from ftadvisor.render.run import run_document
from ftadvisor.render.terminal import make_console, print_document
from ftadvisor.schema.report import Answer, Event, Metric, Report
from ftadvisor.sources.data_files import read_json

PAIRS = [
    ("the cat sat on the mat", "the cat sat on a mat"), ("hello there", "hello there"),
    ("no", "a rather long reference that says much more"), ("it rains today", "today it rains"),
    ("", "nothing was said"),
]  # fmt: skip
BY_PEOPLE = {"ab_test", "pairwise_comparison", "rating_scale"}
ELSEWHERE = {"pass_at_1", "ndcg_at_10"}
"""Programs that must be run, and embeddings, which no objective here trains."""


def test_every_metric_of_a_plan_is_measured_or_known_not_to_be():
    advised = {
        name
        for rule in read_json("rules/measures.json")["rules"]
        for effect in rule["effects"]
        for name in effect.get("measure", ())
    }
    assert advised - {*METRICS} == BY_PEOPLE | ELSEWHERE


def test_classes_as_scikit_learn_has_them():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, 60).tolist(), rng.integers(0, 5, 60).tolist()
    # A row of several words counts as one piece.
    rows = [list(zip(true[i : i + 3], predicted[i : i + 3], strict=True)) for i in range(0, 60, 3)]
    found = metrics.classification(rows)
    assert found["accuracy"].value == pytest.approx(sklearn.accuracy_score(true, predicted))
    assert found["f1"].value == pytest.approx(sklearn.f1_score(true, predicted, average="macro"))
    assert found["mcc"].value == pytest.approx(sklearn.matthews_corrcoef(true, predicted))


def test_texts_as_their_libraries_score_the_corpus():
    sacrebleu = pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    nltk = pytest.importorskip("nltk.translate.meteor_score")
    said: list[str] = []
    found = metrics.answered(PAIRS, said.append)
    answers, references = [a for a, _ in PAIRS], [r for _, r in PAIRS]
    assert found["bleu"].value == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score)
    assert found["chrf"].value == pytest.approx(sacrebleu.corpus_chrf(answers, [references]).score)
    assert found["exact_match"].value == pytest.approx(1 / 5)
    assert found["rouge1"].value == pytest.approx((5 / 6 + 1 + 0 + 1 + 0) / 5)
    if metrics.WITHOUT_WORDNET not in found:
        pytest.skip("WordNet is installed")
    assert [what for what in said if "WordNet" in what]
    same = nltk.single_meteor_score(["hello", "there"], ["hello", "there"])
    assert metrics.answered(PAIRS[1:2], said.append)[
        metrics.WITHOUT_WORDNET
    ].value == pytest.approx(same)


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(metrics, "import_module", absent)
    said: list[str] = []
    assert [*metrics.answered(PAIRS, said.append)] == ["exact_match"]
    assert said == [
        f"{name} is not installed: its metrics are left out"
        for name in ("sacrebleu", "rouge_score", "nltk")
    ]


def test_perplexity_weighs_tokens_not_rows():
    tally = metrics.perplexity([1.0, 3.0], [30, 10])
    assert tally.value == pytest.approx(math.exp(1.5))


def test_an_interval_holds_what_it_says():
    """90 % of intervals of 40 rows hold the share of all rows, within the binomial's spread."""
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        rows = (rng.random(40) < 0.6).astype(float).tolist()
        low, high = interval(metrics.mean(rows), seed) or (0.0, 0.0)
        hits += low <= 0.6 <= high
    assert 165 <= hits <= 192
    tally = metrics.mean([1.0, 0.0, 1.0, 1.0])
    assert interval(tally, 3) == interval(tally, 3)
    assert interval(metrics.mean([1.0]), 3) is None


def test_general_text_is_in_paragraphs():
    found = paragraphs()
    assert len(found) >= 10
    assert all(150 < len(one) < 600 and "\n" not in one for one in found)


@pytest.fixture
def report(tmp_path: Any) -> Report:
    data = tmp_path / "train.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n' * 20, encoding="utf-8")
    plan, _ = planned(None, {"model": "qwen3-0.6b", "technique": "lora", "dataset": str(data)})
    losses = tuple({"step": step, "loss": 3.0 / step} for step in range(1, 41))
    return Report(
        status="done", plan=plan, output_dir="out",
        predicted={"step_seconds": 2.0, "total_seconds": 900.0, "allocated_bytes": 2**30},
        measured={"step_seconds": 1.0, "total_seconds": 41.0, "num_steps": 40.0,
                  "allocated_bytes": 2.0**31},
        losses=losses,
        metrics={"eval_loss": Metric(2.2, 1.4), "perplexity": Metric(9.0, 4.0, 3.5, 4.5),
                 "bleu": Metric(1.0, 2.0, 0.5, 3.0),
                 "general_perplexity": Metric(5.0, 7.0, 6.0, 8.0)},
        events=(Event("data", 0, "20 rows <b>"),), versions={"torch": "2"}, seed=0,
        answers=(Answer("who & what?", "me", "<i>", "me"),),
        memory=({"step": 1, "allocated_bytes": 2**30}, {"step": 2, "allocated_bytes": 2**31}),
    )  # fmt: skip


class _Page(HTMLParser):
    """Its open elements must be none at the end; all its addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_stands_for_itself(report: Report):
    page = _Page()
    page.feed(report.as_page())
    assert page.open == []
    assert page.addresses == []
    text = " ".join(page.text)
    for said in ("who & what?", "20 rows <b>", "held out", "predicted 1.00 GiB", "Qwen3-0.6B"):
        assert said in text
    assert report.as_page().count("<svg") == 2


def test_a_page_of_a_run_that_learnt_nothing(report: Report):
    empty = replace(report, losses=(), metrics={}, memory=(), answers=(), status="failed")
    assert "<svg" not in empty.as_page()
    assert "failed" in empty.as_page()


def test_what_is_printed_fits_a_terminal(
    report: Report, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    print_document(run_document(report), make_console())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    # The plan's total is of 450 steps, the run's of 40: the prediction is for as many.
    assert [line.split() for line in lines if line.startswith("training")] == [
        ["training,", "these", "steps", "41.0", "s", "80.0", "s", "+95", "%"]
    ]


def test_better_and_worse_by_the_interval(report: Report):
    from ftadvisor.render.run import metrics_table

    tones = {row[0].text: row[2].tone for row in metrics_table(report.metrics).rows}  # type: ignore[union-attr]
    # Lower is better for perplexity; BLEU's interval holds what it was before.
    assert tones == {
        "loss": "",
        "perplexity": "good",
        "BLEU": "",
        "perplexity, general text": "bad",
    }


def test_the_card_says_what_a_reader_needs(report: Report):
    card = report.as_card()
    assert card.startswith("---\n")
    for said in ("library_name: peft", "| perplexity | 9 | 4 | 3.5–4.5 |", "| torch | 2 |",
                 "| memory allocated | 2.00 GiB | 1.00 GiB | -50 % |", "| seed | 0 |"):  # fmt: skip
        assert said in card


def test_a_difference_of_means():
    tally = metrics.difference([3.0, 5.0], [1.0, 0.0, 2.0])
    assert tally.value == pytest.approx(3.0)
    low, high = interval(tally, 0) or (0.0, 0.0)
    assert low < 3.0 < high
