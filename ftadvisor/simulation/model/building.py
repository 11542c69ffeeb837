"""A model from its config.json, on meta tensors: no weights, no network."""

from __future__ import annotations

from typing import Any

from ftadvisor.configuration.depths import text_config, with_layers
from ftadvisor.configuration.experts import name_experts
from ftadvisor.configuration.heads import untie_head
from ftadvisor.errors import UnsupportedError, first_line, quoted
from ftadvisor.schema.model import Family
from ftadvisor.schema.settings import Settings
from ftadvisor.schema.trainer import Trainer
from ftadvisor.simulation.stack import initialization, torch, transformers
from ftadvisor.sources.models import CODE

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CLASSES = {
    "seq_cls": transformers.AutoModelForSequenceClassification,
    "reward": transformers.AutoModelForSequenceClassification,
    "token_cls": transformers.AutoModelForTokenClassification,
}
HEADS: tuple[tuple[Any, Any, Family], ...] = (
    (
        transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        transformers.AutoModelForSeq2SeqLM,
        "encdec",
    ),
    (
        transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        transformers.AutoModelForImageTextToText,
        "vlm",
    ),
    (transformers.MODEL_FOR_MASKED_LM_MAPPING, transformers.AutoModelForMaskedLM, "encoder"),
    (transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.AutoModelForCausalLM, "decoder"),
)
"""Where Transformers lists a type, and the class that builds it: the first that has it. Some
image-text models are also listed with a causal head, and encoders as decoders of their own.
"""
UNBUILDABLE = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What a library fails of where tensors have no values, or where a configuration lacks a key."""


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
    except UNBUILDABLE as error:
        reason = f"Transformers cannot read its configuration ({first_line(error)})"
        raise UnsupportedError.of(f"model_type {quoted(model_type)}", reason) from None


def attn_implementation(config: Any, settings: Settings, trainer: Trainer) -> str:
    """What runs: some model types have eager attention only, whatever is asked for."""
    if config.model_type in trainer.eager_model_types:
        return "eager"
    # flash-attn's own package is on no CPU: SDPA's flash kernel, which is the same, stands for it.
    flash = settings.attn_implementation == "flash_attention_2"
    return "sdpa" if flash else settings.attn_implementation


def build_model(config: dict[str, Any], settings: Settings, trainer: Trainer, layers: int | None):
    """The base model on meta, in the settings' dtype, with that many layers (None: all).

    Raises UnsupportedError where Transformers has no such class, or cannot make it without weights.
    """
    made = transformers_config(config)
    if layers is not None:
        try:
            made = with_layers(made, layers)
        except NotImplementedError as error:
            raise _unbuildable(made, error) from error
    _name_special_tokens(made)
    name_experts(made)
    if settings.objective == "reward":
        made.num_labels = 1  # reward_trainer.py: one score a sequence
    remote = bool(config.get(CODE))
    # Code of a checkpoint's own is in none of Transformers' tables.
    usual = transformers.AutoModelForCausalLM if remote else None
    cls = CLASSES.get(settings.objective) or usual or head_of(made)[0]
    asked = attn_implementation(made, settings, trainer)
    try:
        found = _made(cls, made, settings, asked, remote)
    except ValueError as error:
        if "attention" not in str(error) or asked == "eager":
            raise _unbuildable(made, error) from error
        # Types without an SDPA form run eagerly, as from_pretrained does unasked.
        found = _made(cls, made, settings, "eager", remote)
    except UNBUILDABLE as error:
        raise _unbuildable(made, error) from error
    if config.get("tie_word_embeddings") is False:
        untie_head(found)
    return found


def _made(cls: Any, made: Any, settings: Settings, attention: str, remote: bool) -> Any:
    # Schedules that read a value of linspace while they are made find it on the CPU.
    with torch.device("meta"), initialization.meta_device_safe_creation_ops():
        return cls.from_config(
            made,
            dtype=DTYPES[settings.weights_dtype],
            attn_implementation=attention,
            trust_remote_code=remote,
        )


def head_of(made: Any) -> tuple[Any, Family]:
    """The class that builds a configuration's language model, and what kind of model it is.

    Raises UnsupportedError where Transformers lists none.
    """
    for mapping, cls, family in HEADS:
        if type(made) in mapping and (family == "encdec" or not made.is_encoder_decoder):
            return cls, family
    raise UnsupportedError.of(
        f"model_type {quoted(made.model_type)}", "Transformers has no language model of that type"
    )


def _unbuildable(made: Any, error: Exception) -> UnsupportedError:
    reason = f"it cannot be built without its weights ({first_line(error)})"
    return UnsupportedError.of(f"model_type {quoted(made.model_type)}", reason)


def _name_special_tokens(config: Any) -> None:
    """Tokens that the modelling code asks for, where a configuration does not name them."""
    for part in (config, text_config(config)):
        if getattr(part, "pad_token_id", None) is None:
            part.pad_token_id = 0
        if part.is_encoder_decoder and getattr(part, "decoder_start_token_id", None) is None:
            part.decoder_start_token_id = 0
