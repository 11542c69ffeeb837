"""A run's own figures among the user's measurements, from which later estimates learn."""

from __future__ import annotations

import os

from ftadvisor.errors import FtadvisorError
from ftadvisor.execution.training import Training
from ftadvisor.schema.report import Report
from ftadvisor.sources.own_rows import CPU, Ran, row_of
from ftadvisor.sources.records import append_record

FEWEST_STEPS = 3
"""Fewer are warming up: their time says nothing."""


def record_run(of: Training, report: Report) -> None:
    """Append the row; where it cannot be written, the report says so and the run is done."""
    # torchrun's name of the process's number: one row a run.
    if os.environ.get("RANK", "0") != "0":
        return
    measured = dict(report.measured)
    if measured.get("num_steps", 0.0) < FEWEST_STEPS:
        measured.pop("step_seconds", None)
    name = of.device.name if not of.device.is_cpu else CPU
    row = row_of(
        Ran(
            of.plan.model, of.plan.estimate.trainer, of.settings, name, "run", report.status,
            measured, report.predicted,
        )
    )  # fmt: skip
    try:
        append_record(row)
    except FtadvisorError as error:
        of.journal.say("measurements", f"not recorded: {error.message}")
