"""AdaLoRA's regularisation: in the loss that is trained, not in the loss that is measured.

PEFT adds AdaLoRA's regularisation to the loss that the model returns (peft 0.21.2
tuners/adalora/model.py, AdaLoraModel.forward); SFTTrainer, for one, makes its own loss of the log
probabilities and never looks at that one (trl 1.16 trainer/sft_trainer.py line 1612).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

from ftadvisor.execution import stack


def orthogonal(trainer: Any) -> Any:
    """The trainer's class with the term that keeps AdaLoRA's singular vectors orthogonal.

    The term has a backward pass of its own, beside the loss's: the sum of the gradients is that of
    the sum, whatever the trainer makes its loss of.
    """

    class OrthogonalTrainer(trainer):
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            """One micro-batch."""
            loss: Any = trainer.training_step(self, model, inputs, num_items_in_batch)
            # A step's micro-batches together are to add it once.
            term = regularisation(self.model) / self.current_gradient_accumulation_steps
            self.accelerator.backward(term)
            return loss + term.detach()

    OrthogonalTrainer.__name__ = trainer.__name__
    return OrthogonalTrainer


def measuring_data_alone(trainer: Any) -> Any:
    """A trainer of Transformers' that leaves the term out of an evaluation, where PEFT has it too:
    it is no measure of the data.
    """

    class Measuring(trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:  # fmt: skip
            alone = nullcontext() if self.model.training else of_data_alone(self.model)
            with alone:
                return trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)

    return Measuring


@contextmanager
def of_data_alone(model: Any) -> Generator[None]:
    """The model's loss without the term. Subtracted it would leave what it was rounded by: under
    autocast a hundredth of a nat.
    """
    tuner = model.base_model
    own: Any = cast("dict[str, Any]", vars(tuner)).get("forward")
    tuner.forward = tuner.model.forward
    try:
        yield
    finally:
        del tuner.forward
        if own is not None:
            tuner.forward = own


def regularisation(model: Any) -> Any:
    """Its weight times the mean distance of A Aᵀ and Bᵀ B from the identity, as PEFT has it."""
    adapter = model.base_model.trainable_adapter_name
    distances: list[Any] = []
    for name, parameter in model.base_model.model.named_parameters():
        if adapter in name and ("lora_A" in name or "lora_B" in name):
            product = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter
            identity = stack.torch.eye(len(product), device=product.device, dtype=product.dtype)
            distances.append(stack.torch.linalg.norm(product - identity))
    weight = model.peft_config[adapter].orth_reg_weight
    return weight * stack.torch.stack(distances).mean()
