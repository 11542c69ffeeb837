"""PEFT's tuner: which modules of a model are followed by a bottleneck."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, ClassVar

from ftadvisor.execution import stack
from ftadvisor.execution.bottleneck.layer import BottleneckLayer

BaseTuner: Any = stack.peft.tuners.tuners_utils.BaseTuner

PREFIX = "bottleneck_"
FEED_FORWARD = (
    # Where the block itself adds the residual, the matrix that puts out: gpt_neox's and falcon's
    # blocks do not, bloom's does.
    "mlp.dense_4h_to_h", "ffn.down_proj", "output.dense", "ffn_output", "DenseReluDense", "fc2",
    "block_sparse_moe", "mlp", "feed_forward", "ffn",
)  # fmt: skip
ATTENTION = (
    "attention.output.dense", "SelfAttention.o", "self_attention.dense", "attention.dense",
    "self_attn.o_proj", "self_attn.out_proj", "self_attn.dense", "attn.c_proj", "attn.out_proj",
    "attn.Wo", "attention.out_lin", "attn.attention.out_proj",
)  # fmt: skip
"""Names within a layer, of Transformers 5.23; the first that a model has is taken. What they put
out has not met the residual, and comes before any dropout."""
TOWERS = r"vision|visual|image|audio"
"""Of other things than text: they are not adapted."""


class BottleneckModel(BaseTuner):
    """The base with a bottleneck after each of the modules."""

    prefix = PREFIX
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
        # The modules are found by the model's own, not by its type.
        return peft_config

    def _prepare_model(self, peft_config: Any, model: Any) -> None:
        if peft_config.target_modules is None:
            names = [name for name, _ in model.named_modules()]
            peft_config.target_modules = target_pattern(names, peft_config.placement)

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: Any, target_name: str, parent: Any,
        current_key: str, parameter_name: str | None = None,
    ) -> None:  # fmt: skip
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        found = BottleneckLayer(target, adapter_name, peft_config, _width(target, self.model))
        self._replace_module(parent, target_name, found, target)

    def _check_merge_allowed(self) -> None:
        raise ValueError("a bottleneck adapter is not linear: it cannot be merged")


def target_pattern(names: Iterable[str], placement: str) -> str:
    """The regular expression of the modules that a placement means, of a model with these names.

    Raises ValueError for a model whose layers have no module of a known name.
    """
    known = [name for name in names if re.search(TOWERS, name) is None]
    parts: dict[str, tuple[str, ...]] = {"feed-forward part": FEED_FORWARD}
    if placement == "houlsby":
        parts["self-attention"] = ATTENTION
    found: list[str] = []
    for what, candidates in parts.items():
        has = [one for one in candidates if any(re.fullmatch(_within(one), n) for n in known)]
        if not has:
            raise ValueError(f"no {what} is known by name in this model")
        found.append(re.escape(has[0]))
    return rf"(?!.*(?:{TOWERS})).*\.\d+\.(?:{'|'.join(found)})"


def _within(name: str) -> str:
    return rf".*\.\d+\.{re.escape(name)}"


def _width(target: Any, model: Any) -> int:
    """Features of what a module puts out: a matrix's own, a block's are the hidden size."""
    for attribute in ("out_features", "nf"):
        if isinstance(getattr(target, attribute, None), int):
            return int(getattr(target, attribute))
    return int(model.config.get_text_config().hidden_size)
