"""The base model: its class by objective and family, its dtype, its quantisation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from ftadvisor.configuration.adapter_config import TRAINED_HEADS
from ftadvisor.configuration.experts import name_experts
from ftadvisor.configuration.heads import untie_head
from ftadvisor.configuration.sharded import SHARDING
from ftadvisor.errors import ModelUnavailableError, UnsupportedError, first_line, quoted
from ftadvisor.execution import stack
from ftadvisor.execution.device import Device
from ftadvisor.execution.kernels import QUANTIZED_BEFORE
from ftadvisor.execution.out_of_memory import is_out_of_memory
from ftadvisor.schema.model import ModelSpec
from ftadvisor.schema.settings import Settings
from ftadvisor.sources.gguf import gguf_file
from ftadvisor.sources.models import find_model

CLASSES = {
    "seq_cls": "AutoModelForSequenceClassification",
    "reward": "AutoModelForSequenceClassification",
    "token_cls": "AutoModelForTokenClassification",
}
"""Transformers' classes by objective; for any other objective by the model's family."""
FAMILIES = {
    "decoder": "AutoModelForCausalLM",
    "encdec": "AutoModelForSeq2SeqLM",
    "vlm": "AutoModelForImageTextToText",
}
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
QUANTIZED = ("nf4", "nf4-dq", "int8")
"""What bitsandbytes makes of a checkpoint as it is loaded."""
BETWEEN = (".*pooler", "classification_head", "head")
"""What some classes put between the body and the head, which checkpoints may lack too."""


def load_model(
    model: str, family: str, settings: Settings, device: Device, labels: Sequence[str] = ()
) -> Any:
    """The base model with its weights.

    `labels`: names of the classes that a classification head is made for. Raises
    ModelUnavailableError where the weights are not at hand and cannot be fetched.
    """
    cls = model_class(family, settings.objective)
    options = {**_options(settings, device, labels), **attention(find_model(model).spec, settings)}
    return _ready(whole(cls, model, **options))


def whole(cls: Any, model: str, **options: Any) -> Any:
    """`pretrained` of a checkpoint that holds all weights of the model; a head for other classes is
    made anew.

    Transformers draws at random what a checkpoint lacks, and says so in a warning alone. Raises
    ModelUnavailableError.
    """
    options["ignore_mismatched_sizes"] = True
    found, info = pretrained(cls, model, output_loading_info=True, **options)
    lacking = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    # Buffers are computed.
    lacking &= {name for name, _ in found.named_parameters()}
    if "num_labels" in options:
        body = f"{found.base_model_prefix}."
        # An adapter trains and saves them beside it: frozen, they would be others when reloaded.
        found.made_anew = sorted({name.rpartition(".")[0] for name in lacking} - {""})
        lacking = {name for name in lacking if name.startswith(body) and "pooler" not in name}
    if lacking:
        raise ModelUnavailableError(
            f"{quoted(model)} lacks {len(lacking):,} of the model's tensors, or has them in other"
            f" shapes ({min(lacking)}, for one): they would be random.",
            ["a checkpoint with all weights", "its own config.json"],
        )
    return found


def attention(spec: ModelSpec, settings: Settings) -> dict[str, str]:
    """The attention that runs, as the estimate has it: eager where the model has no SDPA.

    Transformers falls back to eager attention unasked, and refuses where SDPA is asked for.
    """
    asked = settings.attn_implementation
    lacks = asked == "sdpa" and not spec.supports_sdpa
    return {"attn_implementation": "eager" if lacks else asked}


def blank_model(
    config: Any, spec: ModelSpec, settings: Settings, device: Device, labels: Sequence[str] = ()
) -> Any:
    """The same of a configuration, with random weights: nothing is read or fetched.

    A quantised base takes the loader's own road, which quantises a state dict as it would a file.
    """
    cls = model_class(spec.family, settings.objective)
    options = {**_options(settings, device, labels), **attention(spec, settings)}
    torch = stack.torch
    for name in ("num_labels", "id2label", "label2id"):
        if name in options:
            setattr(config, name, options.pop(name))
    if "quantization_config" not in options:
        with torch.device(device.place):
            return _blank(cls.from_config(config, **options), spec)
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in cls.from_config(config).state_dict().items()}
    largest = max(shape.numel() for shape in shapes.values())
    noise = torch.randn(largest, device=device.place, dtype=options["dtype"]) * 0.02
    weights = {n: noise[: s.numel()].view(s).clone() for n, s in shapes.items()}
    # An Auto class takes no state dict.
    kind = cls._model_mapping[type(config)]
    return _blank(kind.from_pretrained(None, config=config, state_dict=weights, **options), spec)


def _blank(found: Any, spec: ModelSpec) -> Any:
    if not spec.tie_word_embeddings:
        untie_head(found)
    return _ready(found)


def model_class(family: str, objective: str) -> Any:
    """Transformers' Auto class."""
    return getattr(stack.transformers, CLASSES.get(objective) or FAMILIES[family])


