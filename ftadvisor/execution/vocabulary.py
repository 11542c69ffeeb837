"""Tokens that the model has no row for: a tokenizer of another model, or one that has grown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftadvisor.errors import InvalidSettingError, quoted


def check_vocabulary(trainer: Any, tokenizer: Any) -> None:
    """Raise InvalidSettingError where a token of the data, or the one that pads, lies outside the
    model's embeddings: the first step that reads it would fail, on a GPU for all that comes after.

    A tokenizer may know more tokens than its model, as long as nothing uses them.
    """
    own = getattr(tokenizer, "tokenizer", tokenizer)
    rows = getattr(trainer.model.get_input_embeddings(), "num_embeddings", None)
    if rows is None or max((len(own) - 1, *own.added_tokens_decoder)) < rows:
        return
    largest = max((own.pad_token_id or 0, *_of_data(trainer)))
    if largest < rows:
        return
    token = own.convert_ids_to_tokens(largest)
    raise InvalidSettingError(
        f"The tokenizer has the token {quoted(token)} with the number {largest:,}, and the model"
        f" has embeddings for {rows:,}.",
        ["the tokenizer that belongs to the model", "model.resize_token_embeddings, then saved"],
    )


def _of_data(trainer: Any) -> Iterator[int]:
    """The largest number of each column of token ids; trainers that draw answers have none yet."""
    for data in (trainer.train_dataset, trainer.eval_dataset):
        for name in getattr(data, "column_names", None) or ():
            if name.endswith("_ids"):
                yield max((max(ids) for ids in data[name] if ids), default=0)
