"""How long sequences are: within the model's context, and none longer than the longest."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ftadvisor.configuration.objectives import GENERATING
from ftadvisor.errors import InvalidSettingError
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.technique import Technique
from ftadvisor.schema.workload import Workload
from ftadvisor.sources.lengths import batch_lengths

DEFAULT_COMPLETION = next(f.default for f in fields(Settings) if f.name == "max_completion_length")
IN_CONTEXT = frozenset({"prompt_tuning", "p_tuning", "prefix_tuning"})
"""Techniques whose virtual tokens take positions of the model's."""


def set_lengths(
    chosen: dict[str, Any],
    given: dict[str, Any],
    model: ModelSpec,
    technique: Technique,
    workload: Workload,
    said: list[str],
) -> None:
    """max_length within the context; mean, typical and longest of the padded batches.

    Raises InvalidSettingError where one is longer than what bounds it.
    """
    cap = chosen["max_length"]
    limit = model.max_position_embeddings
    if limit:
        cap = chosen["max_length"] = _within(limit, chosen, given, model, technique, said)
    if chosen.get("packing"):
        chosen["mean_length"] = chosen["mean_padded_length"] = chosen["longest_length"] = cap
        return
    if "mean_length" in given or "longest_length" in given:
        _check_order(given, cap, workload)
    mean = given.get("mean_length") or min(workload.mean_tokens, cap)
    longest = given.get("longest_length") or workload.longest_tokens
    if longest and longest < mean:
        # The data that the mean is of are not those that the workload describes.
        longest = None
    found = batch_lengths(
        cap=cap,
        mean=mean,
        deviation=workload.deviation_tokens,
        longest=min(longest, cap) if longest else None,
        micro_batch_size=int(chosen["micro_batch_size"]),
        mean_of_cut="mean_length" in given,
    )
    said.extend(found.assumptions)
    chosen["mean_length"] = mean
    chosen["longest_length"] = found.longest
    chosen["typical_length"] = found.typical
    padding = workload.padded_over_mean
    padded = found.mean_padded if padding is None else min(mean * padding, found.longest)
    chosen["mean_padded_length"] = padded


def _within(
    limit: int,
    chosen: dict[str, Any],
    given: dict[str, Any],
    model: ModelSpec,
    technique: Technique,
    said: list[str],
) -> int:
    """max_length, so that all positions of a sequence are the model's."""
    cap: int = chosen["max_length"]
    target = given.get("max_target_length", 0)
    if target > limit:
        raise InvalidSettingError(
            f"max_target_length {target}: {model.id} takes at most {limit} tokens.",
            [f"--max-target-length {limit}"],
        )
    further = 0
    beside = ""
    if chosen["objective"] in GENERATING:
        further = chosen.get("max_completion_length", DEFAULT_COMPLETION)
        beside = f"max_completion_length {further}"
    if technique.id in IN_CONTEXT:
        virtual = _virtual_tokens(chosen, technique)
        further += virtual
        beside += f"{' and ' if beside else ''}num_virtual_tokens {virtual}"
    if cap + further <= limit:
        return cap
    room = limit - further
    if room < 1:
        raise InvalidSettingError(
            f"{beside}: {model.id} takes at most {limit} tokens, and the text must fit too.",
            ["fewer of them", "a model with a longer context"],
        )
    if "max_length" in given:
        raise InvalidSettingError(
            f"max_length {cap}{' with ' if beside else ''}{beside}: {model.id} takes at most"
            f" {limit} tokens.",
            [f"--max-length {room}", "a model with a longer context"],
        )
    said.append(f"max_length {room}: the model's context{', less ' if beside else ''}{beside}")
    return room


def _virtual_tokens(chosen: dict[str, Any], technique: Technique) -> int:
    given: dict[str, Any] = chosen.get("peft_config", {})
    own: dict[str, Any] = technique.settings.get("peft_config", {})
    return given.get("num_virtual_tokens") or own.get("num_virtual_tokens", 0)


def _check_order(given: dict[str, Any], cap: int, workload: Workload) -> None:
    """mean_length <= longest_length <= max_length, as far as they are given."""
    mean, longest = given.get("mean_length"), given.get("longest_length")
    for name, value in (("mean_length", mean), ("longest_length", longest)):
        if value is not None and value > cap:
            raise InvalidSettingError(
                f"{name} {value:g} with max_length {cap}: what is trained is cut to max_length, so"
                " it cannot be longer.",
                [f"--max-length {value:.0f}", f"--{name.replace('_', '-')} {cap}"],
            )
    if longest is None:
        return
    if mean is not None and mean > longest:
        raise InvalidSettingError(
            f"mean_length {mean:g} with longest_length {longest:g}: no mean is above the longest.",
            [f"--longest-length {mean:.0f}", f"--mean-length {longest:g}"],
        )
    if mean is None and longest < min(workload.mean_tokens, cap):
        raise InvalidSettingError(
            f"longest_length {longest:g}: the samples of {workload.name} have"
            f" {workload.mean_tokens:.0f} tokens on average.",
            [f"--mean-length {longest:g}"],
        )
