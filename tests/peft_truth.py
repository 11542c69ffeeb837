"""What PEFT really makes and autograd really keeps, on models small enough for a CPU."""

from __future__ import annotations

import gc
import weakref
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

CLASSES = {"bert": AutoModel, "t5": AutoModelForSeq2SeqLM}
DEPTH = {"gpt2": "n_layer", "t5": "num_layers"}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def build(name: str, config: dict[str, Any], layers: int, weights: str, device: str = "cpu") -> Any:
    """The model with that many layers, its weights in that dtype."""
    values = {**config, DEPTH.get(name, "num_hidden_layers"): layers}
    made = CONFIG_MAPPING[values.pop("model_type")](**values)
    torch.manual_seed(0)
    with torch.device(device):
        model = CLASSES.get(name, AutoModelForCausalLM).from_config(made)
    return model.to(DTYPES[weights])


class Box:
    """A saved tensor, as long as the graph holds it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def parts(self) -> list[torch.Tensor]:
        """Its strided parts: a sparse tensor has two."""
        if self.tensor.is_sparse:
            return [self.tensor._indices(), self.tensor._values()]
        return [self.tensor]


def kept_bytes(model: Any, tokens: int, *, autocast: bool) -> int:
    """Bytes alive for backward after a forward of one sequence, parameters and buffers excluded.

    What only a graph saved that is dropped again does not count.
    """
    own = _own_storages(model)
    live: weakref.WeakSet[Box] = weakref.WeakSet()

    def pack(tensor: torch.Tensor) -> Box:
        box = Box(tensor)
        live.add(box)
        return box

    model.train()
    ids = torch.arange(tokens).remainder(100).reshape(1, tokens)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        output = model(input_ids=ids, use_cache=False)
    gc.collect()
    sizes: dict[int, int] = {}
    for box in list(live):
        for part in box.parts():
            storage = part.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
    del output
    return sum(sizes.values())


def _own_storages(model: Any) -> set[int]:
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    for module in model.modules():
        places = [module.__dict__, *(v for v in module.__dict__.values() if isinstance(v, dict))]
        for place in places:
            for value in place.values():
                if isinstance(value, torch.Tensor) and value.layout == torch.strided:
                    own.add(value.untyped_storage().data_ptr())
    return own


VIEWS = frozenset({
    "view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "slice", "select",
    "unsqueeze", "squeeze", "detach", "alias", "split", "split_with_sizes", "unbind", "as_strided",
    "diagonal", "unfold", "empty", "empty_like", "empty_strided", "new_empty", "is_same_size",
    "_local_scalar_dense", "resize_",
})  # fmt: skip
"""Operations of ATen that launch nothing."""


class Moved(NamedTuple):
    """Of a forward and a backward of two sequences."""

    kernels: int
    moved_bytes: int


def moved(model: Any, tokens: int) -> Moved:
    """Operations of ATen that are no views, and the bytes that each reads and writes."""
    found = Moved(0, 0)

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            nonlocal found
            out = func(*args, **(kwargs or {}))
            if func.name().removeprefix("aten::").partition(".")[0] not in VIEWS:
                found = Moved(found.kernels + 1, found.moved_bytes + _bytes_of((args, kwargs, out)))
            return out

    model.train()
    model.zero_grad(set_to_none=True)
    ids = torch.arange(2 * tokens).remainder(100).reshape(2, tokens)
    with Counter():
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return found


def _bytes_of(values: Any) -> int:
    """Of the tensors among them, each once; expanded ones as they are stored."""
    sizes: dict[Any, int] = {}
    for t in tree_leaves(values):
        if not isinstance(t, torch.Tensor):
            continue
        if t.layout != torch.strided:
            sizes[id(t)] = t._nnz() * (t.element_size() + 16)
            continue
        storage = t.untyped_storage()
        key = (storage.data_ptr(), t.storage_offset(), t.numel())
        sizes[key] = min(t.nbytes, storage.nbytes())
    return sum(sizes.values())
