"""The answer as a whole: what it says of itself holds, and bad questions get a clear refusal."""

from __future__ import annotations

import copy
import json
import operator
import pickle
from typing import Any

import numpy
import pytest

from ftadvisor.api import estimate, estimates
from ftadvisor.errors import (
    AmbiguousNameError,
    FtadvisorError,
    InvalidSettingError,
    UnknownNameError,
)
from ftadvisor.estimation.blocks import unsplit_share
from ftadvisor.render.serial import as_json
from ftadvisor.sources.gpus import all_gpus
from ftadvisor.units import GIB, HOUR


def test_a_record_is_consistent() -> None:
    found = estimate("llama-7b", gpu="rtx3090", technique="lora")
    memory, time, cost = found.memory, found.time, found.cost
    assert sum(memory.parts.values()) == memory.allocated_bytes
    assert memory.allocated_bytes <= memory.reserved_bytes <= memory.device_bytes
    for figure in ("allocated", "reserved", "device"):
        low, mid, high = (getattr(memory, f"{figure}{end}_bytes") for end in ("_low", "", "_high"))
        assert low <= mid <= high
    assert time is not None
    assert time.total_low_seconds < time.total_seconds < time.total_high_seconds
    assert 0 < time.mfu < 1
    if cost is not None:
        hours = time.total_seconds / HOUR
        assert cost.total_usd == pytest.approx(hours * cost.usd_per_gpu_hour)
        assert cost.price_date
        assert cost.provider
    assert json.loads(json.dumps(found.as_dict()))["settings"]["lora_r"] == found.settings["lora_r"]


@pytest.mark.parametrize("gpu", ["rtx3060", "rtx3090", "rtx4090", "a100-80gb", "t4", "l40s"])
@pytest.mark.parametrize("model", ["llama-7b", "llama-3.2-1b", "mistral-7b"])
def test_the_verdict_follows_from_the_device_interval(model: str, gpu: str) -> None:
    for found in estimates(model, gpu=gpu):
        usable = found.gpu_usable_bytes
        assert usable is not None
        if found.verdict == "fits":
            assert found.memory.device_high_bytes <= usable
        elif found.verdict == "does_not_fit":
            assert found.memory.device_low_bytes > usable
        else:
            assert found.memory.device_low_bytes <= usable < found.memory.device_high_bytes


def test_the_seeds_example() -> None:
    """LoRA on LLaMA-7B with Alpaca: 10-14 h on an RTX 3060, 3-5 h on an RTX 3090, and 16-bit
    weights do not fit in 12 GB."""
    as_stated: dict[str, Any] = {"technique": "lora", "max_length": 512, "micro_batch_size": 4}
    for gpu, low, high in (("rtx3060", 10, 14), ("rtx3090", 3, 5)):
        time = estimate("llama-7b", gpu=gpu, **as_stated).time
        assert time is not None
        assert time.total_low_seconds <= high * HOUR
        assert time.total_high_seconds >= low * HOUR
    assert estimate("llama-7b", gpu="rtx3060", **as_stated).verdict == "does_not_fit"
    assert estimate("llama-7b", gpu="rtx3060", technique="qlora", max_length=512).verdict == "fits"


def test_without_a_gpu_the_memory_and_where_it_fits() -> None:
    found = estimate("llama-7b", technique="qlora")
    assert found.verdict is None
    assert found.time is None
    assert found.cost is None
    assert "rtx-4090" in found.fits_on
    assert "gtx-1060-6gb" not in found.fits_on
    for name in found.fits_on[:3]:
        assert estimate("llama-7b", gpu=name, technique="qlora").verdict == "fits"


@pytest.mark.parametrize("gpu", [gpu.id for gpu in all_gpus()])
def test_every_gpu_of_the_catalogue_has_an_estimate(gpu: str) -> None:
    time = estimate("gpt2", gpu=gpu, technique="qlora").time
    assert time is not None
    assert time.total_seconds > 0


def test_lora_on_a_four_bit_base_is_qlora() -> None:
    found = estimate("llama-7b", technique="lora", quantization="nf4")
    assert found.technique == "qlora"
    assert found.memory == estimate("llama-7b", technique="qlora").memory


def test_more_costs_more() -> None:
    def device(**options: Any) -> int:
        return estimate("llama-7b", **{"technique": "lora", **options}).memory.device_bytes

    assert device(max_length=2048, packing=True) > device(max_length=1024, packing=True)
    assert device(lora_r=64) > device(lora_r=8)
    assert device(technique="qlora") < device() < device(technique="full")
    weights = estimate("llama-7b", technique="lora").memory.parts["weights"]
    assert weights == pytest.approx(2 * 6_738_415_616, rel=1e-3)
    assert 12.5 < weights / GIB < 12.6


