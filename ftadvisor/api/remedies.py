"""When nothing fits: single changes, each estimated, the cheapest in quality first."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

from ftadvisor.advice.question import Question
from ftadvisor.api.estimator import estimate
from ftadvisor.api.situation import Situation
from ftadvisor.configuration.effects import of_technique
from ftadvisor.errors import FtadvisorError
from ftadvisor.schema.estimate import Estimate
from ftadvisor.schema.plan import Remedy
from ftadvisor.sources.gpus import all_gpus
from ftadvisor.sources.prices import cheapest_price
from ftadvisor.sources.techniques import find_technique

MOST_GPUS = 16
FOUR_BIT = {"technique": "qlora", "quantization": "nf4-dq"}


def remedies(situation: Situation, question: Question) -> tuple[Remedy, ...]:
    """The ladder, from a question that nothing fits."""
    base = _base(situation, question)
    found: list[Remedy] = []
    for change, options, changes in _steps(question, base):
        try:
            e = estimate(question.model.id, **{**base, **options})
        except FtadvisorError:
            # Two settings that exclude each other: no way out.
            continue
        found.append(_remedy(change, options, e, changes=changes))
    fitting = [r for r in found if r.verdict != "does_not_fit"]
    return tuple(fitting or sorted(found, key=lambda r: r.device_bytes)[:3])


def _remedy(change: str, options: dict[str, Any], e: Estimate, *, changes: bool) -> Remedy:
    return Remedy(change, options, e.memory.device_bytes, e.verdict or "", changes)


def _base(situation: Situation, question: Question) -> dict[str, Any]:
    """The smallest run that the person's own settings allow."""
    given = {k: v for k, v in question.options.items() if k not in ("learning_rate", "price")}
    given.pop("global_batch_size", None)
    offer = max(question.offers, key=lambda o: o.gpu.usable_bytes, default=None)
    technique = question.technique or "lora"
    base: dict[str, Any] = of_technique(given, find_technique(technique)) | {
        "technique": technique,
        "objective": question.objective,
        "micro_batch_size": 1,
        "max_length": question.max_length,
    }
    if technique != "prefix_tuning":
        base.setdefault("gradient_checkpointing", "full")
    if offer is not None:
        base["gpu"] = offer.gpu.id
        if max(offer.counts) > 1:
            base |= {"num_gpus": max(offer.counts), "strategy": "zero3"}
    return base


def _steps(question: Question, base: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """(what to change, as options, whether what is learnt changes)."""
    technique = base["technique"]
    if technique == "full":
        yield "optim adamw_8bit", {"optim": "adamw_8bit"}, False
        yield "technique lora", {"technique": "lora"}, False
    if technique != "qlora" and base.get("quantization", "none") == "none":
        yield (
            "technique qlora (4-bit base)",
            {"technique": "qlora", "quantization": "nf4-dq"},
            False,
        )
    gpus = base.get("num_gpus", 1)
    if base.get("gpu"):
        for count in (2, 4, 8, MOST_GPUS):
            if count > gpus:
                many = {"num_gpus": count, "strategy": "zero3"}
                yield f"{count} × {base['gpu']} with zero3", many, False
                if technique != "full":
                    yield (
                        f"{count} × {base['gpu']} with fsdp and a 4-bit base",
                        {
                            **many,
                            "strategy": "fsdp",
                            "technique": "qlora",
                            "quantization": "nf4-dq",
                        },
                        False,
                    )
        yield from _larger_cards(question, base)
    length = base["max_length"]
    for shorter in (length // 2, length // 4):
        if shorter >= 128:
            yield f"max_length {shorter}", {"max_length": shorter}, True


def _larger_cards(
    question: Question, base: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """The smallest larger cards that can be rented."""
    own = max(o.gpu.usable_bytes for o in question.offers)
    larger = [
        g
        for g in all_gpus()
        if g.usable_bytes > own and cheapest_price(g.id, date.today()) is not None
    ]
    sizes: set[int] = set()
    for gpu in sorted(larger, key=lambda g: (g.usable_bytes, g.id)):
        if round(gpu.usable_bytes, -10) not in sizes:
            sizes.add(round(gpu.usable_bytes, -10))
            yield f"gpu {gpu.id}", {"gpu": gpu.id}, False
