"""The live mouth on a real playout and a simulated loudspeaker, in virtual time; its ledger by properties."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.events import Event, OutputHeld, OutputResumed, PlayoutFinished, PlayoutStarted, WordHeard
from app.speaking import LiveMouth, Word, resume_point, words_heard
from audio.playout import Playout

HZ = 48_000
BLOCK = 960
DELAY_S = 0.06


class Span(NamedTuple):
    text: str
    start: int
    end: int


class Clip(NamedTuple):
    samples: NDArray[np.float32]
    words: list[Span]


class Voice:
    """Says each word in 0.3 s, with 0.1 s after it."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def synthesise(self, text: str) -> Clip:
        self.said.append(text)
        words = text.split()
        spans = [Span(word, at * 19_200, at * 19_200 + 14_400) for at, word in enumerate(words)]
        return Clip(np.full(len(words) * 19_200, 0.25, np.float32), spans)


class Stage:
    """A clock that only moves while a test lets it, the loudspeaker it drives, and what the mouth told."""

    def __init__(self, playout: Playout) -> None:
        self.playout = playout
        self.block = 0
        self.at_s = 0.0
        self.told: list[Event] = []
        self.polls = 0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self.air: list[NDArray[np.float32]] = []

    def now_s(self) -> float:
        return self.at_s

    async def sleep_until(self, at_s: float) -> None:
        if at_s > self.at_s:
            self.polls += 1
            waiting = asyncio.get_running_loop().create_future()
            heapq.heappush(self._sleepers, (at_s, self.polls, waiting))
            await waiting

    async def play(self, seconds: float) -> None:
        """Let the loudspeaker play."""
        for _ in range(round(seconds * HZ / BLOCK)):
            out = np.zeros(BLOCK, np.float32)
            self.playout.read(out, self.at_s + DELAY_S)
            self.air.append(out)
            self.block += 1
            self.at_s = self.block * BLOCK / HZ
            while self._sleepers and self._sleepers[0][0] <= self.at_s + 1e-9:
                waiting = heapq.heappop(self._sleepers)[2]
                if not waiting.done():
                    waiting.set_result(None)
            for _ in range(4):  # everyone who can go on does
                await asyncio.sleep(0)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.told if isinstance(event, kind)]

    def heard(self) -> list[str]:
        return [event.text for event in self.told if isinstance(event, WordHeard)]


def on_stage(act: Callable[[LiveMouth, Stage, Voice], Awaitable[None]], seconds: float = 20.0) -> Stage:
    stage, voice = Stage(Playout(seconds=seconds)), Voice()

    async def main() -> None:
        with ThreadPoolExecutor(1) as worker:
            mouth = LiveMouth(voice, stage.playout, stage, worker=worker)
            run = asyncio.create_task(mouth.run(stage.told.append))
            await act(mouth, stage, voice)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

    asyncio.run(main())
    return stage


def test_each_word_is_told_once_when_most_of_it_was_heard_and_the_end_is_told() -> None:
    async def act(mouth: LiveMouth, stage: Stage, voice: Voice) -> None:
        mouth.begin(3)
        spoken = await mouth.say(3, "One two.")
        assert spoken is not None
        assert (spoken.words, spoken.seconds) == (2, 0.8)
        await mouth.say(3, "Three.")
        mouth.finish(3)
        await stage.play(2.0)

    stage = on_stage(act)
    assert stage.told[0] == PlayoutStarted(branch=3, at_s=DELAY_S)
    assert stage.heard() == ["One", "two.", "Three."]
    for number, event in enumerate(stage.of(WordHeard)):
        assert isinstance(event, WordHeard)
        assert event.words == number + 1
        assert event.at_s == pytest.approx(DELAY_S + (number * 19_200 + 0.6 * 14_400 - 1) / HZ)
    assert stage.told[-1] == PlayoutFinished(branch=3, at_s=pytest.approx(DELAY_S + (3 * 19_200 - 1) / HZ))
    assert len(stage.told) == 5


def test_nothing_is_polled_while_nothing_plays() -> None:
    async def act(mouth: LiveMouth, stage: Stage, voice: Voice) -> None:
        await stage.play(1.0)
        mouth.begin(1)
        await stage.play(1.0)
        assert stage.polls == 0
        await mouth.say(1, "Word.")
        await stage.play(1.0)
        busy = stage.polls
        assert busy > 10, "while it plays it is looked at"
        await stage.play(1.0)
        mouth.hold()
        await stage.play(0.2)
        held = stage.polls
        await stage.play(1.0)
        assert stage.polls == held
        assert held - busy < 15

    on_stage(act)


