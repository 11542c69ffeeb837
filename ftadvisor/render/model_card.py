"""README.md of a trained model: what it is made of, how good it is, how to make it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from ftadvisor.render.document import Block, Column, Table, Words, paragraph
from ftadvisor.render.markdown import markdown
from ftadvisor.render.report import settings_table, versions_table
from ftadvisor.render.run import headline, measured_table, metrics_table, name_of
from ftadvisor.schema.report import Report
from ftadvisor.sources.techniques import find_technique

SHOWN_ANSWERS = 3


def model_card(report: Report) -> str:
    """Markdown with the front matter that the Hugging Face hub reads."""
    plan = report.plan
    whole = find_technique(plan.technique).trains_base
    # A base model that is a directory has no name on the hub.
    hub = plan.model.count("/") == 1 and not plan.model.startswith((".", "~", "/"))
    matter = [
        *([f"base_model: {plan.model}"] if hub else []),
        f"library_name: {'transformers' if whole else 'peft'}",
        "tags:", "- ftadvisor", f"- {plan.technique}", f"- {plan.objective}",
    ]  # fmt: skip
    head = "\n".join(["---", *matter, "---"])
    title = f"# {name_of(plan.model)}, {plan.technique} for {plan.objective}"
    parts = [f"## {name}\n\n{markdown(blocks)}" for name, blocks in _sections(report)]
    return "\n\n".join([head, title, markdown((headline(report),)), *parts]) + "\n"


def _sections(report: Report) -> Iterator[tuple[str, tuple[Block, ...]]]:
    yield "Data", (_data(report),)
    if report.metrics:
        yield "Before and after", (metrics_table(report.metrics),)
    if report.answers:
        yield "Answers to held-out prompts", (_answers(report),)
    yield "Memory and time, predicted and measured", (measured_table(report),)
    yield (
        "Plan",
        (
            paragraph(f"plan.yaml beside this file trains it again: `{_command(report)}`."),
            settings_table(report),
        ),
    )
    yield "Versions", (versions_table(report),)


def _command(report: Report) -> str:
    """What no plan holds has to be said again."""
    words = ["ftadvisor", "run", "plan.yaml"]
    for name, value in report.options.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return shlex.join(words)


def _data(report: Report) -> Table:
    plan, data = report.plan, report.plan.dataset
    rows = [("file", data.path if data else "–"), ("format", data and data.format)]
    rows += [("examples", event.what) for event in report.events if event.kind == "data"]
    rows.append(("tokens of an example, mean", f"{plan.workload.mean_tokens:,.0f}"))
    if report.labels:
        rows.append(("classes", ", ".join(report.labels)))
    cells = tuple((Words(name), Words(str(said or "–"))) for name, said in rows)
    return Table((Column("data"), Column("")), cells)


def _answers(report: Report) -> Table:
    rows = tuple(
        tuple(Words(" ".join(text.split()) or "–") for text in (a.prompt, a.before, a.after))
        for a in report.answers[:SHOWN_ANSWERS]
    )
    return Table((Column("asked"), Column("before"), Column("after")), rows)
