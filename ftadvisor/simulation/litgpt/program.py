"""litgpt's program: its model, and its forward and loss as finetune/*.py run them.

Read in litgpt 0.2.0 (litgpt/finetune/full.py, lora.py, adapter.py, adapter_v2.py) and lightning
2.1.0 (fabric/plugins/precision/half.py, fabric/wrappers.py); the loop's facts are in
`data/trainers.json`.
"""

from __future__ import annotations

from typing import Any

from ftadvisor.configuration.depths import depth, with_layers
from ftadvisor.errors import UnsupportedError
from ftadvisor.schema.model import Block, ModelSpec
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.litgpt.adapters import freeze, linears
from ftadvisor.simulation.litgpt.kbit import quantize_linears
from ftadvisor.simulation.litgpt.modules import Decoder, Parts, Prompt, Rms
from ftadvisor.simulation.model.building import DTYPES, transformers_config
from ftadvisor.simulation.stack import torch
from ftadvisor.sources.architectures import read_model
from ftadvisor.sources.techniques import technique_option

KINDS = {
    "full": "full", "lora": "lora", "qlora": "lora", "adapter": "adapter",
    "adapter_v2": "adapter_v2",
}  # fmt: skip
"""Techniques to the scripts that litgpt has."""


def litgpt_model(
    config: dict[str, Any], settings: Settings, trainer: Trainer, layers: int | None
) -> Any:
    """The model as fit() begins, on meta, with that many layers (None: all).

    Raises UnsupportedError for what litgpt has not, or what is not simulated of it.
    """
    spec = read_model(config, str(config.get("_name_or_path", "the model")))[0]
    _check(spec, settings)
    made = transformers_config(config)
    if layers is not None:
        made = with_layers(made, layers)
    kind = KINDS[settings.technique]
    block = spec.blocks[0]
    dtype = DTYPES[settings.weights_dtype]
    with torch.device("meta"):
        parts = Parts(linears(settings, block.attention, kind), lambda: _norm(block, trainer))
        model = Decoder(spec, made, depth(made), parts, prompt_of(settings))
        model.to(dtype)
        if settings.quantization != "none":
            quantize_linears(
                model,
                nested=settings.quantization == "nf4-dq",
                compute=dtype,
                keeps_input=trainer.kbit_saves_input,
            )
        length = int(settings.longest_length or settings.max_length)
        model.add_rotations(length, block.attention.rotary_dim)
    model.adapted = kind != "full"
    freeze(model, kind)
    model.train()
    return model


def _norm(block: Block, trainer: Trainer) -> Any:
    """torch's LayerNorm has a bias in litgpt, whatever the configuration says."""
    if block.norm == "rms":
        return Rms(block.hidden_size, trainer.norm_weighs_fp32)
    return torch.nn.LayerNorm(block.hidden_size)


def prompt_of(settings: Settings) -> Prompt | None:
    """LLaMA-Adapter's prompt; None: another technique."""
    if settings.technique not in ("adapter", "adapter_v2"):
        return None

    def option(name: str) -> int:
        given = settings.peft_config.get(name)
        return int(technique_option(settings.technique, name) if given is None else given)

    return Prompt(option("adapter_prompt_length"), option("adapter_start_layer"))


def _check(spec: ModelSpec, settings: Settings) -> None:
    block = spec.blocks[0]
    a = block.attention
    other = (
        len(spec.blocks) > 1
        or block.mlp.num_experts > 0
        or a.position != "rope"
        or a.qk_norm != "none"
        or a.score_softcap
        or a.latent_dim > 0
        or block.traits.place not in ("pre", "parallel", "parallel2")
    )
    kbit, layers = settings.quantization != "none", "its layers in litgpt are not simulated"
    refused = {
        f"technique {settings.technique}": (
            settings.technique not in KINDS, "litgpt has no script for it",
        ),
        f"objective {settings.objective}": (
            settings.objective != "sft", "litgpt's finetuning scripts have sft only",
        ),
        f"quantization {settings.quantization}": (
            kbit and not settings.quantization.startswith("nf4"), "of litgpt's, nf4 is simulated",
        ),
        "quantisation with mixed precision": (
            kbit and settings.autocast != "none", "litgpt refuses it",
        ),
        "gradient checkpointing": (
            settings.gradient_checkpointing != "none", "litgpt has it under FSDP only",
        ),
        "packing": (settings.packing, "litgpt's finetuning scripts do not pack"),
        f"loss kernel {settings.loss_kernel}": (
            settings.loss_kernel != "torch", "litgpt uses torch's",
        ),
        f"model_type {spec.model_type}": (other, layers),
    }  # fmt: skip
    for what, (asked, reason) in refused.items():
        if asked:
            raise UnsupportedError.of(what, reason, ["the closed form"])


class LitgptForward:
    """Model and batch to loss; the logits live until the next model call has returned.

    Fabric hands the logits over in fp32 (half.py, convert_output), which was found by the errors of
    the published rows first. They hold the graph, and what its nodes keep.
    """

    def __init__(self, settings: Settings, trainer: Trainer) -> None:
        frozen = settings.technique != "full"
        self.tokens = trainer.loss_chunk_tokens
        self.head_tokens = self.tokens if trainer.head_in_chunks and frozen else 0
        self.upcasts = trainer.outputs_upcast
        self.logits: list[Any] = []

    def __call__(self, model: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
        """The loss of a micro-batch; nothing else is the loop's to hold."""
        found = model(batch["input_ids"], self.head_tokens)
        self.logits = [part.float() for part in found] if self.upcasts else found
        del found
        targets = batch["labels"][..., 1:]
        self.logits[-1] = self.logits[-1][..., :-1, :]
        return chunked_cross_entropy(self.logits, targets, self.tokens), None


def chunked_cross_entropy(logits: list[Any], targets: Any, tokens: int) -> Any:
    """litgpt/utils.py: over the head's pieces, or over pieces of its one output."""
    if len(logits) > 1:
        parts = [part.reshape(-1, part.size(-1)) for part in logits]
        labels = [part.reshape(-1) for part in targets.split(logits[0].size(1), dim=1)]
    else:
        flat = logits[0].reshape(-1, logits[0].size(-1))
        parts, labels = flat.split(tokens), targets.reshape(-1).split(tokens)
    losses = [
        torch.nn.functional.cross_entropy(part, label, reduction="none")
        for part, label in zip(parts, labels, strict=False)
    ]
    return torch.cat(losses).sum() / targets.numel()
