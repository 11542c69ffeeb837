"""What this machine does at its best: rates, bandwidths, launch cost, context; under a minute.

Each piece of work is repeated until it has filled its share of the time, and its median counts.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from ftadvisor.execution import stack
from ftadvisor.execution.device import Device
from ftadvisor.execution.probing.collectives import (
    FAILURES,
    collectives,
    link_bytes_per_second,
)
from ftadvisor.sources.own_rows import machine_id, versions
from ftadvisor.units import MIB, MILLISECOND

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
GPU_LAYERS = ((2048, 2048), (2048, 8192), (4096, 14336), (4096, 128256), (4096, 16), (16, 4096))


def _layers(tokens: int) -> tuple[tuple[str, int, int, int], ...]:
    return tuple(("bf16", tokens, width, out) for width, out in GPU_LAYERS)


GPU_PRODUCTS = (
    *_layers(tokens=256),
    *_layers(tokens=1024),
    *_layers(tokens=4096),
    *_layers(tokens=16384),
    ("bf16", 8192, 8192, 8192),
    ("fp16", 8192, 8192, 8192),
    ("fp32", 4096, 4096, 4096),
)
"""(dtype, tokens, in, out): layers of 1B to 8B models at several batches, and squares."""
CPU_PRODUCTS = tuple(
    (dtype, tokens, width, out)
    for dtype in ("fp32", "bf16")
    for tokens, width, out in ((64, 512, 512), (256, 512, 2048), (512, 768, 3072),
                               (2048, 768, 768))
)  # fmt: skip
LARGE = 10**9
"""Operations of a product that is bound by its arithmetic, not by what it moves."""
COPIES_MIB = {"cuda": (1, 4, 16, 64, 256, 4096), "cpu": (1, 4, 16, 64, 256)}
ATTENTION = {
    "cuda": ((1, 32, 4096, 128), (2, 32, 2048, 64)),
    "cpu": ((1, 8, 256, 64), (1, 8, 512, 64)),
}
"""(batch, heads, tokens, width of a head)."""
OPTIMIZER = {"cuda": (10**7, 10**9), "cpu": (10**6, 10**7)}
"""Parameters."""
LEAST_SECONDS = {"cuda": 0.05, "cpu": 0.2}
QUEUED = 10000


def probe_machine(device: Device) -> dict[str, Any]:
    """One record of the machine, in seconds, bytes and FLOP/s: what docs/probing.md lists."""
    found: dict[str, Any] = {
        "id": machine_id(device.name),
        "device": device.name,
        "name": device.name if not device.is_cpu else processor(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "versions": versions(),
        **_memory(device),
        **(_driver() if not device.is_cpu else {"threads": stack.torch.get_num_threads()}),
    }
    clock = Clock(device)
    products = GPU_PRODUCTS if not device.is_cpu else CPU_PRODUCTS
    found["products"] = [clock.product(*case) for case in products]
    found["flops_per_second"] = rates(found["products"])
    found["copies"] = [clock.copy(mib) for mib in COPIES_MIB[device.kind]]
    found["copy_bytes_per_second"] = found["copies"][-1]["bytes_per_second"]
    found["attention"] = [clock.attention(*case) for case in ATTENTION[device.kind]]
    found["optimizer"] = [clock.optimizer(count) for count in OPTIMIZER[device.kind]]
    found["elementwise"] = [clock.elementwise(rows) for rows in (2048, 8192)]
    found["quantized"] = clock.quantized()
    found["spread"] = clock.spread
    if not device.is_cpu:
        found["launch_seconds"] = launch_seconds(device)
        found["host_to_device_bytes_per_second"] = clock.transfer()
        found |= _link(stack.torch.cuda.device_count())
    return found


def _link(gpus: int) -> dict[str, Any]:
    """What several GPUs exchange, or why it is not known; one GPU has no other."""
    if gpus < 2:
        return {}
    try:
        rows = collectives(gpus)
    except FAILURES as error:
        return {"collectives": str(error)}
    return {"collectives": rows, "link_bytes_per_second": link_bytes_per_second(rows)}


def rates(products: list[dict[str, Any]]) -> dict[str, float]:
    """The best rate of large products, by dtype [FLOP/s]."""
    found: dict[str, float] = {}
    for row in products:
        tokens, width, out = row["shape"]
        if 2 * tokens * width * out >= LARGE or row["dtype"] not in found:
            found[row["dtype"]] = max(found.get(row["dtype"], 0.0), row["flops_per_second"])
    return found


class Clock:
    """Times pieces of work on a device."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.spread = 0.0
        """The largest: upper over lower quartile, minus 1."""

    def seconds(self, work: Callable[[], Any]) -> float:
        """Median time of one call."""
        for _ in range(3):
            work()
        times: list[float] = []
        least = LEAST_SECONDS[self._device.kind]
        while (sum(times) < least or len(times) < 5) and len(times) < 200:
            times.append(self._once(work))
        times.sort()
        count = len(times)
        if times[-1] > 1e-4:
            self.spread = max(self.spread, times[3 * count // 4] / times[count // 4] - 1)
        return times[count // 2]

    def _once(self, work: Callable[[], Any]) -> float:
        if self._device.is_cpu:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        cuda = stack.torch.cuda
        begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * MILLISECOND

    def product(self, dtype: str, tokens: int, width: int, out: int) -> dict[str, Any]:
        """A linear layer's forward pass."""
        x, w = self._random(dtype, tokens, width), self._random(dtype, out, width)
        seconds = self.seconds(lambda: stack.torch.nn.functional.linear(x, w))
        rate = 2 * tokens * width * out / seconds
        shape = [tokens, width, out]
        return {"dtype": dtype, "shape": shape, "seconds": seconds, "flops_per_second": rate}

    def copy(self, mib: int) -> dict[str, Any]:
        """Bytes that are read and written."""
        x = stack.torch.zeros(mib * MIB, dtype=stack.torch.uint8, device=self._device.place)
        y = stack.torch.zeros_like(x)
        seconds = self.seconds(lambda: y.copy_(x))
        return {"mib": mib, "bytes_per_second": 2 * x.numel() / seconds}

    def attention(self, batch: int, heads: int, length: int, width: int) -> dict[str, Any]:
        """PyTorch's own kernel, forward and backward."""
        torch = stack.torch
        dtype = "fp32" if self._device.is_cpu else "bf16"
        q, k, v = (
            self._random(dtype, batch, heads, length, width).requires_grad_() for _ in range(3)
        )
        run = torch.nn.functional.scaled_dot_product_attention
        out = run(q, k, v, is_causal=True)
        g = torch.randn_like(out)
        return {
            "shape": [batch, heads, length, width],
            "forward_seconds": self.seconds(lambda: run(q, k, v, is_causal=True)),
            "backward_seconds": self.seconds(
                lambda: torch.autograd.grad(out, (q, k, v), g, retain_graph=True)
            ),
        }

    def optimizer(self, count: int) -> dict[str, Any]:
        """One step of AdamW, fused."""
        dtype = "fp32" if self._device.is_cpu else "bf16"
        p = stack.torch.nn.Parameter(self._random(dtype, count))
        p.grad = stack.torch.zeros_like(p)
        adam = stack.torch.optim.AdamW([p], fused=True)
        return {"parameters": count, "dtype": dtype, "seconds": self.seconds(adam.step)}

    def elementwise(self, rows: int) -> dict[str, Any]:
        """Reads and writes of an activation over [rows, width]."""
        width, dtype = (768, "fp32") if self._device.is_cpu else (8192, "bf16")
        x = self._random(dtype, rows, width)
        seconds = self.seconds(lambda: stack.torch.nn.functional.gelu(x))
        return {"rows": rows, "bytes_per_second": 2 * x.nbytes / seconds}

    def quantized(self) -> dict[str, Any] | str:
        """A 4-bit layer beside the plain one, or why there is none."""
        try:
            layer = stack.bitsandbytes.nn.Linear4bit(
                768, 768, bias=False, quant_type="nf4", compute_dtype=stack.torch.bfloat16
            )
            layer.support_avx512bf16_for_cpu = False
            layer = layer.to(self._device.place)
            x = self._random("bf16", 256, 768)
            with stack.torch.no_grad():
                seconds = self.seconds(lambda: layer(x))
        except Exception as error:
            # Whatever its kernels say on this machine: without them there is nothing to measure.
            return f"bitsandbytes does not work here: {type(error).__name__}"
        return {"shape": [256, 768, 768], "quantization": "nf4", "seconds": seconds}

    def transfer(self) -> float:
        """From pinned memory to the GPU [bytes/s]."""
        x = stack.torch.empty(256 * MIB, dtype=stack.torch.uint8, pin_memory=True)
        y = stack.torch.empty_like(x, device=self._device.place)
        return x.numel() / self.seconds(lambda: y.copy_(x, non_blocking=True))

    def _random(self, dtype: str, *shape: int) -> Any:
        torch = stack.torch
        return torch.randn(*shape, device=self._device.place, dtype=getattr(torch, DTYPES[dtype]))


def launch_seconds(device: Device) -> float:
    """Host time of one small operation, many queued."""
    torch = stack.torch
    x = torch.zeros(1, device=device.place)
    for _ in range(100):
        x.add_(1)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(QUEUED):
        x.add_(1)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / QUEUED


def processor() -> str:
    """What the CPU is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "CPU"


def _memory(device: Device) -> dict[str, Any]:
    """What is usable, what others use already, and a GPU's context [bytes]."""
    if device.is_cpu:
        found = stack.psutil.virtual_memory()
        # Beside the system, and beside this process with its libraries, as a run has them.
        return {
            "usable_bytes": found.available,
            "used_bytes_at_start": found.total - found.available,
        }
    cuda = stack.torch.cuda
    stack.torch.zeros(1, device=device.place)
    free, total = cuda.mem_get_info(device.place)
    own = own_bytes()
    held = total - free - cuda.memory_reserved(device.place)
    return {
        "usable_bytes": total,
        # What the driver says of this process; else everything, which others may be part of.
        "context_bytes": own or held,
        "used_bytes_at_start": held - own if own else 0,
    }


def own_bytes() -> int:
    """The driver's figure for this process; 0: it does not say."""
    for line in str(stack.torch.cuda.list_gpu_processes()).splitlines():
        if str(os.getpid()) in line.split():
            words = line.split()
            for word, unit in pairwise(words):
                if unit == "MB":
                    return round(float(word) * MIB)
    return 0


def _driver() -> Mapping[str, Any]:
    """Driver, power limit and clocks, where nvidia-smi says them."""
    import subprocess

    names = ("driver_version", "power.limit", "clocks.sm", "clocks.mem", "clocks.max.sm")
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = out.stdout.splitlines()[0].split(", ") if out.stdout else []
    return {name.replace(".", "_"): value for name, value in zip(names, values, strict=False)}


def warnings_of(machine: Mapping[str, Any]) -> list[str]:
    """What makes the figures doubtful: another job, a battery, steps that differ."""
    on_gpu = machine["device"] != "cpu"
    said = _disturbances(machine.get("used_bytes_at_start", 0) if on_gpu else 0)
    if machine["spread"] > 0.25:
        said.append(
            f"the same work took up to {machine['spread']:.0%} longer: other processes are running"
        )
    if isinstance(machine.get("collectives"), str):
        said.append(f"the link between GPUs was not measured: {machine['collectives']}")
    return said


def disturbances(device: Device) -> list[str]:
    """Another job and a battery, before anything is measured."""
    return _disturbances(0 if device.is_cpu else _memory(device)["used_bytes_at_start"])


def _disturbances(used: int) -> list[str]:
    said: list[str] = []
    if used > 256 * MIB:
        said.append(f"other processes use {used / MIB:,.0f} MiB of the GPU: the figures may be low")
    for supply in Path("/sys/class/power_supply").glob("BAT*/status"):
        try:
            if supply.read_text(encoding="utf-8").strip() == "Discharging":
                said.append("the machine is on battery: its clocks vary")
        except OSError:
            continue
    return said
