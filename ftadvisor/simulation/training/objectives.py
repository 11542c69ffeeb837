"""TRL's preference, distillation and policy objectives: their own losses, run on shapes.

A trainer of TRL is made without what needs data (tokenizer, dataset, logs); its loss is then the
installed one. What surrounds it is TRL's too: accelerate's wrapper of each model's forward
(accelerator.py, prepare_model: autocast inside, results in fp32), the reference (dpo_trainer.py,
"Reference model": a second model of the policy's dtype, or the policy with its adapter off) and the
teacher (distillation_trainer.py). Neither is frozen there, so autocast keeps the casts of their
fp32 weights through their forward as it does the policy's.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

from ftadvisor.configuration.depths import text_config
from ftadvisor.errors import UnsupportedError
from ftadvisor.estimation.objectives import objective_cost
from ftadvisor.schema.settings import Dtype, Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.cuda.autocast import STATE
from ftadvisor.simulation.model.building import DTYPES, build_model, transformers_config
from ftadvisor.simulation.recording.recorder import Recorder
from ftadvisor.simulation.stack import accelerate_operations, torch, trl_module, trl_utils
from ftadvisor.sources.techniques import find_technique

TRL = "trl-1.16"
"""The only trainer whose code of these objectives is installed, read and run."""
BETA = 0.05
"""Of the KL term: any value but 0 asks for the reference (rloo_config.py's default)."""


class Program(NamedTuple):
    """One of TRL's trainers."""

    module: str
    name: str
    drops_dropout: bool
    """`disable_dropout` by default (its config)."""
    outputs: tuple[str, ...] = ()
    """What it asks of the fused head per token (its add_fused_lm_head); empty: it has none."""


PROGRAMS = {
    "dpo": Program(
        "trl.trainer.dpo_trainer", "DPOTrainer", True,
        ("log_probs", "entropy", "mean_logits", "is_top1"),
    ),
    "kto": Program(
        "trl.trainer.kto_trainer", "KTOTrainer", True, ("log_probs", "entropy", "mean_logits")
    ),
    "orpo": Program("trl.experimental.orpo.orpo_trainer", "ORPOTrainer", True),
    "reward": Program("trl.trainer.reward_trainer", "RewardTrainer", True),
    "distillation": Program("trl.trainer.distillation_trainer", "DistillationTrainer", False),
    "grpo": Program("trl.trainer.grpo_trainer", "GRPOTrainer", False, ("log_probs", "entropy")),
    "rloo": Program("trl.trainer.rloo_trainer", "RLOOTrainer", False, ("log_probs", "entropy")),
}  # fmt: skip
PAIRS = frozenset({"dpo", "orpo", "reward"})
"""A chosen and a rejected sequence for each example, in one batch (their collators)."""
SECOND = "second_model."
"""What the reference's or the teacher's modules are called after."""
GENERATING = frozenset({"distillation", "grpo", "rloo"})


def check_objective(settings: Settings, trainer: Trainer) -> None:
    """Raise UnsupportedError for an objective, or a form of one, that no code here runs."""
    objective = settings.objective
    if objective == "ppo":
        reason = "TRL 1.16 has no PPO trainer whose code could run"
        raise UnsupportedError.of("objective ppo", reason, ["the closed form"])
    if objective not in PROGRAMS:
        return
    if trainer.id != TRL:
        reason = f"the code that is simulated is TRL 1.16's, not {trainer.framework}'s"
        raise UnsupportedError.of(f"objective {objective}", reason, [f"--trainer {TRL}"])
    whole = settings.loss_kernel != "chunked"
    if whole and (PROGRAMS[objective].outputs or objective == "distillation"):
        reason = f"TRL 1.16's {objective} has a chunked head only"
        raise UnsupportedError.of(
            f"loss kernel {settings.loss_kernel}", reason, ["--loss-kernel chunked"]
        )
    if settings.packing and objective != "sft":
        raise UnsupportedError.of(f"packing with {objective}", "TRL 1.16 does not pack its pairs")
    if settings.strategy not in ("none", "ddp"):
        reason = "its models in FSDP's units are not simulated"
        raise UnsupportedError.of(f"{objective} with {settings.strategy}", reason, ["strategy ddp"])
    virtual = settings.technique in ("prompt_tuning", "prefix_tuning", "p_tuning")
    if virtual and objective in GENERATING:
        reason = "generation with virtual tokens is not simulated"
        raise UnsupportedError.of(f"{objective} with {settings.technique}", reason)


def num_sequences(settings: Settings) -> int:
    """Rows of one batch of the policy."""
    return int(settings.micro_batch_size) * (2 if settings.objective in PAIRS else 1)


def second_model(
    config: dict[str, Any], settings: Settings, trainer: Trainer, layers: int | None
) -> Any:
    """The reference or the teacher that is held beside the policy; None: there is none.

    A teacher is like the student, in its checkpoint's dtype (bf16 where config.json says none).
    """
    technique = find_technique(settings.technique)
    trains_base = technique.id == "full" or technique.trains_base
    if not objective_cost(settings, trains_base=trains_base).frozen_models:
        return None
    if settings.objective == "distillation":
        settings = replace(settings, weights_dtype=_teacher_dtype(config))
    made = build_model(config, settings, trainer, layers)
    made.config.use_cache = False
    return made.eval()


def _teacher_dtype(config: dict[str, Any]) -> Dtype:
    asked = getattr(text_config(transformers_config(config)), "dtype", None)
    names: dict[Any, Dtype] = {torch.float32: "fp32", torch.float16: "fp16"}
    return names.get(asked, "bf16")


def objective_of(
    model: Any,
    config: dict[str, Any],
    settings: Settings,
    trainer: Trainer,
    layers: int | None,
    recorder: Recorder,
) -> Objective | None:
    """The objective of a run with its second model; None: its loss is the model's own."""
    if settings.objective not in PROGRAMS:
        return None
    second = second_model(config, settings, trainer, layers)
    return Objective(model, second, settings, trainer, recorder)


def held_models(model: Any, objective: Objective | None) -> dict[str, Any]:
    """The models on the GPU, by what their modules' names begin with."""
    second = objective.second if objective else None
    return {"": model} if second is None else {"": model, SECOND: second}


class Objective:
    """The loss of one of TRL's trainers.

    Args:
        model: the policy, adapted.
        second: the reference or teacher; None: none is held.
        recorder: learns when a forward pass begins.
    """

    def __init__(
        self, model: Any, second: Any, settings: Settings, trainer: Trainer, recorder: Recorder
    ) -> None:
        program = PROGRAMS[settings.objective]
        if model.config.is_encoder_decoder:
            reason = "TRL 1.16's trainers take causal language models"
            raise UnsupportedError.of(f"{settings.objective} of an encoder-decoder", reason)
        self.settings = settings
        self.model = model
        self.second = second
        self.recorder = recorder
        self._name = ""
        cls: Any = getattr(trl_module(program.module), program.name)
        self.trl: Any = object.__new__(cls)
        facts = {**_facts(settings, trainer), "model": model, "accelerator": self._accelerator()}
        for name, value in facts.items():
            setattr(self.trl, name, value)
        self.trl.aux_loss_enabled, self.trl.router_aux_loss_coef = _router_loss(model, settings)
        self.trl.ref_model = self.trl.teacher_model = second
        if program.outputs:
            base = model.get_base_model() if hasattr(model, "peft_config") else model
            trl_utils().add_fused_lm_head(base, outputs=program.outputs)
            if second is not None:
                trl_utils().add_fused_lm_head(second)
        for each in (model, second):
            if each is not None and program.drops_dropout:
                trl_utils().disable_dropout_in_model(each)
            if each is not None:
                self._prepare(each)
                each.register_forward_pre_hook(self._entered)
                each.register_forward_hook(self._left)

    def loss(self, name: str, length: int, made: Sequence[dict[str, Any]] = ()) -> Any:
        """The loss of one micro-batch, called `name`: the first that was made, or a new one of
        `length` tokens a sequence.
        """
        self.begin(name)
        batch = made[0] if made else self.batch(length)
        objective = self.settings.objective
        if objective == "orpo":
            return self.trl.get_batch_loss_metrics(self.model, batch, "train")[0]
        if objective == "reward":
            return self.trl.compute_loss(self.model, batch)
        if objective == "distillation":
            # Rerouted through `forward`, whose autocast is thereby left out (_ForwardRedirection).
            student = self.model
            given = (self.trl._compute_loss, student, batch, batch["num_items_in_batch"])
            return self.trl._forward_redirection(student, student, *given)[0]
        if objective in ("grpo", "rloo"):
            return self.trl._compute_loss(self.model, batch)
        return self.trl._compute_loss(self.model, batch, False)

    def begin(self, name: str) -> None:
        """A micro-batch, or what prepares some, begins: phases are called after it."""
        self._name = name
        self.recorder.mark(f"forward {name}")

    def batch(self, length: int) -> dict[str, Any]:
        """One micro-batch of pairs or single answers as the objective's collator hands it over."""
        shape = (num_sequences(self.settings), length)
        objective = self.settings.objective

        def whole(*names: str, rows: int = shape[0]) -> dict[str, Any]:
            size = (rows, length)
            return {name: torch.empty(size, dtype=torch.long, device="meta") for name in names}

        if objective == "orpo":
            parts = ("input_ids", "attention_mask", "labels")
            names = [f"{which}_{part}" for which in ("chosen", "rejected") for part in parts]
            return whole(*names, rows=shape[0] // 2)
        if objective == "reward":
            return whole("input_ids", "attention_mask")
        found = whole("input_ids", "attention_mask", "completion_mask")
        if objective == "kto":
            found |= whole("KL_input_ids", "KL_attention_mask", "KL_completion_mask")
            found["label"] = torch.empty(shape[:1], dtype=torch.bool, device="meta")
        return found

    def as_reference(self, run: Callable[[Any], Any]) -> Any:
        """What `run` makes of the reference: the second model, or the policy's base."""
        if self.second is not None:
            return run(self.second)
        with trl_utils().use_adapter(self.model, adapter_name=None):
            return run(self.model)

    def autocast(self) -> Any:
        """A fresh context of the run's autocast."""
        if self.settings.autocast == "none":
            return nullcontext()
        return torch.autocast(STATE, DTYPES[self.settings.autocast])

    def _prepare(self, model: Any) -> None:
        """accelerate's wrapper."""
        if self.settings.autocast == "none":
            return
        inner = model.forward

        @functools.wraps(inner)  # generation asks for its signature
        def forward(*args: Any, **kwargs: Any) -> Any:
            with self.autocast():
                return inner(*args, **kwargs)

        model.forward = accelerate_operations().convert_outputs_to_fp32(forward)

    def _entered(self, model: Any, _: Any) -> None:
        """A pass of its own phase, unless it is the policy's with gradients."""
        if model is self.second:
            self._mark("reference" if self.settings.objective != "distillation" else "teacher")
        elif not torch.is_grad_enabled() and not self._generating():
            self._mark("without gradients")

    def _left(self, model: Any, *_: Any) -> None:
        if not self._generating():
            self._mark("loss")

    def _mark(self, part: str) -> None:
        self.recorder.mark(f"forward {self._name} {part}")

    def _generating(self) -> bool:
        return self.recorder.phase.startswith("generate")

    def _accelerator(self) -> Any:
        """accelerate's object in a run of one process: what is gathered is what is there."""
        return SimpleNamespace(
            device=torch.device("meta"),
            num_processes=1,
            is_main_process=False,
            gather=_same,
            gather_for_metrics=_same,
            reduce=_same,
            unwrap_model=_same,
            autocast=self.autocast,
        )


def _router_loss(model: Any, settings: Settings) -> tuple[bool, float]:
    """Whether the router's loss is added, and its weight (each trainer's `aux_loss_enabled`)."""
    text = text_config(model.config)
    if settings.objective == "orpo":
        return bool(getattr(text, "output_router_logits", False)), 0.0
    weight = getattr(text, "router_aux_loss_coef", 0.0)
    return hasattr(text, "output_router_logits") and weight != 0.0, weight


def _same(value: Any, **_: Any) -> Any:
    return value


DEFAULTS: dict[str, Any] = {
    "_total_train_tokens": 0,
    "_tp_size": 1,
    # dpo_config.py
    "ld_alpha": None,
    "precompute_ref_logps": False,
    "f_divergence_type": "reverse_kl",
    "loss_types": ["sigmoid"],
    "loss_weights": [1.0],
    "use_weighting": False,
    "label_smoothing": 0.0,
    # kto_config.py
    "calculate_KL": True,
    "desirable_weight": 1.0,
    "undesirable_weight": 1.0,
    # orpo_trainer.py
    "is_encoder_decoder": False,
    "padding_value": 0,
    # grpo_config.py, rloo_config.py
    "top_entropy_quantile": 1.0,
    "off_policy_mask_threshold": None,
    "importance_sampling_level": "token",
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
    "use_vllm": False,
    "_entropy_bonus_enabled": False,
    # distillation_config.py
    "temperature": 1.0,
    "model_kwarg_keys": (),
    "_is_vlm": False,
}
"""What the losses read of their trainers, all of them together: TRL's defaults."""


def _facts(settings: Settings, trainer: Trainer) -> dict[str, Any]:
    """The same, as far as they depend on the run."""
    accumulation = int(settings.gradient_accumulation_steps)
    args = SimpleNamespace(
        gradient_checkpointing_kwargs={"use_reentrant": trainer.reentrant_checkpointing},
        steps_per_generation=accumulation,
        delta=None,
        use_bias_correction_kl=False,
        center_rewards_coefficient=None,
        device=torch.device("meta"),
        report_to=[],
    )
    policy = settings.objective in ("grpo", "rloo")
    beta = 1.0 if settings.objective == "distillation" else 0.1
    if policy:
        beta = BETA if settings.reference_model else 0.0
    return {
        **DEFAULTS,
        "args": args,
        "beta": beta,
        "_metrics": {"train": defaultdict(list[Any])},
        "loss_type": "dapo" if policy else "kto",
        "current_gradient_accumulation_steps": accumulation,
        "_forward_redirection": trl_module("trl.models.utils")._ForwardRedirection(),
    }
