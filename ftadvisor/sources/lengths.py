"""How long the longest padded sequence of a run is, from what is known of its data."""

from __future__ import annotations

from typing import Any

LONGEST_OVER_MEAN = 8.0
"""Longest sample over mean length. Alpaca with Llama's tokenizer: 1304 tokens over about 128
(litgpt's resource tables); cls-fudan-news: 19,548 over 3,234 (ms-swift's benchmark page); orca as
fms-acceleration cuts it: about 2,250 over 282 (two kernels' bytes imply it). Geometric mean 8."""


def longest_length(row: dict[str, Any]) -> tuple[float, list[str]]:
    """Tokens per sequence at the peak, and what was assumed.

    `full` rows: the published tokens per sequence. Rows that state the longest batch: that. Padded
    rows with a mean far below the cap: the longest sample, LONGEST_OVER_MEAN times the mean, at
    most the cap. Padding-free rows join samples: one longest sample beside mean ones.
    """
    cap = float(row["max_length"])
    mean = row.get("mean_tokens_per_sample")
    stated = row.get("longest_sequence_tokens")
    if stated:
        return float(stated), []
    fill = row.get("sequence_fill")
    if fill == "full" or mean is None:
        return float(mean or cap) if fill == "full" else cap, []
    longest = min(cap, LONGEST_OVER_MEAN * float(mean))
    batch = float(row["micro_batch_size"])
    said = [f"longest sample {longest:.0f} tokens: {LONGEST_OVER_MEAN:g} times the mean"]
    if fill == "padding-free":
        return (float(mean) * (batch - 1) + longest) / batch, said
    return longest, said
