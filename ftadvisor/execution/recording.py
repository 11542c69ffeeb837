"""A run's own figures among the user's measurements, from which later estimates learn."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace

from ftadvisor.errors import FtadvisorError
from ftadvisor.execution.device import Device
from ftadvisor.execution.journal import Journal
from ftadvisor.execution.launching import ran_out
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
    halved = any(event.kind == "out_of_memory" for event in journal.events)
    if halved and report.status != "out_of_memory":
        return
    # That the settings need too much is recorded: the first attempt's processes have done it.
    if ran_out():
        return
    measured = dict(report.measured)
    if measured.get("num_steps", 0.0) < FEWEST_STEPS:
        measured.pop("step_seconds", None)
    plan = report.plan
    row = row_of(
        Ran(
            plan.model, plan.estimate.trainer, _as_counted(settings, measured), device.name, "run",
            report.status, measured, report.predicted,
        )
    )  # fmt: skip
    try:
        append_record(row)
    except FtadvisorError as error:
        journal.say("measurements", f"not recorded: {error.message}")


def _as_counted(settings: Settings, measured: Mapping[str, float]) -> Settings:
    """The settings with the tokens of a row that the trainer counted, where the plan has a guess.

    The longest row is as many times the mean as was planned: nobody counts it.
    """
    guessed = settings.mean_length
    # Of rows as long as the limit there is nothing to guess.
    if settings.packing or guessed >= settings.max_length or not guessed:
        return settings
    rows = settings.micro_batch_size * settings.gradient_accumulation_steps * settings.num_gpus
    counted = measured.get("tokens_per_step", 0.0) / float(rows)
    mean = min(counted, float(settings.max_length))
    if not mean:
        return settings
    longest = math.ceil(max(mean, settings.longest_length * mean / guessed))
    return replace(
        settings, mean_length=mean, longest_length=min(longest, int(settings.max_length))
    )
