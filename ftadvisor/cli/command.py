"""What a command is made of: the parser, the help and the documents read it from here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Option(NamedTuple):
    """One `--option`, or one argument without a name.

    `name` is the parameter's name in Python; the option is spelt with hyphens.
    """

    name: str
    kind: Callable[[str, str], object] | None
    """From (option, text) to a value; None: a switch, `--name` or `--no-name`."""
    metavar: str
    sentence: str
    choices: str = ""
    """The name in `schema.settings` of the Literal that lists the values."""
    bare: object = None
    """What the option means when no value follows; None: a value must follow."""
    many: bool = False
    """Takes several values."""
    also: tuple[str, ...] = ()
    """What other tools call it: understood in an error, not as an option."""
    short: str = ""
    """One letter: `-o`."""

    @property
    def flag(self) -> str:
        """`--lora-r`."""
        return "--" + self.name.replace("_", "-")

    @property
    def usage(self) -> str:
        """`--lora-r N`, as the help lists it."""
        if self.kind is None:
            return self.flag
        value = f"{self.metavar} ..." if self.many else self.metavar
        flag = f"-{self.short}, {self.flag}" if self.short else self.flag
        return f"{flag} [{value}]" if self.bare is not None else f"{flag} {value}"


class Group(NamedTuple):
    """Options under one heading of the help."""

    title: str
    options: tuple[Option, ...]


class Argument(NamedTuple):
    """A value that is known by its place, not by a name."""

    name: str
    metavar: str
    sentence: str
    required: bool = False
    choices: tuple[str, ...] = ()


class Command(NamedTuple):
    """One command: what it takes, what its help says, what it calls."""

    name: str
    summary: str
    usage: str
    arguments: tuple[Argument, ...]
    groups: tuple[Group, ...]
    examples: tuple[tuple[str, str], ...]
    """(command line, what it answers)."""
    run: Callable[[dict[str, Any]], int]
    """From what was given (no key for what was not) to the exit code."""
    details: str = ""

    @property
    def options(self) -> dict[str, Option]:
        """All options by parameter name."""
        return {option.name: option for group in self.groups for option in group.options}
