"""What is said of one run besides its plan."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TypedDict

EVAL_SHARE = 0.05
"""Of the rows, held out where no others are named."""

MOST_ANSWERS = 64
"""Held-out prompts that are answered: drawing answers takes longer than reading rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How a plan is run on this machine; a plan is the same wherever it runs."""

    output_dir: str
    max_steps: int | None = None
    """Optimizer steps; None: as many as the plan's epochs are."""
    eval_dataset: str | None = None
    eval_share: float = EVAL_SHARE
    """Of the rows, held out where neither eval_dataset nor the data's own splits name others;
    0: nothing is evaluated."""
    eval_answers: int = MOST_ANSWERS
    """Held-out prompts that are answered before and after training, at most; 0: none."""
    eval_steps: int | None = None
    """Evaluate every so many steps; None: before and after training only."""
    save_steps: int | None = None
    """A checkpoint every so many steps; None: after a tenth of the run, of 10 to 500 steps; 0: none
    unless the run is interrupted."""
    resume: bool = False
    """Go on from the last checkpoint in output_dir, exactly."""
    progress: bool = True
    """Show on standard error how far it is."""
    report_to: tuple[str, ...] = ()
    """Transformers' reporters: tensorboard, wandb, ..."""
    reward_model: str | None = None
    """The directory of the model that scores answers (grpo, rloo)."""
    reward_function: str | None = None
    """module:function, which scores them; its code is executed."""
    merge: bool = False
    """Write the adapter merged into its base too, as a whole model."""
    force: bool = False
    """Run what the checks that may be wrong refuse: another GPU, too little memory or disk."""


class RunOptions(TypedDict, total=False):
    """The same as keyword arguments of `run`, and the command's options."""

    output_dir: str | PathLike[str]
    max_steps: int
    eval_dataset: str | PathLike[str]
    eval_share: float
    eval_answers: int
    eval_steps: int
    save_steps: int
    resume: bool
    progress: bool
    report_to: list[str]
    reward_model: str | PathLike[str]
    reward_function: str
    merge: bool
    force: bool
