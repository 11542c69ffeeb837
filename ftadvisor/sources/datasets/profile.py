"""A dataset's profile: what `recommend` reads of it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ftadvisor.errors import DataFileError
from ftadvisor.schema.dataset import DataFormat, DatasetProfile, TokenLengths
from ftadvisor.sources.datasets.blocks import Meter, Progress
from ftadvisor.sources.datasets.census import Census
from ftadvisor.sources.datasets.duplicates import near_duplicates
from ftadvisor.sources.datasets.files import Split, find_splits
from ftadvisor.sources.datasets.sampling import Sampled
from ftadvisor.sources.datasets.statistics import (
    packing_gain,
    padding_waste,
    percentiles,
    truncated,
)
from ftadvisor.sources.datasets.tokens import count_tokens, non_latin_share

ONE_FORMAT: dict[frozenset[DataFormat], DataFormat] = {
    frozenset(("chat", "image_text")): "image_text",
}
"""Formats that one trainer takes together."""

ROWS_TO_WRITE = 'one JSON object a line: {"prompt": "...", "completion": "..."}'
FORMATS_TO_WRITE = (
    "columns prompt and completion; messages; text; chosen and rejected; or text and label"
    " (docs/data-formats.md)"
)


def profile_dataset(
    path: str | PathLike[str],
    *,
    split: str | None = None,
    eval_path: str | PathLike[str] | None = None,
    tokenizer: str | Path | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> DatasetProfile:
    """Read a dataset once, all of its rows, and say what is in it.

    Args:
        path: a file, or a directory of files of one kind.
        split: of a directory; None: train.
        eval_path: what is kept for evaluation; None: the directory's other splits.
        tokenizer: a directory with a tokenizer.json, or a hub id that is in the local cache.
        progress: told the bytes read so far and those there are.
        seed: of the sample in which tokens and near-duplicates are counted.

    Raises a FtadvisorError where nothing can be used.
    """
    place = Path(path).expanduser()
    held_out = None if eval_path is None else Path(eval_path).expanduser()
    training, evaluation = find_splits(place, split, held_out)
    num_bytes = training.num_bytes
    meter = Meter(progress, num_bytes + (evaluation.num_bytes if evaluation else 0))
    census = counted(training, meter, seed=seed)
    sample = census.sample.rows()
    duplicate_rows = census.hashes.repeated() if census.hashes else 0
    non_latin = non_latin_share(sample)
    return DatasetProfile(
        path=str(path),
        split=training.name,
        format=_one_format(census),
        formats=dict(census.formats.most_common()),
        columns=census.roles(),
        num_bytes=num_bytes,
        num_rows=census.num_rows,
        num_examples=census.num_examples,
        empty_rows=census.empty_rows,
        broken_rows=census.broken_rows,
        problems=tuple(census.problems),
        duplicate_rows=duplicate_rows,
        near_duplicates=near_duplicates(sample, census.num_examples, duplicate_rows),
        lengths=_lengths(census, sample, tokenizer, non_latin),
        class_counts=dict(census.classes.most_common()),
        non_latin_share=non_latin,
        leaked_rows=_leaked(census, evaluation, meter),
    )


def counted(split: Split, meter: Meter, *, seed: int = 0, estimate_only: bool = False) -> Census:
    """The census of a split. Raises DataFileError where no row can be used."""
    census = Census(seed=seed, any_columns=estimate_only, hashed=not estimate_only)
    census.count(split, meter)
    if census.num_examples:
        return census
    first = split.files[0].path
    name = str(first if len(split.files) == 1 else first.parent)
    if not census.problems:
        problem = "no row with text in it" if census.num_rows else "no rows"
        raise DataFileError(name, None, None, problem, "rows with text")
    line, what = census.problems[0]
    problem = f"none of {census.num_rows:,} rows can be used; the first {what}"
    no_rows = what.startswith(("is not JSON", "is not an object"))
    raise DataFileError(name, line, None, problem, ROWS_TO_WRITE if no_rows else FORMATS_TO_WRITE)


def _one_format(census: Census) -> DataFormat | None:
    if len(census.formats) == 1:
        return next(iter(census.formats))
    return ONE_FORMAT.get(frozenset(census.formats))


def _lengths(
    census: Census, sample: list[Sampled], tokenizer: str | Path | None, non_latin: float
) -> TokenLengths:
    found = count_tokens(sample, census.num_examples, tokenizer, non_latin)
    ratio, lengths = found.characters_per_token, found.lengths
    mean = census.mean / ratio
    return TokenLengths(
        mean=mean,
        mean_low=mean * (1 - found.error),
        mean_high=mean * (1 + found.error),
        deviation=census.deviation / ratio,
        percentiles=percentiles(lengths, max(lengths[-1], census.longest / ratio)),
        truncated=truncated(lengths),
        padding_waste=padding_waste(lengths),
        packing_gain=packing_gain(lengths),
        characters_per_token=ratio,
        tokenizer=found.tokenizer,
        sampled_rows=len(lengths),
    )


def _leaked(census: Census, evaluation: Split | None, meter: Meter) -> int:
    """Rows that also stand in what is kept for evaluation."""
    if evaluation is None or census.hashes is None:
        return 0
    other = Census()
    other.count(evaluation, meter)
    return census.hashes.shared_with(other.hashes) if other.hashes else 0
