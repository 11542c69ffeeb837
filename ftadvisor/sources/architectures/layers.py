"""The layer of a stack that one row of data/architectures.json describes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from ftadvisor.errors import UnsupportedError, quoted
from ftadvisor.schema.model import Attention, Block, Linear, Mlp, Traits
from ftadvisor.sources.architectures.config import Config, traits_of


class Kind(NamedTuple):
    """What may differ from layer to layer of one stack."""

    window: int | None
    """Keys that a query sees; None: all."""
    sparse: bool
    """The layer's feed-forward part is a mixture of experts."""


def stack(c: Config, name: str = "layers") -> tuple[Block, ...]:
    """The blocks of a stack: one for each kind of layer in it, in order of first appearance.

    Raises DataFileError for a value that cannot be right, UnsupportedError for a kind of layer
    that is no attention.
    """
    depth = c.integer("num_hidden_layers")
    kinds = _kinds(c, depth)
    shared = _Shared(c)
    if len(kinds) == 1:
        return (shared.block(name, depth, next(iter(kinds))),)
    return tuple(
        shared.block(f"{name}.{_label(kind, kinds)}", count, kind) for kind, count in kinds.items()
    )


def _label(kind: Kind, kinds: Counter[Kind]) -> str:
    words: list[str] = []
    if len({k.window for k in kinds}) > 1:
        words.append("full" if kind.window is None else "sliding")
    if len({k.sparse for k in kinds}) > 1:
        words.append("sparse" if kind.sparse else "dense")
    return "_".join(words)


def _kinds(c: Config, depth: int) -> Counter[Kind]:
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
    window = c.optional(rule.get("size", "sliding_window"))
    types = c.listed("layer_types") if rule["layers"] != "all" else None
    if types is not None:
        if len(types) < depth:
            raise c.fail("layer_types", f"lists {len(types)} of {depth} layers")
        return [window if _slides(c, kind) else None for kind in types[:depth]]
    if rule["layers"] == "all":
        return [window] * depth
    if rule["layers"] == "from":
        first = c.integer(rule["first"], 0, least=0)
        return [window if i >= first else None for i in range(depth)]
    every = c.integer(rule["period"], rule["every"]) if "period" in rule else rule["every"]
    below = c.integer(rule["below"]) if "below" in rule else depth
    return [window if (i + 1) % every and i < below else None for i in range(depth)]


def _slides(c: Config, kind: object) -> bool:
    if kind in ("sliding_attention", "chunked_attention"):
        return True
    if kind != "full_attention":
        raise UnsupportedError.of(
            f"The layer type {quoted(kind)} in {c.file}", "only attention layers are described"
        )
    return False


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
    # Qwen: listed layers are dense, and of the others every decoder_sparse_step-th is sparse.
    dense = set(map(str, c.listed("mlp_only_layers") or ()))
    step = c.integer("decoder_sparse_step", 1)
    return [str(i) not in dense and (i + 1) % step == 0 for i in range(depth)]


class _Shared:
    """What all layers of a stack have in common, read once."""

    def __init__(self, c: Config) -> None:
        self.c = c
        self.hidden_size = c.integer("hidden_size")
        self.attention = _attention(c)
        self.attention_linears = _attention_linears(c, self.attention, self.hidden_size)
        self.traits, self.hidden_dropout, self.attention_dropout = _traits(c)

    def block(self, name: str, depth: int, kind: Kind) -> Block:
        c, row = self.c, self.c.row
        h = self.hidden_size
        read = _mixture if kind.sparse else _dense
        mlp, mlp_linears, more = read(c, h)
        attention = self.attention
        if kind.window is not None:
            attention = replace(attention, sliding_window=kind.window)
        traits = self.traits
        if not kind.sparse and traits.moe != "none":
            traits = replace(traits, moe="none", shared_expert_gate=False)
        return Block(
            name=name,
            num_layers=depth,
            hidden_size=h,
            linears=self.attention_linears + mlp_linears,
            attention=attention,
            mlp=mlp,
            norm=norm_kind(row),
            norm_widths=(h,) * num_norms(c) + _qk_norm_widths(c, attention),
            norm_bias=c.flag(row.get("norm_bias", traits.norm == "ln")),
            parallel=traits.place in ("parallel", "parallel2"),
            hidden_dropout=self.hidden_dropout,
            attention_dropout=self.attention_dropout,
            other_params=more + _attention_extras(c, attention),
            traits=traits,
        )


