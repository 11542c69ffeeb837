"""What FSDP1's and FSDP2's units have in common, and in which precision they travel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from ftadvisor.simulation.recording.record import Kind
from ftadvisor.simulation.recording.recorder import Recorder
from ftadvisor.simulation.sharding.division import Division, Named
from ftadvisor.simulation.stack import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """FSDP's mixed precision, as accelerate sets it: parameters are gathered and gradients reduced
    in the dtype of autocast (accelerate/utils/dataclasses.py, set_mixed_precision).
    """

    autocast: Any
    """None: everything in the dtype in which it is stored."""
    trained_fp32: bool
    """accelerate keeps what trains in fp32 then (accelerator.py, prepare_model)."""

    def stored(self, dtype: Any, *, trained: bool) -> Any:
        """The dtype of a shard."""
        if trained and self.trained_fp32 and self.autocast is not None:
            return torch.float32
        return dtype

    def gathered(self, dtype: Any) -> Any:
        """The dtype in which modules compute."""
        return dtype if self.autocast is None else self.autocast

    def cast(self, parameters: tuple[Named, ...]) -> None:
        """Give whole parameters the dtype in which modules find them."""
        for _, parameter in parameters:
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(self.gathered(parameter.dtype))


@dataclass(kw_only=True, eq=False)
class Unit(ABC):
    """Parameters that one rank has a share of, and has whole while their module computes.

    Modules compute with whole parameters that cost nothing; what they cost is recorded here, as
    buffers that are made and dropped when the library makes and frees them.
    """

    division: Division
    recorder: Recorder
    ranks: int
    precision: Precision
    trained: list[Named] = field(init=False)
    synchronised: bool = field(init=False, default=True)
    """Whether this backward reduces gradients: not under no_sync."""
    running: set[int] = field(init=False, default_factory=set[int])
    """Modules whose forward has not ended."""
    in_backward: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.trained = [(name, p) for name, p in self.division.parameters if p.requires_grad]
        self.divide()
        self.precision.cast(self.division.parameters)

    @abstractmethod
    def divide(self) -> None:
        """Make what this rank keeps of the parameters, while they have the dtype that is stored."""

    @abstractmethod
    def shards(self) -> list[tuple[str, Any, list[Any]]]:
        """A name, what this rank keeps, and the whole parameters that it is of."""

    @abstractmethod
    def gather(self, issuer: str) -> None:
        """All-gather, unless it has been done; `issuer` names the module whose hook asks for it."""

    def wait(self, *, forward: bool) -> None:
        """Make what was gathered usable; FSDP1 has nothing to do."""
        del forward

    @abstractmethod
    def free(self) -> None:
        """Drop what was gathered."""

    @abstractmethod
    def watch_inputs(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Arrange for what has to happen once backward has passed."""

    @abstractmethod
    def end_backward(self) -> None:
        """Catch up on what no hook has done (the root's final callback)."""

    def begin(self) -> None:
        """Before the next micro-batch."""
        self.in_backward = False
        self.running.clear()

    def _shard(self, shape: Any, dtype: Any, *, trained: bool) -> Any:
        stored = self.precision.stored(dtype, trained=trained)
        data = torch.empty(shape, dtype=stored, device="meta")
        return torch.nn.Parameter(data, requires_grad=trained)

    def _buffer(
        self, numel: int, dtype: Any, operation: str, kind: Kind, module: str | None = None
    ) -> Any:
        name = self.division.name if module is None else module
        with torch.no_grad():
            return self.recorder.buffer(numel, dtype, operation, kind, name)

    def _accumulate(self, shard: Any, gradient: Any) -> None:
        if shard.grad is None:
            shard.grad = gradient
        else:
            shard.grad += gradient
