"""The gated feed-forward network at the end of every layer: W_down(silu(W_gate n) * W_up n), n the normalised row."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from engine.backends import cpu
from engine.models.reader import Reader
from engine.spec import ModelSpec


class FeedForward:
    """Weights of one layer, its norm included."""

    def __init__(self, reader: Reader, spec: ModelSpec, layer: int) -> None:
        prefix = f"blk.{layer}."
        self._hidden, self._epsilon, self._dtype = spec.hidden, spec.norm_epsilon, reader.dtype
        self._norm = reader.numbers(prefix + spec.feed_forward_norm)
        self._gate_up = reader.linear((f"{prefix}ffn_gate.weight", None), (f"{prefix}ffn_up.weight", None))
        self._down = reader.linear((f"{prefix}ffn_down.weight", None))
        self.matrices = [self._gate_up, self._down]

    def __call__(self, residual: Tensor) -> Tensor:
        """What the network adds to the residual stream, [rows, hidden].

        Args:
            residual: float32[rows, hidden].
        """
        normed = functional.rms_norm(residual, (self._hidden,), self._norm, self._epsilon).to(self._dtype)
        gate, up = self._gate_up(normed).chunk(2, dim=1)
        return self._down(cpu.silu(gate).mul_(up).to(self._dtype))
