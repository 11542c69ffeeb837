"""What PEFT really makes and autograd really keeps, on models small enough for a CPU."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch
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
