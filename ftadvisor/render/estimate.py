"""Estimates as a document: one row each, then what was assumed and what would help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ftadvisor.render.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Document,
    Legend,
    Paragraph,
    Parts,
    Table,
    Tone,
    Words,
    paragraph,
)
from ftadvisor.render.parts import CACHE, grouped
from ftadvisor.schema.estimate import Estimate
from ftadvisor.units import format_bytes, format_count, format_duration, format_range, format_usd

VERDICTS: dict[str, tuple[str, Tone]] = {
    "fits": ("fits", "good"),
    "tight": ("tight", "warn"),
    "does_not_fit": ("does not fit", "bad"),
}
_NONE = Words("–", "dim")
_GPUS_NAMED = 4
_BEYOND_LIMIT = 2.0
"""A bar shows at most twice what the card has; what is larger runs out of it."""
_BEHIND_LIMIT = 1.05


def estimates_document(found: Sequence[Estimate], others: Sequence[Estimate] = ()) -> Document:
    """All that there is to say about estimates of one model on one kind of GPU.

    `others` are estimates that do fit, for the reader of a table in which nothing does.
    """
    blocks: list[Block] = [_heading(found), *figures(found)]
    blocks += _warnings(found, others)
    blocks += _assumptions(found)
    return tuple(blocks)


def figures(found: Sequence[Estimate]) -> tuple[Table, Legend]:
    """Memory by part, time and cost, a row each, and what the bars' signs mean."""
    return _table(found), legend(found)


def legend(found: Sequence[Estimate]) -> Legend:
    """The parts that the bars of these estimates have."""
    names = {name for estimate in found for name, _ in _bar_parts(estimate)}
    limit = "usable" if found[0].gpu_usable_bytes else ""
    return Legend(tuple(name for name, _ in grouped([(name, 1.0) for name in names])), limit)


def bar(estimate: Estimate) -> Parts:
    """The peak's parts, on a scale of its own."""
    return Parts(_bar_parts(estimate), estimate.gpu_usable_bytes, _scale([estimate]))


def with_interval(value: float, low: float, high: float, form: Callable[[float], str]) -> Words:
    """A figure and its interval, a unit that both share named once."""
    center = form(value)
    between = format_range(low, high, form)
    _, _, unit = center.rpartition(" ")
    if unit != center and between.count(" ") == 1:
        between = between.removesuffix(f" {unit}")
    return Words(center, "", between.replace("$", ""))


def subject(estimate: Estimate) -> str:
    """The model and what it runs on."""
    words = f"{estimate.model}, {format_count(estimate.num_params)} parameters"
    if estimate.gpu is None or estimate.gpu_usable_bytes is None:
        return words
    count = f"{estimate.num_gpus} × " if estimate.num_gpus > 1 else ""
    each = " each" if estimate.num_gpus > 1 else ""
    usable = format_bytes(estimate.gpu_usable_bytes)
    return f"{words}, on {count}{estimate.gpu} with {usable} usable{each}"


def _heading(found: Sequence[Estimate]) -> Paragraph:
    return Paragraph((Words(subject(found[0]), "strong"), Words(_settings(found), "dim")))


def _settings(found: Sequence[Estimate]) -> str:
    """The settings that decide most and that all rows share."""
    shared: dict[str, Any] = {
        name: value
        for name, value in found[0].settings.items()
        if all(estimate.settings.get(name) == value for estimate in found)
    }
    words = [f"{found[0].objective} with {found[0].trainer}"]
    for name in ("micro_batch_size", "gradient_accumulation_steps", "max_length"):
        if name in shared:
            words.append(f"{name} {shared[name]}")
    if shared.get("autocast", "none") != "none":
        words.append(f"{shared['autocast']} autocast")
    if "weights_dtype" in shared:
        words.append(f"{shared['weights_dtype']} weights")
    if "gradient_checkpointing" in shared:
        words.append(f"gradient_checkpointing {shared['gradient_checkpointing']}")
    if shared.get("strategy", "none") != "none":
        words.append(shared["strategy"])
    words += [shared[name] for name in ("optim", "attn_implementation") if name in shared]
    return ", ".join(words)


def _table(found: Sequence[Estimate]) -> Table:
    on_gpu = any(estimate.verdict for estimate in found)
    timed = any(estimate.time for estimate in found)
    priced = any(estimate.cost for estimate in found)
    columns = [Column("technique")]
    columns += [Column("verdict")] if on_gpu else []
    columns += [Column("peak memory"), Column("by part, in GiB", drop=2)]
    columns += [Column("tokens/s", right=True, drop=1), Column("time")] if timed else []
    columns += [Column("cost")] if priced else []
    columns += [] if on_gpu else [Column("fits on", fold=True)]
    scale = _scale(found)
    rows: list[tuple[Cell, ...]] = []
    for estimate in found:
        row: list[Cell] = [Words(name_of(estimate), "strong")]
        row += [_verdict(estimate)] if on_gpu else []
        row += [
            memory_words(estimate),
            Parts(_bar_parts(estimate), estimate.gpu_usable_bytes, scale),
        ]
        row += [speed_words(estimate), time_words(estimate)] if timed else []
        row += [cost_words(estimate)] if priced else []
        row += [] if on_gpu else [_fits_on(estimate)]
        rows.append(tuple(row))
    return Table(tuple(columns), tuple(rows))


