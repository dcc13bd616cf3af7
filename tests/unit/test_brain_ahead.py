"""Reading a turn before it is over: it saves work and leaves no trace, byte for byte, on both kinds of model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from app.endpoint import begins_with_end_mark
from app.ports import BoundaryMark, ReadAhead
from engine import live
from engine.errors import ContextFull
from engine.session import Engine
from engine.state import LaneState
from tests.engine import lanes
from tests.unit.brains import TINY, Bench, opened, run, straight, tiny_engine

LONG = "and then we went on and on " * 9
"""More than the rings of a hybrid hold, so that there is no mark to go back to."""
NOTE = "(You were cut off after: round.)"


@pytest.fixture(scope="module", params=lanes.KINDS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = tiny_engine(tmp_path_factory.mktemp("tiny"), request.param)
    yield engine
    engine.close()


class Reads:
    """Counts the tokens that the model reads."""

    def __init__(self, engine: Engine, patch: pytest.MonkeyPatch) -> None:
        self.tokens = 0
        forward = engine.model.forward

        def count(state: LaneState, tokens: Sequence[int]) -> None:
            self.tokens += len(tokens)
            forward(state, tokens)

        patch.setattr(engine.model, "forward", count)


async def settled(engine: Engine) -> tuple[Bench, BoundaryMark]:
    """A conversation after its first exchange."""
    bench = await opened(engine)
    return bench, await bench.exchange("Hello.", "Hi there.")


@pytest.mark.parametrize(
    ("so_far", "text"),
    [
        (["I want to go"], "I want to go"),
        (["I want", "I want to", "I want to go"], "I want to go home."),
        (["I want to go", "I want to fly"], "I want to fly"),
        (["I want", "I want to go", "You want"], "I want to fly"),
        (["I want to go", "I want"], "I want"),
        (["I want to go home", ""], "he"),
        (["he", "hello he"], "hel"),
        (["naïve 👍🏽"], "naïve 👍🏻"),
        ([LONG], "No."),
        ([LONG + "to go", LONG], LONG + "to fly"),
    ],
)
def test_what_was_read_ahead_leaves_no_trace(engine: Engine, so_far: list[str], text: str) -> None:
    async def talk(ahead: list[str]) -> tuple[object, ...]:
        bench, _ = await settled(engine)
        for told in ahead:
            await bench.brain.read_ahead(told)
        asked = await bench.brain.read_user(text)
        digest = bench.lane.digest()
        assert digest == straight(bench)
        capsule = engine.store.get(f"boundary-{asked.handle}")
        assert capsule is not None
        assert capsule.digest() == digest
        del bench.lane.generate
        await bench.hear()
        await bench.brain.close_reply()
        return asked.position, digest, bench.lane.digest(), bench.brain.turns

    assert run(talk(so_far)) == run(talk([]))


def test_nothing_is_read_twice(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, chat = Reads(engine, monkeypatch), engine.chat

    async def talk() -> None:
        bench, _ = await settled(engine)
        for text, shared in [
            ("I want", ""),
            ("I want to go", "I want"),
            ("I want to go", "I want to go"),
            ("I want to fly", "I want"),
            ("I want", "I want"),
            ("You", ""),
            ("You want", "You"),
        ]:
            wanted = len(chat.user_so_far(text)) - (len(chat.user_so_far(shared)) if shared else 0)
            reads.tokens = 0
            assert (await bench.brain.read_ahead(text)).tokens == wanted
            assert reads.tokens == wanted
        reads.tokens = 0
        await bench.brain.read_user("You want to fly.")
        assert reads.tokens == len(chat.user_turn("You want to fly.")) - len(chat.user_so_far("You want"))

    run(talk())


def test_the_chance_of_an_end_is_the_model_s_own(engine: Engine) -> None:
    async def talk(texts: Sequence[str]) -> list[ReadAhead]:
        bench, _ = await settled(engine)
        return [await bench.brain.read_ahead(text) for text in texts]

    async def journal(text: str) -> list[int]:
        bench, _ = await settled(engine)
        await bench.brain.read_ahead(text)
        return bench.lane.journal

    texts = ["Tell me", "Tell me more.", "Tell", LONG]
    told = run(talk(texts))
    for text, ahead in zip(texts, told, strict=True):
        lane = engine.lane()
        logits = lane.score_now(run(journal(text)))[-1].double().numpy()
        chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        marks = {id for id in range(engine.tokenizer.size) if begins_with_end_mark(engine.tokenizer.token_bytes(id))}
        ends = sorted(engine.chat.user_end_ids | marks)
        assert ahead.end_logprob == pytest.approx(np.log(chances[ends].sum()), rel=1e-9)
    assert len({ahead.end_logprob for ahead in told}) == len(texts)


def test_with_a_note_a_turn_is_read_ahead_as_well(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(engine, monkeypatch)

    async def talk(*, ahead: bool) -> tuple[str, str]:
        bench, _ = await settled(engine)
        if ahead:
            await bench.brain.read_ahead("And Mars", NOTE)
            await bench.brain.read_ahead("And Mars?", NOTE)
        reads.tokens = 0
        begin = bench.lane.position if ahead else 0
        await bench.brain.read_user("And Mars?", NOTE)
        assert reads.tokens == bench.lane.position - begin or not ahead
        text = bench.text()
        bench.force_text("Red.")
        await bench.hear()
        await bench.brain.close_reply()
        assert [turn.user for turn in bench.brain.turns] == ["Hello.", "And Mars?"]
        return text, bench.lane.digest()

    text, digest = run(talk(ahead=True))
    assert f"<|im_start|>user\n{NOTE}\nAnd Mars?<|im_end|>" in text
    assert (text, digest) == run(talk(ahead=False))


Act = Callable[[Bench, BoundaryMark], Coroutine[Any, Any, object]]


async def _make_room(bench: Bench, _: BoundaryMark) -> object:
    while not await bench.brain.make_room("x" * 200):
        await bench.exchange("More.", "And more.")
        await bench.brain.read_ahead(LONG[:90])
    return bench.brain.turns


GO_BACK: dict[str, Act] = {
    "rolled back": lambda bench, mark: bench.brain.roll_back(mark.handle, "", cut=False),
    "rolled back further": lambda bench, mark: bench.brain.roll_back(1, "", cut=False),
    "opened anew": lambda bench, mark: bench.brain.open(),
    "another turn": lambda bench, mark: bench.exchange("No.", "Fine."),
    "made room": _make_room,
}


@pytest.mark.parametrize("said", ["I want to", LONG])
@pytest.mark.parametrize("act", GO_BACK)
def test_a_turn_that_is_given_up_leaves_no_trace(engine: Engine, act: str, said: str) -> None:
    async def talk() -> None:
        bench, mark = await settled(engine)
        plain, plain_mark = await settled(engine)
        await bench.brain.read_ahead(said)
        await GO_BACK[act](bench, mark)
        if act == "made room":
            assert 0 < len(bench.brain.turns) < 10
        else:
            await GO_BACK[act](plain, plain_mark)
            assert bench.lane.digest() == plain.lane.digest()
            assert bench.brain.turns == plain.brain.turns
        for text in ("I want", "I want it."):
            await bench.brain.read_ahead(text)
        await bench.exchange("I want it.", "Here.")
        assert said not in bench.text()
        end = "<|im_end|>\n"
        assert bench.text().endswith(f"{end}<|im_start|>user\nI want it.{end}<|im_start|>assistant\nHere.{end}")
        assert bench.lane.digest() == straight(bench)

    run(talk())


def test_reading_ahead_takes_no_room_from_the_turn(engine: Engine) -> None:
    """Whether the oldest turns have to go does not depend on what was read ahead."""

    async def talk() -> None:
        bench, _ = await settled(engine)
        text = "x" * (TINY.context_tokens - bench.lane.position - TINY.max_reply_tokens - 80)
        await bench.brain.read_ahead(text)
        journal = bench.lane.journal
        assert await bench.brain.make_room(text) is None
        assert bench.lane.journal == journal
        await bench.brain.read_user(text)

    run(talk())


def test_a_turn_that_leaves_no_room_is_not_read_ahead(engine: Engine) -> None:
    async def talk() -> None:
        bench, mark = await settled(engine)
        await bench.brain.read_ahead("Well,")
        digest = bench.lane.digest()
        too_long = "x" * TINY.context_tokens
        assert await bench.brain.read_ahead(too_long) == ReadAhead(0, None)
        assert bench.lane.digest() == digest
        with pytest.raises(ContextFull):
            await bench.brain.read_user(too_long)
        assert bench.lane.digest() == digest
        await bench.brain.read_user("Well, yes.")
        assert bench.lane.digest() == straight(bench)
        await bench.brain.roll_back(mark.handle, "", cut=False)
        assert bench.lane.digest() == straight(bench)

    run(talk())


def test_a_reading_that_is_cancelled_half_way_is_gone_on_from(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = engine.model.forward

    async def talk() -> None:
        bench, _ = await settled(engine)
        await bench.brain.read_ahead("and")
        before, begun, loop = bench.lane.position, asyncio.Event(), asyncio.get_running_loop()

        def tell(state: LaneState, tokens: Sequence[int]) -> None:
            forward(state, tokens)
            loop.call_soon_threadsafe(begun.set)

        with monkeypatch.context() as patched:
            patched.setattr(engine.model, "forward", tell)
            reading = asyncio.create_task(bench.brain.read_ahead(LONG))
            await begun.wait()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert bench.lane.position > before
        await bench.brain.read_user("and then he")
        assert bench.lane.digest() == straight(bench)

    run(talk())


def test_a_way_back_that_fails_is_read_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the memory is gone")

    async def talk() -> None:
        bench, _ = await settled(engine)
        await bench.brain.read_ahead("I want")
        await bench.brain.read_ahead("I want to go")
        with monkeypatch.context() as patched:
            patched.setattr(live, "copy_bytes", fail)
            ahead = await bench.brain.read_ahead("I want to fly")
        assert ahead.tokens == bench.lane.position
        assert bench.lane.digest() == straight(bench)
        await bench.brain.read_user("I want to fly")
        assert bench.lane.digest() == straight(bench)

    run(talk())
