"""A run that goes on in a later pass over its data goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from execution_models import chat, write_rows

import ftadvisor

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
pytest.importorskip("trl")

STEPS_OF_A_PASS, BROKEN_AT = 4, 7
UNLIKE = ("step_time", "train_runtime", "train_tokens_per_second")
"""What a log has of the clock."""


@pytest.fixture
def options(models: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    """Nine examples in batches of two: four steps make a pass."""
    data = write_rows(tmp_path / "rows.jsonl", chat(10))
    return {
        "model": str(models["decoder"]), "technique": "lora", "dataset": str(data),
        "precision": "fp32", "micro_batch_size": 2, "gradient_accumulation_steps": 1,
        "max_steps": 8, "max_length": 32, "learning_rate": 5e-3, "eval_share": 0.1,
        "save_steps": 2, "progress": False, "eval_answers": 0,
    }  # fmt: skip


def broken(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, step: int) -> ftadvisor.Report:
    """A run that ends in this step's log."""
    from ftadvisor.execution.callbacks.log import LogCallback

    real = LogCallback.on_log

    def on_log(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **more: Any):
        if state.global_step == step and "loss" in logs:
            raise RuntimeError("a cable was pulled")
        return real(self, args, state, control, logs=logs, **more)

    with monkeypatch.context() as patch:
        patch.setattr(LogCallback, "on_log", on_log)
        return ftadvisor.run(**options)


def rows(report: ftadvisor.Report) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in UNLIKE} for row in report.losses]


@pytest.mark.parametrize("objective", ["grpo", "rloo", "distillation", "sft"])
def test_a_later_pass_is_continued_in_its_own_order(
    options: dict[str, Any], tmp_path: Path, objective: str, monkeypatch: pytest.MonkeyPatch
):
    """Sampled prompts, their order, and the tokens that were counted."""
    (tmp_path / "scoring.py").write_text(
        "def score(completions, **_):\n    return [len(str(c)) / 10 for c in completions]\n"
    )
    options["objective"] = objective
    if objective != "sft":
        options["max_completion_length"] = 4
    if objective in ("grpo", "rloo"):
        options |= {"reward_function": f"{tmp_path / 'scoring.py'}:score", "num_generations": 2,
                    "micro_batch_size": 4}  # fmt: skip
    if objective == "distillation":
        options |= {"teacher_model": options["model"], "lmbda": 1.0}
    unbroken = ftadvisor.run(**options, output_dir=tmp_path / "unbroken")
    options["output_dir"] = tmp_path / "out"
    assert broken(options, monkeypatch, BROKEN_AT).status == "failed"
    resumed = ftadvisor.run(resume=True, output_dir=tmp_path / "out")
    assert resumed.events[-1].what == f"goes on from checkpoint-{BROKEN_AT - 1}"
    assert 1 < unbroken.losses[BROKEN_AT - 1]["epoch"] < 8 / STEPS_OF_A_PASS
    assert rows(resumed) == rows(unbroken)
    assert resumed.metrics == unbroken.metrics
