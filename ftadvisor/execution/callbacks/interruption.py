"""Ctrl-C and SIGTERM: the step is finished, a checkpoint written, the run ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ftadvisor.execution import stack
from ftadvisor.execution.journal import Journal

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TOGETHER = 5.0
"""Seconds. torchrun passes on to its processes what a terminal has sent to all of them: they get
one wish twice."""


class InterruptionCallback(stack.transformers.TrainerCallback):
    """Asks for the checkpoint and the end when a signal has come."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._trains = False
        self._name = ""
        self._when = 0.0

    @contextmanager
    def watching(self) -> Generator[None]:
        """Its handlers instead of the process's own, which are back afterwards."""
        if threading.current_thread() is not threading.main_thread():
            # Python hands signals to the main thread only.
            yield
            return
        before = {number: signal.signal(number, self._came) for number in SIGNALS}
        try:
            yield
        finally:
            self._trains = False
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def finishing(self) -> Generator[None]:
        """A report that is begun is written: torchrun sends SIGTERM to a process as soon as another
        one has failed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From here on there is something to save."""
        self._trains = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint between two steps is one that continues exactly."""
        if not self._asked(args):
            return
        control.should_save = control.should_training_stop = True
        if state.global_step < state.max_steps:
            name = self._name or "another process"
            self._journal.end(
                "interrupted", "interruption", f"ended by {name}; a checkpoint is written",
                state.global_step,
            )  # fmt: skip

    def trained(self) -> None:
        """The model is saved, so that nothing is lost where the rest is not done."""
        self._trains = False
        if self._name:
            raise KeyboardInterrupt(self._name)

    def _asked(self, args: Any) -> bool:
        """Of all processes, for they must end at the same step."""
        if args.world_size == 1:
            return bool(self._name)
        asked = stack.torch.tensor(int(bool(self._name)), device=args.device)
        stack.torch.distributed.all_reduce(asked)
        return bool(asked.item())

    def _came(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        now = time.monotonic()
        alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
        if self._name:
            if alone or now - self._when > TOGETHER:
                # At once, whatever runs: Python's own handler would wait for a library to return.
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self._name, self._when = name, now
        if not self._trains:
            raise KeyboardInterrupt(name)
        if os.environ.get("RANK", "0") != "0":
            # Of several processes the first one says it.
            return
        said = f"ftadvisor: {name}: a checkpoint is written after this step; again: ends at once.\n"
        # Not print: the stream may be in the middle of another line.
        with suppress(OSError):
            os.write(2, said.encode())
