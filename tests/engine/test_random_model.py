"""Drawn weights: the same for a seed however they are read, and such that a model made of them behaves."""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import numpy as np
import pytest

from engine.backends import cpu
from engine.chat import Chat
from engine.errors import ModelFileError
from engine.sampler import Sampling
from engine.session import Engine
from engine.spec import ROPE_FACTORS
from engine.weights import random_model
from engine.weights.checkpoint import Checkpoint, open_checkpoint
from engine.weights.shapes import SHAPES
from tests.engine import reference
from tests.engine.hybrid import HybridShape
from tests.engine.reference import Array
from tests.engine.weight_names import our_name

PARAMETERS = {
    "qwen3.5-0.8b": (498.1, 254.3, 20.5),
    "qwen3.5-2b": (1373.3, 508.6, 60.8),
    "qwen3.5-4b": (3570.1, 635.7, 120.6),
    "qwen3.5-9b": (6919.6, 1017.1, 243.3),
    "qwen3.5-27b": (24353.0, 1271.4, 424.7),
    "llama-3.2-1b": (973.1, 262.7, 0.0),
    "smollm2-135m": (106.2, 28.3, 0.0),
    "smollm2-360m": (314.6, 47.2, 0.0),
    "smollm2-1.7b": (1610.7, 100.7, 0.0),
    "qwen3-0.6b": (440.5, 155.6, 0.0),
}
"""Millions in the layers, the embedding and the draft head of the released models."""
HYBRID = "random:qwen3.5-0.8b,layers=4,vocabulary=2048,seed=5,mtp=no"
TEXT = np.random.default_rng(0).integers(0, 2048, 64).tolist()
SMALL = "random:smollm2-135m,layers=2,vocabulary=300"

TRAINED_NAMES = [
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    *(f"mlp.{which}_proj.weight" for which in ("gate", "up", "down")),
    *(f"self_attn.{which}_proj.weight" for which in "qkvo"),
    *(f"self_attn.{which}_norm.weight" for which in "qk"),
    *(f"linear_attn.in_proj_{which}.weight" for which in ("qkv", "z", "b", "a")),
    *(f"linear_attn.{name}" for name in ("conv1d.weight", "dt_bias", "A_log", "norm.weight", "out_proj.weight")),
]


def trained(checkpoint: Checkpoint) -> dict[str, Array]:
    """A drawn model as float64 under the names, and with the values, of transformers."""
    layers = checkpoint.spec.layers
    names = [f"model.layers.{layer}.{name}" for layer in range(layers) for name in TRAINED_NAMES]
    found: dict[str, Array] = {}
    for name in ["model.embed_tokens.weight", "model.norm.weight", *names]:
        ours = our_name("qwen35", layers, name)
        if ours in checkpoint.tensors:
            numbers = checkpoint.tensors[ours].dequantise().astype(np.float64)
            if name.endswith("A_log"):
                numbers = np.log(-numbers)
            elif name.endswith("conv1d.weight"):
                numbers = numbers[:, None]
            elif "norm" in name and not name.endswith("linear_attn.norm.weight"):
                numbers -= 1
            found[name] = numbers
    return found


class Watched(NamedTuple):
    """A drawn hybrid model over a text, in float64."""

    shape: HybridShape
    weights: dict[str, Array]
    made: reference.Forward
    beta: Array
    """[delta nets, n, heads]."""
    decay: Array
    attention: Array
    """[heads, n, n] of the one layer that has it."""


@pytest.fixture(scope="module")
def watched() -> Watched:
    shape = HybridShape(4, 1024, 3584, 8, 2, 256, 0.25, 16, 16, 128, 128, mtp=False)
    weights = trained(open_checkpoint(HYBRID))
    gates: list[tuple[Array, Array]] = []
    attention: list[Array] = []
    rule, softmax = reference.delta_rule, reference.causal_softmax

    def watch_rule(query: Array, key: Array, value: Array, beta: Array, decay: Array) -> Array:
        gates.append((beta, decay))
        return rule(query, key, value, beta, decay)

    def watch_softmax(scores: Array) -> Array:
        attention.append(softmax(scores))
        return attention[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "delta_rule", watch_rule)
        patch.setattr(reference, "causal_softmax", watch_softmax)
        made = reference.forward(shape, weights, TEXT)
    beta, decay = (np.stack(parts) for parts in zip(*gates, strict=True))
    return Watched(shape, weights, made, beta, decay, attention[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_the_parameters_of_the_released_models(shape: str) -> None:
    spec = SHAPES[shape]
    sizes = {name: math.prod(dimensions) for name, dimensions in spec.tensors().items()}
    draft = sum(size for name, size in sizes.items() if name.startswith(f"blk.{spec.layers}."))
    body = sum(size for name, size in sizes.items() if name.startswith("blk.")) - draft
    found = (body / 1e6, sizes["token_embd.weight"] / 1e6, draft / 1e6)
    assert found == pytest.approx(PARAMETERS[shape], rel=2e-4, abs=0.06)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if not shape.endswith(("2b", "4b", "9b", "27b", "1.7b"))])
