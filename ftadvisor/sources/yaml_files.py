"""YAML that people write: plain values only, numbers as they are meant, no key said twice."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from ftadvisor.errors import DataFileError, InvalidSettingError, quoted

_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
"""YAML 1.1 asks for a point and a sign, and reads the 2e-4 that everybody writes as text."""
LARGEST_FILE = 10_000_000
"""Bytes; what a person writes or a plan holds is a thousandth of it."""


def read_yaml(path: Path, noun: str, write: str) -> Any:
    """The content of a file. `noun` and `write` say in errors what it should have been.

    Raises InvalidSettingError for a file that cannot be read, DataFileError for one that is no
    YAML, or that asks for more than plain values.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise DataFileError(path.name, None, None, f"has {size:,} bytes", write)
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidSettingError(
            f"{noun} {quoted(str(path))} cannot be read: {error}.", ["the path of a file"]
        ) from None
    return parse_yaml(text, path.name, write)


def parse_yaml(text: str, file: str, write: str) -> Any:
    """The content of a text. Raises DataFileError: line, and what is wrong there."""
    import yaml

    try:
        loader = _dialect()[0](text)
        node = loader.get_single_node()
        _check_nodes(node)
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        what = " ".join(str(problem).split())
        row = mark.line + 1 if mark is not None else None
        raise DataFileError(file, row, None, f"is no plain YAML: {what}", write) from None


def _check_nodes(root: Any) -> None:
    """Raise yaml.MarkedYAMLError for a key that stands twice, and for aliases.

    Of two equal keys the last would count; aliases of aliases grow without end.
    """
    from yaml import MappingNode, MarkedYAMLError, ScalarNode

    seen: set[int] = set()
    left: list[Any] = [] if root is None else [root]
    while left:
        node = left.pop()
        if id(node) in seen:
            raise MarkedYAMLError(None, None, "an alias repeats this", node.start_mark)
        seen.add(id(node))
        if isinstance(node, ScalarNode):
            continue
        if not isinstance(node, MappingNode):
            left += node.value
            continue
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, ScalarNode):
                if key.value in keys:
                    what = f"the key {quoted(key.value)} stands twice"
                    raise MarkedYAMLError(None, None, what, key.start_mark)
                keys.add(key.value)
            left += [key, value]


def dump_yaml(content: Any) -> str:
    """Block style, in the order of the dictionaries; read again it is the same."""
    import yaml

    return yaml.dump(  # pyright: ignore[reportUnknownMemberType]
        content, Dumper=_dialect()[1], sort_keys=False, allow_unicode=True, width=100
    )


def _never(*_: Any) -> bool:
    return True


@cache
def _dialect() -> tuple[Any, Any]:
    """Loader and dumper. Both know the same numbers, so that a text is quoted where it must be.

    The C ones where libyaml is there: ten times faster. Safe ones: a tag that would make an object
    of Python is refused.
    """
    import yaml

    loading: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    dumping: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    # Subclasses: PyYAML's own classes are every other program's too.
    loader: Any = type("Loader", (loading,), {})
    dumper: Any = type("Dumper", (dumping,), {"ignore_aliases": _never})
    for kind in (loader, dumper):
        kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    return loader, dumper
