"""The anatomy of a model: what its config.json says, as blocks of identical layers.

Everything else (parameters, activations, FLOPs, adapters) is a sum over these blocks, so a model
that the estimator has never seen is described here once and needs no other code.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Part = Literal["attention", "cross_attention", "mlp", "experts", "shared_expert", "router"]
NormKind = Literal["rms", "layer", "none"]
NormCode = Literal["rms", "rms1p", "rms_out", "rms_t5", "ln", "ln_np", "ln_cohere"]
Stream = Literal["text", "image", "source"]
Family = Literal["decoder", "encoder", "encdec", "vlm"]


@dataclass(frozen=True, slots=True)
class Linear:
    """One weight matrix of a layer, under the name that `target_modules` matches."""

    name: str
    in_features: int
    out_features: int
    bias: bool = False
    count: int = 1
    """Copies in one layer: the experts of a mixture."""
    part: Part = "mlp"
    module: bool = True
    """False: neither bitsandbytes nor `target_modules` takes it: a bare parameter (the grouped
    experts of Transformers 5), or a router that puts out more than its logits (Llama 4's)."""

    @property
    def num_weights(self) -> int:
        """Elements of the matrix, all copies, without the bias."""
        return self.in_features * self.out_features * self.count

    @property
    def num_params(self) -> int:
        """Elements of the matrix and its bias, all copies."""
        return self.num_weights + (self.out_features * self.count if self.bias else 0)


@dataclass(frozen=True, slots=True)
class Attention:
    """Shapes of one attention sub-block; widths in features, as config.json gives them."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    sliding_window: int | None = None
    """Keys that a query can see; None: all of them."""
    causal: bool = True
    position: Literal["rope", "learned", "alibi", "relative", "none"] = "rope"
    rotary_dim: int = 0
    """Leading features of a head that are rotated; 0: none."""
    qk_norm: Literal["none", "head", "full"] = "none"
    """`head`: a norm over each head; `full`: one norm over the whole projection."""
    fused_qkv: bool = False
    """One matrix puts out q, k and v (their views keep the whole output alive)."""
    score_softcap: bool = False
    """Scores pass through tanh, which only the eager implementation can do in training."""
    latent_dim: int = 0
    """Multi-head latent attention: width of the compressed keys and values; 0: none."""
    q_latent_dim: int = 0
    scored_positions: int = 0
    """Relative positions that each token is scored against besides the keys, of all kinds
    together (DeBERTa)."""
    sinks: bool = False
    """A learned extra logit per head in the softmax (gpt-oss)."""

    @property
    def q_width(self) -> int:
        """Features of all queries of a token."""
        return self.num_heads * self.head_dim

    @property
    def k_width(self) -> int:
        """Features of all keys of a token."""
        return self.num_kv_heads * self.head_dim

    @property
    def v_width(self) -> int:
        """Features of all values of a token."""
        return self.num_kv_heads * self.v_head_dim

    @property
    def out_width(self) -> int:
        """Features that the output projection reads."""
        return self.num_heads * self.v_head_dim


@dataclass(frozen=True, slots=True)
class Mlp:
    """Feed-forward sub-block. For a mixture of experts, `intermediate_size` is one expert's."""

    intermediate_size: int
    gated: bool
    act: str
    num_experts: int = 0
    """0: dense."""
    experts_per_token: int = 0
    shared_intermediate_size: int = 0
    """Width of the experts that every token passes; 0: none."""
    fused_gate_up: bool = False
    """One matrix puts out gate and up."""


@dataclass(frozen=True, slots=True)
class Traits:
    """How the modelling code writes a layer, where that decides which tensors autograd keeps.

    Read in transformers/models/<model_type>/modeling_<model_type>.py; `data/architectures.json` has
    them by model type.
    """

    norm: NormCode = "rms"
    """rms: weight * x.to(dtype) (Llama); rms_t5: the same, but x is multiplied in its own dtype and
    so kept besides its fp32 copy; rms1p: ((1 + weight) * x_fp32).to(dtype) (Gemma); rms_out:
    (weight * x_fp32).to(dtype) (OLMo 2); ln: nn.LayerNorm; ln_np: layer_norm without weight on
    x.float() (OLMo); ln_cohere: mean and variance in Python."""
    place: Literal["pre", "parallel", "parallel2", "sandwich", "post_out", "post"] = "pre"
    """pre: two norms before; parallel: one norm feeds attention and MLP; parallel2: two norms of
    one input; sandwich: before and after (Gemma 2); post_out: on the sub-layers' outputs (OLMo 2);
    post: after the sum (BERT)."""
    rope: Literal["none", "full", "cat"] = "full"
    """cat: rotated and passed features are joined by torch.cat (partial rotary)."""
    act: Literal["std", "gelu_new", "relu"] = "std"
    """std keeps its input, gelu_new four Python operations, relu its output."""
    residual_dropouts: int = 0
    """Dropouts of probability above 0 on the residual stream, per layer."""
    mlp_dropouts: int = 0
    """Dropouts of probability above 0 on the activated width of the feed-forward part, per layer:
    each keeps a mask, and its output is what the down projection reads (T5)."""
    attention_dropout: bool = False
    always_mask: bool = False
    """The mask is always built, so SDPA takes its memory-efficient kernel (Falcon)."""
    alibi_mask: bool = False
    """ALiBi's slopes are added to a mask, which so has every head's own rows (Falcon)."""
    broadcasts_heads: bool = False
    """A single head of keys meets all queries' heads unexpanded, which no fused kernel takes: SDPA
    forms the scores (Falcon; sdp_utils_cpp.h, check_batch_size_and_num_heads_dense)."""
    softmax: Literal["fp32", "native", "stated"] = "fp32"
    """Eager attention: softmax in fp32; in the scores' dtype; or stated to be, which autocast
    leaves alone (gpt-oss: F.softmax with dtype)."""
    upcast_qk: bool = False
    """q and k are held in fp32 in eager attention (GPT-J, GPT-Neo)."""
    moe: Literal["none", "mixtral", "qwen"] = "none"
    """Routing weights: fp32 and normalised, or cast to the hidden dtype."""
    shared_expert_gate: bool = False
    own_linears: bool = False
    """All matrices are of a class derived from nn.Linear (Falcon)."""
    unquantized: tuple[str, ...] = ()
    """Matrices that bitsandbytes leaves as they are (T5, _keep_in_fp32_modules)."""
    splits_experts: bool = False
    """Under bitsandbytes the experts become linear layers (Llama 4)."""


@dataclass(frozen=True, slots=True)
class Block:
    """A stack of `num_layers` identical layers."""

    name: str
    num_layers: int
    hidden_size: int
    linears: tuple[Linear, ...]
    attention: Attention
    mlp: Mlp
    norm: NormKind
    norm_widths: tuple[int, ...]
    """Width of each norm of a layer; norms over q and k heads count with the head's width."""
    norm_bias: bool
    parallel: bool = False
    """Attention and MLP read the same input, their outputs are added once."""
    cross_attention: bool = False
    """The layer has a second attention over an encoder's output."""
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    other_params: int = 0
    """Parameters per layer that are neither linears nor norms: bias tables, router bias, sinks."""
    stream: Stream = "text"
    """Which tokens pass: the text, an image's patches, or the encoder's source sequence."""
    shared: bool = False
    """All layers use one set of weights (ALBERT)."""
    traits: Traits = Traits()

    num_params_per_layer: int = field(init=False)
    num_linear_weights: int = field(init=False)
    """Matrix elements of all layers."""
    num_bare_weights: int = field(init=False)
    """Those of them that are no module's of the usual kind."""
    mlp_bias: bool = field(init=False)
    """The feed-forward part's matrices have one."""
    widest_matrix: int = field(init=False)
    """Elements of a layer's largest matrix, one expert's of a mixture."""
    shapes: tuple[tuple[int, float], ...] = field(init=False)
    """Elements of a layer's matrices of one size, all copies of one together, and what share of the
    layer's weights those of that size are."""
    num_params: int = field(init=False)
    """Of all layers."""
    num_active_weights: float = field(init=False)
    """Matrix elements of one layer that a token is multiplied with: of experts, those that it is
    routed to."""

    def __post_init__(self) -> None:
        # Sums that every estimate reads many times are formed once.
        norms = sum(self.norm_widths) * (2 if self.norm_bias else 1)
        per_layer = sum(x.num_params for x in self.linears) + norms + self.other_params
        layers = 1 if self.shared else self.num_layers
        weights = layers * sum(x.num_weights for x in self.linears)
        object.__setattr__(self, "num_params_per_layer", per_layer)
        bare = layers * sum(x.num_weights for x in self.linears if not x.module)
        object.__setattr__(self, "num_linear_weights", weights)
        object.__setattr__(self, "num_bare_weights", bare)
        widest = max((x.in_features * x.out_features for x in self.linears), default=0)
        object.__setattr__(self, "widest_matrix", widest)
        biased = any(x.bias for x in self.linears if x.part == "mlp")
        object.__setattr__(self, "mlp_bias", biased)
        together = Counter[int]()
        for x in self.linears:
            together[x.num_weights] += x.num_weights
        shapes = tuple((size, n / together.total()) for size, n in together.items())
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "num_params", per_layer * layers)
        routed = self.mlp.experts_per_token / max(self.mlp.num_experts, 1)
        active = sum(x.num_weights * (routed if x.part == "experts" else 1) for x in self.linears)
        object.__setattr__(self, "num_active_weights", float(active))


