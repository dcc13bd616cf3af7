"""The parts for the wall clock: the real models on a simulated sound card, and the user's lines as real sound."""

from __future__ import annotations

import sys

from app import models, wiring
from app.clock import WallClock
from app.config import Config
from app.ports import Parts, Voice
from app.replay.card import SimulatedCard
from app.replay.director import UserSound
from app.replay.recording import Recording
from app.replay.script import Line, Script
from app.replay.user import Rendered, render
from audio.frame import MIC_HZ
from audio.playout import Playout


class Models:
    """The models in memory, loaded once for as many dialogues as want the same."""

    def __init__(self) -> None:
        self.loaded: wiring.Loaded | None = None
        """Those of the newest dialogue."""
        self._wanted: object = None
        self._voices: dict[str, Voice] = {}

    def prepare(self, script: Script, config: Config) -> tuple[wiring.Loaded, dict[Line, Rendered]]:
        """The models of a configuration, and the user's lines as sound.

        The agent's own voice speaks the lines unless the script names another; it does so while the rest is loaded.

        Raises:
            BacktalkError, EngineError, AudioError: A model or a recording can't be had or used.
        """
        lines: dict[Line, Rendered] = {}

        def speak(voice: Voice) -> None:
            lines.update(render(script.lines, voice, config.seed))

        name = script.voice or config.models.voice
        wanted = (config.models, config.llm)
        if self.loaded is None or wanted != self._wanted:
            own = name == config.models.voice
            self.loaded, self._wanted = wiring.load(config, _tell, speak if own else None), wanted
            self._voices[config.models.voice] = self.loaded.voice
        if not lines:
            if name not in self._voices:
                self._voices[name] = wiring.load_voice(models.resolve(name, "voice", offline=config.offline))
            speak(self._voices[name])
        return self.loaded, lines


class Room:
    """One dialogue's clock, sound card and parts. A context, as the card is."""

    def __init__(self, loaded: wiring.Loaded, lines: dict[Line, Rendered], config: Config, recording: Recording | None):
        clock = WallClock()
        playout = Playout(duck_db=config.audio.duck_db)
        self._lines = lines
        self._card = SimulatedCard(playout, clock, seed=config.seed, recording=recording)
        self.parts: Parts = wiring.live_parts(loaded, config, clock, self._card, playout)

    def __enter__(self) -> Room:
        self._card.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._card.__exit__(None, None, None)

    def perform(self, line: Line) -> UserSound:
        """The user makes this sound from the next block on."""
        sound = self._lines[line]
        at_s = self._card.play(sound.samples)
        return UserSound(line, round(at_s + sound.first / MIC_HZ, 6), round(at_s + sound.last / MIC_HZ, 6))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
