"""What a probe measured, a calibration's factors, and measurements, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftadvisor.render.document import Block, Bullets, Column, Document, Table, Words, paragraph
from ftadvisor.schema.calibration import Adjusted, Calibration
from ftadvisor.schema.probe import Probe
from ftadvisor.units import GB, GIB, TERA, format_bytes, format_duration


def machine_document(machine: Mapping[str, Any]) -> Document:
    """Rates, bandwidths and versions of a machine."""
    rows = [
        (f"products, {dtype}", f"{rate / TERA:,.3g} TFLOP/s")
        for dtype, rate in machine["flops_per_second"].items()
    ]
    rows.append(("copies", f"{machine['copy_bytes_per_second'] / GB:,.3g} GB/s"))
    if "launch_seconds" in machine:
        rows.append(("launch", format_duration(machine["launch_seconds"])))
        to_gpu = machine["host_to_device_bytes_per_second"] / GB
        rows.append(("host to device", f"{to_gpu:,.3g} GB/s"))
        rows.append(("context", format_bytes(machine["context_bytes"])))
    if "link_bytes_per_second" in machine:
        rows.append(("between GPUs", f"{machine['link_bytes_per_second'] / GB:,.3g} GB/s"))
    rows.append(("usable memory", format_bytes(machine["usable_bytes"])))
    table = Table(
        (Column(machine["name"], fold=True), Column("measured", right=True)),
        tuple((Words(name), Words(value)) for name, value in rows),
    )
    return (table, *_warnings(machine["warnings"]))


def probe_document(found: Probe) -> Document:
    """The slices, then predicted, measured and calibrated figures of the whole run."""
    slices = Table(
        (Column("layers", right=True), Column("step", right=True), Column("spread", right=True),
         Column("allocated", right=True)),
        tuple(
            (
                Words(str(s.layers)),
                Words(format_duration(s.step_seconds) if s.step_seconds else s.status),
                Words(f"{s.spread:.0%}" if s.spread is not None else "–"),
                Words(format_bytes(s.allocated_bytes) if s.peaks else "–"),
            )
            for s in found.slices
        ),
        "slices",
    )  # fmt: skip
    whole = found.whole
    measured: dict[str, float | None] = {
        "step_seconds": whole.step_seconds,
        "allocated_bytes": whole.allocated_bytes,
        "reserved_bytes": whole.reserved_bytes,
        "device_bytes": whole.device_bytes,
    }
    rows = tuple(
        (
            Words(name),
            Words(quantity(name, found.predicted.get(name))),
            Words(quantity(name, value)),
            Words(quantity(name, found.calibrated.get(name))),
        )
        for name, value in measured.items()
    )
    heads = ("predicted", "measured", "calibrated")
    table = Table(
        (Column("the whole model"), *(Column(head, right=True) for head in heads)),
        rows,
        _title(found),
    )
    run: list[Block] = []
    if "total_seconds" in found.calibrated:
        c = found.calibrated
        low, high = c["total_low_seconds"], c["total_high_seconds"]
        run.append(
            paragraph(
                f"The whole run: {format_duration(c['total_seconds'])}"
                f" ({format_duration(low)} to {format_duration(high)})."
            )
        )
    return (slices, table, *run, *_warnings(found.warnings))


def _title(found: Probe) -> str:
    layers = found.whole.layers
    counted = f"{layers} layer{'s' * (layers != 1)}"
    whole = any(s.layers == layers and s.status == "done" for s in found.slices)
    return f"{counted}, measured whole" if whole else f"{counted}, from the slices"


def calibration_document(found: Calibration | None) -> Document:
    """Factors on what is shipped, by machine, GPU type and family."""
    if found is None:
        return (paragraph("No measurements: nothing is calibrated. `ftadvisor probe` makes one."),)
    rows: list[tuple[Words, ...]] = []
    levels = (("machine", found.machines), ("GPU type", found.gpus), ("family", found.families))
    for level, table in levels:
        for key, adjusted in table.items():
            here = " (here)" if level == "machine" and key in found.here.values() else ""
            rows.append((Words(level), Words(key + here), *_factors(adjusted)))
    heads = ("rows", "rate", "bandwidth", "host", "cache", "context", "time, 90 %")
    columns = (Column("of"), Column("which", fold=True), *(Column(h, right=True) for h in heads))
    blocks: list[Block] = []
    if rows:
        blocks.append(Table(columns, tuple(rows), "factors on what is shipped"))
    else:
        blocks.append(paragraph("No measurement has a time yet: nothing is calibrated."))
    if found.cpu is not None:
        fp32 = found.cpu.flops_per_second["fp32"] / TERA
        blocks.append(paragraph(f"The processor was probed: {found.cpu.name}, {fp32:.3g} TFLOP/s."))
    for gpu, machine in found.here.items():
        if machine in found.links:
            link = f"{found.links[machine] / GB:,.3g} GB/s"
            blocks.append(paragraph(f"Between GPUs of this machine ({gpu}): {link}."))
    if found.outliers:
        blocks.append(Bullets("Left out of account", found.outliers))
    return (*blocks, *_warnings(found.warnings))


def _factors(adjusted: Adjusted) -> tuple[Words, ...]:
    f = adjusted.factors
    context = "–" if adjusted.context_bytes is None else format_bytes(adjusted.context_bytes)
    figures = [f"{value:.2f}" for value in f]
    time = f"{adjusted.time.low:.2f}–{adjusted.time.high:.2f}"
    return tuple(Words(text) for text in (str(adjusted.rows), *figures, context, time))


def _figure(value: object) -> float | None:
    """A row is shown as it stands, whatever stands in it."""
    return float(value) if isinstance(value, int | float) else None


def measurements_document(rows: Sequence[Mapping[str, Any]], problems: Sequence[str]) -> Document:
    """The user's own rows, newest last."""
    if not rows:
        return (
            paragraph("No measurements yet. `ftadvisor probe` makes one."),
            *_warnings(problems),
        )
    cells = tuple(
        (
            Words(str(row.get("date", "–"))),
            Words(str(row.get("method", "–"))),
            Words(str(row.get("model", "–"))),
            Words(str(row.get("technique", "–"))),
            Words(str(row.get("gpu", "–"))),
            Words(quantity("seconds", _figure(row.get("micro_step_seconds")))),
            Words(_gib(_figure(row.get("memory_gib")))),
            Words(str(row.get("status", "–"))),
        )
        for row in rows
    )
    columns = (
        Column("date"), Column("by"), Column("model", fold=True), Column("technique"),
        Column("gpu"), Column("micro-step", right=True), Column("allocated", right=True),
        Column("status"),
    )  # fmt: skip
    return (Table(columns, cells), *_warnings(problems))


def quantity(name: str, value: float | None) -> str:
    """Bytes or seconds, as the name says."""
    if value is None:
        return "–"
    return format_bytes(value) if name.endswith("bytes") else format_duration(value)


def _gib(value: float | None) -> str:
    return "–" if value is None else format_bytes(value * GIB)


def _warnings(said: Sequence[str]) -> tuple[Block, ...]:
    return (Bullets("Take care", tuple(said), "warn"),) if said else ()
