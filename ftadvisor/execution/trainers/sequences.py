"""seq2seq: Transformers' Seq2SeqTrainer."""

from __future__ import annotations

from typing import Any

from ftadvisor.execution import stack
from ftadvisor.execution.examples import Row
from ftadvisor.execution.trainers.classification import plain_trainer
from ftadvisor.execution.training import Training


def build(of: Training) -> Any:
    """From a source to its target."""

    def encoded(row: Row) -> Row:
        tokens = of.tokenizer(row["source"], truncation=True, max_length=of.settings.max_length)
        target = of.tokenizer(
            text_target=row["target"],
            truncation=True,
            max_length=of.settings.max_target_length - 1,
        )["input_ids"]
        # Tokenizers of encoder-decoders add the end token; others would teach no end.
        end = of.tokenizer.eos_token_id
        if end is not None and (not target or target[-1] != end):
            target = [*target, end]
        return {**tokens, "labels": target}

    collator = stack.transformers.DataCollatorForSeq2Seq(of.tokenizer, model=of.model)
    return plain_trainer(of, encoded, collator, "Seq2SeqTrainer", "Seq2SeqTrainingArguments")
