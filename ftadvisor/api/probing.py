"""`probe`: short real steps on this machine, recorded, and what they make of the estimate."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from ftadvisor.api.calibrating import SPREAD_IS_NOISE, load_calibration
from ftadvisor.api.plan_files import estimate_on, estimate_plan
from ftadvisor.api.run_plans import plan_of
from ftadvisor.api.running import PlanOptions
from ftadvisor.api.simulating import settings_of
from ftadvisor.errors import FtadvisorError
from ftadvisor.estimation.calibrated import CPU
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.plan import Plan, PlanHardware
from ftadvisor.schema.probe import Extrapolated, Probe, Slice
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.models import model_config
from ftadvisor.sources.own_rows import Ran, machine_id, row_of
from ftadvisor.sources.records import append_record, keep_machine, kept_machines

if TYPE_CHECKING:
    from ftadvisor.execution.device import Device


def probe_machine() -> dict[str, Any]:
    """What this machine does at its best, kept for later estimates. Needs the `run` extra."""
    _quiet_profiler()
    from ftadvisor.execution.device import find_device
    from ftadvisor.execution.probing.machine import probe_machine as measured
    from ftadvisor.execution.probing.machine import warnings_of
    from ftadvisor.execution.stack import quieten

    device = find_device()
    quieten()
    found = measured(device)
    said = warnings_of(found)
    try:
        keep_machine(found)
    except FtadvisorError as error:
        said.append(f"not kept: {error.message}")
    return {**found, "warnings": said}


def probe(
    plan: Plan | str | os.PathLike[str] | None = None,
    *,
    model: str | None = None,
    technique: str | None = None,
    objective: str | None = None,
    **options: Unpack[PlanOptions],
) -> Probe:
    """Slices of a plan's model on this machine: two and four layers, a few steps each.

    The measurement is added to the user's own records, so that later estimates for this machine
    are calibrated with it. Needs the `run` extra; no weights, no network.
    """
    given: dict[str, Any] = {**options, "model": model, "technique": technique}
    said: list[str] = []
    made = _on_one_gpu(plan, given | {"objective": objective}, said)
    _quiet_profiler()
    from ftadvisor.execution.device import find_device
    from ftadvisor.execution.probing import slices as probing
    from ftadvisor.execution.probing.extrapolation import extrapolated
    from ftadvisor.execution.stack import quieten

    device = find_device().name
    quieten()
    settings = settings_of(made.estimate)
    config = model_config(made.model)
    said += _before(find_device())
    try:
        slices = probing.probe_slices(made, config, settings, find_device())
    except probing.TooLargeError as error:
        _record(_row(made, settings, device, "oom", {}, {}, ()), said)
        raise error
    whole = extrapolated(slices, probing.depth(probing.transformers_config(config)))
    # Every row of a slice has one length, whatever the plan's have.
    lengths = dict.fromkeys(("max_length", "mean_length", "longest_length"), slices[0].max_length)
    settings = replace(settings, **lengths, mean_padded_length=0.0, typical_length=0)
    probed = replace(made, settings={**made.settings, **lengths})
    before = _figures(made, probed, device)
    row = _row(made, settings, device, "done", _measured(whole, slices), before, slices)
    _record(row, said)
    return Probe(
        machine=machine_id(device),
        slices=slices,
        whole=whole,
        predicted=before,
        calibrated=_figures(made, probed, device),
        warnings=(*said, *_doubts(whole, slices)),
    )


def _before(here: Device) -> list[str]:
    """What disturbs the figures; a processor of whose speed nothing is known is probed first."""
    from ftadvisor.execution.probing.machine import disturbances

    if here.is_cpu and machine_id(CPU) not in kept_machines():
        return probe_machine()["warnings"]
    return disturbances(here)


def _on_one_gpu(
    plan: Plan | str | os.PathLike[str] | None, given: dict[str, Any], said: list[str]
) -> Plan:
    """The plan, for the GPU that a slice runs on."""
    made = plan_of(plan, {k: v for k, v in given.items() if v is not None}, needs_data=False)
    if made.hardware.num_gpus == 1:
        return made
    said.append("one GPU was probed, with all weights; `ftadvisor probe` alone measures links")
    return plan_of(made, {}, processes=1)


def _measured(whole: Extrapolated, slices: tuple[Slice, ...]) -> dict[str, float]:
    """The whole model's figures that are known, by the names of the estimate's record."""
    found = {
        "step_seconds": whole.step_seconds,
        "allocated_bytes": whole.allocated_bytes,
        "reserved_bytes": whole.reserved_bytes,
        "device_bytes": whole.device_bytes,
        "step_seconds_spread": max(s.spread or 0.0 for s in slices),
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _doubts(whole: Extrapolated, slices: tuple[Slice, ...]) -> list[str]:
    """Why the figures may be off."""
    said: list[str] = []
    spread = max(s.spread or 0.0 for s in slices)
    if spread > SPREAD_IS_NOISE:
        said.append(f"steps differ by {spread:.0%}: other processes, or a machine on battery?")
    if any(s.status == "oom" for s in slices):
        said.append("a slice ran out of memory: smaller ones were measured")
    if whole.step_seconds is None:
        said.append("fewer layers took longer than more: no time follows, other processes run")
    return said


def _quiet_profiler() -> None:
    """Kineto and the CPU's allocator write to standard error; both read this when torch loads."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def figures(estimate: Estimate) -> dict[str, float]:
    """An estimate's numbers by the names of its record."""
    found = estimate.as_dict()
    numbers: dict[str, Any] = {}
    for part in ("memory", "time", "cost"):
        numbers |= found[part] or {}
    return {k: float(v) for k, v in numbers.items() if isinstance(v, int | float)}


def _figures(plan: Plan, probed: Plan, device: str) -> dict[str, float]:
    """A step as it was probed, and the plan's whole run."""
    run = figures(_estimated(plan, device))
    return figures(_estimated(probed, device)) | {k: v for k, v in run.items() if "total" in k}


def _estimated(plan: Plan, device: str) -> Estimate:
    """The plan's estimate for the hardware at hand, with what is known of it by now."""
    found = estimate_on(device, plan, load_calibration())
    if found is not None:
        return found
    return estimate_plan(replace(plan, hardware=PlanHardware(gpu=None, num_gpus=1)))


def _row(
    plan: Plan,
    settings: Settings,
    device: str,
    status: str,
    measured: Mapping[str, float],
    predicted: Mapping[str, float],
    slices: tuple[Slice, ...],
) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if slices:
        more["slices"] = [{**s._asdict(), "peaks": dict(s.peaks)} for s in slices]
    # How fast this host launches, where the machine was probed before.
    launch = kept_machines().get(machine_id(device), {}).get("launch_seconds")
    if launch:
        more["host_launch_seconds"] = launch
    return row_of(
        Ran(
            plan.model, plan.estimate.trainer, settings, device, "probe", status, measured,
            predicted, more,
        )
    )  # fmt: skip


def _record(row: Mapping[str, Any], said: list[str]) -> None:
    """Kept where it can be; the probe's answer comes all the same."""
    try:
        append_record(row)
    except FtadvisorError as error:
        said.append(f"not recorded: {error.message}")
