"""From a Hugging Face config.json to the anatomy of a model.

data/architectures.json has one row per model type: the names of its modules, its configuration
keys with Transformers' defaults, and how its layers are written. The code here holds only the few
layouts that the rows choose from.
"""

from __future__ import annotations

from typing import Any, Final, cast

from ftadvisor.errors import DataFileError, UnsupportedError, near_misses, quoted
from ftadvisor.schema.model import ModelSpec
from ftadvisor.sources.architectures.config import Config, architectures
from ftadvisor.sources.architectures.decoders import decoder
from ftadvisor.sources.architectures.encoders import encoder
from ftadvisor.sources.architectures.pairs import encoder_decoder

_LAYOUTS: Final = {"decoder": decoder, "encoder": encoder, "encoder_decoder": encoder_decoder}


def read_model(config: dict[str, Any], id: str) -> tuple[ModelSpec, tuple[str, ...]]:
    """The anatomy of the model that a config.json describes, and what had to be assumed.

    Missing keys take Transformers' defaults. `num_params` counts what `AutoModelForCausalLM` (or
    the type's own generating class) holds, tied weights once; for encoders what `AutoModel` holds,
    with the pooler, without a language-model head, as published counts are.

    Raises DataFileError for a config that cannot be right and UnsupportedError for a model type
    that is not described.
    """
    file = f"config.json of {id}"
    model_type = type_of(config, file)
    assumed: list[str] = []
    c = Config(config, model_type, file, assumed)
    spec = _LAYOUTS[c.row["layout"]](c, id)
    return spec, tuple(assumed)


def type_of(config: object, file: str) -> str:
    """The model type of a configuration: a key of data/architectures.json.

    Raises as `read_model` does.
    """
    if not isinstance(config, dict):
        raise DataFileError(file, None, None, f"is {quoted(config)}, not a JSON object")
    model_type = cast("dict[str, Any]", config).get("model_type")
    if not isinstance(model_type, str) or not model_type:
        problem = "is missing" if model_type is None else f"is {quoted(model_type)}, not a name"
        raise DataFileError(file, None, "model_type", problem, '"llama", "qwen2", ...')
    rows = architectures()
    row = rows.get(model_type)
    if row is None:
        raise UnsupportedError.of(
            f"The model type {quoted(model_type)}",
            "data/architectures.json does not describe it",
            near_misses(model_type, [name for name, r in rows.items() if "refused" not in r]),
        )
    if "refused" in row:
        raise UnsupportedError.of(
            f"The model type {quoted(model_type)}", row["refused"], row.get("nearest", [])
        )
    return model_type
