"""Weights of a checkpoint as the operations want them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.backends import cpu
from engine.backends.cpu import Int4Linear, Int8Linear, Linear, PlainLinear
from engine.errors import BackendError, ModelFileError
from engine.spec import ModelSpec
from engine.weights.blocks import Bytes, Floats
from engine.weights.checkpoint import Checkpoint

FORMATS = ("fp32", "bf16", "int4")
_SMALL = ("ssm_conv1d.weight", "ssm_alpha.weight", "ssm_beta.weight", "nextn.eh_proj.weight")
"""Matrices that stay numbers in every format: few bytes, and much depends on them."""

Order = np.ndarray[Any, np.dtype[np.intp]]


def body(spec: ModelSpec) -> list[str]:
    """The matrices that a format packs: those of the layers."""
    return [
        name
        for name, shape in spec.tensors().items()
        if name.startswith("blk.") and len(shape) == 2 and not name.endswith(_SMALL)
    ]


def choose_format(checkpoint: Checkpoint) -> str:
    """The format for `auto`: int4 where the file has 4-bit blocks, else bf16 where the processor has it, else fp32."""
    if cpu.has_int4() and all(cpu.int4_fits(checkpoint.tensors[name]) for name in body(checkpoint.spec)):
        return "int4"
    return "bf16" if cpu.has_fast_bf16() else "fp32"


class Reader:
    """Reads one checkpoint in one format.

    Attributes:
        dtype: What products are computed in.
    """

    def __init__(self, checkpoint: Checkpoint, weight_format: str) -> None:
        """Check that the format can be had.

        Raises:
            BackendError: It is unknown, or does not fit the checkpoint or this machine.
        """
        if weight_format not in FORMATS:
            raise BackendError(
                f"there is no format {weight_format!r}", "it is not one of ours", f"Use {', '.join(FORMATS)}"
            )
        if weight_format == "int4":
            _require_int4(checkpoint)
        self._label, self._tensors = checkpoint.label, checkpoint.tensors
        self._packed = weight_format == "int4"
        self.dtype = torch.float32 if weight_format == "fp32" else torch.bfloat16

    def numbers(self, name: str) -> Tensor:
        """A tensor, float32.

        Raises:
            ModelFileError: A number in it is not finite.
        """
        return torch.from_numpy(self._finite(name, self._tensors[name].dequantise()))

    def head(self, name: str) -> tuple[Linear, Tensor]:
        """The matrix that makes logits, and its rows as numbers in the product's type.

        Raises:
            ModelFileError: As `numbers`.
        """
        numbers = self.numbers(name)
        rows = numbers.to(self.dtype)
        return Int8Linear(numbers) if self._packed else PlainLinear(rows), rows

    def linear(self, *stacked: tuple[str, Order | None]) -> Linear:
        """Several matrices on top of each other, each with the rows it is to have in their order, as one.

        Raises:
            ModelFileError: As `numbers`.
        """
        if self._packed and not any(name.endswith(_SMALL) for name, _ in stacked):
            parts = [self._q4_parts(name, order) for name, order in stacked]
            return Int4Linear(*(np.concatenate(same) for same in zip(*parts, strict=True)))
        # One after the other into the product's type: in float32 a matrix is twice as large.
        numbers = [self._rows(name, order) for name, order in stacked]
        return PlainLinear(torch.cat(numbers) if len(numbers) > 1 else numbers[0])

    def _rows(self, name: str, order: Order | None) -> Tensor:
        numbers = self.numbers(name)
        return (numbers if order is None else numbers[torch.from_numpy(order)]).to(self.dtype)

    def _q4_parts(self, name: str, order: Order | None) -> tuple[Bytes, Floats, Floats]:
        codes, scale, minimum = self._tensors[name].q4_parts()
        scale, minimum = self._finite(name, scale), self._finite(name, minimum)
        return (codes, scale, minimum) if order is None else (codes[order], scale[order], minimum[order])

    def _finite(self, name: str, numbers: Floats) -> Floats:
        if not all(bool(extreme.isfinite()) for extreme in torch.from_numpy(numbers).aminmax()):
            raise ModelFileError(
                f"the model {self._label} can't be run",
                f"its tensor {name} holds what is no number, or is infinite",
                "Fetch the file again, or choose another model",
            )
        return numbers


def _require_int4(checkpoint: Checkpoint) -> None:
    cpu.require_int4()
    matrices = (checkpoint.tensors[name] for name in body(checkpoint.spec))
    unfit = next((matrix for matrix in matrices if not cpu.int4_fits(matrix)), None)
    if unfit is not None:
        raise BackendError(
            f"the model {checkpoint.label} can't be used as int4",
            f"{unfit.name} is packed as {unfit.quant} with shape {unfit.shape}, not in 4-bit blocks",
            "Use the format bf16, or a Q4_0 or Q4_1 file of the model",
        )
