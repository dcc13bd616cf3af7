"""Engine and Lane: what stands in the state at every moment, also when somebody stops half way."""

from __future__ import annotations

import asyncio
import functools
import importlib
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import BackendError, ContextFull, ModelFileError, StateError
from engine.lane import Counters, Lane
from engine.sampler import Sampling
from engine.session import Engine
from tests.engine import tiny
from tests.engine.tiny import VOCABULARY, Shape

CONTEXT = 200
GREEDY = Sampling()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("tiny") / "m.gguf", Shape(), tiny.reference(Shape()))


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[Engine]:
    engine = Engine.load(path, format="fp32", context_tokens=CONTEXT)
    yield engine
    engine.close()


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test on an event loop of its own."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(test(**fixtures))

    return run


def some_tokens(count: int, seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, count).tolist()


@on_a_loop
async def test_body_of_the_readme(engine: Engine) -> None:
    lane = engine.lane()
    await lane.append(engine.tokenizer.encode("The moon is"))
    before = lane.mark()
    text = [token async for token in lane.generate(GREEDY, max_tokens=32, stop_ids=())]
    assert lane.journal[before.position :] == text
    lane.roll_back(before)
    assert [token async for token in lane.generate(GREEDY, max_tokens=32, stop_ids=())] == text


@on_a_loop
async def test_a_yielded_token_is_not_yet_in_the_state(engine: Engine) -> None:
    lane = engine.lane()
    prompt = some_tokens(30)
    await lane.append(prompt)
    seen: list[int] = []
    async for token in lane.generate(GREEDY, 20, stop_ids=()):
        assert lane.journal == prompt + seen
        seen.append(token)
    assert lane.journal == prompt + seen
    assert len(seen) == 20


@on_a_loop
async def test_closing_between_two_tokens_leaves_the_last_one_out(engine: Engine) -> None:
    lane = engine.lane()
    await lane.append(some_tokens(30))
    tokens = lane.generate(GREEDY, 20, stop_ids=())
    seen = [await anext(tokens) for _ in range(5)]
    await tokens.aclose()
    assert lane.journal == some_tokens(30) + seen[:4]


@on_a_loop
async def test_a_stop_token_ends_the_text_and_stays_out(engine: Engine) -> None:
    lane = engine.lane()
    await lane.append(some_tokens(30))
    here = lane.mark()
    free = [token async for token in lane.generate(GREEDY, 20, stop_ids=())]
    stop = free[7]
    first = free.index(stop)
    lane.roll_back(here)
    assert [token async for token in lane.generate(GREEDY, 20, stop_ids=[stop])] == free[:first]
    assert lane.journal == some_tokens(30) + free[:first]


@on_a_loop
async def test_the_models_own_end_tokens_stop_by_default(engine: Engine) -> None:
    lane = engine.lane()
    await lane.append(some_tokens(30))
    here, ends = lane.mark(), engine.tokenizer.eos_ids
    for seed in range(100):
        wild = Sampling(temperature=50.0, seed=seed)
        lane.roll_back(here)
        free = [token async for token in lane.generate(wild, 160, stop_ids=())]
        if ends & set(free):
            break
    lane.roll_back(here)
    first = next(place for place, token in enumerate(free) if token in ends)
    assert [token async for token in lane.generate(wild, 160)] == free[:first]


async def talk(lane: Lane, heard: int, reached: asyncio.Event) -> None:
    """Decode twelve tokens, and say so once some of them have come."""
    come = 0
    if not heard:
        reached.set()
    async for _ in lane.generate(GREEDY, 12, stop_ids=()):
        come += 1
        if come == heard:
            reached.set()


@on_a_loop
async def test_a_cancelled_step_leaves_a_whole_number_of_tokens(engine: Engine) -> None:
    """Cancelled while any of its tokens is made: the state is that of its journal, and a prefix of the text."""
    whole = engine.lane()
    await whole.append(some_tokens(30))
    text = [token async for token in whole.generate(GREEDY, 12, stop_ids=())]
    for heard in range(11):
        lane, reached = engine.lane(), asyncio.Event()
        await lane.append(some_tokens(30))
        task = asyncio.create_task(talk(lane, heard, reached))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        read = lane.journal[30:]
        assert read == text[: len(read)]
        assert len(read) in (max(0, heard - 1), heard)
        fresh = engine.lane(seed=lane.seed)
        await fresh.append(lane.journal)
        assert fresh.digest() == lane.digest()


@on_a_loop
async def test_a_cancelled_append_stops_at_a_call_and_can_be_gone_on_from(engine: Engine) -> None:
    lane = engine.lane()
    tokens = some_tokens(CONTEXT)
    task = asyncio.create_task(lane.append(tokens))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    read = lane.journal
    assert read == tokens[: len(read)]
    await lane.append(tokens[lane.position :])
    straight = engine.lane()
    await straight.append(tokens)
    assert lane.digest() == straight.digest()


@on_a_loop
async def test_a_text_whose_state_was_moved_ends(engine: Engine) -> None:
    lane = engine.lane()
    await lane.append(some_tokens(30))
    here = lane.mark()
    tokens = lane.generate(GREEDY, 20, stop_ids=())
    for _ in range(3):
        await anext(tokens)
    lane.roll_back(here)
    before = lane.digest()
    assert [token async for token in tokens] == []
    assert lane.digest() == before


