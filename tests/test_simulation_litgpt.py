"""litgpt's program, simulated: its published rows, and what decides them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

from ftadvisor.errors import UnsupportedError  # noqa: E402
from ftadvisor.schema.measurement import Measurement  # noqa: E402
from ftadvisor.schema.trainer import Trainer  # noqa: E402
from ftadvisor.simulation.depth import deep_recording  # noqa: E402
from ftadvisor.simulation.recording.record import Recording  # noqa: E402
from ftadvisor.simulation.recording.replaying import phase_peaks, replay  # noqa: E402
from ftadvisor.simulation.step import record_step  # noqa: E402
from ftadvisor.sources.measurements import read_measurements, situation  # noqa: E402
from ftadvisor.sources.models import model_config  # noqa: E402

AMPERE = (8, 0)
GIB = 2**30
ROWS = {
    m.id: m
    for m in read_measurements()
    if m.source == "litgpt resource tables" and m.row["num_gpus"] == 1 and m.memory_gib
}
LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 320,
    "num_hidden_layers": 9, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "max_position_embeddings": 512, "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip


def recorded(m: Measurement, trainer: Trainer | None = None) -> Recording:
    found = situation(m)
    return deep_recording(
        model_config(m.model), found.settings, trainer or found.trainer, compute_capability=AMPERE
    )


def error(m: Measurement, trainer: Trainer | None = None) -> float:
    """Of what max_memory_allocated says [%]."""
    assert m.memory_gib
    return 100 * (replay(recorded(m, trainer)).allocated_bytes / GIB / m.memory_gib - 1)


def test_there_are_29_rows():
    assert len(ROWS) == 29


@pytest.mark.parametrize("name", ROWS)
def test_published_rows(name: str):
    assert abs(error(ROWS[name])) <= 1.0


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("litgpt-res-010", {"outputs_upcast": False}),
        ("litgpt-res-010", {"head_in_chunks": False, "loss_chunk_tokens": 8192}),
        ("litgpt-res-012", {"kbit_saves_input": False}),
        ("litgpt-res-033", {"norm_weighs_fp32": False}),
    ],
)
def test_without_a_fact_a_row_is_missed(name: str, fact: dict[str, Any]):
    assert abs(error(ROWS[name], replace(situation(ROWS[name]).trainer, **fact))) > 1.0


def test_trains_what_litgpt_says():
    row = ROWS["litgpt-res-001"]
    assert recorded(row).num_trainable_params == row.row["num_trainable_params"]


def test_the_longest_batch_is_the_first():
    peaks = phase_peaks(recorded(ROWS["litgpt-res-001"]))
    assert max(peaks, key=lambda peak: peak.live_bytes).name == "backward 1.1"


@pytest.mark.parametrize("technique", ["full", "lora", "adapter", "adapter_v2"])
@pytest.mark.parametrize("quantization", ["none", "nf4-dq"])
def test_a_few_layers_stand_for_all(technique: str, quantization: str):
    if technique == "full" and quantization != "none":
        return
    found = situation(ROWS["litgpt-res-024"])
    settings = replace(
        found.settings, technique=technique, quantization=quantization, micro_batch_size=2,
        longest_length=130, typical_length=60, lora_r=4, lora_target_modules=("q", "v", "mlp"),
        gradient_accumulation_steps=2,
    )  # fmt: skip
    spliced = deep_recording(LLAMA, settings, found.trainer, compute_capability=AMPERE)
    whole = record_step(LLAMA, settings, found.trainer, compute_capability=AMPERE)
    assert spliced.num_trainable_params == whole.num_trainable_params
    assert [p.live_bytes for p in phase_peaks(spliced)] == [
        p.live_bytes for p in phase_peaks(whole)
    ]


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ({}, {"technique": "dora"}),
        ({}, {"gradient_checkpointing": "full"}),
        ({}, {"quantization": "int8"}),
        ({}, {"objective": "clm"}),
        ({"model_type": "mixtral", "num_local_experts": 4}, {}),
    ],
)
def test_what_is_not_litgpt_s_is_refused(config: dict[str, Any], changes: dict[str, Any]):
    found = situation(ROWS["litgpt-res-011"])
    with pytest.raises(UnsupportedError, match="litgpt"):
        record_step(
            {**LLAMA, **config},
            replace(found.settings, **changes),
            found.trainer,
            compute_capability=AMPERE,
        )
