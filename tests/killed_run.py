"""One run, killed at random moments and resumed each time. In a process of its own: children are
forked after the imports, which take longer than the training.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl  # noqa: F401
from safetensors.torch import load_file

import ftadvisor
from ftadvisor.execution.checkpoints import finished, step_of
from ftadvisor.execution.resuming import read_log

KILLS, STEPS, SAVE_STEPS = 5, 24, 3


def forked(options: dict[str, Any]) -> int:
    """A child that trains."""
    child = os.fork()
    if child:
        return child
    # OpenMP's threads do not outlive a fork.
    torch.set_num_threads(1)
    code = 1
    try:
        code = 0 if ftadvisor.run(**options).status == "done" else 1
    finally:
        os._exit(code)


def check_whole(checkpoint: Path) -> None:
    load_file(checkpoint / "adapter_model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.load(checkpoint / name, weights_only=False)
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert state["global_step"] == step_of(checkpoint)


def killed(options: dict[str, Any], out: Path, step: int, moment: float) -> int:
    """The last step that the child has logged when it is killed, so long after `step`."""
    child = forked(options)
    while not any(row["step"] >= step and "loss" in row for row in read_log(out / "log.jsonl")):
        if os.waitpid(child, os.WNOHANG)[0]:
            raise AssertionError("it ended before it was killed")
        time.sleep(0.001)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it was done before it was killed"
    return max(row["step"] for row in read_log(out / "log.jsonl"))


def main(options: dict[str, Any], seed: int) -> None:
    out, chance = Path(options["output_dir"]), random.Random(seed)
    options |= {"max_steps": STEPS, "save_steps": SAVE_STEPS, "progress": False}
    told: list[dict[str, Any]] = []
    for i in range(KILLS):
        first = told[-1]["checkpoint"] if i else 0
        # At any step that leaves some for the other kills, at any part of it.
        step = first + chance.randint(1, max(1, (STEPS - 4 - first) // (KILLS - i)))
        had = {path.name for path in finished(out / "checkpoints")}
        logged = killed({**options, "resume": i > 0}, out, step, chance.random() * 0.05)
        left = finished(out / "checkpoints")
        for checkpoint in left:
            check_whole(checkpoint)
        last = step_of(left[-1]) if left else 0
        # The checkpoint of a step is written after the step is logged.
        assert last >= logged - SAVE_STEPS, (last, logged)
        assert not had or last >= max(int(name[11:]) for name in had)
        told.append({"step": logged, "checkpoint": last})
    child = forked({**options, "resume": True})
    assert os.waitpid(child, 0)[1] == 0
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main(json.loads(sys.argv[1]), int(sys.argv[2]))
