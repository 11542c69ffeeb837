"""What a dataset file holds: formats, sizes, lengths and faults, as far as they decide a plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

DataFormat = Literal[
    "instruction",
    "prompt_completion",
    "chat",
    "preference",
    "unpaired_preference",
    "labelled",
    "raw",
    "image_text",
    "prompts",
]
"""What a row is: an instruction (with input) and its output; a prompt and its completion; messages
with roles; chosen and rejected answers; an answer with a verdict; a text with a class; text alone;
text with images; a prompt alone, for reinforcement learning."""


class Problem(NamedTuple):
    """A row that cannot be used."""

    line: int
    """From 1, where the row starts; of a JSON list, Parquet or Arrow the row's number."""
    what: str


class Share(NamedTuple):
    """A share estimated from a sample, and its 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLengths:
    """Tokens per example, from a seeded sample of the usable rows.

    Text only: what a chat template adds and what an image becomes are not counted. An example is
    one sequence; of a preference pair it is the mean of its two."""

    mean: float
    """Of all rows: their characters, and the sample's characters per token."""
    mean_low: float
    mean_high: float
    deviation: float
    percentiles: dict[int, float]
    """50, 75, 90, 95, 99, 100 [tokens]; the last is the longest row of all."""
    truncated: dict[int, float]
    """By max_length: the share of examples that are cut."""
    padding_waste: dict[int, float]
    """By micro_batch_size: the share of a padded batch that is padding, at random order."""
    packing_gain: dict[int, float]
    """By max_length: examples that one packed sequence holds on average, those longer cut."""
    characters_per_token: float
    tokenizer: str | None
    """The tokenizer that counted; None: characters over `characters_per_token`."""
    sampled_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetProfile:
    """A dataset file as `recommend` sees it."""

    path: str
    split: str
    format: DataFormat | None
    """None: rows of several formats, or of none that is known."""
    formats: dict[str, int]
    """Rows of each format."""
    columns: dict[str, str]
    """What a column is for (prompt, completion, messages, chosen, rejected, text, label, image,
    instruction, input, output, system) to its name in the file."""
    num_bytes: int
    num_rows: int
    num_examples: int
    """Rows that can be trained on: neither empty nor broken."""
    empty_rows: int
    broken_rows: int
    problems: tuple[Problem, ...]
    """The first of the rows that cannot be used."""
    duplicate_rows: int
    """Rows whose text repeats an earlier one's, white space and ASCII case aside, over all rows."""
    near_duplicates: Share
    """Of a sample: rows whose word shingles agree by 0.8 or more with another row's. Where the file
    is larger than the sample a floor, and `high` what it would be if all came in pairs."""
    lengths: TokenLengths | None
    """None: no usable row."""
    class_counts: dict[str, int]
    """Rows of each class, or of each verdict, the largest first; 1,000 classes are told apart."""
    non_latin_share: float
    """Share of letters outside the Latin script, of a sample."""
    leaked_rows: int
    """Rows that also stand in the evaluation split; 0 where there is none."""

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and numbers."""
        return asdict(self)
