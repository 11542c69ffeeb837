"""Vision-language models: a tower over image patches, a projector, and a decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, cast

from ftadvisor.errors import DataFileError, quoted
from ftadvisor.schema.model import Block, ModelSpec
from ftadvisor.sources.architectures.config import Config, row_type
from ftadvisor.sources.architectures.decoders import decoder
from ftadvisor.sources.architectures.layers import norm_bias, stack
from ftadvisor.sources.architectures.projectors import PROJECTORS
from ftadvisor.sources.architectures.row_checks import FILE


class Tower(NamedTuple):
    """The vision side of a model."""

    config: Config
    blocks: tuple[Block, ...]
    num_other_params: int
    grid: int
    """Patches of one piece of an image, without the class token."""
    patches: int
    """With it."""


def vision_language(c: Config, id: str) -> ModelSpec:
    """An image-text model, as `AutoModelForImageTextToText` builds it."""
    text_config, vision_config = _section(c, "text"), _section(c, "vision")
    if "assume" in c.row:
        c.assume(c.row["assume"])
    text = decoder(text_config, id)
    tower = _tower(vision_config)
    pieces, tokens = _image_tokens(c, tower)
    kind: str = c.row["projector"]
    if kind not in PROJECTORS:
        known = " or ".join(PROJECTORS)
        raise DataFileError(FILE, c.model_type, "projector", f"is {quoted(kind)}", known)
    beside = tower.num_other_params + PROJECTORS[kind](c, vision_config, text_config)
    return replace(
        text,
        model_type=c.model_type,
        family="vlm",
        tie_word_embeddings=_tied(c, text_config),
        blocks=tower.blocks + text.blocks,
        num_other_params=text.num_other_params + beside,
        num_image_params=sum(b.num_params for b in tower.blocks) + beside,
        num_image_weights=sum(b.num_linear_weights for b in tower.blocks),
        image_tokens=tokens,
        image_patches=pieces * tower.patches,
        image_crops=pieces,
        supports_flash_attention=text.supports_flash_attention and c.row.get("flash", True),
        remote_code=c.row.get("remote_code", False),
    )


def vision_encoder(c: Config, id: str) -> ModelSpec:
    """A vision transformer alone, as `AutoModel` builds it, with its pooler."""
    tower = _tower(c)
    h = tower.blocks[0].hidden_size
    pooler = c.integer("pooler_output_size", h)
    return ModelSpec(
        id=id,
        model_type=c.model_type,
        family="encoder",
        hidden_size=h,
        vocab_size=0,
        tie_word_embeddings=True,
        max_position_embeddings=0,
        blocks=tower.blocks,
        embedding_width=h,
        num_other_embedding_params=0,
        final_norm="layer",
        num_other_params=tower.num_other_params + h * pooler + pooler,
        image_patches=tower.patches,
    )


def _section(c: Config, side: str) -> Config:
    rule: dict[str, Any] = c.row[side]
    name = rule.get("section", f"{side}_config")
    values = c.get(name)
    if values is None:
        # Qwen2-VL's files on the hub have the text keys at the top.
        flat = rule.get("flat", False)
        values = c.values if flat else rule.get("init", {})
    if not isinstance(values, dict):
        raise c.fail(name, f"is {quoted(values)}, not an object")
    section = cast("dict[str, Any]", values)
    model_type = rule["type"]
    if rule.get("any") and "model_type" in section:
        model_type = row_type(section, f"{c.file}, {name}", rule["layout"])
    return Config(section, model_type, f"{c.file}, {name}", c.assumed)


def _tied(c: Config, text: Config) -> bool:
    """What the file says, at the top or for the text; else what Transformers assumes."""
    key = "tie_word_embeddings"
    if key in c.values:
        return c.flag(key) or (key in text.values and text.flag(key))
    return text.flag(key) if key in text.values else c.flag(key)


def _tower(c: Config) -> Tower:
    row: dict[str, Any] = c.row
    h = c.integer("hidden_size")
    patch = side_of(c, "patch_size")
    image = side_of(c, "image_size") if "image_side" not in row else row["image_side"]
    if "assume" in row:
        c.assume(row["assume"].format(image=image))
    if image < patch:
        raise c.fail("image_size", f"is {image}, smaller than a patch ({patch})")
    grid = (image // patch) ** 2
    rule: dict[str, Any] = row["embedding"]
    patches = grid + rule.get("class", 0)
    pixels = c.integer(rule.get("channels", "num_channels"), 3) * patch * patch
    params = pixels * c.integer("temporal_patch_size", 1) * h + h * rule.get("patch_bias", 0)
    params += h * rule.get("class", 0)
    if "positions" in rule and c.flag(rule.get("positions_if", True)):
        positions = rule["positions"]
        params += h * (patches if positions == "patches" else c.integer(positions))
    norm = 2 * h if norm_bias(c) else h
    params += norm * rule.get("norms", 0)
    for condition, times in rule.get("vectors_if", ()):
        params += h * times if c.flag(condition) else 0
    if "pooling_head" in rule and c.flag(rule["pooling_head"]):
        params += _pooling_head(h, c.integer("intermediate_size"))
    blocks = stack(c, "vision", other_params=rule.get("per_layer", 0) * h, stream="image")
    if "tiles" in rule:
        params += _tile_embeddings(c, h, patches)
        depth = c.integer("num_global_layers")
        # Two gates more, one number each.
        gated = replace(blocks[0], name="vision.global", num_layers=depth, other_params=2)
        blocks = (*blocks, gated)
    return Tower(c, blocks, params, grid, patches)


def side_of(c: Config, name: str) -> int:
    """The side of a square in pixels: a number, or two that are alike."""
    value = c.get(name)
    if not isinstance(value, list):
        return c.integer(name)
    sides = cast("list[object]", value)
    match sides:
        case [int(side), int(other)] if side == other and 0 < side < 1_000_000:
            return side
        case _:
            raise c.fail(name, f"is {quoted(sides)}", "one number, or the same one twice")


def _pooling_head(h: int, intermediate: int) -> int:
    """SigLIP's attention pooling, which image-text models carry but do not use.

    Source: transformers/models/siglip/modeling_siglip.py, SiglipMultiheadAttentionPoolingHead.
    """
    attention = 4 * (h * h + h)
    return h + attention + 2 * h + h * intermediate + intermediate + intermediate * h + h


def _tile_embeddings(c: Config, h: int, patches: int) -> int:
    """Gated embeddings of positions and of tiles; every gate is one number.

    Source: transformers/models/mllama/modeling_mllama.py, MllamaPrecomputed*Embedding.
    """
    shapes = len(c.listed("supported_aspect_ratios") or range(8)) + 1
    tiles = c.integer("max_num_tiles")
    per_tile = shapes * tiles * h
    return 1 + per_tile * patches + 2 * (per_tile + 1)


def _image_tokens(c: Config, tower: Tower) -> tuple[int, int]:
    """Pieces that one image is cut into, and the tokens that it takes in the text."""
    rule: dict[str, Any] = c.row["image_tokens"]
    if "key" in rule:
        return rule.get("pieces", 1), c.integer(rule["key"])
    if "fixed" in rule:
        return rule.get("pieces", 1), rule["fixed"]
    merge = 1
    if "merge" in rule:
        section = tower.config if rule.get("of") == "vision" else c
        merge = section.integer(rule["merge"])
    if "ratio" in rule:
        merge = round(1 / (tower.config.share(rule["ratio"]) or 1.0))
    pieces = rule.get("pieces", 1)
    tokens = tower.grid // (merge * merge)
    if "newlines" in rule:
        # LLaVA-NeXT: the small image, and the pieces side by side with a token after each row.
        # Source: transformers/models/llava_next/modeling_llava_next.py, pack_image_features.
        across = round((pieces - 1) ** 0.5 * tokens**0.5)
        tokens += across * across + across
    return pieces, tokens
