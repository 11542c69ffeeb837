"""`recommend`, `rules` and `explain` as a person and a program meet them."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ftadvisor import FtadvisorError, Plan, Recommendation, estimate, fit, recommend
from ftadvisor.api.rules import explain_rule, list_rules
from ftadvisor.cli import main, progress
from ftadvisor.cli.entry import BAD_INPUT
from ftadvisor.render.display import document_of
from ftadvisor.render.document import Bullets, Column, Paragraph, Table, Words
from ftadvisor.render.html import html
from ftadvisor.render.plan_settings import settings_table
from ftadvisor.render.recommendation import REASONS_SHOWN, deciding
from ftadvisor.schema.rule import Evidence
from ftadvisor.sources.rules import _READERS  # pyright: ignore[reportPrivateUsage]

ROOT = Path(__file__).resolve().parent.parent
CHAT = ["--model", "llama3.1-8b", "--gpu", "rtx4090", "--use-case", "chat"]
TOO_LARGE = ["--model", "llama-2-70b", "--gpu", "rtx4090", "--technique", "full"]
ANSWER_KEYS = {
    "plan", "reasons", "rejected", "alternatives", "flips", "evaluation", "warnings",
}  # fmt: skip
PLAN_KEYS = {
    "workload",
    "schema_version", "model", "dataset", "hardware", "technique", "objective", "settings", "seed",
    "estimate",
}  # fmt: skip


@pytest.fixture(scope="module")
def answer() -> Recommendation:
    return recommend("llama3.1-8b", gpu="rtx4090", use_case="chat")


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f"{n} {'why ' * 20}"},
                      {"role": "assistant", "content": f"because {n} {'of it ' * 40}"}]}
        for n in range(300)
    ]  # fmt: skip
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"messages": \n')
    return path


def asked(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    code = main(["recommend", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_json_has_the_keys_that_were_promised(chats: Path, capsys: pytest.CaptureFixture[str]):
    code, found = asked([*CHAT, "--dataset", str(chats), "--seed", "3"], capsys)
    assert code == 0
    assert set(found) >= ANSWER_KEYS
    plan = found["plan"]
    assert set(plan) == PLAN_KEYS
    assert plan["seed"] == 3
    assert set(plan["dataset"]) == {"path", "format", "columns", "split"}
    assert set(plan["hardware"]) == {"gpu", "num_gpus"}
    assert {"memory", "time", "cost", "verdict"} <= set(plan["estimate"])
    assert all({"rule", "because", "source"} <= set(row) for row in found["reasons"])
    assert all({"technique", "why", "rule"} <= set(row) for row in found["rejected"])
    for row in found["alternatives"]:
        assert {"label", "plan"} <= set(row)
        assert set(row["plan"]) == PLAN_KEYS
    assert found["dataset"]["broken_rows"] == 1


def test_a_stated_length_is_as_many_tokens_as_an_estimate_counts():
    """Nobody says how many examples: both take the reference's tokens."""
    options: dict[str, Any] = {"technique": "lora", "mean_length": 512, "max_length": 1024}
    plan = recommend("qwen3-0.6b", gpu="rtx3090", **options).plan
    alone = estimate("qwen3-0.6b", gpu="rtx3090", **options).time
    planned = plan.estimate.time
    assert planned is not None
    assert alone is not None
    # Of an estimate three passes are the reference's.
    share = float(plan.settings["num_train_epochs"]) / 3
    found = planned.total_seconds * planned.tokens_per_second
    assert found == pytest.approx(share * alone.total_seconds * alone.tokens_per_second, rel=0.01)


def test_without_a_dataset_there_is_none(capsys: pytest.CaptureFixture[str]):
    assert asked(CHAT, capsys)[1]["plan"]["dataset"] is None


def test_command_and_python_agree(capsys: pytest.CaptureFixture[str]):
    words = [*CHAT, "--num-examples", "5000", "--goal", "cost", "--max-length", "1024",
             "--gpu", "rtx4090", "l4", "--no-labels", "--languages", "en", "de"]  # fmt: skip
    found = recommend(
        "llama3.1-8b", gpu=["rtx4090", "l4"], use_case="chat", num_examples=5000, goal="cost",
        max_length=1024, labels=False, languages=["en", "de"],
    )  # fmt: skip
    code, printed = asked(words, capsys)
    assert code == 0
    assert printed == json.loads(json.dumps(found.as_dict()))


