"""AdaLoRA's schedule, which the Trainer does not call."""

from __future__ import annotations

from typing import Any

from ftadvisor.execution import stack


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


def _unwrapped(model: Any) -> Any:
    return getattr(model, "module", model)
