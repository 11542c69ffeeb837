"""Four-bit weights that are taken away between forward and backward, as ZeRO-3 takes them."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
bitsandbytes = pytest.importorskip("bitsandbytes")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def layer(double: bool) -> Any:
    torch.manual_seed(0)
    made = bitsandbytes.nn.Linear4bit(
        128, 64, bias=True, quant_type="nf4", compute_dtype=torch.float32,
        compress_statistics=double,
    )  # fmt: skip
    made.support_avx512bf16_for_cpu = False
    return made.to("cpu")


def gradients(product: Any, inputs: Any, *, taken: bool) -> tuple[Any, Any, int]:
    """Of the inputs and of the bias, and how many hold the weights after forward besides us."""
    inputs = inputs.clone().requires_grad_()
    out = product(inputs)
    whole = product.weight.data
    if taken:
        product.weight.data = torch.empty(0, dtype=whole.dtype)
    holders = torch._C._storage_Use_Count(whole.untyped_storage()._cdata)
    product.weight.data = whole
    out.pow(2).sum().backward()
    return inputs.grad, product.bias.grad, holders


@pytest.mark.parametrize("double", [False, True])
def test_nothing_keeps_what_the_engine_takes(monkeypatch: pytest.MonkeyPatch, double: bool):
    from ftadvisor.execution.products import free_weights

    inputs = torch.randn(3, 5, 128)
    monkeypatch.setattr(bitsandbytes, "matmul_4bit", bitsandbytes.matmul_4bit)
    theirs = gradients(layer(double), inputs, taken=True)
    free_weights()
    ours = gradients(layer(double), inputs, taken=True)
    assert torch.allclose(ours[0], theirs[0], atol=1e-6)
    assert torch.allclose(ours[1], theirs[1], atol=1e-6)
    # bitsandbytes' own view of them is one more.
    assert ours[2] == theirs[2] - 1
    patched = bitsandbytes.matmul_4bit
    free_weights()
    assert bitsandbytes.matmul_4bit is patched
