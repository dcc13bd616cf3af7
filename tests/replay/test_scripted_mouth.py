"""The scripted mouth keeps to its port's word: what was heard, what a hold freezes, what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app import events as ev
from app.replay import virtual
from app.replay.scripted import Jitter, Times
from app.replay.scripted_mouth import ScriptedMouth

STEADY = Jitter(0, 0.0)


Act = Callable[[ScriptedMouth], Awaitable[None]]


def played(act: Act) -> list[ev.Event]:
    """What a mouth tells while `act` uses it."""

    async def main() -> list[ev.Event]:
        told: list[ev.Event] = []
        mouth = ScriptedMouth(virtual.VirtualClock(), Times(), STEADY)
        running = asyncio.create_task(mouth.run(told.append))
        mouth.begin(1)
        await act(mouth)
        running.cancel()
        return told

    return virtual.run(main())


def test_words_are_heard_at_their_times() -> None:
    async def act(mouth: ScriptedMouth) -> None:
        spoken = await mouth.say(1, "One two three.")
        assert spoken is not None
        assert spoken.words == 3
        mouth.finish(1)
        await asyncio.sleep(3)

    told = played(act)
    assert [type(fact).__name__ for fact in told] == ["PlayoutStarted", *["WordHeard"] * 3, "PlayoutFinished"]
    start_s = told[0].at_s  # pyright: ignore[reportAttributeAccessIssue]  # a PlayoutStarted, see above
    heard = [fact for fact in told if isinstance(fact, ev.WordHeard)]
    # A word counts as heard at 60 % of its 0.3 s.
    assert [round(fact.at_s - start_s, 3) for fact in heard] == [0.18, 0.48, 0.78]
    assert [fact.text for fact in heard] == ["One", "two", "three."]


def test_a_hold_freezes_the_playhead_and_a_resume_loses_no_word() -> None:
    async def act(mouth: ScriptedMouth) -> None:
        await mouth.say(1, "One two three four.")
        mouth.finish(1)
        await asyncio.sleep(0.55)
        mouth.hold()
        await asyncio.sleep(5)
        mouth.resume()
        await asyncio.sleep(3)

    told = played(act)
    held = next(fact for fact in told if isinstance(fact, ev.OutputHeld))
    resumed = next(fact for fact in told if isinstance(fact, ev.OutputResumed))
    assert held.words == resumed.words == sum(isinstance(fact, ev.WordHeard) for fact in told[: told.index(held)])
    assert [fact.words for fact in told if isinstance(fact, ev.WordHeard)] == [1, 2, 3, 4]
    assert isinstance(told[-1], ev.PlayoutFinished)


def test_a_hold_before_the_first_sample_is_told_too() -> None:
    async def act(mouth: ScriptedMouth) -> None:
        mouth.hold()
        await mouth.say(1, "One two three four.")
        await asyncio.sleep(1)

    (held,) = played(act)
    assert isinstance(held, ev.OutputHeld)
    assert held.words == 0


def test_a_stopped_branch_says_nothing_and_a_waiting_say_returns() -> None:
    async def act(mouth: ScriptedMouth) -> None:
        long = "word " * 30
        assert await mouth.say(1, long) is not None
        waiting = asyncio.create_task(mouth.say(1, long))
        await asyncio.sleep(0.9)
        assert not waiting.done()
        mouth.stop(1)
        assert await waiting is None
        assert await mouth.say(1, "More.") is None
        await asyncio.sleep(1)

    assert not any(isinstance(fact, ev.PlayoutFinished) for fact in played(act))


def test_kept_sound_is_said_from_the_very_word_and_in_no_time() -> None:
    async def act(mouth: ScriptedMouth) -> None:
        await mouth.say(1, "One two three four.")
        await mouth.say(1, "Five six.")
        await asyncio.sleep(0.3)
        mouth.stop(1, keep=True)
        mouth.begin(2)
        spoken = await mouth.say_rest(2, 1, 0, 2)
        assert spoken is not None
        assert (spoken.words, spoken.took_ms) == (2, 0)
        await mouth.say_rest(2, 1, 1, 0)
        mouth.finish(2)
        await asyncio.sleep(3)
        assert mouth.lately(0.6) == ["Five", "six."]
        mouth.stop(2, keep=True)
        assert mouth.kept == [1, 2]
        mouth.begin(3)
        await mouth.say_rest(3, 2, 0, 1)
        mouth.forget(1)
        with pytest.raises(KeyError):
            await mouth.say_rest(3, 1, 0, 0)
        await asyncio.sleep(1)

    told = [(fact.branch, fact.text) for fact in played(act) if isinstance(fact, ev.WordHeard)]
    assert told == [
        (1, "One"),
        *((2, word) for word in ("three", "four.", "Five", "six.")),
        (3, "four."),
    ]


def test_a_prepared_line_takes_no_time() -> None:
    async def act(mouth: ScriptedMouth) -> None:
        await mouth.prepare("Are you there?")
        for text, at_once in (("Are you there?", True), ("Are you here?", False)):
            spoken = await mouth.say(1, text)
            assert spoken is not None
            assert (spoken.took_ms == 0) is at_once

    played(act)


def test_sound_that_is_kept_for_nobody_is_caught() -> None:
    async def act(mouth: ScriptedMouth) -> None:
        for branch in range(1, 9):
            mouth.begin(branch)
            mouth.stop(branch, keep=True)

    with pytest.raises(AssertionError, match="kept for nobody"):
        played(act)


def test_a_lost_card_freezes_the_playhead_and_tells_nothing() -> None:
    async def act(mouth: ScriptedMouth) -> None:
        await mouth.say(1, "One two three four.")
        mouth.finish(1)
        await asyncio.sleep(0.5)
        mouth.lose(True)
        mouth.hold()
        await asyncio.sleep(5)
        mouth.resume()
        mouth.lose(False)
        await asyncio.sleep(2)

    told = played(act)
    words = [fact for fact in told if isinstance(fact, ev.WordHeard)]
    assert [fact.words for fact in words] == [1, 2, 3, 4]
    assert words[2].at_s - words[1].at_s > 4
    assert not any(isinstance(fact, ev.OutputHeld) for fact in told), "the gate was open again when the card came back"
