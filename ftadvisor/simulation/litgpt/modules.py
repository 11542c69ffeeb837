"""litgpt's decoder, in its own order of operations: litgpt 0.2.0, litgpt/model.py.

Where it differs from Transformers' in what it keeps: one matrix puts out q, k and v, and v stays a
view of it; the rotated part of a head is joined to the rest by torch.cat, even to an empty rest;
fewer key than query heads are copied to all of them before the kernel; gate and up are apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from ftadvisor.schema.model import Block, ModelSpec
from ftadvisor.simulation.stack import torch

Role = Literal["qkv", "proj", "mlp", "head"]
Linears = Callable[[Role, int, int, bool], Any]
"""Role, columns, rows and whether there is a bias, to the module that stands there."""
Module: Any = torch.nn.Module
functional: Any = torch.nn.functional


class Parts(NamedTuple):
    """What a technique and a release put into a layer's places."""

    linear: Linears
    norm: Callable[[], Any]


class Prompt(NamedTuple):
    """LLaMA-Adapter's: vectors in front of the keys of all layers from one on."""

    length: int
    first_layer: int


class Rms(Module):
    """Root mean square norm in fp32 (RMSNorm of litgpt/model.py, of lit_gpt/rmsnorm.py before).

    `weighs_fp32`: its weight is multiplied in fp32 too.
    """

    def __init__(self, width: int, weighs_fp32: bool) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.weighs_fp32 = weighs_fp32
        self.weight = torch.nn.Parameter(torch.ones(width))

    def forward(self, x: Any) -> Any:
        """A norm."""
        dtype = x.dtype
        x = x.float()
        mean = torch.mean(x * x, dim=-1, keepdim=True)
        normed = x * torch.rsqrt(mean + 1e-6)
        if self.weighs_fp32:
            return (self.weight * normed).to(dtype=dtype)
        return normed.to(dtype=dtype) * self.weight


class Attention(Module):
    """Causal self-attention, with LLaMA-Adapter's second attention to a prompt."""

    def __init__(self, block: Block, parts: Parts, prompt_length: int) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        a = block.attention
        biases = [linear.bias for linear in block.linears if linear.part == "attention"]
        self.shape = a
        width = a.q_width + a.k_width + a.v_width
        self.attn = parts.linear("qkv", block.hidden_size, width, biases[0])
        self.proj = parts.linear("proj", a.out_width, block.hidden_size, biases[-1])
        self.prompt_length = prompt_length
        if prompt_length:
            self.adapter_wte = torch.nn.Embedding(prompt_length, block.hidden_size)
            self.gating_factor = torch.nn.Parameter(torch.zeros(1, 1, a.num_heads, 1))

    def forward(self, x: Any, cos: Any, sin: Any) -> Any:
        """Batch, tokens, width; the same again."""
        batch, length, _ = x.shape
        a = self.shape
        each = a.num_heads // a.num_kv_heads
        q, k, v = self._split(self.attn(x))
        if each > 1:
            # Shared heads are expanded; reshape copies them wherever there are several groups.
            wide = (batch, a.num_kv_heads, each, length, a.head_dim)
            k, v = k.expand(wide), v.expand(wide)
        q, k, v = (t.reshape(batch, -1, length, a.head_dim) for t in (q, k, v))
        q, k = (
            torch.cat((rotated(t[..., : a.rotary_dim], cos, sin), t[..., a.rotary_dim :]), dim=-1)
            for t in (q, k)
        )
        y = self._attend(q, k, v, None)
        if self.prompt_length:
            y = y + self.gating_factor * self._to_prompt(q)
        return self.proj(y.reshape(batch, length, a.out_width))

    def _split(self, qkv: Any) -> Any:
        a = self.shape
        each = a.num_heads // a.num_kv_heads
        qkv = qkv.view(*qkv.shape[:2], a.num_kv_heads, each + 2, a.head_dim)
        return qkv.permute(0, 2, 3, 1, 4).split((each, 1, 1), dim=2)

    def _to_prompt(self, q: Any) -> Any:
        """litgpt/adapter.py, CausalSelfAttention.scaled_dot_product_attention.

        Its cache of the prompt's keys and values, filled by the first evaluation in releases from
        the end of 2023 on, is left out: it is a few KiB a layer.
        """
        a = self.shape
        prefix = self.adapter_wte.weight.reshape(1, self.prompt_length, -1)
        _, k, v = self._split(self.attn(prefix))
        if a.num_kv_heads > 1:
            each = a.num_heads // a.num_kv_heads
            k, v = (t.repeat_interleave(each, dim=2) for t in (k, v))
        k, v = (t.reshape(1, -1, self.prompt_length, a.head_dim) for t in (k, v))
        mask = torch.ones(q.size(2), self.prompt_length, dtype=torch.bool, device=q.device)
        return self._attend(q, k, v, mask)

    def _attend(self, q: Any, k: Any, v: Any, mask: Any) -> Any:
        scale = 1.0 / math.sqrt(self.shape.head_dim)
        y = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=0.0, scale=scale, is_causal=mask is None
        )
        return y.transpose(1, 2)


