"""How likely a token is to come next: against transformers and numpy, and beside others who read and decode."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import live
from engine.errors import LaneDead, StateError
from engine.lane import Lane
from engine.sampler import logprob
from engine.session import Engine
from tests.engine import hybrid, lanes, tiny
from tests.engine.lanes import WARM, at, some_tokens
from tests.engine.test_steps import begun, fail, wait_for_a_queue

TEXT = some_tokens(100, seed=4)


def asked(lane: Lane, ids: Sequence[int]) -> float | None:
    return asyncio.run(lane.next_logprob(ids))


@pytest.mark.parametrize("architecture", ["dense", "hybrid"])
def test_it_is_what_transformers_says(models: Path, architecture: str) -> None:
    engine = lanes.load(models, f"{architecture} fp32")
    model = tiny.reference(lanes.DENSE) if architecture == "dense" else hybrid.reference(lanes.HYBRID)
    with torch.inference_mode():
        logits = model(torch.tensor([TEXT]), use_cache=False).logits[0, -1].double()
    chances = torch.softmax(logits, 0)
    lane = engine.lane()
    lane.append_now(TEXT)
    for ids in ([2], [int(chances.argmax())], [int(chances.argmin())], [1, 2, 40], range(3, 200)):
        wanted = float(chances[list(ids)].sum().log())
        assert asked(lane, ids) == pytest.approx(wanted, abs=1e-3)
        assert asked(lane, [*ids, *ids]) == asked(lane, ids)
    engine.close()


def test_it_is_the_softmax_of_the_engine_s_own_logits(engine: Engine) -> None:
    lane = at(engine, 80)
    logits = engine.run(engine.model.logits, lane._live.state).double().numpy()
    chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    for ids in ([0], [5, 9], list(range(100))):
        assert asked(lane, ids) == pytest.approx(np.log(chances[ids].sum()), rel=1e-12)
    everything = asked(lane, range(engine.spec.vocabulary))
    assert everything == pytest.approx(0, abs=1e-12)
    assert everything is not None
    assert everything <= 0
    assert asked(lane, []) == -np.inf


def test_what_is_very_unlikely_is_a_number_all_the_same() -> None:
    """Where float32 has no probability, and too few digits for the difference of two large numbers."""
    logits = torch.tensor([1000.0, -1000.0, 998.0, 0.0])
    assert logprob(logits, [1]) == pytest.approx(-2000 - np.log1p(np.exp(-2)), rel=1e-15)
    assert logprob(logits, [2]) == pytest.approx(-2 - np.log1p(np.exp(-2)), rel=1e-12)
    assert logprob(logits, [0, 2]) == pytest.approx(0, abs=1e-15)


def test_to_look_changes_and_stops_nothing(engine: Engine) -> None:
    plain, lane = at(engine, 40), at(engine, 40)
    wanted = plain.generate_now(WARM, 12, stop_ids=())

    async def decode_and_look() -> list[int]:
        text: list[int] = []
        async for token in lane.generate(WARM, 12, stop_ids=()):
            digest = lane.digest()
            assert (await lane.next_logprob([token]) or 0) > -20
            assert lane.digest() == digest
            text.append(token)
        return text

    assert asyncio.run(decode_and_look()) == wanted
    assert lane.digest() == plain.digest()


def test_who_gives_up_looking_stops_nobody(engine: Engine) -> None:
    plain, lane = at(engine, 40), at(engine, 40)
    wanted = plain.generate_now(WARM, 6, stop_ids=())

    async def decode_and_look() -> list[int]:
        tokens = lane.generate(WARM, 6, stop_ids=())
        first = await anext(tokens)
        with engine.lock:
            step = await begun(engine, tokens)
            look = asyncio.ensure_future(lane.next_logprob([1]))
            await asyncio.sleep(0)
            look.cancel()
            with pytest.raises(asyncio.CancelledError):
                await look
        return [first, await step, *[token async for token in tokens]]

    assert asyncio.run(decode_and_look()) == wanted


def test_of_a_state_that_was_moved_meanwhile_nothing_is_told(engine: Engine) -> None:
    lane = at(engine, 40)

    async def move() -> float | None:
        with engine.lock:
            look = asyncio.ensure_future(lane.next_logprob([1]))
            await asyncio.to_thread(wait_for_a_queue, engine.lock)
            reading = asyncio.ensure_future(lane.append([5]))
            await asyncio.sleep(0)
        await reading
        return await look

    assert asyncio.run(move()) is None
    assert asked(lane, [1]) is not None


def test_a_lost_state_is_read_again_first(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    lane, capsule = at(engine, 40), at(engine, 50, seed=2).snapshot()
    capsule.wait()
    wanted = asked(lane, [7])
    with monkeypatch.context() as patched:
        patched.setattr(live, "copy_bytes", fail)
        with pytest.raises(LaneDead):
            lane.restore(capsule)
    assert lane.dead
    assert asked(lane, [7]) == wanted
    assert not lane.dead


def test_what_can_t_come_is_refused(engine: Engine) -> None:
    lane = engine.lane()
    with pytest.raises(StateError, match="the lane is empty"):
        asked(lane, [1])
    lane.append_now(TEXT)
    for wrong in (-1, engine.spec.vocabulary):
        with pytest.raises(StateError, match="not among"):
            asked(lane, [1, wrong])
