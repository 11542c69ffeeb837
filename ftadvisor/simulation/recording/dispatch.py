"""Makes torch treat meta tensors as it treats CUDA's, where that changes what is allocated.

torch's dispatcher has keys of autocast for back ends that no build has. One of them (IPU's) stands
above autograd and is off by default; kernels of our own are registered there and the key is
switched on while a step is recorded. So whatever Python calls, F.dropout, a module, a compiled
composite, and whether it is called in forward, backward or a recomputation, the same kernels see
it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest import mock

from ftadvisor.simulation.cuda.attention import attend, backend, problem_of
from ftadvisor.simulation.cuda.autocast import STATE, Casts, last_first, policy, single
from ftadvisor.simulation.cuda.autocast import enabled as autocast_enabled
from ftadvisor.simulation.recording.recorder import Recorder
from ftadvisor.simulation.stack import aten, foreach, optimizer_module, torch, torch_library

_KEY = torch._C.DispatchKey.AutocastIPU
_KEYS = torch._C.DispatchKeySet(_KEY)
_casts = Casts()
_recorders: list[Recorder] = []


def _below() -> Any:
    return torch._C._ExcludeDispatchKeyGuard(_KEYS)


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    with _below():
        if autocast_enabled():
            query, key, value, attn_mask = last_first(_casts.lower, (query, key, value, attn_mask))
        problem = problem_of(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa)
        recorder = _recorders[-1]
        chosen = backend(problem, recorder.compute_capability, flash=recorder.flash)
        recorder.attention[chosen] += 1
        return attend(chosen, query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)


def _dropout(input: Any, p: float, train: bool) -> Any:
    with _below():
        if not train or p == 0.0 or not input.numel():
            return input
        # is_fused_kernel_acceptable: a mask of one byte an element is kept.
        return aten.native_dropout(input, p, True)[0]


def _rms_norm(
    input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Any:
    with _below():
        if autocast_enabled():
            input, weight = single(input), single(weight)
        if weight is None or weight.dtype == input.dtype:
            return aten._fused_rms_norm(input, normalized_shape, weight, eps)[0]
        return aten.rms_norm(input, normalized_shape, weight, eps)


@cache
def _libraries() -> tuple[Any, ...]:
    """Registered once, for the life of the process; without the key they are never reached."""
    everything = torch_library.Library("_", "IMPL", "AutocastIPU")
    everything.fallback(torch_library.fallthrough_kernel)
    ours = torch_library.Library("aten", "IMPL", "AutocastIPU")
    for name, kernel in policy(_casts, _below).items():
        ours.impl(name, kernel)
    ours.impl("scaled_dot_product_attention", _attention)
    ours.impl("dropout", _dropout)
    ours.impl("rms_norm", _rms_norm)
    return everything, ours


@contextmanager
def _dispatched() -> Generator[None]:
    _libraries()
    torch._C._dispatch_tls_set_dispatch_key_excluded(_KEY, False)
    torch._C._dispatch_tls_set_dispatch_key_included(_KEY, True)
    try:
        yield
    finally:
        torch._C._dispatch_tls_set_dispatch_key_included(_KEY, False)
        torch._C._dispatch_tls_set_dispatch_key_excluded(_KEY, True)


@contextmanager
def _patched() -> Generator[None]:
    """Questions about the device, answered as on CUDA."""
    enabled, dtype, clear = (
        torch.is_autocast_enabled, torch.get_autocast_dtype, torch.clear_autocast_cache,
    )  # fmt: skip
    supported, fused = (
        foreach._get_foreach_kernels_supported_devices(),
        foreach._get_fused_kernels_supported_devices(),
    )

    def state(*_: Any) -> bool:
        return enabled(STATE)

    def chosen(*_: Any) -> Any:
        return dtype(STATE)

    begin = torch.autocast.__init__

    def begin_on(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        # PEFT and some models switch autocast off on the device of a tensor.
        begin(self, STATE if device_type == "meta" else device_type, *args, **kwargs)

    def clear_both() -> None:
        clear()
        _casts.clear()

    replaced: list[tuple[Any, str, Any]] = [
        (torch, "is_autocast_enabled", state),
        (torch, "get_autocast_dtype", chosen),
        (torch, "clear_autocast_cache", clear_both),
        (torch.autocast, "__init__", begin_on),
    ]
    for module in (foreach, optimizer_module):
        replaced += [
            (module, "_get_foreach_kernels_supported_devices", lambda: [*supported, "meta"]),
            (module, "_get_fused_kernels_supported_devices", lambda: [*fused, "meta"]),
        ]
    with ExitStack() as stack:
        for owner, name, value in replaced:
            if hasattr(owner, name):
                stack.enter_context(mock.patch.object(owner, name, value))
        yield


@contextmanager
def as_cuda(recorder: Recorder) -> Generator[None]:
    """Record what runs inside, as it would run on a GPU."""
    _recorders.append(recorder)
    try:
        with _patched(), _dispatched(), recorder:
            yield
    finally:
        _recorders.pop()
        _casts.clear()
