"""Warnings of the library, as a command says them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def warnings_to_stderr() -> Generator[None]:
    """One line on standard error for each of ftadvisor's own warnings, after the work."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if issubclass(warning.category, DeprecationWarning | PendingDeprecationWarning):
            # Between libraries, and for who writes them.
            continue
        if warning.category.__module__.startswith("ftadvisor."):
            print(f"ftadvisor: {warning.message}", file=sys.stderr)
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
