"""Which files a dataset is made of, and which of them are kept for evaluation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ftadvisor.errors import (
    DataFileError,
    InvalidSettingError,
    UnknownNameError,
    near_misses,
    quoted,
)

KINDS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
    ".md": "text",
}
READ = [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", "any of them with .gz or .zst"]
COMPRESSIONS = (".gz", ".zst")

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""A split and the words that name it in a file's or a folder's name, as the datasets library reads
them."""

DESCRIPTIONS = re.compile(
    r"(dataset_infos?|dataset_dict|state)\.json|(readme|licen[cs]e|notice)\b.*"
)
"""Files that lie beside the data and speak of it."""

DEEPEST = 3
"""Folders below the one that was named; deeper lies something else than one dataset."""
MOST_FILES = 10_000


class DataFile(NamedTuple):
    """One file to read."""

    path: Path
    kind: str
    compression: str = ""
    """`.gz` or `.zst`."""


class Split(NamedTuple):
    """Files that are read one after the other."""

    name: str
    files: tuple[DataFile, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes on disk."""
        return sum(size_of(file.path) for file in self.files)


def find_splits(
    path: Path, split: str | None = None, eval_path: Path | None = None
) -> tuple[Split, Split | None]:
    """What to train on and what to evaluate on, if there is any.

    Of a directory: the split that is asked for, else `train`; the others together are for
    evaluation. Raises InvalidSettingError for a path that cannot be a dataset.
    """
    found = _splits_at(path)
    wanted = split or ("train" if "train" in found else next(iter(found)))
    if wanted not in found:
        raise UnknownNameError(f"split of {path.name}", wanted, found)
    if eval_path is not None:
        held_out = [file for files in _splits_at(eval_path).values() for file in files]
        return Split(wanted, tuple(found[wanted])), Split(eval_path.name, tuple(held_out))
    names = [name for name in found if name != wanted]
    held_out = [file for name in names for file in found[name]]
    evaluation = Split("+".join(names), tuple(held_out)) if held_out else None
    return Split(wanted, tuple(found[wanted])), evaluation


def size_of(path: Path) -> int:
    """Bytes on disk. Raises DataFileError for a file that has gone."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> DataFileError:
    """A file that the system does not hand out."""
    return DataFileError(
        str(path), None, None, f"cannot be read: {error.strerror or error}", "a readable file"
    )


def data_file(path: Path) -> DataFile | None:
    """The file's kind by its name; None: none that is read."""
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    inner = path.with_suffix("") if compression else path
    kind = KINDS.get(inner.suffix.lower())
    return DataFile(path, kind, compression) if kind else None


def _splits_at(path: Path) -> dict[str, list[DataFile]]:
    """Split names to their files, `train` for what no name tells apart."""
    try:
        folder, present = path.is_dir(), path.is_file()
    except OSError as error:
        raise unreadable(path, error) from None
    if folder:
        return _splits_of_directory(path)
    if not present:
        raise InvalidSettingError(
            f"dataset {quoted(str(path))} is not a file or a directory on this machine.",
            [*_near(path), f"a {', '.join(READ[:-1])} file", "a directory of them"],
        )
    file = data_file(path)
    if file is None:
        raise InvalidSettingError(
            f"dataset {quoted(path.name)}: {path.suffix or 'no suffix'} is not a format that is"
            " read.",
            READ,
        )
    return {"train": [file]}


def _near(path: Path) -> list[str]:
    """What lies where the path leads and is called almost so."""
    try:
        beside = [p.name for p in path.parent.iterdir() if p.is_dir() or data_file(p)]
    except OSError:
        return []
    return [str(path.parent / name) for name in near_misses(path.name, beside)]


def _splits_of_directory(folder: Path) -> dict[str, list[DataFile]]:
    files = [file for path in _walk(folder) if (file := data_file(path))]
    # Notes lie beside data; text is the data only where there is nothing else.
    structured = [file for file in files if file.kind != "text"]
    files = structured or files
    if not files:
        raise InvalidSettingError(
            f"dataset {quoted(str(folder))} is a directory without a file that is read.", READ
        )
    kinds = sorted({file.kind for file in files})
    if len(kinds) > 1:
        raise InvalidSettingError(
            f"dataset {quoted(str(folder))} holds files of several kinds ({', '.join(kinds)}):"
            " which of them is the data?",
            [str(next(f.path for f in files if f.kind == kind)) for kind in kinds],
        )
    found: dict[str, list[DataFile]] = {}
    for file in files:
        found.setdefault(_split_named(file.path.relative_to(folder)), []).append(file)
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """The data files under a folder in a fixed order, hidden ones and descriptions left out."""
    count = 0
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(f for f in folders if f[0] not in "._" and depth < DEEPEST)
        for name in sorted(names):
            if name[0] == "." or name.startswith("cache-") or DESCRIPTIONS.match(name.lower()):
                continue
            count += 1
            if count > MOST_FILES:
                raise InvalidSettingError(
                    f"dataset {quoted(str(folder))} holds more than {MOST_FILES:,} files.",
                    ["the directory of one dataset"],
                )
            yield Path(place, name)


def _split_named(path: Path) -> str:
    for part in reversed(path.parts):
        words = set(re.split(r"[^a-z]+", part.lower()))
        for name, spellings in SPLITS.items():
            if words & set(spellings):
                return name
    return "train"
