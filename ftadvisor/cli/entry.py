"""`ftadvisor COMMAND ...`: finds the command, runs it, turns what happens into an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from ftadvisor import __version__
from ftadvisor.cli.command import Command
from ftadvisor.errors import FtadvisorError, UnknownNameError

BAD_INPUT = 2
FAULT = 70
"""EX_SOFTWARE of sysexits.h: something that ftadvisor did not foresee."""
OUTPUT_LOST = 74
"""EX_IOERR: what was to be printed could not be."""
STOPPED = 130
READER_GONE = 141
"""What a shell reports for a process that SIGINT or SIGPIPE has ended: 128 + 2, 128 + 13."""

COMMANDS = {
    "recommend": "ftadvisor.cli.recommend",
    "estimate": "ftadvisor.cli.estimate",
    "simulate": "ftadvisor.cli.simulate",
    "run": "ftadvisor.cli.run",
    "probe": "ftadvisor.cli.probe",
    "benchmark": "ftadvisor.cli.benchmark",
    "calibration": "ftadvisor.cli.calibration",
    "measurements": "ftadvisor.cli.measurements",
    "eval": "ftadvisor.cli.evaluate",
    "fit": "ftadvisor.cli.fit",
    "compare": "ftadvisor.cli.compare",
    "list": "ftadvisor.cli.listing",
    "show": "ftadvisor.cli.show",
    "rules": "ftadvisor.cli.rules",
    "explain": "ftadvisor.cli.explain",
    "validate": "ftadvisor.cli.validate",
    "selfcheck": "ftadvisor.cli.selfcheck",
}
"""Command to module: only the one that runs is imported."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; nothing is raised."""
    words = list(sys.argv[1:] if argv is None else argv)
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        # print would take standard output instead.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        return _unwritten("standard output is closed")
    for stream in (sys.stdout, sys.stderr):
        # What an encoding lacks is printed as "?", not as a traceback.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="replace")
    try:
        return _answer(words)
    except KeyboardInterrupt:
        return STOPPED
    except BrokenPipeError:
        _drop_output()
        return READER_GONE
    except OSError as error:
        _drop_output()
        return _unwritten(error.strerror or str(error))


def load(name: str) -> Command:
    """The description of the command of that name. Raises UnknownNameError with near misses."""
    if name not in COMMANDS:
        raise UnknownNameError("command", name, COMMANDS, "ftadvisor --help")
    command: Command = import_module(COMMANDS[name]).COMMAND
    return command


def _answer(words: list[str]) -> int:
    try:
        code = _run(words)
    except FtadvisorError as error:
        code = _refuse(error.as_dict(), str(error), words)
    except Exception as error:
        # A file that was opened has a name; output has none.
        if isinstance(error, OSError) and error.filename is None:
            raise
        code = _confess(error, words)
    sys.stdout.flush()
    return code


def _unwritten(reason: str) -> int:
    print(f"ftadvisor: the output cannot be written: {reason}.", file=sys.stderr)
    return OUTPUT_LOST


def _drop_output() -> None:
    """The interpreter flushes once more when it ends, and would complain once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        return _help(words[1:])
    if words[0] in ("-V", "--version", "version"):
        print(f"ftadvisor {__version__}")
        return 0
    command = load(words[0])
    if "-h" in words or "--help" in words:
        return _help([command.name])
    from ftadvisor.cli.parsing import parse

    return command.run(parse(command, words[1:]))


def _help(words: list[str]) -> int:
    from ftadvisor.cli.help_text import overview, terminal_help

    if words and not words[0].startswith("-"):
        print(terminal_help(load(words[0])))
    else:
        print(overview([(name, load(name).summary) for name in COMMANDS], __version__))
    return 0


def _refuse(record: Mapping[str, Mapping[str, object]], message: str, words: list[str]) -> int:
    if "--json" in words:
        from ftadvisor.render.serial import as_json

        print(as_json(record))
    else:
        print(f"ftadvisor: {message}", file=sys.stderr)
    return BAD_INPUT


def _confess(error: Exception, words: list[str]) -> int:
    """A fault of ours: say so on one line; FTADVISOR_DEBUG shows where."""
    if os.environ.get("FTADVISOR_DEBUG"):
        import traceback

        traceback.print_exc()
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    message = f"a fault of ftadvisor, not of yours: {what}."
    hint = "FTADVISOR_DEBUG=1 shows where; please report it with the command."
    record = {"error": {"kind": "fault", "message": message, "suggestions": [hint]}}
    _refuse(record, f"{message} {hint}", words)
    return FAULT