def norm_kind(row: dict[str, Any]) -> Literal["rms", "layer", "none"]:
    """The kind of norm, as parameters count it."""
    norm = row.get("traits", {}).get("norm", "rms")
    if norm == "ln_np":
        return "none"
    return "rms" if norm.startswith("rms") else "layer"


def num_norms(c: Config) -> int:
    """Norms of a layer over the hidden size that have weights."""
    norms = c.row.get("norms", 2)
    if isinstance(norms, int):
        return norms
    for condition, number in norms:
        if c.flag(condition):
            return number
    raise AssertionError(c.model_type)


def _head_dim(c: Config) -> int:
    head_dim = c.optional("head_dim")
    return head_dim if head_dim is not None else c.ratio("hidden_size", "num_attention_heads")


def _kv_heads(c: Config, heads: int) -> int:
    """`kv_heads` in the row: [condition, key or number] pairs, of which the first true one wins."""
    rules: list[list[Any]] = c.row.get("kv_heads", [[True, "num_key_value_heads"]])
    rule = next(value for condition, value in rules if c.flag(condition))
    if isinstance(rule, int):
        return rule
    kv_heads = c.integer(rule, heads)
    if heads % kv_heads:
        problem = f"is {kv_heads}, which does not divide {c.key('num_attention_heads')} ({heads})"
        raise c.fail(rule, problem)
    return kv_heads


def _rotary_dim(c: Config, head_dim: int) -> int:
    rotary = c.row.get("rotary")
    if rotary is None:
        return head_dim
    if "dim" in rotary:
        return min(c.integer(rotary["dim"], head_dim), head_dim)
    name = rotary["factor"]
    stated = c.section("rope_parameters").get("partial_rotary_factor")
    factor = stated if isinstance(stated, float) else c.share(name, 1.0)
    return int(head_dim * factor)


def _attention(c: Config) -> Attention:
    row = c.row
    heads = c.integer("num_attention_heads")
    head_dim = _head_dim(c)
    position = row.get("position", "rope")
    if "alibi_if" in row and c.flag(row["alibi_if"]):
        position = "alibi"
    qk_norm = row.get("qk_norm", "none")
    if "qk_norm_if" in row and not c.flag(row["qk_norm_if"]):
        qk_norm = "none"
    return Attention(
        num_heads=heads,
        num_kv_heads=_kv_heads(c, heads),
        head_dim=head_dim,
        v_head_dim=head_dim,
        causal=row.get("causal", True),
        position=position,
        rotary_dim=_rotary_dim(c, head_dim) if position == "rope" else 0,
        qk_norm=qk_norm,
        fused_qkv=len(row["qkv"]) == 1,
        score_softcap="score_softcap" in row and bool(c.get(row["score_softcap"])),
        sinks=row.get("sinks", False),
    )


def _qk_norm_widths(c: Config, a: Attention) -> tuple[int, ...]:
    if a.qk_norm == "none":
        return ()
    if a.qk_norm == "full":
        return (a.q_width, a.k_width)
    if c.row.get("qk_norm_per_head"):
        return (a.head_dim,) * (a.num_heads + a.num_kv_heads)
    return (a.head_dim, a.head_dim)


def _attention_extras(c: Config, a: Attention) -> int:
    return a.num_heads if a.sinks else 0


def _attention_linears(c: Config, a: Attention, h: int) -> tuple[Linear, ...]:
    row = c.row
    bias, o_bias = c.flag(row.get("qkv_bias", False)), c.flag(row.get("o_bias", False))
    names = row["qkv"]
    out = Linear(row["o"], a.out_width, h, o_bias, part="attention")
    if len(names) == 1:
        width = a.q_width + a.k_width + a.v_width
        return (Linear(names[0], h, width, bias, part="attention"), out)
    widths = (a.q_width, a.k_width, a.v_width)
    return (
        *(Linear(n, h, w, bias, part="attention") for n, w in zip(names, widths, strict=True)),
        out,
    )


