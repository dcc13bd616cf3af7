"""Models whose weights are drawn from a seed: any shape of `shapes.py` without a download, for tests and benchmarks.

They speak nonsense, but their state behaves as that of a trained model does: nothing vanishes or blows up, and what is
taken out of the state changes the text. A tensor is drawn by itself, from the seed and its name, when it is read.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any, NoReturn

import numpy as np
from tokenizers import pre_tokenizers

from engine.chat import ChatTemplate
from engine.errors import ModelFileError
from engine.spec import MAX_LAYERS, MAX_WIDTH, ROPE_FACTORS, ModelSpec
from engine.tokenizer import CONTROL, NORMAL, UNUSED, Tokenizer
from engine.weights.blocks import Bytes, Floats
from engine.weights.checkpoint import Checkpoint
from engine.weights.hf_config import rope_divisors
from engine.weights.json_file import JsonObject
from engine.weights.shapes import LLAMA3_ROPE, SHAPES

PREFIX = "random:"
GENERATOR = 1
"""Raised when the same seed gives other weights."""

_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_AT_A_TIME = 1 << 18

# A number is one of 256 equally likely levels, chosen by a random byte: as good as normal for a sum over a row, faster,
# and the same with every numpy, which promises the bytes of a generator but no distribution made of them (NEP 19).
_NORMAL = np.array([NormalDist().inv_cdf((level + 0.5) / 256) for level in range(256)])

# Rows enter each product with a mean square of 1 and come out with one, for that of the weights is 1 / columns. What
# takes away from them (an activation, an average over tokens) leaves about half: so much does a layer's part add to the
# residual stream, which begins at 1 and is below 10 after 64 layers. A gate of attention takes another half.
_GATED_OUTPUT_GAIN = 2.0
# Of queries and keys: with it a token's attention lies on a handful of those before it. With less, all rows of a deep
# model become alike, and it repeats itself.
_SHARPNESS = 1.6
_LOGITS_SPREAD = 3.0
"""Standard deviation of the logits: the foremost of many tokens is a few tenths ahead."""
# Of a head whose gate is at rest, ln 2, a token keeps 2^-a of what was before it: from a half to all but a thousandth.
_FASTEST, _SLOWEST = 1.0, 0.00144


@dataclass(frozen=True)
class RandomTensor:
    """A tensor that is made when it is asked for."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Floats]
    quant: str = "BF16"

    def dequantise(self) -> Floats:
        """The numbers, float32[shape]; those that are drawn are numbers that bfloat16 has."""
        return self.make()

    def q4_parts(self) -> tuple[Bytes, Floats, Floats]:
        """Nothing of the kind.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{self.name} is {self.quant}, neither Q4_0 nor Q4_1")


def open_random(name: str) -> Checkpoint:
    """Draw a model.

    Args:
        name: `random:SHAPE`, and then any of `,layers=N` `,seed=N` `,vocabulary=N` `,mtp=no`.

    Raises:
        ModelFileError: There is no such shape or option.
    """
    spec, seed = _parse(name)
    tensors = {tensor: _tensor(spec, seed, tensor, shape) for tensor, shape in spec.tensors().items()}

    def digest() -> str:
        return hashlib.blake2b(f"{GENERATOR} {seed} {spec}".encode(), digest_size=16).hexdigest()

    return Checkpoint(name, spec, tensors, _tokenizer(spec.vocabulary), lambda: ChatTemplate(_CHATML), digest)


def _parse(name: str) -> tuple[ModelSpec, int]:
    shape, *options = name.removeprefix(PREFIX).split(",")
    if shape not in SHAPES:
        _refuse(name, f"there is no shape {shape!r}", shape, SHAPES)
    spec, seed, seen = SHAPES[shape], 0, set[str]()
    least_layers = spec.delta.interval if spec.delta else 1
    for option in options:
        key, _, value = option.partition("=")
        match key:
            case _ if key in seen:
                _refuse(name, f"{key} is there twice")
            case "layers":
                spec = replace(spec, layers=_count(name, key, value, least_layers, MAX_LAYERS))
            case "seed":
                seed = _count(name, key, value, 0, 2**63 - 1)
            case "vocabulary":
                spec = replace(spec, vocabulary=_count(name, key, value, len(_CONTROL) + 256, MAX_WIDTH))
            case "mtp" if spec.draft_head and value in ("yes", "no"):
                spec = replace(spec, draft_head=value == "yes")
            case "mtp":
                _refuse(name, f"mtp={value} is not yes or no" if spec.draft_head else f"{shape} has no draft head")
            case _:
                _refuse(name, f"there is no option {key!r}", key, ("layers", "seed", "vocabulary", "mtp"))
        seen.add(key)
    return spec, seed


def _count(name: str, key: str, value: str, least: int, most: int) -> int:
    # A number that is too long to be one is refused before it is converted.
    if not (value.isascii() and value.isdecimal() and len(value) < 20 and least <= int(value) <= most):
        _refuse(name, f"{key}={value} is not a number from {least} to {most}")
    return int(value)


def _refuse(name: str, why: str, typed: str = "", known: Iterable[str] = ()) -> NoReturn:
    names = list(known)
    close = difflib.get_close_matches(typed.lower(), names, n=1, cutoff=0)
    guess = f"Did you mean {close[0]}? There are {', '.join(names)}" if close else "Mend the name"
    raise ModelFileError(f"the model {name} can't be drawn", why, guess)


def _tensor(spec: ModelSpec, seed: int, name: str, shape: tuple[int, ...]) -> RandomTensor:
    if name == ROPE_FACTORS:
        scaling = JsonObject(Path(name), dict(LLAMA3_ROPE))
        divide = partial(rope_divisors, spec.rope_base, spec.rotary_dims, scaling, spec.context_tokens)
        return RandomTensor(name, shape, divide, "F32")
    return RandomTensor(name, shape, partial(_draw, seed, name, shape, _levels(spec, name, shape)))


def _levels(spec: ModelSpec, name: str, shape: tuple[int, ...]) -> Floats:
    """The 256 equally likely values of a tensor's numbers, float32[256], all of them in bfloat16."""
    own = name.split(".", 2)[-1] if name.startswith("blk.") else name
    if own in ("token_embd.weight", "output.weight"):
        return _bfloat16(_NORMAL)
    if own in ("output_norm.weight", "nextn.shared_head_norm.weight"):
        # Half of the signs are turned: a tied head would find the embedding of the newest token itself and repeat it.
        signs = np.resize([1.0, -1.0], 256)
        return _bfloat16(signs * (1 + 0.1 * _NORMAL) * _LOGITS_SPREAD / math.sqrt(spec.hidden))
    if own == "ssm_a":
        return _bfloat16(-np.geomspace(_FASTEST, _SLOWEST, 256))
    if own == "ssm_dt.bias":
        return _bfloat16(0.3 * _NORMAL)
    if len(shape) == 1:
        return _bfloat16((_SHARPNESS if own in ("attn_q_norm.weight", "attn_k_norm.weight") else 1) + 0.1 * _NORMAL)
    gain = 1.0
    if own == "attn_output.weight" and spec.gated:
        gain = _GATED_OUTPUT_GAIN
    elif own in ("attn_q.weight", "attn_k.weight") and not spec.head_norms:
        gain = _SHARPNESS
    return _bfloat16(gain / math.sqrt(shape[-1]) * _NORMAL)


