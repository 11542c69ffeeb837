"""Two processes of which one fails, is killed, or is asked to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from execution_models import write_rows

import ftadvisor
from ftadvisor.cli import main
from ftadvisor.errors import FtadvisorError
from ftadvisor.execution import launching
from ftadvisor.schema.report import Event
from ftadvisor.sources.records import read_records
from ftadvisor.sources.yaml_files import dump_yaml

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("trl")


SCORING = """
import os, signal, time
import torch
from transformers.models.llama.modeling_llama import LlamaModel

CALLS = [0]
STEPS = [0]
FORWARD = LlamaModel.forward

def forward(self, *args, **given):
    # No more than so many rows at once, after so many passes.
    rank, after, most = map(int, os.environ.get("MOST", "9:0:0").split(":"))
    if torch.is_grad_enabled() and os.environ.get("RANK") == str(rank):
        if len(given["input_ids"]) > most and STEPS[0] >= after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        STEPS[0] += 1
    return FORWARD(self, *args, **given)

LlamaModel.forward = forward

def score(completions, **_):
    CALLS[0] += 1
    print("a reward that talks")
    how = os.environ.get("HOW", "")
    if CALLS[0] == 5:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
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


def batch(policy: dict[str, Any], micro: int, steps: int) -> dict[str, Any]:
    """The same run with such a batch."""
    text = policy["plan"].read_text().replace("micro_batch_size: 2", f"micro_batch_size: {micro}")
    file = policy["plan"].with_name(f"of {micro}.yaml")
    file.write_text(text.replace("accumulation_steps: 1", f"accumulation_steps: {steps}"))
    return {**policy, "plan": file, "output_dir": policy["output_dir"].with_name(f"out {micro}")}


@pytest.mark.parametrize(("rank", "after", "most"), [(1, 3, 2), (0, 0, 1)])
def test_too_little_memory_of_one_process_makes_all_micro_batches_smaller(
    policy: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    rank: int,
    after: int,
    most: int,
):
    """As if they had been so small from the start: from the last checkpoint on, or from the start
    where there is none, and as often as it takes."""
    from safetensors.torch import load_file

    small = ftadvisor.run(**batch(policy, most, 4 // most))
    recorded = len(read_records().rows)
    monkeypatch.setenv("MOST", f"{rank}:{after}:{most}")
    options = batch(policy, 4, 1)
    words = ["--max-steps", "8", "--save-steps", "2", "--eval-share", "0", "--no-progress",
             "--reward-function", options["reward_function"], "--json"]  # fmt: skip
    place = options["output_dir"]
    capfd.readouterr()
    assert main(["run", str(options["plan"]), "--output-dir", str(place), *words]) == 0
    report = json.loads((place / "report.json").read_text())
    # Standard output is the answer's, whoever prints meanwhile.
    assert json.loads(capfd.readouterr().out) == report
    assert report["status"] == "done"
    assert report["plan"]["settings"]["micro_batch_size"] == 4
    told = [e for e in report["events"] if e["kind"] in ("out_of_memory", "failed", "process")]
    sizes = [2, 1] if most == 1 else [2]
    assert [event["step"] for event in told] == [after] * len(sizes)
    for size, event in zip(sizes, told, strict=True):
        assert f"goes on with micro_batch_size {size} and grad" in event["what"]
        assert f"gradient_accumulation_steps {4 // size}, which" in event["what"]
    resumed = [event["step"] for event in report["events"] if event["kind"] == "resumed"]
    assert resumed == ([2] if after else [])
    found = [(row["step"], row["loss"], row["grad_norm"]) for row in report["losses"]]
    assert len(found) == 8
    for mine, theirs in zip(found, small.losses, strict=True):
        expected = (theirs["step"], theirs["loss"], theirs["grad_norm"])
        assert mine == pytest.approx(expected, rel=1e-4, abs=1e-6)
    learnt: list[dict[str, Any]] = [
        load_file(Path(p) / "adapter_model.safetensors") for p in (place, small.output_dir)
    ]
    for name, weight in learnt[0].items():
        assert (weight - learnt[1][name]).abs().max() < 1e-5, name
    # Once, and no figures of smaller micro-batches as those of the plan.
    ended = "failed" if rank else "out_of_memory"
    assert [row["status"] for row in read_records().rows[recorded:]] == [ended]


def test_too_little_memory_for_the_smallest_micro_batch(
    policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """The first process writes the report, and knows only that its peer is gone."""
    monkeypatch.setenv("MOST", "1:4:0")
    options = batch(policy, 1, 2)
    words = ["--max-steps", "8", "--eval-share", "0", "--no-progress", "--reward-function",
             options["reward_function"]]  # fmt: skip
    place = options["output_dir"]
    assert main(["run", str(options["plan"]), "--output-dir", str(place), *words]) == 1
    written = json.loads((place / "report.json").read_text())
    assert written["status"] == "out_of_memory"
    assert "process 1: out_of_memory" in written["events"][-1]["what"]


def test_a_first_process_that_left_no_report(
    policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """It may wait for its peer until torchrun kills it: the next attempt is told what happened all
    the same."""
    ran_out = Event("out_of_memory", 3, "out of memory after step 3")
    calls: list[tuple[bool, list[Event]]] = []

    def start(words: list[str], processes: int, before: list[Event]) -> None:
        calls.append(("--resume" in words, [*before]))
        again = ran_out if len(calls) < 3 else None
        if len(calls) == 2:
            (policy["output_dir"] / "checkpoints").mkdir()
            (policy["output_dir"] / "checkpoints/run.json").write_text('{"max_steps": 8}')
        failed = launching.Failed(1, "out_of_memory", again)
        raise launching.ProcessError("out of memory", ["less"], failed)

    monkeypatch.setattr(launching, "start", start)
    with pytest.raises(launching.ProcessError, match="run --resume"):
        ftadvisor.run(**policy)
    assert calls == [(False, []), (False, [ran_out]), (True, [ran_out, ran_out])]


def test_torchrun_waits_for_the_checkpoint(policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """Its own patience, half a minute unless told otherwise, is less than a large model takes."""
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "0")
    monkeypatch.setenv("HOW", "signal")
    report = ftadvisor.run(**policy)
    assert report.status == "interrupted"
    assert (policy["output_dir"] / "checkpoints/checkpoint-5").is_dir()


def test_no_prompt_counts_twice(policy: dict[str, Any]):
    """Of nine held-out prompts two are drawn for at once: the last would come with another one."""
    place = policy["output_dir"].parent
    # After the only step, all that is scored is held out.
    (place / "of_prompts.py").write_text(
        "def score(prompts, trainer_state, **_):\n"
        "    told = [len(str(p)) for p in prompts]\n"
        "    if trainer_state.global_step:\n"
        f"        with open({str(place / 'told')!r}, 'a') as file:\n"
        "            file.write(''.join(f'{n}\\n' for n in told))\n"
        "    return [float(n) for n in told]\n"
    )
    prompts = [{"prompt": [{"role": "user", "content": "Say " + "x" * i}]} for i in range(45)]
    write_rows(place / "prompts.jsonl", prompts)
    changes = {"eval_share": 0.2, "reward_function": f"{place / 'of_prompts.py'}:score"}
    report = ftadvisor.run(**{**policy, **changes, "max_steps": 1})
    assert "1 held-out rows are left out" in str(report.events)
    told = [int(line) for line in (place / "told").read_text().splitlines()]
    # One answer to each.
    assert len(told) == len({*told}) == 8
    assert report.metrics["mean_reward"].after == pytest.approx(sum(told) / 8)
