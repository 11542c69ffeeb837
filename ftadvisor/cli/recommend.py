"""`ftadvisor recommend`: one plan, why, and what else there is."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ftadvisor.cli.aside import said_aside
from ftadvisor.cli.calibrated import own_calibration
from ftadvisor.cli.command import Command, Group, Option
from ftadvisor.cli.options import (
    BATCH,
    CALIBRATION,
    JSON,
    NUMERICS,
    POLICY,
    SAVING,
    SIMULATE,
    TASK,
    WORKLOAD,
)
from ftadvisor.cli.printing import print_answer
from ftadvisor.cli.values import text
from ftadvisor.cli.wishes import CHOICE, DATA, FIXED, RULES, WISHES

if TYPE_CHECKING:
    from ftadvisor.schema.plan import Recommendation

SIMULATE_FINAL = SIMULATE._replace(
    sentence="Memory of the plan and of its alternatives from the simulated step (`ftadvisor "
    "simulate`); a plan that then does not fit gives way to the next. Needs pip install "
    "'ftadvisor[run]'."
)
OUTPUT = Option("output", text, "FILE", "Write the plan to a YAML file.", short="o", also=("out",))


def run(given: dict[str, Any]) -> int:
    """Print the recommendation; 0 if there is a plan, 1 if nothing fits."""
    from ftadvisor.render.recommendation import recommendation_document

    as_json, output = given.pop("json", False), given.pop("output", None)
    found = _ask(given)
    if found.plan is not None and output is not None:
        import_module("ftadvisor.sources.plans").write_plan(found.plan, output)
    print_answer(found, lambda: recommendation_document(found), as_json=as_json)
    if output is not None:
        said = "no plan, nothing written to" if found.plan is None else "the plan is in"
        print(f"ftadvisor: {said} {output}.", file=sys.stderr)
    return 0 if found.plan is not None else 1


def _ask(given: dict[str, Any]) -> Recommendation:
    from ftadvisor.api.recommender import recommend

    gpus = given.get("gpu", ())
    calibration = own_calibration(gpus) if given.pop("calibration", True) and gpus else None
    if len(gpus) == 1:
        (given["gpu"],) = gpus
    dataset = given.get("dataset")
    if dataset is None:
        watched = nullcontext(None)
    else:
        from ftadvisor.cli.progress import reading

        watched = reading(PurePath(dataset).name)
    with said_aside(), watched as progress:
        return recommend(progress=progress, calibration=calibration, **given)


def _tasks() -> Group:
    """The settings of a run, as constraints."""
    technique, objective, *rest = TASK.options
    return Group(
        "Settings that you fix",
        (
            technique._replace(
                sentence="full, lora, qlora ... (`ftadvisor list techniques`). Without it: the "
                "one that fits best."
            ),
            objective._replace(
                sentence="What the training is for (`ftadvisor list objectives`). Without it: "
                "what data and use case ask for.",
            ),
            *rest,
        ),
    )


COMMAND = Command(
    name="recommend",
    summary="One plan that would be right for you: technique, settings, what it takes, and why.",
    usage="recommend [--model MODEL] [--gpu GPU ...] [--use-case USE] [--dataset FILE] [options]",
    arguments=(),
    groups=(
        CHOICE,
        WISHES,
        DATA,
        FIXED,
        _tasks(),
        BATCH,
        NUMERICS,
        SAVING,
        POLICY,
        WORKLOAD,
        Group("Rules and output", (RULES, OUTPUT, SIMULATE_FINAL, CALIBRATION, JSON)),
    ),
    examples=(
        (
            "ftadvisor recommend --model llama3.1-8b --gpu rtx4090 --use-case chat "
            "--dataset train.jsonl",
            "my model, my card, my data",
        ),
        (
            "ftadvisor recommend --use-case classification --num-examples 3000 --gpu rtx3060",
            "which model?",
        ),
        (
            "ftadvisor recommend --model mistral-7b --gpu any --budget-usd 10 --deadline-hours 8 "
            "--goal cost",
            "which GPU should I rent?",
        ),
        (
            "ftadvisor recommend --model llama3.1-8b --gpu rtx4090 l40s --technique lora "
            "--max-length 4096 --json",
            "a choice of cards, some settings fixed, for a program",
        ),
    ),
    run=run,
    details="Something to work on is needed: a model, a size, a use case or a dataset. Settings "
    "that you give are kept; all others are searched or follow from rules, each with its source "
    "(`ftadvisor explain RULE`).\n\nThe exit code is 0 when there is a plan, 1 when nothing fits "
    "(the answer then lists single changes that would), 2 when the question cannot be answered.",
)
