"""The float64 reference against transformers, and faults that must be seen: it has teeth."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import MODEL_ARCH, MODEL_TENSOR, MODEL_TENSORS, TENSOR_NAMES
from numpy.typing import NDArray
from torch import Tensor

from tests.engine import hybrid, reference, tiny
from tests.engine.ggufs import vocabulary
from tests.engine.hybrid import SHAPES, HybridShape
from tests.engine.reference import Array

TOLERANCE = 1e-5
"""Of float32 against float64, as a part of the largest number. Here 1e-6 is seen."""
TOKENS: list[int] = np.random.default_rng(3).integers(0, tiny.VOCABULARY, 150).tolist()
DRAFTED = "two value heads a key head"
NEXTN = [kind for kind in MODEL_TENSOR if kind.name.startswith("NEXTN")]
"""The package knows the draft head of other architectures, and llama.cpp calls that of this one the same."""


class Theirs(NamedTuple):
    """What transformers makes of the text."""

    model: Any
    weights: dict[str, Array]
    """The same model's, with a draft head."""
    hidden: list[Array]
    logits: Array


@cache
def theirs(name: str) -> Theirs:
    """In fp32 with eager attention and torch's own gated delta rule."""
    shape = SHAPES[name]
    model = hybrid.reference(shape)
    weights = reference.doubles(hybrid.weights(shape, model, hybrid.draft_head(shape)))
    hidden: list[Array] = []

    def keep(_layer: object, _inputs: object, output: Tensor) -> None:
        hidden.append(output[0].double().numpy())

    for layer in model.model.layers:
        layer.register_forward_hook(keep)
    with torch.inference_mode():
        logits = model(torch.tensor([TOKENS]), use_cache=False).logits[0].double().numpy()
    return Theirs(model, weights, hidden, logits)


def error(got: Array, wanted: Array) -> float:
    """The length of the difference as a part of the length."""
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", SHAPES)
def test_layers_and_logits_are_those_of_transformers(name: str) -> None:
    wanted = theirs(name)
    got = reference.forward(SHAPES[name], wanted.weights, TOKENS)
    assert len(got.hidden) == SHAPES[name].layers == len(wanted.hidden)
    for layer, (ours, other) in enumerate(zip(got.hidden, wanted.hidden, strict=True)):
        assert error(ours, other) <= TOLERANCE, layer
    assert error(got.logits, wanted.logits) <= TOLERANCE


def test_transformers_runs_its_own_code() -> None:
    """Kernels from elsewhere would make the oracle another program."""
    modules = {type(module).__module__.partition(".")[0] for module in theirs(DRAFTED).model.modules()}
    assert modules == {"torch", "transformers"}
    assert theirs(DRAFTED).model.config._attn_implementation == "eager"


