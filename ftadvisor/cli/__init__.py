"""The command line: arguments in, one call of `api`, text and an exit code out."""

from ftadvisor.cli.entry import main

__all__ = ["main"]
