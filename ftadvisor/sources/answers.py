"""Answers that took seconds, kept in the user's cache directory for the next time.

One file an answer, named by everything that it depends on. A file that cannot be read counts as one
that is not there, and a directory that cannot be written as one that keeps nothing: what is kept
is only ever faster, never different.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, cast

from ftadvisor.sources.directories import cache_home

_MOST_FILES = 500
"""Beyond which the oldest are deleted."""


def key_of(question: Mapping[str, Any]) -> str:
    """The name of a question: the same for equal ones, whatever their order."""
    text = json.dumps(question, sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()


def kept(room: str, key: str) -> dict[str, Any] | None:
    """The answer that was kept; None: none, or none that can be read."""
    try:
        found: Any = json.loads(_file(room, key).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def keep(room: str, key: str, answer: Mapping[str, Any]) -> None:
    """Keep an answer; a reader sees the whole of it or nothing."""
    file = _file(room, key)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=file.parent, suffix=".part", delete=False) as part:
            try:
                json.dump(answer, part, separators=(",", ":"))
                part.close()
                os.replace(part.name, file)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
        _drop_oldest(file.parent)
    except OSError:
        return


def _file(room: str, key: str) -> Path:
    return cache_home() / room / f"{key}.json"


def _drop_oldest(folder: Path) -> None:
    files = list(folder.glob("*.json"))
    if len(files) > _MOST_FILES:
        for file in sorted(files, key=lambda f: f.stat().st_mtime)[: len(files) - _MOST_FILES]:
            file.unlink(missing_ok=True)
