"""A directory of safetensors as a model: its shape from config.json, its tensors checked and brought into our form.

Names are those of transformers' models. The text part of a multimodal model stands under a longer prefix; what else
there is of it is left alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch

from engine.errors import ModelFileError
from engine.spec import ROPE_FACTORS, ModelSpec
from engine.weights.blocks import Bytes, Floats
from engine.weights.checkpoint import Checkpoint
from engine.weights.hf_config import ModelConfig, read_config
from engine.weights.hf_tokenizer import read_template, read_tokenizer
from engine.weights.safetensors_file import StoredTensor, open_safetensors

DTYPES = ("BF16", "F16", "F32")

_SKIPPED = re.compile(r"model\.visual\..+|.*\brotary_emb\.inv_freq")
"""What a text model doesn't need: the eyes of a multimodal one, and frequencies that follow from the config."""

_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"
_TRUNK = {"token_embd.weight": _EMBEDDING, "output_norm.weight": "norm.weight"}
_DRAFT = {
    "nextn.eh_proj.weight": "fc.weight",
    "nextn.enorm.weight": "pre_fc_norm_embedding.weight",
    "nextn.hnorm.weight": "pre_fc_norm_hidden.weight",
    "nextn.shared_head_norm.weight": "norm.weight",
}
_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_qkv.weight": "linear_attn.in_proj_qkv.weight",
    "attn_gate.weight": "linear_attn.in_proj_z.weight",
    "ssm_beta.weight": "linear_attn.in_proj_b.weight",
    "ssm_alpha.weight": "linear_attn.in_proj_a.weight",
    "ssm_conv1d.weight": "linear_attn.conv1d.weight",
    "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_a": "linear_attn.A_log",
    "ssm_norm.weight": "linear_attn.norm.weight",
    "ssm_out.weight": "linear_attn.out_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}


@dataclass(frozen=True)
class SafeTensor:
    """A tensor of a directory, brought into our form when it is asked for."""

    name: str
    quant: str
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]
    """The tensor as it is stored."""
    convert: Callable[[torch.Tensor], torch.Tensor]
    """From its float32 to the values that `spec.py` says."""

    def dequantise(self) -> Floats:
        """The numbers, float32[shape]."""
        return self.convert(self.load().to(torch.float32, copy=True)).reshape(self.shape).numpy()

    def q4_parts(self) -> tuple[Bytes, Floats, Floats]:
        """Nothing of the kind.

        Raises:
            ValueError: Always: what safetensors hold is not in 4-bit blocks.
        """
        raise ValueError(f"{self.name} is {self.quant}, neither Q4_0 nor Q4_1")

    def stored_bytes(self) -> Bytes:
        """The bytes as they are stored, uint8[bytes]."""
        return self.load().reshape(-1).view(torch.uint8).numpy()


