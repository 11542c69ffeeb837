"""The parts of a training step, and the fullest moment of each.

Marks are set where the gradient of a layer's output is there: between two of them lies one layer's
backward pass. Tensors carry the hooks, so that nothing more is kept alive. On a GPU the allocator's
own peak is read and set back at each mark; on a CPU torch.profiler sees the allocations, and the
marks are ranges in its record.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any, cast

from ftadvisor.execution import stack
from ftadvisor.execution.allocations import held_bytes
from ftadvisor.execution.device import Device
from ftadvisor.execution.probing.extrapolation import MIDDLE

FORWARD, LOSS, REST, OPTIMIZER = "forward", "loss", "rest", "optimizer"
_MARK = "ftadvisor:"


class Marks:
    """Watches one step of a model; `peaks` are the parts' fullest moments [bytes]."""

    def __init__(self, model: Any, optimizer: Any, device: Device) -> None:
        self.peaks: dict[str, int] = {}
        self._device = device
        self._name = FORWARD
        self._held = 0
        if device.is_cpu:
            # What nobody holds any more must not be freed in the middle of the step.
            gc.collect()
            self._held = held_bytes([model], optimizer)
        self._profile: Any = None
        self._hooks: list[Any] = []
        for stack_name, layers in layer_stacks(model).items():
            for index, layer in enumerate(layers):
                mark = _names(stack_name, index, len(layers))
                self._hooks.append(layer.register_forward_hook(self._hook(*mark)))
        self._start()

    def mark(self, name: str) -> None:
        """The part of this name begins."""
        if self._device.is_cpu:
            with stack.torch.profiler.record_function(_MARK + name):
                pass
        else:
            self._read()
        self._name = name

    def close(self) -> None:
        """The step has ended."""
        for hook in self._hooks:
            hook.remove()
        if not self._device.is_cpu:
            self._read()
            return
        self._profile.__exit__(None, None, None)
        events = self._profile.profiler.kineto_results.events()
        name, now = FORWARD, self._held
        for event in sorted(events, key=lambda e: e.start_ns()):
            if event.name().startswith(_MARK):
                name = event.name().removeprefix(_MARK)
                self._raise(name, now)
            elif event.name() == "[memory]":
                now += event.nbytes()
                self._raise(name, now)

    def _start(self) -> None:
        if not self._device.is_cpu:
            stack.torch.cuda.reset_peak_memory_stats(self._device.place)
            return
        profiler = stack.torch.profiler
        self._profile = profiler.profile(
            activities=[profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
        )
        self._profile.__enter__()

    def _read(self) -> None:
        cuda = stack.torch.cuda
        self._raise(self._name, cuda.max_memory_allocated(self._device.place))
        cuda.reset_peak_memory_stats(self._device.place)

    def _raise(self, name: str, held: int) -> None:
        self.peaks[name] = max(self.peaks.get(name, 0), held)

    def _hook(self, forward: str | None, backward: str | None) -> Any:
        def there(_: Any) -> None:
            self.mark(str(backward))

        def after(module: Any, inputs: Any, output: Any) -> None:
            hidden: Any = output if hasattr(output, "requires_grad") else output[0]
            if forward and self._name == FORWARD:
                self.mark(forward)
            if backward and hidden.requires_grad:
                hidden.register_hook(there)

        return after


def _names(of: str, index: int, count: int) -> tuple[str | None, str | None]:
    """What begins after a layer's forward pass, and what when its output has its gradient.

    Layers between the second and the last but one lie on the line between their neighbours.
    """
    last = count - 1
    forward = LOSS if index == last and "encoder" not in of else None
    if index == 0:
        return forward, f"{of} first layer"
    if index == last:
        return forward, f"{of} last layer"
    return forward, f"{of} second layer" if index == 1 else of + MIDDLE


def layer_stacks(model: Any) -> dict[str, list[Any]]:
    """The model's lists of alike layers by their names, outermost only."""
    # Transformers' own class of a layer that checkpointing can wrap.
    layer = stack.transformers.modeling_layers.GradientCheckpointingLayer
    found: dict[str, list[Any]] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if inside or not isinstance(module, stack.torch.nn.ModuleList):
            continue
        layers = list(cast("Iterable[Any]", module))
        if layers and all(
            isinstance(one, layer) and type(one) is type(layers[0]) for one in layers
        ):
            found[name] = layers
    return found
