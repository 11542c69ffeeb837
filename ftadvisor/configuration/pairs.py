"""Techniques and objectives that the training libraries cannot do together."""

from __future__ import annotations

from typing import Final

from ftadvisor.errors import UnsupportedError

_IN_SEQUENCE: Final = ("prompt_tuning", "p_tuning")
_OUTSIDE_THE_BODY: Final = (*_IN_SEQUENCE, "prefix_tuning")
"""Their tokens are put in by PEFT's forward, which TRL's distillation passes by: it calls the body
and reads the head itself (trl 1.16 trainer/distillation_trainer.py line 604)."""
_WITH_LOG_PROBABILITIES: Final = ("dpo", "kto", "grpo", "rloo")
"""Objectives whose trainers read them off the output (trl 1.16 dpo_trainer.py line 1302)."""
_DRAWN_WITHOUT_AUTOCAST: Final = frozenset(
    (("ln_tuning", "grpo"), ("ln_tuning", "rloo"), ("adaption_prompt", "distillation"))
)
"""Parameters that PEFT keeps in fp32 whatever the base is in, where TRL generates."""


def check_pair(technique: str, objective: str, weights_dtype: str) -> None:
    """Raise UnsupportedError, with what works instead."""
    found: tuple[str, list[str]] | None = None
    if technique == "adaption_prompt" and objective in _WITH_LOG_PROBABILITIES:
        found = "TRL changes the model's forward, and PEFT keeps the one it had", []
    elif technique in _IN_SEQUENCE and objective == "orpo":
        found = "TRL's loss does not know of its virtual tokens", ["--technique prefix_tuning"]
    elif technique in _OUTSIDE_THE_BODY and objective == "distillation":
        found = "TRL's loss never sees its virtual tokens", []
    elif technique in _IN_SEQUENCE and objective == "token_cls":
        # peft 0.21.2 peft_model.py, PeftModelForTokenClassification.forward: a prediction for each
        # virtual token, and no label for it.
        found = (
            "PEFT does not keep predictions and labels in step after tokens that it puts before the"
            " text",
            ["--technique prefix_tuning"],
        )
    elif (technique, objective) in _DRAWN_WITHOUT_AUTOCAST and weights_dtype != "fp32":
        found = (
            f"TRL draws answers without autocast, and its fp32 meets {weights_dtype}",
            ["--precision fp32"],
        )
    if found:
        reason, instead = found
        raise UnsupportedError.of(
            f"{technique} with objective {objective}", reason, [*instead, "--technique lora"]
        )
