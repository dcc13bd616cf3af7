"""What a model is: its shape, and the tensors that such a shape must have, under the names and in the form we use.

The names are GGUF's, because it has one for everything. The values are as GGUF has them too: norms that a model keeps
as `1 + w` are whole, the decay of a linear attention is `-exp(A_log)`. Heads are in the order of the model's own code:
values of the linear attention are grouped by the key head they belong to. `weights/` brings every file into this form.
"""

from __future__ import annotations

from dataclasses import dataclass

ROPE_FACTORS = "rope_freqs.weight"
"""Llama 3's scaling of the rotary frequencies: divisors, float32[rotary_dims / 2]."""

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20
MAX_KERNEL = 16
"""More layers, a wider one or a longer convolution no model has: a file that says so is damaged."""

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class DeltaSpec:
    """The shape of the gated delta nets of a hybrid model (Yang et al. 2024, arXiv 2412.06464)."""

    key_heads: int
    value_heads: int
    """A multiple of `key_heads`: value head j reads key head j // (value_heads / key_heads)."""
    key_dim: int
    value_dim: int
    kernel: int
    """Tokens that the causal convolution sees, the newest included."""
    interval: int
    """Layer i is one of full attention if (i + 1) is a multiple of it, else a gated delta net."""

    @property
    def channels(self) -> int:
        """Width of the convolution: queries, keys and values side by side."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    @property
    def values(self) -> int:
        """Width of what a layer puts out before its last product."""
        return self.value_heads * self.value_dim


@dataclass(frozen=True)
class ModelSpec:
    """The shape of a decoder: attention in every layer (dense), or in some, and delta nets in the rest (hybrid)."""

    architecture: str
    """llama, qwen3 or qwen35."""
    layers: int
    hidden: int
    feed_forward: int
    query_heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context_tokens: int
    """The longest text the model was trained for."""
    rope_base: float
    norm_epsilon: float
    tied_head: bool
    """The embedding is the head as well."""
    head_norms: bool
    """Queries and keys are normalised head by head (Qwen3)."""
    rotary_halves: bool
    """Rotary pairs are (i, i + rotary_dims / 2) in the rows of queries and keys; else (2i, 2i + 1)."""
    rope_factors: bool
    rotary_dims: int
    """The first so many dimensions of a head are rotated."""
    gated: bool = False
    """Attention is multiplied by a gate that is made with the queries: of each head's rows first query, then gate."""
    delta: DeltaSpec | None = None
    draft_head: bool = False
    """There is a block that predicts one token further (multi-token prediction)."""

    @property
    def group(self) -> int:
        """Query heads that share a key and value head."""
        return self.query_heads // self.kv_heads

    def attends(self, layer: int) -> bool:
        """Whether a layer is one of attention."""
        return self.delta is None or (layer + 1) % self.delta.interval == 0

    @property
    def attention_layers(self) -> int:
        """Layers of attention, the draft head's not counted."""
        return sum(self.attends(layer) for layer in range(self.layers))

    @property
    def delta_layers(self) -> int:
        """Layers of gated delta nets."""
        return self.layers - self.attention_layers

    @property
    def feed_forward_norm(self) -> str:
        """What the norm before the feed-forward network is called."""
        return "post_attention_norm.weight" if self.delta else "ffn_norm.weight"

    def tensors(self) -> Shapes:
        """Every tensor the model consumes, and its shape, outermost dimension first."""
        shapes: Shapes = {
            "token_embd.weight": (self.vocabulary, self.hidden),
            "output_norm.weight": (self.hidden,),
        }
        if not self.tied_head:
            shapes["output.weight"] = (self.vocabulary, self.hidden)
        if self.rope_factors:
            shapes[ROPE_FACTORS] = (self.rotary_dims // 2,)
        for layer in range(self.layers):
            mixer = self._attention() if self.attends(layer) else self._delta_net()
            shapes |= {f"blk.{layer}.{name}": shape for name, shape in (mixer | self._feed_forward()).items()}
        if self.draft_head:
            block = self._attention() | self._feed_forward() | self._draft_head()
            shapes |= {f"blk.{self.layers}.{name}": shape for name, shape in block.items()}
        return shapes

    def _attention(self) -> Shapes:
        query, kv = self.query_heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: Shapes = {
            "attn_norm.weight": (self.hidden,),
            "attn_q.weight": (2 * query if self.gated else query, self.hidden),
            "attn_k.weight": (kv, self.hidden),
            "attn_v.weight": (kv, self.hidden),
            "attn_output.weight": (self.hidden, query),
        }
        if self.head_norms:
            shapes |= {"attn_q_norm.weight": (self.head_dim,), "attn_k_norm.weight": (self.head_dim,)}
        return shapes

    def _delta_net(self) -> Shapes:
        assert self.delta is not None
        delta = self.delta
        return {
            "attn_norm.weight": (self.hidden,),
            "attn_qkv.weight": (delta.channels, self.hidden),
            "attn_gate.weight": (delta.values, self.hidden),
            "ssm_beta.weight": (delta.value_heads, self.hidden),
            "ssm_alpha.weight": (delta.value_heads, self.hidden),
            "ssm_conv1d.weight": (delta.channels, delta.kernel),
            "ssm_dt.bias": (delta.value_heads,),
            "ssm_a": (delta.value_heads,),
            "ssm_norm.weight": (delta.value_dim,),
            "ssm_out.weight": (self.hidden, delta.values),
        }

    def _feed_forward(self) -> Shapes:
        return {
            self.feed_forward_norm: (self.hidden,),
            "ffn_gate.weight": (self.feed_forward, self.hidden),
            "ffn_up.weight": (self.feed_forward, self.hidden),
            "ffn_down.weight": (self.hidden, self.feed_forward),
        }

    def _draft_head(self) -> Shapes:
        return {
            "nextn.eh_proj.weight": (self.hidden, 2 * self.hidden),
            "nextn.enorm.weight": (self.hidden,),
            "nextn.hnorm.weight": (self.hidden,),
            "nextn.shared_head_norm.weight": (self.hidden,),
        }
