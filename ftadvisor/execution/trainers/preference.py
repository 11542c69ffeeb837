"""dpo, kto and orpo: TRL's trainers of preferences."""

from __future__ import annotations

import random
from typing import Any

from ftadvisor.execution import arguments, stack
from ftadvisor.execution.evaluation.scores import IGNORED
from ftadvisor.execution.examples import Row
from ftadvisor.execution.loading import load_model
from ftadvisor.execution.preferences import judged_apart
from ftadvisor.execution.trainers import experimental
from ftadvisor.execution.trainers.building import (
    adapter_of,
    built,
    datasets_of,
    say_what_is_not_evaluated,
    say_what_was_cut,
)
from ftadvisor.execution.training import Training
from ftadvisor.sources.models import find_model
from ftadvisor.sources.techniques import find_technique


def build_dpo(of: Training) -> Any:
    """Chosen above rejected, measured from the reference."""
    found = built(
        of, stack.trl.DPOTrainer, args=stack.trl.DPOConfig(**_options(of)),
        **datasets_of(of.examples.train, of.examples.held_out), **_reference(of), **adapter_of(of),
    )  # fmt: skip
    say_what_was_cut(of, found, len(of.examples.train))
    return found


def build_kto(of: Training) -> Any:
    """Each answer good or bad, measured from the reference.

    TRL reads the rows in their order, and would put all good answers before all bad ones (trl 1.16
    trainer/kto_config.py, train_sampling_strategy; data_utils.py, unpair_preference_dataset).
    """
    train = judged_apart(of.examples.train)
    random.Random(of.plan.seed).shuffle(train)
    found = built(
        of, stack.trl.KTOTrainer, args=stack.trl.KTOConfig(**_options(of)),
        **datasets_of(train, judged_apart(of.examples.held_out)), **_reference(of),
        **adapter_of(of),
    )  # fmt: skip
    say_what_was_cut(of, found, len(train))
    return found


def build_orpo(of: Training) -> Any:
    """Chosen learnt and put above rejected in one; there is no reference."""
    trainer, config = experimental.trainer_and_config(experimental.ORPO, "ORPO")
    found = built(
        of, trainer, args=config(**_options(of)),
        **datasets_of(of.examples.train, of.examples.held_out),
    )  # fmt: skip
    # TRL's other trainers leave these rows out; this one keeps prompts that fill max_length, and
    # the mean over an answer of no tokens is no number (trl 1.16 orpo_trainer.py line 539).
    found.train_dataset = found.train_dataset.filter(_has_answers)
    if found.eval_dataset is not None:
        found.eval_dataset = found.eval_dataset.filter(_has_answers)
        say_what_is_not_evaluated(of, found, len(of.examples.held_out))
    say_what_was_cut(of, found, len(of.examples.train))
    return found


def _has_answers(row: Row) -> bool:
    """Whether something of both answers is learnt."""
    labels = (row["chosen_labels"], row["rejected_labels"])
    return all(any(label != IGNORED for label in one) for one in labels)


def _options(of: Training) -> dict[str, Any]:
    evaluates = bool(of.examples.held_out)
    return {
        **arguments.common(of.plan, of.settings, of.run, of.device, evaluates=evaluates),
        "max_length": of.settings.max_length,
        "beta": of.plan.settings["beta"],
        # TRL's default is True, whatever the adapter was made with.
        "disable_dropout": not of.settings.lora_dropout,
    }


def _reference(of: Training) -> dict[str, Any]:
    """The model as it was, a second time; an adapter is switched off instead.

    TRL would load it by the name that the first was loaded by, on the network if it can.
    """
    if not find_technique(of.plan.technique).trains_base:
        return {}
    family = find_model(of.plan.model).spec.family
    return {"ref_model": load_model(of.plan.model, family, of.settings, of.device)}
