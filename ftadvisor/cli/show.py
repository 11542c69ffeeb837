"""`ftadvisor show`: everything known of one model or GPU."""

from __future__ import annotations

from typing import Any

from ftadvisor.cli.command import Argument, Command, Group, Option
from ftadvisor.cli.options import JSON
from ftadvisor.cli.printing import print_answer
from ftadvisor.errors import InvalidSettingError

KINDS = ("model", "gpu")
CONFIG = Option("config", None, "", "Print the config.json from which Transformers builds it.")


def run(given: dict[str, Any]) -> int:
    """Print one row, or a model's configuration; always 0."""
    from ftadvisor import api
    from ftadvisor.render.listing import row_document
    from ftadvisor.render.serial import as_json

    kind, name = given["kind"], given["name"]
    if given.get("config"):
        if kind != "model":
            raise InvalidSettingError("--config is for models.", [f"ftadvisor show gpu {name}"])
        print(as_json(api.model_config(name)))
        return 0
    shown = api.show_model(name) if kind == "model" else api.show_gpu(name)
    print_answer({kind: shown}, lambda: row_document(shown), as_json=given.get("json", False))
    return 0


COMMAND = Command(
    name="show",
    summary="Everything that is known of one model or GPU, with its sources.",
    usage="show model|gpu NAME [--config]",
    arguments=(
        Argument("kind", "|".join(KINDS), "What it is.", required=True, choices=KINDS),
        Argument("name", "NAME", "Its name, loosely spelt, or a config.json.", required=True),
    ),
    groups=(Group("Output", (CONFIG, JSON)),),
    examples=(
        ("ftadvisor show model llama3.1-8b", "its sizes"),
        ("ftadvisor show model gpt2 --config", "a config.json for Transformers"),
        ("ftadvisor show gpu rtx4090", "its rates, its memory and what an hour costs"),
    ),
    run=run,
)
