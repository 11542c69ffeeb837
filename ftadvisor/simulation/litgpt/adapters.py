"""litgpt's adapted matrices: litgpt 0.2.0, litgpt/lora.py and litgpt/adapter_v2.py."""

from __future__ import annotations

from typing import Any

from ftadvisor.estimation.adapters.litgpt import switches
from ftadvisor.schema.model import Attention
from ftadvisor.schema.settings import Settings
from ftadvisor.simulation.litgpt.modules import Linears, Module, Role, functional
from ftadvisor.simulation.stack import torch


class Lora(Module):
    """lora.py, LoRALinear."""

    def __init__(self, linear: Any, rank: int, scaling: float, dropout: float) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.linear = linear
        self.scaling = scaling
        self.dropout = torch.nn.Dropout(dropout) if dropout else torch.nn.Identity()
        self.lora_A = torch.nn.Parameter(torch.zeros(rank, linear.in_features))
        self.lora_B = torch.nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Any) -> Any:
        """Columns to rows."""
        pretrained = self.linear(x)
        update = self.dropout(x) @ self.lora_A.transpose(0, 1) @ self.lora_B.transpose(0, 1)
        return pretrained + update * self.scaling


class LoraQkv(Module):
    """lora.py, LoRAQKVLinear: what is adapted of q, k and v shares one dropped-out input."""

    def __init__(
        self, linear: Any, widths: list[int], rank: int, scaling: float, dropout: float
    ) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.linear = linear
        self.widths = widths
        self.scaling = scaling
        self.dropout = torch.nn.Dropout(dropout) if dropout else torch.nn.Identity()
        self.lora_A = torch.nn.Parameter(torch.zeros(rank * len(widths), linear.in_features))
        self.lora_B = torch.nn.Parameter(torch.zeros(sum(widths), rank))

    def forward(self, x: Any) -> Any:
        """Columns to rows."""
        pretrained = self.linear(x)
        after_a = functional.linear(self.dropout(x), self.lora_A)
        after_b = self._conv1d(after_a.transpose(-2, -1), self.lora_B.unsqueeze(-1))
        return pretrained + self._zero_pad(after_b.transpose(-2, -1)) * self.scaling

    def _conv1d(self, x: Any, weight: Any) -> Any:
        number = len(self.widths)
        if len(set(self.widths)) == 1:
            return functional.conv1d(x, weight, groups=number)
        parts = zip(x.chunk(number, dim=1), weight.split(self.widths), strict=True)
        return torch.cat([functional.conv1d(a, b) for a, b in parts], dim=1)

    def _zero_pad(self, x: Any) -> Any:
        """Scattered into zeros of the full width, by indices copied from the host each time."""
        width, adapted = self.linear.out_features, sum(self.widths)
        if adapted == width:
            return x
        x = x.transpose(0, 1)
        shape = (*x.shape[:-1], width)
        result = x.new_zeros(shape).view(-1, width)
        indices = torch.empty(adapted, dtype=torch.long, device=x.device)
        result = result.index_copy(1, indices, x.reshape(-1, adapted))
        return result.view(shape).transpose(0, 1)


class Scaled(Module):
    """adapter_v2.py, AdapterV2Linear."""

    def __init__(self, linear: Any) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.linear = linear
        self.adapter_bias = torch.nn.Parameter(torch.zeros(linear.out_features))
        self.adapter_scale = torch.nn.Parameter(torch.ones(linear.out_features))

    def forward(self, x: Any) -> Any:
        """Columns to rows."""
        return self.adapter_scale * (self.linear(x) + self.adapter_bias)


TRAINED = {
    "lora": ("lora_",),
    "adapter": ("adapter_wte", "gating_factor"),
    "adapter_v2": (
        "adapter_wte", "gating_factor", "adapter_scale", "adapter_bias", "norm_1", "norm_2", "ln_f",
    ),
}  # fmt: skip
"""What a parameter that trains has in its name (lora_filter, adapter_filter); all: full."""


def linears(settings: Settings, attention: Attention, kind: str) -> Linears:
    """What stands in each matrix's place; `kind`: full, lora, adapter or adapter_v2."""

    def plain(role: Role, columns: int, rows: int, bias: bool) -> Any:
        return torch.nn.Linear(columns, rows, bias=bias)

    def scaled(role: Role, columns: int, rows: int, bias: bool) -> Any:
        return Scaled(plain(role, columns, rows, bias))

    if kind != "lora":
        return scaled if kind == "adapter_v2" else plain
    names = switches(settings)
    widths = {"q": attention.q_width, "k": attention.k_width, "v": attention.v_width}
    parts = [width for name, width in widths.items() if name in names]
    options = (settings.lora_r, settings.lora_alpha / settings.lora_r, settings.lora_dropout)

    def adapted(role: Role, columns: int, rows: int, bias: bool) -> Any:
        linear = plain(role, columns, rows, bias)
        if role == "qkv":
            return LoraQkv(linear, parts, *options) if parts else linear
        return Lora(linear, *options) if role in names else linear

    return adapted


def freeze(model: Any, kind: str) -> None:
    """Only what the technique trains has gradients."""
    parts = TRAINED.get(kind)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parts is None or any(part in name for part in parts))
