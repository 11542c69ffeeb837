"""What a machine's GPUs exchange with each other: all-reduce and all-gather, one process each.

The processes are started as programs of their own: multiprocessing would run its caller's script
again in each of them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ftadvisor.execution import stack
from ftadvisor.units import MIB

SIZES_MIB = (16, 256)
WARM_UP, TIMED = 3, 7
PATIENCE_SECONDS = 120.0
WORKS = {"all_reduce": 2.0, "all_gather": 1.0}
"""How often each rank sends the whole, less its own part (as `estimation.time` counts it: a
reduction is a scatter and a gather)."""
FAILURES = (OSError, subprocess.SubprocessError, ValueError)


def collectives(
    world: int, *, backend: str = "nccl", sizes_mib: Sequence[int] = SIZES_MIB
) -> list[dict[str, Any]]:
    """Achieved bytes per second of one rank in one direction, by operation and size.

    Raises OSError, SubprocessError or ValueError where the processes cannot do it.
    """
    with TemporaryDirectory() as folder:
        words = [sys.executable, "-m", __name__, backend, str(world), str(Path(folder) / "store")]
        sizes = [str(mib) for mib in sizes_mib]
        started: list[subprocess.Popen[str]] = []
        try:
            for rank in range(world):
                one = subprocess.Popen(
                    [*words, str(rank), *sizes],
                    stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
                started.append(one)
            first = started[0].communicate(timeout=PATIENCE_SECONDS)[0]
            failed = [one for one in started if one.wait(timeout=PATIENCE_SECONDS)]
        finally:
            for one in started:
                one.kill()
                one.communicate()
    if failed:
        raise ValueError(f"{backend} failed in {len(failed)} of {world} processes")
    return json.loads(first)


def link_bytes_per_second(rows: Sequence[dict[str, Any]]) -> float:
    """The slower operation at the largest size."""
    largest = max(row["mib"] for row in rows)
    return min(row["bytes_per_second"] for row in rows if row["mib"] == largest)


def main(words: Sequence[str]) -> None:
    """One rank; the first one prints what it measured."""
    backend, world, store, rank = words[0], int(words[1]), words[2], int(words[3])
    distributed = stack.torch.distributed
    place = "cpu"
    if backend == "nccl":
        place = f"cuda:{rank}"
        stack.torch.cuda.set_device(place)
    distributed.init_process_group(
        backend, init_method=f"file://{store}", rank=rank, world_size=world,
        timeout=timedelta(seconds=PATIENCE_SECONDS / 2),
    )  # fmt: skip
    rows = [_row(what, int(mib), world, place) for mib in words[4:] for what in WORKS]
    if rank == 0:
        sys.stdout.write(json.dumps(rows))
    distributed.destroy_process_group()


def _row(what: str, mib: int, world: int, place: str) -> dict[str, Any]:
    torch = stack.torch
    part = torch.zeros(mib * MIB // 2 // world, dtype=torch.bfloat16, device=place)
    whole = torch.zeros(part.numel() * world, dtype=torch.bfloat16, device=place)
    works: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: torch.distributed.all_reduce(whole),
        "all_gather": lambda: torch.distributed.all_gather_into_tensor(whole, part),
    }
    seconds = _seconds(works[what], place)
    sent = WORKS[what] * whole.nbytes * (world - 1) / world
    return {"what": what, "mib": mib, "gpus": world, "bytes_per_second": sent / seconds}


def _seconds(work: Callable[[], Any], place: str) -> float:
    """Median time of one call that all ranks make together."""
    times: list[float] = []
    for _ in range(WARM_UP + TIMED):
        stack.torch.distributed.barrier()
        _wait(place)
        start = time.perf_counter()
        work()
        _wait(place)
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def _wait(place: str) -> None:
    if place != "cpu":
        stack.torch.cuda.synchronize(place)


if __name__ == "__main__":
    # A launcher's own variables would say other ranks.
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    main(sys.argv[1:])
