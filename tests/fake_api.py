"""Answers like those of `ftadvisor.api`, made up, to test what cli and render do with them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ftadvisor.errors import FtadvisorError, UnknownNameError
from ftadvisor.schema.estimate import CostEstimate, Estimate, MemoryEstimate, TimeEstimate
from ftadvisor.units import GIB, HOUR

USABLE_GIB = 11.6
FITS_ON = ("rtx-3080-10gb", "rtx-3060-12gb", "rtx-4070", "rtx-4080", "rtx-4090", "h100-sxm-80gb")


def memory(parts_gib: dict[str, float], cache_gib: float = 0.6) -> MemoryEstimate:
    """Device memory is the parts, a cache of half of `cache_gib` and as much context."""
    parts = {name: round(size * GIB) for name, size in parts_gib.items()}
    allocated = sum(parts.values())
    reserved = allocated + round(cache_gib * GIB / 2)
    device = allocated + round(cache_gib * GIB)
    return MemoryEstimate(
        allocated_bytes=allocated,
        allocated_low_bytes=round(0.97 * allocated),
        allocated_high_bytes=round(1.03 * allocated),
        reserved_bytes=reserved,
        reserved_low_bytes=round(0.95 * reserved),
        reserved_high_bytes=round(1.08 * reserved),
        device_bytes=device,
        device_low_bytes=round(0.95 * device),
        device_high_bytes=round(1.08 * device),
        parts=parts,
        peak_phase="last_layer_backward",
    )


def example(
    technique: str = "qlora",
    parts_gib: dict[str, float] | None = None,
    gpu: str | None = "rtx-3060-12gb",
    hours: float | None = 10.2,
    usd: float | None = 2.04,
    **changes: Any,
) -> Estimate:
    """One estimate; the verdict follows from the memory."""
    found = memory(parts_gib or {"weights": 3.62, "activations": 1.2, "logits": 0.41})
    limit = USABLE_GIB * GIB
    verdict = (
        "fits"
        if found.device_high_bytes <= limit
        else "does_not_fit"
        if found.device_low_bytes > limit
        else "tight"
    )
    time = hours and TimeEstimate(
        tokens_per_second=2e7 / hours / HOUR,
        step_seconds=1.9,
        total_seconds=hours * HOUR,
        total_low_seconds=0.87 * hours * HOUR,
        total_high_seconds=1.16 * hours * HOUR,
        mfu=0.41,
    )
    cost = usd and CostEstimate(
        total_usd=usd,
        total_low_usd=0.87 * usd,
        total_high_usd=1.16 * usd,
        usd_per_gpu_hour=0.2,
        provider="vast.ai",
        source="made up",
        spot_total_usd=None,
        price_date="2026-05-01",
    )
    fields: dict[str, Any] = {
        "model": "llama-7b",
        "num_params": 6_738_415_616,
        "num_trainable_params": 4_194_304,
        "gpu": gpu,
        "num_gpus": 1,
        "gpu_usable_bytes": round(limit) if gpu else None,
        "trainer": "trl-1.16",
        "technique": technique,
        "objective": "sft",
        "settings": {
            "micro_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "max_length": 1024,
            "weights_dtype": "bf16",
            "autocast": "bf16",
            "quantization": "nf4" if technique == "qlora" else "none",
            "gradient_checkpointing": "full",
            "optim": "adamw_torch_fused",
            "attn_implementation": "sdpa",
        },
        "verdict": verdict if gpu else None,
        "memory": found,
        "time": time if gpu else None,
        "cost": cost if gpu else None,
        "assumptions": ("The workload is Alpaca's: 52,002 examples of 128 tokens, 3 epochs.",),
        "fits_on": () if gpu else FITS_ON,
    }
    return Estimate(**{**fields, **changes})


def table() -> tuple[Estimate, ...]:
    """A card on which something fits, something is tight and something is far too large."""
    full = {"weights": 12.55, "gradients": 12.55, "optimizer": 25.1, "activations": 1.9}
    lora = {"weights": 12.55, "adapters": 0.02, "activations": 1.9, "logits": 0.4}
    tight = {"weights": 3.62, "adapters": 0.2, "gradients": 0.1, "activations": 6.4, "logits": 0.5}
    dora = "DoRA's column norms are recomputed in each step."
    shared = example().assumptions
    return (
        example("full", full, hours=31.0, usd=6.2),
        example("lora", lora, hours=11.1, usd=2.22),
        example("dora", lora, hours=14.6, usd=2.92, assumptions=(*shared, dora)),
        example("qlora"),
        example("prompt_tuning", tight, hours=0.7, usd=0.14),
    )


class FakeApi(ModuleType):
    """`ftadvisor.api` with made-up answers; `calls` has what it was asked."""

    def __init__(self) -> None:
        super().__init__("ftadvisor.api")
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answer: tuple[Estimate, ...] = table()
        self.error: Exception | None = None

    def estimates(self, model: str, **given: Any) -> tuple[Estimate, ...]:
        self._called("estimates", model=model, **given)
        if not given.get("gpu"):
            return (example(given.get("technique", "lora"), gpu=None),)
        return self.answer

    def estimate(self, model: str, **given: Any) -> Estimate:
        self._called("estimate", model=model, **given)
        return example(technique=given.get("technique", "lora"), gpu=given.get("gpu"))

    def _called(self, name: str, **given: Any) -> None:
        self.calls.append((name, given))
        if self.error:
            raise self.error
        if given["model"] == "lama-7b":
            raise UnknownNameError("model", "lama-7b", ["llama-7b"], "ftadvisor list models")
        if given["model"] == "refused":
            raise FtadvisorError("Refused.", ["something else"])