def test_every_tensor_is_drawn_in_numbers_of_bfloat16(shape: str) -> None:
    checkpoint = open_checkpoint(f"random:{shape},layers=4,vocabulary=300")
    assert checkpoint.tensors.keys() == checkpoint.spec.tensors().keys()
    for name, tensor in checkpoint.tensors.items():
        numbers = tensor.dequantise()
        assert (numbers.shape, numbers.dtype) == (checkpoint.spec.tensors()[name], np.float32)
        assert tensor.shape == numbers.shape
        assert name == ROPE_FACTORS or not (numbers.view(np.uint32) & 0xFFFF).any()


def test_no_tensor_depends_on_what_was_read_before() -> None:
    first, second = open_checkpoint(SMALL), open_checkpoint("random:smollm2-135m,layers=3,vocabulary=300")
    forwards = {name: tensor.dequantise() for name, tensor in first.tensors.items()}
    for name in reversed(forwards):
        np.testing.assert_array_equal(second.tensors[name].dequantise(), forwards[name])


def test_seeds_and_names_give_other_numbers() -> None:
    def numbers(options: str, name: str) -> Any:
        return open_checkpoint(SMALL + options).tensors[name].dequantise()

    drawn = [
        numbers("", "blk.0.ffn_up.weight"),
        numbers("", "blk.0.ffn_gate.weight"),
        numbers("", "blk.1.ffn_up.weight"),
        numbers(",seed=1", "blk.0.ffn_up.weight"),
        numbers(",seed=9223372036854775807", "blk.0.ffn_up.weight"),
    ]
    related = np.corrcoef([numbers.ravel() for numbers in drawn])
    np.testing.assert_allclose(related, np.eye(len(drawn)), atol=0.006)


