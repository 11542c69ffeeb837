"""`ftadvisor estimate`: one model, one GPU, one technique or all of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ftadvisor.cli.aside import said_aside
from ftadvisor.cli.calibrated import own_calibration
from ftadvisor.cli.command import Argument, Command, Group
from ftadvisor.cli.options import CALIBRATION, JSON, SETTINGS, SIMULATE
from ftadvisor.cli.printing import print_answer
from ftadvisor.errors import InvalidSettingError

if TYPE_CHECKING:
    from ftadvisor.schema.calibration import Calibration
    from ftadvisor.schema.estimate import Estimate
    from ftadvisor.schema.remedy import Remedy


def run(given: dict[str, Any]) -> int:
    """Print the estimates; 0 if one fits or is tight, else 1."""
    as_json = given.pop("json", False)
    own = given.pop("calibration", True)
    file = given.pop("file", None)
    if file is not None:
        return _run_file(file, given, own_calibration() if own else None)
    if "model" not in given:
        raise InvalidSettingError(
            "--model is missing.", ["--model llama-7b", "ftadvisor list models"]
        )
    from ftadvisor import api
    from ftadvisor.render.estimate import estimates_document

    gpu = given.get("gpu")
    # Memory alone is not calibrated.
    calibration = own_calibration([gpu]) if own and gpu else None
    with said_aside():
        found = api.estimates(**given, calibration=calibration)
    remedies = remedies_of(found, given, calibration)
    named = [remedy._asdict() for remedy in remedies]
    answer = {"estimates": found, **({"remedies": named} if named else {})}
    print_answer(answer, lambda: estimates_document(found, remedies), as_json=as_json)
    return exit_code(found)


def exit_code(found: tuple[Estimate, ...]) -> int:
    """0 when something fits or is tight, or when no GPU was asked about; 1 when nothing fits."""
    return 0 if any(estimate.verdict != "does_not_fit" for estimate in found) else 1


def remedies_of(
    found: tuple[Estimate, ...], given: dict[str, Any], calibration: Calibration | None = None
) -> tuple[Remedy, ...]:
    """When nothing fits: single changes of what needs least."""
    if exit_code(found) == 0:
        return ()
    from ftadvisor import api

    least = min(found, key=lambda estimate: estimate.memory.device_bytes)
    question: dict[str, Any] = {"technique": least.technique, "objective": least.objective}
    asked = {name: value for name, value in given.items() if name != "simulate"}
    return api.ways_to_fit(**{**asked, **question}, calibration=calibration)


def _run_file(file: str, given: dict[str, Any], calibration: Calibration | None) -> int:
    from ftadvisor.cli.batch import answer_lines

    if not file.endswith((".jsonl", ".ndjson")) and file != "-":
        raise InvalidSettingError(
            f"{file!r} is not a .jsonl file (a model is given by name).", [f"--model {file}"]
        )
    return answer_lines(file, given, COMMAND, sys.stdout, calibration)


COMMAND = Command(
    name="estimate",
    summary="Memory, time and cost of fine-tuning a model, each with a 90 % interval.",
    usage="estimate --model MODEL [--gpu GPU] [--technique T] [options]",
    arguments=(
        Argument(
            "file",
            "FILE.jsonl",
            "Instead of --model: a file with one question a line, an object with the options' "
            "names as keys (max_length, not max-length); `-` reads standard input. Options given "
            "beside it hold for every line that does not say otherwise. One JSON record a line "
            "comes back.",
        ),
    ),
    groups=(*SETTINGS, Group("Output", (SIMULATE, CALIBRATION, JSON))),
    examples=(
        ("ftadvisor estimate --model llama-7b --gpu rtx3060", "what fits on this card?"),
        (
            "ftadvisor estimate --model llama-7b --gpu rtx4090 --technique lora --max-length 2048",
            "one technique, longer sequences",
        ),
        ("ftadvisor estimate --model llama3.1-8b --technique qlora", "on which GPUs does it fit?"),
        (
            "ftadvisor estimate --model llama-2-13b --gpu a100-80gb --num-gpus 4 --technique full "
            "--strategy zero3",
            "several GPUs",
        ),
        (
            "ftadvisor estimate --model llama-7b --gpu rtx3090 --technique lora --num-tokens 5e6 "
            "--price 0.25 --json",
            "my data, my price, for a program",
        ),
    ),
    run=run,
    details="What is not given takes the trainer's own default; the answer names what was assumed. "
    "The exit code is 0 when something fits or is tight, 1 when nothing does, 2 when the question "
    "cannot be answered.",
)
