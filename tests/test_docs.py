"""Documents: commands and snippets run, quotes are fresh, links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from cogapp import Cog

from ftadvisor.calibration.cases import case_of
from ftadvisor.cli import entry
from ftadvisor.cli.parsing import parse
from ftadvisor.sources.measurements import read_measurements
from ftadvisor.sources.models import model_config

ROOT = Path(__file__).resolve().parent.parent
QUOTING = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [*QUOTING, *sorted((ROOT / "data").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


class Shown(NamedTuple):
    """One command of a document."""

    document: str
    command: str
    refused: bool
    """The document shows the error that the command ends in."""

    def __str__(self) -> str:
        return f"{self.document}: {self.command}"


def load(name: str) -> ModuleType:
    """A module of scripts/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fences(path: Path, *kinds: str) -> Iterator[str]:
    for kind, text in FENCE.findall(path.read_text(encoding="utf-8")):
        if kind in kinds:
            yield text


def commands() -> Iterator[Shown]:
    for path in DOCUMENTS:
        for text in fences(path, "console", "sh", ""):
            lines = text.replace("\\\n", " ").splitlines()
            for line, after in zip(lines, [*lines[1:], ""], strict=True):
                command = line.removeprefix("$ ")
                if command.startswith("ftadvisor "):
                    words = shlex.split(command, comments=True)
                    refused = after.startswith("ftadvisor: ")
                    yield Shown(path.name, shlex.join(words), refused)


def marked(value: object, text: str, name: str) -> Any:
    """What needs the `run` extra runs among the slow tests, which have it."""
    slow = re.search(r"\bsimulate\b|\bselfcheck\b", text)
    return pytest.param(value, id=name, marks=[pytest.mark.slow] if slow else [])


ALL = {shown.command: shown for shown in commands()}
NOT_RUN = ("ftadvisor run ", "ftadvisor eval ", "ftadvisor probe", "ftadvisor benchmark ")
TRAINING = [command for command in ALL if command.startswith(NOT_RUN)]
"""These need weights, or train: the documents' are read, not run."""
COMMANDS = {command: shown for command, shown in ALL.items() if command not in TRAINING}
SNIPPETS = [(path.name, code) for path in DOCUMENTS for code in fences(path, "python")]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files that the documents speak of, and the hub out of reach."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FTADVISOR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    question = {"model": "llama-7b", "gpu": "rtx3090", "technique": "lora", "max_length": 1024}
    (tmp_path / "questions.jsonl").write_text(f"{json.dumps(question)}\n" * 3)
    (tmp_path / "data.jsonl").write_text('{"prompt": "Why?", "completion": "Because."}\n' * 9)
    (tmp_path / "config.json").write_text(json.dumps(model_config("llama-7b")))
    (tmp_path / "rows.jsonl").write_text(json.dumps(measurement()))
    (tmp_path / "bad.jsonl").write_text("{\n")
    for name, content in load("docs").desk().items():
        (tmp_path / name).write_text(content)
    return tmp_path


def measurement() -> dict[str, object]:
    """The example of docs/adding-a-measurement.md."""
    row, *_ = fences(ROOT / "docs" / "adding-a-measurement.md", "json")
    return json.loads(row)


@pytest.mark.parametrize("shown", [marked(s, s.command, str(s)) for s in COMMANDS.values()])
@pytest.mark.usefixtures("desk")
def test_every_command_of_the_documents_runs(shown: Shown):
    code, said = load("docs").run(shown.command)
    assert code in ((2,) if shown.refused else (0, 1)), said
    assert said


@pytest.mark.parametrize("command", TRAINING)
def test_every_run_of_the_documents_is_understood(command: str):
    _, name, *words = shlex.split(command)
    assert parse(entry.load(name), words) or not words


@pytest.mark.parametrize("snippet", [marked(s, s[1], s[0]) for s in SNIPPETS])
@pytest.mark.usefixtures("desk")
def test_every_python_snippet_runs(snippet: tuple[str, str]):
    name, code = snippet
    exec(compile(code, name, "exec"), {"__name__": "snippet"})


def test_what_the_documents_quote_is_what_the_program_says(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert desk.is_dir()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])
    files = [str(path) for path in QUOTING]
    changed = Cog().main(["cog", "--check", "-I", str(ROOT / "scripts"), *files])
    assert changed == 0, f"`make docs` has something to write:\n{capsys.readouterr().out}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path):
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, heading = target.partition("#")
        found = (path.parent / place).resolve() if place else path
        assert found.exists(), f"{path.name} links to {target}"
        if heading:
            assert heading in headings(found), f"{path.name} links to {target}"


def headings(path: Path) -> set[str]:
    """As GitHub names them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_document_is_reached_from_the_readme():
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for target in LINK.findall(path.read_text(encoding="utf-8")):
            found = (path.parent / target.partition("#")[0]).resolve()
            if found.suffix == ".md" and found.is_file() and found not in seen:
                waiting.append(found)
    assert {path.name for path in QUOTING} <= {path.name for path in seen}


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        for name in re.findall(r"(?:`|^|\$ )make ([a-z-]+)", path.read_text(), re.MULTILINE):
            assert name in targets, f"{path.name}: make {name}"


def test_json_examples_are_json():
    for path in DOCUMENTS:
        for text in fences(path, "json"):
            json.loads(text)


def test_the_example_of_a_measurement_is_one(desk: Path):
    found = case_of(read_measurements(desk / "rows.jsonl")[0])
    assert found.scored
    assert found.gpu is not None
    assert found.situation.memory_unsupported is None


def test_the_readme_starts_with_real_output_and_says_how_wrong_it_is():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    order = (
        "pip install ftadvisor",
        "$ ftadvisor recommend --model llama3.1-8b --gpu rtx4090",
        "$ ftadvisor estimate --model llama-7b --gpu rtx3060",
        "## How wrong is it?",
        "## Ask more precisely",
    )
    places = [text.index(part) for part in order]
    assert places == sorted(places)
