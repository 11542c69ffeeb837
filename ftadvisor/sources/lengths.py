"""How long a run's padded batches are, from what is known of its data."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

from ftadvisor.sources.workloads import reference_workload

LONGEST_OVER_MEAN = 8.0
"""Longest sample over mean length. Alpaca with Llama's tokenizer: 1304 tokens over about 128
(litgpt's resource tables); cls-fudan-news: 19,548 over 3,234 (ms-swift's benchmark page); orca as
fms-acceleration cuts it: about 2,250 over 282 (two kernels' bytes imply it). Geometric mean 8."""

DEVIATION_OVER_MEAN = 0.7
"""Standard deviation over mean of sample lengths where none is stated: cls-fudan-news's 0.79 (as
ms-swift's page states it) and orca-math's 0.6 (fms-acceleration's padded means of 369, 445 and 524
tokens in batches of 2, 4 and 8 over an unpadded 283 are those of a lognormal with 0.6)."""

TYPICAL_OVER_LONGEST = 0.75
"""Median padded batch over the longest where nothing is known of the lengths: halfway between a cap
that every other batch reaches and one that hardly any does."""


SORTED_PADDED_OVER_MEAN = 1.05
"""Mean padded over mean length where batches of 4 come from 80 samples sorted by length: a batch
spans a twentieth of the distribution, its longest sample lies half of that above its mean."""


class BatchLengths(NamedTuple):
    """Tokens per sequence of padded batches."""

    longest: float
    typical: float
    """The median batch's; 0: all are as long as the longest."""
    mean_padded: float
    """The mean over batches."""
    mean: float
    """Unpadded tokens per sequence."""
    assumptions: list[str]


def batch_lengths(
    *,
    cap: float,
    mean: float | None,
    deviation: float | None = None,
    longest: float | None = None,
    micro_batch_size: int = 1,
    deleted: bool = False,
    mean_of_cut: bool = False,
) -> BatchLengths:
    """Longest and median padded batch for lognormal sample lengths [tokens].

    A batch is padded to its longest sample, so its median is the sample quantile 0.5^(1/batch).
    Samples above the cap are truncated to it, or `deleted`. `mean_of_cut`: the mean is theirs after
    that, so that it bounds how far they can deviate: a mean as long as the longest says that all
    are (Bhatia and Davis 2000: at most the root of mean times longest less mean).
    """
    said: list[str] = []
    if mean is None:
        longest = longest or cap
        said.append(f"half of the batches longer than {TYPICAL_OVER_LONGEST:.0%} of the longest")
        typical = TYPICAL_OVER_LONGEST * longest
        return BatchLengths(longest, typical, typical, typical, said)
    if longest is None:
        longest = min(cap, LONGEST_OVER_MEAN * mean)
        if longest < cap:
            said.append(f"longest sample {longest:.0f} tokens: {LONGEST_OVER_MEAN:g} x the mean")
    deviation = DEVIATION_OVER_MEAN * mean if deviation is None else deviation
    if mean_of_cut:
        deviation = min(deviation, math.sqrt(mean * max(longest - mean, 0.0)))
    if deviation == 0 and mean >= longest:
        return BatchLengths(longest, 0.0, longest, longest, said)
    sigma = math.sqrt(math.log(1 + (deviation / mean) ** 2))
    mu = math.log(mean) - sigma**2 / 2
    probability: float = 0.5 ** (1 / micro_batch_size)
    if deleted:
        probability *= _normal_cdf((math.log(cap) - mu) / sigma)
    typical = math.exp(mu + sigma * _normal_quantile(probability))
    padded = min(mean * padded_over_mean(micro_batch_size, deviation / mean), longest)
    return BatchLengths(longest, min(typical, longest), padded, mean, said)


def _counts_padding(row: dict[str, Any]) -> bool:
    """Whether the row's mean comes from a throughput, which counts padding too."""
    inferred: dict[str, Any] = row.get("inferred") or {}
    return "tokens_per_s*gpus/samples_per_s" in str(inferred.get("seq_len", ""))


@cache
def padded_over_mean(batch: int, deviation_over_mean: float = DEVIATION_OVER_MEAN) -> float:
    """Expected longest of `batch` lognormal sample lengths, over their mean.

    The expectation of a maximum is the integral of the quantile function at u^(1/batch).
    """
    sigma = math.sqrt(math.log(1 + deviation_over_mean**2))
    points = 64
    total = 0.0
    for place in range(points):
        quantile = _normal_quantile(((place + 0.5) / points) ** (1 / batch))
        total += math.exp(sigma * quantile - sigma**2 / 2)
    return total / points


def _normal_cdf(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


@cache
def _normal_quantile(p: float) -> float:
    """Inverse of the normal distribution, by bisection (`statistics` costs a slow import)."""
    low, high = -9.0, 9.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _normal_cdf(middle) < p else (low, middle)
    return low


def published_lengths(row: dict[str, Any]) -> BatchLengths:
    """The same for a row of a measurements file.

    `full` rows: the published tokens per sequence. Rows that state the longest batch: that.
    Padding-free rows join samples: one longest beside mean ones.
    """
    cap = float(row["max_length"])
    mean = row.get("mean_tokens_per_sample")
    fill = row.get("sequence_fill")
    batch = int(row["micro_batch_size"])
    if mean and fill == "padded-to-longest" and _counts_padding(row):
        mean = mean / padded_over_mean(batch)
    if fill == "full":
        full = float(mean or cap)
        return BatchLengths(full, 0.0, full, full, [])
    stated = row.get("longest_sequence_tokens")
    if mean is None and "alpaca" in str(row.get("notes")).lower():
        # lit-gpt's tables: the cap is the longest sample, or one that it cuts.
        mean, stated = reference_workload().mean_tokens, stated or cap
    statistics: dict[str, Any] = row.get("length_statistics") or {}
    found = batch_lengths(
        cap=cap,
        mean=statistics.get("mean") or mean,
        deviation=statistics.get("sd"),
        longest=float(stated) if stated else None,
        micro_batch_size=batch,
        deleted="deleted" in str(statistics.get("rule", "")),
    )
    if mean and "BucketIterator" in str(row.get("inferred")):
        return found._replace(mean_padded=SORTED_PADDED_OVER_MEAN * float(mean))
    if fill == "padding-free" and mean and not stated:
        joined = (float(mean) * (batch - 1) + found.longest) / batch
        return found._replace(
            longest=joined, typical=min(found.typical, joined), mean_padded=float(mean)
        )
    return found
