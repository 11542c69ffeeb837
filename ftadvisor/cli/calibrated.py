"""What a command takes of the user's own measurements, and what it says of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftadvisor.schema.calibration import Calibration


def own_calibration(gpus: Iterable[str] | None = None) -> Calibration | None:
    """The user's own where it speaks of one of the GPUs (None: of any), and on standard error what
    is wrong with it."""
    from ftadvisor.api.calibrating import load_calibration, speaks_of

    found = load_calibration()
    if found is None or (gpus is not None and not any(speaks_of(found, gpu) for gpu in gpus)):
        return None
    for said in found.warnings:
        print(f"ftadvisor: {said}", file=sys.stderr)
    return found
