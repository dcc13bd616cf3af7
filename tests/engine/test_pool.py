"""The memory of capsules: what is handed out, what comes back, and what is refused."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import PoolFull
from engine.pool import Pool, PoolUsage


def test_memory_is_aligned_and_no_two_share_any() -> None:
    pool = Pool(1 << 16)
    memories = [pool.allocate(size) for size in (1, 63, 64, 65, 1000, 0)]
    for value, memory in enumerate(memories):
        memory.fill_(value)
    assert [memory.numel() for memory in memories] == [1, 63, 64, 65, 1000, 0]
    assert all(memory.data_ptr() % 64 == 0 for memory in memories if len(memory))
    assert all((memory == value).all() for value, memory in enumerate(memories))


def test_memory_comes_back_with_its_last_view() -> None:
    pool = Pool(1024)
    memory = pool.allocate(1024)
    view = memory.view(torch.float32)[3:5]
    del memory
    with pytest.raises(PoolFull):
        pool.allocate(1)
    del view
    assert pool.allocate(1024).numel() == 1024


def test_a_full_pool_tells_its_numbers_and_keeps_nothing() -> None:
    pool = Pool(1000)
    first, middle, last = pool.allocate_all([256, 128, 256])
    del middle
    before = pool.usage()
    assert before == PoolUsage(budget_bytes=960, used_bytes=512, peak_bytes=640, largest_free_bytes=320)
    with pytest.raises(PoolFull, match="512 of 960 bytes are in use, and the longest free run has 320") as told:
        pool.allocate_all([64, 64, 384])
    assert "capsule_bytes" in told.value.fix
    assert pool.usage() == before
    assert len(first) == len(last) == 256


def test_an_empty_pool_has_room_for_nothing() -> None:
    with pytest.raises(PoolFull):
        Pool(0).allocate(0)
    assert Pool(0).allocate_all([]) == []


@given(steps=st.lists(st.tuples(st.integers(0, 900), st.booleans(), st.integers(0, 99)), max_size=60))
@settings(derandomize=True, deadline=None)
def test_any_order_leaves_one_run_behind(steps: list[tuple[int, bool, int]]) -> None:
    """Against a plain count of what is held: free runs join again, whatever order they come back in."""
    pool = Pool(4096)
    held: list[torch.Tensor] = []
    for size, take, which in steps:
        if take or not held:
            longest = pool.usage().largest_free_bytes
            rounded = max(64, -(-size // 64) * 64)
            if rounded > longest:
                with pytest.raises(PoolFull):
                    pool.allocate(size)
            else:
                held.append(pool.allocate(size).fill_(len(held)))
        else:
            held.pop(which % len(held))
        assert pool.usage().used_bytes == sum(max(64, -(-len(memory) // 64) * 64) for memory in held)
        spans = sorted((memory.data_ptr(), memory.data_ptr() + len(memory)) for memory in held if len(memory))
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    held.clear()
    assert pool.usage().largest_free_bytes == 4096


def test_threads_share_a_pool() -> None:
    """Each fills what it gets with its own number, and finds it so until it gives it back."""
    pool = Pool(1 << 14)
    wrong: list[int] = []

    def use(number: int) -> None:
        for turn in range(300):
            try:
                memory = pool.allocate(64 * (1 + turn % 7)).fill_(number)
            except PoolFull:
                continue
            if not (memory == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert pool.usage().used_bytes == 0
