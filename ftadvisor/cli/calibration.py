"""`ftadvisor calibration`: what the user's own measurements make of the estimate's numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ftadvisor.cli.command import Argument, Command, Group
from ftadvisor.cli.options import JSON
from ftadvisor.cli.printing import print_answer
from ftadvisor.errors import InvalidSettingError

ACTIONS = ("show", "reset", "export", "import")


def run(given: dict[str, Any]) -> int:
    """Show, put aside, share or take over measurements; always 0."""
    action, file = given.get("action", "show"), given.get("file")
    as_json = given.get("json", False)
    if action not in ACTIONS:
        raise InvalidSettingError.of("action", action, f"be one of {', '.join(ACTIONS)}")
    if action == "show":
        return _show(as_json)
    if action == "reset":
        from ftadvisor.sources.records import drop_records

        aside = drop_records()
        said = f"Put aside as {aside}." if aside else "There were no measurements."
        return _say({"aside": str(aside) if aside else None}, said, as_json)
    if action == "export":
        return _export(file)
    if file is None:
        raise InvalidSettingError("import needs a file.", ["ftadvisor calibration import F.jsonl"])
    from ftadvisor.sources.measurement_rows import read_rows
    from ftadvisor.sources.records import append_record, read_records

    try:
        text = Path(file).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidSettingError(f"{file!r} cannot be read: {reason}.") from error
    known = {row.get("id") for row in read_records().rows}
    rows = [row for row in read_rows(file, text) if row["id"] not in known]
    for row in rows:
        append_record(row)
    return _say({"imported": len(rows)}, f"{len(rows)} measurements imported.", as_json)


def _show(as_json: bool) -> int:
    from ftadvisor.api.calibrating import load_calibration
    from ftadvisor.render.probe import calibration_document

    found = load_calibration()
    answer: dict[str, Any] = found.as_dict() if found else {}
    print_answer(answer, lambda: calibration_document(found), as_json=as_json)
    return 0


def _export(file: str | None) -> int:
    from ftadvisor.sources.records import exported, read_records
    from ftadvisor.sources.text_files import replace_text

    rows, local = exported(read_records().rows)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if file is None:
        sys.stdout.write(text)
    else:
        try:
            replace_text(Path(file).expanduser().absolute(), text)
        except OSError as error:
            raise InvalidSettingError(f"{file!r} cannot be written: {error.strerror}.") from error
    left = f"; {local} of models on your own disk left out" if local else ""
    print(f"ftadvisor: {len(rows)} measurements exported{left}.", file=sys.stderr)
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
        Argument("file", "FILE.jsonl", "Where to export to (default: standard output), or what to "
                 "import."),
    ),
    groups=(Group("Output", (JSON,)),),
    examples=(
        ("ftadvisor calibration", "which factors hold for this machine?"),
        ("ftadvisor calibration export rows.jsonl", "measurements to share"),
        ("ftadvisor calibration reset", "start over; the measurements are put aside"),
    ),
    run=run,
    details="An export holds settings, figures and versions: no path, no host's name, no data. It "
    "has the format of data/measurements/FORMAT.md, so that it can become a pull request.",
)  # fmt: skip
