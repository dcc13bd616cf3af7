"""Which capsules go: the policy by itself, with memory that is really shared."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.capsule import Capsule, Segment
from engine.chains import bytes_of, segments_of
from engine.entry import Entry
from engine.eviction import Candidate, Enough, freed, plan, refusal
from engine.pool import Pool
from tests.engine.texts import capsule_of, chain_in, text


@pytest.fixture
def pool() -> Pool:
    return Pool(4 << 20)


def at_least(needed_bytes: int) -> Enough:
    def enough(segments: Collection[Segment]) -> bool:
        return bytes_of(segments) >= needed_bytes

    return enough


def evicted(entries: Sequence[Entry], needed_bytes: int) -> list[str] | None:
    """Names of what goes."""
    going = plan([Candidate(entry) for entry in entries], at_least(needed_bytes))
    return None if going is None else [one.entry.name for one in going]


def test_what_is_cheap_to_read_again_goes_first(pool: Pool) -> None:
    capsules = [capsule_of(pool, text(70, seed)) for seed in (1, 2, 3)]
    dear, cheap, middle = (
        Entry(name, capsule, cost_tokens=cost)
        for name, capsule, cost in zip(("dear", "cheap", "middle"), capsules, (900, 10, 100), strict=True)
    )
    one = capsules[0].total_bytes
    assert evicted([dear, cheap, middle], 1) == ["cheap"]
    assert evicted([dear, cheap, middle], one + 1) == ["cheap", "middle"]
    assert evicted([dear, cheap, middle], 3 * one + 1) is None
    assert evicted([dear, cheap, middle], 0) == []


def test_the_cost_is_over_the_memory_that_comes_free(pool: Pool) -> None:
    """192 tokens on a chunk's border weigh little; 190, with a chunk begun, weigh more than twice as much."""
    light, heavy = capsule_of(pool, text(192, 1)), capsule_of(pool, text(190, 2))
    assert 190 / heavy.total_bytes < 192 / light.total_bytes
    assert evicted([Entry("light", light), Entry("heavy", heavy)], 1) == ["heavy"]
    assert evicted([Entry("light", light), Entry("heavy", heavy, cost_tokens=1000)], 1) == ["light"]


def test_only_the_tokens_after_the_best_ancestor_that_stays_count(pool: Pool) -> None:
    start, whole = capsule_of(pool, text(150)), capsule_of(pool, text(200))
    other = capsule_of(pool, text(160, 2))
    entries = [Entry("start", start), Entry("whole", whole), Entry("other", other)]
    assert evicted(entries, 1) == ["whole"]
    # Without the ancestor it has to be read from the first token on.
    assert evicted(entries[1:], 1) == ["other"]
    # So it is dearer once the ancestor is chosen too.
    cheap = Entry("start", start, cost_tokens=0)
    assert evicted([cheap, *entries[1:]], start.total_bytes + whole.total_bytes) == ["start", "other"]
    # One that only a caller holds is nothing that the store could give back.
    held = [Candidate(Entry("", start), in_use=True), *map(Candidate, entries[1:])]
    going = plan(held, at_least(1))
    assert [one.entry.name for one in going or ()] == ["other"]
    # An ancestor on disk is as good as one in memory.
    on_disk = Entry("start", start, saved=True)
    on_disk.let_go()
    assert evicted([on_disk, *entries[1:]], 1) == ["whole"]


def test_losers_go_before_all_others_and_then_what_lies_on_disk(pool: Pool) -> None:
    entries = [
        Entry("kept", capsule_of(pool, text(10, 1))),
        Entry("saved", capsule_of(pool, text(200, 2)), saved=True),
        Entry("loser", capsule_of(pool, text(200, 3)), disposable=True),
    ]
    sizes = [entry.capsule.total_bytes for entry in entries]
    assert evicted(entries, 1) == ["loser"]
    assert evicted(entries, sizes[2] + 1) == ["loser", "saved"]
    assert evicted(entries, sum(sizes)) == ["loser", "saved", "kept"]


def test_of_equals_the_one_that_was_not_used_for_longest_goes(pool: Pool) -> None:
    entries = [Entry(f"turn{seed}", capsule_of(pool, text(70, seed)), used=10 - seed) for seed in (1, 2, 3)]
    assert evicted(entries, 1) == ["turn3"]


