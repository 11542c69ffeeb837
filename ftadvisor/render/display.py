"""What an answer looks like by itself: HTML in a notebook, blocks through rich, text."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from rich.console import Console, RenderableType

from ftadvisor.render.comparison import comparison_document
from ftadvisor.render.document import Document
from ftadvisor.render.estimate import estimates_document
from ftadvisor.render.evaluation import evaluation_document
from ftadvisor.render.fit import fit_document
from ftadvisor.render.html import html
from ftadvisor.render.model_card import model_card
from ftadvisor.render.recommendation import recommendation_document
from ftadvisor.render.report import report_page
from ftadvisor.render.run import run_document
from ftadvisor.render.simulation import simulation_document
from ftadvisor.render.terminal import print_document, renderables
from ftadvisor.schema.comparison import Comparison
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.evaluation import Evaluation
from ftadvisor.schema.fit import Fit
from ftadvisor.schema.plan import Recommendation
from ftadvisor.schema.report import Report
from ftadvisor.schema.simulation import Simulation

TEXT_WIDTH = 100


def document_of(answer: Any) -> Document:
    """The blocks of an answer."""
    match answer:
        case Recommendation():
            return recommendation_document(answer)
        case Fit():
            return fit_document(answer)
        case Comparison():
            return comparison_document(answer)
        case Simulation():
            return simulation_document(answer)
        case Evaluation():
            return evaluation_document(answer)
        case Report():
            return run_document(answer)
        case Estimate():
            return estimates_document([answer])
        case _:
            raise TypeError(f"no document shows {answer!r}")


def as_html(answer: Any) -> str:
    """HTML that stands for itself."""
    return html(document_of(answer))


def as_page(answer: Report) -> str:
    """A page of its own."""
    return report_page(answer)


def as_card(answer: Report) -> str:
    """Markdown for the directory of the trained model."""
    return model_card(answer)


def as_renderables(answer: Any, console: Console, options: Any) -> Iterator[RenderableType]:
    """What rich prints."""
    del options
    yield from renderables(document_of(answer), console)


def as_text(answer: Any) -> str:
    """Plain text, as a file would get it."""
    out = io.StringIO()
    plain = Console(
        file=out, width=TEXT_WIDTH, highlight=False, markup=False, emoji=False,
        color_system=None, force_terminal=False, legacy_windows=False,
    )  # fmt: skip
    print_document(document_of(answer), plain)
    return out.getvalue().rstrip("\n")