def test_nothing_fits_is_an_answer_with_a_ladder(capsys: pytest.CaptureFixture[str]):
    code, found = asked(TOO_LARGE, capsys)
    assert code == 1
    assert found["plan"] is None
    assert found["remedies"]
    assert main(["recommend", *TOO_LARGE]) == 1
    said = capsys.readouterr().out
    assert said.startswith("Nothing fits: meta-llama/Llama-2-70b-hf on rtx-4090\n")
    # What stands in brackets may be on the cell's next line.
    assert found["remedies"][0]["change"].partition(" (")[0] in said


def test_a_budget_that_nothing_keeps_is_named_with_what_it_is_missed_by(
    capsys: pytest.CaptureFixture[str],
):
    assert main(["recommend", *CHAT, "--num-examples", "5000", "--budget-usd", "0.001"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("No run keeps to budget and deadline: ")
    assert "The budget is missed by $" in said
    assert "one change" not in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing to work on: give a model"),
        (["--model", "gpt2", "--use-case", "claasification"], "Did you mean: classification"),
        (["--model", "gpt2", "--goal", "qualty"], "Did you mean: quality"),
        (["--model", "gpt2", "--gpu", "rtx4091"], "rtx-4090"),
        (["--modle", "gpt2"], "Did you mean: --model"),
        (["--model", "gpt2", "--budget", "5"], "Did you mean: --budget-usd"),
        (["--model", "gpt2", "--rules", "missing.yaml"], "rules file 'missing.yaml'"),
        (["--model", "gpt2", "--dataset", "missing.jsonl"], "missing.jsonl"),
        (["--model", "gpt2", "--budget-usd", "-5"], "budget_usd is -5"),
        (["--model", "gpt2", "--objective", "ppo"], "grpo"),
    ],
)
def test_bad_input_says_what_to_write(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["recommend", *words]) == BAD_INPUT
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert main(["recommend", *words, "--json"]) == BAD_INPUT
    assert set(json.loads(capsys.readouterr().out)) == {"error"}


def test_recalled_evidence_is_marked_wherever_it_is_shown(answer: Recommendation):
    shown = deciding(answer.reasons)
    assert len(shown) <= REASONS_SHOWN
    recalled = [reason for reason in shown if reason.evidence == "recalled"]
    assert recalled
    flat = " ".join(str(answer).split())
    for reason in recalled:
        assert f"{reason.because} (recalled, not checked)" in flat
    assert "recalled, not checked" in answer._repr_html_()


def test_a_setting_in_the_reasons_is_the_plans(answer: Recommendation):
    assert answer.plan is not None
    said = str(answer)
    for reason in deciding(answer.reasons):
        if reason.about in answer.plan.settings:
            assert re.search(rf"- {reason.about} \S+: ", said)


def test_warnings_stand_first(chats: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["recommend", *CHAT, "--dataset", str(chats)]) == 0
    said = capsys.readouterr().out
    assert said.index("1 broken row is left out (line 301") < said.index("Settings")
    assert "300 examples (chat)" in said


def test_only_what_a_technique_has_is_a_setting():
    found = recommend("bert-base", gpu="rtx3090", use_case="classification", technique="full")
    assert found.plan is not None
    said = " ".join(words(settings_table(found.plan)))
    assert "lora_r" not in said
    assert "learning_rate" in said


def words(block: Any) -> list[str]:
    """All text of a block."""
    match block:
        case Table():
            cells = [cell for row in block.rows for cell in row if isinstance(cell, Words)]
            return [block.title, *(w for cell in cells for w in (cell.text, cell.below))]
        case Paragraph():
            return [line.text for line in block.lines]
        case Bullets():
            items = [i if isinstance(i, Words) else Words(i) for i in block.items]
            return [block.title, *(w for item in items for w in (item.text, item.below))]
        case _:
            return []


