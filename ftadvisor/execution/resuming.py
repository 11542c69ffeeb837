"""Whether a directory holds the run that is asked for, and where that run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from ftadvisor.errors import InvalidSettingError, quoted
from ftadvisor.execution import checkpoints
from ftadvisor.execution.examples import Examples
from ftadvisor.execution.journal import Journal
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.report import Event
from ftadvisor.schema.run import RunSettings
from ftadvisor.sources.text_files import replace_text

CHECKPOINTS, RUN, LOG, REPORT = "checkpoints", "run.json", "log.jsonl", "report.json"
SAME_RUN = ("max_steps", "eval_dataset", "eval_share", "reward_model", "reward_function")
"""Settings of a run that change what it learns, or how its learning rate falls."""
AS_BEFORE = ("eval_answers", "eval_steps", "save_steps", "report_to", "merge")
"""Settings that a run goes on with where it is not told others."""
SAME_PLAN = ("model", "technique", "objective", "hardware", "dataset", "settings", "seed")
"""The rest of a plan follows from these."""
ANOTHER = "--output-dir with another name"


def write_identity(plan: Plan, run: RunSettings, examples: Examples) -> None:
    """What `--resume` compares. Raises OSError."""
    folder = Path(run.output_dir) / CHECKPOINTS
    folder.mkdir(parents=True, exist_ok=True)
    others = {name: getattr(run, name) for name in AS_BEFORE}
    content = {**_identity(plan, run, examples), **others}
    replace_text(folder / RUN, json.dumps(content, indent=2) + "\n")


def stored_run(output_dir: Path) -> dict[str, Any]:
    """The settings that an earlier run in the directory was given; empty: there is none."""
    found = _read(output_dir / CHECKPOINTS / RUN)
    named = (*SAME_RUN, *AS_BEFORE)
    return {name: found[name] for name in named if found.get(name) is not None}


def unplanned(run: RunSettings) -> dict[str, object]:
    """What was said of the run beside its plan that changes what it learns."""
    usual = {field.name: field.default for field in fields(run)}
    return {n: value for n in SAME_RUN if (value := getattr(run, n)) != usual[n]}


def check_same(plan: Plan, run: RunSettings, examples: Examples) -> None:
    """Raise InvalidSettingError where the directory holds no run, another, or one that is done."""
    place = Path(run.output_dir)
    named = f"output_dir {quoted(str(place))}"
    theirs = _read(place / CHECKPOINTS / RUN)
    if not theirs:
        raise InvalidSettingError(
            f"{named} holds no run that could be continued.", ["without --resume"]
        )
    for name, value in _identity(plan, run, examples).items():
        if value == theirs.get(name):
            continue
        other = "other data" if name == "data" else _difference(name, theirs.get(name), value)
        raise InvalidSettingError(
            f"{named} holds another run, which cannot be continued as this one: {other}.",
            [resume_command(place), ANOTHER],
        )
    if is_done(place):
        raise InvalidSettingError(f"{named} holds a run that is done.", [ANOTHER])


def is_done(output_dir: Path) -> bool:
    """Whether the directory's run has ended as it should."""
    return _read(output_dir / REPORT).get("status") == "done"


def resume_command(output_dir: str | Path) -> str:
    """What continues the run of a directory."""
    return f"ftadvisor run --resume --output-dir {shlex.quote(str(output_dir))}"


def last_checkpoint(output_dir: Path, journal: Journal) -> Path | None:
    """Where the run goes on; the log and the journal forget the losses that came after it.

    What an earlier process told in its report stays told.

    None: from the start.
    """
    folder = output_dir / CHECKPOINTS
    # Of several processes the first one writes.
    first = os.environ.get("RANK", "0") == "0"
    if first:
        checkpoints.clear_unfinished(folder)
    found = checkpoints.finished(folder)
    last = found[-1] if found else None
    rows = [row for row in read_log(output_dir / LOG) if last and _is_kept(row, last)]
    journal.earlier[:] = _events(_read(output_dir / REPORT).get("events"))
    journal.losses[:] = [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in rows
        if "loss" in row
    ]
    journal.seconds_before = max((row.get("seconds", 0.0) for row in rows), default=0.0)
    if first and (output_dir / LOG).exists():
        replace_text(output_dir / LOG, "".join(json.dumps(row) + "\n" for row in rows))
    return last


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of log.jsonl; a last line that a killed process left unfinished is none."""
    rows: list[dict[str, Any]] = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            row: Any = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(cast("dict[str, Any]", row))
    return rows


def _is_kept(row: dict[str, Any], checkpoint: Path) -> bool:
    # What ends a run is said again when it ends again.
    return row["step"] <= checkpoints.step_of(checkpoint) and "train_loss" not in row


def _events(rows: Any) -> list[Event]:
    """Of a report; none of one that is damaged."""
    try:
        return [Event(**row) for row in rows or ()]
    except TypeError:
        return []


def _identity(plan: Plan, run: RunSettings, examples: Examples) -> dict[str, Any]:
    digest = hashlib.sha256()
    for row in (*examples.train, None, *examples.held_out):
        digest.update(json.dumps(row, sort_keys=True, default=_opaque).encode())
    of_plan = plan.as_dict()
    found = {name: of_plan[name] for name in SAME_PLAN}
    found |= {name: getattr(run, name) for name in SAME_RUN}
    # As a file has it: lists for tuples.
    return json.loads(json.dumps({**found, "data": digest.hexdigest()}))


def _difference(name: str, theirs: Any, ours: Any) -> str:
    """`its settings.lora_r is 8, not 16`."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        old, new = cast("dict[str, Any]", theirs), cast("dict[str, Any]", ours)
        key = next(key for key in {**old, **new} if old.get(key) != new.get(key))
        return _difference(f"{name}.{key}", old.get(key), new.get(key))
    return f"its {name} is {quoted(cast('object', theirs))}, not {quoted(cast('object', ours))}"


def _opaque(value: Any) -> str:
    """Bytes and pictures: their repr may hold an address."""
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else type(value).__name__


def _read(path: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
