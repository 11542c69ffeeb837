"""Where ftadvisor keeps what is the user's own."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """FTADVISOR_HOME, else ftadvisor's own directory in the user's cache."""
    return _own_directory("XDG_CACHE_HOME", "~/.cache")


def data_home() -> Path:
    """FTADVISOR_HOME, else ftadvisor's own directory in the user's data."""
    return _own_directory("XDG_DATA_HOME", "~/.local/share")


def _own_directory(variable: str, usual: str) -> Path:
    """FTADVISOR_HOME, else ftadvisor's part of what that variable of the XDG standard names."""
    given = os.environ.get("FTADVISOR_HOME")
    if given:
        return Path(os.path.expanduser(given))
    return Path(os.path.expanduser(os.environ.get(variable) or usual)) / "ftadvisor"