class LayerKernels(NamedTuple):
    """Kernels that one layer launches, (forward, backward); `data/kernels.json` has the counts."""

    trained: tuple[float, float]
    """Weights in half precision, or all in fp32."""
    mixed: tuple[float, float]
    """fp32 weights under autocast, which casts each."""
    frozen: tuple[float, float]
    """No weight has a gradient."""


LLAMA_KERNELS = LayerKernels((43, 74), (53, 90), (44, 63))


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as the estimator sees it."""

    id: str
    model_type: str
    family: Family
    hidden_size: int
    vocab_size: int
    tie_word_embeddings: bool
    max_position_embeddings: int
    """Longest sequence that the configuration allows [tokens]; 0: no limit stated."""
    blocks: tuple[Block, ...]
    embedding_width: int
    """Features of a token embedding (the hidden size unless it is factorised)."""
    num_other_embedding_params: int
    """Position and type embeddings, projections of a factorised embedding."""
    final_norm: NormKind
    num_other_params: int
    """Outside layers, embeddings and head: final norms, poolers, projectors, patch embeddings."""
    lm_head_bias: bool = False
    final_softcap: bool = False
    embedding_scale: bool = False
    """Embeddings are multiplied by a constant: one more copy (Gemma, Granite)."""
    embedding_norm: bool = False
    """A norm follows the embedding (BERT, BLOOM)."""
    image_tokens: int = 0
    """Tokens that one image takes in the text, by default."""
    num_image_params: int = 0
    """Of the vision tower and what joins it to the text: without an image they have no gradient."""
    num_image_weights: int = 0
    """Elements of the tower's matrices, a part of them."""
    image_patches: int = 0
    """Tokens that one image takes in the vision tower, all its pieces."""
    image_crops: int = 1
    """Pieces that one image is cut into; a patch attends to those of its own piece."""
    supports_sdpa: bool = True
    """False: Transformers runs the type eagerly unless flash attention is asked for."""
    supports_flash_attention: bool = True
    dense_classifier: bool = False
    """A classifier of sequences has a square matrix of the hidden size before its scores."""
    num_causal_masks: int = 0
    """Buffers of one byte for each pair of positions (GPT-Neo: one a layer)."""
    remote_code: bool = False
    """The modelling code is the publisher's own, not Transformers'."""
    kernels: LayerKernels = LLAMA_KERNELS
    """Llama's where the type's own are not counted."""

    num_linear_weights: int = field(init=False)
    """Matrix elements inside the layers."""
    num_bare_weights: int = field(init=False)
    """Those of them that are no module's: what bitsandbytes does not quantise."""
    layer_norm: bool = field(init=False)
    """The text's layers have torch's own LayerNorm, which autocast runs in fp32."""
    num_params: int = field(init=False)
    """All parameters, as Transformers counts them (tied weights once)."""

    def __post_init__(self) -> None:
        weights = sum(block.num_linear_weights for block in self.blocks)
        params = (
            self.num_embedding_params
            + self.num_head_params
            + self.num_other_embedding_params
            + self.num_other_params
            + sum(block.num_params for block in self.blocks)
        )
        bare = sum(block.num_bare_weights for block in self.blocks)
        object.__setattr__(self, "num_linear_weights", weights)
        own = any(b.traits.norm == "ln" and b.stream != "image" for b in self.blocks)
        object.__setattr__(self, "num_bare_weights", bare)
        object.__setattr__(self, "layer_norm", own)
        object.__setattr__(self, "num_params", params)

    @property
    def num_layers(self) -> int:
        """Layers of the text stack (decoder, or encoder where there is no decoder)."""
        return sum(b.num_layers for b in self.blocks if b.stream == "text")

    @property
    def buffer_bytes(self) -> int:
        """What the model holds besides its parameters [bytes]."""
        return self.num_causal_masks * self.max_position_embeddings**2

    @property
    def num_embedding_params(self) -> int:
        """The token embedding matrix."""
        return self.vocab_size * self.embedding_width

    @property
    def num_head_params(self) -> int:
        """The language-model head's own parameters; none when tied to the embedding."""
        matrix = 0 if self.tie_word_embeddings else self.vocab_size * self.embedding_width
        return matrix + (self.vocab_size if self.lm_head_bias else 0)
