"""What adapters launch and move, against a count over PEFT's own operations."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from test_adapters import CASES, CONFIGS, LLAMA, NO_TARGETS, QUERY_VALUE, Case, peft_model

from ftadvisor.estimation.adapters.traffic import Traffic, traffic
from ftadvisor.sources.techniques import all_techniques

WIDTH = 512
WIDE = {
    **LLAMA, "hidden_size": WIDTH, "intermediate_size": 1280, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 64,
}  # fmt: skip
"""Wide enough that a rank of eight is small beside it."""
OUT = (WIDTH, WIDTH // 2)
"""Of queries and values."""
FP32 = 4
ONE_LAYERS = {"ln_tuning", "prefix_tuning", "adaption_prompt"}
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
