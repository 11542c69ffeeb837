"""The plan's data in the form that the trainers document, what cannot be used left out.

Rows and layouts are `sources.datasets`'; here each becomes a trainer's example. Nothing heavy is
imported: columns are checked against the objective before anything expensive starts.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from ftadvisor.errors import DataFileError, InvalidSettingError, UnsupportedError, quoted
from ftadvisor.execution import classes, conversation, pictures, preferences
from ftadvisor.schema.dataset import Problem
from ftadvisor.schema.plan import PlanDataset
from ftadvisor.schema.run import RunSettings
from ftadvisor.sources.datasets.blocks import Fault, Meter
from ftadvisor.sources.datasets.examples import Example, example_of
from ftadvisor.sources.datasets.files import Split, find_splits
from ftadvisor.sources.datasets.formats import Layout, layout_of
from ftadvisor.sources.datasets.readers import rows_of

Row = dict[str, Any]
Converter = Callable[[Row, Layout], Row | Fault | None]
"""From a usable row to a trainer's example; None: the row's format is not the objective's."""

FEWEST_HELD_OUT = 1
MOST_HELD_OUT = 200
"""More rows than these only make the evaluation slow: the interval is narrow enough."""
SHOWN = 3

CONVERTERS: dict[str, Converter] = {
    "sft": conversation.supervised,
    "clm": conversation.supervised,
    "cpt": conversation.supervised,
    "distillation": conversation.asked,
    "seq_cls": classes.labelled,
    "seq2seq": conversation.source_target,
    "dpo": preferences.pair,
    "orpo": preferences.pair,
    "reward": preferences.pair,
    "kto": preferences.verdict,
    "grpo": preferences.asked,
    "rloo": preferences.asked,
}
"""By objective. token_cls reads rows that have no layout: see `_tagged`."""
NEEDED = {
    "sft": "messages, or a prompt and a completion, or text; with images or without",
    "clm": "text, messages, or a prompt and a completion",
    "cpt": "text, messages, or a prompt and a completion",
    "distillation": "messages, a prompt and a completion, or a prompt alone",
    "seq_cls": "a text and a label",
    "token_cls": "tokens and ner_tags (or tags, labels): two lists of one length",
    "seq2seq": "a prompt (or source) and a completion (or target)",
    "dpo": "a prompt, chosen and rejected",
    "orpo": "a prompt, chosen and rejected",
    "reward": "a prompt, chosen and rejected",
    "kto": "a prompt, a completion and a label (true or false); or a prompt, chosen and rejected",
    "grpo": "a prompt",
    "rloo": "a prompt",
}
"""What an objective's rows hold, for its errors."""


TOOLED = ("sft", "clm", "cpt", "dpo", "kto", "reward")
"""Objectives whose trainers show a row's tools to the template (trl 1.16: the others read none)."""
FORMS = {"messages": "messages", "prompt": "a prompt", "text": "text"}
"""What the rows of a language model's trainer are told apart by."""


class Examples(NamedTuple):
    """What is trained on, and what is held out."""

    train: list[Row]
    held_out: list[Row]
    left_out: tuple[Problem, ...]
    """Rows that cannot be used: all of them."""
    labels: tuple[str, ...] = ()
    """The classes, in the order of their numbers; empty: the objective has none."""

    @property
    def has_images(self) -> bool:
        """Whether some row has; where one has, all are read as such."""
        return pictures.IMAGES in self.train[0]


def read_examples(dataset: PlanDataset, objective: str, run: RunSettings, seed: int) -> Examples:
    """Everything that the run reads. Raises a FtadvisorError for data that the objective cannot
    use, naming the columns that it needs.
    """
    path = Path(dataset.path).expanduser()
    other = Path(run.eval_dataset).expanduser() if run.eval_dataset else None
    training, evaluation = find_splits(path, dataset.split, other)
    left_out: list[Problem] = []
    train = _converted(training, dataset, objective, left_out)
    if evaluation is not None:
        held_out = _converted(evaluation, dataset, objective, left_out)
    else:
        train, held_out = _split(train, run.eval_share, seed)
        if objective in classes.CLASSIFYING:
            train, held_out = classes.seen_only(train, held_out)
    _check_alike([*train, *held_out], path.name)
    train, held_out = pictures.alike(train, held_out)
    labels: tuple[str, ...] = ()
    if objective in classes.CLASSIFYING:
        labels = classes.classes_of(train, held_out, path.name)
    return Examples(train, held_out, tuple(left_out), labels)


def read_held_out(dataset: PlanDataset, objective: str) -> Examples:
    """All rows as held out, for a model that is trained already; of data that come in splits those
    that it was not trained on.
    """
    training, evaluation = find_splits(Path(dataset.path).expanduser(), dataset.split, None)
    split = evaluation or training
    left_out: list[Problem] = []
    rows = _converted(split, dataset, objective, left_out)
    _check_alike(rows, split.files[0].path.name)
    _, rows = pictures.alike([], rows)
    # A trainer wants something to train on, even where it only evaluates.
    return Examples(rows[:1], rows, tuple(left_out))


