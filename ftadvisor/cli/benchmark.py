"""`ftadvisor benchmark`: techniques side by side on this machine."""

from __future__ import annotations

import sys
from typing import Any

from ftadvisor.cli.aside import said_aside
from ftadvisor.cli.command import Command, Group, Option
from ftadvisor.cli.options import JSON, SETTINGS
from ftadvisor.cli.printing import print_answer
from ftadvisor.cli.values import number, text, whole
from ftadvisor.errors import InvalidSettingError

WHICH = Group(
    "What is compared",
    (
        Option("techniques", text, "T", "Techniques, two or more.", many=True),
        Option("train", None, "", "Train each too, as far as its plan says."),
        Option("train_tokens", whole, "N", "Train each on so many tokens."),
        Option("train_minutes", number, "X", "Train each for so long."),
        Option(
            "plot",
            text,
            "FILE",
            "Draw quality, time, memory and cost side by side: FILE.svg, FILE.html or FILE.png "
            "(needs matplotlib).",
            also=("figure", "picture"),
        ),
        Option("output_dir", text, "DIR", "Where runs go (default: benchmark).", short="o"),
    ),
)


def run(given: dict[str, Any]) -> int:
    """Print the table; 1 when no technique could be measured, or one was to be trained and was
    not, or not to its end."""
    from ftadvisor.api.benchmarking import benchmark
    from ftadvisor.render.benchmark import benchmark_document, benchmark_picture
    from ftadvisor.render.picture import check_target, write_picture

    as_json, plot = given.pop("json", False), given.pop("plot", None)
    if plot is not None:
        check_target(plot)
    for name, example in (
        ("model", "--model llama3.2-1b"),
        ("dataset", "--dataset train.jsonl"),
        ("techniques", "--techniques lora full"),
    ):
        if name not in given:
            raise InvalidSettingError(f"--{name} is missing.", [example])
    asked = any(given.get(name) for name in ("train", "train_tokens", "train_minutes"))
    words = [w for name in given.pop("techniques") for w in name.split(",") if w]
    with said_aside():
        found = benchmark(given.pop("model"), given.pop("dataset"), words, **given)
    print_answer(found, lambda: benchmark_document(found), as_json=as_json)
    measured = any(row.probe for row in found.rows)
    if plot is not None:
        if measured:
            write_picture(plot, benchmark_picture(found))
        said = f"the picture is in {plot}" if measured else f"nothing written to {plot}"
        print(f"ftadvisor: {said}.", file=sys.stderr)
    done = not asked or all(row.report and row.report.status == "done" for row in found.rows)
    return 0 if measured and done else 1


COMMAND = Command(
    name="benchmark",
    summary="Techniques side by side on this machine: probed, and trained where asked for. "
    "Needs pip install 'ftadvisor[run]'.",
    usage="benchmark --model MODEL --dataset FILE --techniques T,T.. [--train] [options]",
    arguments=(),
    groups=(WHICH, *SETTINGS, Group("Output", (JSON,))),
    examples=(
        (
            "ftadvisor benchmark --model qwen3-0.6b --dataset train.jsonl "
            "--techniques lora,qlora,full",
            "what does each take here?",
        ),
        (
            "ftadvisor benchmark --model qwen3-0.6b --dataset train.jsonl --techniques lora,full "
            "--train-minutes 10",
            "which is best after ten minutes?",
        ),
    ),
    run=run,
    details="Each technique is probed with two and four of the model's layers and random weights. "
    "With a budget each is then trained, with the model's own weights, for the same tokens or the "
    "same time. The cost is the whole run's, by --price or the dated price list. "
    "The exit code is 1 when a technique that was to be trained did not get to its end.",
)