def _options(settings: Settings, device: Device, labels: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {
        "dtype": getattr(stack.torch, DTYPES[settings.weights_dtype]),
    }
    if labels:
        options |= _head(labels)
    if settings.quantization in QUANTIZED_BEFORE:
        # The checkpoint's config.json says the rest.
        options["device_map"] = {"": device.place}
    if settings.quantization in QUANTIZED:
        # Heads are made anew: Transformers 5.23 would store them in 4 bits, untrained.
        heads = (*TRAINED_HEADS, *BETWEEN) if labels else ()
        options["quantization_config"] = quantization_config(settings, heads)
        # An engine that divides the weights takes them from the CPU: on a GPU, where Transformers
        # would put them unasked, each would have to hold all of them.
        place = "cpu" if settings.strategy in SHARDING else device.place
        options["device_map"] = {"": place}
    return options


def _ready(found: Any) -> Any:
    _keep_gradients(found)
    name_experts(found.config)
    # Of no use in training, and packed samples see each other with it (study 2.6).
    found.config.use_cache = False
    return found


def pretrained(cls: Any, model: str, **options: Any) -> Any:
    """`cls.from_pretrained` of a directory, a GGUF file, the hub's cache, else the hub.

    Without a network the hub's client tries for half a minute, so the cache is asked first.
    """
    file = gguf_file(model)
    if file is not None:
        place = {"gguf_file": file.name, "local_files_only": True}
        return _loaded(cls, str(file.parent), {**options, **place})
    path = Path(model).expanduser()
    if path.is_dir() or path.name == "config.json":
        folder = path if path.is_dir() else path.parent
        # Absolute: an adapter names its base by it, wherever it is loaded from.
        return _loaded(cls, str(folder.absolute()), {**options, "local_files_only": True})
    try:
        return cls.from_pretrained(model, **options, local_files_only=True)
    except (OSError, ImportError, ValueError, *_broken()):
        return _loaded(cls, model, options)


def quantization_config(settings: Settings, heads: Sequence[str]) -> Any:
    """bitsandbytes' configuration of a quantised base; `heads` stay as they are."""
    config = partial(
        stack.transformers.BitsAndBytesConfig, llm_int8_skip_modules=list(heads) or None
    )
    if settings.quantization == "int8":
        return config(load_in_8bit=True)
    # What products are computed in: the autocast dtype, else the weights' own.
    compute = settings.weights_dtype if settings.autocast == "none" else settings.autocast
    dtype = getattr(stack.torch, DTYPES[compute])
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=settings.quantization == "nf4-dq",
        bnb_4bit_compute_dtype=dtype,
        # Bytes cannot be divided: accelerate 1.15 would keep them whole on every GPU
        # (utils/fsdp_utils.py line 797). And mixed precision would round, as if they were numbers,
        # four-bit codes that are stored in another dtype than it gathers.
        bnb_4bit_quant_storage=dtype if settings.strategy in SHARDING else None,
    )


def _loaded(cls: Any, model: str, options: dict[str, Any]) -> Any:
    try:
        return cls.from_pretrained(model, **options)
    except (OSError, ImportError) as error:
        what = first_line(error)
        package = re.search(r"pip install ([\w-]+)|requires the (\w+) library", str(error))
        ways = ["a directory with the model's files", "a hub id that can be reached"]
        if isinstance(error, ImportError) and package:
            ways = [f"pip install {(package[1] or package[2]).lower()}"]
        raise ModelUnavailableError(f"{quoted(model)} cannot be loaded: {what}.", ways) from error
    except ValueError as error:
        what = first_line(error)
        raise UnsupportedError.of(f"{cls.__name__} of {quoted(model)}", what) from error
    except _broken() as error:
        if is_out_of_memory(error):
            raise
        what = first_line(error)
        if isinstance(error, UnpicklingError):
            # torch's own advice is to run what the file says.
            what = "its weights are no file of tensors that torch.save wrote"
        raise ModelUnavailableError(
            f"{quoted(model)} cannot be loaded: {what}.",
            ["the files fetched again: one may be cut", "the config.json that belongs to them"],
        ) from error


def _broken() -> tuple[type[Exception], ...]:
    """What files raise that are damaged or hold something else, or whose shapes are not the
    configuration's.
    """
    broken = stack.safetensors.SafetensorError
    return (broken, RuntimeError, EOFError, UnpicklingError, TypeError, AttributeError)


def _head(labels: Sequence[str]) -> dict[str, Any]:
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
    }


def _keep_gradients(model: Any) -> None:
    """bitsandbytes 0.50.2 packs 4-bit weights anew for AVX512-BF16 at the first evaluation and
    never unpacks them: no gradient passes afterwards, and merging reads packed bytes (study 2.1).
    """
    if not getattr(model, "is_loaded_in_4bit", False):
        return
    for layer in model.modules():
        if isinstance(layer, stack.bitsandbytes.nn.Linear4bit):
            layer.support_avx512bf16_for_cpu = False