def rotated(x: Any, cos: Any, sin: Any) -> Any:
    """litgpt/model.py, apply_rope."""
    half = x.size(-1) // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return ((x * cos) + (turned * sin)).to(dtype=x.dtype)


class Mlp(Module):
    """GptNeoxMLP; LLaMAMLP and GemmaMLP, whose gate and up are two matrices."""

    def __init__(self, block: Block, parts: Parts) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        width, inner = block.hidden_size, block.mlp.intermediate_size
        bias = any(linear.bias for linear in block.linears if linear.part == "mlp")
        self.silu = block.mlp.act == "silu"
        self.fc_1 = parts.linear("mlp", width, inner, bias)
        self.fc_2 = parts.linear("mlp", width, inner, bias) if block.mlp.gated else None
        self.proj = parts.linear("mlp", inner, width, bias)

    def forward(self, x: Any) -> Any:
        """Width to width."""
        first = self.fc_1(x)
        second = None if self.fc_2 is None else self.fc_2(x)
        # One kernel for either GELU, which keeps its input.
        x = functional.silu(first) if self.silu else functional.gelu(first)
        return self.proj(x if second is None else x * second)


class Layer(Module):
    """litgpt/model.py, Block."""

    def __init__(self, block: Block, parts: Parts, prompt_length: int) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.parallel = block.parallel
        self.norm_1 = parts.norm()
        self.attn = Attention(block, parts, prompt_length)
        self.norm_2: Any = parts.norm() if len(block.norm_widths) > 1 else None
        self.mlp = Mlp(block, parts)

    def forward(self, x: Any, cos: Any, sin: Any) -> Any:
        """Batch, tokens, width; the same again."""
        normed = self.norm_1(x)
        h = self.attn(normed, cos, sin)
        if self.parallel:
            second = normed if self.norm_2 is None else self.norm_2(x)
            return self.mlp(second) + h + x
        x = h + x
        return self.mlp(self.norm_2(x)) + x


class Decoder(Module):
    """litgpt/model.py, GPT: embeddings and head are never tied."""

    def __init__(
        self, spec: ModelSpec, config: Any, num_layers: int, parts: Parts, prompt: Prompt | None
    ) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        block = spec.blocks[0]
        self.config = config
        self.scale = spec.hidden_size**0.5 if spec.embedding_scale else None
        self.lm_head = parts.linear("head", spec.hidden_size, spec.vocab_size, spec.lm_head_bias)
        lengths = [
            prompt.length if prompt is not None and at >= prompt.first_layer else 0
            for at in range(num_layers)
        ]
        self.transformer = torch.nn.Module()
        self.transformer.wte = torch.nn.Embedding(spec.vocab_size, spec.hidden_size)
        self.transformer.h = torch.nn.ModuleList([Layer(block, parts, n) for n in lengths])
        self.transformer.ln_f = parts.norm()

    def add_rotations(self, length: int, width: int) -> None:
        """The table of rotations, in fp32: fit() sets max_seq_length to the longest sample, which
        makes it anew after the model was converted (GPT.max_seq_length).
        """
        for name in ("cos", "sin"):
            self.register_buffer(name, torch.empty(length, width), persistent=False)

    def forward(self, ids: Any, chunk: int) -> list[Any]:
        """Logits in pieces of `chunk` tokens; 0: in one."""
        cos, sin = self.cos[: ids.size(1)], self.sin[: ids.size(1)]
        x = self.transformer.wte(ids)
        if self.scale is not None:
            x = x * self.scale
        for layer in self.transformer.h:
            x = layer(x, cos, sin)
        x = self.transformer.ln_f(x)
        return [self.lm_head(part) for part in (x.split(chunk, dim=1) if chunk else (x,))]
