"""The plan's settings as keyword arguments of TrainingArguments and of TRL's configurations, and
the other way round.

TRL's own defaults differ (bf16 where it can, gradient checkpointing, logging every 10 steps, other
learning rates: trl 1.16 trainer/base_config.py), so that all of them are said.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ftadvisor.errors import UnsupportedError
from ftadvisor.execution.device import Device
from ftadvisor.execution.kernels import liger_options
from ftadvisor.execution.launching import strategy_arguments, strategy_of
from ftadvisor.execution.preferences import POLICY
from ftadvisor.schema.plan import Plan
from ftadvisor.schema.run import RunSettings
from ftadvisor.schema.settings import Autocast, Checkpointing, Settings

CHECKPOINTS = "checkpoints"
OPTIMIZERS = {
    "paged_adamw": "paged_adamw_32bit", "lion": "lion_32bit", "paged_lion": "paged_lion_32bit",
    "adamw_8bit": "adamw_bnb_8bit",
}  # fmt: skip
"""Spellings that Transformers 5.23's OptimizerNames has not or calls an alias, and the same
optimizers' in it."""


def common(
    plan: Plan, settings: Settings, run: RunSettings, device: Device, *, evaluates: bool
) -> dict[str, Any]:
    """What every trainer is given; `evaluates`: there are rows held out."""
    of_plan = plan.settings
    return {
        "output_dir": str(Path(run.output_dir) / CHECKPOINTS),
        "per_device_train_batch_size": settings.micro_batch_size,
        "per_device_eval_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "learning_rate": of_plan["learning_rate"],
        "lr_scheduler_type": of_plan["lr_scheduler_type"],
        "warmup_steps": of_plan["warmup_steps"],
        "weight_decay": of_plan["weight_decay"],
        "num_train_epochs": of_plan["num_train_epochs"],
        "max_steps": run.max_steps or -1,
        "optim": OPTIMIZERS.get(settings.optim, settings.optim),
        **liger_options(settings),
        **_galore(settings),
        "max_grad_norm": settings.max_grad_norm,
        "bf16": settings.autocast == "bf16",
        "fp16": settings.autocast == "fp16",
        **_checkpointing(settings),
        "seed": plan.seed,
        "data_seed": plan.seed,
        "use_cpu": device.is_cpu,
        "dataloader_pin_memory": not device.is_cpu,
        "logging_strategy": "steps",
        "logging_steps": 1,
        # True, the default, logs a loss that is no number as 0.0 (study 2.3).
        "logging_nan_inf_filter": False,
        "report_to": list(run.report_to),
        "disable_tqdm": True,
        "eval_strategy": "steps" if run.eval_steps and evaluates else "no",
        "eval_steps": run.eval_steps,
        "save_strategy": "steps" if run.save_steps else "no",
        "save_steps": run.save_steps or 500,
        # checkpoints.write_whole keeps the last ones.
        "save_total_limit": None,
        # Else the loss of a batch in evaluation is not computed for PEFT's wrapper.
        "label_names": ["labels"],
        # A sum over each batch's ids: what tokens_per_second is made of.
        "include_num_input_tokens_seen": "non_padding",
        **strategy_arguments(settings),
    }


BUT_HEADS = r"(?!.*(lm_head|embed_out|classifier|score)$).*"
"""A pattern of all modules but those that put out logits, which GaLore's paper does not project."""


def _galore(settings: Settings) -> dict[str, Any]:
    """GaLore's matrices, which Transformers asks for; their rank is its default, as estimated."""
    return {"optim_target_modules": BUT_HEADS} if settings.technique == "galore" else {}


def _checkpointing(settings: Settings) -> dict[str, Any]:
    # Transformers 5.23's name is activation_checkpointing; TRL's default of the old one is True,
    # which the new one outranks (training_args.py line 1533).
    if settings.gradient_checkpointing == "none":
        return {"activation_checkpointing": False}
    options: dict[str, Any] = {"use_reentrant": False}
    if settings.gradient_checkpointing == "selective":
        # TRL's own key (trl 1.16 trainer/sft_trainer.py line 1163).
        options["selective"] = True
    return {"activation_checkpointing": True, "activation_checkpointing_kwargs": options}


