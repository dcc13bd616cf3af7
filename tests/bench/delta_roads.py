"""Three ways to keep the state of a gated delta net, side by side: `python -m tests.bench.delta_roads [--threads N]`.

    sequential  one state, changed in place with every token, as engines usually keep it
    recompute   the state at the start of the chunk and the chunk's inputs; each call computes it again from its start
    factors     the state at the start of the chunk and what each token since then added: engine/backends/cpu_delta.py

Prints microseconds a layer, the rule alone: the median, and the least tenth in brackets. Every layer of the model has
its own memory and they take turns, so a state is as cold as another layer's work leaves it. Then what each writes for a
token, and how far it can go back without a copy that was made before.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from app.machine import describe
from engine.arena import CHUNK_TOKENS
from engine.backends import cpu_delta
from engine.spec import DeltaSpec
from engine.state import RING_CHUNKS

MODELS = {
    "0.8B": (18, DeltaSpec(key_heads=16, value_heads=16, key_dim=128, value_dim=128, kernel=4, interval=4)),
    "4B": (24, DeltaSpec(key_heads=16, value_heads=32, key_dim=128, value_dim=128, kernel=4, interval=4)),
}
COUNTS_TOKENS = (1, 4, 20, 64)


class Layer(NamedTuple):
    """What one layer keeps, in the order in which `fold` takes it."""

    base: Tensor
    keys: Tensor
    values: Tensor
    decay: Tensor
    next_base: Tensor


class Tokens(NamedTuple):
    """A chunk of tokens, in the order in which `delta_rule` takes them."""

    pairs: Tensor
    value: Tensor
    log_decay: Tensor
    beta: Tensor

    def part(self, first: int, count: int) -> Tokens:
        """Some of them, with the rows to spare that the rule asks for."""
        rows = slice(first, first + cpu_delta.padded(count))
        return Tokens(self.pairs[rows], self.value[rows], *(gate[first : first + count] for gate in self[2:]))


Road = Callable[[Layer, Tokens, int, int], object]


def sequential(layer: Layer, tokens: Tokens, first: int, count: int) -> Tensor:
    """Decay, read, write, for each token in turn."""
    state = layer.base
    shared = len(state) // len(layer.keys)
    kept = tokens.log_decay.exp()
    read: list[Tensor] = []
    for token in range(first, first + count):
        query, key = (row.repeat_interleave(shared, 0).unsqueeze(1) for row in tokens.pairs[token])
        state.mul_(kept[token].view(-1, 1, 1))
        missed = tokens.value[token].unsqueeze(1) - torch.bmm(key, state)
        state.baddbmm_(key.mT, missed * tokens.beta[token].view(-1, 1, 1))
        read.append(torch.bmm(query, state))
    return torch.cat(read, 1)


def recompute(layer: Layer, tokens: Tokens, first: int, count: int) -> Tensor:
    """All of the chunk again, and the next chunk's state when it is full."""
    return factors(layer, tokens, 0, first + count)


def factors(layer: Layer, tokens: Tokens, first: int, count: int) -> Tensor:
    """The new tokens alone, and the next chunk's state when the chunk is full."""
    read = cpu_delta.delta_rule(*layer[:4], *tokens.part(first, count), first, count)
    if first + count == CHUNK_TOKENS:
        cpu_delta.fold(*layer)
    return read


ROADS: tuple[Road, ...] = (sequential, recompute, factors)


def memory(layers: int, delta: DeltaSpec) -> Iterator[Layer]:
    """Every layer's part of the state, with plausible numbers."""
    for _ in range(layers):
        yield Layer(
            torch.randn(delta.value_heads, delta.key_dim, delta.value_dim) / 10,
            torch.nn.functional.normalize(torch.randn(delta.key_heads, CHUNK_TOKENS, delta.key_dim), dim=-1),
            torch.randn(delta.value_heads, CHUNK_TOKENS, delta.value_dim),
            -torch.rand(delta.value_heads, CHUNK_TOKENS, dtype=torch.float64).cumsum(1),
            torch.zeros(delta.value_heads, delta.key_dim, delta.value_dim),
        )


def chunk_of(delta: DeltaSpec) -> Tokens:
    """A chunk's tokens."""
    rows = cpu_delta.padded(CHUNK_TOKENS)
    return Tokens(
        cpu_delta.normalise(torch.randn(rows, 2, delta.key_heads, delta.key_dim)),
        torch.randn(rows, delta.value_heads, delta.value_dim),
        -torch.rand(rows, delta.value_heads),
        torch.rand(rows, delta.value_heads),
    )


def times_us(
    road: Road, layers: list[Layer], tokens: Tokens, count: int, clock: Callable[[], float], seconds: float
) -> list[float]:
    """How long a layer takes by a clock, at places all over the chunk in turn."""
    places = itertools.cycle(range(0, CHUNK_TOKENS - count + 1, min(count, 7)))
    taken: list[float] = []
    end_s = time.perf_counter() + seconds
    while len(taken) < 3 * len(layers) or time.perf_counter() < end_s:
        first = next(places)
        for layer in layers:
            start_s = clock()
            road(layer, tokens, first, count)
            taken.append((clock() - start_s) * 1e6)
    return taken[len(layers) :]


def written_bytes(delta: DeltaSpec) -> dict[str, tuple[float, str]]:
    """For each road: bytes that a token writes in a layer, and how many tokens can be taken back."""
    state = 4 * delta.value_heads * delta.key_dim * delta.value_dim
    rows = 4 * (delta.key_heads * delta.key_dim + delta.value_heads * delta.value_dim)
    gates, sums = 2 * 4 * delta.value_heads, 8 * delta.value_heads
    reach = f"{(RING_CHUNKS - 1) * CHUNK_TOKENS} to {RING_CHUNKS * CHUNK_TOKENS - 3}"
    return {
        "sequential": (state, "none"),
        "recompute": (rows + gates + state / CHUNK_TOKENS, f"{reach} with {RING_CHUNKS} chunks, then computes again"),
        "factors": (rows + sums + state / CHUNK_TOKENS, f"{reach} with {RING_CHUNKS} chunks"),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    torch.manual_seed(0)
    # As when a model is loaded: once a block this large is freed, glibc keeps blocks of ours instead of returning them.
    torch.empty(30 << 20, dtype=torch.uint8)
    machine = describe()
    print(f"{machine.cpu}, {machine.cores} cores, {' '.join(machine.features)}, torch {machine.torch}")
    # What else runs on the machine stops one thread's own clock, which others would not be counted by.
    clock, named = (time.thread_time, "processor") if wanted.threads == 1 else (time.perf_counter, "wall")
    print(f"{wanted.threads} threads, {named} time; us a layer: median (least tenth)")
    with torch.inference_mode():
        for name, (layers, delta) in MODELS.items():
            print(f"\n{name}: {layers} layers, {delta.key_heads} key heads, {delta.value_heads} value heads")
            print(f"{'tokens':>12}" + "".join(f"{count:>17}" for count in COUNTS_TOKENS))
            state, tokens = list(memory(layers, delta)), chunk_of(delta)
            for road in ROADS:
                cells = [times_us(road, state, tokens, count, clock, wanted.seconds) for count in COUNTS_TOKENS]
                percentiles = (np.percentile(cell, [50, 10]) for cell in cells)
                print(f"{road.__name__:>12}" + "".join(f"{p50:>9.0f} ({p10:5.0f})" for p50, p10 in percentiles))
            for road, (size, window) in written_bytes(delta).items():
                print(f"{road:>12} writes {size:>9.0f} bytes a token and layer; tokens to take back: {window}")


if __name__ == "__main__":
    main()
