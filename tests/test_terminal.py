"""What a terminal of any width shows: every figure whole, and no line wider than it is."""

from __future__ import annotations

import re

import pytest

from ftadvisor.cli import main
from ftadvisor.cli.entry import COMMANDS

WIDTHS = (40, 60, 70, 80, 100, 160)


def printed(
    words: list[str],
    width: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(words) in (0, 1)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "words",
    [
        ["estimate", "--model", "llama-7b", "--gpu", "rtx3060"],
        ["estimate", "--model", "llama-7b", "--gpu", "rtx4090"],
        ["estimate", "--model", "llama-7b"],
        ["recommend", "--model", "llama3.1-8b", "--gpu", "rtx4090", "--use-case", "chat"],
        ["recommend", "--model", "llama3.1-8b", "--gpu", "rtx4090", "a100-80gb", "--num-gpus", "4"],
        ["recommend", "--model", "llama-2-70b", "--gpu", "rtx4090", "--technique", "full"],
        ["rules", "--for", "qlora"],
        ["explain", "lora-default"],
        ["fit", "--gpu", "rtx3060"],
        ["fit", "--model", "llama-3.1-70b"],
        ["fit", "--model", "llama-3.1-70b", "--technique", "full"],
        ["fit", "--model", "llama3.1-8b", "--gpu", "rtx4090"],
        ["fit", "--model", "llama3.1-8b", "--gpu", "rtx4090", "--technique", "qlora"],
        ["fit", "--model", "llama-2-13b", "--gpu", "rtx3060", "--technique", "lora"],
        ["compare", "--model", "llama-7b", "--gpu", "rtx4090"],
        ["compare", "--model", "llama-7b", "--gpu", "rtx4090", "l40s", "--technique", "lora"],
        ["list", "models", "llama-2"],
        ["list", "gpus"],
        ["list", "trainers"],
        ["list", "prices"],
        ["show", "gpu", "rtx4090"],
        ["--help"],
        *([command, "--help"] for command in COMMANDS),
    ],
)
def test_nothing_is_cut_off_or_too_wide(
    words: list[str],
    width: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = printed(words, width, capsys, monkeypatch)
    assert text
    assert "…" not in text
    # A word that is longer than the line, such as a list of choices, stays whole.
    wide = [line for line in text.splitlines() if len(line) > width and " " in line.strip()]
    assert wide == []


@pytest.mark.parametrize("width", WIDTHS)
def test_every_row_has_its_figures(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["estimate", "--model", "llama-7b", "--gpu", "rtx3090", "--technique", "qlora"]
    text = printed(words, width, capsys, monkeypatch)
    for figure in (r"qlora", r"\bfits\b", r"\d GiB", r"\d h\b|\d min\b", r"\$\d"):
        assert re.search(figure, text), figure
    if width < 70:
        assert re.search(r"\n  tokens/s +\d", text)


def test_a_legend_goes_with_its_bars(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["estimate", "--model", "llama-7b", "--gpu", "rtx4090"]
    for width in WIDTHS:
        text = printed(words, width, capsys, monkeypatch)
        assert ("by part" in text) == ("usable" in text.partition("\n\n")[2])


def test_an_interval_has_one_unit_and_a_piped_row_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["estimate", "--model", "llama-7b", "--gpu", "rtx4090"]
    text = printed(words, 160, capsys, monkeypatch)
    rows = [line for line in text.splitlines() if "█" in line and "GiB" in line]
    assert rows
    for row in rows:
        assert re.search(r"[\d.]+ (h|min) \([\d.]+–[\d.]+\) ", row), row
