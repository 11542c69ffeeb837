"""What a row of data/architectures.json may hold; the file's own `fields` says what it means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from ftadvisor.errors import DataFileError, quoted
from ftadvisor.schema.model import Attention, Traits
from ftadvisor.sources.field_checks import (
    NAMES,
    OBJECT,
    SWITCH,
    TEXT,
    Kind,
    any_of,
    check_row,
    check_value,
    listed,
    number,
    one_of,
    record_kinds,
    table,
    whole,
)

FILE: Final = "architectures.json"
LAYOUTS: Final = ("decoder", "encoder", "encoder_decoder", "vision_language", "vision")

_ANY_WHOLE = Kind("a whole number", lambda v: type(v) is int)
_CONDITION = any_of(SWITCH, TEXT)
_KEY = Kind("a key of config.json", TEXT.holds)


def _some_names(*counts: int) -> Kind:
    """A list of so many names."""
    many = " or ".join(map(str, counts))
    return Kind(f"a list of {many} names", lambda v: NAMES.holds(v) and len(v) in counts)


def _pairs(value: Kind, *, ends: bool) -> Kind:
    """[condition, value] pairs; `ends`: the first true one counts, so the last must be true."""

    def holds(found: Any) -> bool:
        if not isinstance(found, list) or not found:
            return False
        pairs = cast("list[Any]", found)
        return all(
            isinstance(pair, list)
            and len(cast("list[Any]", pair)) == 2
            and _CONDITION.holds(pair[0])
            and value.holds(pair[1])
            for pair in pairs
        ) and (not ends or pairs[-1][0] is True)

    end = ", the last condition true" if ends else ""
    return Kind(f"[condition, {value.write}] pairs{end}", holds)


def _switch(value: Kind) -> Kind:
    return any_of(value, _pairs(value, ends=True))


def _projection(found: Any) -> bool:
    triple = cast("list[Any]", found) if isinstance(found, list) else []
    return len(triple) == 3 and NAMES.holds(triple[:2]) and isinstance(triple[2], bool)


def _sentence(found: Any) -> bool:
    return TEXT.holds(found) and not {"{", "}"} & set(found.replace("{image}", ""))


_EVERY: Final[dict[str, Kind]] = {"layout": one_of(LAYOUTS), "source": TEXT, "defaults": OBJECT}
_STACK: Final[dict[str, Kind]] = {"qkv": _some_names(1, 3), "o": TEXT, "mlp": _some_names(2, 3)}
_SIDE: Final = {"layers": _KEY, "heads": _KEY, "ffn": _KEY}
_NEEDED: Final[dict[str, dict[str, Kind]]] = {
    "decoder": _STACK,
    "encoder": _STACK,
    "vision": _STACK | {"embedding": OBJECT},
    "encoder_decoder": _STACK
    | {"encoder": OBJECT, "decoder": OBJECT}
    | dict.fromkeys(("act", "dropout", "attention_dropout", "mlp_dropout"), _KEY)
    | {"position": one_of(("learned", "relative"))},
    "vision_language": dict.fromkeys(("text", "vision", "image_tokens"), OBJECT)
    | {"projector": TEXT},
}  # fmt: skip
"""Fields that each layout reads without a default."""
_OF_ATTENTION: Final = record_kinds(Attention)

_SWITCHES: Final = (
    "own_keys", "gated", "views_alive", "causal", "mla", "sinks", "first_layer_lacks_norm", "sdpa",
    "flash", "remote_code", "embedding_scale", "embedding_norm", "embedding_norm_after_projection",
    "embedding_projection_bias", "token_types", "pooler", "shared_layers", "head_of_checkpoint",
    "dense_classifier", "alone", "image_newline", "bias",
)  # fmt: skip
_CONDITIONS: Final = (
    "qkv_bias", "o_bias", "mlp_bias", "head_bias", "norm_bias", "alibi_if", "qk_norm_if",
    "embedding_scale_if",
)  # fmt: skip
_KEYS: Final = (
    "score_softcap", "final_softcap", "act", "context", "embedding_width", "relative_table",
    "attention_dropout", "dropout", "mlp_dropout", "merged_width", "cross_layers",
)  # fmt: skip
_COUNTS: Final = (
    "intermediate_over", "more_embeddings", "image_side", "positions", "embedding_norms",
    "final_norms",
)  # fmt: skip
_OTHERS: Final[dict[str, Kind]] = {
    "keys": table(TEXT, "keys"),
    "needs": NAMES,
    "variants": table(TEXT, "model types"),
    "mlp_gated": _some_names(3),
    "kv_heads": _switch(any_of(whole(1), _KEY)),
    "rotary": OBJECT,
    "position": _OF_ATTENTION["position"],
    "qk_norm": _OF_ATTENTION["qk_norm"],
    "qk_norm_weights": one_of(("per_head", "none", "head", "full")),
    "window": OBJECT,
    "intermediate": any_of(
        _KEY,
        Kind("[key, times]", lambda v: (
            isinstance(v, list) and len(cast("list[Any]", v)) == 2
            and TEXT.holds(v[0]) and whole(1).holds(v[1])
        )),
        OBJECT,
    ),
    "act_name": TEXT,
    "norms": _switch(whole()),
    "final_norm": _switch(_CONDITION),
    "dropouts": table(whole(), "numbers"),
    "traits": OBJECT,
    "traits_if": _pairs(OBJECT, ends=False),
    "moe": OBJECT,
    "causal_masks": one_of(("one", "each")),
    "learned_positions": any_of(_ANY_WHOLE, _CONDITION),
    "context_offset": _ANY_WHOLE,
    "embedding_projection": one_of(("always", "unless_equal")),
    "disentangled": OBJECT,
    "relative_bias": one_of(("first", "each")),
    "assume": Kind("a sentence; {image} stands for the side in pixels", _sentence),
    "embedding": OBJECT,
}  # fmt: skip
_OPTIONAL: Final[dict[str, Kind]] = (
    dict.fromkeys(_SWITCHES, SWITCH)
    | dict.fromkeys(_CONDITIONS, _CONDITION)
    | dict.fromkeys(_KEYS, _KEY)
    | dict.fromkeys(_COUNTS, whole())
    | _OTHERS
)

_PARTS: Final[dict[str, dict[str, Kind]]] = {
    "rotary": {"factor": _KEY, "dim": _KEY, "half": SWITCH},
    "intermediate": {"times": any_of(number(), _KEY)},
    "window": {
        "layers": one_of(("all", "from", "period", "except", "neo", "listed")),
        "if": _CONDITION, "size": _KEY, "first": _KEY, "every": whole(1), "period": _KEY,
        "below": _KEY, "shift": whole(), "full": _KEY, "types": _KEY,
    },
    "moe": {
        "num_experts": _KEY, "per_token": _KEY, "intermediate": _KEY,
        "layers": one_of(("all", "from", "every", "step")), "first": _KEY, "every": _KEY,
        "listed": _KEY, "router": TEXT, "router_module": SWITCH, "router_bias": SWITCH,
        "experts": _some_names(2, 3), "expert_modules": SWITCH, "bias": _CONDITION,
        "runs_all": SWITCH, "shared_intermediate": _KEY, "num_shared": _KEY,
        "shared_names": _some_names(2, 3), "shared_gate": TEXT,
    },
    "disentangled": {
        "projections": listed(Kind("[pos_att_type, name, bias]", _projection), "projections"),
        "share": _KEY, "biases": whole(),
    },
    "encoder": _SIDE,
    "decoder": _SIDE,
    "embedding": {
        "class": whole(), "patch_bias": whole(), "norms": whole(), "per_layer": whole(),
        "channels": _KEY, "positions": _KEY, "positions_if": _CONDITION, "tiles": SWITCH,
        "vectors_if": _pairs(whole(), ends=False), "pooling_head": _CONDITION,
    },
    "image_tokens": {
        "pieces": whole(1), "newlines": SWITCH, "merge": _KEY, "of": one_of(("vision",)),
        "key": _KEY, "fixed": whole(1), "ratio": _KEY,
    },
    "text": {
        "type": TEXT, "any": SWITCH, "layout": one_of(LAYOUTS), "init": OBJECT, "flat": SWITCH,
        "section": _KEY,
    },
}  # fmt: skip
_PARTS["vision"] = _PARTS["text"]
"""Fields of the objects inside a row."""
_PARTS_NEED: Final[dict[str, tuple[str, ...]]] = {
    "intermediate": ("times",),
    "window": ("layers",),
    "disentangled": ("projections",),
    "encoder": tuple(_SIDE),
    "decoder": tuple(_SIDE),
    "text": ("type",),
    "vision": ("type",),
}
_THEN_NEEDS: Final = {
    ("window", "layers", "from"): ("first",),
    ("window", "layers", "period"): ("every",),
    ("window", "layers", "except"): ("full", "size"),
    ("moe", "layers", "from"): ("first",),
    ("moe", "layers", "every"): ("every",),
    ("text", "any", True): ("layout",),
    ("vision", "any", True): ("layout",),
}
"""Further fields of an object that has a certain value."""
REFUSED: Final = {"refused": TEXT, "nearest": NAMES, "names": NAMES}


def all_fields() -> set[str]:
    """Every field that a row may have, those of its objects as `window.layers`."""
    own = _OPTIONAL.keys() | REFUSED.keys() | _EVERY.keys()
    own = own.union(*(kinds.keys() for kinds in _NEEDED.values()))
    return {*own, *(f"{part}.{name}" for part, kinds in _PARTS.items() for name in kinds)}


def check_architecture(model_type: str, row: dict[str, Any], described: Iterable[str]) -> None:
    """Raise DataFileError where the row of a model type cannot be right.

    `described`: the model types that a row may refer to.
    """
    if "refused" in row:
        check_row(FILE, model_type, row, {"refused": TEXT}, REFUSED)
        return
    # First, as it decides which other fields there are.
    check_value(FILE, model_type, "layout", row.get("layout"), one_of(LAYOUTS))
    needed = _EVERY | _NEEDED[row["layout"]]
    check_row(FILE, model_type, row, needed, _OPTIONAL)
    for part, kinds in _PARTS.items():
        if isinstance(row.get(part), dict):
            _check_part(model_type, part, row[part], kinds)
    traits = record_kinds(Traits)
    check_row(FILE, model_type, row.get("traits", {}), {}, traits, inside="traits")
    for _, change in row.get("traits_if", ()):
        check_row(FILE, model_type, change, {}, traits, inside="traits_if")
    sides = [(f"{side}.type", row[side]["type"]) for side in ("text", "vision") if side in row]
    variants: Mapping[str, str] = row.get("variants", {})
    for field, name in (*sides, *((f"variants.{key}", name) for key, name in variants.items())):
        if name not in described:
            write = "a model type that is described"
            raise DataFileError(FILE, model_type, field, f"is {quoted(name)}", write)


def _check_part(
    model_type: str, part: str, values: dict[str, Any], kinds: Mapping[str, Kind]
) -> None:
    names = set(_PARTS_NEED.get(part, ()))
    for (where, field, value), more in _THEN_NEEDS.items():
        if where == part and values.get(field) == value and "listed" not in values:
            names.update(more)
    needed = {name: kinds[name] for name in kinds if name in names}
    check_row(FILE, model_type, values, needed, kinds, inside=part)


ACTIVATIONS: Final = frozenset(
    (
        "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python",
        "gelu_python_tanh", "gelu_pytorch_tanh", "laplace", "leaky_relu", "linear", "mish",
        "prelu", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "swish", "tanh",
        "xielu",
    )
)  # fmt: skip
"""Source: transformers 5.23.0 activations.py, ACT2CLS."""
