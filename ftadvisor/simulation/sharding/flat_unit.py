"""A unit of FSDP1: all its parameters are one flat tensor, of which each rank has a slice.

Written from torch 2.13, torch/distributed/fsdp/_flat_param.py and _runtime_utils.py, with
use_orig_params off, which is accelerate's default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftadvisor.errors import UnsupportedError
from ftadvisor.simulation.sharding.division import tensors_with_gradient
from ftadvisor.simulation.sharding.unit import Unit
from ftadvisor.simulation.stack import torch


@dataclass(kw_only=True, eq=False)
class FlatUnit(Unit):
    """See the module. Raises UnsupportedError for parameters that FSDP1 cannot make one of."""

    full_shard: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        self._full: Any = None
        self._unreduced: Any = None
        self._handle: Any = None
        self._awaited: set[int] = set()
        for _, parameter in self.trained:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def divide(self) -> None:
        """One shard of all parameters."""
        stored = self._stored_dtype()
        self.dtype = self.precision.gathered(stored)
        self.numel = sum(self._elements(p) for _, p in self.division.parameters)
        size = -(-self.numel // self.ranks)
        self.shard = self._shard(size, stored, trained=bool(self.trained))

    def _stored_dtype(self) -> Any:
        floating = {p.dtype for _, p in self.division.parameters if p.is_floating_point()}
        training = {p.requires_grad for _, p in self.division.parameters}
        if len(floating) > 1 or len(training) > 1:
            reason = "FSDP1 makes one tensor of them, which has one dtype and trains or does not"
            name = self.division.name or "the root"
            raise UnsupportedError.of(f"the parameters of {name}", reason, ["the closed form"])
        return floating.pop()

    def _elements(self, parameter: Any) -> int:
        """4-bit weights are stored in the unit's dtype (bnb_4bit_quant_storage)."""
        if parameter.is_floating_point():
            return int(parameter.numel())
        return int(-(-parameter.nbytes // self._stored_dtype().itemsize))

    def shards(self) -> list[tuple[str, Any, list[Any]]]:
        """One for all parameters."""
        name = f"{self.division.name}.flat_param".lstrip(".")
        return [(name, self.shard, [p for _, p in self.division.parameters])]

    def gather(self, issuer: str) -> None:
        """The shard in the lower precision is there until all shards are together."""
        if self._full is not None:
            return
        size = self.shard.numel()
        low = None
        if self.dtype != self.shard.dtype:
            low = self._buffer(size, self.dtype, "all_gather_input", "gathered", issuer)
        self._full = self._buffer(size * self.ranks, self.dtype, "all_gather", "gathered", issuer)
        del low

    def free(self) -> None:
        """Reshard."""
        self._full = None

    def watch_inputs(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """A frozen unit goes when its inputs' gradients are there; the handle on them is kept to
        the end of backward, and holds inputs that are leaves (those of reentrant checkpointing)
        with their gradients: _register_post_backward_reshard_only_hook.
        """
        inputs = tensors_with_gradient((args, kwargs))
        if torch.is_grad_enabled() and not self.trained and self._handle is None and inputs:
            hook = torch.autograd.graph.register_multi_grad_hook
            self._handle = hook(inputs, self._passed)
        return args, kwargs

    def _passed(self, _: Any) -> None:
        self._reshard()

    def _reshard(self) -> None:
        """_should_free_in_backward."""
        if self.full_shard or self.synchronised:
            self.free()

    def _arrived(self, parameter: Any) -> None:
        self._awaited.discard(id(parameter))
        if not self._awaited:
            self._reduce()

    def _reduce(self) -> None:
        """The flat gradient is concatenated of all (SplitWithSizesBackward), then scattered."""
        with torch.no_grad():
            whole = self._buffer(self.numel, self.dtype, "cat", "gradients")
            for _, parameter in self.trained:
                parameter.grad = None
            self._reshard()
            if self._unreduced is not None:
                whole = self._unreduced
            self._unreduced = None if self.synchronised else whole
            if not self.synchronised:
                return
            size = self.shard.numel()
            padded = None
            if size * self.ranks > self.numel:
                padded = self._buffer(size * self.ranks, self.dtype, "pad", "gradients")
            scattered = self._buffer(size, self.dtype, "reduce_scatter", "gradients")
            if self.dtype != self.shard.dtype:
                scattered = self._buffer(size, self.shard.dtype, "_to_copy", "gradients")
            del whole, padded
            self._accumulate(self.shard, scattered)

    def end_backward(self) -> None:
        """_post_backward_final_callback; parameters that nothing has used have zeros."""
        if self._awaited and any(p.grad is not None for _, p in self.trained):
            self._reduce()
        self._reshard()
        self.begin()

    def begin(self) -> None:
        """All gradients are due again."""
        super().begin()
        if self._handle is not None:
            self._handle.remove()
        self._handle = None
        self._awaited = {id(p) for _, p in self.trained}
