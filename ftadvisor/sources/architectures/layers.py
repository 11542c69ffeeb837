"""The layer of a stack that one row of data/architectures.json describes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypedDict, Unpack, cast

from ftadvisor.schema.model import Attention, Block, Linear, Mlp, Traits
from ftadvisor.sources.architectures.config import Config, traits_of
from ftadvisor.sources.architectures.feedforward import dense, mixture
from ftadvisor.sources.architectures.kinds import Kind, kinds_of, label
from ftadvisor.sources.architectures.latent import latent_attention, latent_linears


class BlockFields(TypedDict, total=False):
    """Fields of Block that a layout adds to what the row's layers say."""

    other_params: int
    stream: Literal["text", "image", "source"]
    shared: bool


def stack(
    c: Config,
    name: str = "layers",
    more_linears: tuple[Linear, ...] = (),
    **more: Unpack[BlockFields],
) -> tuple[Block, ...]:
    """The blocks of a stack: one for each kind of layer in it, in order of first appearance.

    `more_linears` are matrices of attention beside the usual four; `more`, other fields of Block.

    Raises DataFileError for a value that cannot be right, UnsupportedError for a kind of layer
    that is no attention.
    """
    depth = c.integer("num_hidden_layers")
    kinds = kinds_of(c, depth)
    shared = _Shared(c, more_linears, more)
    if len(kinds) == 1:
        return (shared.block(name, depth, next(iter(kinds))),)
    return tuple(
        shared.block(f"{name}.{label(kind, kinds)}", count, kind) for kind, count in kinds.items()
    )


class _Shared:
    """What all layers of a stack have in common, read once."""

    def __init__(self, c: Config, more_linears: tuple[Linear, ...], more: BlockFields) -> None:
        self.c = c
        self.more = more
        self.hidden_size = c.integer("hidden_size")
        latent = "mla" in c.row
        self.attention = latent_attention(c) if latent else _attention(c)
        linears = latent_linears if latent else _attention_linears
        self.attention_linears = linears(c, self.attention, self.hidden_size) + more_linears
        self.traits, self.hidden_dropout, self.attention_dropout = _traits(c)

    def block(self, name: str, depth: int, kind: Kind) -> Block:
        c, row = self.c, self.c.row
        h = self.hidden_size
        read = mixture if kind.sparse else dense
        mlp, mlp_linears = read(c, h)
        attention = self.attention
        if kind.window is not None:
            attention = replace(attention, sliding_window=kind.window)
        traits = with_act(self.traits, mlp)
        if not kind.sparse and traits.moe != "none":
            traits = replace(traits, moe="none", shared_expert_gate=False)
        extras = _attention_extras(c, attention)
        return Block(
            name=name,
            num_layers=depth,
            hidden_size=h,
            linears=self.attention_linears + mlp_linears,
            attention=attention,
            mlp=mlp,
            norm=norm_kind(row),
            norm_widths=(h,) * num_norms(c) + _inner_norm_widths(c, attention),
            norm_bias=norm_bias(c),
            parallel=traits.place in ("parallel", "parallel2"),
            hidden_dropout=self.hidden_dropout,
            attention_dropout=self.attention_dropout,
            traits=traits,
            stream=self.more.get("stream", "text"),
            shared=self.more.get("shared", False),
            other_params=self.more.get("other_params", 0) + extras,
        )


def with_act(traits: Traits, mlp: Mlp) -> Traits:
    """Traits with what the activation's implementation keeps.

    Source: transformers/activations.py: gelu_new and gelu_fast are Python operations, relu keeps
    its output, the others are one kernel that keeps its input.
    """
    if mlp.act in ("gelu_new", "gelu_fast"):
        return replace(traits, act="gelu_new")
    return replace(traits, act="relu") if mlp.act == "relu" and not mlp.gated else traits


def norm_kind(row: dict[str, Any]) -> Literal["rms", "layer", "none"]:
    """The kind of norm, as parameters count it."""
    norm = row.get("traits", {}).get("norm", "rms")
    if norm == "ln_np":
        return "none"
    return "rms" if norm.startswith("rms") else "layer"


def norm_bias(c: Config) -> bool:
    """Whether the norms of the stack have a bias."""
    row = c.row
    return c.flag(row.get("norm_bias", row.get("traits", {}).get("norm") == "ln"))


def num_norms(c: Config) -> int:
    """Norms of a layer over the hidden size that have weights."""
    return first_true(c, c.row.get("norms", 2))


def first_true(c: Config, rule: Any) -> Any:
    """A fact of the row, or the value of the first true one of [condition, value] pairs."""
    if not isinstance(rule, list):
        return rule
    pairs = cast("list[list[Any]]", rule)
    return next(value for condition, value in pairs if c.flag(condition))


def _head_dim(c: Config) -> int:
    head_dim = c.optional("head_dim")
    return head_dim if head_dim is not None else c.ratio("hidden_size", "num_attention_heads")


def _kv_heads(c: Config, heads: int) -> int:
    """`kv_heads` in the row: a key or a number."""
    rule = first_true(c, c.row.get("kv_heads", "num_key_value_heads"))
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
    if "half" in rotary:
        return head_dim // 2
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
        fused_qkv=len(row["qkv"]) == 1 and row.get("views_alive", True),
        score_softcap="score_softcap" in row and bool(c.get(row["score_softcap"])),
        sinks=row.get("sinks", False),
    )


def _inner_norm_widths(c: Config, a: Attention) -> tuple[int, ...]:
    """Norms inside attention whose bias is like that of the layer's own norms."""
    if a.latent_dim:
        return (a.q_latent_dim, a.latent_dim) if a.q_latent_dim else (a.latent_dim,)
    form = c.row.get("qk_norm_weights", a.qk_norm)
    if form == "full":
        return (a.q_width, a.k_width)
    return (a.head_dim, a.head_dim) if form == "head" and a.qk_norm != "none" else ()


def _attention_extras(c: Config, a: Attention) -> int:
    """Sinks, and q and k norms with one weight vector per head and no bias (StableLM)."""
    per_head = c.row.get("qk_norm_weights") == "per_head" and a.qk_norm != "none"
    return (a.num_heads if a.sinks else 0) + (a.q_width + a.k_width if per_head else 0)


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
