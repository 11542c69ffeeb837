"""FSDP's units: which modules' parameters are gathered, freed and reduced together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ftadvisor.simulation.stack import accelerate_fsdp, peft_policy, torch

Named = tuple[str, Any]
"""A parameter's name and itself, whole, as modules compute with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """One unit, as the training program wraps it."""

    name: str
    """Of its module; empty: the root."""
    modules: tuple[Any, ...]
    parameters: tuple[Named, ...]
    frees: bool
    """Whether it is resharded after its forward."""


def flat_units(model: Any, *, frees: bool) -> list[Division]:
    """As FSDP1 wraps a model by the policy that Trainer hands it: layers, and with PEFT every
    module without children whose weight trains; the root has the rest and stays gathered.

    Ref: peft/utils/other.py, fsdp_auto_wrap_policy; torch/distributed/fsdp/_runtime_utils.py,
    _post_forward_reshard.
    """
    if hasattr(model, "peft_config"):
        policy = peft_policy()(model)

        def wraps(module: Any) -> bool:
            return bool(policy(module=module, recurse=False, nonwrapped_numel=0))
    else:
        layers = _layer_classes(model)

        def wraps(module: Any) -> bool:
            return isinstance(module, layers)

    groups = [((module,), frees) for module in _innermost_first(model) if wraps(module)]
    return _divided(model, [*groups, ((model,), False)])


def chunked_units(model: Any, *, frees: bool) -> list[Division]:
    """As accelerate calls FSDP2's fully_shard: layers, the embedding, the last norm with the head.

    4-bit weights are cut with the others: runs store them in a floating dtype.
    Ref: accelerate/utils/fsdp_utils.py, fsdp2_prepare_model.
    """
    layers = _layer_classes(model)
    groups = [
        ((module,), frees) for module in _innermost_first(model) if isinstance(module, layers)
    ]
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    norm = accelerate_fsdp()._find_final_norm(model)
    tail = (norm, embedding, head) if tied else (norm, head)
    if not tied:
        groups.append(((embedding,), frees))
    groups.append((tuple(module for module in tail if module is not None), False))
    return _divided(model, [*groups, ((model,), False)])


def _layer_classes(model: Any) -> tuple[type, ...]:
    names: set[str] = set(getattr(model, "_no_split_modules", None) or ())
    classes: set[type] = {type(module) for module in model.modules()}
    return tuple(found for found in classes if found.__name__ in names)


def _innermost_first(model: Any) -> list[Any]:
    named = [(name, module) for name, module in model.named_modules() if name]
    return [module for _, module in sorted(named, key=lambda pair: -pair[0].count("."))]


def _divided(model: Any, groups: list[tuple[tuple[Any, ...], bool]]) -> list[Division]:
    """Each parameter goes to the first group that has it; groups without one are none. Units come
    in the modules' order, the root first, as torch goes through them.
    """
    paths = {id(module): name for name, module in model.named_modules()}
    names = {id(p): name for name, p in model.named_parameters()}
    owned: set[int] = set()
    units: list[Division] = []
    for modules, frees in groups:
        parameters: list[Named] = []
        for module in modules:
            for parameter in module.parameters():
                if id(parameter) not in owned:
                    owned.add(id(parameter))
                    parameters.append((names[id(parameter)], parameter))
        if parameters:
            units.append(
                Division(
                    name=paths[id(modules[0])],
                    modules=modules,
                    parameters=tuple(parameters),
                    frees=frees,
                )
            )
    order = {name: at for at, name in enumerate(paths.values())}
    return sorted(units, key=lambda unit: order[unit.name])


def tensors_with_gradient(tree: Any) -> list[Any]:
    """The tensors among arguments or results that autograd follows."""
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
