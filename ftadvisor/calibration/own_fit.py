"""Fits a user's measurements: a few factors on the shipped numbers, shrunk towards them.

Factors are logarithms with priors in three levels: a machine's lie around its GPU type's, those
around the family's, those around what is shipped. One fit finds all of them, so that a row counts
once. Most machines are as shipped and a few far from it, so a machine's priors have a Cauchy's long
tails: a residual as small as the formula's own errors moves little, a large one all. Rows weigh by
how far they lie from the others of their machine (Tukey's biweight), so that a mistaken one decides
nothing; where most of them disagree nobody knows which is mistaken, and each counts for something.
Without rows there is nothing to fit and no calibration.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ftadvisor.calibration.cases import Case
from ftadvisor.calibration.quantiles import residual_interval
from ftadvisor.estimation.calibrated import CPU, calibrated_time, cpu_time, linked_time
from ftadvisor.estimation.ladder import ladder
from ftadvisor.estimation.time import step_time, time_kind
from ftadvisor.estimation.uncertainty import interval
from ftadvisor.schema.calibration import Adjusted, Calibration, Factors
from ftadvisor.schema.coefficients import (
    CpuCoefficients,
    Interval,
    MemoryCoefficients,
    TimeCoefficients,
)
from ftadvisor.schema.hardware import Gpu
from ftadvisor.units import GIB

SPREAD = 0.1
"""Relative error of a row, as in `time_fit`: reruns of one experiment differ by that much."""
LEAST_SPREAD = 0.03
"""Steps of one run differ by as much."""
NORMAL_MAD = 1.4826
"""A normal spread over the median distance from the median."""
BIWEIGHT = 4.685
"""Spreads beyond which a row counts for nothing (Beaton and Tukey 1974: 95 % efficiency)."""
FEWEST_TO_REJECT = 3
"""Rows of a machine: two that disagree do not say which of them is mistaken."""
PARAMETERS = ("rate", "bandwidth", "host")
LENGTHS = ("mean_length", "mean_padded_length", "longest_length", "typical_length")
"""Of a setting, what the data has."""
ITERATIONS = 20
QUARTILE = 0.6745
"""Of a normal's spread: half of all lies nearer, as within a Cauchy distribution's scale. The fit
begins with the normal."""
STEP = 0.02
"""Of a logarithm, for the slopes."""
FEWEST_FOR_RANKS = 20
"""Residuals whose order statistics give a 90 % interval; fewer widen the shipped one's spread."""
SHIPPED_ROWS = 4.0
"""What the shipped spread counts beside a machine's own residuals."""
NORMAL_90 = 1.645
ROUNDING = 0.25 * GIB
"""Spread of the context before it was seen, as in `memory_fit.PRIORS`."""
OF_A_MACHINE = 0.1
"""Spread of the rates of machines with the same GPU: reruns of one experiment differ by a factor of
1.23 (data/measurements/FORMAT.md)."""
OF_A_GPU = 0.05
"""Of the host's factor between GPUs: it is the machine's processor that launches."""


class Shipped(NamedTuple):
    """What is moved."""

    time: TimeCoefficients
    intervals: Mapping[str, Interval]
    memory: MemoryCoefficients
    cpu: CpuCoefficients


class _Row(NamedTuple):
    case: Case
    gpu: Gpu
    machine: str
    measured: float
    """Logarithm of the seconds of a micro-step."""
    time: TimeCoefficients
    """As shipped, with the machine's own link where that was measured; of a processor, its own."""

    @property
    def spread(self) -> float:
        """Of its logarithm: where its own steps lay further apart than reruns do, theirs."""
        return max(SPREAD, float(self.case.measurement.row.get("step_seconds_spread") or 0.0))

    @property
    def setting(self) -> tuple[str, str, str]:
        """Whose runs of what, whatever the data: the formula is as far off in each of them."""
        s = self.case.situation
        lengths = dict.fromkeys(LENGTHS, 0)
        return self.machine, self.case.measurement.model, repr(replace(s.settings, **lengths))


