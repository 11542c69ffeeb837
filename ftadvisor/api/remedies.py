"""When nothing fits: single changes, each estimated, the cheapest in quality first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date
from typing import Any, NamedTuple, Unpack

from ftadvisor.advice.question import Question
from ftadvisor.api.estimator import Subject, predict, subject_of, task_of
from ftadvisor.api.situation import Situation
from ftadvisor.api.smallest_run import Judged, judge, smallest
from ftadvisor.configuration.effects import of_technique
from ftadvisor.errors import FtadvisorError
from ftadvisor.estimation.calibrated import CPU
from ftadvisor.schema.calibration import Calibration
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.options import Options
from ftadvisor.schema.remedy import Remedy
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.technique import Technique
from ftadvisor.sources.gpus import all_gpus, find_gpu
from ftadvisor.sources.prices import cheapest_price
from ftadvisor.sources.techniques import find_technique

COUNTS = (2, 4, 8, 16)
SHORTEST = 128
"""Tokens: no shorter max_length is proposed."""
MOST_CARDS = 3
NEAREST = 3
"""What is said where no single change suffices: those that come nearest."""
ROOM_FOR_CARDS = 1e10
"""Cards whose memory differs by less [bytes] are one size."""
NO_SETTINGS = ("learning_rate", "global_batch_size")
FOUR_BIT = "nf4-dq"
HARDWARE = frozenset({"gpu", "num_gpus"})


class Step(NamedTuple):
    """A change that may help."""

    change: str
    options: dict[str, Any]
    """Settings; `gpu` and `technique` besides."""
    changes_objective: bool = False


def ways_to_fit(
    model: str, *, gpu: str, technique: str, objective: str | None = None,
    calibration: Calibration | None = None, **options: Unpack[Options],
) -> tuple[Remedy, ...]:  # fmt: skip
    """The ladder of single changes for a run that does not fit, cheapest in quality first.

    Raises FtadvisorError as `estimate` does.
    """
    chosen, purpose = task_of(technique, objective)
    subject = subject_of(model, gpu, purpose, dict(options), calibration)
    return rungs(subject, find_technique(chosen or technique))


def remedies(situation: Situation, question: Question) -> tuple[Remedy, ...]:
    """The ladder, from a question that nothing fits."""
    offer = max(question.offers, key=lambda o: o.gpu.usable_bytes, default=None)
    given = {k: v for k, v in question.options.items() if k not in NO_SETTINGS}
    many = {"num_gpus": max(offer.counts)} if offer and max(offer.counts) > 1 else {}
    technique = find_technique(question.technique or "lora")
    subject = Subject(
        name=question.model.id,
        model=question.model,
        objective=question.objective,
        gpu=offer.gpu if offer else None,
        trainer=question.trainer,
        workload=situation.workload,
        options={**given, **many, "max_length": question.max_length},
        assumptions=(),
        calibration=situation.calibration,
    )
    return rungs(smallest(subject, technique), technique)


def rungs(subject: Subject, technique: Technique) -> tuple[Remedy, ...]:
    """Single changes by which the run fits or is tight.

    Where none suffices on the card at hand, those of the run's smallest form besides; where nothing
    does, the nearest.
    """
    subject = replace(subject, options=of_technique(subject.options, technique))
    found = _tried(subject, technique)
    if not any(_helps(r) and not HARDWARE & r.options.keys() for r in found):
        small = smallest(replace(subject, options=_without_batch(subject)), technique)
        settings = _settings(subject, technique)
        changed = {k: v for k, v in small.options.items() if getattr(settings, k, v) != v}
        if changed:
            said = ", ".join(f"{name} {value}" for name, value in changed.items())
            found += [
                r._replace(change=f"{said} and {r.change}", options={**changed, **r.options})
                for r in _tried(small, technique)
                if not HARDWARE & r.options.keys() or not any(map(_helps, found))
            ]
    helping = tuple(r for r in found if _helps(r))
    return helping or tuple(sorted(found, key=lambda r: r.device_bytes)[:NEAREST])


def _helps(remedy: Remedy) -> bool:
    return remedy.verdict != "does_not_fit"


def _without_batch(subject: Subject) -> dict[str, Any]:
    return {k: v for k, v in subject.options.items() if k != "micro_batch_size"}


def _tried(subject: Subject, technique: Technique) -> list[Remedy]:
    if subject.gpu is None:
        return []
    try:
        settings = predict(subject, technique).settings
    except FtadvisorError:
        # Only with a strategy for several GPUs, which the steps choose.
        settings = Settings(technique=technique.id)
    found = [
        _remedy(subject, technique, step) for step in _same_learning(subject, technique, settings)
    ]
    found.append(_first(_remedy(subject, technique, s) for s in _more_gpus(subject)))
    cards = [_remedy(subject, technique, step) for step in _larger_cards(subject.gpu)]
    found += [r for r in cards if r and _helps(r)][:MOST_CARDS] or cards[-1:]
    found += [_remedy(subject, technique, s) for s in _other_learning(technique, settings)]
    return [remedy for remedy in found if remedy is not None]


def _settings(subject: Subject, technique: Technique) -> Settings:
    try:
        return predict(subject, technique).settings
    except FtadvisorError:
        # A batch that its trainer refuses: only the steps that need nothing of it are tried.
        return Settings(technique=technique.id)


def _first(found: Iterable[Remedy | None]) -> Remedy | None:
    """The first that helps, else the last."""
    last: Remedy | None = None
    for remedy in found:
        last = remedy or last
        if remedy is not None and _helps(remedy):
            break
    return last


def _remedy(subject: Subject, technique: Technique, step: Step) -> Remedy | None:
    """The change estimated; None where it and the rest exclude each other."""
    options = dict(step.options)
    gpu, name = options.pop("gpu", None), options.pop("technique", None)
    other = find_technique(name) if name else technique
    rest = dict(subject.options)
    if name:
        rest.pop("quantization", None)
    if "num_gpus" in options:
        rest.pop("strategy", None)
    run = replace(
        subject,
        gpu=find_gpu(gpu) if gpu else subject.gpu,
        options=of_technique({**rest, **options}, other),
    )
    try:
        judged = judge(run, other)
    except FtadvisorError:
        return None
    return _named(step, judged)


def _named(step: Step, judged: Judged) -> Remedy:
    strategy = judged.subject.options.get("strategy")
    options, change = step.options, step.change
    if "num_gpus" in options and strategy:
        options, change = {**options, "strategy": strategy}, f"{change} with {strategy}"
    return Remedy(change, options, judged.device_bytes, judged.verdict, step.changes_objective)


def _same_learning(subject: Subject, technique: Technique, settings: Settings) -> Iterator[Step]:
    """Settings that change how it is computed, not what comes out."""
    micro = int(settings.micro_batch_size)
    least = 2 if subject.objective == "kto" else 1
    if micro > least and micro % least == 0:
        steps = int(settings.gradient_accumulation_steps) * micro // least
        yield Step(
            f"micro_batch_size {least} with gradient_accumulation_steps {steps}",
            {"micro_batch_size": least, "gradient_accumulation_steps": steps},
        )
    if settings.gradient_checkpointing == "none" and not technique.forbids_checkpointing:
        yield Step("gradient_checkpointing full", {"gradient_checkpointing": "full"})


def _more_gpus(subject: Subject) -> Iterator[Step]:
    assert subject.gpu is not None
    if subject.gpu.arch == CPU:
        return
    own = subject.options.get("num_gpus", 1)
    for count in COUNTS:
        if count > own:
            yield Step(f"{count} × {subject.gpu.id}", {"num_gpus": count})


def _larger_cards(own: Gpu) -> Iterator[Step]:
    """The smallest card of each larger size that can be rented."""
    today = date.today()
    larger = [g for g in all_gpus() if g.usable_bytes > own.usable_bytes]
    sizes: set[int] = set()
    for gpu in sorted(larger, key=lambda g: (g.usable_bytes, g.id)):
        size = round(gpu.usable_bytes / ROOM_FOR_CARDS)
        if size not in sizes and cheapest_price(gpu.id, today) is not None:
            sizes.add(size)
            yield Step(f"gpu {gpu.id}", {"gpu": gpu.id})


def _other_learning(technique: Technique, settings: Settings) -> Iterator[Step]:
    """What costs quality, the least first; last what changes what is learnt."""
    unquantized = settings.quantization in ("none", "int8")
    if technique.trains_base:
        optim = "galore_adamw_8bit" if technique.id == "galore" else "adamw_8bit"
        if settings.optim != optim:
            yield Step(f"optim {optim}", {"optim": optim})
        yield Step("technique lora", {"technique": "lora"})
    if technique.trains_base or technique.id == "lora":
        if unquantized:
            four_bits = {"technique": "qlora", "quantization": FOUR_BIT}
            yield Step("technique qlora (4-bit base)", four_bits)
    elif technique.quantizable and unquantized:
        yield Step(f"quantization {FOUR_BIT}", {"quantization": FOUR_BIT})
    length = int(settings.max_length)
    for shorter in (length // 2, length // 4):
        if shorter >= SHORTEST:
            yield Step(f"max_length {shorter}", {"max_length": shorter}, changes_objective=True)
