"""A model as the engine reads it, whatever it lies in: a GGUF file, a directory of safetensors, or only a seed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.chat import ChatTemplate
from engine.spec import ModelSpec
from engine.tokenizer import Tokenizer
from engine.weights.blocks import Bytes, Floats


class WeightTensor(Protocol):
    """A tensor that stays where it is until it is asked for."""

    @property
    def name(self) -> str:
        """What `ModelSpec.tensors` calls it."""
        ...

    @property
    def quant(self) -> str:
        """How it is packed: Q4_1, F32, BF16 and so on."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Outermost first."""
        ...

    def dequantise(self) -> Floats:
        """The numbers, float32[shape], in the form that `spec.py` says."""
        ...

    def q4_parts(self) -> tuple[Bytes, Floats, Floats]:
        """Codes, scales and minima of a matrix in 4-bit blocks, as `PackedTensor.q4_parts`.

        Raises:
            ValueError: It is packed otherwise.
        """
        ...


@dataclass(frozen=True)
class Checkpoint:
    """An open model. Its tensors are exactly those of its spec."""

    label: str
    """What the user calls it: a path, or random:SHAPE."""
    spec: ModelSpec
    tensors: Mapping[str, WeightTensor]
    tokenizer: Tokenizer
    template: Callable[[], ChatTemplate]
    """Raises ModelFileError if the model has none, PromptError if it can't be used."""
    digest: Callable[[], str]
    """BLAKE2b-128 over all weights, in hexadecimal. Reads them all."""


def open_checkpoint(name: str | os.PathLike[str]) -> Checkpoint:
    """Open a GGUF file, a directory of safetensors, or `random:SHAPE`.

    Raises:
        ModelFileError: It can't be read, is damaged, or of a kind the engine can't run.
    """
    if isinstance(name, str) and name.startswith("random:"):
        from engine.weights.random_model import open_random

        return open_random(name)
    if Path(name).is_dir():
        from engine.weights.safetensors_model import open_directory

        return open_directory(name)
    from engine.weights.gguf_model import open_gguf

    return open_gguf(name)
