"""The live mouth on a real playout and a simulated loudspeaker, in virtual time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from app.events import Event, OutputHeld, OutputResumed, PlayoutFinished, PlayoutStarted, WordHeard
from app.speaking import LiveMouth
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
        return Clip(self.sound(len(words) * 19_200), spans)

    def sound(self, samples: int) -> NDArray[np.float32]:
        return np.full(samples, 0.25, np.float32)


class NoisyVoice(Voice):
    """No two samples that it makes are alike; between its words there may be no gap."""

    def __init__(self, *, gaps: bool) -> None:
        super().__init__()
        self.gaps = gaps
        self.clips: list[Clip] = []

    def synthesise(self, text: str) -> Clip:
        clip = super().synthesise(text)
        if not self.gaps:
            clip = Clip(clip.samples, [Span(word, start, start + 19_200) for word, start, _ in clip.words])
        self.clips.append(clip)
        return clip

    def sound(self, samples: int) -> NDArray[np.float32]:
        return np.random.default_rng(len(self.said)).uniform(0.1, 0.5, samples).astype(np.float32)


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


def on_stage(
    act: Callable[[LiveMouth, Stage, Voice], Awaitable[None]], seconds: float = 20.0, voice: Voice | None = None
) -> Stage:
    stage, voice = Stage(Playout(seconds=seconds)), voice or Voice()

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
    finished = stage.told[-1]
    assert isinstance(finished, PlayoutFinished)
    assert (finished.branch, finished.at_s) == (3, pytest.approx(DELAY_S + (3 * 19_200 - 1) / HZ))
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
    assert held.asked_s == 0.6
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
    assert stage.told == [OutputHeld(branch=1, at_s=0.0, asked_s=0.0, words=0)]
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


def sounded(stage: Stage, from_block: int, samples: int) -> NDArray[np.float32]:
    """What the loudspeaker played from a block on."""
    return np.concatenate(stage.air[from_block:])[:samples]


@pytest.mark.parametrize("gaps", [True, False])
def test_the_rest_of_a_reply_is_the_very_same_sound(gaps: bool) -> None:
    voice, block = NoisyVoice(gaps=gaps), 0

    async def act(mouth: LiveMouth, stage: Stage, _: Voice) -> None:
        nonlocal block
        mouth.begin(1)
        await mouth.say(1, "One two three.")
        await mouth.say(1, "Four five.")
        await stage.play(0.7)
        mouth.stop(1, keep=True)
        await stage.play(0.1)
        mouth.begin(2)
        assert stage.heard() == ["One", "two"]
        assert await mouth.say_rest(2, 1, 0, 2) == (1, 0.4, 0.0)
        assert await mouth.say_rest(2, 1, 1, 0) == (2, 0.8, 0.0)
        mouth.finish(2)
        block = len(stage.air)
        await stage.play(2.0)

    stage = on_stage(act, voice=voice)
    first, second = voice.clips
    wanted = np.concatenate([first.samples[2 * 19_200 :], second.samples])
    if not gaps:
        wanted[:240] *= np.linspace(0, 1, 240, dtype=np.float32)  # 5 ms, so that the cut does not click
    np.testing.assert_array_equal(sounded(stage, block, wanted.shape[0]), wanted)
    assert stage.heard()[2:] == ["three.", "Four", "five."]
    assert voice.said == ["One two three.", "Four five."], "nothing is synthesised again"
    assert isinstance(stage.told[-1], PlayoutFinished)


def test_a_rest_that_is_cut_off_is_kept_as_what_it_was() -> None:
    voice, block = NoisyVoice(gaps=True), 0

    async def act(mouth: LiveMouth, stage: Stage, _: Voice) -> None:
        nonlocal block
        mouth.begin(1)
        await mouth.say(1, "One two three four.")
        mouth.stop(1, keep=True)
        mouth.begin(2)
        await mouth.say_rest(2, 1, 0, 1)
        mouth.stop(2, keep=True)
        mouth.forget(1)
        mouth.begin(3)
        await mouth.say_rest(3, 2, 0, 2)
        mouth.finish(3)
        block = len(stage.air)
        await stage.play(1.0)

    stage = on_stage(act, voice=voice)
    np.testing.assert_array_equal(sounded(stage, block, 19_200), voice.clips[0].samples[3 * 19_200 :])
    assert stage.heard() == ["four."]


def test_only_what_was_not_heard_is_kept_and_only_until_it_is_forgotten() -> None:
    async def act(mouth: LiveMouth, stage: Stage, voice: Voice) -> None:
        async def missing(source: int, clause: int) -> bool:
            mouth.begin(source + 100)
            try:
                return await mouth.say_rest(source + 100, source, clause, 0) is None
            except KeyError:
                return True

        mouth.begin(1)
        for text in ("One.", "Two three.", "Four."):
            await mouth.say(1, text)
        await stage.play(0.4 + 0.4)
        mouth.stop(1, keep=True)
        assert [await missing(1, clause) for clause in (0, 1, 2)] == [True, False, False]
        mouth.forget(1)
        assert await missing(1, 2)
        mouth.begin(2)
        await mouth.say(2, "Five.")
        mouth.stop(2)
        assert await missing(2, 0), "it was not asked to be kept"

    on_stage(act)


def test_a_dead_branch_says_no_rest() -> None:
    async def act(mouth: LiveMouth, stage: Stage, voice: Voice) -> None:
        mouth.begin(1)
        await mouth.say(1, "One two.")
        mouth.stop(1, keep=True)
        mouth.begin(2)
        mouth.begin(3)
        assert await mouth.say_rest(2, 1, 0, 1) is None
        await stage.play(1.0)

    stage = on_stage(act)
    assert not np.concatenate(stage.air).any()


def test_a_prepared_line_takes_no_synthesis() -> None:
    async def act(mouth: LiveMouth, stage: Stage, voice: Voice) -> None:
        for _ in range(2):
            await mouth.prepare("Still there?")
        assert voice.said == ["Still there?"]
        mouth.begin(1)
        assert await mouth.say(1, "Still there?") == (2, 0.8, 0.0)
        assert voice.said == ["Still there?"]
        await mouth.say(1, "Something else.")
        await mouth.prepare("Another line.")
        await mouth.say(1, "Still there?")
        assert voice.said == ["Still there?", "Something else.", "Another line.", "Still there?"], "one is kept"
        mouth.finish(1)
        await stage.play(4.0)

    stage = on_stage(act)
    assert stage.heard() == ["Still", "there?", "Something", "else.", "Still", "there?"]
