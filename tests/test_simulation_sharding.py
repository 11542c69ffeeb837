"""One rank of several: unit sizes counted by hand, torch's own order of buffers, splicing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

from test_simulation import AMPERE, CONFIGS, LLAMA, recorded, run  # noqa: E402

from ftadvisor.errors import UnsupportedError  # noqa: E402
from ftadvisor.simulation.depth import deep_recording  # noqa: E402
from ftadvisor.simulation.recording.record import Recording  # noqa: E402
from ftadvisor.simulation.recording.replaying import live_at, parts_at, phase_peaks, replay  # noqa: E402
from ftadvisor.simulation.sharding.buckets import bucket_sizes, with_buckets  # noqa: E402
from ftadvisor.simulation.step import check_supported, record_step  # noqa: E402
from ftadvisor.units import MIB  # noqa: E402

FSDP1: dict[str, Any] = {
    "trainer": "transformers-4.48", "autocast": "bf16", "strategy": "fsdp", "num_gpus": 4,
    "technique": "full", "gradient_checkpointing": "full",
}  # fmt: skip
FSDP2: dict[str, Any] = {
    "trainer": "trl-1.16", "autocast": "bf16", "strategy": "fsdp", "num_gpus": 3,
    "technique": "full",
}  # fmt: skip
LORA: dict[str, Any] = {"technique": "lora", "lora_target_modules": ("q_proj",)}
# Of LLAMA in tests/test_simulation.py: q and o 128 x 128, k and v 64 x 128, gate and up 320 x 128,
# down 128 x 320, two norms of 128; tied embeddings 512 x 128 and the last norm outside.
LAYER = 2 * 128 * 128 + 2 * 64 * 128 + 3 * 320 * 128 + 2 * 128
ROOT = 512 * 128 + 128
TOKENS = 2 * 96
slow = pytest.mark.slow


def buffers(recording: Recording, phase: str, operation: str, module: str = "") -> list[int]:
    """Sizes of what was made in a phase by an operation, for modules of that name."""
    return [
        a.size
        for a in recording.allocations
        if recording.phase_name(a) == phase and a.operation == operation and module in a.module
    ]


def most_alive(recording: Recording, operation: str, size: int) -> int:
    """The most buffers of one size that are alive at once."""
    alive = most = 0
    for event in recording.events:
        a = recording.allocations[abs(event) - 1]
        if event and a.operation == operation and a.size == size:
            alive += 1 if event > 0 else -1
            most = max(most, alive)
    return most


@slow
def test_fsdp1_s_units():
    recording = recorded(LLAMA, layers=3, **FSDP1)
    setup = Counter(a.size for a in recording.allocations if a.operation == "adopted" and a.size)
    # Trained parameters are kept in fp32, a quarter of them on each of four ranks.
    assert setup[LAYER // 4 * 4] == 3
    assert setup[ROOT // 4 * 4] == 1
    assert buffers(recording, "forward 2", "all_gather") == [2 * ROOT] + [2 * LAYER] * 3
    # Reentrant checkpointing around the unit gathers it to recompute it, and once more.
    assert buffers(recording, "backward 2", "all_gather") == [2 * LAYER] * 6
    assert most_alive(recording, "all_gather", 2 * LAYER) == 1
    layer = "layers.1"
    assert buffers(recording, "backward 2", "cat", layer)[-1] == 2 * LAYER
    assert buffers(recording, "backward 2", "reduce_scatter", layer) == [2 * LAYER // 4]
    clip = next(peak for peak in phase_peaks(recording) if peak.name == "clip 2")
    gradients = parts_at(recording, clip.event)["gradients"]
    assert gradients == 3 * LAYER + ROOT + (-ROOT) % 512 + 3 * ((-LAYER) % 512)


@slow
def test_fsdp2_s_units():
    recording = recorded(LLAMA, layers=3, **FSDP2)
    rows = {n: -(-n // 3) for n in (64, 128, 320)}
    chunk = 128 * (2 * rows[128] + 2 * rows[64] + 2 * rows[320]) + 320 * rows[128] + 2 * rows[128]
    one = "layers.1"
    # Shards in fp32 are copied to bf16, gathered into one buffer, and copied out of it.
    assert buffers(recording, "forward 2", "all_gather_input", one) == [2 * chunk]
    assert buffers(recording, "forward 2", "all_gather", one) == [3 * 2 * chunk]
    out = buffers(recording, "forward 2", "split_with_sizes_copy", one)
    assert sum(out) == 3 * 2 * chunk
    assert out.count(3 * 2 * 128 * rows[320]) == 2
    # A forward's buffer stays until the next unit is copied out; in backward, the one of the unit
    # that comes next is there too early.
    assert most_alive(recording, "all_gather", 3 * 2 * chunk) == 2
    assert buffers(recording, "backward 2", "chunk_cat", one) == [3 * 2 * chunk]
    assert buffers(recording, "backward 2", "reduce_scatter", one) == [2 * chunk]
    assert buffers(recording, "backward 2", "_to_copy", one)[-1] == 4 * chunk
    assert most_alive(recording, "chunk_cat", 3 * 2 * chunk) <= 2


@slow
def test_accumulated_gradients_stay_whole_and_in_half_precision():
    recording = recorded(
        LLAMA, layers=3, **{**FSDP2, "num_gpus": 4, "gradient_accumulation_steps": 2}
    )
    start = next(phase.start for phase in recording.phases if phase.name == "forward 2.2")
    assert parts_at(recording, start - 1)["gradients"] == pytest.approx(
        2 * (3 * LAYER + ROOT), abs=512 * 30
    )


@slow
def test_frozen_units_hold_inputs_of_reentrant_checkpointing():
    """Two for each layer, an input and its gradient, as published pairs of rows have it."""

    def held(layers: int, **options: Any) -> int:
        recording = recorded(LLAMA, layers=layers, **options)
        last = max(
            at
            for at, event in enumerate(recording.events)
            if event > 0 and recording.allocations[event - 1].operation == "all_gather"
        )
        live = [recording.allocations[at] for at in live_at(recording, last)]
        return sum(a.size == TOKENS * 128 * 2 for a in live)

    flat = {**FSDP1, **LORA}
    assert held(6, **flat) - held(4, **flat) == 4
    again = {**FSDP2, **LORA}
    assert held(6, **again) - held(4, **again) == 0


def test_buckets_take_gradients_until_they_are_full():
    half = MIB // 2
    gradients = [half, half + 8, 30 * MIB, 10 * MIB, 10 * MIB, 10 * MIB, 7]
    assert bucket_sizes(gradients) == [MIB + 8, 30 * MIB, 30 * MIB, 7]


@slow
def test_ddp_holds_buckets_beside_gradients():
    options = {"technique": "full", "trainer": "transformers-5", "gradient_checkpointing": "full"}
    config, settings, found, _ = run(LLAMA, strategy="ddp", num_gpus=2, **options)
    recording = deep_recording(config, settings, found, compute_capability=AMPERE)
    sizes = [a.size for a in recording.allocations if a.operation == "bucket"]
    total = 2 * (6 * LAYER + ROOT)
    # At first one; then gradients as they arrive, the first 1 MiB of them apart.
    assert sizes[0] == total == sum(sizes[1:])
    assert sizes[1] == 2 * (128 + 3 * LAYER + 2 * 128 + 320 * 128)
    alone = replay(recorded(LLAMA, **options))
    assert replay(recording).live_bytes - alone.live_bytes == pytest.approx(total, abs=1024)


MODES: list[dict[str, Any]] = [
    FSDP1,
    {**FSDP1, **LORA},
    {**FSDP2, "gradient_accumulation_steps": 2},
    {**FSDP2, **LORA, "autocast": "none"},
    {**FSDP2, "strategy": "fsdp-shard-grad-op", "num_gpus": 2},
    {**FSDP2, "strategy": "ddp"},
]


@slow
@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("options", MODES)
def test_few_layers_stand_for_all(name: str, options: dict[str, Any]):
    deeper = {**CONFIGS[name], "n_layer" if name == "gpt2" else "num_hidden_layers": 8}
    if name == "gpt2" and options["technique"] == "lora":
        options = {**options, "lora_target_modules": ("c_attn",)}
    config, settings, found, _ = run(deeper, **options)
    spliced = replay(deep_recording(config, settings, found, compute_capability=AMPERE))
    recording = record_step(config, settings, found, compute_capability=AMPERE)
    if options["strategy"] == "ddp":
        recording = with_buckets(recording, settings)
    whole = replay(recording)
    assert spliced.live_bytes == whole.live_bytes
    assert spliced.allocated_bytes == whole.allocated_bytes
    assert spliced.reserved_bytes == whole.reserved_bytes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"strategy": "zero3"}, "strategy zero3"),
        ({"optim": "paged_adamw_8bit"}, "optimizer paged_adamw_8bit"),
        ({"quantization": "int8"}, "quantization int8"),
    ],
)
def test_what_is_not_simulated_is_named(changes: dict[str, Any], reason: str):
    _, settings, found, _ = run(LLAMA, **{**FSDP2, **changes})
    with pytest.raises(UnsupportedError, match=reason):
        check_supported(settings, found)


@slow
def test_fsdp1_makes_one_tensor_of_one_dtype():
    """IA3's vectors are no modules with a weight, so they stay in the frozen layer's unit."""
    with pytest.raises(UnsupportedError, match="which has one dtype"):
        recorded(LLAMA, layers=2, **{**FSDP1, "technique": "ia3"})
