"""What a row of a measurements file must look like, before anything is predicted from it.

`data/measurements/FORMAT.md` says what each field means.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ftadvisor.errors import DataFileError, UnknownNameError, quoted
from ftadvisor.sources.techniques import find_technique

REQUIRED = ("id", "source", "grade", "framework", "model", "technique", "gpu", "precision")
GRADES = ("A", "B", "C")
METRICS = ("allocated", "reserved", "active", "device", "unknown")

TEXTS = (
    "id", "source", "grade", "framework", "framework_config", "model", "technique", "gpu",
    "gpu_as_published", "quantization", "optimizer", "strategy", "memory_metric", "objective",
)  # fmt: skip
WORDS = {
    "sequence_fill": ("full", "padded-to-longest", "padding-free"),
    "attn_implementation": ("eager", "sdpa", "flash", "flash2", "flash3", "flash_attention"),
}
CHECKPOINTING = ("selective", "full", "none")
OBJECTS = ("precision", "peft_config", "settings", "versions", "inferred")
SWITCHES = ("oom", "lower_bound", "cpu_offload", "packing")
WHOLE = ("micro_batch_size", "gradient_accumulation_steps", "num_gpus")
POSITIVE = (
    "memory_gib", "memory_gib_reserved", "micro_step_seconds", "max_length", "max_target_length",
    "longest_sequence_tokens",
    "mean_tokens_per_sample", "host_launch_seconds", "memory_gib_device",
)  # fmt: skip
NUMERIC = ("lora_r", "lora_alpha", "lora_dropout")
"""Some sources print these as text."""

TOO_LARGE = 1e15
"""No figure of a run; infinity and not-a-number, which Python's JSON reads, are not below it."""
MOST_DETAILED = 20
"""Bad lines that are described; of further ones only the number is given."""


class Problem(NamedTuple):
    """What is wrong with one line."""

    line: int
    field: str | None
    problem: str
    write: str

    def __str__(self) -> str:
        place = f"line {self.line}"
        if self.field:
            place += f", field {quoted(self.field)}"
        return f"{place}: {self.problem} ({self.write})"

    def of(self, id_: object) -> str:
        """The same of a row that is known by its id, whose line nobody counted."""
        what = f"field {quoted(self.field)} " if self.field else ""
        return f"measurement {id_}: {what}{self.problem} ({self.write})"


def read_rows(file: str, text: str) -> list[dict[str, Any]]:
    """The rows of a file's text, blank lines left out.

    Raises one DataFileError that names every bad line.
    """
    rows: list[dict[str, Any]] = []
    bad: list[Problem] = []
    # Not splitlines(): a JSON string may hold what Unicode calls a line separator.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            found = _row(number, line)
            if isinstance(found, Problem):
                bad.append(found)
            else:
                rows.append(found)
    if bad:
        raise _error(file, bad)
    if not rows:
        raise DataFileError(file, None, None, "has no row", "one measurement a line")
    return rows


