"""Dialogues drawn from a seed: what a user may do to an agent, at any moment, while anything may go wrong.

Each line comes so long after the line of speech before it, so that nothing needs to be known of the replies, and lines
fall on every moment of them. Words of the user and of the replies carry a number each and are never said twice: where
one is found says exactly what became of it. Short phrases that mean something are the language's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
import numpy as np

from app import commands
from app import config as configuration
from app.config import Config
from app.decisions import Mode
from app.language import load
from app.replay.paces import NO_FAULTS, Faults, Times
from app.replay.script import KEYS, AfterTurn, At, Cue, Fault, Line, Noise, NoiseKind, Script

_WORDS = ("river", "stone", "garden", "window", "seven", "morning", "quiet", "letter", "market", "bridge", "winter")
_ANSWER_WORDS = ("mountain", "orchard", "silver", "harbour", "thunder", "candle", "feather", "meadow", "pepper")
_ENGLISH = load("en")
_PHRASES = ("backchannels", "stop", "go_on", "undo", "regenerate", "wait")
_ASKED_KEYS = ("stop", "go_on", "undo", "regenerate")
_SMALL_CONTEXT_PIECES = 300


class Scene(NamedTuple):
    """A dialogue, and the world it takes place in."""

    script: Script
    config: Config
    times: Times
    jitter: float


class Author:
    """Writes one scene.

    Args:
        seed: The same one writes the same.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = np.random.default_rng(seed)
        self._lines: list[Line] = []
        self._speech = 0
        self._numbered = 0
        self._mode: Mode = "duplex"
        self._key_down = False
        self._does: dict[Callable[[], None], float] = {
            self._speak: 0.32,
            self._pause: 0.08,
            self._utter_phrase: 0.16,
            self._make_noise: 0.1,
            self._press_key: 0.16,
            self._type: 0.05,
            self._hold_talk_key: 0.04,
            self._choose: 0.05,
            self._break: 0.04,
        }

    def write(self, turns: int, base: Config) -> Scene:
        """A dialogue in which the user speaks so many times."""
        settings = self._settings()
        acts, shares = list(self._does), list(self._does.values())
        self._speak()
        while self._speech < turns:
            acts[int(self._random.choice(len(acts), p=shares))]()
        replies = tuple((self._answer(), self._answer()) for _ in range(2 * turns + 4))
        title = f"dialogue of seed {self._seed}"
        script = Script(Path(title), title, None, None, {}, tuple(self._lines), replies, ())
        config = configuration.parse(settings, title, base)
        if self._chance(1 / 3):
            # Smaller than a user may choose, so that the oldest turns have to leave.
            llm = msgspec.structs.replace(config.llm, context_tokens=_SMALL_CONTEXT_PIECES)
            config = msgspec.structs.replace(config, llm=llm)
        return Scene(script, config, Times(faults=self._faults()), self._pick((0.0, 0.3, 0.8)))

    # ---- the world ----

    def _settings(self) -> dict[str, Any]:
        self._mode = self._pick(get_args(Mode), (0.66, 0.1, 0.14, 0.1))
        turns = {
            "keep": self._pick(("heard", "sentence", "none", "all"), (0.85, 0.05, 0.05, 0.05)),
            "check_in": self._pick(("after_question", "always", "never")),
            "check_in_ms": self._pick((3000, 12_000)),
            "tail_ms": self._pick((8000, 60_000)),
            "note": self._pick(("on", "off")),
        }
        return {"seed": self._seed, "turns": turns, "audio": {"mode": self._mode}}

    def _faults(self) -> Faults:
        slow_s = self._pick((1.0, 3.0, 40.0), (0.4, 0.4, 0.2))
        kinds = (
            NO_FAULTS,
            Faults(slow=0.02, slow_s=slow_s),
            Faults(unheard=0.3),
            Faults(failing=0.15, unread=0.05),
            Faults(slow=0.02, slow_s=2.0, unheard=0.1, failing=0.05, unread=0.02),
        )
        return kinds[int(self._random.choice(len(kinds), p=(0.4, 0.2, 0.1, 0.15, 0.15)))]

    # ---- what the user does ----

    def _speak(self) -> None:
        self._say(self._sentence(4, 12))

    def _pause(self) -> None:
        """Thinks in the middle of a sentence, or goes on although it looked finished."""
        self._say(f"{self._some(3)} the" if self._chance(0.6) else self._sentence(4, 8))
        self._say(self._sentence(4, 8), self._between(0.12, 1.2))

    def _utter_phrase(self) -> None:
        phrase = self._pick(getattr(_ENGLISH, self._pick(_PHRASES, (0.3, 0.15, 0.2, 0.13, 0.1, 0.12))))
        ends = self._pick((".", ",", "?", ""))
        if self._chance(0.2):
            self._say(f"{phrase.capitalize()}, {self._some(5)}.", self._gap())
        else:
            self._say(f"{phrase.capitalize()}{ends}", self._gap())

    def _make_noise(self) -> None:
        kind: NoiseKind = self._pick(("cough", "babble", "white"))
        seconds = self._between(0.05, 0.6) if kind == "cough" else self._between(0.5, 4.5)
        noise = Noise(kind, -30.0, seconds)
        self._add(Line(self._cue(self._gap()), kind, noise=noise, echo=self._chance(0.5)))

    def _press_key(self) -> None:
        gap_s = self._gap()
        for _ in range(int(self._random.integers(1, 4)) if self._chance(0.2) else 1):
            name = self._pick(_ASKED_KEYS)
            self._add(Line(self._cue(gap_s), name, ask=KEYS[name]))
            gap_s = round(gap_s + self._between(0.0, 0.5), 3)

    def _type(self) -> None:
        self._add(Line(self._cue(self._gap()), "typed", ask=commands.TextTyped(text=self._sentence(2, 8))))

    def _hold_talk_key(self) -> None:
        gap_s = self._gap()
        self._press_talk_key(gap_s)
        if self._chance(0.7):
            self._say(self._sentence(3, 8), gap_s + self._between(0.05, 0.4))
            gap_s = self._between(0.05, 0.3)
        self._release_talk_key(gap_s + 0.1)

    def _press_talk_key(self, gap_s: float) -> None:
        self._key_down = True
        self._add(Line(self._cue(gap_s), "key", ask=commands.TalkPressed()))

    def _release_talk_key(self, gap_s: float) -> None:
        self._key_down = False
        self._add(Line(self._cue(gap_s), "key", ask=commands.TalkReleased()))

    def _choose(self) -> None:
        """A boundary that may be there, or a mode for a while."""
        if self._chance(0.6):
            boundary = int(self._random.integers(0, 12 + 8 * self._speech))
            self._add(Line(self._cue(self._gap()), "branch", ask=commands.BranchChosen(boundary=boundary)))
        elif self._mode != "ptt":
            self._mode = self._pick(("duplex", "headset", "half"))
            self._add(Line(self._cue(self._gap()), "mode", ask=commands.ModeChosen(mode=self._mode)))

    def _break(self) -> None:
        fault = (
            Fault("frames", self._between(0.1, 0.9)) if self._chance(0.5) else Fault("device", self._between(0.2, 4))
        )
        self._add(Line(self._cue(self._gap()), "fault", fault=fault))

    # ---- lines ----

    def _say(self, text: str, gap_s: float | None = None) -> None:
        gap_s = self._gap() if gap_s is None else gap_s
        keyed = self._mode == "ptt" and not self._key_down
        if keyed:
            self._press_talk_key(gap_s)
            gap_s += 0.1
        self._add(Line(self._cue(gap_s), f"speech {self._speech + 1}", say=text, smart_turn=self._ending()))
        self._speech += 1
        if keyed:
            self._release_talk_key(0.1)

    def _ending(self) -> float | None:
        """How the end sounds, which may belie the text."""
        return round(float(self._random.random()), 3) if self._chance(0.2) else None

    def _add(self, line: Line) -> None:
        self._lines.append(line)

    def _cue(self, gap_s: float) -> Cue:
        return AfterTurn(self._speech, round(gap_s, 3)) if self._speech else At(0.5)

    def _gap(self) -> float:
        """At once, in the middle of a reply, or when it is surely over."""
        least_s, most_s = self._pick(((0.05, 1.3), (1.0, 7.0), (9.0, 16.0)), (0.25, 0.5, 0.25))
        return self._between(least_s, most_s)

    # ---- words ----

    def _answer(self) -> str:
        kind = self._pick(("plain", "question", "word", "nothing", "long"), (0.74, 0.14, 0.05, 0.04, 0.03))
        match kind:
            case "nothing":
                return ""
            case "word":
                return self._some(1, _ANSWER_WORDS).capitalize() + "."
            case "long":
                return " ".join(self._sentence(8, 20, _ANSWER_WORDS) for _ in range(9))
            case _:
                text = " ".join(self._sentence(4, 14, _ANSWER_WORDS) for _ in range(int(self._random.integers(1, 4))))
                return text[:-1] + "?" if kind == "question" else text

    def _sentence(self, least: int, most: int, words: Sequence[str] = _WORDS) -> str:
        text = self._some(int(self._random.integers(least, most)), words).capitalize()
        return text.replace(" ", ", ", 1) + "." if self._chance(0.3) else text + "."

    def _some(self, count: int, words: Sequence[str] = _WORDS) -> str:
        self._numbered += count
        first = self._numbered - count
        return " ".join(f"{self._pick(words)}{number}" for number in range(first, self._numbered))

    # ---- chance ----

    def _pick(self, among: Sequence[Any], shares: Sequence[float] | None = None) -> Any:
        return among[int(self._random.choice(len(among), p=shares))]

    def _chance(self, share: float) -> bool:
        return float(self._random.random()) < share

    def _between(self, least: float, most: float) -> float:
        return round(float(self._random.uniform(least, most)), 3)
