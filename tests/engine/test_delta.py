"""The gated delta rule: against float64, and the same bytes however the tokens are cut into calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.arena import CHUNK_TOKENS
from engine.backends import cpu_delta
from tests.engine import delta_reference as reference

KERNEL, CHUNKS, SLOTS = 4, 3, 4 * CHUNK_TOKENS
TOKENS = CHUNKS * CHUNK_TOKENS
WHOLE = (CHUNK_TOKENS,) * CHUNKS


def made(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def double(tensor: Tensor) -> reference.Array:
    return tensor.double().numpy()


def relative(found: Tensor, expected: reference.Array) -> float:
    return float(np.linalg.norm(double(found) - expected) / np.linalg.norm(expected))


class Net:
    """One layer from its projections on, with its part of the state, filled with what must not matter."""

    def __init__(self, key_heads: int, shared: int, key_dim: int, value_dim: int) -> None:
        self.key_heads, self.heads, self.key_dim, self.value_dim = key_heads, key_heads * shared, key_dim, value_dim
        self.width = 2 * key_heads * key_dim
        channels = self.width + self.heads * value_dim
        self.weight = made(1, channels, KERNEL)
        self.decay, self.bias = -made(2, self.heads).exp(), made(3, self.heads)
        self.norm = made(4, value_dim)
        self.inputs = made(5, TOKENS, channels)
        self.inputs[:, ::7] = 0
        self.inputs[:, -3:] = -0.0
        self.inputs = self.inputs.bfloat16()
        self.gates = made(6, 2, TOKENS, self.heads)
        self.gate = made(7, TOKENS, self.heads, value_dim).bfloat16()
        self.base = made(8, CHUNKS + 1, self.heads, key_dim, value_dim) * 1e4
        self.base[0] = 0
        self.keys = made(9, CHUNKS, key_heads, CHUNK_TOKENS, key_dim) * 1e30
        self.values = made(10, CHUNKS, self.heads, CHUNK_TOKENS, value_dim) * 1e30
        self.decays = made(11, CHUNKS, self.heads, CHUNK_TOKENS).double() * 1e30
        # A layer's inputs lie beside other layers'.
        self.ring = made(12, SLOTS, 2, channels).bfloat16()[:, 1]

    def read(self, position: int, count: int, padding: int = 0, inputs: Tensor | None = None) -> Tensor:
        """What the layer makes of some tokens, [count, heads, value_dim]. Rows of padding hold anything."""
        rows = slice(position, position + count)
        new, beta, alpha, gate = (
            torch.cat([part, part.new_full((padding, *part.shape[1:]), 3e4)])
            for part in ((self.inputs if inputs is None else inputs)[rows], *self.gates[:, rows], self.gate[rows])
        )
        seen = cpu_delta.convolve(self.ring, new, self.weight, position, count)
        pairs = cpu_delta.normalise(seen[:, : self.width].unflatten(1, (2, self.key_heads, self.key_dim)))
        value = seen[:, self.width :].unflatten(1, (self.heads, self.value_dim))
        strength, log_decay = cpu_delta.gates(beta, alpha, self.decay, self.bias)
        chunk, offset = divmod(position, CHUNK_TOKENS)
        memory = (self.base[chunk], self.keys[chunk], self.values[chunk], self.decays[chunk])
        read = cpu_delta.delta_rule(*memory, pairs, value, log_decay, strength, offset, count)
        if offset + count == CHUNK_TOKENS:
            cpu_delta.fold(*memory, self.base[chunk + 1])
        return cpu_delta.gated_norm(read, gate, self.norm, 1e-6)[:count]

    def read_all(self, lengths: Sequence[int], padding: int = 0) -> list[bytes]:
        """Bytes of all that is made and kept when all tokens are read in calls of some lengths."""
        position = 0
        read: list[Tensor] = []
        for length in lengths:
            read.append(self.read(position, length, padding))
            position += length
        assert position == TOKENS
        kept = (torch.cat(read), self.base, self.keys, self.values, self.decays, self.ring[:TOKENS])
        return [tensor.contiguous().view(torch.uint8).numpy().tobytes() for tensor in kept]


SHAPES = [(2, 1, 128, 128), (2, 2, 128, 64), (1, 3, 32, 24), (2, 1, 16, 8)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small gain nothing from more, and wait for each other where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


@st.composite
def lengths_of_calls(draw: st.DrawFn) -> list[int]:
    """Calls of 1 to 64 tokens that pass no multiple of 64."""
    lengths: list[int] = []
    most = draw(st.sampled_from([1, 3, 5, 17, 40, CHUNK_TOKENS]))
    for _ in range(CHUNKS):
        left = CHUNK_TOKENS
        while left:
            lengths.append(draw(st.integers(1, min(most, left))))
            left -= lengths[-1]
    return lengths


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_does_not_depend_on_how_tokens_are_cut_into_calls(shape: tuple[int, int, int, int]) -> None:
    expected = Net(*shape).read_all(WHOLE)

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(lengths_of_calls(), st.integers(0, 3))
    def check(lengths: list[int], padding: int) -> None:
        assert Net(*shape).read_all(lengths, padding) == expected

    check()
    assert Net(*shape).read_all([1] * TOKENS) == expected


def test_the_number_of_threads_changes_no_bit() -> None:
    found: list[list[bytes]] = []
    for threads, lengths in ((1, WHOLE), (2, [CHUNK_TOKENS, 1, 2, 20, 41, CHUNK_TOKENS])):
        torch.set_num_threads(threads)
        found.append(Net(4, 2, 128, 128).read_all(lengths))
    assert found[1] == found[0]


def test_nothing_above_the_position_is_read_or_written() -> None:
    net, other = Net(2, 2, 32, 32), Net(2, 2, 32, 32)
    for tensor in (other.keys, other.values, other.decays, other.ring, other.base[1:]):
        tensor.neg_()
    above = [tensor.clone() for tensor in (other.keys, other.values, other.decays)]
    base, ring = other.base.clone(), other.ring.clone()
    for position, count in ((0, 5), (5, 1), (6, 14)):
        assert torch.equal(net.read(position, count), other.read(position, count, padding=4))
    for tensor, before in zip((other.keys, other.values, other.decays), above, strict=True):
        assert torch.equal(tensor[0, :, 20:], before[0, :, 20:])
        assert torch.equal(tensor[1:], before[1:])
    assert torch.equal(other.base, base)
    assert torch.equal(other.ring[20:], ring[20:])


def test_going_back_is_a_number() -> None:
    net, fresh = Net(2, 2, 64, 64), Net(2, 2, 64, 64)
    said = made(13, *net.inputs.shape).bfloat16()
    said[:70] = net.inputs[:70]
    for start, count in ((0, 64), (64, 6)):
        net.read(start, count)
        fresh.read(start, count)
    for start, count in ((70, 58), (128, 30)):
        net.read(start, count)
    for start, count in ((70, 20), (90, 38), (128, 64)):
        assert torch.equal(net.read(start, count, inputs=said), fresh.read(start, count, inputs=said))


def test_a_grid_that_is_not_at_multiples_of_the_chunk_gives_other_bits() -> None:
    """The comparison has teeth: a state cut elsewhere is as good a state, and not the same one."""
    net, cut = Net(2, 1, 64, 64), Net(2, 1, 64, 64)
    rows = 40
    whole = net.read(0, CHUNK_TOKENS)
    first = cut.read(0, rows)
    for tensor in (cut.keys, cut.values):
        tensor[0, :, rows:] = 0
    cut.decays[0, :, rows:] = cut.decays[0, :, rows - 1 : rows]
    cpu_delta.fold(cut.base[0], cut.keys[0], cut.values[0], cut.decays[0], cut.base[1])
    # The tokens from the cut on are read as if a chunk began there.
    shifted = torch.cat([cut.inputs[:rows], cut.inputs[:24], cut.inputs[rows:]])
    cut.gates = torch.cat([cut.gates[:, :CHUNK_TOKENS], cut.gates[:, rows:]], dim=1)
    cut.gate = torch.cat([cut.gate[:CHUNK_TOKENS], cut.gate[rows:]])
    cut.ring[CHUNK_TOKENS - KERNEL + 1 : CHUNK_TOKENS] = cut.ring[rows - KERNEL + 1 : rows]
    second = cut.read(CHUNK_TOKENS, CHUNK_TOKENS - rows, inputs=shifted)
    assert torch.equal(first, whole[:rows])
    torch.testing.assert_close(second, whole[rows:], rtol=1e-4, atol=1e-5)
    assert not torch.equal(second, whole[rows:])


def test_without_the_mask_what_lies_above_would_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Net(2, 1, 16, 8).read(0, 5)
    monkeypatch.setattr(cpu_delta, "_UNSEEN", torch.zeros(2 * cpu_delta.TILE_TOKENS + 2, 1, dtype=torch.bool))
    assert not torch.equal(Net(2, 1, 16, 8).read(0, 5), expected)


def test_the_rule_is_the_sequential_one_over_a_long_text() -> None:
    """Two thousand tokens at the decays of slow and fast heads."""
    tokens, heads, width = 2048, 4, 128
    raw = made(20, tokens, 2, 2, width)
    pairs = cpu_delta.normalise(raw)
    value, beta = made(21, tokens, heads, width), torch.sigmoid(made(22, tokens, heads))
    mean = torch.tensor([0.9986, 0.978, 0.873, 0.534])
    log_decay = mean.log() * (0.5 + torch.from_numpy(np.random.default_rng(23).random((tokens, heads))).float())
    state = torch.zeros(tokens // CHUNK_TOKENS + 1, heads, width, width)
    keys, values = torch.zeros(2, CHUNK_TOKENS, width), torch.zeros(heads, CHUNK_TOKENS, width)
    decay = torch.zeros(heads, CHUNK_TOKENS, dtype=torch.float64)
    read: list[Tensor] = []
    for chunk in range(tokens // CHUNK_TOKENS):
        memory = (state[chunk], keys, values, decay)
        for offset, count in ((0, 20), (20, 1), (21, 43)):
            first = chunk * CHUNK_TOKENS + offset
            rows = slice(first, first + count)
            spare = torch.zeros(cpu_delta.padded(count) - count, heads, width)
            padded = torch.cat([pairs[rows], spare.view(-1, 2, 2, width)])
            wanted = torch.cat([value[rows], spare])
            read.append(cpu_delta.delta_rule(*memory, padded, wanted, log_decay[rows], beta[rows], offset, count))
        cpu_delta.fold(*memory, state[chunk + 1])
    inputs = (pairs[:, cpu_delta.QUERY], pairs[:, cpu_delta.KEY], value, log_decay, beta)
    expected, last = reference.delta_rule(*map(double, inputs))
    found = torch.cat(read)
    for head in range(heads):
        assert relative(found[:, head], expected[:, head]) <= 5e-6
        assert relative(state[-1, head], last[head]) <= 5e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_is_its_formula(shape: tuple[int, int, int, int]) -> None:
    net = Net(*shape)
    found = torch.cat([net.read(0, 50), net.read(50, 14), net.read(64, 64)])
    inputs, tokens = double(net.inputs[:128]), 128
    seen = reference.convolution(inputs, double(net.weight))
    query, key = seen[:, : net.width].reshape(tokens, 2, net.key_heads, net.key_dim).swapaxes(0, 1)
    query, key = reference.unit(query) * net.key_dim**-0.5, reference.unit(key)
    value = seen[:, net.width :].reshape(tokens, net.heads, net.value_dim)
    beta, alpha = double(net.gates[:, :tokens])
    strength, log_decay = reference.gates(beta, alpha, double(net.decay), double(net.bias))
    read, state = reference.delta_rule(query, key, value, log_decay, strength)
    expected = reference.gated_norm(read, double(net.gate[:tokens]), double(net.norm), 1e-6)
    assert relative(found, expected) <= 5e-6
    assert relative(net.base[2], state) <= 5e-6


def test_the_small_parts_are_their_formulas() -> None:
    inputs, weight = made(30, 40, 96).bfloat16(), made(31, 96, KERNEL)
    ring = made(32, 64, 96).bfloat16()
    found = torch.cat([cpu_delta.convolve(ring, inputs[a:b], weight, a, b - a)[: b - a] for a, b in ((0, 2), (2, 40))])
    assert relative(found, reference.convolution(double(inputs), double(weight))) <= 1e-6
    assert torch.equal(ring[:40], inputs)

    pairs = made(33, 6, 2, 3, 32) * torch.tensor([1e-4, 1.0, 1e3]).unsqueeze(1)
    found, expected = cpu_delta.normalise(pairs), reference.unit(double(pairs))
    for head in range(3):
        assert relative(found[:, cpu_delta.QUERY, head], expected[:, 0, head] * 32**-0.5) <= 1e-6
        assert relative(found[:, cpu_delta.KEY, head], expected[:, 1, head]) <= 1e-6

    beta, alpha = made(34, 2, 50, 5) * 20.0
    decay, bias = -made(35, 5).exp(), made(36, 5)
    wanted = reference.gates(*map(double, (beta, alpha, decay, bias)))
    for found, expected in zip(cpu_delta.gates(beta, alpha, decay, bias), wanted, strict=True):
        assert relative(found, expected) <= 1e-6
        # The sum in the exponent is rounded, so small results are less exact than large ones.
        np.testing.assert_allclose(double(found), expected, rtol=1e-5, atol=1e-37)

    read, gate, norm = made(37, 9, 3, 32) * 1e-2, made(38, 9, 3, 32).bfloat16(), made(39, 32)
    expected = reference.gated_norm(double(read), double(gate), double(norm), 1e-6)
    assert relative(cpu_delta.gated_norm(read, gate, norm, 1e-6), expected) <= 1e-6


def test_the_ring_turns() -> None:
    inputs, weight = made(40, 256, 8).bfloat16(), made(41, 8, KERNEL)
    ring = torch.zeros(SLOTS // 2, 8, dtype=torch.bfloat16)
    found = torch.cat([cpu_delta.convolve(ring, inputs[a : a + 32], weight, a, 32)[:32] for a in range(0, 256, 32)])
    assert relative(found, reference.convolution(double(inputs), double(weight))) <= 1e-6
