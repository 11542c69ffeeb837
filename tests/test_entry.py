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
