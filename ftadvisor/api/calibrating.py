"""The calibration of the user's own measurements, and what an estimate takes from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from ftadvisor.errors import FtadvisorError, InvalidSettingError
from ftadvisor.estimation.calibrated import (
    CPU,
    OF_A_PROCESSOR,
    Fitted,
    calibrated_memory,
    calibrated_time,
    cpu_memory,
    cpu_of,
    cpu_time,
    linked_time,
    unseen,
)
from ftadvisor.schema.calibration import Adjusted, Calibration
from ftadvisor.schema.hardware import Gpu
from ftadvisor.sources.coefficients import (
    cpu_coefficients,
    cpu_memory_interval,
    memory_coefficients,
    memory_intervals,
    time_coefficients,
    time_intervals,
)
from ftadvisor.sources.directories import data_home
from ftadvisor.sources.gpus import GpuMatch, match_gpu
from ftadvisor.sources.records import MACHINES, NAME, Records, read_machines, read_records

LINK = "link_bytes_per_second"
"""Of a probed machine's record: what its GPUs exchange."""
ANY = "any"
"""In place of a GPU's name: whichever has a price."""
METRICS = ("allocated", "reserved", "device", "needed")
SPREAD_IS_NOISE = 0.1
"""Steps that differ by more: another process, a laptop on battery, a hot GPU."""


def fitted_for(gpu: Gpu | None, calibration: Calibration | None) -> Fitted:
    """What is shipped, with a calibration's factors where it knows the GPU."""
    shipped = _shipped()
    if gpu is None or calibration is None:
        return shipped
    if gpu.arch == CPU:
        shares = cpu_coefficients()
        # Independent errors add as squares.
        spread = shares.spread * (math.sqrt(2) if calibration.is_stale(gpu) else 1)
        shipped = shipped._replace(
            time=cpu_time(shipped.time, gpu, shares),
            memory=cpu_memory(shipped.memory),
            memory_intervals=dict.fromkeys(METRICS, cpu_memory_interval()),
            time_intervals={"time": unseen(spread)},
            said="of this processor products and copies were measured, no training step",
        )
    link = calibration.link_of(gpu)
    if link is not None:
        time = linked_time(shipped.time, gpu, link)
        shipped = shipped._replace(time=time, said="this machine's link between GPUs was measured")
    found = calibration.of(gpu)
    if found is None:
        return shipped
    adjusted, whose = found
    # How far other machines lie from those that were measured, these do not show.
    others = () if calibration.is_measured(gpu) else shipped.time_intervals.items()
    return Fitted(
        calibrated_memory(shipped.memory, adjusted),
        shipped.memory_intervals,
        calibrated_time(shipped.time, gpu, adjusted.factors),
        {"time": adjusted.time} | {k: adjusted.time.outermost(one) for k, one in others},
        adjusted.factors.host,
        f"calibrated with {adjusted.rows} measurement{'s' * (adjusted.rows != 1)} of {whose}",
    )


@cache
def _shipped() -> Fitted:
    return Fitted(memory_coefficients(), memory_intervals(), time_coefficients(), time_intervals())


def find_hardware(gpu: str, calibration: Calibration | None) -> GpuMatch:
    """A GPU by name; `cpu`: this machine's processor, where it was probed.

    Raises UnknownNameError, InvalidSettingError for a processor that was not.
    """
    if gpu.strip().lower() != CPU:
        return match_gpu(gpu)
    if calibration is None or calibration.cpu is None:
        # A probe is of no use to who leaves out what it measured.
        given = ["calibration=load_calibration() in Python"] if calibration is None else []
        left = ", or its calibration was left out" if calibration is None else ""
        raise InvalidSettingError(
            f"This machine's processor has not been probed{left}: nothing is known of its speed.",
            ["ftadvisor probe", *given, "no --gpu: memory alone"],
        )
    return GpuMatch(calibration.cpu, None)


def is_unmeasured(gpu: Any, num_gpus: int, calibration: Calibration | None) -> bool:
    """Whether it is this machine's processor, and nothing is known of what it does in a second.

    Several processes share it, and nobody has measured what that costs.
    """
    named = isinstance(gpu, str) and gpu.strip().lower() == CPU
    return named and (num_gpus > 1 or calibration is None or calibration.cpu is None)


def load_calibration(path: Path | None = None) -> Calibration | None:
    """The user's own, or that of another file of measurements; None: there are none.

    The user's own is fitted once for what it follows from, and then read.
    """
    if path is not None:
        return calibration_of(read_records(path))
    if not any((data_home() / name).exists() for name in (NAME, MACHINES)):
        return None
    # Only who has measurements pays for its imports.
    from ftadvisor.sources.kept_fit import keep_fit, kept_fit, origin

    of = origin()
    found = kept_fit(of)
    if found is None:
        found = calibration_of(read_records())
        keep_fit(of, found)
    return found


