"""What this machine's GPU does at its best, as `ftadvisor probe` measures it."""

from __future__ import annotations

from typing import Any

from ftadvisor.execution.device import find_device
from ftadvisor.execution.probing.machine import probe_machine


def machine_rows() -> list[dict[str, Any]]:
    """One row; nothing but its name on a machine without a GPU."""
    device = find_device()
    return [{"device": "cpu"} if device.is_cpu else probe_machine(device)]
