"""`ftadvisor simulate`: the real training step on meta tensors, and a GPU's memory for it."""

from __future__ import annotations

import sys
from typing import Any

from ftadvisor.cli.aside import said_aside
from ftadvisor.cli.calibrated import own_calibration
from ftadvisor.cli.command import Command, Group, Option
from ftadvisor.cli.estimate import exit_code, remedies_of
from ftadvisor.cli.options import CALIBRATION, JSON, SETTINGS
from ftadvisor.cli.printing import print_answer
from ftadvisor.cli.values import text
from ftadvisor.errors import InvalidSettingError

PLOT = Option(
    "plot",
    text,
    "FILE",
    "Draw live memory over the step: FILE.svg, FILE.html (hover for details) or FILE.png "
    "(needs matplotlib).",
    also=("figure", "picture"),
)
TRUST = Option(
    "trust_remote_code",
    None,
    "",
    "Run the modelling code that lies beside config.json in the model's own directory (auto_map); "
    "without this it is never executed.",
)


def run(given: dict[str, Any]) -> int:
    """Print the simulation; 0 if the run fits or is tight, else 1."""
    as_json, plot = given.pop("json", False), given.pop("plot", None)
    own, gpu = given.pop("calibration", True), given.get("gpu")
    if "model" not in given:
        raise InvalidSettingError(
            "--model is missing.", ["--model llama-7b", "ftadvisor list models"]
        )
    trusted = {"trust_remote_code": given.pop("trust_remote_code", False)}
    from ftadvisor import api
    from ftadvisor.render.picture import check_target, write_picture
    from ftadvisor.render.simulation import simulation_document, title_of
    from ftadvisor.render.timeline import picture

    if plot is not None:
        check_target(plot)
    calibration = own_calibration([gpu]) if own and gpu else None
    with said_aside():
        found = api.simulate(**given, **trusted, calibration=calibration)
    estimates = (found.estimate,)
    remedies = () if as_json else remedies_of(estimates, given, calibration)
    print_answer(found, lambda: simulation_document(found, remedies), as_json=as_json)
    if plot is not None:
        if found.step is not None:
            write_picture(plot, picture(found.step, title_of(found)))
            print(f"ftadvisor: the picture is in {plot}.", file=sys.stderr)
        else:
            print(f"ftadvisor: not simulated, nothing written to {plot}.", file=sys.stderr)
    return exit_code(estimates)


COMMAND = Command(
    name="simulate",
    summary="The real training step, run on meta tensors: what a GPU's memory would hold, by whom "
    "and when. Needs pip install 'ftadvisor[run]'.",
    usage="simulate --model MODEL [--gpu GPU] [--technique T] [options]",
    arguments=(),
    groups=(*SETTINGS, Group("Model code", (TRUST,)), Group("Output", (PLOT, CALIBRATION, JSON))),
    examples=(
        (
            "ftadvisor simulate --model llama-3.2-3b --technique lora --gpu l40s "
            "--micro-batch-size 4 --max-length 681",
            "what would the GPU report?",
        ),
        (
            "ftadvisor simulate --model qwen3-8b --technique qlora --gpu rtx4090 --plot step.html",
            "what fills the card, and when?",
        ),
    ),
    run=run,
    details="Takes the same options as estimate and answers with the same record; time and cost "
    "are the estimate's. Transformers, PEFT and the optimizer really run, without weights, GPU or "
    "network, and their allocations are replayed through a model of CUDA's caching allocator. What "
    "cannot be simulated (DeepSpeed's ZeRO, offloading, GPTQ, a checkpoint's own code that is not "
    "trusted) gets the closed form's answer, and says so.\n\nAnswers are kept in the user's "
    "cache directory (FTADVISOR_HOME). The exit code is 0 when it fits or is tight, 1 when it does "
    "not, 2 when the question cannot be answered.",
)
