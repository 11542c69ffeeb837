"""Answers to held-out prompts, drawn greedily, before and after training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from ftadvisor.execution import conversation
from ftadvisor.execution.evaluation.scores import evaluating
from ftadvisor.execution.examples import Row
from ftadvisor.execution.out_of_memory import free_memory, is_out_of_memory
from ftadvisor.execution.training import Training

BATCH = 8
MOST_NEW_TOKENS = 256
SPARE_TOKENS = 16
"""An answer may be twice as long as the longest reference, and by so many tokens longer."""
COMPARED = ("sft", "seq2seq", "distillation")
"""Objectives that learn the reference itself."""


class Question(NamedTuple):
    """A held-out prompt."""

    prompt: str
    """As people read it."""
    ids: list[int]
    reference: str
    """Empty: there is none."""


def questions(of: Training) -> list[Question]:
    """A seeded sample of the held-out rows that ask something, those that max_length leaves whole.

    Rows with images and raw text ask nothing that can be answered here.
    """
    rows = [turn for row in of.examples.held_out if (turn := _turn(row))]
    chosen = random.Random(of.plan.seed).sample(rows, min(len(rows), of.run.eval_answers))
    found = [_question(row, of.tokenizer) for row in chosen]
    return [one for one in found if len(one.ids) <= of.settings.max_length]


def answers(trainer: Any, of: Training, asked: list[Question], *, base: bool) -> list[str]:
    """The model's answers, in the order of the questions."""
    if not asked:
        return []
    tokenizer = of.tokenizer
    longest = max(len(tokenizer(one.reference)["input_ids"]) for one in asked)
    room = 2 * longest + SPARE_TOKENS if any(one.reference for one in asked) else MOST_NEW_TOKENS
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    try:
        with evaluating(trainer, base=base) as model:
            options = {
                "max_new_tokens": min(room, MOST_NEW_TOKENS), "do_sample": False, "num_beams": 1,
                "use_cache": True, "pad_token_id": tokenizer.pad_token_id,
                "eos_token_id": ends(tokenizer, model),
            }  # fmt: skip
            return _all_answered(model, tokenizer, asked, options)
    finally:
        tokenizer.padding_side = side


def ends(tokenizer: Any, model: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's, the model's, and the chat template's."""
    own = getattr(model.generation_config, "eos_token_id", None)
    found: set[int | None] = {tokenizer.eos_token_id}
    found |= {*cast("list[int]", own)} if isinstance(own, list) else {own}
    if tokenizer.chat_template:
        turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "ANSWER"}]
        text = tokenizer.apply_chat_template(turn, tokenize=False).rpartition("ANSWER")[2]
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        found |= special & {*ids[:1]}
    return sorted(i for i in found if i is not None)


def _all_answered(
    model: Any, tokenizer: Any, asked: list[Question], options: dict[str, Any]
) -> list[str]:
    """Fewer at once where memory runs out: what trains in small batches has no room for eight."""
    size = BATCH
    while True:
        try:
            return [
                text
                for batch in _batches(asked, size)
                for text in _answered(model, tokenizer, batch, options)
            ]
        except Exception as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        # Only here, without the error, are the tensors of its frames free.
        free_memory()
        size //= 2


def _answered(
    model: Any, tokenizer: Any, asked: list[Question], options: dict[str, Any]
) -> list[str]:
    batch = tokenizer.pad({"input_ids": [one.ids for one in asked]}, return_tensors="pt")
    batch = {k: batch[k].to(model.device) for k in ("input_ids", "attention_mask")}
    made = model.generate(**batch, **options)
    start = 0 if model.config.is_encoder_decoder else batch["input_ids"].shape[1]
    texts = tokenizer.batch_decode(made[:, start:], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _batches(asked: list[Question], size: int) -> Iterator[list[Question]]:
    for start in range(0, len(asked), size):
        yield asked[start : start + size]


def _turn(row: Row) -> Row | None:
    """The row as a prompt and what is expected; None: it asks nothing."""
    if row.get("images") or row.get("image"):
        return None
    if "source" in row:
        return {"prompt": row["source"], "completion": row["target"]}
    if "messages" in row:
        return conversation.last_turn(row)
    if not row.get("prompt"):
        return None
    return {**row, "completion": row.get("completion", row.get("chosen"))}


def _question(row: Row, tokenizer: Any) -> Question:
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return Question(prompt, tokenizer(prompt)["input_ids"], _said(row["completion"]))
    ids = tokenizer.apply_chat_template(
        prompt, tools=row.get(conversation.TOOLS), add_generation_prompt=True, tokenize=True,
        return_dict=False,
    )  # fmt: skip
    return Question(_said(prompt), ids, _said(row["completion"]))


def _said(turns: Any) -> str:
    """Messages as text: the last one where there are several."""
    if isinstance(turns, list):
        return str(cast("list[Row]", turns)[-1]["content"]) if turns else ""
    return turns or ""