def speaks_of(calibration: Calibration, gpu: str) -> bool:
    """Whether measurements say something of a GPU by that name."""
    try:
        if gpu == ANY:
            return True
        found = find_hardware(gpu, calibration).gpu
        return found.arch == CPU or bool(fitted_for(found, calibration).said)
    except FtadvisorError:
        # A name that nobody knows is refused by the estimate itself.
        return False


def calibration_of(records: Records) -> Calibration:
    """The calibration of some records on this machine."""
    # numpy, and the rows' models: only who has measurements pays for them.
    from ftadvisor.calibration.cases import read_cases
    from ftadvisor.calibration.own_fit import Shipped, fit_calibration
    from ftadvisor.sources.measurement_rows import checked_rows
    from ftadvisor.sources.measurements import measurements_of
    from ftadvisor.sources.own_rows import machine_id

    rows, problems = checked_rows(records.rows)
    cases, reasons = read_cases(m for row in rows for m in measurements_of(row))
    probed, unreadable = read_machines()
    machine = probed.get(machine_id(CPU), {})
    cpu = cpu_of(machine) if machine.keys() >= OF_A_PROCESSOR else None
    shipped = Shipped(
        time_coefficients(), time_intervals(), memory_coefficients(), cpu_coefficients()
    )
    links = {i: float(m[LINK]) for i, m in probed.items() if m.get(LINK)}
    here = _here([*_probed_rows(probed), *rows])
    found = fit_calibration(cases, shipped, here, cpu, links)
    said = [*records.problems, *unreadable, *problems]
    noisy = [r["id"] for r in rows if (r.get("step_seconds_spread") or 0) > SPREAD_IS_NOISE]
    if noisy:
        said.append(
            f"{len(noisy)} measurement{'s have' if len(noisy) > 1 else ' has'} steps that differ"
            f" by over {SPREAD_IS_NOISE:.0%}"
            " (other processes, or a machine on battery)"
        )
    left_out = [f"{id_} cannot be predicted: {why}" for id_, why in reasons.items()]
    found = replace(found, warnings=tuple(said), outliers=(*found.outliers, *left_out))
    return _without_stale(found, rows, probed)


def _probed_rows(machines: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Probed machines in the words of rows: which GPU, and whose."""
    from ftadvisor.sources.own_rows import gpu_name

    for id_, machine in machines.items():
        if device := machine.get("device"):
            yield {"gpu_as_published": device, "gpu": gpu_name(str(device)), "machine": id_}


def _here(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Hardware that rows of this machine name, to its id."""
    from ftadvisor.sources.own_rows import machine_id

    found = {CPU: machine_id(CPU)}
    for row in rows:
        device = str(row.get("gpu_as_published") or row.get("gpu"))
        if row.get("machine") == machine_id(device):
            found[str(row["gpu"])] = str(row["machine"])
    return found


def _without_stale(
    found: Calibration, rows: Iterable[Mapping[str, Any]], probed: Mapping[str, Mapping[str, Any]]
) -> Calibration:
    """Wider where the libraries have changed since the machine's newest measurement, or since it
    was probed where no step was measured on it."""
    newest: dict[str, Any] = {id_: m["versions"] for id_, m in probed.items() if "versions" in m}
    newest |= {
        str(r["machine"]): r["versions"] for r in rows if r.get("machine") and r.get("versions")
    }
    machines = dict(found.machines)
    said = list(found.warnings)
    stale: list[str] = []
    for machine in found.here.values():
        changed = _changed(newest.get(machine, {}))
        if not changed:
            continue
        stale.append(machine)
        again = "ftadvisor probe is run again"
        if machine in machines:
            machines[machine] = _wider(machines[machine])
            again = "a plan is probed or run on it again"
        said.append(
            f"the calibration of this machine is stale ({', '.join(changed)}): its intervals"
            f" are wider until {again}"
        )
    return replace(found, machines=machines, stale=tuple(stale), warnings=tuple(said))


def _changed(versions: Mapping[str, str]) -> list[str]:
    """Libraries that are here in another version, in words."""
    now = _versions()
    return [
        f"{name} {then} to {now[name]}"
        for name, then in versions.items()
        if name in now and now[name] != then
    ]


def _wider(adjusted: Adjusted) -> Adjusted:
    """With the shipped interval's own spread beside it: independent errors add as squares."""
    shipped = time_intervals()["time"]
    low = math.hypot(math.log(adjusted.time.low), math.log(shipped.low))
    high = math.hypot(math.log(adjusted.time.high), math.log(shipped.high))
    time = adjusted.time._replace(low=math.exp(-low), high=math.exp(high))
    return adjusted._replace(time=time)


@cache
def _versions() -> dict[str, str]:
    from ftadvisor.sources.own_rows import versions

    return versions()
