"""Settings that only the trainer reads: their names in Transformers and TRL, and what they may be.

Memory and time depend on the others, which `schema.options.Options` names.
"""

from __future__ import annotations

from typing import Final

from ftadvisor.schema.options import Options
from ftadvisor.sources.field_checks import POSITIVE, TEXT, Kind, number, one_of, whole

SCHEDULERS: Final = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
    "inverse_sqrt", "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
)  # fmt: skip
"""transformers 5.23 trainer_utils.py, SchedulerType."""

TRAINING: Final[dict[str, Kind]] = {
    "learning_rate": number(1e-12, 10.000001, "a number above 0, at most 10 (2e-4)"),
    "lr_scheduler_type": one_of(SCHEDULERS),
    # Transformers 5: below 1 a share of all steps, else a number of them.
    "warmup_steps": number(0, 1e9, "a share of all steps below 1, or a number of steps"),
    "weight_decay": number(0, 1.000001, "a number from 0 to 1"),
    "num_train_epochs": POSITIVE,
    "global_batch_size": whole(1),
    "beta": number(0, 1000, "a number from 0 on"),
    # TRL's name of whom the student follows, and GKD's of the share of batches that it answers
    # itself: trl 1.16 trainer/distillation_trainer.py, experimental/gkd/gkd_config.py.
    "teacher_model": TEXT,
    "lmbda": number(0, 1.000001, "a number from 0 (the data's answers) to 1 (the student's own)"),
}

OF_SOME_OBJECTIVES: Final = frozenset({"beta", "teacher_model", "lmbda"})
"""Not every run has them."""

NO_SETTINGS: Final = frozenset({"dataset", "num_tokens", "num_gpus", "reference_model"})
"""Options of the estimate that a plan says elsewhere: its dataset, its hardware, its beta."""
PLAN_SETTINGS: Final = tuple(
    dict.fromkeys([*(n for n in Options.__annotations__ if n not in NO_SETTINGS), *TRAINING])
)
"""Names that a plan's settings, or a rule, may use."""

RULED: Final = tuple(
    name
    for name in PLAN_SETTINGS
    if name
    not in {
        "micro_batch_size", "gradient_accumulation_steps", "max_length", "mean_length",
        "longest_length", "num_images", "strategy", "trainer", "price", "precision",
        "teacher_model",
    }
)  # fmt: skip
"""Those that a rule may set: the others are found by the search, or stated by the person."""
