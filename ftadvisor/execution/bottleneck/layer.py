"""A module of the base, and the bottleneck after it."""

from __future__ import annotations

from typing import Any

from ftadvisor.execution import stack

nn: Any = stack.torch.nn
Module: Any = nn.Module
BaseTunerLayer: Any = stack.peft.tuners.tuners_utils.BaseTunerLayer


class BottleneckLayer(Module, BaseTunerLayer):
    """y + up(gelu(down(y))), where y is what the module puts out.

    `up` starts at zero, so that the adapter starts as identity (arXiv:1902.00751 section 2.1).
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")

    def __init__(self, base_layer: Any, adapter_name: str, config: Any, width: int) -> None:
        Module.__init__(self)
        self.base_layer = base_layer
        self.width = width
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: Any) -> None:
        """A new adapter of that name."""
        down = nn.Linear(self.width, config.adapter_length)
        up = nn.Linear(config.adapter_length, self.width)
        if not down.weight.is_meta:
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
        # Beside the base: a block's own parameters tell where it is.
        beside = next(self.base_layer.parameters(), None)
        if beside is not None and not beside.is_meta:
            down, up = down.to(beside.device), up.to(beside.device)
        self.bottleneck_down[adapter_name] = down
        self.bottleneck_up[adapter_name] = up
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module puts out, adapted; of several outputs the first is."""
        found = self.base_layer(*args, **kwargs)
        if self.disable_adapters:
            return found
        if isinstance(found, tuple):
            return (self._adapted(found[0]), *found[1:])
        return self._adapted(found)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises ValueError: no weight of the base can hold what is not linear."""
        raise ValueError("a bottleneck adapter is not linear: it cannot be merged")

    def _adapted(self, hidden: Any) -> Any:
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                down, up = self.bottleneck_down[name], self.bottleneck_up[name]
                inner = nn.functional.gelu(down(hidden.to(down.weight.dtype)))
                hidden = hidden + up(inner).to(hidden.dtype)
        return hidden
