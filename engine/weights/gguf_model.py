"""A GGUF file as a model: its shape from the metadata, its tensors checked and in our form."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import NoReturn

from engine.chat import ChatTemplate
from engine.errors import ModelFileError
from engine.spec import MAX_KERNEL, MAX_LAYERS, MAX_WIDTH, ROPE_FACTORS, DeltaSpec, ModelSpec
from engine.tokenizer import Tokenizer
from engine.weights.checkpoint import Checkpoint, WeightTensor
from engine.weights.gguf import GGUFFile
from engine.weights.value_heads import regrouped

ARCHITECTURES = ("llama", "qwen3", "qwen35")
_UNKNOWN = ("attention.scale", "embedding_scale", "logit_scale", "residual_scale", "rope.scale_linear")
"""Settings of relatives of these models. They change the computation, and the engine does not know them."""


def open_gguf(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a GGUF file.

    Raises:
        ModelFileError: The file is damaged, of a kind the engine can't run, or its tensors are not those of its shape.
    """
    file = GGUFFile.open(path)
    spec = read_spec(file)
    tokenizer = Tokenizer.from_gguf(file)
    if tokenizer.size != spec.vocabulary:
        _refuse(file, f"its vocabulary has {tokenizer.size} tokens, and its embedding {spec.vocabulary}")

    def digest() -> str:
        found = hashlib.blake2b(digest_size=16)
        for name in sorted(file.tensors):
            found.update(f"{name} {file.tensors[name].quant} {file.tensors[name].shape};".encode())
            found.update(file.tensors[name].blocks.data)
        return found.hexdigest()

    return Checkpoint(
        str(path), spec, _tensors(file, spec), tokenizer, lambda: ChatTemplate.from_gguf(file, tokenizer), digest
    )


