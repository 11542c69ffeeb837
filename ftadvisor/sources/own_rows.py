"""A run or a probe of the user's own as a row of `data/measurements/FORMAT.md`."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from ftadvisor.errors import FtadvisorError
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.gpus import match_gpu
from ftadvisor.sources.trainers import trainer_rows
from ftadvisor.units import GIB

CPU = "cpu"
LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")
"""Whose versions decide what a step takes."""


class Ran(NamedTuple):
    """What was run, and what came of it."""

    model: str
    trainer: str
    settings: Settings
    device: str
    """As the driver calls it; of a CPU: cpu."""
    method: str
    """run, probe or callback."""
    status: str
    measured: Mapping[str, float]
    """step_seconds, allocated_bytes, reserved_bytes, device_bytes: those that are known."""
    predicted: Mapping[str, float]
    """The estimate's, at the time."""
    more: Mapping[str, Any] = {}
    """Further fields of the row."""


def row_of(ran: Ran) -> dict[str, Any]:
    """The row, with the machine and the versions that are here now."""
    s, m = ran.settings, ran.measured
    now = datetime.now(UTC)
    steps = m.get("step_seconds")
    row: dict[str, Any] = {
        "id": f"{ran.method}-{now:%Y%m%dT%H%M%S%f}",
        "source": "own",
        "grade": "A",
        "framework": framework_of(ran.trainer),
        "model": ran.model,
        "local_model": Path(ran.model).expanduser().exists(),
        "gpu": gpu_name(ran.device),
        "gpu_as_published": ran.device,
        **_settings(s),
        **_lengths(s),
        "settings": _stated(s),
        "micro_step_seconds": steps / s.gradient_accumulation_steps if steps else None,
        "step_seconds_spread": m.get("step_seconds_spread"),
        "memory_metric": "allocated",
        "memory_gib": _gib(m.get("allocated_bytes")),
        "memory_gib_reserved": _gib(m.get("reserved_bytes")),
        "memory_gib_device": _gib(m.get("device_bytes")),
        "oom": ran.status in ("oom", "out_of_memory"),
        "status": ran.status,
        "method": ran.method,
        "predicted": dict(ran.predicted),
        "machine": machine_id(ran.device),
        "date": f"{now:%Y-%m-%d}",
        "versions": versions(),
        **ran.more,
    }
    return {name: value for name, value in row.items() if value is not None}


def _settings(s: Settings) -> dict[str, Any]:
    """What was run, in the words of FORMAT.md; what a technique has not is None."""
    return {
        "technique": s.technique,
        "objective": s.objective,
        "precision": {
            "weights": s.weights_dtype,
            "compute": s.weights_dtype if s.autocast == "none" else s.autocast,
            "autocast": s.autocast != "none",
        },
        "quantization": s.quantization,
        "optimizer": s.optim,
        "micro_batch_size": int(s.micro_batch_size),
        "gradient_accumulation_steps": int(s.gradient_accumulation_steps),
        "num_gpus": int(s.num_gpus),
        "strategy": s.strategy,
        "cpu_offload": s.offload_optimizer or s.offload_params or None,
        "gradient_checkpointing": s.gradient_checkpointing,
        "attn_implementation": _attention(s.attn_implementation),
        "lora_r": int(s.lora_r) or None,
        "lora_alpha": float(s.lora_alpha) or None,
        "lora_dropout": s.lora_dropout,
        "lora_target_modules": list(s.lora_target_modules) or None,
        "peft_config": dict(s.peft_config) or None,
    }


def _lengths(s: Settings) -> dict[str, Any]:
    full = s.packing or s.longest_length == s.mean_length
    # Rows may be as long as each other and shorter than the limit.
    to_the_limit = s.packing or (full and s.mean_length >= s.max_length)
    return {
        "max_length": int(s.max_length),
        "max_target_length": int(s.max_target_length) if s.objective == "seq2seq" else None,
        "packing": bool(s.packing),
        "sequence_fill": "full" if full else "padded-to-longest",
        "longest_sequence_tokens": None if full else int(s.longest_length) or None,
        "mean_tokens_per_sample": None if to_the_limit else float(s.mean_length) or None,
    }


def _stated(s: Settings) -> dict[str, Any]:
    """The whole record in its own words: nothing is lost on the way.

    PEFT's options stand apart, for an export keeps no texts of theirs.
    """
    own: dict[str, Any] = {f.name: getattr(s, f.name) for f in fields(s)}
    del own["peft_config"]
    return own | {"lora_target_modules": list(s.lora_target_modules)}


def machine_id(device: str) -> str:
    """This machine and its GPU, without the host's name in clear."""
    what = "|".join((platform.node(), platform.machine(), str(os.cpu_count()), device))
    return hashlib.sha256(what.encode()).hexdigest()[:12]


def gpu_name(device: str) -> str:
    """The catalogue's id of what a driver calls a GPU, else the driver's name."""
    if device == CPU:
        return CPU
    try:
        return match_gpu(device).gpu.id
    except FtadvisorError:
        return device


def framework_of(trainer: str) -> str:
    """What rows call the program of a trainer."""
    published: list[dict[str, Any]] = trainer_rows()[trainer]["published_as"]
    return str(published[0]["framework"]) if published else trainer


def versions(libraries: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Of those that are installed."""
    found = {name: _version(name) for name in libraries}
    return {name: version for name, version in found.items() if version}


@cache
def _version(name: str) -> str | None:
    # A run asks three times, and each answer is read from the disk.
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _attention(name: str) -> str:
    return "flash2" if name.startswith("flash") else name


def _gib(value: float | None) -> float | None:
    return value / GIB if value else None
