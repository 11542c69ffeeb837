"""Which objectives a model can be trained for, and which one is meant when none is named."""

from __future__ import annotations

from typing import Final

from ftadvisor.errors import UnsupportedError
from ftadvisor.estimation.objectives import CLASSIFYING
from ftadvisor.schema.model import ModelSpec

DEFAULT_OBJECTIVE: Final = "sft"
OF_FAMILIES: Final = {
    "encoder": ("seq_cls", "an encoder generates nothing"),
    "encdec": ("seq2seq", "it has an encoder and a decoder"),
}
"""Objective and reason, where it is not DEFAULT_OBJECTIVE."""
GROUPED: Final = ("grpo", "rloo")
"""Several answers to one prompt are compared."""
GENERATING: Final = (*GROUPED, "ppo", "distillation")
"""Answers are generated before they are trained on."""


def objective_of(model: ModelSpec, objective: str | None) -> tuple[str, tuple[str, ...]]:
    """The objective, and what was assumed for want of one.

    Raises UnsupportedError where the model has no head for it.
    """
    if not model.vocab_size:
        raise UnsupportedError.of(
            f"Training {model.id}", "it reads images only, and every objective reads text"
        )
    if objective is None:
        usual = OF_FAMILIES.get(model.family)
        if usual is None:
            return DEFAULT_OBJECTIVE, ()
        return usual[0], (f"objective {usual[0]}: none was given, and {usual[1]}",)
    if model.family == "encoder" and objective not in CLASSIFYING:
        raise UnsupportedError.of(
            f"{objective} of {model.id}",
            "an encoder generates nothing, and its masked-language-model head is not described",
            ["--objective seq_cls", "--objective token_cls"],
        )
    if objective == "seq2seq" and model.family != "encdec":
        raise UnsupportedError.of(
            f"seq2seq of {model.id}", "it has no encoder", [f"--objective {DEFAULT_OBJECTIVE}"]
        )
    return objective, ()
