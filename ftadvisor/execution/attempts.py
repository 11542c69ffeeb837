"""A run that is tried again in smaller pieces, and how each way that it can end is told."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from ftadvisor.errors import FtadvisorError, first_line
from ftadvisor.execution.device import Device
from ftadvisor.execution.journal import EndedError, Journal
from ftadvisor.execution.launching import hand_over, ran_out
from ftadvisor.execution.out_of_memory import free_memory, halved, is_out_of_memory
from ftadvisor.schema.report import Event
from ftadvisor.schema.settings import Settings

WaysToFit = Callable[[str], Sequence[str]]
"""From a GPU as its driver calls it to changes by which the run needs less memory."""
ON_A_CPU = ("a shorter --max-length", "--gradient-checkpointing full", "--technique qlora")


def until_it_fits(
    attempt: Callable[[Settings], None],
    settings: Settings,
    device: Device,
    journal: Journal,
    ways: WaysToFit,
    has_begun: Callable[[], bool],
) -> None:
    """Attempt it; after each lack of memory again, with micro-batches of half the size.

    Of several processes each one begins again: the process that started them is told, and has told
    them what ran out before. Raises EndedError then, and where there is nothing to halve, or the
    model alone is too large.
    """
    for event in ran_out():
        journal.events.append(event)
        settings = halved(settings) or settings
    while True:
        try:
            return attempt(settings)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            step, smaller = journal.step, halved(settings)
            said = first_line(error)
        # Only here, without the error, are the tensors of its frames free.
        free_memory()
        if smaller is None or not has_begun():
            raise EndedError("out_of_memory", _what_would_fit(settings, device, said, ways))
        what = (
            f"out of memory after step {step} with micro_batch_size {settings.micro_batch_size}"
            f" ({said}): goes on with micro_batch_size {smaller.micro_batch_size} and"
            f" gradient_accumulation_steps {smaller.gradient_accumulation_steps}, which is the"
            " same batch"
        )
        event = Event("out_of_memory", step, what)
        if device.world_size > 1:
            # They cannot agree on a smaller batch: the others wait in the middle of their step.
            if hand_over(FtadvisorError(what), "out_of_memory", event):
                raise EndedError("out_of_memory", what)
            raise EndedError("out_of_memory", _what_would_fit(settings, device, said, ways))
        journal.events.append(event)
        settings = smaller


@contextmanager
def told(journal: Journal, has_begun: Callable[[], bool]) -> Generator[None]:
    """Whatever ends the work is in the journal; refusals before it has begun are still raised."""
    try:
        yield
    except EndedError as ended:
        journal.end(ended.status, ended.status, ended.what, journal.step)
    except (KeyboardInterrupt, FtadvisorError) as error:
        if not has_begun():
            raise
        interrupted = isinstance(error, KeyboardInterrupt)
        what = "ended before the training or after it" if interrupted else str(error)
        status = "interrupted" if interrupted else "failed"
        journal.end(status, status, what, journal.step)
    except Exception as error:
        if os.environ.get("FTADVISOR_DEBUG"):
            traceback.print_exc()
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(frame.filename)} line {frame.lineno}"
        what = f"{type(error).__name__}: {first_line(error)} ({place})"
        if isinstance(error, OSError) and error.filename:
            what = f"{error.filename} cannot be used: {error.strerror}"
        journal.end("failed", "failed", what, journal.step)


def _what_would_fit(settings: Settings, device: Device, said: str, ways: WaysToFit) -> str:
    changes = ON_A_CPU if device.is_cpu else ways(device.name)
    how = f"; what needs less: {', '.join(changes)}" if changes else ""
    return f"out of memory with micro_batch_size {settings.micro_batch_size} ({said}){how}"
