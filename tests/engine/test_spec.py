"""Shapes from metadata, and every way a file can disagree with itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import ModelFileError
from engine.spec import ModelSpec
from engine.weights.checkpoint import open_checkpoint
from tests.engine import tiny
from tests.engine.ggufs import RawTensor, build, vocabulary

SHORT = {key: value[:-1] for key, value in vocabulary().items() if key.endswith(("tokens", "token_type"))}
"""A vocabulary with one token less."""


def spec_of(path: Path, **changes: Any) -> ModelSpec:
    shape = tiny.Shape(architecture=changes.pop("architecture", "llama"))
    return open_checkpoint(tiny.write(path / "m.gguf", shape, tiny.reference(shape), **changes)).spec


def test_reads_the_shape(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    assert (spec.layers, spec.hidden, spec.query_heads, spec.kv_heads, spec.head_dim) == (3, 48, 4, 2, 12)
    assert (spec.group, spec.tied_head, spec.head_norms, spec.context_tokens) == (2, True, False, 512)
    assert spec.norm_epsilon == pytest.approx(1e-5)


def test_qwen3_has_head_norms_and_rotary_halves(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, architecture="qwen3")
    assert spec.head_norms
    assert spec.rotary_halves


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"general.architecture": "mamba"}, "architecture is mamba"),
        ({"llama.rope.scaling.type": "yarn"}, "yarn"),
        ({"llama.block_count": 0}, "llama.block_count is 0"),
        ({"llama.block_count": 4_000_000_000}, "llama.block_count is 4000000000"),
        ({"llama.block_count": 4}, "lacks the tensor blk.3.attn_norm.weight"),
        ({"llama.feed_forward_length": 96}, r"blk.0.ffn_gate.weight has the shape \(80, 48\) instead of \(96, 48\)"),
        ({"llama.attention.head_count_kv": 3}, "do not share 3 kv heads"),
        ({"llama.rope.dimension_count": 6}, "rotates 6 dimensions of heads of 12"),
        ({"llama.block_count": 2}, "nothing in a llama model uses its tensor blk.2."),
        ({"llama.rope.freq_base": float("nan")}, "llama.rope.freq_base is nan"),
        ({"llama.rope.freq_base": -1.0}, "llama.rope.freq_base is -1.0, not above 0"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon is nan"),
        ({"llama.attention.layer_norm_rms_epsilon": 0.5}, "layer_norm_rms_epsilon is 0.5, not above 0 and up to 0.1"),
        ({"llama.attention.scale": 0.5}, "have llama.attention.scale, which this engine does not know"),
        ({"llama.logit_scale": 2.0}, "have llama.logit_scale"),
        (SHORT, f"its vocabulary has {tiny.VOCABULARY - 1} tokens, and its embedding {tiny.VOCABULARY}"),
    ],
)
def test_refuses_by_name(tmp_path: Path, metadata: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        spec_of(tmp_path, **metadata)


def test_refuses_a_tensor_that_nothing_uses(tmp_path: Path) -> None:
    shape = tiny.Shape()
    bias = tiny.tensor("blk.0.attn_q.bias", np.zeros(48))
    path = tiny.write(tmp_path / "m.gguf", shape, tiny.reference(shape), extra=(bias,))
    with pytest.raises(ModelFileError, match=r"uses its tensor blk\.0\.attn_q\.bias"):
        open_checkpoint(path)


def test_refuses_a_file_without_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(
        build(
            {
                "general.architecture": "llama",
                "llama.embedding_length": 48,
                "llama.attention.head_count": 4,
            },
            [RawTensor("x", [1], 0, bytes(4))],
        )
    )
    with pytest.raises(ModelFileError, match="token_embd"):
        open_checkpoint(path)