def fit_calibration(
    cases: Iterable[Case],
    shipped: Shipped,
    here: Mapping[str, str],
    cpu: Gpu | None = None,
    links: Mapping[str, float] | None = None,
) -> Calibration:
    """The calibration of these measurements; an empty one without any.

    `here`: this machine's GPUs to its id; `cpu`: its processor, whose rows say `cpu`; `links`: what
    machines' GPUs exchange, by id [bytes/s].
    """
    links = links or {}
    every = [c for c in cases if c.measurement.gpu != CPU or cpu is not None]
    rows = [
        _Row(
            c,
            gpu,
            (machine := machine_of(c)),
            math.log(seconds),
            _time(shipped, gpu, links.get(machine)),
        )
        for c in every
        if (gpu := cpu if c.measurement.gpu == CPU else c.gpu) is not None
        and (seconds := c.measurement.micro_step_seconds)
    ]
    if not rows and not any(c.gpu for c in every):
        return Calibration(here=here, cpu=cpu, links=links)
    fit = _Fit(rows, shipped)
    memory = _Memory(every, shipped.memory)
    machines = {r.machine: r.gpu for r in rows}
    adjusted: dict[str, dict[str, Adjusted]] = {}
    for level, key_of in (("machine", None), ("gpu", "id"), ("family", "arch")):
        table = adjusted.setdefault(level, {})
        for machine, gpu in machines.items():
            key = machine if key_of is None else str(getattr(gpu, key_of))
            if key not in table:
                table[key] = fit.adjusted(level, key, gpu, memory)
    return Calibration(
        machines=adjusted["machine"],
        gpus={k: v for k, v in adjusted["gpu"].items() if k != CPU},
        families={k: v for k, v in adjusted["family"].items() if k != CPU},
        here=here,
        cpu=cpu,
        links=links,
        outliers=tuple(fit.outliers()),
    )


def _time(shipped: Shipped, gpu: Gpu, link: float | None) -> TimeCoefficients:
    if gpu.id == CPU:
        return cpu_time(shipped.time, gpu, shipped.cpu)
    return linked_time(shipped.time, gpu, link)


def machine_of(case: Case) -> str:
    """Whose measurement a row is: a published one's source and program stand for its machine."""
    m = case.measurement
    return str(m.row.get("machine") or f"{m.source}: {m.row['framework']} on {m.gpu}")


