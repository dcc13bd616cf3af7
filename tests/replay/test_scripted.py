"""The scripted parts keep to the ports' word: what a rollback leaves, what a hold hears."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from app import events as ev
from app.replay import virtual
from app.replay.script import At, Line, Noise
from app.replay.scripted import Jitter, Said, ScriptedBrain, ScriptedEars, Times
from app.replay.scripted_mouth import ScriptedMouth

STEADY = Jitter(0, 0.0)


def brain(*replies: str) -> ScriptedBrain:
    return ScriptedBrain(Times(), STEADY, replies)


def test_a_rollback_to_a_clause_and_the_heard_tail_is_what_was_heard() -> None:
    async def main() -> ScriptedBrain:
        one = brain("The moon is far. It is cold there.")
        await one.open()
        await one.read_user("Tell me about the moon.")
        mark = None
        async with aclosing(one.reply(1)) as pieces:
            async for piece in pieces:
                if piece == " It":
                    mark = await one.mark_clause()
        assert mark is not None
        assert one.said == [
            Said("user", "Tell me about the moon."),
            Said("agent", "The moon is far. It is cold there."),
        ]
        report = await one.roll_back(mark.handle, " It is", cut=True)
        assert report.refed_tokens == 3
        return one

    assert virtual.run(main()).said == [
        Said("user", "Tell me about the moon."),
        Said("agent", "The moon is far. It is—"),
    ]


def test_a_piece_is_in_the_state_only_when_the_next_one_comes() -> None:
    async def main() -> str:
        one = brain("One two three.")
        await one.open()
        await one.read_user("Count.")
        async with aclosing(one.reply(1)) as pieces:
            async for piece in pieces:
                if piece == " two":
                    break
        return one.said[-1].text

    assert virtual.run(main()) == "One"


def test_moving_the_state_during_a_decode_is_caught() -> None:
    async def main() -> None:
        one = brain("One two three.")
        mark = await one.open()
        async with aclosing(one.reply(1)) as pieces:
            await anext(pieces)
            await one.roll_back(mark.handle, "", cut=False)

    with pytest.raises(AssertionError, match="one caller at a time"):
        virtual.run(main())


def test_a_forgotten_boundary_is_gone() -> None:
    async def main() -> None:
        one = brain("One.")
        mark = await one.open()
        one.forget([mark.handle])
        await one.roll_back(mark.handle, "", cut=False)

    with pytest.raises(KeyError):
        virtual.run(main())


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


def test_ears_tell_of_speech_late_and_hear_its_words() -> None:
    async def main() -> tuple[list[ev.Event], str, str]:
        clock, told = virtual.VirtualClock(), list[ev.Event]()
        ears = ScriptedEars(clock, Times(), STEADY)
        running = asyncio.create_task(ears.run(told.append))
        ears.start_utterance(1, 0.0)
        sound = ears.perform(Line(At(0), "here", say="One two three four."))
        await asyncio.sleep(sound.end_s + 1)
        whole = await ears.transcribe(1, sound.end_s)
        half = await ears.transcribe(1, sound.end_s / 2)
        running.cancel()
        return told, whole, half

    told, whole, half = virtual.run(main())
    assert whole == "One two three four."
    assert half == "One two"
    assert told[0] == ev.SpeechStarted(at_s=0.016)
    assert ev.SpeechStopped(at_s=1.352) in told
    partials = [fact for fact in told if isinstance(fact, ev.PartialTranscribed)]
    assert (partials[-1].stable, partials[-1].unstable) == ("One two three", "four.")


@pytest.mark.parametrize(("kind", "edges"), [("cough", 2), ("babble", 2), ("white", 0)])
def test_noise_has_no_words_and_steady_noise_is_nothing_at_all(kind: str, edges: int) -> None:
    async def main() -> tuple[list[ev.Event], str]:
        told: list[ev.Event] = []
        ears = ScriptedEars(virtual.VirtualClock(), Times(), STEADY)
        running = asyncio.create_task(ears.run(told.append))
        ears.start_utterance(1, 0.0)
        ears.perform(Line(At(0), "here", noise=Noise(kind, -30, 1.0)))  # pyright: ignore[reportArgumentType]  # one of the kinds
        await asyncio.sleep(2)
        text = await ears.transcribe(1, 2.0)
        running.cancel()
        return told, text

    told, text = virtual.run(main())
    assert len(told) == edges
    assert text == ""