def open_directory(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a directory with config.json, safetensors and tokenizer.json.

    Raises:
        ModelFileError: A file is missing, damaged or disagrees with another, or the engine can't run such a model.
    """
    directory = Path(path)
    config = read_config(directory / "config.json")
    stored = open_safetensors(directory)
    spec = replace(
        config.spec,
        tied_head=_is_tied(directory, config, stored),
        draft_head=any(name.startswith(("mtp.", "model.mtp.")) for name in stored),
    )
    tensors = _tensors(directory, spec, stored, config.rope_divisors)
    tokenizer = read_tokenizer(directory, spec.vocabulary, config.sections)

    def digest() -> str:
        found = hashlib.blake2b(digest_size=16)
        for name in sorted(tensors):
            found.update(f"{name} {tensors[name].quant} {tensors[name].shape};".encode())
            found.update(tensors[name].stored_bytes().data)
        return found.hexdigest()

    return Checkpoint(str(path), spec, tensors, tokenizer, lambda: read_template(directory), digest)


def _is_tied(directory: Path, config: ModelConfig, stored: dict[str, StoredTensor]) -> bool:
    """Whether the embedding is the head. The tensors decide, and the config must not contradict them.

    A head that is stored though the config ties it must be the embedding once more, as some tools write it.
    """
    if _HEAD not in stored:
        if config.tied is False:
            _refuse(directory, f"it lacks the tensor {_HEAD}, and its config says that the embedding is not the head")
        return True
    if not config.tied:
        return False
    head, embedding = stored[_HEAD], stored.get(_prefix(stored) + _EMBEDDING)
    if embedding is None or head.dtype != embedding.dtype or not torch.equal(head.load(), embedding.load()):
        _refuse(directory, f"its config says that the embedding is the head, and its tensor {_HEAD} is another one")
    return True


def _prefix(stored: dict[str, StoredTensor]) -> str:
    longer = "model.language_model."
    return longer if any(name.startswith(longer) for name in stored) else "model."


def _tensors(
    directory: Path, spec: ModelSpec, stored: dict[str, StoredTensor], rope_divisors: Floats | None
) -> dict[str, SafeTensor]:
    """The directory's tensors under our names, none missing, of another shape or type, or left over."""
    trunk = _prefix(stored)
    draft = "model.mtp." if any(name.startswith("model.mtp.") for name in stored) else "mtp."
    tensors: dict[str, SafeTensor] = {}
    used = {_HEAD} if spec.tied_head else set[str]()
    for name, shape in spec.tensors().items():
        if name == ROPE_FACTORS:
            assert rope_divisors is not None
            tensors[name] = SafeTensor(name, "F32", shape, torch.from_numpy(rope_divisors).clone, _as_it_is)
            continue
        theirs = _their_name(name, spec, trunk, draft)
        found = stored.get(theirs)
        if found is None:
            _refuse(directory, f"it lacks the tensor {theirs}")
        # The convolution is stored as one of a single input channel.
        wanted = (shape[0], 1, shape[1]) if name.endswith("ssm_conv1d.weight") else shape
        if found.shape != wanted:
            _refuse(directory, f"the tensor {theirs} has the shape {found.shape} instead of {wanted}")
        if found.dtype not in DTYPES:
            _refuse(
                directory, f"the tensor {theirs} is of the type {found.dtype}, and only {', '.join(DTYPES)} are read"
            )
        tensors[name] = SafeTensor(name, found.dtype, shape, found.load, _conversion(name, spec))
        used.add(theirs)
    left_over = next((name for name in stored if name not in used and not _SKIPPED.fullmatch(name)), None)
    if left_over is not None:
        _refuse(directory, f"nothing in a {spec.architecture} model uses its tensor {left_over}")
    return tensors


def _their_name(name: str, spec: ModelSpec, trunk: str, draft: str) -> str:
    if name == "output.weight":
        return _HEAD
    if name in _TRUNK:
        return trunk + _TRUNK[name]
    _, number, rest = name.split(".", 2)
    if int(number) < spec.layers:
        return f"{trunk}layers.{number}.{_LAYER[rest]}"
    return draft + (_DRAFT[rest] if rest in _DRAFT else f"layers.0.{_LAYER[rest]}")


def _conversion(name: str, spec: ModelSpec) -> Callable[[torch.Tensor], torch.Tensor]:
    if name.endswith("ssm_a"):
        return _decay
    # Hybrid models keep their norms as what they add to 1, all but the one within the linear attention.
    if spec.delta and name.endswith("norm.weight") and not name.endswith("ssm_norm.weight"):
        return _whole
    return _as_it_is


def _as_it_is(numbers: torch.Tensor) -> torch.Tensor:
    return numbers


def _whole(norm: torch.Tensor) -> torch.Tensor:
    return norm + 1


def _decay(logarithm: torch.Tensor) -> torch.Tensor:
    return -torch.exp(logarithm)


def _refuse(directory: Path, why: str) -> NoReturn:
    raise ModelFileError(f"the model {directory} can't be run", why, "Choose another model: backtalk models list")