def read_spec(file: GGUFFile) -> ModelSpec:
    """The shape that a file's metadata tell.

    Raises:
        ModelFileError: The architecture is unknown, or a number is missing or absurd.
    """
    architecture = file.require("general.architecture", str)
    if architecture not in ARCHITECTURES:
        _refuse(file, f"its architecture is {architecture}, and this engine runs {', '.join(ARCHITECTURES)}")
    scaling = file.get(f"{architecture}.rope.scaling.type", str)
    if scaling not in (None, "none"):
        _refuse(file, f"its rotary positions are scaled by {scaling!r}, which this engine does not do")
    unknown = next((key for key in _UNKNOWN if f"{architecture}.{key}" in file.metadata), None)
    if unknown is not None:
        _refuse(file, f"its metadata have {architecture}.{unknown}, which this engine does not know")
    read = _Numbers(file, architecture)
    hidden = read.count("embedding_length")
    query_heads = read.count("attention.head_count")
    head_dim = read.count("attention.key_length", hidden // query_heads)
    if "token_embd.weight" not in file.tensors:
        _refuse(file, "it lacks the tensor token_embd.weight")
    hybrid = architecture == "qwen35"
    drafts = read.count("nextn_predict_layers", 0, least=0, most=1) if hybrid else 0
    layers = read.count("block_count", least=1 + drafts, most=MAX_LAYERS) - drafts
    spec = ModelSpec(
        architecture=architecture,
        layers=layers,
        hidden=hidden,
        feed_forward=read.count("feed_forward_length"),
        query_heads=query_heads,
        kv_heads=read.count("attention.head_count_kv", query_heads),
        head_dim=head_dim,
        vocabulary=file.tensors["token_embd.weight"].shape[0],
        context_tokens=read.count("context_length"),
        rope_base=read.number("rope.freq_base", 10000.0, most=1e12),
        norm_epsilon=read.number("attention.layer_norm_rms_epsilon", most=0.1),
        tied_head="output.weight" not in file.tensors,
        head_norms=architecture != "llama",
        rotary_halves=architecture != "llama",
        rope_factors=ROPE_FACTORS in file.tensors,
        # `rope.dimension_sections` say which of a picture's coordinates turns which pair. In text all are the position.
        rotary_dims=read.count("rope.dimension_count", head_dim, most=head_dim),
        gated=hybrid,
        delta=_read_delta(file, read, layers) if hybrid else None,
        # Some converters drop the block and keep the number.
        draft_head=drafts == 1 and f"blk.{layers}.nextn.eh_proj.weight" in file.tensors,
    )
    if spec.query_heads % spec.kv_heads or spec.head_dim % 2:
        _refuse(file, f"{spec.query_heads} query heads of {spec.head_dim} do not share {spec.kv_heads} kv heads")
    if spec.rotary_dims % 2 or (not hybrid and spec.rotary_dims != head_dim):
        _refuse(file, f"it rotates {spec.rotary_dims} dimensions of heads of {head_dim}")
    if read.count("attention.value_length", head_dim) != head_dim:
        _refuse(file, "its values are not as wide as its keys")
    return spec


def _read_delta(file: GGUFFile, read: _Numbers, layers: int) -> DeltaSpec:
    value_heads = read.count("ssm.time_step_rank")
    width = read.count("ssm.inner_size")
    delta = DeltaSpec(
        key_heads=read.count("ssm.group_count"),
        value_heads=value_heads,
        key_dim=read.count("ssm.state_size"),
        value_dim=width // value_heads,
        kernel=read.count("ssm.conv_kernel", least=2, most=MAX_KERNEL),
        interval=read.count("full_attention_interval", 4, least=2, most=layers),
    )
    if value_heads % delta.key_heads or delta.values != width:
        _refuse(file, f"{value_heads} value heads of {width} numbers do not share {delta.key_heads} key heads")
    recurrent = file.get("qwen35.attention.recurrent_layers", list)
    expected = [(layer + 1) % delta.interval != 0 for layer in range(layers)]
    if recurrent is not None and [bool(layer) for layer in recurrent[:layers]] != expected:
        _refuse(file, f"its layers of attention are not every {delta.interval}th of {layers}")
    return delta


def _tensors(file: GGUFFile, spec: ModelSpec) -> Mapping[str, WeightTensor]:
    """The file's tensors, none missing, of another shape, or left over."""
    wanted = spec.tensors()
    for name, shape in wanted.items():
        if name not in file.tensors:
            _refuse(file, f"it lacks the tensor {name}")
        if file.tensors[name].shape != shape:
            _refuse(file, f"the tensor {name} has the shape {file.tensors[name].shape} instead of {shape}")
    left_over = next((name for name in file.tensors if name not in wanted), None)
    if left_over is not None:
        _refuse(file, f"nothing in a {spec.architecture} model uses its tensor {left_over}")
    if spec.delta is None:
        return file.tensors
    return {name: regrouped(tensor, spec.delta) for name, tensor in file.tensors.items()}


class _Numbers:
    def __init__(self, file: GGUFFile, architecture: str) -> None:
        self._file, self._prefix = file, architecture

    def count(self, key: str, default: int | None = None, *, least: int = 1, most: int = MAX_WIDTH) -> int:
        name = f"{self._prefix}.{key}"
        read: Callable[[str, type[int]], int | None] = self._file.require if default is None else self._file.get
        number = read(name, int)
        number = default if number is None else number
        if number is None or not least <= number <= most:
            _refuse(self._file, f"{name} is {number}, not from {least} to {most}")
        return number

    def number(self, key: str, default: float | None = None, *, most: float) -> float:
        name = f"{self._prefix}.{key}"
        read: Callable[[str, type[float]], float | None] = self._file.require if default is None else self._file.get
        number = read(name, float)
        number = default if number is None else number
        # A comparison with what is not a number fails as well.
        if number is None or not 0 < number <= most:
            _refuse(self._file, f"{name} is {number}, not above 0 and up to {most}")
        return number


def _refuse(file: GGUFFile, why: str) -> NoReturn:
    raise ModelFileError(f"the model {file.path} can't be run", why, "Choose another model: backtalk models list")
