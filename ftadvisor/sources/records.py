"""The user's own measurements: one append-only file in the user's data directory.

The rows are those of `data/measurements/FORMAT.md`, with the machine, the status and what was
predicted at the time besides. Every line is written at once, under a lock, so that processes may
write side by side; one that was killed leaves half a line at most, which the next one ends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

from ftadvisor.errors import DataFileError
from ftadvisor.sources.directories import data_home

NAME = "measurements.jsonl"
MACHINES = "machines.json"
_MOST_NAMED = 8


class Records(NamedTuple):
    """What the file holds."""

    path: Path
    rows: tuple[dict[str, Any], ...]
    problems: tuple[str, ...]
    """Lines that could not be read, one sentence each."""


def append_record(row: Mapping[str, Any]) -> Path:
    """Add one row. Raises DataFileError where the directory cannot be written."""
    path = data_home() / NAME
    line = (json.dumps(dict(row), separators=(",", ":")) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            _lock(handle)
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line
            os.write(handle, line)
        finally:
            os.close(handle)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def read_records(path: Path | None = None) -> Records:
    """All rows; a line that cannot be read is named, and the others are read all the same."""
    path = path or data_home() / NAME
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Records(path, (), ())
    except OSError as error:
        return Records(path, (), (f"{path.name} cannot be read: {error.strerror}",))
    rows: list[dict[str, Any]] = []
    bad: list[int] = []
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row: Any = None
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
        if isinstance(row, dict):
            rows.append(cast("dict[str, Any]", row))
        elif number == len(lines):
            problems.append(f"the last line of {path.name} is cut off: left out")
        else:
            bad.append(number)
    if bad:
        named = ", ".join(map(str, bad[:_MOST_NAMED])) + (" ..." if len(bad) > _MOST_NAMED else "")
        lines_are = f"line{'s' * (len(bad) > 1)} {named} of {path.name}"
        problems.append(f"{lines_are} cannot be read: left out")
    return Records(path, tuple(rows), tuple(problems))


def drop_records() -> tuple[Path, ...]:
    """Put measurements and probed machines aside under other names, which are returned; none: there
    are neither. Raises DataFileError where they cannot be moved."""
    there = [path for name in (NAME, MACHINES) if (path := data_home() / name).exists()]
    number = 1
    while any(_aside(path, number).exists() for path in there):
        number += 1
    moved: list[Path] = []
    for path in there:
        try:
            os.replace(path, _aside(path, number))
        except OSError as error:
            raise _unwritable(path, error) from error
        moved.append(_aside(path, number))
    return tuple(moved)


def _aside(path: Path, number: int) -> Path:
    return path.with_suffix(f".old{f'-{number}' * (number > 1)}{path.suffix}")


def keep_machine(machine: Mapping[str, Any]) -> None:
    """What a machine can do, by its id. Raises DataFileError where it cannot be written."""
    from ftadvisor.sources.text_files import replace_text

    path = data_home() / MACHINES
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two that probe at once would each write what it read before the other wrote.
        with (path.parent / f"{MACHINES}.lock").open("a") as lock:
            _lock(lock.fileno())
            found = {**kept_machines(), machine["id"]: dict(machine)}
            replace_text(path, json.dumps(found, indent=1) + "\n")
    except OSError as error:
        raise _unwritable(path, error) from error


def kept_machines() -> dict[str, dict[str, Any]]:
    """Machines that were probed, by id; a file that cannot be read holds none."""
    return read_machines()[0]


def read_machines() -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """Machines that were probed, by id, and what cannot be read, one sentence each."""
    try:
        found: Any = json.loads((data_home() / MACHINES).read_bytes())
    except FileNotFoundError:
        return {}, ()
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return {}, (f"{MACHINES} cannot be read: {_PROBE_AGAIN}",)
    rows = cast("dict[str, Any]", found)
    kept = {id_: row for id_, row in rows.items() if _is_machine(row)}
    odd = len(rows) - len(kept)
    said = f"{odd} of the machines in {MACHINES} cannot be read: {_PROBE_AGAIN}"
    return kept, (said,) if odd else ()


_PROBE_AGAIN = "left out until ftadvisor probe is run again"
_RATES = ("usable_bytes", "copy_bytes_per_second", "launch_seconds", "link_bytes_per_second")


def _is_machine(row: Any) -> bool:
    """Whether its rates, as far as it has any, are numbers above 0."""
    if not isinstance(row, dict):
        return False
    machine = cast("dict[str, Any]", row)
    flops: Any = machine.get("flops_per_second", {})
    if not isinstance(flops, dict):
        return False
    rates = [machine[name] for name in _RATES if machine.get(name) is not None]
    return all(
        isinstance(rate, int | float) and rate > 0
        for rate in (*rates, *cast("dict[str, Any]", flops).values())
    )


KEPT = (
    "id", "source", "grade", "framework", "model", "technique", "gpu", "gpu_as_published",
    "precision", "objective", "quantization", "quantization_group_size", "optimizer",
    "micro_batch_size", "gradient_accumulation_steps", "num_gpus", "max_length",
    "max_target_length", "sequence_fill", "longest_sequence_tokens", "mean_tokens_per_sample",
    "gradient_checkpointing", "attn_implementation", "strategy", "cpu_offload", "lora_r",
    "lora_alpha", "lora_dropout", "lora_target_modules", "peft_config", "settings", "packing",
    "memory_gib",
    "memory_metric", "memory_gib_reserved", "memory_gib_device", "oom", "micro_step_seconds",
    "step_seconds_spread", "host_launch_seconds", "versions", "method", "status", "machine",
    "num_hidden_layers", "date",
)  # fmt: skip
"""What an export holds: settings, figures, versions; no path, no host's name, no data."""


def exported(rows: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Rows that can be shared, and how many models of the user's own disk leave out."""
    shared: list[dict[str, Any]] = []
    local = 0
    for row in rows:
        if row.get("local_model") or _is_own(str(row.get("model", ""))):
            local += 1
            continue
        kept = {name: row[name] for name in KEPT if row.get(name) is not None}
        if "peft_config" in kept:
            kept["peft_config"] = _without_texts(kept["peft_config"])
        shared.append(kept)
    return shared, local


def _is_own(model: str) -> bool:
    """Whether it is on the user's disk, or by its name may be: `FtadvisorCallback` knows a
    directory by its last part only. What is public has an owner before a slash, or is known."""
    from ftadvisor.sources.models import catalogue_row

    return is_path(model) or ("/" not in model and catalogue_row(model) is None)


def _without_texts(options: Any) -> dict[str, Any]:
    """A technique's own options without what a person wrote: prompts, places, a tokenizer's."""
    if not isinstance(options, dict):
        return {}
    found = cast("dict[str, Any]", options)
    return {
        name: value
        for name, value in found.items()
        if not name.endswith(_PERSONAL) and "/" not in str(value) and "\\" not in str(value)
    }


_PERSONAL = ("_text", "_path", "_kwargs")
"""PEFT's prompt_tuning_init_text, tokenizer_name_or_path, tokenizer_kwargs."""


def is_path(model: str) -> bool:
    """Whether a model's name is a place on a disk: hub ids have one slash and no dots before it."""
    return model.startswith(("/", ".", "~", "\\")) or model.count("/") > 1 or ":" in model


def _lock(handle: int) -> None:
    # Windows has no fcntl; there a line is still one write to the end.
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)


def _unwritable(path: Path, error: OSError) -> DataFileError:
    return DataFileError(
        str(path), None, None, f"cannot be written: {error.strerror}",
        "FTADVISOR_HOME=DIR before the command, a directory that can be written",
    )  # fmt: skip
