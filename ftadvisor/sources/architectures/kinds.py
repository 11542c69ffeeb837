"""Which kinds of layer one stack has, and how many of each."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from ftadvisor.errors import UnsupportedError, quoted
from ftadvisor.sources.architectures.config import Config

_LAYER_TYPES = ("full_attention", "sliding_attention", "chunked_attention")


class Kind(NamedTuple):
    """What may differ from layer to layer of one stack."""

    window: int | None
    """Keys that a query sees; None: all."""
    sparse: bool
    """The layer's feed-forward part is a mixture of experts."""


def label(kind: Kind, kinds: Counter[Kind]) -> str:
    """What sets one kind of layer apart from the others of its stack."""
    words: list[str] = []
    if len({k.window for k in kinds}) > 1:
        words.append("full" if kind.window is None else "sliding")
    if len({k.sparse for k in kinds}) > 1:
        words.append("sparse" if kind.sparse else "dense")
    return "_".join(words)


def kinds_of(c: Config, depth: int) -> Counter[Kind]:
    """How many layers of each kind a stack of `depth` layers has, in order of appearance."""
    _check(c, depth)
    windows = _windows(c, depth)
    sparse = _sparse(c, depth)
    return Counter(Kind(w, s) for w, s in zip(windows, sparse, strict=True))


def _windows(c: Config, depth: int) -> list[int | None]:
    """The window of each layer; `window` in the row says how the type decides it."""
    rule = c.row.get("window")
    if rule is None:
        return [None] * depth
    if "if" in rule and not c.flag(rule["if"]):
        return [None] * depth
    layers = rule["layers"]
    if layers == "except":
        # Qwen2.5-VL's tower: windows of pixels, full attention in the listed layers.
        side = c.integer(rule["size"]) // c.integer("patch_size")
        full = set(map(str, c.listed(rule["full"]) or ()))
        return [None if str(i) in full else side * side or None for i in range(depth)]
    window = c.optional(rule.get("size", "sliding_window"), least=0) or None
    types = c.listed(rule.get("types", "layer_types")) if layers != "all" else None
    if window is None or (types is None and layers == "listed"):
        return [None] * depth
    if types is not None:
        return [window if kind != "full_attention" else None for kind in types]
    if layers == "all":
        return [window] * depth
    if layers == "neo":
        return [window if kind == "local" else None for kind in _attention_types(c, depth)]
    if layers == "from":
        first = c.integer(rule["first"], 0, least=0)
        return [window if i >= first else None for i in range(depth)]
    every = c.integer(rule["period"], rule["every"]) if "period" in rule else rule["every"]
    below = c.integer(rule["below"]) if "below" in rule else depth
    shift = rule.get("shift", 1)
    return [window if (i + shift) % every and i < below else None for i in range(depth)]


def _attention_types(c: Config, depth: int) -> list[object]:
    """GPT-Neo's `attention_types`: [[kinds, times], ...], global and local in turn by default."""
    kinds: list[object] = []
    for item in c.listed("attention_types") or [[["global", "local"], (depth + 1) // 2]]:
        match item:
            case [[*some], int(times)] if 0 <= times <= depth:
                kinds += some * times
            case _:
                raise c.fail("attention_types", f"has {quoted(item)}", '[["global", "local"], 12]')
    if len(kinds) < depth:
        raise c.fail("attention_types", f"names {len(kinds)} of {depth} layers")
    return kinds[:depth]


def _check(c: Config, depth: int) -> None:
    """What the file says of its layers, whether or not it decides anything."""
    rule: dict[str, Any] = c.row.get("window", {})
    size = rule.get("size", "sliding_window")
    if rule.get("layers") != "except":
        c.optional(size, least=0)
    key = rule.get("types", "layer_types")
    types = c.listed(key)
    if types is None:
        return
    for kind in types:
        if kind not in _LAYER_TYPES:
            raise UnsupportedError.of(
                f"The layer type {quoted(kind)} in {key} of {c.file}",
                "only attention layers are described",
                _LAYER_TYPES,
            )
    if len(types) != depth:
        raise c.fail(key, f"lists {len(types)} of {depth} layers", "one entry a layer")


def _sparse(c: Config, depth: int) -> list[bool]:
    moe = c.row.get("moe")
    if moe is None:
        return [False] * depth
    rule = moe.get("layers", "all")
    if rule == "all":
        return [True] * depth
    if rule == "from":
        first = c.integer(moe["first"], 0, least=0)
        return [i >= first for i in range(depth)]
    listed = c.listed(moe["listed"]) if "listed" in moe else None
    if listed is not None:
        chosen = set(map(str, listed))
        return [str(i) in chosen for i in range(depth)]
    if rule == "every":
        every = c.integer(moe["every"], 1)
        return [(i + 1) % every == 0 for i in range(depth)]
    # Qwen: listed layers are dense, and of the others every decoder_sparse_step-th is sparse.
    dense = set(map(str, c.listed("mlp_only_layers") or ()))
    step = c.integer("decoder_sparse_step", 1)
    return [str(i) not in dense and (i + 1) % step == 0 for i in range(depth)]
