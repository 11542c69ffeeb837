"""The help: for a terminal, and as Markdown for the documents, from the same descriptions."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import get_args

from ftadvisor.cli.command import Command, Option
from ftadvisor.schema import settings

WIDEST = 100
_MARGIN = 2
_OPTION_WIDTH = 32
_TWO_COLUMNS = 70
"""From this width on, options and their sentences stand beside each other."""


def overview(summaries: Iterable[tuple[str, str]], version: str) -> str:
    """What `ftadvisor --help` prints; `summaries` has each command's name and sentence."""
    lines = [
        *_paragraph(
            f"ftadvisor {version}: which fine-tuning technique fits, and the memory, time and cost "
            "of it, before it is run."
        ),
        "",
        "Usage: ftadvisor COMMAND [options]",
        "",
        "Commands",
        *(row for name, summary in summaries for row in _row(name, summary, 12)),
        "",
        "Start here",
        *_examples(
            [
                (
                    "ftadvisor recommend --model llama3.1-8b --gpu rtx4090 --use-case chat",
                    "what should I do?",
                ),
                ("ftadvisor estimate --model llama-7b --gpu rtx3060", "what fits on this card"),
                (
                    "ftadvisor estimate --model llama3.1-8b --technique qlora",
                    "on which card it fits",
                ),
                ("ftadvisor fit --gpu rtx3060", "the largest model for it"),
                ("ftadvisor recommend --help", "every setting, and more examples"),
            ]
        ),
        "",
        *_paragraph(
            "Exit codes: 0 something fits, 1 nothing fits, 2 the question cannot be answered."
        ),
    ]
    return "\n".join(lines)


def terminal_help(command: Command) -> str:
    """What `ftadvisor COMMAND --help` prints."""
    lines = [
        *_command(f"Usage: ftadvisor {command.usage}", ""),
        "",
        *textwrap.wrap(command.summary, _width()),
    ]
    if command.details:
        for paragraph in command.details.split("\n\n"):
            lines += ["", *textwrap.wrap(paragraph, _width())]
    if command.arguments:
        lines += ["", "Arguments"]
        for argument in command.arguments:
            lines += _row(argument.metavar, argument.sentence, _OPTION_WIDTH)
    for group in command.groups:
        lines += ["", group.title]
        for option in group.options:
            lines += _row(option.usage, sentence(option), _OPTION_WIDTH)
    lines += ["", "Examples", *_examples(command.examples)]
    return "\n".join(lines)


def markdown_help(command: Command) -> str:
    """The command's section of docs/cli.md."""
    lines = [f"## ftadvisor {command.name}", "", f"    ftadvisor {command.usage}", ""]
    lines += textwrap.wrap(command.summary, WIDEST)
    if command.details:
        for paragraph in command.details.split("\n\n"):
            lines += ["", *textwrap.wrap(paragraph, WIDEST)]
    rows = [(argument.metavar, argument.sentence) for argument in command.arguments]
    if rows:
        lines += ["", *_markdown_table("argument", rows)]
    for group in command.groups:
        described = [(option.usage, sentence(option)) for option in group.options]
        lines += ["", f"**{group.title}**", "", *_markdown_table("option", described)]
    lines += ["", "```console"]
    for line, answer in command.examples:
        lines += [f"# {answer}", f"$ {line}"]
    return "\n".join([*lines, "```"])


def sentence(option: Option) -> str:
    """The option's sentence, with the values that it takes."""
    if not option.choices:
        return option.sentence
    return f"{option.sentence} One of: {', '.join(get_args(getattr(settings, option.choices)))}."


def _markdown_table(head: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f"| {head} | |"
    yield "|---|---|"
    for usage, words in rows:
        cells = (text.replace("|", r"\|") for text in (f"`{usage}`", words))
        yield f"| {' | '.join(cells)} |"


def _row(left: str, right: str, width: int) -> list[str]:
    """An entry of a two-column list; a long left side stands on a line of its own."""
    margin = " " * _MARGIN
    if _width() < _TWO_COLUMNS:
        hang = margin * 3
        wrapped = textwrap.wrap(right, max(1, _width() - len(hang)))
        return [*_command(margin + left, ""), *(hang + line for line in wrapped)]
    hang = " " * (width + _MARGIN)
    wrapped = textwrap.wrap(right, _width() - len(hang)) or [""]
    if len(left) + 2 > width:
        return [margin + left, *(hang + line for line in wrapped)]
    return [margin + left.ljust(width) + wrapped[0], *(hang + line for line in wrapped[1:])]


def _examples(examples: Iterable[tuple[str, str]]) -> Iterator[str]:
    for line, answer in examples:
        yield from textwrap.wrap(answer, _width(), initial_indent="  # ", subsequent_indent="  # ")
        yield from _command(f"  {line}", " \\")


def _paragraph(text: str) -> list[str]:
    return textwrap.wrap(text, _width())


def _command(line: str, end: str) -> list[str]:
    """A command line, not broken inside a word; `end` stands behind all lines but the last."""
    margin = line[: len(line) - len(line.lstrip())]
    lines = textwrap.wrap(
        line,
        _width() - len(end),
        subsequent_indent=f"{margin}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [*(part + end for part in lines[:-1]), lines[-1]]


def _width() -> int:
    return min(shutil.get_terminal_size((80, 24)).columns, WIDEST)