def test_shared_memory_comes_free_with_the_last_that_holds_it(pool: Pool) -> None:
    parent, child = chain_in(pool, (100, 110))
    a, b = Candidate(Entry("parent", parent)), Candidate(Entry("child", child))
    assert freed([b], [a]) == segments_of(child) - child.borrowed
    assert bytes_of(freed([b], [a])) == child.bytes
    assert bytes_of(freed([a], [b])) < parent.total_bytes
    everything = bytes_of(segments_of(parent) | segments_of(child))
    assert bytes_of(freed([a, b], [])) == everything < parent.total_bytes + child.total_bytes
    # Two names for one capsule: neither frees anything by itself.
    again = Candidate(Entry("again", child))
    assert freed([b], [a, again]) == set()
    assert evicted([b.entry, again.entry], 1) in (["again", "child"], ["child", "again"])


def test_memory_that_is_shared_makes_no_capsule_cheap(pool: Pool) -> None:
    parent, child = chain_in(pool, (192, 202))
    other = capsule_of(pool, text(192, 2))
    assert 100 / child.total_bytes < 192 / other.total_bytes < 100 / child.bytes
    entries = [Entry("persona", parent, pinned=True), Entry("turn", child, cost_tokens=100), Entry("other", other)]
    assert evicted(entries, 1) == ["other"]
    # Once the first of two that share is chosen, the second frees all that they shared.
    sibling = capsule_of(pool, [*text(192), 5, 5], parent)
    pair = [Entry("turn", child, cost_tokens=1), Entry("sibling", sibling, cost_tokens=100)]
    assert parent.total_bytes > 2 * sibling.bytes
    parent.evict()
    assert 100 / sibling.total_bytes < 192 / other.total_bytes < 100 / sibling.bytes
    assert evicted([*pair, entries[2]], child.bytes + 1) == ["turn", "sibling"]


def test_what_proves_needless_stays(pool: Pool) -> None:
    small = Entry("small", capsule_of(pool, text(10, 1)), cost_tokens=0)
    large = Entry("large", capsule_of(pool, text(250, 2)), cost_tokens=500)
    assert evicted([small, large], 1) == ["small"]
    assert evicted([small, large], large.capsule.total_bytes) == ["large"]


def test_pinned_ones_and_those_in_use_stay_and_the_error_tells_what_they_hold(pool: Pool) -> None:
    parent, child = chain_in(pool, (100, 110))
    persona, read = Candidate(Entry("persona", parent, pinned=True)), Candidate(Entry("", child), in_use=True)
    loose = Candidate(Entry("loose", capsule_of(pool, text(40, 2))))
    assert plan([persona, read, loose], at_least(bytes_of(loose.segments) + 1)) is None
    error = refusal([persona, read, loose], [9000, 1000], 20000)
    assert error.sizes_bytes == (9000, 1000)
    assert error.pinned_bytes == {"persona": bytes_of(segments_of(parent) - segments_of(child))}
    for told in ("10000 bytes", "of 20000", f"{bytes_of(loose.segments)} come free", "persona (without it", "Unpin"):
        assert told in str(error)
    assert f"in use: {bytes_of(segments_of(child) - segments_of(parent))} bytes" in error.why


@st.composite
def families(draw: st.DrawFn) -> list[tuple[Entry, bool]]:
    """Entries over a few chains, and whether each is in use."""
    pool, found = Pool(1 << 20), list[tuple[Entry, bool]]()
    capsules: list[Capsule] = []
    for seed in (1, 2):
        parent = capsule_of(pool, text(draw(st.sampled_from([5, 64, 70])), seed))
        capsules.append(parent)
        for more in draw(st.lists(st.sampled_from([1, 10, 60]), max_size=3)):
            parent = capsule_of(pool, text(parent.position + more, seed), parent)
            capsules.append(parent)
    for place, capsule in enumerate(capsules):
        pinned, disposable, in_use = (draw(st.booleans()) for _ in range(3))
        entry = Entry(str(place), capsule, pinned=pinned and in_use, disposable=disposable, used=place)
        found.append((entry, in_use and not pinned))
    return found


@settings(max_examples=30, deadline=None, derandomize=True)
@given(family=families(), share=st.floats(0, 1.1))
def test_a_plan_is_enough_and_no_part_of_it_would_be(family: list[tuple[Entry, bool]], share: float) -> None:
    candidates = [Candidate(*one) for one in family]
    movable = [one for one in candidates if one.movable]
    enough = at_least(int(share * sum(one.entry.capsule.total_bytes for one in candidates)))
    going = plan(candidates, enough)
    if going is None:
        assert not enough(freed(movable, [one for one in candidates if not one.movable]))
        return
    assert set(going) <= set(movable)
    assert enough(freed(going, [one for one in candidates if one not in going]))
    for spared in going:
        rest = [one for one in going if one is not spared]
        assert not enough(freed(rest, [one for one in candidates if one not in rest]))
