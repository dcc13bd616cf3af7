"""What a model is: its shape, read from the metadata of its file, and the tensors that such a shape must have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from engine.errors import ModelFileError
from engine.weights.gguf import GGUFFile

ARCHITECTURES = ("llama", "qwen3")
ROPE_FACTORS = "rope_freqs.weight"
"""Llama 3's scaling of the rotary frequencies arrives as a tensor of divisors, float32[head_dim / 2]."""
MAX_LAYERS = 1024
MAX_WIDTH = 1 << 20


@dataclass(frozen=True)
class ModelSpec:
    """The shape of a dense transformer with grouped-query attention and a gated feed-forward network."""

    architecture: str
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
    """Rotary pairs are (i, i + head_dim / 2) in the file's rows of queries and keys; else (2i, 2i + 1)."""
    rope_factors: bool

    @property
    def group(self) -> int:
        """Query heads that share a key and value head."""
        return self.query_heads // self.kv_heads

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> ModelSpec:
        """Read the shape and check that the file's tensors are those of the shape, no more and no fewer.

        Raises:
            ModelFileError: The architecture is unknown, a number is missing or absurd, or a tensor is missing, left
                over, or of another shape.
        """
        architecture = file.require("general.architecture", str)
        if architecture not in ARCHITECTURES:
            _refuse(file, f"its architecture is {architecture}, and this engine runs {' and '.join(ARCHITECTURES)}")
        scaling = file.get(f"{architecture}.rope.scaling.type", str)
        if scaling not in (None, "none"):
            _refuse(file, f"its rotary positions are scaled by {scaling!r}, which this engine does not do")
        read = _Numbers(file, architecture)
        hidden = read.count("embedding_length")
        query_heads = read.count("attention.head_count")
        head_dim = read.count("attention.key_length", hidden // query_heads)
        if "token_embd.weight" not in file.tensors:
            _refuse(file, "it lacks the tensor token_embd.weight")
        spec = cls(
            architecture=architecture,
            layers=read.count("block_count", most=MAX_LAYERS),
            hidden=hidden,
            feed_forward=read.count("feed_forward_length"),
            query_heads=query_heads,
            kv_heads=read.count("attention.head_count_kv", query_heads),
            head_dim=head_dim,
            vocabulary=file.tensors["token_embd.weight"].shape[0],
            context_tokens=read.count("context_length"),
            rope_base=file.get(f"{architecture}.rope.freq_base", float) or 10000.0,
            norm_epsilon=file.require(f"{architecture}.attention.layer_norm_rms_epsilon", float),
            tied_head="output.weight" not in file.tensors,
            head_norms=architecture == "qwen3",
            rotary_halves=architecture == "qwen3",
            rope_factors=ROPE_FACTORS in file.tensors,
        )
        if spec.query_heads % spec.kv_heads or spec.head_dim % 2:
            _refuse(file, f"{spec.query_heads} query heads of {spec.head_dim} do not share {spec.kv_heads} kv heads")
        if (
            read.count("rope.dimension_count", head_dim) != head_dim
            or read.count("attention.value_length", head_dim) != head_dim
        ):
            _refuse(file, "it rotates a part of each head, or its values are wider than its keys")
        spec.check_tensors(file)
        return spec

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor the model consumes, and its shape, outermost dimension first."""
        query, kv = self.query_heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "token_embd.weight": (self.vocabulary, self.hidden),
            "output_norm.weight": (self.hidden,),
        }
        if not self.tied_head:
            shapes["output.weight"] = (self.vocabulary, self.hidden)
        if self.rope_factors:
            shapes[ROPE_FACTORS] = (self.head_dim // 2,)
        for layer in range(self.layers):
            block: dict[str, tuple[int, ...]] = {
                "attn_norm": (self.hidden,),
                "attn_q": (query, self.hidden),
                "attn_k": (kv, self.hidden),
                "attn_v": (kv, self.hidden),
                "attn_output": (self.hidden, query),
                "ffn_norm": (self.hidden,),
                "ffn_gate": (self.feed_forward, self.hidden),
                "ffn_up": (self.feed_forward, self.hidden),
                "ffn_down": (self.hidden, self.feed_forward),
            }
            if self.head_norms:
                block |= {"attn_q_norm": (self.head_dim,), "attn_k_norm": (self.head_dim,)}
            shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
        return shapes

    def check_tensors(self, file: GGUFFile) -> None:
        """Refuse a file with a tensor that is missing, of another shape, or that nothing would consume."""
        wanted = self.tensors()
        for name, shape in wanted.items():
            if name not in file.tensors:
                _refuse(file, f"it lacks the tensor {name}")
            if file.tensors[name].shape != shape:
                _refuse(file, f"the tensor {name} has the shape {file.tensors[name].shape} instead of {shape}")
        left_over = next((name for name in file.tensors if name not in wanted), None)
        if left_over is not None:
            _refuse(file, f"nothing in a {self.architecture} model uses its tensor {left_over}")


class _Numbers:
    def __init__(self, file: GGUFFile, architecture: str) -> None:
        self._file, self._prefix = file, architecture

    def count(self, key: str, default: int | None = None, most: int = MAX_WIDTH) -> int:
        name = f"{self._prefix}.{key}"
        read: Callable[[str, type[int]], int | None] = self._file.require if default is None else self._file.get
        number = read(name, int)
        number = default if number is None else number
        if number is None or not 0 < number <= most:
            _refuse(self._file, f"{name} is {number}, which no model has")
        return number


def _refuse(file: GGUFFile, why: str) -> NoReturn:
    raise ModelFileError(f"the model {file.path} can't be run", why, "Choose another model: backtalk models list")
