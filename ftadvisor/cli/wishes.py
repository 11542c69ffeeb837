"""Options of `recommend` that no run has: what a person wants, and what they know of their data."""

from __future__ import annotations

from typing import get_args

from ftadvisor.cli.command import Group, Option
from ftadvisor.cli.options import SUBJECT
from ftadvisor.cli.values import number, text, whole
from ftadvisor.schema.dataset import DataFormat
from ftadvisor.schema.situation import Goal, SizeClass, UseCase

GPUS = Option(
    "gpu",
    text,
    "GPU",
    "A GPU, loosely spelt (rtx3060, h100-80gb); several to choose from; any: whatever the dated "
    "price list offers; cpu.",
    many=True,
    also=("gpu_type", "gpu_name", "device", "card", "hardware", "accelerator", "gpus"),
)


def _listed(sentence: str, kind: object) -> str:
    return f"{sentence} One of: {', '.join(get_args(kind))}."


CHOICE = Group(
    "Model and GPU",
    (
        SUBJECT.options[0]._replace(
            sentence="A name (llama-7b), a Hugging Face id, or a config.json or its directory. "
            "Without one: models of the catalogue are proposed.",
        ),
        Option("size", text, "S", _listed("The size of a proposed model.", SizeClass)),
        Option("license", text, "L", "The licence of a proposed model: permissive, or any."),
        GPUS,
        SUBJECT.options[2]._replace(
            sentence="GPUs of this kind that may be used; a plan takes no more than it needs."
        ),
    ),
)
WISHES = Group(
    "What is wanted",
    (
        Option(
            "use_case",
            text,
            "USE",
            _listed("What the model will be used for (rlhf is alignment).", UseCase),
            also=("task", "usecase", "purpose", "domain"),
        ),
        Option("goal", text, "G", _listed("What counts most.", Goal), also=("optimize", "prefer")),
        Option(
            "budget_usd",
            number,
            "USD",
            "What the run may cost.",
            also=("budget", "max_cost", "max_usd"),
        ),
        Option(
            "deadline_hours",
            number,
            "H",
            "How long it may take.",
            also=("deadline", "hours", "max_hours"),
        ),
        Option("keep_abilities", None, "", "What the base could do before must survive."),
        Option(
            "languages",
            text,
            "LANG",
            "Languages of the text (en de fr).",
            many=True,
            also=("language", "lang"),
        ),
    ),
)
DATA = Group(
    "The data, where no file is given",
    (
        Option("labels", None, "", "Whether the data says what the right answer is."),
        Option(
            "num_examples",
            number,
            "N",
            "How many examples there are.",
            also=("examples", "num_rows", "samples", "dataset_size"),
        ),
        Option("data_format", text, "F", _listed("What a row is.", DataFormat), also=("format",)),
    ),
)
FIXED = Group(
    "Hyperparameters that you fix",
    (
        Option("learning_rate", number, "X", "The peak learning rate.", also=("lr",)),
        Option(
            "global_batch_size",
            whole,
            "N",
            "Sequences of an optimizer step, all GPUs together.",
            also=("effective_batch_size", "total_batch_size"),
        ),
        Option("seed", whole, "N", "The plan's seed (default: 0)."),
    ),
)
RULES = Option(
    "rules",
    text,
    "FILE",
    "A YAML file with rules of your own; one with a known id replaces that rule.",
    also=("rules_file",),
)
