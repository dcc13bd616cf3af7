"""The scripted ears keep to their port's word: what is heard, when it is told, and when the microphone is shut."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app import events as ev
from app.ports import Listened
from app.replay import virtual
from app.replay.script import At, Fault, Line, Noise
from app.replay.scripted import Jitter, ScriptedEars, Times
from app.replay.scripted_mouth import ScriptedMouth

STEADY = Jitter(0, 0.0)


def test_ears_tell_of_speech_late_and_hear_its_words() -> None:
    async def main() -> tuple[list[ev.Event], Listened, Listened]:
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
    assert whole == Listened("One two three four.", {"smart_turn": 0.95, "speech_s": 1.352})
    assert half == Listened("One two", {"smart_turn": 0.05, "speech_s": 0.692})
    assert told[0] == ev.SpeechStarted(at_s=0.016)
    assert ev.SpeechStopped(at_s=1.352) in told
    partials = [fact for fact in told if isinstance(fact, ev.PartialTranscribed)]
    assert (partials[-1].stable, partials[-1].unstable) == ("One two three", "four.")


@pytest.mark.parametrize(("kind", "edges"), [("cough", 2), ("babble", 2), ("white", 0)])
def test_noise_has_no_words_and_steady_noise_is_nothing_at_all(kind: str, edges: int) -> None:
    async def main() -> tuple[list[ev.Event], Listened]:
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
    assert text == Listened("", {})


def heard(act: Callable[[ScriptedEars, ScriptedMouth], Awaitable[None]]) -> tuple[list[ev.Event], str]:
    """What ears tell while `act` does something to them, and what they have heard in the end."""

    async def main() -> tuple[list[ev.Event], str]:
        clock, told = virtual.VirtualClock(), list[ev.Event]()
        mouth = ScriptedMouth(clock, Times(), STEADY)
        ears = ScriptedEars(clock, Times(), STEADY, mouth)
        running = [asyncio.create_task(part.run(told.append)) for part in (ears, mouth)]
        ears.start_utterance(1, 0.0)
        await act(ears, mouth)
        listened = await ears.transcribe(1, clock.now_s())
        for task in running:
            task.cancel()
        return [fact for fact in told if not isinstance(fact, ev.PartialTranscribed)], listened.text

    return virtual.run(main())


SIX = Line(At(0), "here", say="One two three four five six.")


def edges(told: list[ev.Event]) -> list[tuple[str, float]]:
    return [(type(f).__name__, f.at_s) for f in told if isinstance(f, ev.SpeechStarted | ev.SpeechStopped)]


def test_the_microphone_is_shut_while_the_agent_speaks_in_mode_half() -> None:
    async def act(ears: ScriptedEars, mouth: ScriptedMouth) -> None:
        ears.set_mode("half")
        mouth.begin(1)
        await mouth.say(1, "Hello there you.")
        mouth.finish(1)
        ears.perform(SIX)
        await asyncio.sleep(3)

    told, text = heard(act)
    finished = next(fact for fact in told if isinstance(fact, ev.PlayoutFinished))
    (_, opened_s), (_, stopped_s) = edges(told)
    assert opened_s == pytest.approx(finished.at_s + 0.25, abs=0.1)
    assert stopped_s == pytest.approx(2.1, abs=0.01)
    assert text == "five six."


def test_in_mode_ptt_all_from_press_to_release_is_speech() -> None:
    async def act(ears: ScriptedEars, _: ScriptedMouth) -> None:
        ears.set_mode("ptt")
        ears.perform(SIX)
        await asyncio.sleep(0.9)
        ears.set_talk_key(True)
        await asyncio.sleep(0.7)
        ears.set_talk_key(False)
        await asyncio.sleep(1)

    told, text = heard(act)
    assert edges(told) == [("SpeechStarted", 0.9), ("SpeechStopped", 1.6)]
    assert text == "four five"


def test_a_lost_card_hears_nothing_and_ends_the_speech_where_it_was_lost() -> None:
    async def act(ears: ScriptedEars, _: ScriptedMouth) -> None:
        ears.perform(SIX)
        await asyncio.sleep(0.4)
        ears.perform(Line(At(0), "here", fault=Fault("device", 1.0)))
        await asyncio.sleep(3)

    told, text = heard(act)
    assert [type(fact).__name__ for fact in told] == [
        *("SpeechStarted", "DeviceLost", "DeviceOpened", "SpeechStopped", "SpeechStarted", "SpeechStopped"),
    ]
    assert [round(at_s, 3) for _, at_s in edges(told)] == [0.016, 0.4, 1.4, 2.012]
    assert text == "One five six."


def test_words_in_lost_frames_are_never_heard() -> None:
    async def act(ears: ScriptedEars, _: ScriptedMouth) -> None:
        ears.perform(SIX)
        await asyncio.sleep(0.4)
        ears.perform(Line(At(0), "here", fault=Fault("frames", 0.5)))
        await asyncio.sleep(3)

    told, text = heard(act)
    assert next(fact for fact in told if isinstance(fact, ev.SoundTroubled)).dropped_frames == 25
    assert text == "One four five six."
    assert len(edges(told)) == 2


def test_an_echo_is_what_was_just_said() -> None:
    async def act(ears: ScriptedEars, mouth: ScriptedMouth) -> None:
        mouth.begin(1)
        await mouth.say(1, "One two three four five.")
        await asyncio.sleep(1.0)
        ears.perform(Line(At(0), "here", noise=Noise("babble", -30, 0.6), echo=True))
        await asyncio.sleep(1.5)

    assert heard(act)[1] == "two three"
