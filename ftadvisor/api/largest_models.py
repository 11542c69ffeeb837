"""The largest model of the catalogue that each technique trains on a card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from ftadvisor.api.estimator import Subject, estimate_subject
from ftadvisor.api.smallest_run import Ask, Judged, hopeless, judge, smallest
from ftadvisor.errors import InvalidSettingError, UnsupportedError
from ftadvisor.schema.fit import LargestModel
from ftadvisor.schema.technique import Technique
from ftadvisor.sources.models import FoundModel, catalogue_models

BESIDE = {"lora": ("int8",), "qlora": ("nf4-dq",)}
"""Quantisations that are shown besides a technique's own; nf4 for other adapters."""


def largest_models(ask: Ask) -> tuple[LargestModel, ...]:
    """One row for each technique and quantisation that the options allow.

    Raises the first refusal where they allow none.
    """
    rows: list[LargestModel] = []
    refused: list[Exception] = []
    for technique in ask.techniques():
        for quantization in _quantizations(technique, ask):
            row = _largest(ask, technique, quantization, refused)
            rows += [row] if row else []
    if not rows and refused:
        raise refused[0]
    return tuple(rows)


def _quantizations(technique: Technique, ask: Ask) -> Iterator[str]:
    own = technique.settings.get("quantization", "none")
    if "quantization" in ask.options:
        yield ask.options["quantization"]
        return
    yield own
    if technique.quantizable:
        yield from BESIDE.get(technique.id, ("nf4",))


def _largest(
    ask: Ask, technique: Technique, quantization: str, refused: list[Exception]
) -> LargestModel | None:
    """Down from the largest: the first that fits; None where every model is refused."""
    tight: Judged | None = None
    answered = False
    num_gpus = ask.options.get("num_gpus", 1)
    for found in models_by_size():
        try:
            subject = _quantized(ask.subject(found), technique, quantization)
            if hopeless(subject, technique, num_gpus):
                answered = True
                continue
            judged = judge(smallest(subject, technique), technique)
        except (InvalidSettingError, UnsupportedError) as error:
            # Too short a context, or no such layers: another model may have them.
            refused.append(error)
            continue
        answered = True
        if judged.verdict == "fits":
            fits = estimate_subject(judged.subject, technique)
            return LargestModel(
                technique=fits.technique,
                quantization=quantization,
                fits=fits,
                tight=estimate_subject(tight.subject, technique) if tight else None,
            )
        if judged.verdict == "tight" and tight is None:
            tight = judged
    if not answered:
        return None
    last = estimate_subject(tight.subject, technique) if tight else None
    return LargestModel(technique=technique.id, quantization=quantization, fits=None, tight=last)


def _quantized(subject: Subject, technique: Technique, quantization: str) -> Subject:
    if quantization == technique.settings.get("quantization", "none"):
        return subject
    return replace(subject, options={**subject.options, "quantization": quantization})


@cache
def models_by_size() -> tuple[FoundModel, ...]:
    """The catalogue's models, the largest first; of one size in the catalogue's order."""
    return tuple(sorted(catalogue_models(), key=lambda found: -found.spec.num_params))
