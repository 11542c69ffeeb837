"""What measurements say of the estimate's own numbers: factors on the shipped ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, cast

from ftadvisor.schema.coefficients import Interval
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.read_only import writable


class Factors(NamedTuple):
    """Multipliers of what is shipped; 1 changes nothing."""

    rate: float = 1.0
    """Of the share of the matrix rate."""
    bandwidth: float = 1.0
    """Of the share of the memory's bandwidth."""
    host: float = 1.0
    """Of the host's seconds for a kernel and for a step."""
    cache: float = 1.0
    """Of what the allocator reserves above what is allocated."""


class Adjusted(NamedTuple):
    """What holds for one machine, one type of GPU or one family."""

    factors: Factors
    context_bytes: float | None
    """Of a CUDA process [bytes]; None: as shipped."""
    time: Interval
    """Measured over predicted seconds, once calibrated."""
    rows: int
    """Measurements that count for something: outliers are not among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Fitted on measurements; an argument of `estimate`, never a state of the program."""

    machines: Mapping[str, Adjusted] = field(default_factory=dict[str, Adjusted])
    gpus: Mapping[str, Adjusted] = field(default_factory=dict[str, Adjusted])
    """By the catalogue's id."""
    families: Mapping[str, Adjusted] = field(default_factory=dict[str, Adjusted])
    """By architecture."""
    here: Mapping[str, str] = field(default_factory=dict[str, str])
    """GPUs of this machine to its id among `machines`."""
    cpu: Gpu | None = None
    """This machine's CPU, as its probe measured it; None: not probed."""
    links: Mapping[str, float] = field(default_factory=dict[str, float])
    """What a machine's GPUs were measured to exchange, by its id [bytes/s]."""
    stale: tuple[str, ...] = ()
    """Ids of machines whose rates were measured with other libraries than are here now."""
    outliers: tuple[str, ...] = ()
    """Rows that were left out of account, and why."""
    warnings: tuple[str, ...] = ()

    def of(self, gpu: Gpu) -> tuple[Adjusted, str] | None:
        """What holds for a GPU, and in a word whose measurements it is; None: nothing."""
        machine = self.machines.get(self.here.get(gpu.id, ""))
        if machine is not None:
            return machine, "this machine"
        if gpu.id in self.gpus:
            return self.gpus[gpu.id], gpu.id
        found = self.families.get(gpu.arch)
        return None if found is None else (found, f"{gpu.arch} GPUs")

    def is_measured(self, gpu: Gpu) -> bool:
        """Whether it is this machine's own measurements that hold for a GPU."""
        return self.here.get(gpu.id) in self.machines

    def is_stale(self, gpu: Gpu) -> bool:
        """Whether this machine's own numbers for a GPU are of other libraries."""
        return self.here.get(gpu.id) in self.stale

    def link_of(self, gpu: Gpu) -> float | None:
        """Achieved between GPUs of this kind on this machine [bytes/s]; None: not measured."""
        return self.links.get(self.here.get(gpu.id, ""))

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Calibration:
        """What `as_dict` made; TypeError, KeyError, AttributeError for what it did not."""
        cpu: Any = found["cpu"]
        return cls(
            machines=_adjusted(found["machines"]),
            gpus=_adjusted(found["gpus"]),
            families=_adjusted(found["families"]),
            here=dict(found["here"]),
            cpu=Gpu(**cpu) if cpu else None,
            links=dict(found["links"]),
            stale=tuple(found["stale"]),
            outliers=tuple(found["outliers"]),
            warnings=tuple(found["warnings"]),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and numbers."""
        found = cast("dict[str, Any]", writable(asdict(self)))
        for level in ("machines", "gpus", "families"):
            table = cast("Mapping[str, Adjusted]", getattr(self, level))
            found[level] = {
                key: {
                    **row._asdict(),
                    "factors": row.factors._asdict(),
                    "time": row.time._asdict(),
                }
                for key, row in table.items()
            }
        return found


def _adjusted(table: Mapping[str, Any]) -> dict[str, Adjusted]:
    return {
        key: Adjusted(
            Factors(**row["factors"]), row["context_bytes"], Interval(**row["time"]), row["rows"]
        )
        for key, row in table.items()
    }
