"""Checkpoints that are whole or not there: written under another name, then renamed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from ftadvisor.execution.journal import EndedError
from ftadvisor.execution.saving import virtual_tokens

UNFINISHED = ".unfinished"
"""Beside the finished ones: what is being written, or removed."""
KEPT = 2
"""Finished ones; the last could prove bad."""
FEWEST_STEPS, MOST_STEPS, SHARE = 10, 500, 10
"""Between two checkpoints: a tenth of the run is lost at most. Of a short run ten steps are no
loss; 500 is Transformers' own default (transformers 5.23 training_args.py, save_steps)."""
FULL = (errno.ENOSPC, errno.EDQUOT)
_NAME = re.compile(r"checkpoint-(\d+)")


def default_steps(total_steps: int) -> int:
    """Steps from one checkpoint to the next, for a run of so many."""
    return min(max(total_steps // SHARE, FEWEST_STEPS), MOST_STEPS)


def finished(folder: Path) -> list[Path]:
    """Whole checkpoints, the oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Optimizer steps that were done when it was written."""
    return int(checkpoint.name.rpartition("-")[2])


def is_last(checkpoint: Path) -> bool:
    """Whether no step of its run is left."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return state["global_step"] >= state["max_steps"]


def clear_unfinished(folder: Path) -> None:
    """Away with what a killed process left."""
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def write_whole(trainer: Any) -> None:
    """The trainer's checkpoints get their name when they are on the disk, and the last are kept.

    `_get_output_dir` is what `_save_checkpoint` asks for the place (transformers 5.23 trainer.py
    line 3367); trainers of TRL's only add a model card.
    """
    folder = Path(trainer.args.output_dir)
    unfinished = folder / UNFINISHED
    save = trainer._save_checkpoint

    def saved(model: Any, trial: Any) -> None:
        name = f"checkpoint-{trainer.state.global_step}"
        if trainer.is_world_process_zero():
            shutil.rmtree(unfinished / name, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        try:
            with virtual_tokens(trainer):
                save(model, trial)
            trainer.accelerator.wait_for_everyone()
            if trainer.is_world_process_zero():
                _finish(unfinished / name, folder)
        except Exception as error:
            what = _reason(error, folder)
            clear_unfinished(folder)
            raise EndedError(
                "failed", f"the checkpoint of step {trainer.state.global_step} cannot be written:"
                f" {what}",
            ) from error  # fmt: skip
        trainer.accelerator.wait_for_everyone()

    def place(trial: Any) -> str:
        return str(unfinished)

    trainer._get_output_dir = place
    trainer._save_checkpoint = saved


def _finish(written: Path, folder: Path) -> None:
    """Name a checkpoint that is whole; then remove those before the last."""
    for path in [*written.rglob("*"), written]:
        _to_disk(path)
    place = folder / written.name
    if place.exists():
        # Written again at the same step: it is the same.
        _remove(place)
    written.rename(place)
    _to_disk(folder)
    for old in finished(folder)[:-KEPT]:
        _remove(old)


def _remove(checkpoint: Path) -> None:
    """Its name goes first: half of one must not look whole."""
    going = checkpoint.parent / UNFINISHED / f"old-{checkpoint.name}"
    going.parent.mkdir(exist_ok=True)
    checkpoint.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: BaseException, folder: Path) -> str:
    """What the system said; safetensors and torch keep its words or lose them, not its number."""
    if isinstance(error, OSError) and error.errno not in FULL:
        return error.strerror or str(error)
    full = isinstance(error, OSError) or "No space left" in str(error)
    with suppress(OSError):
        full = full or shutil.disk_usage(folder).free == 0
    if full:
        return "the disk is full"
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]
