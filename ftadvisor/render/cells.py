"""What tables of estimates share: a cell for each figure, and what rows have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ftadvisor.render.document import Block, Bullets, Tone, Words
from ftadvisor.schema.estimate import Estimate
from ftadvisor.units import format_bytes, format_duration, format_range, format_usd

VERDICTS: dict[str, tuple[str, Tone]] = {
    "fits": ("fits", "good"),
    "tight": ("tight", "warn"),
    "does_not_fit": ("does not fit", "bad"),
}
NONE = Words("–", "dim")
_GPUS_NAMED = 4


def with_interval(value: float, low: float, high: float, form: Callable[[float], str]) -> Words:
    """A figure and its interval, a unit that both share named once."""
    center = form(value)
    between = format_range(low, high, form)
    _, _, unit = center.rpartition(" ")
    if unit != center and between.count(" ") == 1:
        between = between.removesuffix(f" {unit}")
    return Words(center, "", between.replace("$", ""))


def name_of(estimate: Estimate) -> str:
    """The technique, and the base's quantisation where the name does not say it."""
    quantization = estimate.settings.get("quantization", "none")
    usual = ("none", "nf4") if estimate.technique == "qlora" else ("none",)
    if quantization in usual:
        return estimate.technique
    return f"{estimate.technique} {quantization}"


def verdict_cell(estimate: Estimate) -> Words:
    """Whether it fits, in words."""
    text, tone = VERDICTS[estimate.verdict or ""]
    return Words(text, tone)


def memory_cell(estimate: Estimate) -> Words:
    """Peak device memory with its interval."""
    m = estimate.memory
    return with_interval(m.device_bytes, m.device_low_bytes, m.device_high_bytes, format_bytes)


def speed_cell(estimate: Estimate) -> Words:
    """Tokens a second."""
    if estimate.time is None:
        return NONE
    speed = estimate.time.tokens_per_second
    return Words(f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}", _tone(estimate))


def time_cell(estimate: Estimate) -> Words:
    """Time of the run with its interval."""
    if estimate.time is None:
        return NONE
    t = estimate.time
    seconds = (t.total_seconds, t.total_low_seconds, t.total_high_seconds)
    words = with_interval(*seconds, partial(format_duration, beside=t.total_seconds))
    return words._replace(tone=_tone(estimate))


def cost_cell(estimate: Estimate) -> Words:
    """Cost of the run with its interval."""
    if estimate.cost is None:
        return NONE
    c = estimate.cost
    words = with_interval(c.total_usd, c.total_low_usd, c.total_high_usd, format_usd)
    return words._replace(tone=_tone(estimate))


def _tone(estimate: Estimate) -> Tone:
    """What a run would take that cannot be had is printed, but not put forward."""
    return "dim" if estimate.verdict == "does_not_fit" else ""


def gpus_named(names: Sequence[str]) -> str:
    """The first few names, and how many there are."""
    more = len(names) - _GPUS_NAMED
    return ", ".join(names[:_GPUS_NAMED]) + (f" and {more} more" if more > 0 else "")


def settings_line(found: Sequence[Estimate]) -> str:
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
    methods = {estimate.method for estimate in found}
    if "simulated" in methods:
        words.append("memory simulated" if len(methods) == 1 else "memory simulated where possible")
    return ", ".join(words)


def assumptions_blocks(
    found: Sequence[Estimate], names: Sequence[str] | None = None
) -> list[Block]:
    """What was assumed, each once; those that do not hold for all rows say for which they do."""
    holders: dict[str, list[str]] = {}
    for estimate, name in zip(found, names or map(name_of, found), strict=True):
        for sentence in estimate.assumptions:
            holders.setdefault(sentence, []).append(name)
    shared = [s for s, names in holders.items() if len(names) == len(found)]
    own = [f"{', '.join(n)}: {s}" for s, n in holders.items() if len(n) != len(found)]
    return [Bullets("Assumed", (*shared, *own))] if holders else []