def checked_rows(rows: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows that keep the rules, and what is wrong with the others."""
    kept: list[dict[str, Any]] = []
    problems: list[str] = []
    for number, row in enumerate(rows, start=1):
        found = _checked(number, row)
        if isinstance(found, Problem):
            problems.append(found.of(row.get("id", number)))
        else:
            kept.append(found)
    return kept, problems


def _error(file: str, bad: Sequence[Problem]) -> DataFileError:
    if len(bad) == 1:
        first = bad[0]
        return DataFileError(file, first.line, first.field, first.problem, first.write)
    lines = [f"\n  {problem}" for problem in bad[:MOST_DETAILED]]
    if further := bad[MOST_DETAILED:]:
        lines.append(f"\n  and lines {', '.join(str(problem.line) for problem in further)}")
    return DataFileError(file, None, None, f"{len(bad)} bad lines:{''.join(lines)}")


def _row(number: int, line: str) -> dict[str, Any] | Problem:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        # Its own "line 1" is not the line of the file.
        problem = f"is not JSON: {error.msg} at character {error.pos + 1}"
        return Problem(number, None, problem, "one object a line")
    except (ValueError, RecursionError) as error:
        return Problem(number, None, f"is not JSON: {error}", "one object a line")
    if not isinstance(row, dict):
        return Problem(number, None, "is not an object", '{"id": ..., ...}')
    return _checked(number, dict(row))  # pyright: ignore[reportUnknownArgumentType]


def _checked(number: int, fields: dict[str, Any]) -> dict[str, Any] | Problem:
    for name in REQUIRED:
        if fields.get(name) in (None, ""):
            return Problem(number, name, "is missing", "a value; see FORMAT.md")
    for name, value in fields.items():
        must = None if value is None else _must(name, value)
        if must is not None:
            return Problem(number, name, f"is {quoted(value)}", f"must be {must}")
    if _lacks_rank(fields):
        problem = f"is {quoted(fields['lora_r'])} with {fields['technique']}"
        return Problem(number, "lora_r", problem, "must be a number from 1 on, or null")
    return fields


def _must(name: str, value: Any) -> str | None:
    """What a field's value must be and is not; None: it is."""
    if name == "grade":
        return None if value in GRADES else "A, B or C"
    if name == "memory_metric":
        return None if value in METRICS else ", ".join(METRICS)
    if name in TEXTS:
        return None if isinstance(value, str) else "text"
    if name in OBJECTS:
        return None if isinstance(value, dict) else "an object"
    if name in SWITCHES:
        return None if isinstance(value, bool) else "true, false or null"
    if name in WHOLE:
        whole = _is_number(value) and value == int(value) and value >= 1
        return None if whole else "a whole number from 1 on, or null"
    if name in POSITIVE:
        return None if _is_number(value) and value > 0 else "a positive number or null"
    if name == "step_seconds_spread":
        return None if _is_number(value) and value >= 0 else "a number from 0 on, or null"
    if name == "lora_target_modules":
        return None if _is_text_or_texts(value) else "text, or a list of texts"
    if name == "quantization_group_size":
        whole = _is_number(value) and value == int(value) and (value >= 1 or value == -1)
        return None if whole else "a whole number from 1 on, or -1 for a whole row"
    if name == "length_statistics":
        return None if _is_statistics(value) else 'an object of numbers, and a text "rule"'
    if name in WORDS:
        return None if _is_word(value, WORDS[name]) else f"{', '.join(WORDS[name])} or null"
    if name == "gradient_checkpointing":
        right = isinstance(value, bool) or _is_word(value, CHECKPOINTING)
        return None if right else f"true, false, null, {' or '.join(CHECKPOINTING)}"
    if name in NUMERIC:
        return None if _reads_as_number(value) else "a number or null"
    return None


def _is_word(value: Any, words: Sequence[str]) -> bool:
    """One of the words, which a remark may follow: `selective op`."""
    if not isinstance(value, str):
        return False
    text = value.strip().lower()
    return any(text == word or text.startswith((f"{word} ", f"{word}_")) for word in words)


def _lacks_rank(row: dict[str, Any]) -> bool:
    """A rank of 0 where the technique is made of that rank."""
    rank = row.get("lora_r")
    if rank is None or float(rank) >= 1:
        return False
    with suppress(UnknownNameError):
        return find_technique(row["technique"]).family == "lora"
    return False


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < TOO_LARGE


def _reads_as_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and 0 <= float(value) < TOO_LARGE
    except (TypeError, ValueError, OverflowError):
        return False


def _is_statistics(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    found: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
    figures = (v for k, v in found.items() if k != "rule" and v is not None)
    return all(_is_number(v) and v >= 0 for v in figures)


def _is_text_or_texts(value: Any) -> bool:
    if not isinstance(value, list):
        return isinstance(value, str)
    return all(isinstance(item, str) for item in value)  # pyright: ignore[reportUnknownVariableType]
