"""The hardware that a run finds."""

from __future__ import annotations

import os
from typing import NamedTuple

from ftadvisor.execution import stack


class Device(NamedTuple):
    """Where this process trains."""

    kind: str
    """cuda or cpu."""
    name: str
    """As the driver calls it; of a CPU: cpu."""
    memory_bytes: int
    """Of one GPU; of the machine, what nobody has taken."""
    place: str
    """This process's device as torch names it: cuda:0, cpu."""
    world_size: int
    """Processes that train together, one a GPU."""
    rank: int = 0
    """This process's number among them; the first one writes and prints."""

    @property
    def is_cpu(self) -> bool:
        """Whether no GPU was found."""
        return self.kind == "cpu"


def processor() -> Device:
    """The CPU, whatever else is here."""
    return Device("cpu", "cpu", stack.psutil.virtual_memory().available, "cpu", 1)


def free_host_bytes() -> int:
    """What the machine has left, swap included."""
    return stack.psutil.virtual_memory().available + stack.psutil.swap_memory().free


def find_device() -> Device:
    """What is here. torchrun tells each process its place (RANK, LOCAL_RANK, WORLD_SIZE)."""
    world_size, rank = (int(os.environ.get(n, d)) for n, d in (("WORLD_SIZE", "1"), ("RANK", "0")))
    if not stack.torch.cuda.is_available():
        return processor()._replace(world_size=world_size, rank=rank)
    index = int(os.environ.get("LOCAL_RANK", "0"))
    found = stack.torch.cuda.get_device_properties(index)
    return Device("cuda", found.name, found.total_memory, f"cuda:{index}", world_size, rank)
