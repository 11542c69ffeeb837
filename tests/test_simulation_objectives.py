"""Pairs, teachers and policies in the simulated step: TRL's losses, and who is held beside them."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

from ftadvisor.errors import UnsupportedError  # noqa: E402
from ftadvisor.schema.settings import Objective, Settings  # noqa: E402
from ftadvisor.simulation.depth import deep_recording  # noqa: E402
from ftadvisor.simulation.recording.record import Recording  # noqa: E402
from ftadvisor.simulation.recording.replaying import live_at, phase_peaks, replay  # noqa: E402
from ftadvisor.simulation.stack import trl_module  # noqa: E402
from ftadvisor.simulation.step import record_step  # noqa: E402
from ftadvisor.simulation.training.objectives import DEFAULTS, PROGRAMS  # noqa: E402
from ftadvisor.sources.trainers import find_trainer  # noqa: E402

AMPERE = (8, 0)
VOCAB, LENGTH, ROWS, LAYERS = 2048, 64, 2, 6
LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 160,
    "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip
KV_WIDTH = 2 * 16


def situation(objective: str, technique: str = "lora", **options: Any):
    trainer = find_trainer("trl-1.16")
    known = {field.name for field in dataclasses.fields(Settings)}
    defaults = {key: value for key, value in trainer.defaults.items() if key in known}
    given = {"micro_batch_size": ROWS, "max_length": LENGTH, "max_completion_length": 32}
    chosen: dict[str, Any] = {**defaults, **given, "lora_target_modules": ("q_proj",), **options}
    return Settings(technique=technique, objective=objective, **chosen), trainer  # pyright: ignore[reportArgumentType]


def recorded(objective: str, technique: str = "lora", **options: Any) -> Recording:
    settings, trainer = situation(objective, technique, **options)
    return record_step(LLAMA, settings, trainer, compute_capability=AMPERE)


def adopted_weights(recording: Recording) -> int:
    made = recording.allocations
    return sum(a.size for a in made if a.operation == "adopted" and a.kind == "weights")


@pytest.mark.parametrize(
    ("objective", "technique", "copies", "dtype", "reference"),
    [
        ("dpo", "lora", 1, "bf16", False), ("dpo", "full", 2, "fp32", False),
        ("dpo", "full", 2, "bf16", False), ("kto", "full", 2, "fp32", False),
        ("orpo", "full", 1, "fp32", False), ("grpo", "full", 1, "fp32", False),
        ("grpo", "full", 2, "fp32", True), ("rloo", "lora", 1, "bf16", True),
    ],
)  # fmt: skip
def test_a_reference_is_a_second_model_where_nothing_can_be_switched_off(
    objective: str, technique: str, copies: int, dtype: str, reference: bool
):
    one = adopted_weights(recorded("sft", technique, weights_dtype=dtype))
    held = recorded(objective, technique, weights_dtype=dtype, reference_model=reference)
    assert adopted_weights(held) == copies * one


def test_a_teacher_has_its_checkpoint_s_dtype():
    one = adopted_weights(recorded("sft", "full", weights_dtype="fp32"))
    held = adopted_weights(recorded("distillation", "full", weights_dtype="fp32"))
    assert held == one + one // 2


def test_what_orpo_holds_of_its_logits():
    """Where the rows of a derivative are put together (selective_log_softmax goes row by row)."""
    recording = recorded("orpo")
    peak = max(phase_peaks(recording), key=lambda phase: phase.live_bytes)
    live = [recording.allocations[at] for at in live_at(recording, peak.event)]
    sizes = sorted(a.size for a in live if a.operation != "adopted" and a.kind != "workspace")
    row = (LENGTH - 1) * VOCAB * 4
    log_probabilities = ROWS * row  # of the cross-entropy, over the chosen half
    together = 2 * ROWS * row
    logits = 2 * ROWS * LENGTH * VOCAB * 4  # accelerate's fp32 copy; the bf16 logits are gone
    assert peak.name == "backward 2"
    assert sizes[-7:] == [row] * 2 * ROWS + [log_probabilities, together, logits]
    assert sizes[-8] < row // 2


@pytest.mark.parametrize("objective", ["dpo", "kto", "grpo", "rloo"])
def test_a_chunked_head_never_makes_the_logits(objective: str):
    recording = recorded(objective, reference_model=True)
    tile = 32_768 * 2
    rows = {a.size // tile for a in recording.allocations if a.size % tile == 0 and a.size > tile}
    answers = {"dpo": 2 * ROWS * (LENGTH - 1), "kto": ROWS * (LENGTH - 1)}
    assert answers.get(objective, ROWS * 32) in rows
    whole = ROWS * LENGTH * VOCAB
    assert not any(a.size in (2 * whole, 4 * whole) for a in recording.allocations)


def test_a_policy_caches_all_tokens_but_the_last():
    recording = recorded("grpo", gradient_accumulation_steps=3)
    last = 3 * ROWS * (LENGTH + 32 - 1) * KV_WIDTH * 2
    made = [a for a in recording.allocations if recording.phase_name(a) == "generate 2"]
    assert sum(a.size == last and a.operation == "cat" for a in made) == 2 * LAYERS


def test_a_reward_model_scores_pairs():
    recording = recorded("reward")
    trained = 2 * ROWS
    heads = [a for a in recording.allocations if a.module.endswith("score.modules_to_save.default")]
    assert {a.size for a in heads if a.operation == "adopted"} == {64 * 2}  # one score, in bf16
    ids = [
        a.size for a in recording.allocations if a.operation == "empty" and a.kind != "workspace"
    ]
    assert trained * LENGTH * 8 in ids


@pytest.mark.parametrize("objective", sorted({*get_args(Objective)} - {"ppo"}))
def test_every_objective_is_simulated(objective: str):
    assert recorded(objective).num_trainable_params > 0


def test_or_refused_by_name():
    with pytest.raises(UnsupportedError, match="objective ppo"):
        recorded("ppo")
    settings, _ = situation("dpo")
    other = find_trainer("transformers-5")
    with pytest.raises(UnsupportedError, match="objective dpo"):
        record_step(LLAMA, settings, other, compute_capability=AMPERE)
    with pytest.raises(UnsupportedError, match="loss kernel torch"):
        recorded("dpo", loss_kernel="torch")
    t5 = {"model_type": "t5", "d_model": 64, "d_kv": 16, "num_heads": 4, "num_layers": 2}
    settings, trainer = situation("dpo", lora_target_modules=("q",))
    with pytest.raises(UnsupportedError, match="encoder-decoder"):
        record_step(t5, settings, trainer, compute_capability=AMPERE)


@pytest.mark.parametrize(
    ("objective", "technique"), [("dpo", "full"), ("kto", "lora"), ("rloo", "full")]
)
def test_spliced_layers_are_allocated_as_recorded_ones(objective: str, technique: str):
    config = {**LLAMA, "num_hidden_layers": 8}
    settings, trainer = situation(objective, technique, reference_model=True)
    whole = replay(record_step(config, settings, trainer, compute_capability=AMPERE))
    spliced = replay(deep_recording(config, settings, trainer, compute_capability=AMPERE))
    assert spliced.allocated_bytes == whole.allocated_bytes
    assert spliced.reserved_bytes == whole.reserved_bytes


def test_what_the_losses_are_told_are_trl_s_defaults():
    same: dict[str, tuple[str, ...]] = {
        "dpo": ("ld_alpha", "f_divergence_type", "use_weighting", "label_smoothing"),
        "kto": ("desirable_weight", "undesirable_weight"),
        "grpo": ("top_entropy_quantile", "off_policy_mask_threshold", "importance_sampling_level",
                 "use_vllm", "temperature"),
        "distillation": ("temperature",),
    }  # fmt: skip
    for objective, program in PROGRAMS.items():
        module = program.module.replace("_trainer", "_config")
        config: Any = getattr(trl_module(module), program.name.replace("Trainer", "Config"))
        fields = {field.name: field.default for field in dataclasses.fields(config)}
        assert fields["disable_dropout"] == program.drops_dropout
        for name in same.get(objective, ()):
            assert fields.get(name, DEFAULTS[name]) == DEFAULTS[name], name
