"""What the documents quote from the program: `make docs` runs cog, whose blocks call these."""

from __future__ import annotations

import io
import os
import shlex
from contextlib import redirect_stderr, redirect_stdout
from functools import cache

from ftadvisor.cli import main
from ftadvisor.validation.report import Report, validate

WIDTH = 100


def run(command: str) -> tuple[int, str]:
    """Exit code and what `ftadvisor ...` prints, errors included, as wide as a document."""
    program, *arguments = shlex.split(command)
    if program != "ftadvisor":
        raise ValueError(command)
    # Without the hub the answer is the same on every machine.
    os.environ.update(COLUMNS=str(WIDTH), HF_HUB_OFFLINE="1")
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        code = main(arguments)
    return code, output.getvalue().rstrip("\n")


def console(*commands: str) -> str:
    """Commands and what they print, as one block."""
    said = "\n\n".join(f"$ {command}\n{run(command)[1]}" for command in commands)
    return f"```console\n{said}\n```"


def python(code: str) -> str:
    """A snippet and what it prints, as two blocks."""
    code = code.strip("\n")
    output = io.StringIO()
    with redirect_stdout(output):
        exec(code, {"__name__": "snippet"})
    return f"```python\n{code}\n```\n\n```text\n{output.getvalue().rstrip()}\n```"


@cache
def report() -> Report:
    """The repository's own rows, validated once."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    return validate()
