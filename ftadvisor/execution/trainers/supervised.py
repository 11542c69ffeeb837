"""sft, clm and cpt: TRL's SFTTrainer."""

from __future__ import annotations

from typing import Any

from ftadvisor.execution import arguments, conversation, stack
from ftadvisor.execution.examples import Row
from ftadvisor.execution.tokenizing import Tokenizing
from ftadvisor.execution.trainers.building import (
    class_of,
    datasets_of,
    say_once,
    say_what_is_not_evaluated,
    say_what_was_cut,
)
from ftadvisor.execution.training import Training
from ftadvisor.sources.datasets.examples import ROLES


def build(of: Training) -> Any:
    """TRL's trainer of these examples: answers alone are learnt for sft, all text otherwise."""
    train, answers_alone = rows_of(of.examples.train, of)
    held_out, _ = rows_of(of.examples.held_out, of)
    options = arguments.common(of.plan, of.settings, of.run, of.device, evaluates=bool(held_out))
    args = stack.trl.SFTConfig(
        **options,
        max_length=of.settings.max_length,
        packing=of.settings.packing,
        # bfd cuts what is longer than a pack; raw text is to be read whole (study 2.6).
        packing_strategy="wrapped" if of.plan.objective == "cpt" else "bfd",
        # Rows are evaluated one by one; raw text is read whole here too.
        eval_packing=of.settings.packing and of.plan.objective == "cpt",
        assistant_only_loss=answers_alone and "messages" in train[0],
        completion_only_loss=answers_alone and "prompt" in train[0],
    )
    trainer = class_of(of, stack.trl.SFTTrainer)(
        model=of.model,
        args=args,
        **datasets_of(train, held_out),
        processing_class=of.tokenizer,
        callbacks=of.callbacks,
    )
    # Packs are fewer than rows.
    say_what_is_not_evaluated(of, trainer, 0 if args.eval_packing else len(held_out))
    if not of.settings.packing:
        say_what_was_cut(of, trainer, len(of.examples.train))
    return trainer


def rows_of(rows: list[Row], of: Training) -> tuple[list[Row], bool]:
    """The rows as TRL masks them, and whether only answers are learnt.

    Where the chat template does not mark answers, a conversation's last answer is its completion.
    """
    if of.plan.objective != "sft" or not rows or "text" in rows[0]:
        return rows, False
    if marks_answers(of.tokenizing):
        return rows, True
    found = [conversation.last_turn(row) if "messages" in row else row for row in rows]
    if any(_answers(row) > 1 for row in rows):
        what = "the chat template does not mark answers: of a conversation the last one is learnt"
        say_once(of, what)
    return [row for row in found if row], True


def _answers(row: Row) -> int:
    return sum(ROLES[turn["role"]] for turn in row.get("messages", ()))


def marks_answers(tokenizing: Tokenizing) -> bool:
    """Whether TRL can tell answers: by the template's marks, or by one of its own that has them."""
    if tokenizing.marks_answers:
        return True
    try:
        stack.trl.chat_template_utils.get_training_chat_template(
            processing_class=tokenizing.tokenizer
        )
    except ValueError:
        return False
    return True