def name_of(estimate: Estimate) -> str:
    """The technique, and the base's quantisation where the name does not say it."""
    quantization = estimate.settings.get("quantization", "none")
    usual = ("none", "nf4") if estimate.technique == "qlora" else ("none",)
    if quantization in usual:
        return estimate.technique
    return f"{estimate.technique} {quantization}"


def _bar_parts(estimate: Estimate) -> tuple[tuple[str, float], ...]:
    memory = estimate.memory
    cache = max(0, memory.device_bytes - memory.allocated_bytes)
    return grouped([*memory.parts.items(), (CACHE, cache)])


def _scale(found: Sequence[Estimate]) -> float:
    """Bytes of the whole bar: a little more than the card, or than the largest estimate."""
    most = max(estimate.memory.device_bytes for estimate in found)
    limit = found[0].gpu_usable_bytes
    if limit is None:
        return most
    return max(limit * _BEHIND_LIMIT, min(most, limit * _BEYOND_LIMIT))


def _verdict(estimate: Estimate) -> Words:
    text, tone = VERDICTS[estimate.verdict or ""]
    return Words(text, tone)


def memory_words(estimate: Estimate) -> Words:
    """The device's peak and its interval."""
    m = estimate.memory
    return with_interval(m.device_bytes, m.device_low_bytes, m.device_high_bytes, format_bytes)


def speed_words(estimate: Estimate) -> Words:
    """Tokens per second of all GPUs together."""
    if estimate.time is None:
        return _NONE
    speed = estimate.time.tokens_per_second
    return Words(f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}", _tone(estimate))


def time_words(estimate: Estimate) -> Words:
    """How long the run takes, and the interval."""
    if estimate.time is None:
        return _NONE
    t = estimate.time
    seconds = (t.total_seconds, t.total_low_seconds, t.total_high_seconds)
    words = with_interval(*seconds, partial(format_duration, beside=t.total_seconds))
    return words._replace(tone=_tone(estimate))


def cost_words(estimate: Estimate) -> Words:
    """What the run costs, and the interval."""
    if estimate.cost is None:
        return _NONE
    c = estimate.cost
    words = with_interval(c.total_usd, c.total_low_usd, c.total_high_usd, format_usd)
    return words._replace(tone=_tone(estimate))


def _tone(estimate: Estimate) -> Tone:
    """What a run would take that cannot be had is printed, but not put forward."""
    return "dim" if estimate.verdict == "does_not_fit" else ""


def _fits_on(estimate: Estimate) -> Words:
    return Words(gpus_named(estimate.fits_on)) if estimate.fits_on else Words("none", "bad")


def gpus_named(names: Sequence[str]) -> str:
    """The first few names, and how many there are."""
    more = len(names) - _GPUS_NAMED
    return ", ".join(names[:_GPUS_NAMED]) + (f" and {more} more" if more > 0 else "")


def _warnings(found: Sequence[Estimate], others: Sequence[Estimate]) -> list[Block]:
    blocks: list[Block] = []
    tight = [estimate for estimate in found if estimate.verdict == "tight"]
    if tight:
        names = ", ".join(name_of(estimate) for estimate in tight)
        text = f"Tight: {names} may run out of memory; the interval holds the card's limit."
        blocks.append(paragraph(f"{text} {_room(tight[0])}", "warn"))
    if found[0].verdict and all(estimate.verdict == "does_not_fit" for estimate in found):
        blocks += _nothing_fits(found, others)
    if found[0].verdict and all(estimate.cost is None for estimate in found) and found[0].gpu:
        text = f"No price of {found[0].gpu} is known: --price USD (of one GPU-hour) gives the cost."
        blocks.append(paragraph(text))
    return blocks


def _room(estimate: Estimate) -> str:
    """Which settings make room, of those that are not used up yet."""
    settings = estimate.settings
    ways = ["a shorter --max-length"]
    if settings.get("micro_batch_size", 1) != 1:
        ways.insert(0, "a smaller --micro-batch-size")
    if settings.get("gradient_checkpointing") == "none":
        ways.insert(0, "--gradient-checkpointing")
    return f"Room makes {' or '.join(ways)}."


def _nothing_fits(found: Sequence[Estimate], others: Sequence[Estimate]) -> list[Block]:
    items: list[str] = []
    for estimate in others:
        if estimate.verdict:
            needs = format_bytes(estimate.memory.device_bytes)
            items.append(f"{name_of(estimate)} {VERDICTS[estimate.verdict][0]}: {needs}")
        elif estimate.fits_on:
            items.append(f"{name_of(estimate)} fits on {gpus_named(estimate.fits_on)}")
    least = min(found, key=lambda estimate: estimate.memory.device_bytes)
    text = (
        f"Nothing fits: {name_of(least)} needs {format_bytes(least.memory.device_bytes)}. "
        f"{_room(least)}"
    )
    blocks: list[Block] = [paragraph(text, "bad")]
    return [*blocks, Bullets("What would fit", tuple(items))] if items else blocks


def _assumptions(found: Sequence[Estimate]) -> list[Block]:
    """Each once; those that do not hold for all rows say for which they do."""
    holders: dict[str, list[str]] = {}
    for estimate in found:
        for sentence in estimate.assumptions:
            holders.setdefault(sentence, []).append(name_of(estimate))
    shared = [s for s, names in holders.items() if len(names) == len(found)]
    own = [f"{', '.join(n)}: {s}" for s, n in holders.items() if len(n) != len(found)]
    return [Bullets("Assumed", (*shared, *own))] if holders else []
