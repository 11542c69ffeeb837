"""What one adapted matrix costs, and the bytes per element that its cost depends on."""

from __future__ import annotations

from typing import Any, NamedTuple

from ftadvisor.estimation.arithmetic import select
from ftadvisor.estimation.numerics import FP32_BYTES, HALF_BYTES, Numerics
from ftadvisor.schema.model import Block, Linear, ModelSpec
from ftadvisor.schema.settings import Number, Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.sources.techniques import technique_option


class Cost(NamedTuple):
    """What a technique adds to one matrix; fields add up but for the last four, of which the
    largest counts."""

    params: Number = 0
    unpaged_params: Number | None = None
    """Those in tensors whose states a paged optimizer does not page; None: all are one tensor."""
    saved_per_token: Number = 0
    """Kept from forward to backward [bytes per token of the micro-batch]."""
    saved_bytes: Number = 0
    """The same for tensors whose size does not follow the tokens [bytes]."""
    buffers_bytes: Number = 0
    """Frozen tensors that live from start to end [bytes]."""
    temporary_bytes: Number = 0
    """Weight-sized tensors alive at once while the matrix works, beyond what is kept [bytes]."""
    backward_per_token: Number = 0
    """Token-sized gradients alive at once in the technique's own backward [bytes per token]."""
    forward_per_token: Number = 0
    """Alive at once in the matrix's forward besides all that is kept [bytes per token]."""
    freed_per_token: Number = 0
    """Of `saved_per_token`, what is gone when the layer's other gradients are formed."""


class Target(NamedTuple):
    """One matrix that a technique adapts."""

    block: Block
    linear: Linear
    reads_stream: bool
    """It reads the residual stream after a norm, not a tensor inside attention or feed-forward."""
    input_kept: bool
    """Its input is kept anyway: by the layer itself, or by an earlier target that reads it too."""

    @property
    def rows(self) -> int:
        """Features put out."""
        return self.linear.out_features

    @property
    def columns(self) -> int:
        """Features read."""
        return self.linear.in_features


class Run(NamedTuple):
    """The settings and dtypes that adapters' costs depend on."""

    model: ModelSpec
    settings: Settings
    trainer: Trainer
    n: Numerics
    tokens: Number
    """Text tokens of a micro-batch."""

    @property
    def rank(self) -> Number:
        """`r` of the technique's own options, else `lora_r`."""
        return self.settings.peft_config.get("r", self.settings.lora_r)

    @property
    def weight(self) -> int:
        """Bytes of an element of an adapter's parameters."""
        return self.n.adapter

    @property
    def compute(self) -> int:
        """Bytes of an element that an adapter's matrix products read and put out."""
        return HALF_BYTES if self.n.autocast else self.n.adapter

    def option(self, name: str) -> Any:
        """One of the technique's own options: given, else PEFT's default."""
        given = self.settings.peft_config.get(name)
        return technique_option(self.settings.technique, name) if given is None else given

    def reads(self, block: Block) -> Number:
        """1 where tokens pass a block's layers; 0: a tower that sees no image."""
        return select(self.settings.num_images > 0, 1, 0) if block.stream == "image" else 1

    def input(self, t: Target) -> int:
        """Bytes of an element of what a matrix of the layer reads.

        Norms hand on the residual stream's dtype, LayerNorm under autocast fp32.
        """
        if not t.reads_stream:
            inside = t.linear.part in ("attention", "cross_attention")
            return self.n.attention if inside else self.n.compute
        wide = self.n.residual == FP32_BYTES or (self.n.autocast and t.block.norm == "layer")
        return FP32_BYTES if wide else self.n.compute

    def kept_input(self, t: Target, dropout: float = 0.0) -> Number:
        """Bytes per token that an adapter's first product keeps of its input.

        x.to(adapter dtype) makes a copy, which dropout replaces by its output and a mask;
        autocast makes its own half-precision copy. Only where all dtypes agree and nothing is
        dropped is the layer's tensor itself kept, once for all that read it.
        Ref: peft/tuners/tuners_utils.py, _cast_input_dtype; derivatives.yaml, native_dropout.
        """
        if dropout:
            return (self.compute + self.n.dropout_mask) * t.columns
        if self.input(t) == self.weight == self.compute and t.input_kept:
            return 0
        return self.compute * t.columns

    def kept_as(self, t: Target, dtype_bytes: int) -> Number:
        """Bytes per token kept of an input cast to a dtype; as it is where it has that dtype."""
        if self.input(t) == dtype_bytes and t.input_kept:
            return 0
        return dtype_bytes * t.columns