def _draw(seed: int, name: str, shape: tuple[int, ...], levels: Floats) -> Floats:
    key = hashlib.blake2b(f"{GENERATOR} {seed} {name}".encode(), digest_size=16)
    generator = np.random.Philox(key=int.from_bytes(key.digest(), "little"))
    numbers = np.empty(math.prod(shape), np.float32)
    for first in range(0, len(numbers), _AT_A_TIME):
        part = numbers[first : first + _AT_A_TIME]
        choices = generator.random_raw(-(-len(part) // 8)).astype("<u8", copy=False).view(np.uint8)
        levels.take(choices[: len(part)], out=part, mode="clip")
    return numbers.reshape(shape)


def _bfloat16(numbers: np.ndarray[Any, np.dtype[np.float64]]) -> Floats:
    """The nearest numbers that bfloat16 has."""
    bits = numbers.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32)


def _tokenizer(size: int) -> Tokenizer:
    """Marks of ChatML, all bytes, and for the rest made-up words that a model can say and no text is made of."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"Ġ{_word(index)}" for index in range(size - len(_CONTROL) - len(letters))]
    types = [CONTROL] * len(_CONTROL) + [NORMAL] * len(letters) + [UNUSED] * len(words)
    tokenizer = Tokenizer([*_CONTROL, *letters, *words], types, [], "qwen35")
    tokenizer.eos_ids = frozenset(_CONTROL.index(mark) for mark in ("<|endoftext|>", "<|im_end|>"))
    return tokenizer


def _word(index: int) -> str:
    """A number in syllables, each of them one of a hundred."""
    rest, digit = divmod(index, 100)
    consonant, vowel = divmod(digit, 5)
    return (_word(rest) if rest else "") + "bcdfghjklmnprstvwxyz"[consonant] + "aeiou"[vowel]
