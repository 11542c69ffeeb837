"""Which matrices of a model a technique adapts."""

from __future__ import annotations

from collections.abc import Iterator

from ftadvisor.errors import InvalidSettingError, UnsupportedError
from ftadvisor.estimation.activations import is_padded
from ftadvisor.estimation.adapters.cost import Target
from ftadvisor.schema.model import Block, Linear, ModelSpec
from ftadvisor.schema.settings import ALL_LINEAR, Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.sources.techniques import default_target_modules, expert_modules

# litgpt names its switches lora_query, lora_key, lora_value, lora_projection, lora_mlp, lora_head.
LITGPT_PROJECTION = frozenset({"proj", "projection"})
LITGPT_PARTS = ("q", "k", "v")


def target_names(model: ModelSpec, settings: Settings) -> tuple[str, ...]:
    """Suffixes of module names: those asked for, else PEFT's default for the model type.

    Where PEFT has no default for the type it refuses; all linear layers are taken instead.
    """
    if settings.lora_target_modules:
        return settings.lora_target_modules
    found = default_target_modules(settings.technique, model.model_type)
    return found or (ALL_LINEAR,)


def targets(model: ModelSpec, settings: Settings, trainer: Trainer) -> tuple[Target, ...]:
    """The matrices that are adapted, block by block.

    Raises InvalidSettingError where no module has one of the names, UnsupportedError where the
    names match only parameters that are no modules.
    """
    names = target_names(model, settings)
    apart = _experts_apart(model, settings, trainer, names)
    found = [
        t
        for block in model.blocks
        for t in _of_block(block, names, settings)
        if t.linear.name.rpartition(".")[2] not in apart
    ]
    if not found:
        if any(matches(w, b, names) for b in model.blocks for w in b.linears):
            raise UnsupportedError.of(
                f"lora_target_modules {', '.join(names)} of {model.id}",
                "its experts are parameters, which PEFT's target_modules does not see",
                ["--lora-target-modules " + ALL_LINEAR],
            )
        have = sorted({w.name for block in model.blocks for w in block.linears})
        raise InvalidSettingError(
            f"lora_target_modules {', '.join(names)}: {model.id} has no such modules.", have
        )
    return tuple(found)


def _experts_apart(
    model: ModelSpec, settings: Settings, trainer: Trainer, names: tuple[str, ...]
) -> tuple[str, ...]:
    """Names that `all-linear` leaves out, because PEFT's LoRA would take them for the experts.

    Raises UnsupportedError where they are asked for by name.
    """
    if not trainer.grouped_experts:
        return ()
    apart = expert_modules(settings.technique, model.model_type)
    if asked := [name for name in names if name.rpartition(".")[2] in apart]:
        others = [name for name in names if name not in asked]
        raise UnsupportedError.of(
            f"lora_target_modules {', '.join(asked)} of {model.id}",
            "PEFT adapts the parameters of all experts then, and forms a second copy of them",
            [f"--lora-target-modules {' '.join(others or [ALL_LINEAR])}"],
        )
    return apart


def _of_block(block: Block, names: tuple[str, ...], settings: Settings) -> Iterator[Target]:
    seen: set[str] = set()
    for linear in block.linears:
        if not linear.module or not matches(linear, block, names):
            continue
        stream = reads_stream(linear, block)
        group = _input(linear, block, stream=stream)
        kept = group in seen or (not stream and _kept_by_layer(linear, block, settings))
        seen.add(group)
        yield Target(block, linear, stream, kept)


def matches(linear: Linear, block: Block, names: tuple[str, ...]) -> bool:
    """Whether a matrix's module name ends in one of the names, as PEFT compares them.

    Only the last part of a module's name is known here; a name such as `mlp.c_proj` or
    `output.dense` is decided by where the matrix stands in its layer.
    """
    last = linear.name.rsplit(".", 1)[-1]
    if last in names or linear.name in names or ALL_LINEAR in names:
        return True
    for name in names:
        if name.endswith("." + last) and _stands_in(linear, block, name.rpartition(".")[0]):
            return True
    return False


def _stands_in(linear: Linear, block: Block, parent: str) -> bool:
    last = parent.rsplit(".", 1)[-1]
    if last in ("mlp", "ffn", "DenseReluDense"):
        return linear.part in ("mlp", "experts", "shared_expert")
    if last in ("attn", "attention", "self_attn", "self", "SelfAttention"):
        return linear.part == "attention"
    if last == "output":
        return linear is _last(linear, block)
    return linear.name.endswith(parent + "." + linear.name.rsplit(".", 1)[-1])


def _last(linear: Linear, block: Block) -> Linear:
    """The matrix that puts out what a part of the layer hands on: the part's last one."""
    return next(w for w in reversed(block.linears) if w.part == linear.part)


def reads_stream(linear: Linear, block: Block) -> bool:
    """Whether a matrix reads the residual stream (after a norm, before the part's inside)."""
    return linear.in_features == block.hidden_size and linear is not _last(linear, block)


def _input(linear: Linear, block: Block, *, stream: bool) -> str:
    """A name for the tensor that a matrix reads, the same for all that read it."""
    if not stream:
        return linear.name + linear.part
    attention = linear.part in ("attention", "cross_attention")
    return "stream" if block.traits.place == "parallel" or not attention else linear.part


def _kept_by_layer(linear: Linear, block: Block, settings: Settings) -> bool:
    """Whether the layer keeps a matrix's input even where nothing is adapted.

    The attention kernels keep their output, which the output projection reads (eager attention
    does not, nor is it the same storage where flash attention follows partial rotary embeddings);
    ReLU keeps its output, which the second feed-forward matrix reads.
    """
    if linear.part in ("attention", "cross_attention"):
        copied = block.traits.rope == "cat" and is_padded(settings) is not True
        return settings.attn_implementation != "eager" and not copied
    return block.traits.act == "relu" and not block.mlp.gated
