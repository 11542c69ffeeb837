"""Questions by the thousand: one JSON object a line in, one a line out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

from ftadvisor.cli.command import Command
from ftadvisor.cli.parsing import unknown_option
from ftadvisor.errors import FtadvisorError, InvalidSettingError, quoted
from ftadvisor.schema.calibration import Calibration

BAD_LINE = 2
_EXAMPLE = '{"model": "llama-7b", "gpu": "rtx3060"}'


def answer_lines(
    file: str,
    given: dict[str, Any],
    command: Command,
    out: IO[str],
    calibration: Calibration | None = None,
) -> int:
    """Answer each line of `file` with one line; `given` holds where a line says nothing.

    A line that cannot be answered gets an `{"error": ...}` line that names it, and the exit code is
    then 2. Else it is 0 when something fits, 1 when nothing does.
    """
    from ftadvisor import api
    from ftadvisor.render.serial import as_line

    bad = asked = 0
    fits = False
    for number, line in _lines(file):
        asked += 1
        try:
            question = _question(line, given, command)
            own = calibration if question.pop("calibration", True) else None
            estimate = api.estimate(**question, calibration=own)
        except Exception as error:
            # One line in a thousand is no reason to lose the others.
            bad += 1
            print(as_line(_error(error, number)), file=out)
            continue
        fits = fits or estimate.verdict != "does_not_fit"
        print(as_line(estimate), file=out)
    if not asked:
        raise InvalidSettingError(f"{_name(file)} holds no question.", [_EXAMPLE])
    if bad:
        lines = "line" if bad == 1 else "lines"
        print(f"ftadvisor: {bad} {lines} of {_name(file)} could not be answered.", file=sys.stderr)
        return BAD_LINE
    return 0 if fits else 1


def _name(file: str) -> str:
    return "standard input" if file == "-" else quoted(file)


def _lines(file: str) -> Iterator[tuple[int, bytes]]:
    """The lines with something on them, and their numbers from 1."""
    with ExitStack() as stack:
        try:
            source = sys.stdin.buffer if file == "-" else stack.enter_context(Path(file).open("rb"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidSettingError(f"{quoted(file)} cannot be read: {reason}.") from None
        for number, line in enumerate(source, start=1):
            if line.strip():
                yield number, line


def _question(line: bytes, given: dict[str, Any], command: Command) -> dict[str, Any]:
    """What one line asks, `given` where it says nothing; null says nothing."""
    try:
        found: Any = json.loads(line)
    except json.JSONDecodeError as error:
        # Its own "line 1" is not the line of the file.
        problem = f"not JSON: {error.msg} at character {error.pos + 1}."
        raise InvalidSettingError(problem, [_EXAMPLE]) from None
    except (ValueError, RecursionError) as error:
        raise InvalidSettingError(f"not JSON: {error}.", [_EXAMPLE]) from None
    if not isinstance(found, dict):
        raise InvalidSettingError("not a JSON object.", [_EXAMPLE])
    question = cast("dict[str, Any]", found)
    for name in question:
        if name == "json":
            raise InvalidSettingError(
                "json is no key of a question: every answer of a file is JSON.",
                [_EXAMPLE],
            )
        if name not in command.options:
            raise unknown_option(command, name, lambda option: option.name)
    said = {name: value for name, value in question.items() if value is not None}
    if "model" not in {**given, **said}:
        problem = "is null" if "model" in question else "is missing"
        raise InvalidSettingError(f"model {problem}.", ['"model": "llama-7b"'])
    return {**given, **said}


def _error(error: Exception, number: int) -> dict[str, dict[str, object]]:
    if isinstance(error, FtadvisorError):
        record = error.as_dict()
    else:
        what = f"a fault of ftadvisor: {type(error).__name__}: {error}"
        record: dict[str, dict[str, object]] = {
            "error": {"kind": "fault", "message": what, "suggestions": []}
        }
    record["error"]["message"] = f"line {number}: {record['error']['message']}"
    record["error"]["line"] = number
    return record
