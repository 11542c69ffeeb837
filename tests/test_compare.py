"""Comparisons: rows are estimates, one thing differs, the best are marked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ftadvisor import Comparison, InvalidSettingError, UnknownNameError, compare, estimate
from ftadvisor.cli import main


def test_rows_are_estimates():
    options: dict[str, Any] = {"max_length": 512, "micro_batch_size": 2}
    names = ["lora", "qlora", "full"]
    found = compare("llama3.1-8b", gpu="rtx4090", technique=names, **options)
    assert type(found) is Comparison
    assert [row.name for row in found.rows] == names
    for row in found.rows:
        assert row.estimate == estimate("llama3.1-8b", gpu="rtx4090", technique=row.name, **options)


def test_the_best_is_among_what_fits():
    found = compare("llama3.1-8b", gpu="rtx4090", technique=["lora", "qlora", "full"])
    by_name = {row.name: row for row in found.rows}
    assert by_name["full"].estimate.verdict == "does_not_fit"
    for names in found.best.values():
        assert "full" not in names
    assert found.best["memory"] == ("qlora",)
    assert found.best["time"] == ("lora",)


@pytest.mark.parametrize(
    ("axis", "question"),
    [
        ("gpu", {"model": "llama-7b", "gpu": ["rtx3090", "rtx4090", "h100-sxm"]}),
        ("model", {"model": ["llama-7b", "llama-13b"], "gpu": "rtx4090"}),
        ("model", {"model": ["llama-7b", "llama-13b"]}),
        ("technique", {"model": "llama-7b", "gpu": "rtx4090"}),
    ],
)
def test_one_thing_differs(axis: str, question: dict[str, Any]):
    found = compare(**question)
    assert found.axis == axis
    assert len(found.rows) > 1
    if axis != "technique":
        assert all(row.quality is None for row in found.rows)
        assert any("technique lora" in said for said in found.rows[0].estimate.assumptions)


def test_quality_is_unknown_where_nobody_compared():
    found = compare("llama-7b", gpu="rtx4090", technique=["lora", "full", "adalora", "adapter_v2"])
    points = {row.name: row.quality for row in found.rows}
    assert points["lora"] is not None
    assert points["lora"].points == 0
    assert points["full"] is not None
    assert points["full"].low < points["full"].points < points["full"].high
    assert points["full"].rules
    assert points["adapter_v2"] is None
    chat = compare("llama-7b", technique=["lora", "full"], use_case="chat")
    code = compare("llama-7b", technique=["lora", "full"], use_case="code")
    assert chat.rows[1].quality != code.rows[1].quality


def test_two_that_come_to_the_same_are_one():
    found = compare("llama-7b", technique=["lora", "qlora", "dora"], quantization="nf4")
    assert [row.name for row in found.rows] == ["qlora", "dora"]


def test_a_setting_of_one_technique_is_left_out_of_the_others():
    found = compare("llama-7b", technique=["lora", "full"], lora_r=4)
    assert found.rows[0].estimate.settings["lora_r"] == 4


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"model": ["a", "b"], "gpu": ["c", "d"]}, InvalidSettingError, "one comparison"),
    ({"technique": ["lora"]}, InvalidSettingError, "nothing differs"),
    ({"technique": ["lora", "lora"]}, InvalidSettingError, "nothing differs"),
    ({"technique": ["lora", "loar"]}, UnknownNameError, "lora"),
    ({"gpu": ["rtx3090", "rtx9999"]}, UnknownNameError, "rtx9999"),
    ({"model": []}, InvalidSettingError, "--model"),
    ({"model": ["llama-7b", 3]}, InvalidSettingError, "model"),
    ({"gpu": {"rtx3090": 1}}, InvalidSettingError, "gpu"),
    ({"technique": ["full", "ia3"], "lora_r": 4}, InvalidSettingError, "lora_r"),
    ({"technique": ["lora", "full"], "quantization": "nf4"}, InvalidSettingError, "nf4"),
    ({"technique": ["rlhf", "lora"]}, InvalidSettingError, "different objectives"),
    ({"use_case": "chatt"}, UnknownNameError, "chat"),
    ({"use_case": "chat", "gpu": ["rtx3090", "rtx4090"]}, InvalidSettingError, "use_case"),
]


@pytest.mark.parametrize(("question", "kind", "word"), BAD)
def test_bad_questions_are_refused_by_name(
    question: dict[str, Any], kind: type[Exception], word: str
):
    with pytest.raises(kind) as caught:
        compare(**{"model": "llama-7b", **question})
    assert word in str(caught.value)


def test_json(capsys: pytest.CaptureFixture[str]):
    words = ["compare", "--model", "llama-7b", "--gpu", "rtx4090,rtx3090", "--json"]
    assert main(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert set(record) == {"axis", "rows", "best", "assumptions", "remedies"}
    assert set(record["rows"][0]) == {"name", "estimate", "quality"}
    assert record["axis"] == "gpu"


def test_where_nothing_fits_there_is_a_ladder(capsys: pytest.CaptureFixture[str]):
    words = ["compare", "--model", "llama-2-13b", "--gpu", "rtx3060", "--technique", "lora", "full"]
    assert main(words) == 1
    assert "What would help lora" in capsys.readouterr().out
    assert main(["compare", "--gpu", "rtx3060"]) == 2


def test_estimate_ends_in_the_ladder_too(capsys: pytest.CaptureFixture[str]):
    words = ["estimate", "--model", "llama-2-13b", "--gpu", "rtx3060", "--technique", "lora"]
    assert main(words) == 1
    text = capsys.readouterr().out
    assert "What would help lora" in text
    assert main([*words, "--json"]) == 1
    remedies = json.loads(capsys.readouterr().out)["remedies"]
    assert "micro_batch_size 1 and technique qlora (4-bit base)" in {
        remedy["change"] for remedy in remedies if remedy["verdict"] == "fits"
    }
