"""The answers of `fit`: the largest model, the smallest card, the largest batch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

from ftadvisor.schema.display import Displayed
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.read_only import writable
from ftadvisor.schema.remedy import Remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestModel:
    """The largest models of the catalogue that one technique trains on a card."""

    technique: str
    quantization: str
    fits: Estimate | None
    """The largest that fits; None: none does."""
    tight: Estimate | None
    """The largest that is only tight, where it is larger than the one that fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestBatch:
    """The largest micro-batch at one max_length."""

    max_length: int
    micro_batch_size: int
    """0: not even the smallest fits."""
    tight_micro_batch_size: int
    """The largest that is at most tight; never below `micro_batch_size`."""
    estimate: Estimate | None
    """At `micro_batch_size`; None where that is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """What one technique leaves room for on a card."""

    technique: str
    quantization: str
    lengths: tuple[LargestBatch, ...]
    """Shortest first; empty where a micro_batch_size was given."""
    longest: LargestBatch | None
    """The longest max_length at the smallest micro-batch; None: none fits."""
    tight_max_length: int
    """The longest that is at most tight; 0: none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit(Displayed):
    """What `fit` found: of models, cards and batches the one that was asked for."""

    model: str | None
    gpu: str | None
    models: tuple[LargestModel, ...] = ()
    """One for each technique and quantisation, where no model was named."""
    cards: tuple[Estimate, ...] = ()
    """Where no GPU was named: fewest of each kind that fit, the fewest and smallest first."""
    tight_cards: tuple[Estimate, ...] = ()
    """Cards that are only tight, at the smallest number that was asked about."""
    batches: tuple[Batches, ...] = ()
    """One for each technique, where model and GPU were named."""
    remedies: tuple[Remedy, ...] = ()
    """Where nothing fits: single changes that help."""
    assumptions: tuple[str, ...] = ()

    @property
    def something_fits(self) -> bool:
        """Whether anything fits or is tight."""
        models = any(row.fits or row.tight for row in self.models)
        batches = any(
            row.tight_max_length or any(cell.tight_micro_batch_size for cell in row.lengths)
            for row in self.batches
        )
        return bool(models or self.cards or self.tight_cards or batches)

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and numbers, as `ftadvisor fit --json` prints them."""
        return cast("dict[str, Any]", writable(asdict(self)))
