"""Chat templates in a run: what they refuse or do not show is known before a model is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from execution_models import CHATML, chat, write_rows
from test_conversations import TOOL
from test_run import train

from ftadvisor.api.running import preview
from ftadvisor.errors import InvalidSettingError
from ftadvisor.execution import run as run_module
from ftadvisor.execution.trainers import BUILDERS, supervised

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("torch")
pytest.importorskip("trl")

TOOLED = "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}" + CHATML.replace(
    "{{ m.content }}<|im_end|>{% endgeneration %}",
    "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
    "{{ c.function.arguments | tojson }}{% endfor %}<|im_end|>{% endgeneration %}",
)
STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('No system role here') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Gemma's: without marks, and without a system message."""
SYSTEM = {"role": "system", "content": "Be brief."}


def with_template(model: Path, place: Path, template: str) -> Path:
    from transformers import AutoTokenizer

    copied = Path(shutil.copytree(model, place))
    tokenizer = AutoTokenizer.from_pretrained(copied)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(copied)
    return copied


def calling(argument: str) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "add", "arguments": {argument: 1}}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"messages": [chat(1)[0]["messages"][0], answer], "tools": [TOOL]}


def learnt(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """All text and what the loss counts, of each example of the run that follows."""
    found: list[tuple[str, str]] = []

    def spied(of: Any) -> Any:
        trainer = supervised.build(of)
        for row in trainer.train_dataset:
            pairs = zip(row["input_ids"], row["labels"], strict=True)
            kept = [token for token, label in pairs if label != -100]
            found.append((of.tokenizer.decode(row["input_ids"]), of.tokenizer.decode(kept)))
        return trainer

    monkeypatch.setitem(BUILDERS, "sft", spied)
    return found


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch):
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(run_module, "load_model", loaded)


def test_a_call_is_learnt_with_its_own_arguments(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Not as an answer of nothing; nor with those of all other calls, empty, as Arrow has them."""
    found = learnt(monkeypatch)
    model = with_template(models["decoder"], tmp_path / "model", TOOLED)
    data = write_rows(tmp_path / "r.jsonl", [calling("a"), calling("b")] * 3)
    options: dict[str, Any] = {"max_length": 256, "max_steps": 1, "eval_share": 0.0}
    assert train(models, tmp_path, "lora", model=model, dataset=data, **options).status == "done"
    assert {answer for _, answer in found} == {f'add{{"{a}": 1}}<|im_end|>' for a in "ab"}
    assert all('"parameters"' in text for text, _ in found)


@pytest.mark.usefixtures("no_model")
def test_calls_that_the_template_does_not_show(models: dict[str, Path], tmp_path: Path):
    data = write_rows(tmp_path / "r.jsonl", [calling("a")] * 4)
    with pytest.raises(InvalidSettingError, match="calls 'add', which the chat template does not"):
        train(models, tmp_path, "lora", dataset=data)
    assert not [*(tmp_path / "out").iterdir()]


@pytest.mark.usefixtures("no_model")
def test_rows_that_the_template_refuses(models: dict[str, Path], tmp_path: Path):
    model = with_template(models["decoder"], tmp_path / "model", STRICT)
    data = write_rows(
        tmp_path / "r.jsonl", [{"messages": [SYSTEM, *row["messages"]]} for row in chat(8)]
    )
    with pytest.raises(InvalidSettingError, match=r"none of the examples .*No system role here"):
        train(models, tmp_path, "lora", model=model, dataset=data)
    with pytest.raises(InvalidSettingError, match="No system role here"):
        preview(model=str(model), technique="lora", dataset=str(data))


def test_a_row_that_the_template_refuses_is_left_out(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = learnt(monkeypatch)
    model = with_template(models["decoder"], tmp_path / "model", STRICT)
    refused = {"messages": [SYSTEM, *chat(1)[0]["messages"]]}
    several = {"messages": [*chat(1)[0]["messages"], *chat(2)[1]["messages"]]}
    data = write_rows(tmp_path / "r.jsonl", [*chat(4), refused, several])
    report = train(models, tmp_path, "lora", model=model, dataset=data, max_steps=1, eval_share=0.0)
    assert report.status == "done"
    said = " ".join(event.what for event in report.events)
    assert "1 examples left out (example 5 is refused by the chat template" in said
    # The template does not tell answers apart: the first one of two is read, not learnt.
    assert "of a conversation the last one is learnt" in said
    assert len(found) == 5
    assert all(answer.count("the sum is") == 1 for _, answer in found)
