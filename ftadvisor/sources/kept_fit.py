"""The fit of the user's own measurements, kept beside them: a fit costs a start-up.

What is kept says what it follows from. Where anything of that has changed it counts for nothing, so
that it is only ever faster, never different.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from ftadvisor.schema.calibration import Calibration
from ftadvisor.sources.data_files import data_dir
from ftadvisor.sources.directories import data_home
from ftadvisor.sources.records import MACHINES, NAME

FILE = "calibration.json"
RECORDS = (".dist-info", ".egg-info")
SHIPPED = ("coefficients/memory.json", "coefficients/time.json", "coefficients/cpu.json")
ROOMS = ("api", "calibration", "configuration", "estimation", "schema", "sources")
"""Of the package, whose code a fit runs."""


def origin() -> str:
    """A digest of all that a fit follows from: the measurements, the machines that were probed,
    the shipped numbers, ftadvisor's version and code, this machine, and what is installed on it."""
    digest = sha256()
    own = [data_home() / name for name in (NAME, MACHINES)]
    for path in (*own, *(data_dir() / name for name in SHIPPED)):
        content = b""
        with suppress(OSError):
            content = path.read_bytes()
        digest.update(b"%d:" % len(content) + content)
    here = (platform.node(), platform.machine(), os.cpu_count())
    version = str(import_module("ftadvisor").__version__)
    digest.update(json.dumps([version, here, list(_installed()), sorted(_program())]).encode())
    return digest.hexdigest()


def _installed() -> Iterator[str]:
    """Installed libraries with their versions, by the names of their records: to read the records
    as `importlib.metadata` does costs a tenth of a command."""
    for place in sys.path:
        with suppress(OSError):
            names = os.listdir(place) if place else []
            yield from sorted(name for name in names if name.endswith(RECORDS))


def _program() -> Iterator[tuple[str, int, int]]:
    """The code and the catalogues by size and date, for they change between versions: to read them
    costs ten times as much."""
    package = Path(__file__).parent.parent
    places = [str(data_dir()), *(str(package / room) for room in ROOMS)]
    while places:
        with suppress(OSError), os.scandir(places.pop()) as entries:
            for entry in entries:
                if entry.name.endswith((".py", ".json")):
                    state = entry.stat()
                    yield entry.path, state.st_size, state.st_mtime_ns
                elif entry.name != "__pycache__" and entry.is_dir():
                    places.append(entry.path)


def kept_fit(of: str) -> Calibration | None:
    """The fit that follows from `of`; None: none was kept, or none that can be read."""
    try:
        found: Any = json.loads((data_home() / FILE).read_bytes())
        if found["origin"] != of:
            return None
        return Calibration.from_dict(cast("dict[str, Any]", found["calibration"]))
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None


def keep_fit(of: str, fit: Calibration) -> None:
    """Keep it, where the directory can be written."""
    from ftadvisor.sources.text_files import replace_text

    with suppress(OSError):
        path: Path = data_home() / FILE
        replace_text(path, json.dumps({"origin": of, "calibration": fit.as_dict()}) + "\n")


def drop_fit() -> Path | None:
    """Remove what was kept: it is made again when it is asked for. None: nothing was."""
    path = data_home() / FILE
    try:
        path.unlink()
    except OSError:
        # Without what it follows from it counts for nothing.
        return None
    return path
