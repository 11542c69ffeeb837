"""Whether a run can be put into a directory: looked at before anything is made or overwritten."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ftadvisor.errors import InvalidSettingError, quoted
from ftadvisor.execution.resuming import ANOTHER, REPORT, is_done, resume_command
from ftadvisor.sources.plans import PLAN_FILE


def _nobody(_: list[str]) -> bool:
    return False


def check_place(place: Path, is_ours: Callable[[list[str]], bool] = _nobody) -> None:
    """Raise InvalidSettingError unless the directory is new or empty, and can be written.

    `is_ours`: whether what it holds, by name, belongs to the run that is to come.
    """
    named = f"output_dir {quoted(str(place))}"
    try:
        there = next(path for path in (place, *place.absolute().parents) if path.exists())
        if not there.is_dir():
            what = (
                "is a file" if there == place else f"lies in {quoted(str(there))}, which is a file"
            )
            raise InvalidSettingError(f"{named} {what}.", [ANOTHER])
        holds = [path.name for path in place.iterdir()] if there == place else []
        if holds and not is_ours(holds):
            raise _taken(named, place, holds)
        writable = os.access(there, os.W_OK)
    except OSError as error:
        raise cannot_be_written(place, error.strerror or str(error)) from None
    if not writable:
        raise cannot_be_written(place, "permission denied")


def cannot_be_written(place: Path, why: str) -> InvalidSettingError:
    """The error for a directory that the system refuses."""
    return InvalidSettingError(
        f"output_dir {quoted(str(place))} cannot be written: {why}.",
        ["a place that can be written"],
    )


def _taken(named: str, place: Path, holds: list[str]) -> InvalidSettingError:
    what = "another run" if {PLAN_FILE, REPORT} & {*holds} else "other files"
    goes_on = what == "another run" and not is_done(place)
    return InvalidSettingError(
        f"{named} holds {what}: nothing is overwritten.",
        [ANOTHER, *([resume_command(place)] if goes_on else [])],
    )
