"""`ftadvisor fit`: the largest model, the smallest card, the largest batch."""

from __future__ import annotations

from typing import Any

from ftadvisor.cli.calibrated import own_calibration
from ftadvisor.cli.command import Command, Group
from ftadvisor.cli.options import CALIBRATION, JSON, SETTINGS, SUBJECT
from ftadvisor.cli.printing import print_answer


def run(given: dict[str, Any]) -> int:
    """Print what fits; 0 if anything fits or is tight, else 1."""
    as_json, own = given.pop("json", False), given.pop("calibration", True)
    from ftadvisor import api
    from ftadvisor.render.fit import fit_document

    gpus = [given["gpu"]] if "gpu" in given else None
    found = api.fit(**given, calibration=own_calibration(gpus) if own else None)
    print_answer(found, lambda: fit_document(found), as_json=as_json)
    return 0 if found.something_fits else 1


_SENTENCES = {
    "gpu": "A GPU, loosely spelt (rtx3060, h100-80gb). Without one: the smallest that fits.",
    "model": "A name (llama-7b), a Hugging Face id, or a config.json or its directory. Without "
    "one: the largest of the catalogue that fits.",
    "num_gpus": "GPUs of this kind, sharing the model by zero3 or fsdp unless --strategy says "
    "otherwise (default: 1, or the fewest that fit).",
}
_SUBJECT = Group(
    SUBJECT.title,
    tuple(option._replace(sentence=_SENTENCES[option.name]) for option in SUBJECT.options),
)

COMMAND = Command(
    name="fit",
    summary="The reverse questions: the largest model for a card, the smallest card for a model, "
    "the largest batch for both.",
    usage="fit [--gpu GPU] [--model MODEL] [--technique T] [options]",
    arguments=(),
    groups=(_SUBJECT, *SETTINGS[1:], Group("Output", (CALIBRATION, JSON))),
    examples=(
        ("ftadvisor fit --gpu rtx3060", "the largest model for each technique"),
        ("ftadvisor fit --model llama3.1-8b --technique qlora", "the smallest card"),
        ("ftadvisor fit --model llama-3.1-70b --technique full", "the fewest cards of each kind"),
        (
            "ftadvisor fit --model llama3.1-8b --gpu rtx4090 --technique qlora",
            "the largest micro-batch for each length, and the longest length",
        ),
    ),
    run=run,
    details="What is not given is chosen to need least: one sequence per micro-batch and gradient "
    "checkpointing where the technique allows it; the rest are the trainer's defaults. A "
    "max_length counts as filled by the longest sample, unless --dataset or --longest-length "
    "says how long that is. Every figure is what `ftadvisor estimate` says for those settings.\n\n"
    "The exit code is 0 when something fits or is tight, 1 when nothing does (single changes that "
    "would help are listed), 2 when the question cannot be answered.",
)
