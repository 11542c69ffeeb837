"""One run's step, simulated or kept from the last time: the door that needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from ftadvisor.errors import UnsupportedError
from ftadvisor.estimation.loss import FUSED_TILE_TOKENS
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.simulation import SimulatedStep
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.cuda.grids import USUAL_CAPABILITY, assumed_grid, grid_of
from ftadvisor.simulation.versions import library_versions, untested, warn_of_untested
from ftadvisor.sources.answers import keep, kept, key_of
from ftadvisor.sources.data_files import read_json

ROOM = "simulations"
MOST_PIECES = 4_000
"""Pieces of a loss that are gone through one by one: from here on it takes minutes."""


def simulate_step(
    config: Mapping[str, Any],
    settings: Settings,
    trainer: Trainer,
    gpu: Gpu | None,
    context_bytes: float,
) -> SimulatedStep:
    """The step of a run on one GPU of a kind, None: on an A100 of any size.

    `config` has a config.json's keys; `context_bytes` is what the process takes outside of torch's
    allocator. Raises UnsupportedError with the reason for what cannot be simulated, and
    MissingExtraError without the packages of the `run` extra.
    """
    versions = library_versions()
    said = untested(versions)
    warn_of_untested(said)
    capability = capability_of(gpu)
    _check_effort(settings, trainer)
    key = key_of({
        "config": config,
        "settings": asdict(settings),
        "trainer": asdict(trainer),
        "capability": capability,
        "grid": grid_of(gpu, capability),
        "usable_bytes": gpu.usable_bytes if gpu else None,
        "context_bytes": context_bytes,
        "versions": versions,
        "ftadvisor": _own_state(),
    })  # fmt: skip
    found = _kept(key)
    if found is not None:
        return found
    made: SimulatedStep = import_module("ftadvisor.simulation.summary").summarized(
        dict(config), settings, trainer, gpu, capability, context_bytes
    )
    assumed = [*made.assumptions, *said]
    if gpu is None:
        assumed.append("simulated for compute capability 8.0 (A100): no GPU was named")
    grid = assumed_grid(gpu, capability)
    assumed += [grid] if grid else []
    made = replace(made, versions=versions, assumptions=tuple(assumed))
    keep(ROOM, key, made.as_dict())
    return made


def capability_of(gpu: Gpu | None) -> tuple[int, int]:
    """A GPU's compute capability. Raises UnsupportedError for other vendors' than NVIDIA's."""
    if gpu is None:
        return USUAL_CAPABILITY
    if not gpu.compute_capability:
        reason = "the allocator and the kernels that are simulated are CUDA's"
        raise UnsupportedError.of(gpu.name, reason, ["an NVIDIA GPU"])
    major, _, minor = gpu.compute_capability.partition(".")
    return int(major), int(minor or 0)


def _check_effort(settings: Settings, trainer: Trainer) -> None:
    """Raise UnsupportedError for what would take minutes."""
    tokens = settings.micro_batch_size * (settings.longest_length or settings.max_length)
    piece = FUSED_TILE_TOKENS if settings.loss_kernel == "chunked" else trainer.loss_chunk_tokens
    if piece and tokens / piece > MOST_PIECES:
        reason = f"its loss runs in {tokens / piece:,.0f} pieces, which would take minutes"
        raise UnsupportedError.of(f"a batch of {tokens:,.0f} tokens", reason, ["the closed form"])


def _kept(key: str) -> SimulatedStep | None:
    found = kept(ROOM, key)
    if found is None:
        return None
    try:
        return SimulatedStep.from_dict(found)
    except (TypeError, KeyError, ValueError, AttributeError):
        return None


@cache
def _own_state() -> tuple[str, ...]:
    """Version, a digest of this room's code, of configuration's and of the data that they read:
    others give other answers."""
    digest = sha256()
    room = Path(__file__).parent
    for file in sorted([*room.rglob("*.py"), *(room.parent / "configuration").glob("*.py")]):
        digest.update(file.read_bytes())
    for name in ("techniques.json", "target_modules.json"):
        digest.update(json.dumps(read_json(name), sort_keys=True).encode())
    return str(import_module("ftadvisor").__version__), digest.hexdigest()