def total_steps(plan: Plan, settings: Settings, run: RunSettings, num_examples: int) -> int:
    """Optimizer steps of the run, as the Trainer will count them for unpacked examples."""
    if run.max_steps:
        return run.max_steps
    rows = settings.micro_batch_size * settings.num_gpus
    a_pass = math.ceil(math.ceil(num_examples / rows) / settings.gradient_accumulation_steps)
    if plan.objective in POLICY:
        # A row is an answer, and what does not fill a batch is dropped (preferences.check_batch).
        answers = num_examples * settings.num_generations
        a_pass = answers // (rows * settings.gradient_accumulation_steps)
    return max(1, math.ceil(a_pass * float(plan.settings["num_train_epochs"])))


def as_given(planned: Settings, args: Any) -> Settings:
    """What a trainer with these arguments really does; what they do not say is as planned.

    Raises UnsupportedError for what settings cannot say.
    """
    if args.n_gpu > 1:
        raise UnsupportedError.of(
            f"{args.n_gpu} GPUs in one process", "it is not what DDP does",
            [f"torchrun --nproc-per-node {args.n_gpu}", "CUDA_VISIBLE_DEVICES=0"],
        )  # fmt: skip
    named = str(getattr(args.optim, "value", args.optim))
    same = OPTIMIZERS.get(named, named) == OPTIMIZERS.get(planned.optim, planned.optim)
    liger = bool(args.use_liger_kernel)
    fused = dict.fromkeys(("fused_norm", "fused_mlp"), liger)
    # Of TRL's online trainers alone; None: its default, which depends on others.
    online = {n: getattr(args, n, None) for n in ("num_generations", "max_completion_length")}
    return replace(
        planned,
        micro_batch_size=args.per_device_train_batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        num_gpus=args.world_size,
        strategy=strategy_of(args),
        gradient_checkpointing=_checkpointing_of(args),
        autocast=_autocast_of(args),
        optim=planned.optim if same else named,
        max_grad_norm=float(args.max_grad_norm or 0.0),
        **({} if liger == bool(liger_options(planned)) else fused),
        **{name: value for name, value in online.items() if value is not None},
        **_lengths_of(args, planned),
    )


def _autocast_of(args: Any) -> Autocast:
    return "bf16" if args.bf16 else "fp16" if args.fp16 else "none"


def _checkpointing_of(args: Any) -> Checkpointing:
    # The old names mirror the new ones, and older releases have no others.
    sharded = cast("dict[str, Any]", args.fsdp_config or {})
    if not (args.gradient_checkpointing or (args.fsdp and sharded.get("activation_checkpointing"))):
        return "none"
    how = cast("dict[str, Any]", args.gradient_checkpointing_kwargs or {})
    return "selective" if how.get("selective") else "full"


def _lengths_of(args: Any, planned: Settings) -> dict[str, Any]:
    """TRL's lengths; Transformers' own arguments have none.

    Raises UnsupportedError where nobody knows what rows become that were cut or packed otherwise.
    """
    longest = planned.longest_length or planned.max_length
    limit = getattr(args, "max_length", None) or planned.max_length
    packing = bool(getattr(args, "packing", planned.packing))
    found: dict[str, Any] = {"max_length": limit, "packing": packing}
    if (limit, packing) == (planned.max_length, planned.packing):
        return found
    if packing == planned.packing and longest < planned.max_length and longest <= limit:
        # Neither of them cuts a row.
        return found
    full = longest == planned.mean_length and limit < longest
    if packing or (full and not planned.packing):
        names = ("mean_length", "mean_padded_length", "longest_length")
        return found | dict.fromkeys(names, limit) | {"typical_length": 0}
    raise UnsupportedError.of(
        f"max_length {limit}, packing {packing} beside the estimate of max_length"
        f" {planned.max_length}, packing {planned.packing}",
        "how long the rows are is not known",
        [f"estimate(..., max_length={limit}, packing={packing})"],
    )
