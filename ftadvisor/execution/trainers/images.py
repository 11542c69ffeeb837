"""sft of a vision-language model: TRL's SFTTrainer with its collator for images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftadvisor.errors import InvalidSettingError
from ftadvisor.execution import arguments, conversation, stack
from ftadvisor.execution.examples import Row
from ftadvisor.execution.pictures import IMAGES
from ftadvisor.execution.trainers.supervised import marks_answers
from ftadvisor.execution.training import Training

SHOWN = 3


def build(of: Training) -> Any:
    """TRL's trainer of examples with images; answers alone are learnt."""
    marked = marks_answers(of.tokenizing)
    datasets = [_dataset(rows, of, marked) for rows in (of.examples.train, of.examples.held_out)]
    train, held_out = (_fitting(dataset, of, marked) for dataset in datasets)
    if train is None:
        raise InvalidSettingError(
            f"max_length {of.settings.max_length} is shorter than every example with its images.",
            [f"--max-length {2 * int(of.settings.max_length)}"],
        )
    options = arguments.common(of.plan, of.settings, of.run, of.device, evaluates=bool(held_out))
    args = stack.trl.SFTConfig(
        **options,
        # No example is longer: cutting one would part an image from its tokens.
        max_length=None,
        packing=False,
        assistant_only_loss="messages" in train.column_names,
        completion_only_loss="prompt" in train.column_names,
    )
    return stack.trl.SFTTrainer(
        model=of.model,
        args=args,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=of.tokenizer,
        callbacks=of.callbacks,
    )


def _dataset(rows: list[Row], of: Training, marked: bool) -> Any:
    """The rows as the datasets library's, whose images are opened when they are asked for."""
    if not rows:
        return None
    found = [row if marked else _turned(row) for row in rows]
    features = stack.datasets
    made = features.Dataset.from_list(found)
    return made.cast_column(IMAGES, features.List(features.Image()))


def _turned(row: Row) -> Row:
    """A conversation's last answer as its completion: TRL cannot tell the others apart."""
    if "messages" not in row:
        return row
    return {**(conversation.split_turn(row["messages"]) or {}), IMAGES: row[IMAGES]}


def _fitting(dataset: Any, of: Training, marked: bool) -> Any:
    """The dataset without the rows that the processor refuses, or that are above max_length.

    Each image is decoded once for it, at the cost of one pass over them: else the first bad one
    would end the run in its middle. What is left out is told by row.
    """
    if dataset is None:
        return None
    faults = dict(_faults(dataset, of, marked))
    if faults:
        told = "; ".join(f"example {i + 1} {what}" for i, what in list(faults.items())[:SHOWN])
        of.journal.say("data", f"{len(faults)} examples left out ({told})")
    kept = [i for i in range(len(dataset)) if i not in faults]
    return dataset.select(kept) if kept else None


def _faults(dataset: Any, of: Training, marked: bool) -> Iterator[tuple[int, str]]:
    answered = "prompt" in dataset.column_names
    collator = stack.trl.trainer.sft_trainer.DataCollatorForVisionLanguageModeling(
        of.tokenizer, completion_only_loss=answered, assistant_only_loss=marked and not answered
    )
    longest = int(of.settings.max_length)
    for i in range(len(dataset)):
        try:
            batch = collator([dataset[i]])
        except (OSError, ValueError, SyntaxError) as error:
            yield i, f"cannot be processed: {' '.join(str(error).split())[:120]}"
            continue
        tokens = batch["input_ids"].shape[1]
        if tokens > longest:
            yield i, f"has {tokens} tokens, above max_length {longest}"