@on_a_loop
async def test_a_refused_restore_does_not_end_a_text(engine: Engine) -> None:
    lane = engine.lane()
    await lane.append(some_tokens(30))
    text = [token async for token in lane.fork().generate(GREEDY, 20, stop_ids=())]
    evicted = lane.snapshot()
    evicted.evict()
    tokens = lane.generate(GREEDY, 20, stop_ids=())
    first = [await anext(tokens) for _ in range(3)]
    with pytest.raises(StateError, match="evicted"):
        lane.restore(evicted)
    assert first + [token async for token in tokens] == text


@on_a_loop
async def test_rolling_back_during_a_step_wins_over_the_step(engine: Engine) -> None:
    """Whether the step ran before the rollback or finds a new epoch after it: the mark's state stands."""
    lane = engine.lane()
    await lane.append(some_tokens(30))
    here, digest = lane.mark(), lane.digest()
    for pauses in range(8):
        tokens = lane.generate(GREEDY, 20, stop_ids=())
        await anext(tokens)
        step = asyncio.ensure_future(anext(tokens, None))
        for _ in range(pauses):
            await asyncio.sleep(0)
        lane.roll_back(here)
        await step
        await tokens.aclose()
        assert lane.digest() == digest


@on_a_loop
async def test_two_lanes_do_not_know_each_other(engine: Engine) -> None:
    alone, one, other = engine.lane(), engine.lane(), engine.lane()
    for lane, seed in ((alone, 1), (one, 1), (other, 2)):
        await lane.append(some_tokens(40, seed))
    wanted = [token async for token in alone.generate(GREEDY, 30, stop_ids=())]
    first, second = one.generate(GREEDY, 30, stop_ids=()), other.generate(GREEDY, 30, stop_ids=())
    got: list[int] = []
    for _ in range(30):
        got.append(await anext(first))
        await anext(second)
    assert got == wanted


def test_a_full_context_is_refused_before_anything_happens(engine: Engine) -> None:
    lane = engine.lane()
    lane.append_now(some_tokens(CONTEXT - 10))
    before = lane.digest()
    with pytest.raises(ContextFull, match="holds 190 of 200"):
        lane.append_now(some_tokens(11))
    assert lane.digest() == before
    with pytest.raises(ContextFull):
        lane.generate_now(GREEDY, 20, stop_ids=())
    assert lane.position == CONTEXT
    lane.generate_now(GREEDY, 0, stop_ids=())


@pytest.mark.parametrize("token", [-1, VOCABULARY])
def test_a_token_outside_the_vocabulary_is_refused(engine: Engine, token: int) -> None:
    lane = engine.lane()
    with pytest.raises(StateError, match="not among"):
        lane.append_now([1, 2, token])
    assert lane.position == 0


def test_an_empty_lane_has_nothing_to_say(engine: Engine) -> None:
    lane = engine.lane()
    lane.append_now([])
    with pytest.raises(StateError, match="the lane is empty"):
        lane.generate_now(GREEDY, 5)


def test_loading_refuses_what_it_cannot_do(path: Path) -> None:
    with pytest.raises(BackendError, match="the device cuda"):
        Engine.load(path, device="cuda")
    with pytest.raises(BackendError, match="0 tokens of context"):
        Engine.load(path, context_tokens=0)
    with pytest.raises(BackendError, match="-1 bytes for capsules"):
        Engine.load(path, capsule_bytes=-1)
    with pytest.raises(ModelFileError, match="No such file"):
        Engine.load(path.parent / "absent.gguf")


def test_memory_for_capsules_is_taken_at_load(path: Path, engine: Engine) -> None:
    full_bytes = engine.lane()._live.state.arena.live_bytes(CONTEXT)
    assert engine.pool.usage().budget_bytes == 4 * full_bytes // 64 * 64
    assert Engine.load(path, capsule_bytes=1000).pool.usage().budget_bytes == 960


def test_the_engine_counts_what_its_lanes_do(path: Path) -> None:
    engine = Engine.load(path, format="fp32", context_tokens=CONTEXT)
    lane = engine.lane()
    lane.append_now(some_tokens(10))
    whole, here = lane.snapshot(), lane.mark()
    lane.append_now(some_tokens(10))
    lane.snapshot(whole)
    lane.roll_back(here)
    lane.fork().restore(whole)
    lane.rebuild()
    with pytest.raises(StateError):
        lane.roll_back(here)
    assert engine.counters == Counters(snapshots=2, deltas=1, restores=1, rollbacks=1, forks=1, refusals=1, rebuilds=1)
    engine.close()
    assert whole.ready


def test_the_context_is_cut_to_the_models_own(path: Path) -> None:
    assert Engine.load(path, context_tokens=100_000).lane().capacity == 512


def test_the_fingerprint_covers_weights_and_format(path: Path, tmp_path: Path) -> None:
    other = tiny.write(tmp_path / "m.gguf", Shape(), tiny.reference(Shape(), seed=1))
    prints = [
        Engine.load(path, format="fp32").fingerprint,
        Engine.load(path, format="bf16").fingerprint,
        Engine.load(other, format="fp32").fingerprint,
    ]
    assert len(set(prints)) == 3
    assert Engine.load(path, format="fp32", context_tokens=64).fingerprint == prints[0]


def test_the_package_is_cheap_to_import() -> None:
    probe = "import sys, engine; assert 'torch' not in sys.modules; engine.Sampling; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True)
    with pytest.raises(AttributeError, match="Nothing"):
        importlib.import_module("engine").Nothing  # noqa: B018  # the access is the test


@pytest.mark.models
def test_the_real_model_answers(llm_path: Path) -> None:
    engine = Engine.load(llm_path, context_tokens=256)
    lane = engine.lane()
    lane.append_now(engine.tokenizer.encode("The capital of France is"))
    assert engine.tokenizer.decode(lane.generate_now(GREEDY, 1)) == " Paris"
