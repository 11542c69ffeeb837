"""What the command line does when its output, its questions or its terminal are unusual."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftadvisor.cli import main
from ftadvisor.cli.entry import BAD_INPUT, OUTPUT_LOST
from ftadvisor.cli.listing import KINDS

QUESTION = '{"model": "gpt2"}'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full device")
@pytest.mark.parametrize("words", [["list", "models"], ["list", "gpus", "3090"], ["--help"]])
def test_a_full_disk_is_one_message(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ftadvisor", *words], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == OUTPUT_LOST
    message = b"ftadvisor: the output cannot be written: No space left on device.\n"
    assert done.stderr == message


def test_a_closed_output_is_one_message() -> None:
    closed = f"exec '{sys.executable}' -m ftadvisor list models >&-"
    done = subprocess.run(["sh", "-c", closed], stderr=subprocess.PIPE)
    assert done.returncode == OUTPUT_LOST
    assert done.stderr == b"ftadvisor: the output cannot be written: standard output is closed.\n"


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_a_question_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    assert main(["estimate", str(path), "--json"]) == BAD_INPUT
    assert "holds no question" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert main(["estimate", str(path)]) == BAD_INPUT
    assert "holds no question" in capsys.readouterr().err


def answers(
    lines: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[dict[str, Any]], str]:
    """The records and the message of a batch that standard input holds."""
    given = io.BytesIO("\n".join(lines).encode())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=given))
    assert main(["estimate", "-"]) == BAD_INPUT
    captured = capsys.readouterr()
    return [json.loads(line) for line in captured.out.splitlines()], captured.err


@pytest.mark.parametrize(
    ("line", "says", "says_not"),
    [
        ('{"model": "gpt2", "json": true}', "line 2: json is no key of a question", "No option"),
        ('{"model":', "line 2: not JSON: Expecting value at character 10", "line 1"),
        ("{'model'}", "line 2: not JSON: Expecting property name", "column"),
    ],
)
def test_a_bad_line_is_named_once(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    says: str,
    says_not: str,
) -> None:
    records, message = answers([QUESTION, line], capsys, monkeypatch)
    assert "model" in records[0]
    assert says in records[1]["error"]["message"]
    assert says_not not in str(records[1])
    assert message == "ftadvisor: 1 line of standard input could not be answered.\n"


def test_a_byte_order_mark_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = b"\xef\xbb\xbf"
    question, options, data = (tmp_path / n for n in ("q.jsonl", "peft.json", "data.jsonl"))
    question.write_bytes(mark + QUESTION.encode())
    options.write_bytes(mark + b'{"r": 4}')
    data.write_bytes(mark + b'{"text": "one"}')
    assert main(["estimate", str(question)]) == 0
    words = ["estimate", "--model", "gpt2", "--technique", "lora", "--json"]
    assert main([*words, "--peft-config", str(options), "--dataset", str(data)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["model"].endswith("gpt2")


def test_one_example_is_singular(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.txt"
    path.write_text("hello\n")
    main(["estimate", "--model", "gpt2", "--gpu", "rtx3090", "--dataset", str(path)])
    assert "1 example of" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("kind", "pattern", "holds"),
    [
        ("gpus", "rtx3090", "rtx-3090"),
        ("gpus", "RTX 3090", "rtx-3090"),
        ("gpus", "a100 80gb", "a100-sxm4-80gb"),
        ("gpus", "a6000-ada", "rtx-6000-ada"),
        ("models", "llama 7b", "huggyllama/llama-7b"),
        ("models", "LLAMA-3.1", "meta-llama/Meta-Llama-3.1-8B"),
        ("techniques", "Prompt Tuning", "prompt_tuning"),
        ("techniques", "houlsby", "bottleneck"),
        ("trainers", "TRL", "trl-1.16"),
        ("prices", "RTX4090", "rtx-4090"),
    ],
)
def test_lists_match_names_as_they_are_matched_elsewhere(
    capsys: pytest.CaptureFixture[str], kind: str, pattern: str, holds: str
) -> None:
    assert main(["list", kind, pattern, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)[kind]
    assert holds in {row.get("id") or row["gpu"] for row in rows}


def test_one_row_is_singular(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "gpus", "3060-12gb"])
    assert capsys.readouterr().out.endswith("\n1 gpu\n")


@pytest.mark.parametrize("pattern", ["[", "()", " ", "zzzz"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_pattern_lists_nothing(
    capsys: pytest.CaptureFixture[str], kind: str, pattern: str
) -> None:
    assert main(["list", kind, pattern, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {kind: []}


@pytest.mark.parametrize(
    ("kind", "pattern", "meant"),
    [
        ("gpus", "rtx3091", "rtx-3090"),
        ("models", "lamma-7b", "llama-7b"),
        ("prices", "rtx4091", "4090"),
    ],
)
def test_an_unknown_pattern_gets_near_misses(
    capsys: pytest.CaptureFixture[str], kind: str, pattern: str, meant: str
) -> None:
    assert main(["list", kind, pattern]) == 0
    _, _, near = capsys.readouterr().out.partition("Did you mean: ")
    assert meant in near
