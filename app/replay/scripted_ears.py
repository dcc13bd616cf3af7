"""Ears without sound and models, for virtual time: sounds are words at their times, and nothing is misheard."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from app import events as ev
from app.decisions import Mode
from app.endpoint import ends_sentence
from app.ports import Clock, Emit, Listened
from app.replay.moments import UserSound
from app.replay.paces import Jitter, Times
from app.replay.script import Fault, Line

_CARD = "scripted"
# How finished the end of an utterance sounds if its text looks finished, and if not.
_FINISHED, _UNFINISHED = 0.95, 0.05


class Loudspeaker(Protocol):
    """What ears must know of the mouth: it is heard, and shares the sound card."""

    on_sounding: Callable[[bool], None]
    """Called when the loudspeaker falls silent, and when it begins to sound."""

    def lately(self, seconds: float) -> list[str]:
        """What was said in the last `seconds`, word by word."""
        ...

    def lose(self, lost: bool) -> None:
        """The sound card is gone, or is back."""
        ...


@dataclass(slots=True)
class _Hearing:
    """One sound of the user, and the words in it."""

    start_s: float
    end_s: float
    words: list[str]
    smart_turn: float | None

    def words_in(self, from_s: float, until_s: float) -> list[tuple[float, str]]:
        """Words of which most lies between the two times, each with its middle."""
        step_s = (self.end_s - self.start_s) / max(1, len(self.words))
        middles = [self.start_s + (number + 0.6) * step_s for number in range(len(self.words))]
        return [(at_s, word) for word, at_s in zip(self.words, middles, strict=True) if from_s <= at_s <= until_s]


class ScriptedEars:
    """Satisfies `app.ports.Ears`; `perform` satisfies `director.Perform`.

    Args:
        clock: The session's.
        times: How long things take.
        jitter: How irregularly.
        loudspeaker: What is heard in mode half, and lost with the sound card; None: there is none.
    """

    def __init__(self, clock: Clock, times: Times, jitter: Jitter, loudspeaker: Loudspeaker | None = None) -> None:
        self._clock, self._times, self._jitter = clock, times, jitter
        self._loudspeaker = loudspeaker
        if loudspeaker:
            loudspeaker.on_sounding = self._speaker_changed
        self._sounds: list[_Hearing] = []
        self._deaf: list[tuple[float, float]] = []
        """When no sound came in; if the microphone is shut, the last is without end."""
        self._opened_s = 0.0
        self._performed: asyncio.Queue[_Hearing | Fault] = asyncio.Queue()
        self._emit: Emit = _nobody
        self._sounding = 0
        """Sounds of the user that voice activity hears."""
        self._mode: Mode = "duplex"
        self._key_down = self._speaker_on = self._lost = self._shut = False
        self._reopening: asyncio.TimerHandle | None = None
        self._active = False
        """Voice activity has told of speech, and not yet of its end."""
        self._dropped_frames = 0
        self._utterance = 0
        self._from_s = 0.0
        self._told = ("", "")

    # ---- the user's side ----

    def perform(self, line: Line) -> UserSound:
        """The user makes this sound from now on, or the sound path breaks."""
        start_s = self._clock.now_s()
        if line.fault:
            self._performed.put_nowait(line.fault)
            return UserSound(line, start_s, round(start_s + line.fault.seconds, 6))
        heard = (line.hears if line.hears is not None else line.say or "").split()
        if line.echo and line.noise and self._loudspeaker:
            heard = self._loudspeaker.lately(line.noise.seconds)
        seconds = line.seconds or (line.noise.seconds if line.noise else self._times.user_word * max(1, len(heard)))
        sound = _Hearing(start_s, round(start_s + seconds, 6), heard, line.smart_turn)
        if line.noise is None or line.noise.kind != "white":  # steady noise is nothing to voice activity
            self._sounds.append(sound)
            self._performed.put_nowait(sound)
        return UserSound(line, sound.start_s, sound.end_s)

    # ---- the port ----

    async def run(self, emit: Emit) -> None:
        """Tell of sounds as they are performed."""
        self._emit = emit
        async with asyncio.TaskGroup() as group:
            while True:
                match await self._performed.get():
                    case _Hearing() as sound:
                        group.create_task(self._tell(sound))
                    case Fault(kind, seconds):
                        group.create_task(self._break_card(seconds) if kind == "device" else self._drop(seconds))

    def start_utterance(self, utterance: int, from_s: float) -> None:
        """Sound from `from_s` on belongs to this utterance."""
        assert utterance > self._utterance, "utterances are numbered upwards"
        self._sounds = [sound for sound in self._sounds if sound.end_s > from_s]
        self._utterance, self._from_s, self._told = utterance, from_s, ("", "")

    async def transcribe(self, utterance: int, until_s: float) -> Listened:
        """All words of the utterance up to `until_s`."""
        from_s, current = self._from_s, utterance == self._utterance
        await self._jitter.take(self._times.final)
        if not current:
            return Listened("", {})
        until_s += self._times.offset_error
        text = " ".join(self._words(from_s, until_s))
        if not text:
            return Listened("", {})
        sounds = [sound for sound in self._sounds if sound.words_in(from_s, until_s)]
        finished = sounds[-1].smart_turn
        if finished is None:
            finished = _FINISHED if ends_sentence(text) else _UNFINISHED
        return Listened(text, {"smart_turn": finished, "speech_s": round(until_s - sounds[0].start_s, 6)})

    def end_utterance(self, utterance: int) -> None:
        """Nothing more is told of this utterance."""
        if utterance == self._utterance:
            self._from_s = self._clock.now_s()

    def set_mode(self, mode: Mode) -> None:
        """When the microphone is open."""
        self._mode = mode
        self._open_or_shut()

    def set_talk_key(self, down: bool) -> None:
        """In mode ptt the microphone is open while the key is down."""
        self._key_down = down
        self._open_or_shut()

    # ---- what reaches the microphone ----

    async def _tell(self, sound: _Hearing) -> None:
        """What the ears make of one sound, each thing at its time."""
        times, jitter = self._times, self._jitter
        step_s = (sound.end_s - sound.start_s) / max(1, len(sound.words))
        ends = [sound.start_s + number * step_s for number in range(1, len(sound.words) + 1)]
        told: list[tuple[float, Callable[[_Hearing], None]]] = [
            (sound.start_s + jitter(times.onset_late), self._tell_start),
            *((end_s + jitter(times.partial), self._tell_partial) for end_s in ends),
            (sound.end_s + jitter(times.offset_late), self._tell_stop),
        ]
        for at_s, tell in sorted(told, key=lambda one: one[0]):
            await self._clock.sleep_until(at_s)
            tell(sound)

    def _tell_start(self, sound: _Hearing) -> None:
        self._sounding += 1
        self._tell_edge(sound.start_s + self._times.onset_error)

    def _tell_stop(self, sound: _Hearing) -> None:
        self._sounding -= 1
        self._tell_edge(sound.end_s + self._times.offset_error)

    def _tell_partial(self, _: _Hearing) -> None:
        """The newest word may still change; those before it are stable."""
        words = self._words(self._from_s, self._clock.now_s() - self._times.partial)
        told = (" ".join(words[:-1]), " ".join(words[-1:]))
        if self._lost or not words or told == self._told or self._jitter.happens(self._jitter.faults.unheard):
            return
        self._told = told
        self._emit(ev.PartialTranscribed(utterance=self._utterance, stable=told[0], unstable=told[1]))

    def _words(self, from_s: float, until_s: float) -> list[str]:
        return [
            word
            for sound in self._sounds
            for at_s, word in sound.words_in(from_s, until_s)
            if not any(begin_s <= at_s < end_s for begin_s, end_s in self._deaf)
        ]

    def _tell_edge(self, at_s: float) -> None:
        """Tell if speech, as it reaches the recogniser, has begun or ended. Nothing is told without a sound card."""
        muted = self._mode == "half" and self._speaker_on
        active = self._key_down if self._mode == "ptt" else self._sounding > 0 and not muted
        if active == self._active or self._lost:
            return
        self._active = active
        at_s = round(max(at_s, self._opened_s), 6)
        self._emit(ev.SpeechStarted(at_s=at_s) if active else ev.SpeechStopped(at_s=at_s))

    def _open_or_shut(self) -> None:
        """The microphone may have been opened or shut."""
        now_s = self._clock.now_s()
        muted = (self._mode == "half" and self._speaker_on) or (self._mode == "ptt" and not self._key_down)
        if (self._lost or muted) != self._shut:
            self._shut = not self._shut
            if self._shut:
                self._deaf.append((now_s, math.inf))
            else:
                self._deaf[-1], self._opened_s = (self._deaf[-1][0], now_s), now_s
        self._tell_edge(now_s)

    def _speaker_changed(self, sounding: bool) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        if sounding:
            self._speaker_on = True
            self._open_or_shut()
        else:
            self._reopening = asyncio.get_running_loop().call_later(self._times.half_tail, self._speaker_silent)

    def _speaker_silent(self) -> None:
        self._speaker_on = False
        self._open_or_shut()

    # ---- what breaks ----

    async def _break_card(self, seconds: float) -> None:
        """The sound card is gone for a while: nothing is heard, and nothing is played."""
        if self._lost:
            return
        lost_at_s = self._clock.now_s()
        self._lose(True)
        self._emit(ev.DeviceLost(device=_CARD, reason="it was unplugged"))
        await asyncio.sleep(seconds)
        self._emit(ev.DeviceOpened(device=_CARD))
        if self._active:
            self._active = False
            self._emit(ev.SpeechStopped(at_s=round(lost_at_s, 6)))
        self._lose(False)

    def _lose(self, lost: bool) -> None:
        self._lost = lost
        if self._loudspeaker:
            self._loudspeaker.lose(lost)
        self._open_or_shut()

    async def _drop(self, seconds: float) -> None:
        """Frames of the microphone get lost; the words in them are never heard."""
        now_s = self._clock.now_s()
        self._deaf.insert(0, (now_s, now_s + seconds))
        await asyncio.sleep(seconds)
        self._dropped_frames += math.ceil(seconds / self._times.block)
        self._emit(ev.SoundTroubled(xruns=0, dropped_frames=self._dropped_frames))


def _nobody(_: ev.Event) -> None:
    """Takes what is told before anybody listens."""
