"""log.jsonl: what the trainer logs, one object a line, as it comes."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from ftadvisor.execution import stack
from ftadvisor.execution.journal import Journal


class LogCallback(stack.transformers.TrainerCallback):
    """Writes each logged row to the file, and training rows to the journal.

    Of a run that goes on, what was logged before its first step is in the file already.
    """

    def __init__(self, path: Path, journal: Journal, *, resumed: bool = False) -> None:
        self._path = path
        self._journal = journal
        self._file: Any = None
        self._waits = resumed
        self._start = time.monotonic() - journal.seconds_before

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """New rows from here on. To open the file for each would take most of a row's time."""
        self._waits = False
        if state.is_world_process_zero:
            # Each is written at once, and what a full disk refuses is not tried again at the end.
            self._file = self._path.open("ab", buffering=0)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """One row: the step, the seconds since the start, the trainer's own names."""
        if not logs or self._waits:
            return
        row = {"step": state.global_step, **{k: _plain(v) for k, v in logs.items()}}
        if "loss" in row:
            self._journal.losses.append(row)
        if not state.is_world_process_zero:
            return
        seconds = round(time.monotonic() - self._start, 3)
        line = (json.dumps({"seconds": seconds, **row}) + "\n").encode()
        if self._file is not None:
            self._file.write(line)
            return
        with self._path.open("ab") as file:
            file.write(line)

    def close(self, state: Any) -> None:
        """Training has ended."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _plain(value: Any) -> Any:
    """Numbers of torch's and texts that are numbers as Python's; None: no number that JSON has."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else None
