"""A plan as its owner needs it: in one line, what it takes, and its settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from ftadvisor.render.cells import (
    VERDICTS,
    cost_cell,
    memory_cell,
    name_of,
    speed_cell,
    time_cell,
)
from ftadvisor.render.document import Cell, Column, Table, Words
from ftadvisor.render.estimate import bar
from ftadvisor.schema.plan import Plan
from ftadvisor.sources.techniques import find_technique
from ftadvisor.units import format_usd

GROUPS = {
    "training": (
        "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "num_train_epochs",
        "max_grad_norm", "beta",
    ),
    "batch": (
        "micro_batch_size", "gradient_accumulation_steps", "max_length", "packing",
        "max_target_length", "num_generations", "max_completion_length",
    ),
    "adapter": ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "peft_config"),
    "memory": (
        "quantization", "gradient_checkpointing", "optim", "loss_kernel", "reference_model",
        "offload_optimizer", "offload_params", "strategy",
    ),
    "numerics": ("weights_dtype", "autocast", "adapter_dtype", "attn_implementation"),
}  # fmt: skip
"""Settings that a person needs, in the order in which they are shown."""
_ONLY_FOR = {
    "num_generations": ("grpo", "rloo"),
    "max_completion_length": ("grpo", "rloo"),
    "reference_model": ("dpo", "kto", "grpo", "rloo"),
    "max_target_length": ("seq2seq",),
}
"""Objectives for which a setting means something."""
_UNSAID: dict[str, Any] = {
    "strategy": "none", "offload_optimizer": False, "offload_params": False, "peft_config": {},
    "loss_kernel": "torch",
}  # fmt: skip
"""Not worth a word while they have this value."""
_RANKED = ("lora_r", "lora_alpha", "lora_dropout")


def plan_line(plan: Plan) -> str:
    """The plan in one line."""
    s = plan.settings
    words = [name_of(plan.estimate)]
    if plan.objective != "sft":
        words[0] += f" for {plan.objective}"
    if _has_rank(plan):
        words.append(f"r {s['lora_r']}")
    gpus = s.get("num_gpus", 1)
    many = f" × {gpus} GPUs" if gpus > 1 else ""
    words.append(
        f"micro-batch {s['micro_batch_size']} × accumulation {s['gradient_accumulation_steps']}"
        f"{many}"
    )
    words.append(f"max_length {s['max_length']}")
    words.append(f"learning rate {s['learning_rate']:g}")
    epochs = s["num_train_epochs"]
    words.append(f"{epochs:g} epoch{'' if epochs == 1 else 's'}")
    return ", ".join(words)


def takes_table(plan: Plan) -> Table:
    """Memory with its parts, time with its speed, cost with its price."""
    e = plan.estimate
    rows: list[tuple[Cell, ...]] = [(Words("memory", "dim"), memory_cell(e), bar(e))]
    if e.verdict is not None and e.verdict != "fits":
        text, tone = VERDICTS[e.verdict]
        rows.append((Words("verdict", "dim"), Words(text, tone), Words("")))
    if e.time is not None:
        speed = f"{speed_cell(e).text} tokens/s"
        rows.append((Words("time", "dim"), time_cell(e), Words(speed, "dim")))
    if e.cost is not None:
        price = f"{format_usd(e.cost.usd_per_gpu_hour)} per GPU-hour"
        seller = f", {e.cost.provider}, {e.cost.price_date}" if e.cost.price_date else ""
        rows.append((Words("cost", "dim"), cost_cell(e), Words(price + seller, "dim")))
    elif e.gpu is not None:
        how = f"no price of {e.gpu} is known: --price USD (of one GPU-hour) gives the cost"
        rows.append((Words("cost", "dim"), Words("unknown", "dim"), Words(how, "dim")))
    return Table((Column(""), Column(""), Column("", fold=True)), tuple(rows))


def settings_table(plan: Plan) -> Table:
    """The settings by what they are about."""
    rows = [
        (Words(title, "dim"), Words(", ".join(found)))
        for title, names in GROUPS.items()
        if (found := list(_said(names, plan)))
    ]
    rows.append((Words("seed", "dim"), Words(str(plan.seed))))
    return Table((Column(""), Column("", fold=True)), tuple(rows), "Settings")


def setting_value(value: Any) -> str:
    """A value as one would say it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " ".join(map(str, cast("list[Any]", value)))
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return ", ".join(f"{key} {setting_value(one)}" for key, one in pairs.items())
    return str(value)


def _said(names: tuple[str, ...], plan: Plan) -> Iterator[str]:
    for name in names:
        if name in plan.settings and _matters(name, plan):
            yield f"{name} {setting_value(plan.settings[name])}"


def _has_rank(plan: Plan) -> bool:
    return "lora_r" in find_technique(plan.technique).settings


def _matters(name: str, plan: Plan) -> bool:
    value = plan.settings[name]
    if name in _ONLY_FOR:
        return plan.objective in _ONLY_FOR[name]
    if name == "lora_target_modules":
        return bool(value)
    if name in _RANKED:
        known = find_technique(plan.technique).settings
        return ("lora_r" if name == "lora_dropout" else name) in known
    return value is not None and not (name in _UNSAID and value == _UNSAID[name])
