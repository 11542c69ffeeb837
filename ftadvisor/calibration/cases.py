"""Measurements beside everything that is needed to predict them, resolved once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from ftadvisor.errors import FtadvisorError
from ftadvisor.estimation.memory import step_phases
from ftadvisor.estimation.phases import Phase
from ftadvisor.estimation.prediction import adapter_of
from ftadvisor.estimation.terms import AdapterBytes
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.measurement import Measurement, Situation
from ftadvisor.schema.model import ModelSpec
from ftadvisor.sources.gpus import find_gpu
from ftadvisor.sources.measurements import read_measurements, situation
from ftadvisor.sources.models import find_model
from ftadvisor.sources.techniques import find_technique

KNOWN_METRICS = ("allocated", "reserved", "device")
SCORED_GRADES = ("A", "B")
GPUS_OF_ONE_MACHINE = 8
SXM_BOARDS = {
    "a100-40gb": "a100-sxm4-40gb",
    "a100-80gb": "a100-sxm4-80gb",
    "h100-80gb": "h100-sxm5-80gb",
    "h200-141gb": "h200-sxm5-141gb",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement and what it is predicted from."""

    measurement: Measurement
    situation: Situation
    model: ModelSpec
    adapter: AdapterBytes | None
    gpu: Gpu | None
    phases: dict[str, Phase]

    @property
    def allocated_bytes(self) -> float:
        """The predicted allocated peak [bytes]."""
        return max(phase.total for phase in self.phases.values())

    @property
    def scored(self) -> bool:
        """Whether its grade and metric let its memory count."""
        m = self.measurement
        return m.grade in SCORED_GRADES and m.memory_metric in KNOWN_METRICS


def case_of(m: Measurement, *, stand_in: bool = False) -> Case:
    """One measurement, resolved. Raises FtadvisorError with the reason where it cannot be.

    `stand_in`: as if nothing were known of the program that ran it.
    """
    found = situation(m, stand_in=stand_in)
    model = find_model(m.model).spec
    technique = find_technique(found.settings.technique)
    adapter = adapter_of(model, found.settings, found.trainer, technique)
    gpu = _gpu(m)
    capability = gpu.compute_capability if gpu else ""
    phases = step_phases(model, found.settings, found.trainer, adapter, capability)
    return Case(m, found, model, adapter, gpu, phases)


def _gpu(m: Measurement) -> Gpu | None:
    """The GPU, or None where the row does not say which: memory can be predicted all the same.

    The published name tells boards apart that the normalised one joins. Where neither does, eight
    and more are SXM boards, which such machines are built of.
    """
    gpus = m.row.get("num_gpus") or 1
    names = [m.row.get("gpu_as_published"), m.gpu]
    if gpus >= GPUS_OF_ONE_MACHINE and m.gpu in SXM_BOARDS:
        names.insert(0, SXM_BOARDS[m.gpu])
    for name in names:
        try:
            return find_gpu(str(name))
        except FtadvisorError:
            continue
    return None


def read_cases(
    measurements: Iterable[Measurement], *, stand_in: bool = False
) -> tuple[list[Case], dict[str, str]]:
    """Cases, and for each row that has none the reason, by id."""
    cases: list[Case] = []
    reasons: dict[str, str] = {}
    for m in measurements:
        try:
            cases.append(case_of(m, stand_in=stand_in))
        except FtadvisorError as error:
            reasons[m.id] = error.message
    return cases, reasons


@cache
def repository_cases() -> tuple[Case, ...]:
    """The cases of `data/measurements/`."""
    return tuple(read_cases(read_measurements())[0])