def test_a_seed_means_the_same_weights_for_ever() -> None:
    """A change here needs a new `GENERATOR`: capsules and figures name models by their seed."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in open_checkpoint(SMALL).tensors.values():
        digest.update(tensor.dequantise().tobytes())
    assert (random_model.GENERATOR, digest.hexdigest()) == (1, "d79f7901a888d803f959f7a8693d0836")


def test_numbers_are_normal() -> None:
    numbers = open_checkpoint("random:smollm2-135m,layers=1,vocabulary=4096").tensors["token_embd.weight"].dequantise()
    moments = [(numbers.astype(np.float64) ** power).mean() for power in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.15)
    rows = numbers @ numbers[0] / 24
    assert np.abs(rows[1:]).max() < 5.5
    assert rows[1:].std() == pytest.approx(1, abs=0.05)


def test_activations_stay_where_a_trained_model_has_them(watched: Watched) -> None:
    sizes = np.sqrt([(rows**2).mean(1) for rows in watched.made.hidden])
    assert sizes.min() > 1
    assert sizes.max() < 3
    assert (np.diff(sizes.mean(1)) > 0.1).all()
    logits = watched.made.logits
    assert logits.std(1) == pytest.approx(3, rel=0.15)
    # The text goes on differently after each token, and not with the token itself.
    assert len(set(logits.argmax(1))) > 0.9 * len(TEXT)
    assert (logits.argmax(1) == TEXT).sum() < 3


def test_gates_and_attention_are_neither_open_nor_shut(watched: Watched) -> None:
    assert watched.beta.mean() == pytest.approx(0.5, abs=0.02)
    assert watched.beta.std() == pytest.approx(0.21, abs=0.03)
    heads = np.sort(watched.decay.mean(1).ravel())
    assert 0.3 < heads[0] < 0.6
    assert 0.99 < heads[-len(heads) // 4] < heads[-1] < 0.9995
    tokens_seen = 1 / (watched.attention[:, -1] ** 2).sum(-1)
    assert 1.5 < tokens_seen.min() < tokens_seen.max() < len(TEXT) / 2


@pytest.mark.parametrize("state", ["kv", "recurrent", "conv"])
def test_what_is_dropped_from_the_state_changes_the_text(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    rule, convolve = reference.delta_rule, reference.convolve
    forgetful: dict[str, tuple[str, Any]] = {
        "kv": ("causal_softmax", lambda scores: np.broadcast_to(np.eye(scores.shape[-1]), scores.shape)),
        "recurrent": ("delta_rule", lambda q, k, v, beta, decay: rule(q, k, v, beta, 0 * decay)),
        "conv": ("convolve", lambda inputs, taps: convolve(inputs, taps * [0, 0, 0, 1])),
    }
    monkeypatch.setattr(reference, *forgetful[state])
    without = reference.forward(watched.shape, watched.weights, TEXT).logits
    assert (watched.made.logits.argmax(1) != without.argmax(1))[8:].mean() > 0.5


def test_llama_3_divides_its_frequencies() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = LlamaConfig(hidden_size=2048, num_attention_heads=32, rope_parameters=rope)
    plain = 500000.0 ** (-np.arange(0, 64, 2) / 64)
    found = open_checkpoint("random:llama-3.2-1b,vocabulary=300").tensors[ROPE_FACTORS].dequantise()
    np.testing.assert_allclose(plain / found, LlamaRotaryEmbedding(config).inv_freq.numpy(), rtol=1e-6)
    assert (found[0], found[-1]) == (1, 32)


def test_digest_is_of_the_recipe_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_model, "_draw", lambda *_: pytest.fail("a tensor was drawn"))
    name = "random:qwen3.5-0.8b,vocabulary=300"
    digests = {open_checkpoint(name).digest()}
    assert {open_checkpoint("random:qwen3.5-0.8b,seed=0,mtp=yes,vocabulary=300,layers=24").digest()} == digests
    others = [f"{name},seed=1", f"{name},layers=8", f"{name},mtp=no", "random:qwen3.5-0.8b,vocabulary=301"]
    digests |= {open_checkpoint(other).digest() for other in others}
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("random:", "there is no shape ''. Did you mean"),
        ("random:qwen3.5-08b", r"there is no shape 'qwen3.5-08b'. Did you mean qwen3.5-0.8b\?"),
        ("random:Qwen3.5-4B", r"Did you mean qwen3.5-4b\?"),
        ("random:smollm2-135m,layer=2", r"there is no option 'layer'. Did you mean layers\?"),
        ("random:smollm2-135m,", "there is no option ''"),
        ("random:smollm2-135m,layers", "layers= is not a number from 1 to 1024"),
        ("random:smollm2-135m,layers=0", "layers=0 is not a number from 1"),
        ("random:smollm2-135m,layers=1025", "layers=1025 is not"),
        ("random:qwen3.5-0.8b,layers=3", "layers=3 is not a number from 4"),
        ("random:smollm2-135m,seed=-1", "seed=-1 is not a number from 0"),
        ("random:smollm2-135m,seed=9223372036854775808", "seed=9223372036854775808 is not"),
        ("random:smollm2-135m,seed=" + 5000 * "9", "is not a number from 0"),
        ("random:smollm2-135m,seed=²", "seed=² is not"),
        ("random:smollm2-135m,vocabulary=258", "vocabulary=258 is not a number from 259"),
        ("random:smollm2-135m,seed=1,seed=2", "seed is there twice"),
        ("random:smollm2-135m,mtp=no", "smollm2-135m has no draft head"),
        ("random:qwen3.5-0.8b,mtp=maybe", "mtp=maybe is not yes or no"),
    ],
)
def test_a_name_that_means_nothing_is_refused(name: str, told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        open_checkpoint(name)


def test_the_vocabulary_is_bytes_marks_and_words_that_no_text_is_made_of() -> None:
    tokenizer = open_checkpoint("random:smollm2-135m,vocabulary=30000").tokenizer
    assert tokenizer.size == 30000 == len({tokenizer.token_text(id) for id in range(30000)})
    said = bytes(range(128)).decode() + " ba beba Straße 日本 <|im_end|>"
    ids = tokenizer.encode(said)
    assert tokenizer.decode(ids) == said
    assert len(ids) == len(said.encode())
    assert max(ids) < 259
    assert tokenizer.control_ids == {0, 1, 2}
    assert all(tokenizer.token_bytes(id).decode()[1:].isalpha() for id in range(259, 30000))
    assert {tokenizer.token_text(id) for id in tokenizer.eos_ids} == {"<|endoftext|>", "<|im_end|>"}


def test_it_holds_a_conversation() -> None:
    checkpoint = open_checkpoint(SMALL)
    chat = Chat(checkpoint.template(), checkpoint.tokenizer)
    opening, turn = chat.opening("Be brief."), chat.user_turn("Hello <|im_end|>")
    assert [id for id in opening + turn + chat.closing if id in checkpoint.tokenizer.control_ids] == [1, 2, 1, 2, 1, 2]
    engine = Engine.load(SMALL, format="fp32", threads=1)
    lane = engine.lane()
    lane.append_now(opening + turn)
    replies = lane.generate_now(Sampling(), 12)
    engine.close()
    assert len(set(replies)) > 6


def test_numbers_are_not_packed() -> None:
    tensor = open_checkpoint(SMALL).tensors["blk.0.ffn_up.weight"]
    assert not cpu.int4_fits(tensor)
    with pytest.raises(ValueError, match=r"blk.0.ffn_up.weight is BF16"):
        tensor.q4_parts()
