"""Which libraries run, and whether these versions of them were tried: nothing is imported."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from ftadvisor.errors import MissingExtraError

TESTED = {
    "torch": "2.13", "transformers": "5.23", "peft": "0.21", "trl": "1.16",
    "bitsandbytes": "0.50", "accelerate": "1.15",
}  # fmt: skip
"""The releases that the simulation was checked in: those of the `run` extra."""
COMMAND = "simulate"


class UntestedVersionWarning(UserWarning):
    """A library's version that the simulation was not checked in."""


@cache
def library_versions() -> dict[str, str]:
    """Installed versions by package. Raises MissingExtraError where one is missing."""
    try:
        return {name: version(name) for name in TESTED}
    except PackageNotFoundError as error:
        raise MissingExtraError(COMMAND, "run") from error


def untested(versions: dict[str, str]) -> tuple[str, ...]:
    """A sentence for all versions that were not tried; none: all were."""
    found = [
        f"{name} {versions[name]} (checked in {tested})"
        for name, tested in TESTED.items()
        if not versions[name].startswith(f"{tested}.") and versions[name] != tested
    ]
    if not found:
        return ()
    return (f"the simulation was not checked in these versions: {', '.join(found)}",)


@cache
def warn_of_untested(sentences: tuple[str, ...]) -> None:
    """Warn once a process."""
    for sentence in sentences:
        warnings.warn(f"{sentence}.", UntestedVersionWarning, stacklevel=2)