def _intermediate_size(c: Config, h: int) -> int:
    """`intermediate` in the row: a key, or [key, times]: times the hidden size where null."""
    rule = c.row.get("intermediate", "intermediate_size")
    if isinstance(rule, str):
        return c.integer(rule)
    key, times = rule
    return c.integer(key, times * h)


def _dense(c: Config, h: int) -> tuple[Mlp, tuple[Linear, ...], int]:
    row = c.row
    size = _intermediate_size(c, h)
    names = row["mlp"]
    gated = row.get("gated", len(names) == 3)
    bias = c.flag(row.get("mlp_bias", False))
    mlp = Mlp(
        intermediate_size=size,
        gated=gated,
        act=c.text(row.get("act", "hidden_act")),
        fused_gate_up=gated and len(names) == 2,
    )
    up = 2 * size if mlp.fused_gate_up else size
    *ups, down = names
    linears = (*(Linear(n, h, up, bias) for n in ups), Linear(down, size, h, bias))
    return mlp, linears, 0


def _mixture(c: Config, h: int) -> tuple[Mlp, tuple[Linear, ...], int]:
    """Experts are 3-D parameters in Transformers 5, gate and up in one.

    Source: transformers/models/mixtral/modeling_mixtral.py, MixtralExperts.
    """
    row: dict[str, Any] = c.row["moe"]
    experts = c.integer(row.get("num_experts", "num_experts"))
    chosen = c.integer(row.get("per_token", "num_experts_per_tok"))
    if chosen > experts:
        raise c.fail(row.get("per_token", "num_experts_per_tok"), f"is {chosen} of {experts}")
    size = c.integer(row.get("intermediate", "moe_intermediate_size"))
    shared = _shared_size(c, row, size)
    bias = c.flag(row.get("bias", False))
    mlp = Mlp(
        intermediate_size=size,
        gated=True,
        act=c.text(c.row.get("act", "hidden_act")),
        num_experts=experts,
        experts_per_token=chosen,
        shared_intermediate_size=shared,
        fused_gate_up=True,
    )
    up, down = row.get("experts", ("gate_up_proj", "down_proj"))
    router = row.get("router", "gate")
    router_module = row.get("router_module", False)
    router_bias = row.get("router_bias", False)
    linears = [
        Linear(router, h, experts, router_bias, part="router", module=router_module),
        Linear(up, h, 2 * size, bias, count=experts, part="experts", module=False),
        Linear(down, size, h, bias, count=experts, part="experts", module=False),
    ]
    if shared:
        gate, raised, lowered = row.get("shared_names", ("gate_proj", "up_proj", "down_proj"))
        linears += [
            Linear(gate, h, shared, part="shared_expert"),
            Linear(raised, h, shared, part="shared_expert"),
            Linear(lowered, shared, h, part="shared_expert"),
        ]
        if row.get("shared_gate"):
            linears.append(Linear(row["shared_gate"], h, 1, part="shared_expert"))
    return mlp, tuple(linears), 0


def _shared_size(c: Config, row: dict[str, Any], size: int) -> int:
    if "shared_intermediate" in row:
        return c.integer(row["shared_intermediate"], 0, least=0)
    if "num_shared" in row:
        return size * c.integer(row["num_shared"], 0, least=0)
    return 0


def _traits(c: Config) -> tuple[Traits, float, float]:
    """Traits with what the configuration decides; hidden and attention dropout."""
    traits = traits_of(c.model_type)
    row = c.row
    hidden, places = 0.0, 0
    for key, count in row.get("dropouts", {}).items():
        p = c.share(key)
        hidden = max(hidden, p)
        places += count if p > 0 else 0
    attention = c.share(row.get("attention_dropout", "attention_dropout"))
    changes: dict[str, Any] = {}
    for condition, change in row.get("traits_if", ()):
        if c.flag(condition):
            changes.update(change)
    if places:
        changes["residual_dropouts"] = places
    if attention > 0:
        changes["attention_dropout"] = True
    return (replace(traits, **changes) if changes else traits), hidden, attention