class _Fit:
    """The joint fit of all levels."""

    def __init__(self, rows: Sequence[_Row], shipped: Shipped) -> None:
        self.rows, self.shipped = rows, shipped
        self.nodes: dict[tuple[str, str], int] = {}
        self.paths = [
            [self._node("family", r.gpu.arch), self._node("gpu", r.gpu.id),
             self._node("machine", r.machine)]
            for r in rows
        ]  # fmt: skip
        widths = level_widths(shipped.time)
        precision: list[float] = []
        on_cpu = {
            i for r, path in zip(rows, self.paths, strict=True) for i in path[2:] if r.gpu.id == CPU
        }
        for (level, _), index in self.nodes.items():
            of_node = (shipped.cpu.spread,) * 3 if index in on_cpu else widths[level]
            precision += [1 / w**2 for w in of_node]
        self.precision = np.array(precision)
        self.on_cpu = on_cpu
        self.values = np.zeros(len(precision))
        self.weights = np.ones(len(rows))
        settings = [row.setting for row in rows]
        of_setting: dict[tuple[str, ...], list[int]] = {}
        for i, setting in enumerate(settings):
            of_setting.setdefault(setting, []).append(i)
        self.alike = [of_setting[setting] for setting in settings]
        # Runs of one setting count as one: repeated, what the formula lacks would pass for the
        # machine's.
        self.variances = np.array([r.spread**2 * len(self.alike[i]) for i, r in enumerate(rows)])
        self.leverage = np.zeros(len(rows))
        self.residuals = np.zeros(len(rows))
        self._solve()

    def _node(self, level: str, key: str) -> int:
        return self.nodes.setdefault((level, key), len(self.nodes))

    def _solve(self) -> None:
        size = len(PARAMETERS)
        for iteration in range(ITERATIONS):
            precision = self.precision * (self._pull() if iteration else 1.0)
            found, slopes = self._predicted()
            self.residuals = np.array([r.measured for r in self.rows]) - found
            self.weights = self._weigh(self.residuals, soft=iteration < ITERATIONS // 3)
            design = np.zeros((len(self.rows), len(self.values)))
            for i, path in enumerate(self.paths):
                for node in path:
                    design[i, node * size : (node + 1) * size] = slopes[i]
            scaled = design * (self.weights / self.variances)[:, None]
            normal = scaled.T @ design + np.diag(precision)
            moved = scaled.T @ self.residuals - precision * self.values
            step = np.linalg.solve(normal, moved)
            # How much of its own residual each row explains away.
            self.leverage = np.einsum("ij,ij->i", scaled @ np.linalg.inv(normal), design)
            self.values = self.values + np.clip(step, -0.7, 0.7)
            if np.abs(step).max(initial=0.0) < 1e-6 and iteration > ITERATIONS // 2:
                break
        found, _ = self._predicted(slopes=False)
        self.residuals = np.array([r.measured for r in self.rows]) - found

    def _pull(self) -> np.ndarray:
        """A Cauchy prior's weight of each value (Lange 1989, one degree of freedom): by how far a
        machine's factors lie in all, so that the levels share a distance as they would share a
        small one. A processor's, whose rates were measured, stay normal."""
        size = len(PARAMETERS)
        weights: dict[int, list[float]] = {index: [] for index in self.nodes.values()}
        for path in {tuple(path) for path in self.paths}:
            at = [i * size + j for i in path for j in range(size)]
            far = float(np.sum(self.precision[at] * self.values[at] ** 2)) / QUARTILE**2
            own = 1.0 if self.on_cpu.intersection(path) else 2 / (1 + far) / QUARTILE**2
            for index in path:
                weights[index].append(own)
        return np.repeat([statistics.fmean(weights[i]) for i in range(len(self.nodes))], size)

    def _weigh(self, residuals: np.ndarray, *, soft: bool) -> np.ndarray:
        """Full weight near the machine's median; softly (Huber's) at first, from where all begins,
        and where its rows agree on no middle: only a majority can reject the others."""
        weights = np.ones(len(residuals))
        for machine in {r.machine for r in self.rows}:
            own = np.array([i for i, r in enumerate(self.rows) if r.machine == machine])
            away = np.abs(residuals[own] - np.median(residuals[own]))
            away = away / min(max(NORMAL_MAD * float(np.median(away)), LEAST_SPREAD), SPREAD)
            found = np.maximum(1 - (away / BIWEIGHT) ** 2, 0.0) ** 2
            if soft or len(own) < FEWEST_TO_REJECT or found.sum() <= len(own) / 2:
                found = 1 / np.maximum(away, 1.0)
            weights[own] = found
        return weights

    def factors(self, path: Sequence[int]) -> np.ndarray:
        """Logarithms of the factors that hold along a path of nodes."""
        size = len(PARAMETERS)
        return sum((self.values[n * size : (n + 1) * size] for n in path), np.zeros(size))

    def _predicted(self, *, slopes: bool = True) -> tuple[np.ndarray, np.ndarray]:
        size = len(PARAMETERS)
        found = np.zeros(len(self.rows))
        moved = np.zeros((len(self.rows), size))
        for i, (row, path) in enumerate(zip(self.rows, self.paths, strict=True)):
            at = self.factors(path)
            found[i] = log_seconds(row.case, row.gpu, row.time, at)
            for j in range(size if slopes else 0):
                further = at.copy()
                further[j] += STEP
                beyond = log_seconds(row.case, row.gpu, row.time, further)
                moved[i, j] = (beyond - found[i]) / STEP
        return found, moved

    def adjusted(self, level: str, key: str, gpu: Gpu, memory: _Memory) -> Adjusted:
        """What holds at one node: the factors of all above it and its own, and the interval."""
        path = [
            self.nodes[found]
            for found in (("family", gpu.arch), ("gpu", gpu.id), (level, key))
            if found in self.nodes and (level != "family" or found[0] == "family")
        ]
        path = list(dict.fromkeys(path))
        at = np.exp(self.factors(path))
        own = [i for i, p in enumerate(self.paths) if self.nodes[level, key] in p]
        members = {self.rows[i].machine for i in own}
        context, cache = memory.of(members)
        rate, bandwidth, host = (float(v) for v in at)
        # What hosts were measured to take is part of the rows' own prediction.
        slowness = statistics.median(self.rows[i].case.situation.host_slowness for i in own)
        factors = Factors(rate, bandwidth, host * slowness, cache)
        counted = int(np.count_nonzero(self.weights[own]))
        found = self._interval(own)
        if level != "machine":
            # For machines that nobody measured: how far they lie from these, no residual shows.
            found = found.outermost(self.shipped.intervals["time"])
        return Adjusted(factors, context, found, counted)

    def _interval(self, own: list[int]) -> Interval:
        """From residuals as each row's would be if its setting had not been in the fit."""
        share = [1 / len(self.alike[i]) for i in own]
        leverage = [float(self.leverage[self.alike[i]].sum()) for i in own]
        left = [
            float(self.residuals[i]) / max(1 - min(of, 0.95), 0.05)
            for i, of in zip(own, leverage, strict=True)
        ]
        settings = math.fsum(share)
        if round(settings) >= FEWEST_FOR_RANKS:
            return residual_interval([math.exp(v) for v in left], share)
        spread = statistics.fmean(self._shipped_spread(i) for i in own) if own else SPREAD
        # An outlier shows that there are such, but not twice as many as it is.
        squares = [min(abs(v), 3 * spread) ** 2 * of for v, of in zip(left, share, strict=True)]
        square = (SHIPPED_ROWS * spread**2 + sum(squares)) / (SHIPPED_ROWS + settings)
        half = NORMAL_90 * math.sqrt(square * (1 + 1 / max(settings, 1)))
        return Interval(math.exp(-half), math.exp(half), len(own))

    def _shipped_spread(self, index: int) -> float:
        row = self.rows[index]
        s = row.case.situation
        kind = time_kind(s.settings, s.trainer, row.gpu, self.shipped.time)
        found = interval(self.shipped.intervals, "time", kind)
        return math.log(found.high / found.low) / (2 * NORMAL_90)

    def outliers(self) -> Iterable[str]:
        """Rows that count for nothing, and how far off they are."""
        for row, weight, residual in zip(self.rows, self.weights, self.residuals, strict=True):
            if weight == 0.0:
                ratio = math.exp(residual)
                yield f"{row.case.measurement.id}: {ratio:.2g} times what the others say"


def log_seconds(case: Case, gpu: Gpu, c: TimeCoefficients, factors: np.ndarray) -> float:
    """Logarithm of a case's predicted micro-step, at logarithms of factors."""
    rate, bandwidth, host = (float(v) for v in np.exp(factors))
    s = case.situation
    found = step_time(
        case.model,
        s.settings,
        s.trainer,
        case.adapter,
        gpu,
        calibrated_time(c, gpu, Factors(rate, bandwidth, host)),
        _ANY,
        s.host_slowness * host,
    )
    return math.log(found.micro_step_seconds)


_ANY = {"time": Interval(1.0, 1.0, 0)}


def level_widths(c: TimeCoefficients) -> dict[str, tuple[float, float, float]]:
    """How far factors of a level lie from those above, from the shipped fit's own entries.

    Rates: a GPU's efficiency from its kind's mean; the bandwidth's share has no entries and is
    taken to spread as far. The host's: launches of the programs that were measured.
    """
    rate = _spread(list(c.efficiency.values()))
    host = _spread(list(c.launch_seconds.values()))
    return {
        "family": (rate, rate, OF_A_GPU),
        "gpu": (rate, rate, OF_A_GPU),
        "machine": (OF_A_MACHINE, OF_A_MACHINE, host),
    }


def _spread(values: list[float]) -> float:
    return statistics.stdev(math.log(v) for v in values) if len(values) > 1 else SPREAD


class _Memory:
    """Context and cache, from rows that state several metrics of one run."""

    def __init__(self, cases: Sequence[Case], c: MemoryCoefficients) -> None:
        self.context: dict[str, list[float]] = {}
        self.cache: dict[str, list[float]] = {}
        self.shipped = c
        for case in cases:
            row, machine = case.measurement.row, machine_of(case)
            reserved, device = row.get("memory_gib_reserved"), row.get("memory_gib_device")
            if case.gpu is None or case.measurement.memory_metric != "allocated" or not reserved:
                continue
            if device and device > reserved and (row.get("num_gpus") or 1) == 1:
                self.context.setdefault(machine, []).append((device - reserved) * GIB)
            s = case.situation
            above = float(ladder(case.phases, s.settings, s.trainer, c).reserved)
            above -= case.allocated_bytes
            held = (reserved - (case.measurement.memory_gib or reserved)) * GIB
            if above > 0 and held > 0:
                self.cache.setdefault(machine, []).append(math.log(held / above))

    def of(self, machines: Iterable[str]) -> tuple[float | None, float]:
        """The context [bytes] and the cache's factor of some machines."""
        keys = sorted(machines)
        contexts = [v for key in keys for v in self.context.get(key, ())]
        logs = [v for key in keys for v in self.cache.get(key, ())]
        context = None
        if contexts:
            # A context is the same in every run: one row says it.
            middle = statistics.median(contexts)
            weight = len(contexts) / (len(contexts) + (0.1 * GIB / ROUNDING) ** 2)
            context = weight * middle + (1 - weight) * self.shipped.context_bytes
        shrunk = len(logs) / (len(logs) + SHIPPED_ROWS)
        return context, math.exp(shrunk * statistics.median(logs)) if logs else 1.0
