"""A short pass of a small Llama model, without what transformers does around it.

Most of such a pass over a few tokens is calls of Python functions and of kernels that hardly
compute: masks, wrappers, norms, a product for each of queries, keys and values
(benchmarks/results.md). Here it is a dozen calls a layer, over matrices laid together once, and the
same keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu
from transformers.cache_utils import Cache

MOST_BYTES = 64 << 20  # of weights: they are in memory twice, and a larger model has work enough
MOST_TOKENS = 32  # of a sequence, in a pass


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """Matrices [in, out], a norm's weights in the one that follows it."""

    qkv: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor


class LeanPass:
    """The passes of one model, on a CPU and in float32."""

    def __init__(self, model: Any, context_tokens: int) -> None:
        config, base = model.config, model.model
        attention = base.layers[0].self_attn
        self._eps: float = config.rms_norm_eps
        self._embed: Tensor = base.embed_tokens.weight
        self._dim: int = attention.head_dim
        self._scale: float = attention.scaling
        self._kv_heads: int = config.num_key_value_heads
        self._groups: int = attention.num_key_value_groups
        # [positions, 1, dim]: x · cos + (x, its halves swapped) · sin turns x by its position.
        cos, sin = base.rotary_emb(self._embed, torch.arange(context_tokens)[None])
        sin = torch.cat((-sin[..., : self._dim // 2], sin[..., self._dim // 2 :]), -1)
        self._cos, self._sin = cos[0, :, None], sin[0, :, None]
        self._layers = [_laid_together(layer) for layer in base.layers]
        self._head = _after(base.norm, model.lm_head)

    def logits(self, ids: Tensor, cache: Cache, keep: int) -> Tensor:
        """Of the last `keep` positions, [batch, keep, V]. ids: [batch, n], n ≤ MOST_TOKENS, no
        row padded; what came before them is in the cache, and so are they then."""
        batch, n = ids.shape
        dim, kv_heads, rows = self._dim, self._kv_heads, batch * n
        before = cache.get_seq_length()
        cos, sin = self._cos[before : before + n], self._sin[before : before + n]
        x, seen = self._embed[ids].view(rows, -1), None
        for index, layer in enumerate(self._layers):
            heads = torch.mm(self._normed(x), layer.qkv).view(batch, n, -1, dim)
            qk, v = heads[:, :, :-kv_heads], heads[:, :, -kv_heads:].transpose(1, 2)
            qk = (qk * cos + qk.roll(dim // 2, -1) * sin).transpose(1, 2)
            keys, values = cache.update(qk[:, -kv_heads:], v, index)
            if n > 1 and seen is None:
                seen = torch.ones(n, keys.shape[2], dtype=torch.bool).tril_(before)
                seen = seen.repeat(self._groups, 1)
            # The queries that share a head's keys go as so many positions: nothing is repeated.
            asked = qk[:, :-kv_heads].reshape(batch, kv_heads, self._groups * n, dim)
            found = scaled_dot_product_attention(asked, keys, values, seen, scale=self._scale)
            found = found.view(batch, -1, n, dim).transpose(1, 2).reshape(rows, -1)
            x = torch.addmm(x, found, layer.out)
            gate, up = torch.mm(self._normed(x), layer.gate_up).chunk(2, -1)
            x = torch.addmm(x, silu(gate).mul_(up), layer.down)
        last = x.view(batch, n, -1)[:, -keep:].reshape(batch * keep, -1)
        return torch.mm(self._normed(last), self._head).view(batch, keep, -1)

    def _normed(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self._eps).rsqrt_()


def lean_pass(model: Any, context_tokens: int) -> LeanPass | None:
    """None where the model is another, or a larger one."""
    config: Any = model.config
    if config.model_type != "llama":
        return None
    from transformers import LlamaForCausalLM  # loaded by now; earlier, it brings torch's compiler

    if type(model) is not LlamaForCausalLM:
        return None
    weights = list(model.parameters())
    is_plain = (
        config.hidden_act == "silu"
        and not config.attention_bias
        and not config.mlp_bias
        and config.rope_parameters["rope_type"] == "default"
        # Of a model that is spread over a disk, what lies there has no numbers here.
        and all(type(w) is nn.Parameter and w.device.type == "cpu" for w in weights)
        and all(w.dtype == torch.float32 for w in weights)
        and sum(w.nbytes for w in weights) <= MOST_BYTES
    )
    return LeanPass(model, context_tokens) if is_plain else None


def _laid_together(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        _after(layer.input_layernorm, attention.q_proj, attention.k_proj, attention.v_proj),
        attention.o_proj.weight.T,
        _after(layer.post_attention_layernorm, mlp.gate_proj, mlp.up_proj),
        mlp.down_proj.weight.T,
    )


def _after(norm: Any, *linears: Any) -> Tensor:
    together: Tensor = torch.cat([linear.weight for linear in linears]) * norm.weight
    return together.T
