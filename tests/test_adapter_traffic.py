"""What adapters launch and move, against a count over PEFT's own operations."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from test_adapters import CASES, CONFIGS, LLAMA, NO_TARGETS, QUERY_VALUE, Case, peft_model

from ftadvisor import estimate
from ftadvisor.estimation.adapters.traffic import Traffic, traffic
from ftadvisor.estimation.rates import rates
from ftadvisor.estimation.terms import NO_ADAPTER
from ftadvisor.estimation.time import CACHED_SHARE, moving_seconds
from ftadvisor.schema.hardware import Gpu
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.coefficients import time_coefficients
from ftadvisor.sources.gpus import find_gpu
from ftadvisor.sources.techniques import all_techniques
from ftadvisor.sources.trainers import DEFAULT_TRAINER, find_trainer
from ftadvisor.units import KIB

WIDTH = 512
WIDE = {
    **LLAMA, "hidden_size": WIDTH, "intermediate_size": 1280, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 64,
}  # fmt: skip
"""Wide enough that a rank of eight is small beside it."""
OUT = (WIDTH, WIDTH // 2)
"""Of queries and values."""
FP32 = 4
ONE_LAYERS = {"ln_tuning", "prefix_tuning", "adaption_prompt", "bottleneck"}
COUNTED = [
    pytest.param(*case, id=f"{case[1]}-{i}")
    for i, case in enumerate(CASES)
    if case[1] not in NO_TARGETS or case[1] in ONE_LAYERS
]


def layer(case: Case | None) -> tuple[float, float, float]:
    """One layer's kernels, bytes per token, and bytes whatever the tokens: four layers less two."""
    from peft_truth import build, moved

    found: dict[int, list[float]] = {}
    for tokens in (64, 128):
        counted: list[tuple[int, int]] = []
        for layers in (2, 4):
            if case is None:
                model = build("llama", WIDE, layers, "bf16").requires_grad_(False)
            else:
                targets = () if case[1] in NO_TARGETS else QUERY_VALUE
                model = peft_model(case, "llama", layers, "bf16", targets, meta=False)
            model.get_input_embeddings().register_forward_hook(
                lambda module, args, output: output.requires_grad_(True)
            )
            counted.append(moved(model, tokens))
        found[tokens] = [(b - a) / 2 for a, b in zip(*counted, strict=True)]
    per_token = (found[128][1] - found[64][1]) / 128
    return found[64][0], per_token, found[64][1] - 128 * per_token


@cache
def frozen() -> tuple[float, float, float]:
    return layer(None)


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "technique", "options"), COUNTED)
def test_launches_and_moves_what_peft_does(
    cls: str, technique: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("peft")
    monkeypatch.setitem(CONFIGS, "llama", WIDE)
    case = (cls, technique, options)
    launched, per_token, once = (a - b for a, b in zip(layer(case), frozen(), strict=True))
    expected = traffic(technique, options)
    if technique in ONE_LAYERS:
        assert expected.kernels == launched
        assert expected.widths * FP32 * WIDTH == pytest.approx(per_token, rel=0.02)
        return
    assert expected.kernels == launched / 2
    widths = per_token / FP32 / sum((WIDTH + out) / 2 for out in OUT)
    assert expected.widths == pytest.approx(widths, rel=0.01)
    matrices = once / FP32 / sum(WIDTH * out for out in OUT)
    assert expected.matrices == pytest.approx(matrices, abs=0.7)


def test_every_adapter_is_counted():
    nothing = {"prompt_tuning", "p_tuning", "trainable_tokens", "llamapro"}
    for technique in all_techniques():
        found = traffic(technique.id, {})
        none = technique.trains_base or technique.id in nothing
        assert (found == Traffic(0, 0.0)) == none, technique.id


def test_an_option_makes_another_of_it():
    assert traffic("lora", {"use_dora": True}) == traffic("dora", {})
    assert traffic("bone", {"init_weights": "bat"}).matrices > traffic("bone", {}).matrices


def adapter_seconds(gpu: Gpu, tokens: float) -> float:
    """Of an adapter that moves 100 tensors of 2 KiB a token and launches nothing."""
    adapter = NO_ADAPTER._replace(moved_tensors=100, tensor_per_token=2 * KIB)
    settings = Settings(technique="lora")
    c, trainer = time_coefficients(), find_trainer(DEFAULT_TRAINER)
    return moving_seconds(adapter, tokens, rates(gpu, settings, trainer, c), c)


def test_a_tensor_that_the_cache_holds_twice_costs_a_share():
    l40s = find_gpu("l40s")
    unknown = replace(l40s, l2_cache_bytes=None)
    # 96 MiB hold 48 MiB twice: 24 Ki tokens. Of twice as many half is found.
    fits = adapter_seconds(l40s, 24 * KIB) / adapter_seconds(unknown, 24 * KIB)
    half = adapter_seconds(l40s, 48 * KIB) / adapter_seconds(unknown, 48 * KIB)
    assert fits == pytest.approx(CACHED_SHARE)
    assert half == pytest.approx((1 + CACHED_SHARE) / 2)


def test_more_tokens_never_take_less():
    taken = [adapter_seconds(find_gpu("l40s"), tokens) for tokens in range(0, 100_000, 1000)]
    assert taken == sorted(taken)


def test_a_gpu_of_unknown_cache_is_said_to_have_none():
    said = "the L2 cache of mi300x is not known: the adapter finds nothing there"
    assert said in estimate("llama-7b", gpu="mi300x", technique="lora").assumptions
    for gpu, technique in (("mi300x", "full"), ("l40s", "lora")):
        answer = estimate("llama-7b", gpu=gpu, technique=technique)
        assert not any("L2 cache" in line for line in answer.assumptions)
