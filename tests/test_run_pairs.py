"""Every technique with the objectives that `test_run_matrix` has not: the pair trains, or is
refused where the plan is made."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from execution_models import rows, write_rows

import ftadvisor
from ftadvisor.configuration.pairs import check_pair
from ftadvisor.errors import FtadvisorError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("trl")
pytest.importorskip("bitsandbytes")

TECHNIQUES: dict[str, dict[str, Any]] = {
    **{
        name: {"technique": name}
        for name in (
            "full", "lora", "rslora", "dora", "adalora", "ia3", "vera", "loha", "lokr", "oft",
            "boft", "ln_tuning", "bottleneck", "adaption_prompt", "prefix_tuning", "prompt_tuning",
            "p_tuning", "qlora",
        )
    },
    "lora-int8": {"technique": "lora", "quantization": "int8"},
}  # fmt: skip
POLICY = ("grpo", "rloo")
OBJECTIVES = ("clm", "dpo", "kto", "orpo", "reward", "distillation", *POLICY)
PROMPTS = ("prefix_tuning", "prompt_tuning", "p_tuning")
SMALL: dict[str, Any] = {
    "precision": "fp32", "micro_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 4,
    "max_length": 64, "learning_rate": 5e-3, "gradient_checkpointing": "none", "warmup_steps": 0,
    "eval_answers": 0, "save_steps": 0,
}  # fmt: skip


def options_of(objective: str, models: dict[str, Path], place: Path) -> dict[str, Any]:
    """Rows, and what the objective needs besides."""
    answered = [{"prompt": f"Say {i}", "completion": f"good {i}"} for i in range(16)]
    if objective == "clm":
        found = rows("clm", 16)
    elif objective == "distillation":
        found = answered
    else:
        found = [
            {"prompt": row["prompt"], "chosen": row["completion"], "rejected": f"bad {i}"}
            for i, row in enumerate(answered)
        ]
    options: dict[str, Any] = {}
    if objective == "distillation":
        options = {"teacher_model": models["decoder"], "lmbda": 0.0, "max_completion_length": 8}
    if objective in POLICY:
        found = [{"prompt": row["prompt"]} for row in found]
        (place / "scoring.py").write_text(
            "def short(completions, **_):\n"
            "    return [-float(len(one[0]['content'])) for one in completions]\n"
        )
        scored = f"{place / 'scoring.py'}:short"
        options = {"reward_function": scored, "num_generations": 2, "max_completion_length": 4}
    return {**options, "dataset": write_rows(place / "rows.jsonl", found)}


def is_refused(technique: str, objective: str) -> bool:
    try:
        check_pair(technique, objective, "fp32")
    except FtadvisorError:
        return True
    return False


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_pair_trains_or_no_plan_holds_it(
    models: dict[str, Path], tmp_path: Path, name: str, objective: str
):
    technique = TECHNIQUES[name]
    given = {**SMALL, **technique, **options_of(objective, models, tmp_path)}
    asked = {"model": str(models["decoder"]), "objective": objective, **given}
    if is_refused(technique["technique"], objective):
        with pytest.raises(FtadvisorError, match=technique["technique"]):
            ftadvisor.run(output_dir=tmp_path / "out", **asked)
        assert not (tmp_path / "out").exists()
        return
    report = ftadvisor.run(output_dir=tmp_path / "out", eval_dataset=asked["dataset"], **asked)
    assert report.status == "done"
    assert len(report.losses) == SMALL["max_steps"]
    assert all(math.isfinite(row["loss"]) for row in report.losses)
    if objective in POLICY or objective == "distillation" or name in PROMPTS:
        return
    loss = report.metrics["eval_loss"]
    assert loss.before is not None
    assert loss.after is not None
    assert loss.after < loss.before
