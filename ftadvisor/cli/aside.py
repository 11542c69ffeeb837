"""What is said beside a command's answer, to which standard output belongs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def said_aside() -> Generator[None]:
    """One line on standard error for each of ftadvisor's own warnings, after the work; what
    libraries and a user's own functions print meanwhile goes there too.
    """
    with redirect_stdout(sys.stderr), warnings.catch_warnings(record=True) as caught:
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
