"""From a Hugging Face config.json to the anatomy of a model.

data/architectures.json has one row per model type: the names of its modules, its configuration
keys with Transformers' defaults, and how its layers are written. The code here holds only the few
layouts that the rows choose from.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, Final, cast

from ftadvisor.errors import DataFileError
from ftadvisor.schema.model import LayerKernels, ModelSpec
from ftadvisor.sources.architectures.config import Assumed, Config, row_type
from ftadvisor.sources.architectures.decoders import decoder
from ftadvisor.sources.architectures.encoders import encoder
from ftadvisor.sources.architectures.pairs import encoder_decoder
from ftadvisor.sources.architectures.vision import vision_encoder, vision_language
from ftadvisor.sources.data_files import read_json

_LAYOUTS: Final = {
    "decoder": decoder,
    "encoder": encoder,
    "encoder_decoder": encoder_decoder,
    "vision_language": vision_language,
    "vision": vision_encoder,
}


def read_model(config: dict[str, Any], id: str) -> tuple[ModelSpec, tuple[str, ...]]:
    """The anatomy of the model that a config.json describes, and what had to be assumed.

    Missing keys take Transformers' defaults. `num_params` counts what `AutoModelForCausalLM` (or
    the type's own generating class) holds, tied weights once; for encoders what `AutoModel` holds,
    with the pooler, without a language-model head, as published counts are.

    Raises DataFileError for a config that cannot be right and UnsupportedError for a model type
    that is not described.
    """
    file = f"config.json of {id}"
    model_type = row_type(config, file)
    assumed = Assumed()
    c = Config(config, model_type, file, assumed)
    spec = _LAYOUTS[c.row["layout"]](c, id)
    counted = _kernels().get(model_type)
    if counted is not None:
        spec = replace(spec, kernels=counted)
    return spec, assumed.said()


KERNELS: Final = "kernels.json"


@cache
def _kernels() -> dict[str, LayerKernels]:
    """By model type, as scripts/count_kernels.py counted them."""
    found = cast("dict[str, dict[str, list[float]]]", read_json(KERNELS)["kernels"])
    return {
        kind: LayerKernels(**{way: (pair[0], pair[1]) for way, pair in ways.items()})
        for kind, ways in found.items()
    }


def check_kernels() -> None:
    """Raise DataFileError at the first count that cannot be right."""
    try:
        counted = _kernels()
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise DataFileError(KERNELS, None, None, f"cannot be read: {error}", _COUNT) from error
    for kind, ways in counted.items():
        for way, pair in ways._asdict().items():
            if not all(isinstance(n, int | float) and n > 0 for n in pair):
                raise DataFileError(KERNELS, kind, way, f"is {pair}", _COUNT)


_COUNT: Final = "python scripts/count_kernels.py writes it"
