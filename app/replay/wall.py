"""The real models on a simulated sound card, and the user's lines as real sound: on the wall clock, or on one that
stands still while they compute. The way of the sound is that of a live conversation.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Literal, NamedTuple

from app import models, wiring
from app.clock import WallClock
from app.config import Config
from app.ports import Parts
from app.replay.card import StoppedCard, WallCard
from app.replay.director import UserSound
from app.replay.recording import Recording
from app.replay.room import Box, Echo
from app.replay.script import Line, Script
from app.replay.stopped import Compute
from app.replay.user import Rendered, render
from app.replay.virtual import VirtualClock
from app.sound_ports import Voice
from audio.frame import FRAME_SAMPLES, MIC_HZ
from audio.playout import Playout


class Way(NamedTuple):
    """How a dialogue is performed with the real models."""

    clock: Literal["wall", "stopped"] = "wall"
    compute: Compute = "free"
    """On the stopped clock: what computing costs."""
    room: Box | None = None
    """Around microphone and loudspeaker; None: no sound goes from one to the other."""
    echo_db: float | None = None
    """Instead of the room's."""


class Models:
    """The models in memory, loaded once for as many dialogues as want the same."""

    def __init__(self) -> None:
        self.loaded: wiring.Loaded | None = None
        """Those of the newest dialogue."""
        self._wanted: object = None
        self._voices: dict[str, Voice] = {}

    def prepare(self, script: Script, config: Config, way: Way) -> tuple[wiring.Loaded, dict[Line, Rendered]]:
        """The models of a configuration, and the user's lines as sound.

        The agent's own voice speaks the lines unless the script names another; it does so while the rest is loaded. On
        the stopped clock each dialogue has voices of its own: what one says would depend on all that it said before.

        Raises:
            BacktalkError, EngineError, AudioError: A model or a recording can't be had or used.
        """
        lines: dict[Line, Rendered] = {}

        def speak(voice: Voice) -> None:
            lines.update(render(script.lines, voice, config.seed))

        own = config.models.voice
        name = script.voice or own
        wanted = (config.models, config.llm)
        if self.loaded is None or wanted != self._wanted:
            self.loaded, self._wanted = wiring.load(config, _tell, speak if name == own else None), wanted
            self._voices = {own: self.loaded.voice}
        elif way.clock == "stopped":
            self._voices = {own: _voice(own, config)}
            self.loaded = replace(self.loaded, voice=self._voices[own])
        if not lines:
            if name not in self._voices:
                self._voices[name] = _voice(name, config)
            speak(self._voices[name])
        return self.loaded, lines


class LiveStage:
    """One dialogue's clock, sound card and parts. A context, as the card is."""

    def __init__(
        self,
        loaded: wiring.Loaded,
        lines: dict[Line, Rendered],
        config: Config,
        way: Way,
        recording: Recording | None,
    ) -> None:
        clock, kind = (WallClock(), WallCard) if way.clock == "wall" else (VirtualClock(), StoppedCard)
        playout = Playout(duck_db=config.audio.duck_db)
        echo = Echo(way.room, FRAME_SAMPLES, way.echo_db) if way.room else None
        self._lines = lines
        self._card = kind(playout, clock, seed=config.seed, recording=recording, echo=echo)
        self.parts: Parts = wiring.live_parts(loaded, config, clock, self._card, playout)

    def __enter__(self) -> LiveStage:
        self._card.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._card.__exit__(None, None, None)

    def perform(self, line: Line) -> UserSound:
        """The user makes this sound from the next block on."""
        sound = self._lines[line]
        at_s = self._card.play(sound.samples)
        return UserSound(line, round(at_s + sound.first / MIC_HZ, 6), round(at_s + sound.last / MIC_HZ, 6))


def _voice(name: str, config: Config) -> Voice:
    return wiring.load_voice(models.resolve(name, "voice", offline=config.offline))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
