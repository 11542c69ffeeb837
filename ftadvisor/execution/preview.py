"""A few examples as the trainer prepares them, with what the loss counts; no model is loaded.

The trainer itself prepares them: it is built with a stand-in of a few thousand parameters, so that
templates, cuts and masks are the run's own and not a copy of them.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from itertools import groupby
from typing import Any, cast

from ftadvisor.errors import InvalidSettingError
from ftadvisor.execution import stack
from ftadvisor.execution.device import processor
from ftadvisor.execution.examples import Examples, Row, check_objective, read_examples
from ftadvisor.execution.journal import Journal
from ftadvisor.execution.rendering import rendered
from ftadvisor.execution.tokenizing import Tokenizing, load_tokenizer
from ftadvisor.execution.trainers import BUILDERS
from ftadvisor.execution.training import Training
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.preview import Piece, Preview
from ftadvisor.schema.run import RunSettings
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.models import find_model

SHOWN = 3
IGNORED = -100
TOKENIZED = ("sft", "clm", "cpt", "seq2seq")
"""Objectives whose trainer makes labels of tokens; of the others the rows are shown."""
ASKED = ("prompt", "text", "second", "source", "tokens")
"""Columns that are read, not learnt."""


def preview(plan: Plan, settings: Settings, run: RunSettings) -> Preview:
    """The first few examples. Raises FtadvisorError for data that cannot be used."""
    check_objective(plan.objective)
    if plan.dataset is None:
        raise InvalidSettingError("The plan names no dataset.", ["--dataset train.jsonl"])
    examples = read_examples(plan.dataset, plan.objective, run, plan.seed)
    notes = [f"{len(examples.train):,} examples to train on, {len(examples.held_out):,} held out"]
    if examples.left_out:
        first = "; ".join(f"line {p.line} {p.what}" for p in examples.left_out[:SHOWN])
        notes.append(f"{len(examples.left_out):,} rows left out ({first})")
    data = plan.dataset
    columns = ", ".join(f"{column} as {role}" for role, column in data.columns.items())
    if data.format:
        notes.append(f"read as {data.format}{f': {columns}' if columns else ''}")
    rows = examples.train[:SHOWN]
    if plan.objective not in TOKENIZED:
        return Preview(examples=tuple(_row(row) for row in rows), notes=tuple(notes))
    stack.quieten()
    conversational = plan.objective != "seq2seq" and "text" not in rows[0]
    tokenizing = load_tokenizer(plan.model, chat=conversational, images=examples.has_images)
    notes += tokenizing.said
    shown, said = _prepared(plan, settings, run, examples, tokenizing)
    notes += said
    return Preview(examples=shown, notes=tuple(notes))


def _prepared(
    plan: Plan, settings: Settings, run: RunSettings, examples: Examples, tokenizing: Tokenizing
) -> tuple[tuple[tuple[Piece, ...], ...], list[str]]:
    """The first few examples that the trainer keeps, and what it says of those before them.

    Of the first rows alone where it keeps them all: to prepare all rows may take minutes.
    """
    # Packs would show where examples meet, not what is learnt of one.
    alone = replace(settings, packing=False, micro_batch_size=1, autocast="none", optim="sgd")
    for rows in (examples.train[:SHOWN], examples.train):
        journal = Journal()
        is_all = len(rows) == len(examples.train)
        with tempfile.TemporaryDirectory() as place:
            try:
                few = examples._replace(train=rows, held_out=[])
                few = rendered(few, tokenizing.tokenizer, journal)
                of = Training(
                    plan, alone, replace(run, output_dir=place, report_to=()), processor(), few,
                    tokenizing, _stand_in(plan, tokenizing.tokenizer), [], journal,
                )  # fmt: skip
                trainer = BUILDERS[plan.objective](of)
            except InvalidSettingError:
                if is_all:
                    raise
                continue
            kept = [trainer.train_dataset[i] for i in range(min(SHOWN, len(trainer.train_dataset)))]
            if is_all or len(kept) == len(rows):
                shown = tuple(_pieces(row, trainer, of) for row in kept)
                return shown, [event.what for event in journal.events]
    raise AssertionError("the last attempt is of all rows")


def _stand_in(plan: Plan, tokenizer: Any) -> Any:
    """A model of the right kind; what it computes does not matter."""
    library = stack.transformers
    if find_model(plan.model).spec.family == "encdec":
        config = library.T5Config(
            vocab_size=len(tokenizer), d_model=4, d_ff=4, d_kv=2, num_layers=1, num_heads=2,
            decoder_start_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        return library.T5ForConditionalGeneration(config)
    config = library.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=4, intermediate_size=4, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    return library.LlamaForCausalLM(config)


def _pieces(row: Row, trainer: Any, of: Training) -> tuple[Piece, ...]:
    """The tokens that the trainer's batch has, in stretches of one kind."""
    batch = trainer.data_collator([row])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    if trainer.model.config.is_encoder_decoder:
        target = [label for label in labels if label != IGNORED]
        return (Piece(of.tokenizer.decode(ids), False), Piece(of.tokenizer.decode(target), True))
    pairs = zip(ids, (label != IGNORED for label in labels), strict=True)
    return tuple(
        Piece(of.tokenizer.decode([token for token, _ in group]), learnt)
        for learnt, group in groupby(pairs, key=lambda pair: pair[1])
    )


def _row(row: Row) -> tuple[Piece, ...]:
    """A row column by column."""
    if "tokens" in row:
        pairs = zip(row["tokens"], row["labels"], strict=True)
        return tuple(
            p for word, tag in pairs for p in (Piece(f" {word} ", False), Piece(tag, True))
        )
    return tuple(
        Piece(f"{name}: {_said(value)}\n", name not in ASKED)
        for name, value in row.items()
        if value is not None
    )


def _said(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in cast("list[Row]", value))