def test_the_draft_head_is_a_block_of_transformers() -> None:
    """transformers has no draft head for these models. It has the block, so the head is put together from its parts."""
    from transformers import Qwen3_5TextConfig, Qwen3_5TextModel

    shape, wanted = SHAPES[DRAFTED], theirs(DRAFTED)
    numbers: dict[str, Any] = hybrid.config(shape) | {"dtype": "float32", "attn_implementation": "eager"}
    numbers |= {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    block = Qwen3_5TextModel(Qwen3_5TextConfig(**numbers)).eval()
    mtp = {name: torch.from_numpy(weight) for name, weight in hybrid.draft_head(shape).items()}
    state = {name.removeprefix("mtp."): weight for name, weight in mtp.items() if "fc" not in name}
    block.load_state_dict(state, strict=False)
    embed = wanted.model.model.embed_tokens
    with torch.inference_mode():
        last = wanted.model.model(torch.tensor([TOKENS]), use_cache=False).last_hidden_state[0, :-1]
        embedded = embed(torch.tensor(TOKENS[1:]))
        sides = [
            torch.nn.functional.rms_norm(rows, rows.shape[-1:], 1 + mtp[f"mtp.pre_fc_norm_{side}.weight"], 1e-6)
            for side, rows in (("embedding", embedded), ("hidden", last))
        ]
        joined = torch.cat(sides, dim=1) @ mtp["mtp.fc.weight"].T
        places = torch.arange(1, len(TOKENS))[None]
        rows = block(inputs_embeds=joined[None], position_ids=places, use_cache=False).last_hidden_state[0]
        logits = wanted.model.lm_head(rows)
    whole = reference.forward(shape, wanted.weights, TOKENS)
    got = reference.draft_rows(shape, wanted.weights, whole.last[:-1], TOKENS[1:])
    assert error(got, rows.double().numpy()) <= TOLERANCE
    assert error(reference.head(wanted.weights, got), logits.double().numpy()) <= TOLERANCE


def test_drafts_go_on_from_their_own_rows() -> None:
    """The first draft needs no draft, the second reads the first's row, and both are the most likely tokens."""
    shape, weights = SHAPES[DRAFTED], theirs(DRAFTED).weights
    whole = reference.forward(shape, weights, TOKENS)
    after = [*TOKENS[1:], int(whole.logits[-1].argmax())]
    rows = reference.draft_rows(shape, weights, whole.last, after)
    first = int(reference.head(weights, rows)[-1].argmax())
    again = reference.draft_rows(shape, weights, np.concatenate([whole.last, rows[-1:]]), [*after, first])
    second = int(reference.head(weights, again)[-1].argmax())
    assert reference.draft(shape, weights, TOKENS, whole, 2) == [first, second]
    np.testing.assert_allclose(again[:-1], rows, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("multimodal", [False, True])
def test_transformers_reads_our_directories(multimodal: bool, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Qwen3_5ForCausalLM

    shape, wanted = SHAPES[DRAFTED], theirs(DRAFTED)
    path = hybrid.write_directory(
        tmp_path,
        shape,
        wanted.model,
        hybrid.draft_head(shape),
        multimodal=multimodal,
        shards=3,
        dtype=torch.bfloat16,
    )
    model, info = cast(Any, Qwen3_5ForCausalLM).from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values())
    for name, weight in wanted.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    spelt = AutoTokenizer.from_pretrained(path).convert_ids_to_tokens
    encoded = AutoTokenizer.from_pretrained(path).encode("he hello<|im_end|>")
    assert spelt(encoded) == ["he", "Ġhe", "l", "l", "o", "<|im_end|>"]
    assert spelt(range(tiny.VOCABULARY)) == vocabulary()["tokenizer.ggml.tokens"]


def test_the_gguf_package_knows_our_tensors(tmp_path: Path) -> None:
    shape = SHAPES[DRAFTED]
    path = hybrid.write_gguf(tmp_path / "m.gguf", shape, theirs(DRAFTED).model, hybrid.draft_head(shape), "Q4_0")
    known = [TENSOR_NAMES[kind] for kind in (*MODEL_TENSORS[MODEL_ARCH.QWEN35], *NEXTN)]
    found = {tensor.name for tensor in gguf.GGUFReader(path).tensors}
    ours = {name.format(bid=layer) + end for name in known for layer in range(5) for end in ("", ".weight", ".bias")}
    assert found <= ours


def read_before_decay(query: Array, key: Array, value: Array, beta: Array, decay: Array) -> Array:
    """The gated delta rule with its first two steps in each other's place."""
    return correct(query, key, value, beta, decay, kept=1.0)


def no_delta(query: Array, key: Array, value: Array, beta: Array, decay: Array) -> Array:
    """Linear attention that adds values and never corrects them."""
    return correct(query, key, value, beta, decay, kept=0.0)


def dropped_state(query: Array, key: Array, value: Array, beta: Array, decay: Array) -> Array:
    """The state is empty again after 64 tokens."""
    decay = decay.copy()
    decay[64] = 0
    return true_rule(query, key, value, beta, decay)


def correct(query: Array, key: Array, value: Array, beta: Array, decay: Array, kept: float) -> Array:
    """The rule, where a correction knows a part of what the state held before it faded."""
    state = np.zeros((*key.shape[1:], value.shape[-1]))
    found = np.empty_like(value)
    for at in range(len(key)):
        missing = value[at] - kept * np.einsum("hkv,hk->hv", state, key[at])
        state = state * decay[at, :, None, None] + np.einsum("hk,hv->hkv", key[at], beta[at, :, None] * missing)
        found[at] = np.einsum("hkv,hk->hv", state, query[at])
    return found


def nearest_only(scores: Array) -> Array:
    """Attention that has lost all but the last 64 keys."""
    far = np.tri(scores.shape[-1], k=-64, dtype=bool)
    return true_softmax(np.where(far, -np.inf, scores))


def tiled_key_heads(shape: HybridShape) -> NDArray[np.int64]:
    """The order of GGUF, which these weights don't have."""
    return np.arange(shape.value_heads) % shape.key_heads


def no_gate(mixed: Array, _gate: Array) -> Array:
    """Attention without its gate."""
    return mixed


def plain_norm(x: Array, weight: Array) -> Array:
    """Weights taken as they are, as in other models."""
    return reference.norm(x) * weight


def as_it_is(x: Array) -> Array:
    """Queries and keys of any length."""
    return x


def backwards(inputs: Array, taps: Array) -> Array:
    """The first tap of the convolution on the newest row."""
    return true_convolve(inputs, taps[:, ::-1])


def whole_rotation(shape: HybridShape, rows: Array, first: int) -> Array:
    """All of a head is rotated."""
    return true_rotate(shape._replace(rotary=1.0), rows, first)


def no_rotation(_shape: HybridShape, rows: Array, _first: int) -> Array:
    """Attention that does not know places."""
    return rows


true_rule, true_softmax = reference.delta_rule, reference.causal_softmax
true_rotate, true_convolve = reference.rotate, reference.convolve
FAULTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "read before decay": ("delta_rule", read_before_decay),
    "values added, not corrected": ("delta_rule", no_delta),
    "recurrent state dropped": ("delta_rule", dropped_state),
    "keys and values dropped": ("causal_softmax", nearest_only),
    "attention without its gate": ("gated", no_gate),
    "value heads read key heads in turn": ("key_heads", tiled_key_heads),
    "norms not centred": ("centred_norm", plain_norm),
    "keys not normalised": ("unit", as_it_is),
    "taps of the convolution reversed": ("convolve", backwards),
    "all of a head rotated": ("rotate", whole_rotation),
    "nothing rotated": ("rotate", no_rotation),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far above the tolerance, and in the text."""
    wanted = theirs(DRAFTED)
    name, broken = FAULTS[fault]
    monkeypatch.setattr(reference, name, broken)
    got = reference.forward(SHAPES[DRAFTED], wanted.weights, TOKENS).logits
    assert error(got, wanted.logits) >= 1000 * TOLERANCE
    assert (got.argmax(1) != wanted.logits.argmax(1)).mean() > 0.05
