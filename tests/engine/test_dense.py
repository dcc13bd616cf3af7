"""The forward pass against transformers, and rows that don't depend on the call they are in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.backends.rows import RowPlan
from engine.errors import BackendError
from engine.sampler import Sampling
from engine.session import Engine, Lane
from tests.engine import tiny
from tests.engine.tiny import Shape

GREEDY = Sampling()
SHAPES = {
    "tied": Shape(),
    "untied": Shape(tied=False),
    "nine heads on three": Shape(hidden=72, query_heads=9, kv_heads=3, head_dim=8),
    "as many kv heads": Shape(query_heads=4, kv_heads=4),
    "one kv head": Shape(query_heads=6, kv_heads=1, head_dim=16),
    "scaled rope": Shape(head_dim=16, scaled_rope=True),
    "head norms": Shape(architecture="qwen3", head_dim=20, tied=False),
}


def load(path: Path, weight_format: str = "fp32", threads: int = 2) -> Engine:
    return Engine.load(path, format=weight_format, context_tokens=512, threads=threads)


def score(lane: Lane, tokens: list[int]) -> Tensor:
    """Logits after each token, float32[n, vocabulary], from calls of one token."""
    return torch.cat([lane.score_now([token]) for token in tokens])


def some_tokens(count: int, seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(0, tiny.VOCABULARY, count).tolist()


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    model = tiny.reference(shape)
    engine = load(tiny.write(tmp_path / "m.gguf", shape, model))
    tokens = some_tokens(150)
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0]
    got = score(engine.lane(), tokens)
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_greedy_text_is_that_of_transformers(tmp_path: Path) -> None:
    shape = SHAPES["nine heads on three"]
    model = tiny.reference(shape)
    engine = load(tiny.write(tmp_path / "m.gguf", shape, model))
    prompt = some_tokens(20)
    wanted = model.generate(
        torch.tensor([prompt]), max_new_tokens=100, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    lane = engine.lane()
    lane.append_now(prompt)
    assert lane.generate_now(GREEDY, 100, stop_ids=()) == wanted[0, 20:].tolist()


@pytest.mark.parametrize("weight_format", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["tied", "nine heads on three", "one kv head"])
def test_a_row_does_not_depend_on_its_call(name: str, weight_format: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    engine = load(tiny.write(tmp_path / "m.gguf", shape, tiny.reference(shape)), weight_format)
    tokens = some_tokens(200)
    whole = engine.lane()
    whole.append_now(tokens)
    cuts = np.random.default_rng(2)
    for _ in range(4):
        lane, read = engine.lane(), 0
        while read < len(tokens):
            part = tokens[read : read + int(cuts.integers(1, 30))]
            lane.append_now(part)
            read += len(part)
        assert lane.region_digests() == whole.region_digests()


def test_where_rows_depend_on_their_call_the_plan_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check at load has teeth: a product whose bits depend on the number of rows is found out."""
    shape = SHAPES["tied"]
    path = tiny.write(tmp_path / "m.gguf", shape, tiny.reference(shape))
    linear = torch.nn.functional.linear

    def moody(rows: Tensor, weight: Tensor) -> Tensor:
        return linear(rows, weight) * (1.0 + 1e-6 * len(rows))

    monkeypatch.setattr("engine.backends.rows._found", {})
    monkeypatch.setattr("engine.backends.cpu.torch.nn.functional.linear", moody)
    assert load(path).model.rows == RowPlan(32, 32)


def test_int4_wants_four_bit_blocks(tmp_path: Path) -> None:
    shape = SHAPES["tied"]
    path = tiny.write(tmp_path / "m.gguf", shape, tiny.reference(shape))
    with pytest.raises(BackendError, match=r"attn_q.weight is packed as F32"):
        load(path, "int4")
    with pytest.raises(BackendError, match="no format 'int3'"):
        load(path, "int3")


PROMPTS = 20
PROMPT_TOKENS = 12
NEW_TOKENS = 64


class Reference(NamedTuple):
    """What transformers makes of the real model."""

    prompts: list[list[int]]
    replies: list[list[int]]


