"""The registry: what is live at a position, and that everything is made from it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from engine.arena import CHUNK_TOKENS, Arena, Live, Region, digest_of
from engine.spec import DeltaSpec, ModelSpec
from engine.state import RING_CHUNKS, LaneState, declare
from tests.engine import states

DENSE = dataclasses.replace(
    states.SPEC, architecture="llama", layers=2, context_tokens=600, delta=None, draft_head=False
)
DELTA = DeltaSpec(key_heads=2, value_heads=4, key_dim=4, value_dim=8, kernel=4, interval=4)
HYBRID = dataclasses.replace(DENSE, architecture="qwen35", layers=8, delta=DELTA, draft_head=True)
CAPACITY = 500
EDGES = (0, 1, 2, 3, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300, 500)


def region(name: str, spec: ModelSpec = HYBRID) -> Region:
    return next(one for one in declare(spec, CAPACITY, torch.bfloat16) if one.name == name)


def filled(spec: ModelSpec = HYBRID) -> LaneState:
    """A state with something else in every place, as far as its types can tell them apart."""
    state = LaneState(spec, CAPACITY, torch.bfloat16)
    for tensor in state.arena.tensors.values():
        tensor.copy_((torch.arange(tensor.numel()) % 97 + 1).view(tensor.shape))
    return state


def test_a_dense_model_has_no_recurrence() -> None:
    assert [one.name for one in declare(DENSE, CAPACITY, torch.bfloat16)] == [
        *("kv", "journal", "lineage", "hidden", "counters")
    ]


def test_the_cache_of_a_position_is_one_run_of_bytes() -> None:
    kv = region("kv", DENSE)
    assert kv.shape == (8, 2, 2, 2, 64, 4)
    assert [kv.live_bytes(position) for position in (0, 1, 64, 65)] == [0, 64, 4096, 4160]
    assert kv.runs(range(130)) == [range(128), range(128, 130)]
    assert torch.zeros(kv.shape)[:2].is_contiguous()


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("kv", range(300)),
        ("hidden", range(1)),
        ("recurrent", range(4, 5)),
        ("delta_keys", range(256, 300)),
        ("delta_decay", range(256, 300)),
        ("conv", range(297, 300)),
        ("draft_kv", range(300)),
    ],
)
def test_what_is_live_at_token_300(name: str, units: range) -> None:
    assert region(name).units(300) == units


def place(one: Region, unit: int) -> tuple[int, int]:
    """Where a unit lies: its row, and its index in it."""
    return unit // one.row_units % one.shape[0], unit % one.row_units


@pytest.mark.parametrize("position", EDGES)
@pytest.mark.parametrize("one", declare(HYBRID, CAPACITY, torch.bfloat16), ids=lambda one: one.name)
def test_the_pieces_are_the_units_in_order(one: Region, position: int) -> None:
    """Against picking them one by one."""
    tensor = torch.arange(torch.Size(one.shape).numel()).view(one.shape)
    found = one.pieces(tensor, one.units(position))
    if one.live is Live.ALWAYS:
        assert found == [tensor]
        return
    flat = torch.cat([piece.reshape(-1) for piece in found]) if found else torch.zeros(0)
    expected: list[int] = []
    for unit in one.units(position):
        row, index = place(one, unit)
        expected += (tensor[row].select(one.unit_axis, index) if one.row_units > 1 else tensor[row]).flatten().tolist()
    assert sorted(flat.tolist()) == sorted(expected)
    # A row of its own has its bytes as they lie; within a part of a row its units come last but in order.
    assert [len(run) for run in one.runs(one.units(position))] == [
        piece.numel() * one.dtype.itemsize // one.unit_bytes for piece in found
    ]


@pytest.mark.parametrize("held", [range(500), range(10, 70), range(64, 128), range(10, 300), range(250, 260)])
@pytest.mark.parametrize("name", ["kv", "draft_kv", "journal", "lineage", "conv"])
def test_packed_units_are_the_same_units(name: str, held: range) -> None:
    """Whatever part is asked for, and whatever else lies beside it."""
    one, state = region(name), filled()
    if len(held) > one.slots:
        held = held[: one.slots]
    tensor = state.arena.tensors[name]
    pieces = one.pieces(tensor, held)
    memory = torch.cat([piece.contiguous().reshape(-1).view(torch.uint8) for piece in pieces])
    assert len(memory) == len(held) * one.unit_bytes
    for first in (held.start, held.start + 1, 63, 64, 65, 128, 255, 256):
        for end in (held.stop, held.stop - 1, first, first + 1, 64, 128, 192, 257):
            units = range(max(first, held.start), min(end, held.stop))
            packed, lying = one.packed_pieces(memory, held, units), one.pieces(tensor, units)
            assert [piece.shape for piece in packed] == [piece.shape for piece in lying]
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(packed, lying, strict=True))


@pytest.mark.parametrize("position", EDGES)
@pytest.mark.parametrize("spec", [DENSE, HYBRID], ids=["dense", "hybrid"])
def test_a_digest_covers_all_live_bytes_and_no_others(spec: ModelSpec, position: int) -> None:
    state = filled(spec)
    before = state.arena.digests(position)
    for one in state.arena.regions:
        tensor, live = state.arena.tensors[one.name], one.units(position)
        if one.live is Live.ALWAYS:
            tensor[-1] += 1
            assert state.arena.digests(position)[one.name] != before[one.name]
            tensor[-1] -= 1
            continue
        lying = {place(one, unit) for unit in live}
        for slot in {
            0,
            1,
            62,
            63,
            64,
            127,
            255,
            one.slots - 1,
            *(unit % one.slots for unit in (*live[:2], *live[-2:])),
        }:
            if slot < one.slots:
                row, index = place(one, slot)
                unit = tensor[row].select(one.unit_axis, index) if one.row_units > 1 else tensor[row]
                last = unit.reshape(-1)[-1:].clone() if unit.dim() else unit.clone()
                changed = unit.select(-1, -1) if unit.dim() else unit
                changed += 1
                assert (state.arena.digests(position)[one.name] != before[one.name]) == (place(one, slot) in lying)
                changed -= 1
                assert torch.equal(unit.reshape(-1)[-1:] if unit.dim() else unit, last)


def test_the_report_counts_every_byte() -> None:
    usage = {row.name: row for row in LaneState(HYBRID, CAPACITY, torch.bfloat16).arena.usage(65)}
    assert usage["kv"] == ("kv", 8 * 4096, 65 * 64)
    assert usage["journal"] == ("journal", 2000, 260)
    assert usage["recurrent"] == ("recurrent", 4 * 6 * 4 * 4 * 8 * 4, 6 * 4 * 4 * 8 * 4)
    assert usage["delta_decay"] == ("delta_decay", 4 * 64 * 6 * 4 * 8, 6 * 4 * 8)
    assert usage["conv"] == ("conv", 256 * 6 * 48 * 2, 3 * 6 * 48 * 2)
    assert usage["hidden"] == ("hidden", 64, 64)
    total = sum(row.live_bytes for row in usage.values())
    assert LaneState(HYBRID, CAPACITY, torch.bfloat16).arena.live_bytes(65) == total


def test_derived_regions_stay_out_of_copies_and_digests() -> None:
    true = Region("true", torch.int32, (4,), Live.PREFIX)
    arena = Arena((true, Region("derived", torch.int32, (4,), Live.PREFIX, derived=True)))
    assert list(arena.true_regions()) == [true]
    assert set(arena.digests(3)) == {"true"}
    assert arena.digests(3)["true"] == digest_of([torch.zeros(3, dtype=torch.int32)])


@pytest.mark.parametrize("position", EDGES)
def test_what_is_live_is_lost_with_the_token_that_takes_its_place(position: int) -> None:
    """Against the places that a token of each number writes, one after the other."""
    state = LaneState(HYBRID, CAPACITY, torch.bfloat16)
    live = {(one.name, place(one, unit)) for one in state.arena.regions for unit in one.units(position)}

    def written(token: int) -> set[tuple[str, tuple[int, int]]]:
        rows = {(name, place(region(name), token)) for name in ("kv", "journal", "delta_keys", "conv", "draft_kv")}
        if token % CHUNK_TOKENS == CHUNK_TOKENS - 1:
            rows.add(("recurrent", place(region("recurrent"), token // CHUNK_TOKENS + 1)))
        return rows

    lost = next((token for token in range(position, CAPACITY) if live & written(token)), CAPACITY)
    assert state.lost_at(position) == lost
    assert LaneState(DENSE, CAPACITY, torch.bfloat16).lost_at(position) == CAPACITY


def test_a_boundary_stays_in_reach_as_long_as_the_ring_says() -> None:
    state = LaneState(HYBRID, 2000, torch.bfloat16)
    reach = {state.lost_at(position) - position for position in range(3, 1000)}
    window = DELTA.kernel - 1
    assert (min(reach), max(reach)) == ((RING_CHUNKS - 1) * CHUNK_TOKENS, RING_CHUNKS * CHUNK_TOKENS - window)


def test_writes_are_dated() -> None:
    state = LaneState(HYBRID, CAPACITY, torch.bfloat16)
    state.commit([1, 2, 3])
    first = state.writes
    state.commit([4])
    assert (state.position, state.journal(), state.journal(2)) == (4, [1, 2, 3, 4], [3, 4])
    assert state.stands(3, first)
    assert not state.stands(4, first)
    state.note_written(1, 2)
    assert state.stands(1, first)
    assert not state.stands(3, first)
    here = state.writes
    lost_at = state.lost_at(4)
    state.note_written(4, lost_at)
    assert state.stands(4, here)
    state.note_written(lost_at, lost_at + 1)
    assert not state.stands(4, here)
    assert state.unwritten(4, here)


def test_the_lineage_is_of_all_tokens_in_their_order() -> None:
    one, other = (LaneState(DENSE, CAPACITY, torch.bfloat16) for _ in range(2))
    one.commit([5, 6, 7])
    for token in (5, 6):
        other.commit([token])
    assert one.lineage != other.lineage
    other.commit([7])
    assert one.lineage == other.lineage
    other.rewind()
    assert other.lineage == LaneState(DENSE, CAPACITY, torch.bfloat16).lineage
    other.commit([6, 5, 7])
    assert one.lineage != other.lineage


def test_a_state_that_was_rewound_is_a_new_one_with_its_seed() -> None:
    state, new = filled(), LaneState(HYBRID, CAPACITY, torch.bfloat16)
    state.seed = new.seed = 3
    state.rewind()
    assert state.position == 0
    assert state.arena.digests(0) == new.arena.digests(0)
