"""Catalogue rows as tables, and one row as a list of its facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from ftadvisor.errors import quoted
from ftadvisor.render.document import Column, Document, Table, Words, paragraph
from ftadvisor.units import GB, TERA, format_bytes, format_count

_COLUMNS: dict[str, tuple[tuple[str, str, Callable[[Any], str]], ...]] = {
    "models": (
        ("id", "id", str),
        ("num_params", "parameters", lambda v: format_count(v)),
        ("model_type", "model_type", str),
        ("context", "context", lambda v: f"{v:,}" if v else "–"),
        ("license", "licence", lambda v: str(v or "–")),
        ("aliases", "also called", lambda v: ", ".join(v)),
    ),
    "gpus": (
        ("id", "id", str),
        ("name", "name", str),
        ("usable_bytes", "usable", lambda v: format_bytes(v)),
        ("flops_per_second", "bf16/fp16 TFLOP/s", lambda v: _half_rate(v)),
        ("memory_bandwidth_bytes_per_second", "GB/s", lambda v: f"{v / GB:,.0f}"),
        ("compute_capability", "capability", lambda v: str(v or "–")),
        ("power_watts", "W", lambda v: f"{v:.0f}" if v else "–"),
    ),
    "techniques": (("id", "id", str), ("name", "name", str), ("sentence", "what it does", str)),
    "objectives": (("id", "id", str), ("name", "name", str), ("sentence", "what it is", str)),
    "optimizers": (
        ("id", "id", str),
        ("sentence", "what it is", str),
        ("also", "also called", lambda v: ", ".join(v)),
    ),
    "trainers": (
        ("id", "id", str),
        ("framework", "program", str),
        ("versions", "versions", str),
        ("measured", "measured", lambda v: "yes" if v else "no"),
    ),
    "prices": (
        ("gpu", "gpu", str),
        ("provider", "provider", str),
        ("usd_per_gpu_hour", "USD/h", lambda v: f"{v:.2f}"),
        ("spot_usd_per_gpu_hour", "spot", lambda v: f"{v:.2f}" if v else "–"),
        ("as_of", "as of", str),
        ("stale", "old", lambda v: "yes" if v else ""),
    ),
}
_DROPPED = {
    "W": 2, "capability": 1, "licence": 4, "model_type": 3, "context": 2, "also called": 1,
    "measured": 1,
}  # fmt: skip
"""Left out where the terminal is too narrow, the highest number first."""
_FOLDED = {"name", "program", "also called", "what it does", "what it is", "versions", "as of"}
_RIGHT = {"parameters", "context", "usable", "bf16/fp16 TFLOP/s", "GB/s", "W", "USD/h", "spot"}


def listing_document(
    kind: str,
    rows: Sequence[dict[str, Any]],
    pattern: str | None = None,
    near: Sequence[str] = (),
) -> Document:
    """The rows of one catalogue as a table; where there are none, the names nearest the pattern."""
    if not rows:
        meant = f" Did you mean: {', '.join(near)}?" if near else ""
        return (paragraph(f"No name among the {kind} holds {quoted(pattern)}.{meant}", "warn"),)
    columns = _COLUMNS[kind]
    heads = tuple(
        Column(title, title in _RIGHT, title in _FOLDED, _DROPPED.get(title, 0))
        for _, title, _ in columns
    )
    cells = tuple(tuple(Words(form(row[key])) for key, _, form in columns) for row in rows)
    noun = kind.removesuffix("s") if len(rows) == 1 else kind
    return (Table(heads, cells), paragraph(f"{len(rows)} {noun}", "dim"))


def row_document(row: dict[str, Any]) -> Document:
    """One row, a fact a line."""
    facts = tuple(
        (Words(key, "dim"), Words(_fact(key, value))) for key, value in row.items() if value != []
    )
    return (Table((Column(""), Column("", fold=True)), facts),)


def _fact(key: str, value: Any) -> str:
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return "; ".join(_fact("", item) for item in items)
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return ", ".join(f"{name} {_fact(name, item)}" for name, item in pairs.items())
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if key.endswith("_bytes"):
        return f"{format_bytes(value)} ({value:,} bytes)"
    if isinstance(value, int | float):
        return f"{value:,}" if abs(value) < TERA else f"{value / TERA:,.1f} T"
    return str(value)


def _half_rate(rates: dict[str, float]) -> str:
    rate = rates.get("bf16") or rates.get("fp16")
    return f"{rate / TERA:,.0f}" if rate else "–"
