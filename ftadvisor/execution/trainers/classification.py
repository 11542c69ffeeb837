"""seq_cls and token_cls: Transformers' Trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftadvisor.execution import arguments, stack
from ftadvisor.execution.examples import Row
from ftadvisor.execution.trainers.weighing import weighted
from ftadvisor.execution.training import Training

IGNORED = -100
"""torch.nn.CrossEntropyLoss leaves these out."""


def build_sequence(of: Training) -> Any:
    """A class for each text, or each pair of texts."""
    numbers = {name: i for i, name in enumerate(of.examples.labels)}

    def encoded(row: Row) -> Row:
        tokens = of.tokenizer(
            row["text"], row.get("second"), truncation=True, max_length=of.settings.max_length
        )
        return {**tokens, "labels": numbers[row["label"]]}

    collator = stack.transformers.DataCollatorWithPadding(of.tokenizer)
    return plain_trainer(of, encoded, collator)


def build_token(of: Training) -> Any:
    """A class for each word; its first token carries it."""
    numbers = {name: i for i, name in enumerate(of.examples.labels)}
    between = " " if _joins_words(of.tokenizer) else ""

    def encoded(row: Row) -> Row:
        first, *others = row["tokens"]
        tokens = of.tokenizer(
            [first, *(between + word for word in others)],
            is_split_into_words=True,
            truncation=True,
            max_length=of.settings.max_length,
        )
        words = tokens.word_ids()
        labels = [
            numbers[row["labels"][word]] if word is not None and word != before else IGNORED
            for before, word in zip([None, *words], words, strict=False)
        ]
        return {**tokens, "labels": labels}

    collator = stack.transformers.DataCollatorForTokenClassification(of.tokenizer)
    return plain_trainer(of, encoded, collator)


def _joins_words(tokenizer: Any) -> bool:
    """Whether words are tokenised as in a text only with the space before each.

    Byte-level tokenizers read ["in", "the"] as "inthe", which no text is; as Transformers' examples
    know, of some types (add_prefix_space).
    """
    text = tokenizer("in the")["input_ids"]
    apart, spaced = (
        tokenizer(["in", word], is_split_into_words=True)["input_ids"] for word in ("the", " the")
    )
    return apart != text and spaced == text


def plain_trainer(
    of: Training,
    encoded: Callable[[Row], Row],
    collator: Any,
    trainer: str = "Trainer",
    arguments_class: str = "TrainingArguments",
) -> Any:
    """A trainer of Transformers' on encoded examples."""
    of.model.config.pad_token_id = of.tokenizer.pad_token_id
    train = [encoded(row) for row in of.examples.train]
    held_out = [encoded(row) for row in of.examples.held_out]
    options = arguments.common(of.plan, of.settings, of.run, of.device, evaluates=bool(held_out))
    datasets = stack.datasets.Dataset
    cls: Any = getattr(stack.transformers, trainer)
    if of.plan.technique == "adalora":
        from ftadvisor.execution.trainers.orthogonal import measuring_data_alone

        cls = measuring_data_alone(cls)
    return weighted(cls)(
        model=of.model,
        args=getattr(stack.transformers, arguments_class)(**options),
        train_dataset=datasets.from_list(train),
        eval_dataset=datasets.from_list(held_out) if held_out else None,
        data_collator=collator,
        processing_class=of.tokenizer,
        callbacks=of.callbacks,
    )
