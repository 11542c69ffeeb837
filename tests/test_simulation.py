"""The simulated step against autograd on a CPU, itself at full depth, and published rows."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytest

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("trl")

from ftadvisor.errors import UnsupportedError  # noqa: E402
from ftadvisor.schema.settings import Settings  # noqa: E402
from ftadvisor.simulation.cuda.allocator import rounded  # noqa: E402
from ftadvisor.simulation.cuda.attention import Problem, backend  # noqa: E402
from ftadvisor.simulation.cuda.autocast import FP32, FP32_BY_ARGUMENT, LOWER, WIDEST  # noqa: E402
from ftadvisor.simulation.depth import deep_recording  # noqa: E402
from ftadvisor.simulation.model.building import build_model, transformers_config  # noqa: E402
from ftadvisor.simulation.recording.dispatch import as_cuda  # noqa: E402
from ftadvisor.simulation.recording.pattern import layer_pattern  # noqa: E402
from ftadvisor.simulation.recording.recorder import Recorder  # noqa: E402
from ftadvisor.simulation.recording.replaying import live_at, parts_at, phase_peaks, replay  # noqa: E402
from ftadvisor.simulation.step import record_step  # noqa: E402
from ftadvisor.sources.measurements import read_measurements, situation  # noqa: E402
from ftadvisor.sources.models import model_config  # noqa: E402
from ftadvisor.sources.trainers import find_trainer  # noqa: E402

AMPERE, HOPPER = (8, 0), (9, 0)

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 320,
    "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "max_position_embeddings": 512, "tie_word_embeddings": True, "hidden_act": "silu",
}  # fmt: skip
GEMMA3: dict[str, Any] = {
    **LLAMA, "model_type": "gemma3_text", "num_hidden_layers": 12, "sliding_window": 64,
    "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 4,
    "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip
MIXTRAL: dict[str, Any] = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4}
GPT2: dict[str, Any] = {
    "model_type": "gpt2", "vocab_size": 512, "n_embd": 128, "n_layer": 6, "n_head": 4,
    "n_positions": 512, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
}  # fmt: skip
BERT: dict[str, Any] = {
    "model_type": "bert", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256,
    "num_hidden_layers": 6, "num_attention_heads": 4, "max_position_embeddings": 512,
}  # fmt: skip
CONFIGS = {"llama": LLAMA, "gemma3": GEMMA3, "mixtral": MIXTRAL, "gpt2": GPT2, "bert": BERT}


def run(config: dict[str, Any], trainer: str, layers: int | None = None, **options: Any):
    found = find_trainer(trainer)
    known = {field.name for field in dataclasses.fields(Settings)}
    defaults = {key: value for key, value in found.defaults.items() if key in known}
    settings = Settings(**{**defaults, "micro_batch_size": 2, "max_length": 96, **options})
    return config, settings, found, layers


def recorded(config: dict[str, Any], trainer: str, layers: int | None = None, **options: Any):
    config, settings, found, layers = run(config, trainer, layers, **options)
    return record_step(config, settings, found, compute_capability=AMPERE, num_layers=layers)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_keeps_what_autograd_keeps_on_a_cpu(name: str):
    from peft_truth import build, kept_bytes

    config = {**CONFIGS[name], "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config["attn_implementation"] = "eager"
    warnings.simplefilter("ignore")
    truth = kept_bytes(build(name, config, 2, "fp32"), 64, autocast=False)
    model = build(name, config, 2, "fp32", "meta")
    recorder = Recorder(padded=False, compute_capability=AMPERE)
    model.train()
    with as_cuda(recorder):
        for tensor in [*model.parameters(), *model.buffers()]:
            recorder.adopt(tensor, "weights")
        output = model(
            input_ids=torch.empty((1, 64), dtype=torch.long, device="meta"), use_cache=False
        )
        recorder.mark("end")
        recording = recorder.recording()
        live = [recording.allocations[at] for at in live_at(recording, len(recording.events) - 1)]
    kept = sum(a.size for a in live if a.kind not in ("weights", "workspace"))
    # The results are alive, and saved by nothing.
    results = sum(t.untyped_storage().nbytes() for t in output.values())
    assert truth <= kept <= truth + results + 64 * 8


MODES: list[tuple[str, dict[str, Any]]] = [
    ("trl-1.16", {"technique": "lora"}),
    ("trl-1.16", {"technique": "lora", "gradient_checkpointing": "none", "lora_dropout": 0.1}),
    ("trl-1.16", {"technique": "full", "weights_dtype": "fp32"}),
    ("transformers-5", {"technique": "full", "optim": "adamw_torch"}),
    ("transformers-5", {"technique": "lora", "gradient_accumulation_steps": 2}),
    ("transformers-5", {"technique": "full", "optim": "adafactor"}),
    ("transformers-5", {"technique": "full", "optim": "paged_adamw_8bit"}),
    ("peft-method-comparison", {"technique": "lora"}),
]


TARGETS = {"gpt2": "c_attn", "bert": "query"}


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize(("trainer", "options"), MODES)
def test_few_layers_stand_for_all(name: str, trainer: str, options: dict[str, Any]):
    if options["technique"] == "lora":
        options = {**options, "lora_target_modules": (TARGETS.get(name, "q_proj"),)}
    if name == "bert":
        options = {**options, "objective": "seq_cls"}
    config, settings, found, _ = run(CONFIGS[name], trainer, **options)
    pattern = layer_pattern(transformers_config(config))
    assert pattern is not None
    assert pattern.recorded < pattern.num_layers
    whole = record_step(config, settings, found, compute_capability=AMPERE)
    deep = deep_recording(config, settings, found, compute_capability=AMPERE)
    assert deep.num_trainable_params == whole.num_trainable_params
    peaks = [max(phase_peaks(r), key=lambda phase: phase.live_bytes) for r in (whole, deep)]
    assert parts_at(deep, peaks[1].event) == parts_at(whole, peaks[0].event)
    expected, replayed = replay(whole), replay(deep)
    assert replayed.live_bytes == expected.live_bytes
    assert replayed.allocated_bytes == expected.allocated_bytes
    assert replayed.reserved_bytes == expected.reserved_bytes


def test_layers_of_one_module_are_recorded_whole():
    albert = {**BERT, "model_type": "albert", "embedding_size": 64, "num_hidden_groups": 1}
    options = {"technique": "full", "objective": "seq_cls"}
    config, settings, found, _ = run(albert, "transformers-5", **options)
    assert layer_pattern(transformers_config(config)) is None
    peaks: list[int] = []
    for layers in (2, 4, 6):
        shallow = {**config, "num_hidden_layers": layers}
        recording = deep_recording(shallow, settings, found, compute_capability=AMPERE)
        peaks.append(replay(recording).live_bytes)
    # Each two layers add as much as the last two did.
    assert peaks[1] - peaks[0] == peaks[2] - peaks[1] > 0


@pytest.mark.parametrize("model_type", ["t5", "mt5"])
def test_a_head_of_its_own_is_built(model_type: str):
    # Both say tie_word_embeddings themselves, whatever a checkpoint's config.json says.
    t5 = {
        "model_type": model_type, "vocab_size": 512, "d_model": 128, "d_ff": 256, "d_kv": 32,
        "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu", "pad_token_id": 0,
        "eos_token_id": 1, "decoder_start_token_id": 0,
    }  # fmt: skip
    tied, own = (
        sum(
            p.numel()
            for p in build_model({**t5, "tie_word_embeddings": tie}, *plain()).parameters()
        )
        for tie in (True, False)
    )
    assert own - tied == 512 * 128


def plain() -> tuple[Settings, Any, None]:
    return Settings(technique="full", objective="seq2seq"), find_trainer("transformers-5"), None


def test_states_of_large_tensors_are_paged():
    # The embedding of 1024 x 128 elements is large, nothing else is.
    config = {**LLAMA, "vocab_size": 1024}
    kept: list[int] = []
    for optim in ("adamw", "paged_adamw_32bit"):
        recording = recorded(config, "transformers-5", technique="full", optim=optim)
        (step,) = [p for p in phase_peaks(recording) if p.name == "step 2"]
        kept.append(parts_at(recording, step.event)["optimizer"])
    assert kept[0] == pytest.approx(8 * recording.num_trainable_params, rel=0.01)
    assert kept[0] - kept[1] == pytest.approx(8 * 1024 * 128, rel=0.01)


def test_parts_sum_to_the_peak():
    recording = recorded(LLAMA, "trl-1.16", technique="lora")
    peak = max(phase_peaks(recording), key=lambda phase: phase.live_bytes)
    assert sum(parts_at(recording, peak.event).values()) == peak.live_bytes
    found = replay(recording)
    assert found.live_bytes == peak.live_bytes <= found.allocated_bytes <= found.reserved_bytes


def test_k_bit_storage():
    """Half a byte a weight and an fp32 scale for 64; doubly quantised, a byte and 4/256 of one."""
    weights: dict[str, int] = {}
    for how in ("nf4", "nf4-dq", "int8"):
        recording = recorded(LLAMA, "trl-1.16", 2, technique="qlora", quantization=how)
        weights[how] = sum(
            a.size for a in recording.allocations if a.kind == "weights" and "down_proj" in a.module
        )
    matrix = 2 * 128 * 320
    code, code2 = 2 * 16 * 4, 2 * 256 * 4
    assert weights["nf4"] == matrix // 2 + matrix // 64 * 4 + code
    blocks = matrix // 2 // 64
    nested = 2 * (blocks + -(-blocks // 256) * 4 + 4)
    assert weights["nf4-dq"] == matrix // 2 + nested + code + code2
    assert weights["int8"] == matrix + 2 * 128 * 4


def test_adamw_holds_two_states():
    recording = recorded(LLAMA, "transformers-5", technique="full", optim="adamw_torch")
    states = sum(a.size for a in recording.allocations if a.kind == "optimizer")
    assert states == 2 * 2 * recording.num_trainable_params


def test_linear_work_is_two_flops_per_weight_and_token():
    recording = recorded(LLAMA, "transformers-5", technique="full", autocast="none")
    linear = sum(w.flops for w in recording.work if w.category == "linear" and "ward 1" in w.phase)
    layer = 128 * (128 + 2 * 64) + 128 * 128 + 3 * 128 * 320
    assert linear == 6 * layer * LLAMA["num_hidden_layers"] * 2 * 96


@pytest.mark.parametrize(
    ("changes", "capability", "expected"),
    [
        ({}, AMPERE, "flash"),
        ({}, HOPPER, "cudnn"),
        ({"masked": True}, AMPERE, "efficient"),
        ({"masked": True}, HOPPER, "cudnn"),
        ({"dtype": torch.float32}, HOPPER, "efficient"),
        ({"dtype": torch.float32, "grouped": True}, AMPERE, "math"),
        ({}, (7, 5), "math"),
        ({"dtype": torch.float16}, (7, 5), "efficient"),
        ({"head_dim": 256, "value_head_dim": 256}, (8, 9), "flash"),
        ({"head_dim": 256, "value_head_dim": 256, "dropout": 0.1}, (8, 9), "efficient"),
        ({"head_dim": 192}, AMPERE, "efficient"),
        ({"head_dim": 100, "value_head_dim": 100, "masked": True}, AMPERE, "math"),
    ],
)
def test_the_back_end_of_attention(changes: dict[str, Any], capability: Any, expected: str):
    usual = Problem(torch.bfloat16, 128, 128, 64, 64, False, True, False, 0.0, True)
    assert backend(usual._replace(**changes), capability) == expected


def test_the_policy_names_what_cuda_casts():
    named = {*LOWER, *FP32, *FP32_BY_ARGUMENT, *WIDEST}
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    assert [name for name in named if not has(f"aten::{name}", "AutocastCUDA")] == []


def test_what_cannot_be_simulated_says_why():
    with pytest.raises(UnsupportedError, match="strategy"):
        recorded(LLAMA, "trl-1.16", technique="lora", strategy="zero3", num_gpus=2)
    with pytest.raises(UnsupportedError, match="gptq"):
        recorded(LLAMA, "trl-1.16", technique="lora", quantization="gptq-int4")


def kept_in_layers(recording: Any, kind: str = "activations") -> int:
    """Bytes that the layers keep at the end of the second forward."""
    end = next(p.start for p in recording.phases if p.name == "backward 2") - 1
    live = [recording.allocations[at] for at in live_at(recording, end)]
    return sum(a.size for a in live if a.kind == kind and ".layers." in a.module)


PLAIN = {"technique": "full", "gradient_checkpointing": "none"}


def test_fused_layers_keep_their_inputs():
    """In bf16: a norm its input and a scalar in fp32, an MLP gate, up and their product."""
    tokens, layers = 2 * 96, LLAMA["num_hidden_layers"]
    kept = {
        key: kept_in_layers(recorded(LLAMA, "transformers-5", **PLAIN, **options))
        for key, options in (
            ("plain", {}), ("norm", {"fused_norm": True}), ("mlp", {"fused_mlp": True}),
        )
    }  # fmt: skip
    # Transformers: the input in fp32, the normalised one in bf16, a scalar.
    assert kept["plain"] - kept["norm"] == layers * 2 * tokens * 128 * (4 + 2 - 2)
    # Beside gate, up and the product: the activation.
    assert kept["plain"] - kept["mlp"] == layers * tokens * 320 * 2


def test_selective_checkpoints_keep_attention_s_result():
    options = {**PLAIN, "optim": "adamw_torch"}
    full, selective = (
        recorded(LLAMA, "transformers-5", **{**options, "gradient_checkpointing": which})
        for which in ("full", "selective")
    )
    more = kept_in_layers(selective) - kept_in_layers(full)
    tokens, layers = 2 * 96, LLAMA["num_hidden_layers"]
    seeds = more - layers * tokens * (128 * 2 + 4 * 4)
    assert 0 <= seeds <= layers * 64
    attention = [
        sum(w.flops for w in r.work if (w.phase, w.category) == ("backward 2", "attention"))
        for r in (full, selective)
    ]
    assert attention[1] < attention[0]


def test_liger_s_loss_makes_the_logits_of_a_chunk():
    recording = recorded(LLAMA, "transformers-5", **PLAIN, loss_kernel="fused_linear")
    # 512 words over a width of 128: four chunks of 48 rows, rounded up to 64.
    assert [a.size for a in recording.allocations if a.size == 64 * 512 * 2] != []
    assert all(a.size < 2 * 96 * 512 * 2 for a in recording.allocations if "lm_head" in a.module)


def test_liger_s_loss_casts_the_head_a_chunk_at_a_time():
    """Autocast keeps the copies of leaves, and a transposed weight is a view."""
    mixed = {**PLAIN, "weights_dtype": "fp32", "autocast": "bf16", "loss_kernel": "fused_linear"}
    recording = recorded(LLAMA, "transformers-5", **mixed)
    live = most = 0
    for event in recording.events:
        a = recording.allocations[abs(event) - 1]
        if event and (a.operation, a.size) == ("_to_copy", 512 * 128 * 2):
            live += 1 if event > 0 else -1
            most = max(most, live)
    # The leaf's own copy, for the gradient's product, and one chunk's.
    assert 1 <= most <= 2


def test_nothing_stays_switched_on():
    recorded(LLAMA, "trl-1.16", 2, technique="lora")
    x = torch.ones(2, 2, device="meta")
    assert torch.nn.functional.dropout(x, 0.5).grad_fn is None
    assert not torch.is_autocast_enabled("cuda")
    assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).shape == (1, 3)


ROWS = {
    "lora--llama-3.2-3B-rank32@": 0.5, "lora--llama-3.2-3B-rank64@": 1.0,
    "fourierft--llama-3.2-3B-default@": 1.0, "ln_tuning--llama-3.2-3B-default@": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("row", list(ROWS))
def test_published_rows_of_peft(row: str):
    """Allocated times the ratio that one row has; the reserved figures need the real lengths."""
    for m in read_measurements():
        if m.source == "PEFT MetaMathQA" and f"mmqa-{row}" in m.id:
            break
    else:
        pytest.fail(row)
    found = situation(m)
    deep = replay(
        deep_recording(
            model_config(m.model), found.settings, found.trainer, compute_capability=(8, 9)
        )
    )
    assert m.memory_gib is not None
    error = 100 * (deep.live_bytes * 1.048 / (m.memory_gib * 2**30) - 1)
    assert abs(error) <= ROWS[row], f"{row} {error:+.2f} %"


def test_rounding_is_the_allocator_s():
    assert (rounded(1), rounded(512), rounded(513)) == (512, 512, 1024)
