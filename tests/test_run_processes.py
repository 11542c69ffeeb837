"""Two processes of which one fails, is killed, or is asked to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from execution_models import write_rows

import ftadvisor
from ftadvisor.errors import FtadvisorError
from ftadvisor.sources.yaml_files import dump_yaml

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("trl")


SCORING = """
import os, signal, time
import torch

CALLS = [0]

def score(completions, **_):
    CALLS[0] += 1
    how = os.environ.get("HOW", "")
    if CALLS[0] == 5:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "memory" and os.environ["RANK"] == "1":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        if how == "signal" and os.environ["RANK"] == "0":
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(2)
    return [float(len(str(one)) % 7) for one in completions]
"""


@pytest.fixture
def policy(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """A run of two processes whose reward can do anything at the fifth step."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    work = tmp_path
    prompts = [{"prompt": [{"role": "user", "content": f"Say {i}"}]} for i in range(40)]
    (work / "scoring.py").write_text(SCORING)
    content = {
        "model": str(models["decoder"]), "technique": "lora", "objective": "grpo",
        "dataset": str(write_rows(work / "prompts.jsonl", prompts)),
        "hardware": {"gpu": None, "num_gpus": 2},
        "settings": {"weights_dtype": "fp32", "autocast": "none", "micro_batch_size": 2,
                     "gradient_accumulation_steps": 1, "max_length": 64, "num_generations": 2,
                     "max_completion_length": 4, "gradient_checkpointing": "none"},
    }  # fmt: skip
    (work / "policy.yaml").write_text(dump_yaml(content))
    return {"plan": work / "policy.yaml", "output_dir": work / "out", "max_steps": 8,
            "save_steps": 2, "eval_share": 0.0, "progress": False,
            "reward_function": f"{work / 'scoring.py'}:score"}  # fmt: skip


def test_processes_that_are_killed_leave_what_goes_on(
    policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """No process is left to write a report, and the plan stays where the checkpoints are."""
    monkeypatch.setenv("HOW", "killed")
    with pytest.raises(FtadvisorError, match=r"ended by SIGKILL.*run --resume --output-dir"):
        ftadvisor.run(**policy)
    monkeypatch.setenv("HOW", "")
    report = ftadvisor.run(output_dir=policy["output_dir"], resume=True)
    assert report.status == "done"
    unbroken = ftadvisor.run(**{**policy, "output_dir": policy["output_dir"].with_name("unbroken")})
    found = [
        [(r["step"], r["loss"], r["grad_norm"]) for r in one.losses] for one in (report, unbroken)
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 8


def test_too_little_memory_of_another_process_is_in_the_report(
    policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """The first one writes it, and knows only that its peer is gone."""
    monkeypatch.setenv("HOW", "memory")
    report = ftadvisor.run(**policy)
    assert report.status == "out_of_memory"
    written = json.loads((policy["output_dir"] / "report.json").read_text())
    assert written["status"] == "out_of_memory"
    assert "process 1: out_of_memory" in written["events"][-1]["what"]


def test_torchrun_waits_for_the_checkpoint(policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """Its own patience, half a minute unless told otherwise, is less than a large model takes."""
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "0")
    monkeypatch.setenv("HOW", "signal")
    report = ftadvisor.run(**policy)
    assert report.status == "interrupted"
    assert (policy["output_dir"] / "checkpoints/checkpoint-5").is_dir()
