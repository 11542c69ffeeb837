"""distillation: TRL's DistillationTrainer, on the student's own answers or on the data's."""

from __future__ import annotations

from typing import Any

from ftadvisor.errors import InvalidSettingError, UnsupportedError, first_line
from ftadvisor.execution import arguments, stack
from ftadvisor.execution.dividing import divide
from ftadvisor.execution.examples import Row
from ftadvisor.execution.teachers import load_teacher
from ftadvisor.execution.trainers.building import evenly
from ftadvisor.execution.training import Training

ANSWER = "completion_ids"
"""The column of an answer's tokens."""


def build(of: Training) -> Any:
    """TRL's trainer, with the teacher beside the student.

    Raises InvalidSettingError where the teacher's tokens are others, or no prompt is short enough.
    """
    from ftadvisor.execution.trainers.answered import AnsweredTrainer
    from ftadvisor.execution.trainers.orthogonal import orthogonal

    settings = of.plan.settings
    name = settings["teacher_model"]
    teacher = load_teacher(name, of.settings, of.device, of.tokenizer)
    train, held_out = (_encoded(rows, of) for rows in (of.examples.train, of.examples.held_out))
    if not train:
        raise InvalidSettingError(
            f"max_length {of.settings.max_length} is shorter than every prompt.",
            [f"--max-length {2 * int(of.settings.max_length)}"],
        )
    rows_at_once, held_out = evenly(of, held_out)
    options = arguments.common(of.plan, of.settings, of.run, of.device, evaluates=bool(held_out))
    options["per_device_eval_batch_size"] = rows_at_once
    # TRL counts the tokens itself, prompts and answers.
    options["include_num_input_tokens_seen"] = "no"
    args = stack.trl.DistillationConfig(
        **options,
        beta=settings.get("beta", 1.0),
        temperature=1.0,
        max_completion_length=of.settings.max_completion_length,
        # The plan's dropout stands.
        disable_dropout=False,
    )
    divide(teacher, of.settings, args)
    cls = orthogonal(AnsweredTrainer) if of.plan.technique == "adalora" else AnsweredTrainer
    datasets = stack.datasets.Dataset
    try:
        trainer = cls(
            model=of.model,
            teacher_model=teacher,
            args=args,
            train_dataset=datasets.from_list(train),
            eval_dataset=datasets.from_list(held_out) if held_out else None,
            processing_class=of.tokenizer,
            callbacks=of.callbacks,
        )
    except ValueError as error:
        what = first_line(error)
        raise UnsupportedError.of("This distillation", f"TRL refuses it ({what})") from error
    trainer.lmbda = settings.get("lmbda", 1.0)
    return trainer


def _encoded(rows: list[Row], of: Training) -> list[Row]:
    """Prompts as they are, answers as tokens; prompts above max_length left out, and told."""
    found: list[Row] = []
    cut = 0
    longest = int(of.settings.max_completion_length)
    for row in rows:
        text = stack.trl.apply_chat_template(row, of.tokenizer)
        if len(_ids(text["prompt"], of)) > of.settings.max_length:
            continue
        kept: Row = {"prompt": row["prompt"]}
        if "completion" in row:
            answer = _ids(text["completion"], of)
            cut += len(answer) > longest
            kept[ANSWER] = answer[:longest]
        found.append(kept)
    if len(found) < len(rows):
        of.journal.say("data", f"{len(rows) - len(found)} prompts above max_length left out")
    if cut:
        of.journal.say("data", f"{cut} answers cut to max_completion_length {longest}")
    return found


def _ids(text: str, of: Training) -> list[int]:
    # The template has put in every special token.
    return of.tokenizer(text, add_special_tokens=False)["input_ids"]
