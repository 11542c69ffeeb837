"""`ftadvisor compare`: techniques, GPUs or models side by side."""

from __future__ import annotations

from typing import Any

from ftadvisor.cli.calibrated import own_calibration
from ftadvisor.cli.command import Command, Group, Option
from ftadvisor.cli.options import CALIBRATION, JSON, SETTINGS
from ftadvisor.cli.printing import print_answer
from ftadvisor.cli.values import text
from ftadvisor.errors import InvalidSettingError


def run(given: dict[str, Any]) -> int:
    """Print the comparison; 0 if one row fits or is tight, else 1."""
    as_json, own = given.pop("json", False), given.pop("calibration", True)
    if "model" not in given:
        raise InvalidSettingError(
            "--model is missing.", ["--model llama-7b", "ftadvisor list models"]
        )
    from ftadvisor import api
    from ftadvisor.render.comparison import comparison_document

    gpus = given.get("gpu")
    calibration = own_calibration(gpus) if own and gpus else None
    found = api.compare(**given, calibration=calibration)
    print_answer(found, lambda: comparison_document(found), as_json=as_json)
    return 0 if any(row.estimate.verdict != "does_not_fit" for row in found.rows) else 1


_SENTENCES = {
    "model": "One model or several: a name (llama-7b), a Hugging Face id, a config.json.",
    "gpu": "One GPU or several, loosely spelt. Without one: memory only.",
    "technique": "One technique or several (`ftadvisor list techniques`). Without it: all that "
    "make sense; lora where models or GPUs are compared.",
}
_USE_CASE = Option(
    "use_case",
    text,
    "U",
    "What the model is for (instruction, chat, classification, reasoning, code ...): decides which "
    "published comparisons count for the quality of techniques. Default: instruction.",
)


def _varied(option: Option) -> Option:
    if option.name not in _SENTENCES:
        return option
    return option._replace(sentence=_SENTENCES[option.name], many=True)


def _groups() -> tuple[Group, ...]:
    groups = [Group(g.title, tuple(map(_varied, g.options))) for g in SETTINGS]
    task = groups[1]
    groups[1] = Group(task.title, (*task.options[:2], _USE_CASE, *task.options[2:]))
    return (*groups, Group("Output", (CALIBRATION, JSON)))


COMMAND = Command(
    name="compare",
    summary="Techniques, GPUs or models side by side: verdict, memory, speed, time, cost, and the "
    "expected quality of techniques.",
    usage="compare --model MODEL ... [--gpu GPU ...] [--technique T ...] [options]",
    arguments=(),
    groups=_groups(),
    examples=(
        (
            "ftadvisor compare --model llama3.1-8b --gpu rtx4090 --technique lora qlora full",
            "what does each technique take, and what is it worth?",
        ),
        (
            "ftadvisor compare --model llama3.1-8b --gpu rtx4090 l40s h100-sxm --technique qlora",
            "which card is cheapest for this run?",
        ),
        ("ftadvisor compare --model llama-7b mistral-7b --gpu rtx4090", "two models on one card"),
    ),
    run=run,
    details="Exactly one of model, GPU and technique takes several values; * marks the best of "
    "each column among what fits or is tight. Points are accuracy points over LoRA, pooled from "
    "published comparisons for such a use case; unknown where nobody compared.\n\n"
    "The exit code is 0 when a row fits or is tight, 1 when none does (single changes that would "
    "help are listed), 2 when the question cannot be answered.",
)
