"""From allocated memory to what the allocator reserves and what the device shows.

Three numbers, two steps. Reserved is more than allocated because freed blocks of one size cannot
always serve the next request. Device memory is more than reserved by the CUDA context and, with
several GPUs, by communication buffers that torch's allocator does not hold.
"""

from __future__ import annotations

from typing import NamedTuple

from ftadvisor.estimation.arithmetic import largest, select, smallest
from ftadvisor.estimation.phases import Phase
from ftadvisor.schema.coefficients import MemoryCoefficients
from ftadvisor.schema.settings import Number, Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.units import GIB


class Ladder(NamedTuple):
    """The two numbers above the allocated peak [bytes]."""

    reserved: Number
    device: Number


CONTEXT_AT_LEAST_BYTES = 0.3 * GIB
"""What a process takes outside the allocator on a card that is otherwise full: nvidia-smi of an
idle torch process."""
NCCL_AT_LEAST_BYTES = 0.3 * GIB
"""NCCL's own buffers: some channels of 4 MiB and more for each peer (NCCL_BUFFSIZE)."""


TARGET_TYPICAL = 0.75
"""A median target over the longest one: `sources.lengths.TYPICAL_OVER_LONGEST`."""
ALIKE_WITHIN = 0.125
"""Where a typical batch is nearly as long as the longest, most are cut at max_length and alike: the
growth of the cache fades out over the last eighth, so that one token more is never a step."""


def ladder(
    phases: dict[str, Phase], settings: Settings, trainer: Trainer, c: MemoryCoefficients
) -> Ladder:
    """Reserved and device memory of a run on a card that is large enough [bytes]."""
    growth = logits_growth(settings, trainer, c)
    reserved = largest(*(reserved_bytes(p, trainer, c, growth) for p in phases.values()))
    return Ladder(reserved, reserved + outside_allocator_bytes(settings, c))


def capped(reserved: Number, allocated: Number, usable_bytes: Number) -> Number:
    """What the allocator keeps on a card of this size: its cache goes first [bytes]."""
    return largest(smallest(reserved, usable_bytes - CONTEXT_AT_LEAST_BYTES), allocated)


def reserved_bytes(phase: Phase, trainer: Trainer, c: MemoryCoefficients, growth: Number) -> Number:
    """What the allocator holds at the end of a run whose peak is this phase [bytes].

    A share of what a step allocates is lost to rounding and splitting; `growth` is what becomes of
    the logits. Programs that empty the cache keep only a share of one step's logits.
    """
    if trainer.empties_cache:
        return phase.total + c.emptied_logits_fraction * phase.logits
    lost = c.working_fraction * (phase.activations + phase.temporaries)
    return phase.total + lost + phase.logits * (growth - 1)


def logits_growth(settings: Settings, trainer: Trainer, c: MemoryCoefficients) -> Number:
    """What the allocator holds for logits, over what is alive of them.

    Batches of one length: blocks are used again, and part of an fp32 copy of the logits stays free,
    too large for anything else. Batches of varying length: each record length needs new blocks for
    its logits, larger than all that are cached, and the older ones stay. The sum over record
    lengths, in units of the longest, grows with how long a typical batch is (with 30 steps'
    records, a Monte Carlo over lognormal lengths gives 2.4 + 1.3 times typical over longest);
    smaller tensors live in the left-over blocks.
    """
    varying, ratio = variation(settings, trainer)
    alike = 1 + c.logits_fraction
    grown = c.variable_length_constant + c.variable_length_slope * ratio
    return alike + varying * largest(grown - alike, 0)


def variation(settings: Settings, trainer: Trainer) -> tuple[Number, Number]:
    """How far batches differ in length, 0 (all alike) to 1, and a typical one over the longest.

    Logits that are made chunk by chunk are as long as a chunk.
    """
    if settings.packing or trainer.empties_cache:
        return 0.0, 1.0
    typical, longest = settings.typical_length, largest(settings.longest_length, 1)
    if settings.objective == "seq2seq":
        # The logits are the target's, whose lengths nobody states.
        typical, longest = select(typical > 0, TARGET_TYPICAL, 0.0), 1.0
    elif settings.loss_kernel == "chunked" and trainer.loss_chunk_tokens:
        typical = smallest(typical, trainer.loss_chunk_tokens)
        longest = smallest(longest, trainer.loss_chunk_tokens)
    ratio = select(typical > 0, typical / longest, 1.0)
    return smallest((1 - ratio) / ALIKE_WITHIN, 1.0), ratio


def needed_bytes(allocated: Number, settings: Settings) -> Number:
    """The least device memory that a run gets by with [bytes].

    Before it reports out of memory the allocator gives its cache back, so what earlier steps and
    other lengths left behind does not count.
    """
    several = select(settings.num_gpus > 1, NCCL_AT_LEAST_BYTES, 0)
    return allocated + CONTEXT_AT_LEAST_BYTES + several


def outside_allocator_bytes(settings: Settings, c: MemoryCoefficients) -> Number:
    """CUDA context and, with several GPUs, NCCL's buffers [bytes]."""
    return c.context_bytes + select(settings.num_gpus > 1, c.communication_bytes, 0)
