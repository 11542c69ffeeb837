"""Parameters between a vision tower and the text: one function per way that models join them.

Each takes the model's configuration, the vision tower's and the text's, and returns a number of
parameters. Sources: the projector classes in transformers/models/<model_type>/modeling_*.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ftadvisor.sources.architectures.config import Config


def _matrix(in_features: int, out_features: int, bias: bool = True) -> int:
    return in_features * out_features + (out_features if bias else 0)


def _two_layers(c: Config, vision: Config, text: Config) -> int:
    """LlavaMultiModalProjector; LLaVA-NeXT has one vector for the ends of rows besides."""
    layers = c.get("vision_feature_layer")
    features = len(c.listed("vision_feature_layer") or ()) if isinstance(layers, list) else 1
    wide, h = vision.integer("hidden_size") * features, text.integer("hidden_size")
    bias = c.flag("multimodal_projector_bias")
    newline = h if c.row.get("image_newline") else 0
    return _matrix(wide, h, bias) + _matrix(h, h, bias) + newline


def _linear(c: Config, vision: Config, text: Config) -> int:
    """PaliGemmaMultiModalProjector."""
    return _matrix(vision.integer("hidden_size"), c.integer("projection_dim"))


def _normed_matrix(c: Config, vision: Config, text: Config) -> int:
    """Gemma3MultiModalProjector: a norm over the patches' features, then a matrix."""
    wide = vision.integer("hidden_size")
    return wide + wide * text.integer("hidden_size")


def _pixel_shuffle(c: Config, vision: Config, text: Config) -> int:
    """Idefics3SimpleMLP: neighbouring patches become one token."""
    wide = vision.integer("hidden_size") * c.integer("scale_factor") ** 2
    return wide * text.integer("hidden_size")


def _resampler(c: Config, vision: Config, text: Config) -> int:
    """Idefics2Connector: a gated MLP, then layers in which latent vectors attend to the patches."""
    h = text.integer("hidden_size")
    size = text.integer("intermediate_size")
    mlp = 2 * vision.integer("hidden_size") * size + size * h
    heads = c.integer("perceiver_config.resampler_n_heads")
    kv_heads = c.integer("perceiver_config.num_key_value_heads")
    head_dim = c.integer("perceiver_config.resampler_head_dim")
    attention = 2 * h * head_dim * (heads + kv_heads)
    layer = 3 * h + attention + 3 * h * 4 * h
    latents = c.integer("perceiver_config.resampler_n_latents")
    depth = c.integer("perceiver_config.resampler_depth")
    return mlp + depth * layer + latents * h + h


def _merger(c: Config, vision: Config, text: Config) -> int:
    """PatchMerger of Qwen2-VL and Qwen2.5-VL: a norm, then two matrices over merged patches."""
    h = vision.integer("hidden_size")
    wide = h * vision.integer("spatial_merge_size") ** 2
    out = vision.integer(c.row["merged_width"])
    norm = h if vision.row.get("traits", {}).get("norm", "rms") == "rms" else 2 * h
    return norm + _matrix(wide, wide) + _matrix(wide, out)


def _deep_mergers(c: Config, vision: Config, text: Config) -> int:
    """Qwen3-VL: one merger at the end and one at each listed layer, normed after the merge."""
    h = vision.integer("hidden_size")
    wide = h * vision.integer("spatial_merge_size") ** 2
    matrices = _matrix(wide, wide) + _matrix(wide, vision.integer("out_hidden_size"))
    deep = len(vision.listed("deepstack_visual_indexes") or ())
    return 2 * h + matrices + deep * (2 * wide + matrices)


def _normed_merger(c: Config, vision: Config, text: Config) -> int:
    """Mistral3MultiModalProjector: a norm, merged patches, then two matrices."""
    h = vision.integer("hidden_size")
    merged = h * c.integer("spatial_merge_size") ** 2
    return h + merged * h + _two_layers(c, vision, text)


def _normed_shuffle(c: Config, vision: Config, text: Config) -> int:
    """InternVLMultiModalProjector: merged patches, a norm, two matrices."""
    merge = round(1 / (c.share("downsample_ratio") or 1.0))
    wide, h = vision.integer("hidden_size") * merge * merge, text.integer("hidden_size")
    return 2 * wide + _matrix(wide, h) + _matrix(h, h)


def _shuffle_mlp(c: Config, vision: Config, text: Config) -> int:
    """Llama4VisionPixelShuffleMLP and Llama4MultiModalProjector, without biases."""
    into, out = vision.integer("projector_input_dim"), vision.integer("projector_output_dim")
    joined = vision.integer("vision_output_dim") * text.integer("hidden_size")
    return vision.integer("intermediate_size") * into + out * out + joined


def _output_matrix(c: Config, vision: Config, text: Config) -> int:
    """MllamaModel.multi_modal_projector."""
    return _matrix(vision.integer("vision_output_dim"), text.integer("hidden_size"))


def _attention_pool(c: Config, vision: Config, text: Config) -> int:
    """Qwen-VL's Resampler: one layer in which learned queries attend to the patches.

    Source: huggingface.co/Qwen/Qwen-VL visual.py, Resampler and VisionTransformer.
    """
    h = vision.integer("output_dim")
    queries = c.row["image_tokens"]["fixed"]
    widen = vision.integer("hidden_size") * h
    attention = _matrix(h, 3 * h) + _matrix(h, h)
    norms = 3 * 2 * h
    return 2 * queries * h + widen + attention + norms + h * h


PROJECTORS: Final[dict[str, Callable[[Config, Config, Config], int]]] = {
    "two_layers": _two_layers,
    "linear": _linear,
    "normed_matrix": _normed_matrix,
    "pixel_shuffle": _pixel_shuffle,
    "resampler": _resampler,
    "merger": _merger,
    "deep_mergers": _deep_mergers,
    "normed_merger": _normed_merger,
    "normed_shuffle": _normed_shuffle,
    "shuffle_mlp": _shuffle_mlp,
    "output_matrix": _output_matrix,
    "attention_pool": _attention_pool,
}
"""By the name that a row of data/architectures.json gives."""
