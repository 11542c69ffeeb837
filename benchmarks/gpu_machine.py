"""What this machine's GPU does at its best: rates, bandwidths, launch cost, context size."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def machine_rows(*, tiny: bool) -> list[dict[str, Any]]:
    """One row; nothing on a machine without a GPU."""
    if not torch.cuda.is_available():
        return [{"id": "machine", "device": "cpu"}]
    free, total = torch.cuda.mem_get_info()
    found: dict[str, Any] = {"id": "machine", "device": torch.cuda.get_device_name()}
    found["usable_bytes"], found["free_bytes_at_start"] = total, free
    found["properties"] = str(torch.cuda.get_device_properties(0))
    found["context_bytes"] = total - free
    found["products"] = [product(*case) for case in products()]
    found["copies"] = [copy_rate(mib) for mib in (1, 4, 16, 64, 256, 1024, 4096)]
    found["host_to_device_bytes_per_second"] = transfer_rate()
    found["launch_seconds"] = launch_seconds()
    found["attention"] = [
        attention(*case) for case in ((4, 32, 1024, 128), (1, 32, 4096, 128), (2, 32, 2048, 64))
    ]
    found["optimizer"] = [optimizer(n) for n in (10**7, 10**9)]
    found["elementwise"] = [norm_rate(rows) for rows in (1024, 8192)]
    return [found]


def products() -> list[tuple[str, int, int, int]]:
    """(dtype, tokens, in, out): layers of 1B to 8B models at several batches, and squares."""
    cases = [
        ("bf16", t, i, o)
        for t in (256, 1024, 4096, 16384)
        for i, o in (
            (2048, 2048),
            (2048, 8192),
            (4096, 14336),
            (4096, 128256),
            (4096, 16),
            (16, 4096),
        )
    ]
    squares = [("bf16", 8192), ("fp16", 8192), ("fp32", 4096)]
    return cases + [(dtype, n, n, n) for dtype, n in squares]


def seconds_of(work: Callable[[], Any], least: float = 0.05) -> float:
    """Median time of one call, by events, over calls that fill `least` seconds."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    times: list[float] = []
    spent = 0.0
    while spent < least or len(times) < 5:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
        spent += times[-1]
        if len(times) >= 200:
            break
    return sorted(times)[len(times) // 2]


def product(dtype: str, tokens: int, width: int, out: int) -> dict[str, Any]:
    x = torch.randn(tokens, width, device="cuda", dtype=DTYPES[dtype])
    w = torch.randn(out, width, device="cuda", dtype=DTYPES[dtype])
    seconds = seconds_of(lambda: functional.linear(x, w))
    flops = 2 * tokens * width * out
    return {
        "dtype": dtype,
        "shape": [tokens, width, out],
        "seconds": seconds,
        "flops_per_second": flops / seconds,
    }


def copy_rate(mib: int) -> dict[str, Any]:
    x = torch.empty(mib << 20, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    return {"mib": mib, "bytes_per_second": 2 * x.numel() / seconds_of(lambda: y.copy_(x))}


def transfer_rate() -> float:
    x = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=True)
    y = torch.empty_like(x, device="cuda")
    return x.numel() / seconds_of(lambda: y.copy_(x, non_blocking=True))


def launch_seconds() -> float:
    """Host time of one small operation, many queued."""
    x = torch.zeros(1, device="cuda")
    for _ in range(100):
        x.add_(1)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10000):
        x.add_(1)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / 10000


def attention(batch: int, heads: int, length: int, width: int) -> dict[str, Any]:
    q, k, v = (
        torch.randn(
            batch, heads, length, width, device="cuda", dtype=torch.bfloat16, requires_grad=True
        )
        for _ in range(3)
    )
    forward = seconds_of(lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=True))
    out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    g = torch.randn_like(out)
    backward = seconds_of(lambda: torch.autograd.grad(out, (q, k, v), g, retain_graph=True))
    return {
        "shape": [batch, heads, length, width],
        "forward_seconds": forward,
        "backward_seconds": backward,
    }


def optimizer(count: int) -> dict[str, Any]:
    p = torch.nn.Parameter(torch.zeros(count, device="cuda", dtype=torch.bfloat16))
    p.grad = torch.zeros_like(p)
    adam = torch.optim.AdamW([p], fused=True)
    return {"parameters": count, "dtype": "bf16", "seconds": seconds_of(adam.step)}


def norm_rate(rows: int) -> dict[str, Any]:
    """Reads and writes of a GELU over [rows, 8192] in bf16."""
    x = torch.randn(rows, 8192, device="cuda", dtype=torch.bfloat16)
    return {"rows": rows, "bytes_per_second": 2 * x.nbytes / seconds_of(lambda: functional.gelu(x))}
