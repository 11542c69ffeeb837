"""Messages that call tools or think, roles and system prompts: all of them reach the template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from execution_models import write_rows

from ftadvisor.errors import DataFileError
from ftadvisor.execution.conversation import messages_of
from ftadvisor.execution.examples import Examples, read_examples
from ftadvisor.schema.plan import PlanDataset
from ftadvisor.schema.run import RunSettings

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"a": {"type": "int"}}}}
ASKED = {"role": "user", "content": "What is 1 plus 1?"}


def read(
    place: Path, rows: list[dict[str, Any]], objective: str, columns: dict[str, str] | None = None
) -> Examples:
    data = write_rows(place / "r.jsonl", rows)
    dataset = PlanDataset(path=str(data), format=None, columns=columns or {}, split="train")
    return read_examples(dataset, objective, RunSettings(output_dir=str(place), eval_share=0.0), 0)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]},
        {"role": "assistant", "function_call": {"name": "add", "arguments": '{"a": 1}'}},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
        {"from": "tool_call", "value": '[{"name": "add", "arguments": {"a": 1}}]'},
    ],
)  # fmt: skip
def test_a_call_in_every_spelling(message: dict[str, Any]):
    """It was learnt as an answer of nothing."""
    assert messages_of([message]) == [{"role": "assistant", "content": "", "tool_calls": [CALL]}]


def test_what_a_message_has_beside_its_content():
    given = [
        {"role": "assistant", "content": "two", "reasoning_content": "one and one"},
        {"role": "tool", "content": "2", "tool_call_id": "7", "name": "add"},
        {"from": "observation", "value": "2"},
        {"from": "function_call", "value": "no JSON"},
        {"role": "user", "content": "more", "weight": 1},
    ]
    assert messages_of(given) == [
        given[0],
        given[1],
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "no JSON"},
        {"role": "user", "content": "more"},
    ]


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])])
@pytest.mark.parametrize("objective", ["sft", "dpo", "kto"])
def test_tools_stay_beside_the_conversation(tmp_path: Path, tools: Any, objective: str):
    """Also where the plan names the columns: this one has no role of its own."""
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    no = {"role": "assistant", "content": "no"}
    row: dict[str, Any] = {"prompt": [ASKED], "chosen": [called], "rejected": [no]}
    if objective == "sft":
        row = {"messages": [ASKED, called]}
    columns = {name: name for name in row}
    found = read(tmp_path, [{**row, "tools": tools}] * 2, objective, columns).train[0]
    assert found["tools"] == [TOOL]
    assert [*found.get("messages", ()), *found.get("chosen", ())][-1]["tool_calls"] == [CALL]


def test_tools_that_a_trainer_would_not_show(tmp_path: Path):
    row = {"prompt": "add", "chosen": "2", "rejected": "3", "tools": [TOOL]}
    with pytest.raises(DataFileError, match="has tools, which orpo does not learn from here"):
        read(tmp_path, [row], "orpo")


def test_an_answer_of_nothing_is_left_out(tmp_path: Path):
    rows = [{"messages": [ASKED, {"role": "assistant", "content": said}]} for said in ("2", " ")]
    found = read(tmp_path, rows, "sft")
    assert len(found.train) == 1
    assert "holds no answer to learn from" in found.left_out[0].what


@pytest.mark.parametrize(
    ("objective", "row"),
    [
        ("dpo", {"chosen": [ASKED, {"role": "assistant", "content": "2"}],
                 "rejected": [ASKED, {"role": "assistant", "content": "3"}]}),
        ("dpo", {"prompt": ASKED["content"], "chosen": "2", "rejected": "3"}),
        ("grpo", {"prompt": ASKED["content"]}),
        ("grpo", {"prompt": ASKED["content"], "answer": "2"}),
        ("distillation", {"prompt": ASKED["content"]}),
    ],
)  # fmt: skip
def test_a_system_prompt_is_said_first(tmp_path: Path, objective: str, row: dict[str, Any]):
    found = read(tmp_path, [{"system": "Be brief.", **row}] * 2, objective).train[0]
    assert found["prompt"] == [{"role": "system", "content": "Be brief."}, ASKED]