@pytest.fixture(scope="module")
def real(llm_path: Path) -> Reference:
    """Greedy replies of transformers in fp32, on weights dequantised by the gguf package."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    weights = dict(dequantised(llm_path))
    model.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    prompts = real_prompts(llm_path)
    with torch.inference_mode():
        texts = model.eval().generate(
            torch.tensor(prompts), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    return Reference(prompts, texts[:, PROMPT_TOKENS:].tolist())


def dequantised(path: Path) -> Iterator[tuple[str, Tensor]]:
    """All weights by transformers' names, through the gguf package alone."""
    import gguf

    theirs = {ours: name for name, ours in tiny.names(30).items()}
    for tensor in gguf.GGUFReader(path).tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        name = tensor.name.removesuffix(".weight")
        if "attn_q" in name or "attn_k" in name:
            numbers = numbers.reshape(-1, 32, 2, numbers.shape[-1]).swapaxes(1, 2).reshape(numbers.shape)
        yield f"{theirs[name]}.weight", torch.from_numpy(numbers.copy())


def real_prompts(path: Path) -> list[list[int]]:
    """Beginnings of different texts, all of one length, so that the reference needs no padding."""
    text = (
        "The capital of France is a city on the river Seine, and many people who visit it for the first time say that "
        "its bridges are what they remember. When water boils in a pot, small bubbles rise from the bottom because the "
        "heat turns it into steam. Once upon a time there was a king who had three daughters, and the youngest of them "
        "could not keep a secret. To bake bread at home you need flour, water, salt, yeast and a little patience. In "
        "1969 two men walked on the moon while a third one waited above them. A good friend is someone who listens "
        "before giving advice. def add(a, b): return a + b. Whales are not fish; they breathe air and feed milk. If "
        "it rains tomorrow, we will stay inside and play chess by the window until the sky clears up. The old clock "
        "in the hall had stopped at a quarter past nine, and nobody in the village knew how to mend it any more."
    )
    engine_tokens = Engine.load(path, format="int4", context_tokens=64).tokenizer.encode(text)
    stride = (len(engine_tokens) - PROMPT_TOKENS) // (PROMPTS - 1)
    return [engine_tokens[at * stride : at * stride + PROMPT_TOKENS] for at in range(PROMPTS)]


def predictions(engine: Engine, reference: Reference) -> np.ndarray:
    """The most likely token at each place of the reference's replies, int64[prompts, new tokens]."""
    found: list[list[int]] = []
    lane = engine.lane()
    empty = lane.mark()
    for prompt, reply in zip(reference.prompts, reference.replies, strict=True):
        lane.roll_back(empty)
        logits = lane.score_now([*prompt, *reply[:-1]])
        found.append(logits[PROMPT_TOKENS - 1 :].argmax(1).tolist())
    return np.array(found)


@pytest.mark.models
def test_real_greedy_text_is_that_of_transformers(llm_path: Path, real: Reference) -> None:
    """20 prompts, 64 tokens each.

    A greedy text is one whose every token is the most likely after those before it. All 20 are checked so, in calls of
    many tokens, whose rows have the bits of single steps; two are decoded step by step as well.
    """
    engine = load(llm_path, "fp32", threads=1)
    assert predictions(engine, real).tolist() == real.replies
    lane = engine.lane()
    empty = lane.mark()
    for prompt, reply in list(zip(real.prompts, real.replies, strict=True))[::10]:
        lane.roll_back(empty)
        lane.append_now(prompt)
        assert lane.generate_now(GREEDY, NEW_TOKENS, stop_ids=()) == reply


@pytest.mark.models
@pytest.mark.parametrize(("weight_format", "least"), [("bf16", 0.98), ("int4", 0.96)])
def test_real_formats_agree_with_fp32(weight_format: str, least: float, llm_path: Path, real: Reference) -> None:
    agreement = (predictions(load(llm_path, weight_format, threads=1), real) == np.array(real.replies)).mean()
    assert agreement >= least


def test_the_reference_has_teeth(tmp_path: Path) -> None:
    """Two rows of values in each other's place are seen in the logits."""
    shape = SHAPES["tied"]
    model = tiny.reference(shape)
    path = tiny.write(tmp_path / "m.gguf", shape, model)
    first, second = (row.numpy().tobytes() for row in model.state_dict()["model.layers.0.self_attn.v_proj.weight"][:2])
    path.write_bytes(path.read_bytes().replace(first + second, second + first))
    tokens = some_tokens(40)
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0]
    assert (score(load(path).lane(), tokens) - wanted).abs().max() > 0.01
