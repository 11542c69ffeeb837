"""How much there is to train on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A dataset's size in tokens, and how often it is passed."""

    name: str
    num_examples: float
    mean_tokens: float
    """Unpadded tokens per example, before truncation [tokens]."""
    longest_tokens: float | None = None
    deviation_tokens: float | None = None
    padded_over_mean: float | None = None
    """Tokens with padding over those without, where it is stated; None: batches are drawn at random
    and padded to their longest sample."""
    num_train_epochs: float = 1.0
    token_error: float = 0.0
    """Relative half-width of a 90 % interval on the token count; 0: counted."""
    characters_per_token: float | None = None
    """What a token was taken to be; None: counted."""
    broken_rows: int = 0
    """Rows of a dataset that cannot be used and are left out."""

    @property
    def num_tokens(self) -> float:
        """Tokens of all epochs, padding not counted."""
        return self.num_examples * self.mean_tokens * self.num_train_epochs
