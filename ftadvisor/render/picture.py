"""A picture as a file: SVG written by hand, HTML around it, PNG by matplotlib."""

from __future__ import annotations

import os
from collections.abc import Callable
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ftadvisor.errors import InvalidSettingError, quoted

FORMATS = (".svg", ".html", ".png")


class Picture(NamedTuple):
    """One picture, drawn when its format is known."""

    title: str
    svg: Callable[[], str]
    """A picture that stands for itself."""
    figure: Callable[[Any], Any]
    """The same as a figure of matplotlib, from its module pyplot."""


def check_target(file: str) -> None:
    """Raise InvalidSettingError for a name that says no format which can be drawn here, or a place
    that cannot be written: whoever waits for what is drawn learns it before."""
    suffix = Path(file).suffix.lower()
    if suffix not in FORMATS:
        must = "end in .svg, .html or .png"
        raise InvalidSettingError.of("plot", file, must, [f"{Path(file).stem or 'step'}.svg"])
    if suffix == ".png":
        _matplotlib()
    place = Path(file).parent
    if Path(file).is_dir():
        raise InvalidSettingError(f"{quoted(file)} is a directory.", ["a file's name"])
    if not place.is_dir():
        raise InvalidSettingError(
            f"{quoted(file)} cannot be written: there is no directory {quoted(str(place))}.",
            [f"mkdir -p {place}"],
        )
    if not os.access(Path(file) if Path(file).exists() else place, os.W_OK):
        raise InvalidSettingError(f"{quoted(file)} cannot be written: permission denied.")


def write_picture(file: str, picture: Picture) -> None:
    """Draw it into a file, in the format that its name says.

    Raises InvalidSettingError where that cannot be done.
    """
    check_target(file)
    suffix = Path(file).suffix.lower()
    try:
        if suffix == ".png":
            _write_png(file, picture)
        else:
            text = picture.svg() if suffix == ".svg" else _page(picture)
            Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise InvalidSettingError(f"{quoted(file)} cannot be written: {reason}.") from None


def _page(picture: Picture) -> str:
    """The picture as a page of its own."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>'
        f"{escape(picture.title)}</title><style>body{{margin:1em}}svg{{width:100%;height:auto;"
        "max-height:95vh}.hover:hover{fill-opacity:.25}</style></head>\n"
        f"<body>\n{picture.svg()}</body></html>\n"
    )


def _write_png(file: str, picture: Picture) -> None:
    matplotlib = _matplotlib()
    matplotlib.use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    figure = picture.figure(pyplot)
    figure.savefig(file, bbox_inches="tight")
    pyplot.close(figure)


def _matplotlib() -> Any:
    try:
        matplotlib: Any = import_module("matplotlib")
    except ImportError:
        raise InvalidSettingError(
            "a PNG is drawn by matplotlib, which is not installed.",
            ["--plot FILE.svg", "--plot FILE.html", "pip install matplotlib"],
        ) from None
    return matplotlib
