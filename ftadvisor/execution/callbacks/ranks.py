"""AdaLoRA's schedule, which the Trainer does not call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftadvisor.execution import stack

STATE = "ranks.pt"
IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class RanksCallback(stack.transformers.TrainerCallback):
    """Moves ranks between layers after each optimizer step, while gradients are still there."""

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """The schedule is as long as the run really is: packing is known only now."""
        tuner = _unwrapped(model).base_model
        tuner.rankallocator.set_total_step(state.max_steps)

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """PEFT's update_and_allocate; global_step counts the steps before this one."""
        _unwrapped(model).base_model.update_and_allocate(state.global_step)


def continue_exactly(trainer: Any) -> None:
    """Checkpoints that hold what PEFT's do not: all ranks (PEFT saves those that the last step
    kept, so that the optimizer's states no longer fit) and their importance so far (peft 0.21.2
    utils/save_and_load.py, tuners/adalora/layer.py).
    """
    save = trainer._save_rng_state

    def saved(output_dir: str) -> None:
        save(output_dir)
        if trainer.is_world_process_zero():
            stack.torch.save(_state(trainer.model), Path(output_dir) / STATE)

    def loaded(checkpoint: str, model: Any = None) -> None:
        found = stack.torch.load(Path(checkpoint) / STATE, map_location="cpu", weights_only=True)
        _set_state(trainer.model, found)

    trainer._save_rng_state = saved
    trainer._load_from_checkpoint = loaded


def _state(model: Any) -> dict[str, Any]:
    tuner = model.base_model
    return {
        "parameters": {n: p.detach() for n, p in model.named_parameters() if p.requires_grad},
        "importance": {name: getattr(tuner.rankallocator, name) for name in IMPORTANCE},
        "rank_pattern": tuner.peft_config[tuner.trainable_adapter_name].rank_pattern,
    }


def _set_state(model: Any, found: dict[str, Any]) -> None:
    tuner = model.base_model
    places = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with stack.torch.no_grad():
        for name, value in found["parameters"].items():
            places[name].copy_(value)
    for name, values in found["importance"].items():
        moved = {key: value.to(model.device) for key, value in values.items()}
        setattr(tuner.rankallocator, name, moved)
    tuner.peft_config[tuner.trainable_adapter_name].rank_pattern = found["rank_pattern"]


def _unwrapped(model: Any) -> Any:
    return getattr(model, "module", model)
