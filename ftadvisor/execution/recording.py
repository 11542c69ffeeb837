"""A run's own figures among the user's measurements, from which later estimates learn."""

from __future__ import annotations

import os

from ftadvisor.errors import FtadvisorError
from ftadvisor.execution.device import Device
from ftadvisor.execution.journal import Journal
from ftadvisor.schema.report import Report
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.own_rows import Ran, row_of
from ftadvisor.sources.records import append_record

FEWEST_STEPS = 3
"""Fewer are warming up: their time says nothing."""


def record_run(settings: Settings, device: Device, report: Report, journal: Journal) -> None:
    """Append the row; where it cannot be written, the journal says so and the run is done."""
    # torchrun's name of the process's number: one row a run.
    if os.environ.get("RANK", "0") != "0":
        return
    # Less memory was asked for on the way: the figures are of several settings.
    halved = any(event.kind == "out_of_memory" for event in report.events)
    if halved and report.status != "out_of_memory":
        return
    measured = dict(report.measured)
    if measured.get("num_steps", 0.0) < FEWEST_STEPS:
        measured.pop("step_seconds", None)
    plan = report.plan
    row = row_of(
        Ran(
            plan.model, plan.estimate.trainer, settings, device.name, "run", report.status,
            measured, report.predicted,
        )
    )  # fmt: skip
    try:
        append_record(row)
    except FtadvisorError as error:
        journal.say("measurements", f"not recorded: {error.message}")
