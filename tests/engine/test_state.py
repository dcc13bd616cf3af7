"""The registry: what is live at a position, and that everything is made from it."""

from __future__ import annotations

import pytest
import torch

from engine.arena import Arena, Region, dead_tail, digests
from engine.spec import ModelSpec
from engine.state import LaneState, declare

SPEC = ModelSpec(
    architecture="llama",
    layers=2,
    hidden=16,
    feed_forward=32,
    query_heads=4,
    kv_heads=2,
    head_dim=4,
    vocabulary=50,
    context_tokens=300,
    rope_base=10000.0,
    norm_epsilon=1e-5,
    tied_head=True,
    head_norms=False,
    rotary_halves=False,
    rope_factors=False,
)
EDGES = (0, 1, 63, 64, 65, 127, 128, 129, 300)


def filled() -> LaneState:
    """A state with something everywhere."""
    state = LaneState(SPEC, 300, torch.bfloat16)
    for tensor in state.arena.tensors.values():
        tensor.copy_((torch.arange(tensor.numel()) % 50 + 1).view(tensor.shape))
    return state


def digests_at(state: LaneState, position: int) -> dict[str, str]:
    return digests(state.arena.true_regions(), state.arena.tensors, position)


def test_the_cache_of_a_position_is_one_run_of_bytes() -> None:
    kv = next(region for region in declare(SPEC, 300, torch.bfloat16) if region.name == "kv")
    assert kv.shape == (5, 2, 2, 2, 64, 4)
    assert [kv.live_rows(position) for position in EDGES] == [0, 1, 1, 1, 2, 2, 2, 3, 5]
    state = LaneState(SPEC, 300, torch.bfloat16)
    assert state.kv[:3].is_contiguous()


@pytest.mark.parametrize("position", EDGES)
def test_a_digest_covers_all_live_bytes_and_no_others(position: int) -> None:
    state = filled()
    before = digests_at(state, position)
    for block in range(5):
        for token in range(64):
            state.kv[block, 1, 0, 1, token, 2] += 1
            changed = digests_at(state, position) != before
            state.kv[block, 1, 0, 1, token, 2] -= 1
            assert changed == (block * 64 + token < position)
    for name in ("hidden", "counters"):
        state.arena.tensors[name][1] += 1
        assert digests_at(state, position)[name] != before[name]


def test_the_dead_tail_is_what_the_digest_leaves_out() -> None:
    state = filled()
    region = next(region for region in state.arena.regions if region.name == "kv")
    before = digests_at(state, 70)
    tail = dead_tail(region, state.kv, 70)
    assert tail is not None
    assert tail.shape == (2, 2, 2, 58, 4)
    tail.zero_()
    assert digests_at(state, 70) == before
    assert dead_tail(region, state.kv, 128) is None


def test_the_report_counts_every_byte() -> None:
    state = LaneState(SPEC, 300, torch.bfloat16)
    usage = {row.name: row for row in state.arena.usage(65)}
    assert usage["kv"] == ("kv", 5 * 4096, 2 * 4096)
    assert usage["journal"] == ("journal", 1200, 260)
    assert state.arena.live_bytes(65) == 2 * 4096 + 260 + 64 + 16


def test_derived_regions_stay_out_of_copies_and_digests() -> None:
    true = Region("true", torch.int32, (4,), row_tokens=1)
    arena = Arena((true, Region("derived", torch.int32, (4,), row_tokens=1, derived=True)))
    assert list(arena.true_regions()) == [true]
    assert set(digests(arena.true_regions(), arena.tensors, 3)) == {"true"}


def test_writes_are_dated() -> None:
    state = LaneState(SPEC, 300, torch.bfloat16)
    state.commit([1, 2, 3])
    state.commit([4])
    assert (state.position, state.journal(), state.journal(2)) == (4, [1, 2, 3, 4], [3, 4])
    assert [state.newest_write(end) for end in (0, 3, 4, 300)] == [0, 1, 2, 2]
    state.note_written(1, 2)
    assert [state.newest_write(end) for end in (1, 2)] == [1, 3]
