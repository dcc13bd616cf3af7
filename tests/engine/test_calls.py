"""Calls of the model that fail, wherever they do, and what the calls before one must not change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.backends import cpu, cpu_delta
from engine.errors import BackendError, ModelFileError
from engine.models.decoder import Decoder
from engine.session import Engine
from engine.state import LaneState
from engine.weights.checkpoint import open_checkpoint
from engine.weights.gguf import PackedTensor
from tests.engine import hybrid, tiny

CAPACITY = 300
TEXT: list[int] = np.random.default_rng(1).integers(0, tiny.VOCABULARY, CAPACITY).tolist()
PLACES = [(0, 3), (61, 3), (130, 40), (250, 6), (298, 2)]
"""Position and tokens of a call: at the start, filling a chunk, over a tile, after the ring has turned, at the end."""
SHAPE = hybrid.SHAPES["two value heads a key head"]


class Loaded(NamedTuple):
    """A model without an engine around it."""

    model: Decoder

    def state_of(self, tokens: list[int]) -> LaneState:
        """A new state that has read a text."""
        state = LaneState(self.model.spec, CAPACITY, self.model.dtype)
        while state.position < len(tokens):
            self.model.forward(state, tokens[state.position :][: self.model.room(state.position)])
        return state


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


def write(folder: Path, kind: str, **how: Any) -> Path:
    if kind == "hybrid":
        return hybrid.write_gguf(folder / "m.gguf", SHAPE, hybrid.reference(SHAPE), hybrid.draft_head(SHAPE), **how)
    return tiny.write(folder / "m.gguf", tiny.Shape(), tiny.reference(tiny.Shape()))


@pytest.fixture(params=["dense", "hybrid"], scope="module")
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    path = write(tmp_path_factory.mktemp("calls"), request.param)
    with torch.inference_mode():
        return Loaded(Decoder(open_checkpoint(path), "fp32", CAPACITY))


class FailAt(TorchDispatchMode):
    """Lets an operation fail, counted from 1."""

    def __init__(self, last: int = 0) -> None:
        super().__init__()
        self.last, self.count = last, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if self.count == self.last:
            raise MemoryError(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("position", "count"), PLACES)
def test_a_call_that_fails_half_way_changes_nothing(loaded: Loaded, position: int, count: int) -> None:
    """In any of its operations: what is live stays, and the next call makes the bytes of one that never failed."""
    model, tokens = loaded.model, TEXT[position : position + count]
    wanted = loaded.state_of(TEXT[: position + count])
    state = loaded.state_of(TEXT[:position])
    before = state.arena.digests(position)
    # The first call of a length makes views that later ones find.
    for _ in range(2):
        other = loaded.state_of(TEXT[:position])
        with FailAt() as counted:
            model.forward(other, tokens)
    for last in np.linspace(1, counted.count, 25, dtype=int).tolist():
        with pytest.raises(MemoryError), FailAt(last):
            model.forward(state, tokens)
        assert (state.position, state.arena.digests(position)) == (position, before), last
    model.forward(state, tokens)
    assert state.arena.digests(state.position) == wanted.arena.digests(wanted.position)


def test_a_commit_that_fails_changes_nothing(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    state = loaded.state_of(TEXT[:70])
    before = state.arena.digests(70)

    def broken(_digest: bytes, _token: int) -> bytes:
        raise MemoryError

    monkeypatch.setattr("engine.state.next_lineage", broken)
    with pytest.raises(MemoryError):
        loaded.model.forward(state, TEXT[70:73])
    assert (state.position, state.arena.digests(70)) == (70, before)


def test_tokens_may_be_numbers_of_numpy(loaded: Loaded) -> None:
    array: Any = list(np.array(TEXT[:70]))
    assert loaded.state_of(array).arena.digests(70) == loaded.state_of(TEXT[:70]).arena.digests(70)


@pytest.mark.parametrize(("position", "count"), PLACES)
def test_what_is_no_number_is_refused_and_leaves_nothing_behind(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, position: int, count: int
) -> None:
    """It would spread through products with rows that weigh nothing."""
    tokens = TEXT[position : position + count]
    state = loaded.state_of(TEXT[:position])
    before = state.arena.digests(position)

    def overflow(rows: Tensor) -> Tensor:
        return torch.full_like(rows, torch.nan)

    with monkeypatch.context() as patch:
        patch.setattr(cpu, "silu", overflow)
        with pytest.raises(BackendError, match="is not finite"):
            loaded.model.forward(state, tokens)
    assert (state.position, state.arena.digests(position)) == (position, before)
    for token in TEXT[position:]:
        loaded.model.forward(state, [token])
    assert state.arena.digests(CAPACITY) == loaded.state_of(TEXT).arena.digests(CAPACITY)


def test_logits_use_as_many_threads_after_any_call(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    monkeypatch.setattr(loaded.model, "_threads", 2)
    found: list[int] = []
    for count in (1, 60):
        state = loaded.state_of(TEXT[:64])
        loaded.model.forward(state, TEXT[64 : 64 + count])
        loaded.model.logits(state)
        found.append(torch.get_num_threads())
    assert found[0] == found[1]


@pytest.mark.parametrize("width", [1528, 3584])
def test_an_element_has_the_same_bits_wherever_it_lies(width: int) -> None:
    """However many threads share a call: torch's own silu, cut by three of them, has not."""
    generator = torch.Generator().manual_seed(0)
    rows = 3 * torch.randn(64, 2 * width, generator=generator)
    bias, decay = torch.randn(2, width, generator=generator)

    def elements(some: Tensor) -> Tensor:
        first, second = some.chunk(2, dim=1)
        return torch.cat([cpu.silu(first), *cpu_delta.gates(first, second, decay, bias)], dim=1)

    torch.set_num_threads(1)
    alone = torch.cat([elements(row) for row in rows.split(1)])
    torch.set_num_threads(3)
    for count in (1, 13, 23, 44, 61, 64):
        assert torch.equal(elements(rows[:count]), alone[:count])


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = tiny.reference(tiny.Shape())
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = torch.inf
    path = tiny.write(tmp_path / "m.gguf", tiny.Shape(), model)
    with pytest.raises(ModelFileError, match=r"tensor blk.1.ffn_up.weight holds what is no number"):
        Engine.load(path, format="bf16")


@pytest.mark.parametrize("weight_format", ["int4", "fp32"])
def test_scales_that_are_no_numbers_are_refused(tmp_path: Path, weight_format: str) -> None:
    path = write(tmp_path, "hybrid", quant="Q4_0")
    tensor = open_checkpoint(path).tensors["blk.2.ffn_down.weight"]
    assert isinstance(tensor, PackedTensor)
    block = tensor.blocks[1, :18].tobytes()
    path.write_bytes(path.read_bytes().replace(block, np.float16(np.nan).tobytes() + block[2:]))
    with pytest.raises(ModelFileError, match=r"tensor blk.2.ffn_down.weight holds what is no number"):
        Engine.load(path, format=weight_format)