def _check_alike(rows: list[Row], file: str) -> None:
    """Raise DataFileError for conversations beside plain text: a trainer takes all rows for what
    the first one is.
    """
    counts = Counter(form for row in rows for form in FORMS if form in row)
    if len(counts) > 1:
        found = ", ".join(f"{number:,} with {FORMS[form]}" for form, number in counts.items())
        raise DataFileError(
            file, None, None, f"has rows of several formats ({found})", "rows of one format"
        )


def _split(rows: list[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """A seeded share held out, in the rows' own order."""
    if share == 0 or len(rows) < 2:
        return rows, []
    count = min(max(FEWEST_HELD_OUT, round(share * len(rows))), MOST_HELD_OUT, len(rows) - 1)
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    return (
        [row for i, row in enumerate(rows) if i not in chosen],
        [row for i, row in enumerate(rows) if i in chosen],
    )


def _converted(
    split: Split, dataset: PlanDataset, objective: str, left_out: list[Problem]
) -> list[Row]:
    """The split's examples; what cannot be used goes to `left_out`."""
    found: list[Row] = []
    faults: list[Problem] = []
    for folder, number, value in _rows(split):
        example = _example(value, dataset, objective, folder)
        if isinstance(example, Fault):
            faults.append(Problem(number, example.what))
        else:
            found.append(example)
    left_out += faults
    if not found:
        why = "; ".join(f"line {p.line} {p.what}" for p in faults[:SHOWN])
        raise DataFileError(
            split.files[0].path.name, None, None,
            f"has no row that {objective} can learn from ({why or 'it is empty'})",
            f"rows with {NEEDED[objective]}",
        )  # fmt: skip
    return found


def _rows(split: Split) -> Iterator[tuple[Path, int, Any]]:
    for file in split.files:
        for number, value in rows_of(file, Meter(None, 0), binary=True):
            yield file.path.parent, number, value


def _example(value: Any, dataset: PlanDataset, objective: str, folder: Path) -> Row | Fault:
    """The trainer's example of one row, or why there is none."""
    if value is None:
        return Fault("is empty")
    if isinstance(value, Fault):
        return value
    if not isinstance(value, dict):
        return Fault("is not an object")
    row = _renamed(cast("Row", value), dataset, others=objective in preferences.POLICY)
    if isinstance(row, Fault):
        return row
    if objective == "token_cls":
        return classes.tagged(row)
    layout = layout_of(row)
    if layout is None:
        return Fault(f"has the columns {', '.join(map(quoted, row))}")
    usable = example_of(row, layout)
    if not isinstance(usable, Example):
        return usable or Fault("is empty")
    if usable.format == "image_text":
        if objective in pictures.ILLUSTRATED:
            return pictures.illustrated(row, layout, folder)
        return Fault(f"has images, which {objective} does not learn from here")
    made = CONVERTERS[objective](row, layout)
    if isinstance(made, dict) and conversation.is_conversational(made):
        made = _with_tools(made, row, objective)
    return made or Fault(f"is {layout.format}, with the columns {', '.join(map(quoted, row))}")


def _with_tools(made: Row, row: Row, objective: str) -> Row | Fault:
    """The example with the tools that its conversation may call: templates show them."""
    tools = conversation.tools_of(row)
    if isinstance(tools, Fault):
        return tools
    if tools and objective not in TOOLED:
        return Fault(f"has tools, which {objective} does not learn from here")
    return {**made, **tools}


def _renamed(row: Row, dataset: PlanDataset, *, others: bool) -> Row | Fault:
    """The row by the roles that the plan gives its columns, where it gives any.

    `others`: columns of no role stay; a reward function may read them.
    """
    if not dataset.columns:
        return row
    found = {role: row[column] for role, column in dataset.columns.items() if column in row}
    if row.get(conversation.TOOLS):
        # No column of a plan's, and a part of the conversation.
        found[conversation.TOOLS] = row[conversation.TOOLS]
    if not found:
        return Fault(f"has none of the columns {', '.join(map(quoted, dataset.columns.values()))}")
    if "second" in found:
        found["sentence2"] = found.pop("second")
    if others:
        roles = {*dataset.columns.values()}
        found |= {k: v for k, v in row.items() if k not in roles and k not in found}
    return found


def check_objective(objective: str) -> None:
    """Raise a FtadvisorError for an objective that no trainer here reads data for."""
    if objective == "ppo":
        raise UnsupportedError.of(
            "objective ppo",
            "TRL has no PPO trainer any more",
            ["--objective grpo", "--objective rloo"],
        )
    if objective not in NEEDED:
        raise InvalidSettingError(
            f"objective {objective} cannot be run yet.", [f"--objective {o}" for o in NEEDED]
        )
