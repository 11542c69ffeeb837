"""`ftadvisor calibration`: what the user's own measurements make of the estimate's numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ftadvisor.cli.command import Argument, Command, Group
from ftadvisor.cli.options import JSON
from ftadvisor.cli.printing import print_answer
from ftadvisor.errors import InvalidSettingError, quoted

ACTIONS = ("show", "reset", "export", "import")


def run(given: dict[str, Any]) -> int:
    """Show, put aside, share or take over measurements; always 0."""
    action, file = given.get("action", "show"), given.get("file")
    as_json = given.get("json", False)
    if action not in ACTIONS:
        raise InvalidSettingError.of("action", action, f"be one of {', '.join(ACTIONS)}")
    if action == "show":
        return _show(file, as_json)
    if action == "reset":
        if file is not None:
            raise InvalidSettingError(
                f"reset takes no file: {quoted(file)}.",
                ["ftadvisor calibration reset", f"ftadvisor calibration export {file}"],
            )
        return _reset(as_json)
    if action == "export":
        return _export(file, as_json)
    if file is None:
        raise InvalidSettingError("import needs a file.", ["ftadvisor calibration import F.jsonl"])
    from ftadvisor.sources.records import append_record, read_records

    known = {row.get("id") for row in read_records().rows}
    rows = [row for row in _rows_of(file) if row["id"] not in known]
    for row in rows:
        append_record(row)
    return _say({"imported": len(rows)}, f"{_counted(len(rows))} imported.", as_json)


def _rows_of(file: str) -> list[dict[str, Any]]:
    from ftadvisor.sources.measurement_rows import read_rows

    try:
        text = Path(file).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidSettingError(f"{file!r} cannot be read: {reason}.") from error
    return read_rows(file, text)


def _counted(rows: int) -> str:
    return f"{rows} measurement{'s' * (rows != 1)}"


def _show(file: str | None, as_json: bool) -> int:
    from ftadvisor.api.calibrating import calibration_of, load_calibration
    from ftadvisor.render.probe import calibration_document
    from ftadvisor.sources.records import Records

    if file is None:
        found = load_calibration()
    else:
        found = calibration_of(Records(Path(file), tuple(_rows_of(file)), ()))
    answer: dict[str, Any] = found.as_dict() if found else {}
    print_answer(answer, lambda: calibration_document(found), as_json=as_json)
    return 0


def _reset(as_json: bool) -> int:
    from ftadvisor.sources.kept_fit import drop_fit
    from ftadvisor.sources.records import drop_records

    aside, fit = drop_records(), drop_fit()
    said = [f"Put aside as {path}." for path in aside] or ["There were no measurements."]
    if fit:
        said.append(f"Removed {fit}, which follows from them.")
    record = {"aside": [str(path) for path in aside], "removed": str(fit) if fit else None}
    return _say(record, " ".join(said), as_json)


def _export(file: str | None, as_json: bool) -> int:
    from ftadvisor.sources.measurement_rows import checked_rows
    from ftadvisor.sources.records import exported, read_records
    from ftadvisor.sources.text_files import replace_text

    # One that breaks the rules would make the whole file refused where it is imported.
    kept, problems = checked_rows(read_records().rows)
    for said in problems:
        print(f"ftadvisor: left out: {said}", file=sys.stderr)
    rows, local = exported(kept)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if file is None:
        sys.stdout.write(text)
    else:
        try:
            replace_text(Path(file).expanduser().absolute(), text)
        except OSError as error:
            raise InvalidSettingError(f"{file!r} cannot be written: {error.strerror}.") from error
    if as_json and file is not None:
        return _say({"exported": len(rows), "left_out": local, "file": file}, "", as_json)
    left = f"; {local} of models on your own disk left out" if local else ""
    print(f"ftadvisor: {_counted(len(rows))} exported{left}.", file=sys.stderr)
    return 0


def _say(record: dict[str, Any], said: str, as_json: bool) -> int:
    from ftadvisor.render.document import paragraph

    print_answer(record, lambda: (paragraph(said),), as_json=as_json)
    return 0


COMMAND = Command(
    name="calibration",
    summary="What your own measurements make of the estimates: show, reset, export, import.",
    usage="calibration [show|reset|export|import] [FILE.jsonl]",
    arguments=(
        Argument("action", "ACTION", "What to do (default: show).", choices=ACTIONS),
        Argument("file", "FILE.jsonl", "Where to export to (default: standard output), what to "
                 "import, or whose measurements to show instead of your own."),
    ),
    groups=(Group("Output", (JSON,)),),
    examples=(
        ("ftadvisor calibration", "which factors hold for this machine?"),
        ("ftadvisor calibration show rows.jsonl", "what would follow from these measurements?"),
        ("ftadvisor calibration export rows.jsonl", "measurements to share"),
        ("ftadvisor calibration reset", "start over; what was measured is put aside"),
    ),
    run=run,
    details="An export holds settings, figures and versions: no path, no host's name, no data. It "
    "has the format of data/measurements/FORMAT.md, so that it can become a pull request.",
)  # fmt: skip