def test_hold_tells_what_was_heard_and_resume_goes_back_to_the_cut_word() -> None:
    async def act(mouth: LiveMouth, stage: Stage, voice: Voice) -> None:
        mouth.begin(1)
        await mouth.say(1, "One two three four.")
        mouth.finish(1)
        await stage.play(0.6)  # 0.1 s into "two", as the loudspeaker was 60 ms late, and 60 ms more are on their way
        mouth.hold()
        await stage.play(1.0)
        held = stage.of(OutputHeld)
        assert len(held) == 1
        mouth.resume()
        await stage.play(2.0)

    stage = on_stage(act)
    held, resumed = stage.of(OutputHeld)[0], stage.of(OutputResumed)[0]
    assert isinstance(held, OutputHeld)
    assert isinstance(resumed, OutputResumed)
    last_s = 0.6 + DELAY_S + 239 / HZ
    assert (held.words, held.at_s) == (2, pytest.approx(last_s)), "60 % of the second word was out"
    assert resumed.words == 2
    assert stage.heard() == ["One", "two", "three", "four."], "none is lost, none is told twice"
    air = np.concatenate(stage.air)
    sounding = np.flatnonzero(air)
    repeated = round(0.6 * HZ) + 240 - 19_200  # "two" from its start to the hold
    faded = 2  # the last sample of the fade-out and the first of the fade-in are 0
    assert sounding.size == 4 * 19_200 + repeated - faded
    assert isinstance(stage.told[-1], PlayoutFinished)


def test_a_hold_before_the_first_sample_and_a_stop_leave_nothing_heard() -> None:
    async def act(mouth: LiveMouth, stage: Stage, voice: Voice) -> None:
        mouth.begin(1)
        mouth.hold()
        await stage.play(0.1)
        assert await mouth.say(1, "Never heard.") is not None, "decoding and synthesis go on"
        await stage.play(1.0)
        mouth.stop(1)
        assert await mouth.say(1, "Dead.") is None
        assert voice.said == ["Never heard."]
        mouth.finish(1)
        mouth.resume()
        await stage.play(1.0)

    stage = on_stage(act)
    assert stage.told == [OutputHeld(branch=1, at_s=0.0, words=0)]
    assert not np.concatenate(stage.air).any()


def test_a_branch_that_dies_while_its_clause_is_made_queues_nothing() -> None:
    async def act(mouth: LiveMouth, stage: Stage, voice: Voice) -> None:
        mouth.begin(1)
        late = asyncio.create_task(mouth.say(1, "Too late."))
        await asyncio.sleep(0)
        mouth.begin(2)
        assert await late is None
        await mouth.say(2, "Mine.")
        mouth.finish(2)
        await stage.play(1.0)

    stage = on_stage(act)
    assert stage.heard() == ["Mine."]
    assert {getattr(event, "branch", None) for event in stage.told} == {2}


def test_a_clause_longer_than_the_buffer_waits_for_room_and_loses_nothing() -> None:
    text = " ".join(f"w{at}" for at in range(20))

    async def act(mouth: LiveMouth, stage: Stage, voice: Voice) -> None:
        mouth.begin(1)
        saying = asyncio.create_task(mouth.say(1, text))
        while not saying.done():
            await stage.play(0.1)
        mouth.finish(1)
        await stage.play(5.0)

    stage = on_stage(act, seconds=3.0)
    assert stage.heard() == text.split()
    assert np.count_nonzero(np.concatenate(stage.air)) == 20 * 19_200


def test_what_is_told_may_end_the_branch_at_once() -> None:
    """The session acts within `emit`: after a stop nothing more of the branch is told."""
    stage, told = Stage(Playout()), []

    async def main() -> None:
        mouth = LiveMouth(Voice(), stage.playout, stage)

        def emit(event: Event) -> None:
            told.append(event)
            if isinstance(event, WordHeard):
                mouth.stop(1)

        run = asyncio.create_task(mouth.run(emit))
        mouth.begin(1)
        await mouth.say(1, "One two three.")
        await stage.play(2.0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(main())
    assert [type(event) for event in told] == [PlayoutStarted, WordHeard]


@st.composite
def ledgers(draw: st.DrawFn) -> list[Word]:
    words, at = [], 0
    for number in range(draw(st.integers(0, 8))):
        start = at + draw(st.integers(0, 9_000))
        at = start + draw(st.integers(1, 40_000))
        words.append(Word(f"w{number}", start, at))
    return words


@given(ledgers(), st.integers(0, 400_000))
def test_going_on_loses_no_word_and_repeats_at_most_one(words: list[Word], held: int) -> None:
    point = resume_point(words, held)
    assert held - 0.4 * HZ <= point <= held
    repeated = [word for word in words if word.start < held and word.end > point]
    assert len(repeated) <= 1
    for word in words:
        if word.start < held < word.end and held - word.start <= 0.4 * HZ:
            assert point == word.start, "a word that was cut is said again from its start"


@given(ledgers(), st.integers(0, 400_000))
def test_a_word_counts_from_the_sample_on_at_which_most_of_it_was_heard(words: list[Word], heard: int) -> None:
    count = words_heard(words, heard)
    for at, word in enumerate(words):
        assert (at < count) == ((heard - word.start) / (word.end - word.start) >= 0.6 - 1e-9)


def test_the_ledger_at_its_edges() -> None:
    word = Word("ten", 100, 110)
    assert [words_heard([word], heard) for heard in (105, 106)] == [0, 1]
    long = Word("Donaudampfschifffahrt", 0, HZ)
    assert resume_point([long], HZ // 2) == HZ // 2, "its start is more than 400 ms back"
    assert resume_point([long], HZ // 5) == 0