BAD: list[tuple[dict[str, Any], type[FtadvisorError], str]] = [
    ({"model": "lama-7b"}, UnknownNameError, "llama-7b"),
    ({"gpu": "rtx9999"}, UnknownNameError, "rtx9999"),
    ({"gpu": "a100"}, AmbiguousNameError, "a100-"),
    ({"technique": "loar"}, UnknownNameError, "lora"),
    ({"objective": "sfft"}, UnknownNameError, "sft"),
    ({"trainer": "trl-9"}, UnknownNameError, "trl-1.16"),
    ({"optim": "adamw"}, UnknownNameError, "adamw_torch"),
    ({"lora_r": 0}, InvalidSettingError, "lora_r"),
    ({"lora_r": 1.5}, InvalidSettingError, "lora_r"),
    ({"micro_batch_size": -1}, InvalidSettingError, "micro_batch_size"),
    ({"micro_batch_size": 10**9}, InvalidSettingError, "micro_batch_size"),
    ({"max_length": "long"}, InvalidSettingError, "max_length"),
    ({"max_length": 10**6}, InvalidSettingError, "takes at most"),
    ({"lora_dropout": 1.0}, InvalidSettingError, "lora_dropout"),
    ({"num_tokens": float("nan")}, InvalidSettingError, "num_tokens"),
    ({"num_tokens": 1e6, "dataset": "x.jsonl"}, InvalidSettingError, "dataset"),
    ({"price": -1}, InvalidSettingError, "price"),
    ({"no_such": 1}, UnknownNameError, "no_such"),
    ({"quantization": "nf5"}, UnknownNameError, "nf4"),
    ({"technique": "full", "quantization": "nf4"}, InvalidSettingError, "qlora"),
    ({"technique": "qlora", "quantization": "none"}, InvalidSettingError, "4-bit"),
    ({"gpu": "t4", "precision": "bf16"}, InvalidSettingError, "fp16"),
    ({"strategy": "zero3"}, InvalidSettingError, "num_gpus"),
    (
        {"technique": "prefix_tuning", "gradient_checkpointing": "full"},
        InvalidSettingError,
        "prefix",
    ),
]


@pytest.mark.parametrize(("question", "kind", "word"), BAD)
def test_bad_questions_are_refused_by_name(
    question: dict[str, Any], kind: type[FtadvisorError], word: str
) -> None:
    with pytest.raises(kind) as caught:
        estimate(**{"model": "llama-7b", "gpu": "rtx4090", **question})
    assert word in str(caught.value)


def test_fp16_where_the_gpu_has_no_bf16() -> None:
    found = estimate("llama-3.2-1b", gpu="t4", technique="lora")
    assert found.settings["weights_dtype"] == "fp16"
    assert any("bf16" in said for said in found.assumptions)


def test_sharding_never_raises_model_state() -> None:
    def state(strategy: str) -> int:
        options: dict[str, Any] = {"num_gpus": 8, "strategy": strategy}
        parts = estimate("llama-7b", gpu="h100-80gb", technique="full", **options).memory.parts
        return sum(parts.get(name, 0) for name in ("weights", "gradients", "optimizer"))

    assert state("zero3") < state("zero2") <= state("zero1") < state("ddp")


def test_an_answer_cannot_be_changed_and_hashes_pickles_and_copies() -> None:
    options: dict[str, Any] = {
        "technique": "lora",
        "peft_config": {"use_rslora": True, "bias": "none"},
    }
    found = estimate("gpt2", gpu="rtx3090", **options)
    for mapping in (found.settings, found.memory.parts, found.settings["peft_config"]):
        changeable: Any = mapping
        changes = (
            lambda m=changeable: m.__setitem__("lora_r", 1),
            lambda m=changeable: m.update(lora_r=1),
            lambda m=changeable: m.pop(next(iter(m))),
            lambda m=changeable: operator.ior(m, {"lora_r": 1}),
            lambda m=changeable: m.clear(),
        )
        for change in changes:
            with pytest.raises(TypeError, match="cannot be changed"):
                change()
    again = estimate("gpt2", gpu="rtx3090", **options)
    assert (again, hash(again)) == (found, hash(found))
    for same in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert (same, hash(same)) == (found, hash(found))
        assert type(same.settings) is type(found.settings)
    plain = found.as_dict()
    assert type(plain["settings"]) is type(plain["memory"]["parts"]) is dict
    plain["settings"]["peft_config"]["bias"] = "all"
    assert found.settings["peft_config"]["bias"] == "none"
    assert json.loads(json.dumps(found.as_dict())) == json.loads(as_json(found))


def test_bitsandbytes_leaves_experts_that_are_no_modules() -> None:
    """Transformers 5 has them as bare parameters, its predecessors as nn.Linear."""
    mixtral = {"gpu": "h200-sxm5-141gb", "technique": "qlora"}
    bare = estimate("mixtral-8x7b-v0.1", **mixtral)
    modules = estimate("mixtral-8x7b-v0.1", trainer="trl-2024", **mixtral)
    experts = 32 * 8 * 3 * 4096 * 14336
    assert bare.memory.parts["weights"] > 2 * experts
    assert modules.memory.parts["weights"] < experts
    assert any("experts stay in 16 bits" in said for said in bare.assumptions)
    assert not any("experts" in said for said in modules.assumptions)


def test_a_tower_that_sees_no_image_has_no_states() -> None:
    asked = {"gpu": "h200-sxm5-141gb", "technique": "full"}
    blind = estimate("Qwen/Qwen2-VL-2B-Instruct", **asked)
    seeing = estimate("Qwen/Qwen2-VL-2B-Instruct", num_images=1, **asked)
    assert seeing.memory.parts["optimizer"] == 8 * seeing.num_trainable_params
    assert blind.memory.parts["weights"] == seeing.memory.parts["weights"]
    # 665 M parameters, two fp32 states each.
    less = seeing.memory.parts["optimizer"] - blind.memory.parts["optimizer"]
    assert less == pytest.approx(8 * 665.3e6, rel=0.001)


@pytest.mark.parametrize(
    ("mib", "left"),
    [
        (0.9, 0),  # the other pool
        (1.5, 0.5 / 20),  # 13 in a segment
        (4, 0),
        (9, 0.5 / 20),  # two, and one of 1.5
        (9.5, 1 / 20),
        (81, 1 / 82),
        (86, 0),
        (84.5, 0),  # 1.5 are left, and used
    ],
)
def test_what_the_allocator_leaves_unsplit(mib: float, left: float) -> None:
    size = mib * 2**20
    assert unsplit_share(size, 1.5 * 2**20) == pytest.approx(left)
    assert unsplit_share(numpy.array([size]), 1.5 * 2**20) == pytest.approx([left])
