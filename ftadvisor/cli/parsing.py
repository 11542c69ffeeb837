"""Words to values by a Command's description; what cannot be understood names its near misses."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NoReturn

from ftadvisor.cli.command import Command, Option
from ftadvisor.errors import InvalidSettingError, UnknownNameError, quoted


def parse(command: Command, words: Iterable[str]) -> dict[str, Any]:
    """What was given, by parameter name; nothing for what was not.

    Raises InvalidSettingError for a value of the wrong type, UnknownNameError for an option that
    does not exist.
    """
    namespace, rest = _parser(command).parse_known_args([_hyphens(word) for word in words])
    if rest:
        raise _unknown(command, rest[0])
    given = {name: value for name, value in vars(namespace).items() if value is not None}
    for option in command.options.values():
        if option.many and option.name in given:
            joined: list[str] = given[option.name]
            given[option.name] = [part for word in joined for part in word.split(",") if part]
    for argument in command.arguments:
        if argument.required and argument.name not in given:
            raise InvalidSettingError(
                f"{argument.metavar} is missing: {command.usage}.",
                [f"ftadvisor {command.name} {word}" for word in argument.choices],
            )
        if argument.choices and given.get(argument.name, "") not in ("", *argument.choices):
            raise UnknownNameError(
                f"{command.name} command",
                given[argument.name],
                argument.choices,
                f"ftadvisor {command.name} --help",
            )
    return given


def option_for(options: dict[str, Option], name: str) -> Option | None:
    """The option that people who write `name` are looking for: other tools' spellings count."""
    bare = name.lstrip("-").replace("-", "_").lower()
    for option in options.values():
        if bare == option.name or bare in option.also:
            return option
    return None


def unknown_option(command: Command, name: str, spell: Callable[[Option], str]) -> UnknownNameError:
    """The error for an option that `command` has not, spelt as `spell` spells the suggestions."""
    error = UnknownNameError(
        "option", name, [spell(o) for o in command.options.values()], _help(command)
    )
    meant = option_for(command.options, name)
    if meant:
        error.suggestions = tuple(dict.fromkeys([spell(meant), *error.suggestions]))
    return error


class _Parser(argparse.ArgumentParser):
    """argparse with our errors: no usage lines, no exit."""

    def error(self, message: str) -> NoReturn:
        raise InvalidSettingError(f"{message[:1].upper()}{message[1:]}.", [self.epilog or ""])


_NEVER_PRINTED = partial(argparse.HelpFormatter, width=80)
"""argparse formats every option once to check it; without a width it asks the terminal for its."""


def _parser(command: Command) -> _Parser:
    parser = _Parser(
        add_help=False,
        allow_abbrev=False,
        epilog=_help(command),
        formatter_class=_NEVER_PRINTED,
    )
    for argument in command.arguments:
        parser.add_argument(argument.name, nargs="?", metavar=argument.metavar)
    for option in command.options.values():
        if option.kind is None:
            parser.add_argument(option.flag, dest=option.name, action=_switch(option), default=None)
            continue
        nargs = "+" if option.many else "?" if option.bare is not None else None
        short = [f"-{option.short}"] if option.short else []
        parser.add_argument(
            *short,
            option.flag,
            dest=option.name,
            type=_reader(option),
            nargs=nargs,
            const=option.bare,
            metavar=option.metavar,
        )
    return parser


def _switch(option: Option) -> Any:
    return "store_true" if option.name == "json" else argparse.BooleanOptionalAction


def _reader(option: Option) -> Callable[[str], object]:
    def read(word: str) -> object:
        assert option.kind is not None
        return option.kind(option.flag, word)

    return read


def _hyphens(word: str) -> str:
    """`--lora_r=8` as `--lora-r=8`: the parameter's own spelling is understood too."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _unknown(command: Command, word: str) -> InvalidSettingError | UnknownNameError:
    if word.startswith("-"):
        return unknown_option(command, word.partition("=")[0], lambda option: option.flag)
    return InvalidSettingError(f"{quoted(word)} is one word too many.", [_help(command)])


def _help(command: Command) -> str:
    return f"ftadvisor {command.name} --help"
