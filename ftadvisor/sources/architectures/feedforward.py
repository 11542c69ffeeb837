"""The feed-forward part of a layer: one MLP, or a mixture of experts."""

from __future__ import annotations

from typing import Any, cast

from ftadvisor.schema.model import Linear, Mlp
from ftadvisor.sources.architectures.config import Config


def _intermediate_size(c: Config, h: int) -> int:
    """`intermediate` in the row: a key; [key, times], where null means times the hidden size; or
    {"times": a number or a key}.
    """
    rule = c.row.get("intermediate", "intermediate_size")
    if isinstance(rule, str):
        return c.integer(rule)
    if isinstance(rule, list):
        key, times = cast("tuple[str, int]", rule)
        return c.integer(key, times * h)
    times = rule["times"]
    return round(h * c.number(times)) if isinstance(times, str) else times * h


def dense(c: Config, h: int) -> tuple[Mlp, tuple[Linear, ...]]:
    """One MLP: gate, up and down; gate and up in one, and down; or up and down."""
    row = c.row
    size = _intermediate_size(c, h) // row.get("intermediate_over", 1)
    names = row["mlp"]
    gated = row.get("gated", len(names) == 3)
    bias = c.flag(row.get("mlp_bias", False))
    mlp = Mlp(
        intermediate_size=size,
        gated=gated,
        act=c.activation(row.get("act", "hidden_act"), row.get("act_name", "")),
        fused_gate_up=gated and len(names) == 2,
    )
    up = 2 * size if mlp.fused_gate_up else size
    *ups, down = names
    linears = (*(Linear(n, h, up, bias) for n in ups), Linear(down, size, h, bias))
    return mlp, linears


def mixture(c: Config, h: int) -> tuple[Mlp, tuple[Linear, ...]]:
    """Experts are 3-D parameters in Transformers 5, gate and up in one.

    Source: transformers/models/mixtral/modeling_mixtral.py, MixtralExperts.
    """
    row: dict[str, Any] = c.row["moe"]
    experts = c.integer(row.get("num_experts", "num_experts"))
    chosen = c.integer(row.get("per_token", "num_experts_per_tok"))
    if chosen > experts:
        raise c.fail(row.get("per_token", "num_experts_per_tok"), f"is {chosen} of {experts}")
    if row.get("runs_all"):
        # Llama4TextMoe multiplies every token by every expert, by zero where it was not chosen.
        chosen = experts
        c.assume(f"every token runs through all {experts} experts, as Transformers computes them")
    size = c.integer(row.get("intermediate", "moe_intermediate_size"))
    shared = _shared_size(c, row, size)
    bias = c.flag(row.get("bias", False))
    mlp = Mlp(
        intermediate_size=size,
        gated=True,
        act=c.activation(c.row.get("act", "hidden_act"), c.row.get("act_name", "")),
        num_experts=experts,
        experts_per_token=chosen,
        shared_intermediate_size=shared,
        fused_gate_up=True,
    )
    modules = row.get("expert_modules", False)
    *ups, down = row.get("experts", ("gate_up_proj", "down_proj"))
    raised = 2 * size // len(ups)
    router = row.get("router", "gate")
    router_module, router_bias = row.get("router_module", False), row.get("router_bias", False)
    linears = [
        Linear(router, h, experts, router_bias, part="router", module=router_module),
        *(Linear(up, h, raised, bias, experts, "experts", modules) for up in ups),
        Linear(down, size, h, bias, experts, "experts", modules),
    ]
    if shared:
        *ups, down = row.get("shared_names", ("gate_proj", "up_proj", "down_proj"))
        raised = 2 * shared // len(ups)
        linears += [Linear(up, h, raised, part="shared_expert") for up in ups]
        linears.append(Linear(down, shared, h, part="shared_expert"))
        if "shared_gate" in row:
            linears.append(Linear(row["shared_gate"], h, 1, part="shared_expert"))
    return mlp, tuple(linears)


def _shared_size(c: Config, row: dict[str, Any], size: int) -> int:
    if "shared_intermediate" in row:
        return c.integer(row["shared_intermediate"], 0, least=0)
    if "num_shared" in row:
        return size * c.integer(row["num_shared"], 0, least=0)
    return 0
