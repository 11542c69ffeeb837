"""What the documents quote from the program: `make docs` runs cog, whose blocks call these."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ftadvisor.advice.wording import fact_words
from ftadvisor.cli import main
from ftadvisor.configuration.settings import resolve
from ftadvisor.estimation.memory import step_phases
from ftadvisor.estimation.phases import Phase
from ftadvisor.estimation.prediction import adapter_of
from ftadvisor.render.document import Column, Table, Words
from ftadvisor.render.markdown import markdown
from ftadvisor.sources.models import find_model
from ftadvisor.sources.rule_clauses import FACTS
from ftadvisor.sources.techniques import find_technique
from ftadvisor.sources.trainers import DEFAULT_TRAINER, find_trainer
from ftadvisor.sources.workloads import reference_workload
from ftadvisor.units import GIB
from ftadvisor.validation.report import Report, validate

WIDTH = 100
ROOT = Path(__file__).resolve().parent.parent
WORDS = (
    "the", "model", "reads", "each", "line", "and", "writes", "what", "a", "careful", "person",
    "would", "have", "said", "of", "it", "when", "asked", "why", "some", "answers", "are", "short",
    "others", "long", "most", "them", "neither",
)  # fmt: skip


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


def console_with(files: dict[str, str], *commands: str) -> str:
    """The same, in a directory that holds these files."""
    here = Path.cwd()
    with TemporaryDirectory() as place:
        for name, content in files.items():
            (Path(place) / name).write_text(content, encoding="utf-8")
        os.chdir(place)
        try:
            return console(*commands)
        finally:
            os.chdir(here)


def beginning(end: str, command: str) -> str:
    """A command at the desk, and what it prints above the line that is `end`."""
    said = console_with(desk(), command)
    head, _, rest = said.partition(f"\n{end}\n")
    if not rest:
        raise ValueError(f"{command} prints no line {end!r}")
    return f"{head}\n...\n```"


def desk() -> dict[str, str]:
    """The files that the documents speak of."""
    return {"train.jsonl": conversations(), "house-rules.yaml": house_rules()}


def conversations(count: int = 1200) -> str:
    """Rows of a chat, some of which are what rows of real files are: repeated, empty, broken."""
    chance = random.Random(0)
    rows: list[str] = []
    for _ in range(count):
        asked, said = (
            chance.choices(WORDS, k=chance.randint(*ends)) for ends in ((8, 40), (20, 160))
        )
        messages = [
            {"role": "user", "content": " ".join(asked)},
            {"role": "assistant", "content": " ".join(said)},
        ]
        rows.append(json.dumps({"messages": messages}))
    rows[100:110] = rows[:10]
    rows[500] = rows[500][:40]
    rows[700] = json.dumps({"messages": []})
    return "\n".join(rows) + "\n"


def house_rules() -> str:
    """The example of docs/recommending.md."""
    text = (ROOT / "docs" / "recommending.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return found


def facts() -> str:
    """What a rule's condition can ask about, as a Markdown table."""
    heads = (Column("fact"), Column("what it is"))
    rows = tuple((Words(f"`{fact}`"), Words(fact_words(fact))) for fact in FACTS)
    return markdown((Table(heads, rows),))


def output(cog: Any) -> str:
    """What the last Python snippet before this cog block prints, as a block."""
    lines = Path(cog.inFile).read_text(encoding="utf-8").split("\n")[: cog.firstLineNum]
    code = snippets("\n".join(lines))[-1]
    said = io.StringIO()
    with redirect_stdout(said):
        exec(code, {"__name__": "snippet"})
    return f"```text\n{said.getvalue().rstrip()}\n```"


def snippets(text: str) -> list[str]:
    """The Python snippets of a document."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@cache
def report() -> Report:
    """The repository's own rows, validated once."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    return validate()


def phases(model: str, technique: str, **options: object) -> str:
    """Bytes alive in each phase of a step with the default trainer, in GiB, as a Markdown table."""
    spec, trainer = find_model(model).spec, find_trainer(DEFAULT_TRAINER)
    resolved = resolve(
        options, spec, find_technique(technique), "sft", trainer, None, reference_workload(None)
    )
    adapter = adapter_of(spec, resolved.settings, trainer, resolved.technique)
    found = step_phases(spec, resolved.settings, trainer, adapter)
    shown = [part for part in Phase._fields if any(p._asdict()[part] for p in found.values())]
    heads = (Column("phase"), *(Column(part, right=True) for part in (*shown, "total")))
    rows = tuple(
        (Words(name), *(Words(_gib(p._asdict()[part])) for part in shown), Words(_gib(p.total)))
        for name, p in found.items()
    )
    return markdown((Table(heads, rows),))


def _gib(size: float) -> str:
    return f"{size / GIB:.3f}"