class _Text(HTMLParser):
    """Checks that elements nest, and gathers text outside <style>."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.said.append(data)


def test_html_holds_what_the_blocks_say(answer: Recommendation):
    parser = _Text()
    parser.feed(answer._repr_html_())
    assert parser.open == []
    said = "".join(parser.said)
    for block in document_of(answer):
        for text in words(block):
            assert text in said


def test_html_escapes_everything_and_loads_nothing():
    evil = '<script>alert("1")</script>&'
    blocks = (
        Table((Column(evil),), ((Words(evil, "bad", evil),),), evil),
        Paragraph((Words(evil, "dim", evil),)),
        Bullets(evil, (evil, Words(evil, "", evil)), "warn"),
    )
    text = html(blocks)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 10
    assert not re.search(r"(?:src|href|@import|url\()", text)


@pytest.mark.parametrize("width", [40, 100])
def test_rich_prints_it(answer: Recommendation, width: int):
    out = io.StringIO()
    Console(file=out, width=width).print(answer)
    assert max(map(len, out.getvalue().splitlines())) <= width
    assert "Because" in out.getvalue()


def test_other_answers_display_themselves_too():
    e = estimate("gpt2", gpu="rtx3090", technique="lora")
    found = fit(gpu="rtx3060", technique="lora")
    for answer in (e, found):
        assert "peak memory" in str(answer)
        assert "<table>" in answer._repr_html_()


def test_records_are_what_they_are_called(answer: Recommendation):
    assert isinstance(answer, Recommendation)
    assert isinstance(answer.plan, Plan)


def test_the_command_imports_no_training_stack():
    code = (
        "import sys; from ftadvisor.cli import main\n"
        f"main({['recommend', *CHAT]!r})\n"
        "print(sorted({'torch', 'transformers', 'peft', 'trl', 'pandas', 'scipy', 'datasets'}"
        " & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_a_pipe_gets_plain_text():
    command = [sys.executable, "-m", "ftadvisor", "recommend", *CHAT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout


def test_progress_is_drawn_for_somebody_who_watches(monkeypatch: pytest.MonkeyPatch):
    class Watched(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Watched()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress.reading("train.jsonl") as draw:
        assert draw is not None
        draw(5, 10)
    assert "train.jsonl" in screen.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress.reading("train.jsonl") as draw:
        assert draw is None


def test_a_plan_is_written_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    written: list[tuple[Plan, str]] = []

    class Plans:
        write_plan = staticmethod(lambda plan, path: written.append((plan, path)))

    monkeypatch.setitem(sys.modules, "ftadvisor.sources.plans", Plans)
    place = str(tmp_path / "plan.yaml")
    assert main(["recommend", *CHAT, "-o", place]) == 0
    assert [(type(plan), path) for plan, path in written] == [(Plan, place)]
    assert place in capsys.readouterr().err
    assert main(["recommend", *TOO_LARGE, "--output", place]) == 1
    assert len(written) == 1


def test_rules_are_found_by_what_they_are_about():
    everything = list_rules()
    assert len(everything) > 300
    assert all(row["when_in_words"] and row["effects_in_words"] for row in everything)
    dpo = list_rules(about=["learning-rate", "dpo"])
    assert dpo
    assert all("dpo" in row["when_in_words"] for row in dpo)
    assert {row["evidence"] for row in list_rules(about="recalled")} == {"recalled"}
    assert all("2405.09673" in row["source"] + row["number"] for row in list_rules("2405.09673"))
    with pytest.raises(FtadvisorError, match="Did you mean: qlora"):
        list_rules(about="qlorra")


def test_a_rule_is_explained_with_what_says_otherwise():
    both = [row for row in list_rules() if row["contradicts"]]
    for row in both:
        ids = {other["id"] for other in explain_rule(row["id"])["contradicted_by"]}
        known = {other["id"] for other in list_rules()}
        assert set(row["contradicts"]) & known <= ids
    with pytest.raises(FtadvisorError, match="Did you mean: lora-default"):
        explain_rule("lora-defualt")


def test_explain_prints_what_is_known(capsys: pytest.CaptureFixture[str]):
    assert main(["explain", "lora-default"]) == 0
    said = capsys.readouterr().out
    row = explain_rule("lora-default")
    for key in ("reason", "when_in_words", "source", "url", "date", "evidence_in_words"):
        assert row[key] in " ".join(said.split()), key
    assert "recalled, not checked" in said
    assert main(["explain", "lora-default", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rule"]["id"] == "lora-default"


def test_rules_of_ones_own_are_listed_and_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "own.yaml"
    path.write_text(
        "- id: ours\n  when: {use_case: {is: chat}, technique: {in: [lora, qlora]}}\n"
        "  effects: [{set: {lora_r: 32}}]\n  reason: We have used it well.\n"
    )
    assert main(["rules", "used it well", "--rules", str(path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rules"]
    assert (row["layer"], row["evidence"]) == ("user", "given")
    code, found = asked([*CHAT, "--rules", str(path)], capsys)
    assert code == 0
    assert found["plan"]["settings"]["lora_r"] == 32
    (reason,) = [r for r in found["reasons"] if r["rule"] == "ours"]
    assert reason["about"] == "lora_r"
    assert reason["overrides"]
    path.write_text("- id: ours\n  when: {use_csae: {is: chat}}\n  effects: []\n  reason: x\n")
    assert main(["rules", "--rules", str(path)]) == BAD_INPUT
    assert "row 'ours', field 'when.use_csae'" in capsys.readouterr().err


def test_the_document_names_every_effect_and_grade():
    text = (ROOT / "docs" / "rules.md").read_text()
    for name in _READERS:
        assert f"`{name}:" in text or f"`, `{name}:" in text, name
    for grade in Evidence.__args__:
        assert f"*{grade}*" in text
