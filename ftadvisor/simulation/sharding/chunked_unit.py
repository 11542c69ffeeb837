"""A unit of FSDP2: each parameter is cut along its first dimension, and they travel together.

Written from torch 2.13, torch/distributed/fsdp/_fully_shard: _fsdp_param_group.py and
_fsdp_collectives.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ftadvisor.simulation.sharding.division import tensors_with_gradient
from ftadvisor.simulation.sharding.unit import Unit
from ftadvisor.simulation.stack import torch


@dataclass
class Exchange:
    """What all units of a model share: buffers that outlive the collective that filled them."""

    gathered: Any = None
    """A forward's last all-gather output: it is freed at the next unit's copy-out."""
    scattered: list[Any] = field(default_factory=list[Any])
    """A reduce-scatter's input: it is freed at the next unit's post-backward."""


@dataclass(kw_only=True, eq=False)
class ChunkedUnit(Unit):
    """See the module."""

    exchange: Exchange

    def __post_init__(self) -> None:
        super().__post_init__()
        self._output: Any = None
        self._whole: list[Any] = []
        self._done = False

    def divide(self) -> None:
        """A shard for each parameter."""
        self._shards: list[Any] = []
        for _, parameter in self.division.parameters:
            shape = list(parameter.shape) or [1]
            shape[0] = self._rows(parameter, shape[0])
            trained = parameter.requires_grad
            self._shards.append(self._shard(shape, parameter.dtype, trained=trained))

    def _rows(self, parameter: Any, rows: int) -> int:
        """Of one rank; bytes of 4-bit weights are stored in the dtype that is gathered."""
        packed = 1
        if not parameter.is_floating_point():
            packed = self.precision.gathered(parameter.quant_state.dtype).itemsize
        return -(-rows // (packed * self.ranks)) * packed

    def shards(self) -> list[tuple[str, Any, list[Any]]]:
        """One for each parameter."""
        pairs = zip(self.division.parameters, self._shards, strict=True)
        return [(name, shard, [parameter]) for (name, parameter), shard in pairs]

    def gather(self, issuer: str) -> None:
        """All shards into one buffer; those in another dtype are copied first."""
        if self._output is not None or self._whole:
            return
        pairs = list(zip(self.division.parameters, self._shards, strict=True))
        cast = [(p.dtype, s.numel()) for (_, p), s in pairs if p.dtype != s.dtype]
        inputs = None
        if cast:
            # _get_param_all_gather_inputs.
            number = sum(n for _, n in cast)
            inputs = self._buffer(number, cast[0][0], "all_gather_input", "gathered", issuer)
        size = self.ranks * sum(s.numel() * p.element_size() for (_, p), s in pairs)
        self._output = self._buffer(size, torch.uint8, "all_gather", "gathered", issuer)
        del inputs

    def wait(self, *, forward: bool) -> None:
        """The copy-out of what was gathered into one tensor a parameter."""
        if self._output is None:
            return
        if forward:
            self.exchange.gathered = None
        self._whole = [
            self._buffer(s.numel() * self.ranks, p.dtype, "split_with_sizes_copy", "gathered")
            for (_, p), s in zip(self.division.parameters, self._shards, strict=True)
        ]
        if forward:
            self.exchange.gathered = self._output
        self._output = None

    def free(self) -> None:
        """Reshard."""
        self._output = None
        self._whole = []

    def watch_inputs(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """_register_post_backward_hook: a node of autograd between the inputs and the module."""
        leaves, structure = torch.utils._pytree.tree_flatten((args, kwargs))
        followed = tensors_with_gradient(leaves)
        if not torch.is_grad_enabled() or not followed:
            return args, kwargs
        passed = iter(_PostBackward.apply(self, *followed))
        kinds = {id(tensor) for tensor in followed}
        leaves = [next(passed) if id(leaf) in kinds else leaf for leaf in leaves]
        return torch.utils._pytree.tree_unflatten(leaves, structure)

    def after_backward(self) -> None:
        """Reshard and reduce; without effect the second time."""
        if self._done:
            return
        self._done = True
        with torch.no_grad():
            if not self.synchronised:
                self.free()
                return
            pairs = zip(self.division.parameters, self._shards, strict=True)
            having = [(p, shard) for (_, p), shard in pairs if p.grad is not None]
            self.free()
            self.exchange.scattered.clear()
            if having:
                self._reduce(having)

    def _reduce(self, having: list[tuple[Any, Any]]) -> None:
        dtype, stored = having[0][0].grad.dtype, having[0][1].dtype
        size = sum(shard.numel() for _, shard in having)
        whole = self._buffer(size * self.ranks, dtype, "chunk_cat", "gradients")
        for parameter, _ in having:
            parameter.grad = None
        reduced = self._buffer(size, dtype, "reduce_scatter", "gradients")
        self.exchange.scattered.append(whole)
        if dtype != stored:
            reduced = self._buffer(size, stored, "_to_copy", "gradients")
        parts = reduced.split([shard.numel() for _, shard in having])
        for (_, shard), part in zip(having, parts, strict=True):
            self._accumulate(shard, part.view(shard.shape))

    def end_backward(self) -> None:
        """_root_post_backward_final_callback."""
        self.after_backward()
        self.free()
        self.begin()

    def begin(self) -> None:
        """A post-backward is due again."""
        super().begin()
        self._done = False


class _PostBackward(torch.autograd.Function):
    """RegisterPostBackwardFunction."""

    @staticmethod
    def forward(ctx: Any, unit: ChunkedUnit, *inputs: Any) -> Any:
        ctx.unit = unit
        return inputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        ctx.unit.after_backward()
        return (None, *grads)
