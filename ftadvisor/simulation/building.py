"""A model from its config.json, on meta tensors: no weights, no network."""

from __future__ import annotations

import copy
from typing import Any, cast

from ftadvisor.errors import UnsupportedError, quoted
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.stack import torch, transformers
from ftadvisor.sources.architectures import read_model
from ftadvisor.sources.models import CODE

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CLASSES = {
    "seq_cls": transformers.AutoModelForSequenceClassification,
    "reward": transformers.AutoModelForSequenceClassification,
    "token_cls": transformers.AutoModelForTokenClassification,
}
FAMILIES = {
    "decoder": transformers.AutoModelForCausalLM,
    "encoder": transformers.AutoModelForMaskedLM,
    "encdec": transformers.AutoModelForSeq2SeqLM,
    "vlm": transformers.AutoModelForImageTextToText,
}
DEPTHS = (
    "num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers",
    "n_layer", "n_layers",
)  # fmt: skip
"""What Transformers' configurations call the number of layers."""


def transformers_config(config: dict[str, Any]) -> Any:
    """The configuration object. Raises UnsupportedError where Transformers knows no such type."""
    code = config.get(CODE)
    if code:
        return transformers.AutoConfig.from_pretrained(
            code["folder"], trust_remote_code=True, local_files_only=True
        )
    values = {key: value for key, value in config.items() if not key.startswith("_")}
    values.pop("quantization_config", None)
    if "auto_map" in values:
        values.pop("auto_map")
    model_type = values.pop("model_type", None)
    try:
        return transformers.AutoConfig.for_model(model_type, **values)
    except (ValueError, TypeError, KeyError) as error:
        reason = f"Transformers cannot read its configuration ({_first_line(error)})"
        raise UnsupportedError.of(f"model_type {quoted(model_type)}", reason) from None


def text_config(config: Any) -> Any:
    """The language model's part of a configuration."""
    return getattr(config, "text_config", None) or config


def depth(config: Any) -> int:
    """Layers of the text stack (of the encoder, where there are two)."""
    text = text_config(config)
    for name in DEPTHS:
        found = getattr(text, name, None)
        if isinstance(found, int) and found > 0:
            return found
    raise UnsupportedError.of(f"model_type {quoted(config.model_type)}", "it states no depth")


def listed(config: Any) -> dict[str, list[Any]]:
    """The lists of a configuration, by their names."""
    values = cast("dict[str, Any]", vars(config))
    return {name: value for name, value in values.items() if isinstance(value, list)}


def with_layers(config: Any, num_layers: int) -> Any:
    """The configuration with its first layers only; an encoder and a decoder are cut alike."""
    config = copy.deepcopy(config)
    text = text_config(config)
    full = depth(config)
    lists = {name: value[:num_layers] for name, value in listed(text).items() if len(value) == full}
    for name in DEPTHS:
        found = getattr(text, name, None)
        if isinstance(found, int) and found > 0:
            setattr(text, name, num_layers)
    for name, value in lists.items():
        setattr(text, name, value)
    return config


def attn_implementation(config: Any, settings: Settings, trainer: Trainer) -> str:
    """What runs: some model types have eager attention only, whatever is asked for."""
    if config.model_type in trainer.eager_model_types:
        return "eager"
    # flash-attn's own package is on no CPU: SDPA's flash kernel, which is the same, stands for it.
    flash = settings.attn_implementation == "flash_attention_2"
    return "sdpa" if flash else settings.attn_implementation


def build_model(config: dict[str, Any], settings: Settings, trainer: Trainer, layers: int | None):
    """The base model on meta, in the settings' dtype, with that many layers (None: all)."""
    made = transformers_config(config)
    if layers is not None:
        made = with_layers(made, layers)
    _name_special_tokens(made)
    if settings.objective == "reward":
        made.num_labels = 1  # reward_trainer.py: one score a sequence
    family = read_model(config, str(config.get("_name_or_path", "the model")))[0].family
    cls: Any = CLASSES.get(settings.objective, FAMILIES[family])
    asked = attn_implementation(made, settings, trainer)
    dtype = DTYPES[settings.weights_dtype]
    options = {"dtype": dtype, "trust_remote_code": bool(config.get(CODE))}
    with torch.device("meta"):
        try:
            return cls.from_config(made, attn_implementation=asked, **options)
        except ValueError as error:
            if "attention" not in str(error) or asked == "eager":
                raise UnsupportedError.of(
                    f"model_type {quoted(made.model_type)}", _first_line(error)
                ) from None
            # Types without an SDPA form run eagerly, as from_pretrained does unasked.
            return cls.from_config(made, attn_implementation="eager", **options)
        except (ImportError, NotImplementedError, RuntimeError) as error:
            reason = f"it cannot be built without its weights ({_first_line(error)})"
            raise UnsupportedError.of(f"model_type {quoted(made.model_type)}", reason) from None


def _name_special_tokens(config: Any) -> None:
    """Tokens that the modelling code asks for, where a configuration does not name them."""
    for part in (config, text_config(config)):
        if getattr(part, "pad_token_id", None) is None:
            part.pad_token_id = 0
        if part.is_encoder_decoder and getattr(part, "decoder_start_token_id", None) is None:
            part.decoder_start_token_id = 0


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:160]
