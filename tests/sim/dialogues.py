"""Dialogues drawn from a seed: plain turns, interruptions at any word, false starts, pauses, noises."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from app.replay.script import AfterHeard, AfterReply, AfterTurn, At, Cue, Line, Noise, NoiseKind, Script

_WORDS = ("river", "stone", "garden", "window", "seven", "morning", "quiet", "letter", "market", "bridge", "winter")
_Kind = Literal["plain", "pause", "interrupt", "cough", "babble", "false start"]
_KINDS: tuple[_Kind, ...] = ("plain", "pause", "interrupt", "cough", "babble", "false start")
_SHARES = (0.25, 0.12, 0.35, 0.12, 0.06, 0.1)
# Longer than the longest reply, so that a cue needs not to know how many replies became audible.
_AFTER_ANY_REPLY_S = 20.0


class Author:
    """Writes one script.

    A false start (the user goes on within a second of a turn's end) may or may not leave a reply audible, so from then
    on cues count the user's lines and not replies.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._lines: list[Line] = []
        self._speech = 0
        self._replies: int | None = 0
        self._undisturbed = False
        """A reply is there, and no noise waits for one of its words."""

    def write(self, turns: int, title: str) -> Script:
        """A dialogue of at most so many turns."""
        for _ in range(turns):
            self._turn(_KINDS[int(self._random.choice(len(_KINDS), p=_SHARES))])
        answers = tuple(f"{self._sentence(12, 18)} {self._sentence(8, 18)}" for _ in range(turns))
        return Script(Path(title), title, None, None, {}, tuple(self._lines), answers, ())

    def _turn(self, kind: _Kind) -> None:
        if kind == "interrupt" and self._undisturbed and self._replies:
            # A reply has 20 words of 0.3 s at least, so it outlasts the interruption by two seconds.
            cue: Cue = AfterHeard(self._replies, int(self._random.integers(0, 11)))
            if cue.words == 0:
                self._replies = None
            self._say(cue, self._sentence(4, 12))
        else:
            self._say(self._next_cue(), self._sentence(4, 12) if kind != "pause" else f"{self._some(3)} the")
        if kind in ("pause", "false start"):
            longest_s = 0.6 if kind == "pause" else 1.0
            self._say(AfterTurn(self._speech, self._between(0.15, longest_s)), self._sentence(4, 12))
        if kind == "false start":
            self._replies = None
        if self._replies is not None:
            self._replies += 1
        self._undisturbed = kind not in ("cough", "babble")
        if kind in ("cough", "babble") and self._replies is not None:
            self._noise(kind, self._replies)

    def _next_cue(self) -> Cue:
        if self._speech == 0:
            return At(0.5)
        if self._replies is None:
            return AfterTurn(self._speech, _AFTER_ANY_REPLY_S)
        return AfterReply(self._replies, self._between(0.3, 2.0))

    def _noise(self, kind: NoiseKind, reply: int) -> None:
        noise = Noise(kind, -30.0, self._between(0.05, 0.6) if kind == "cough" else self._between(2.0, 4.5))
        self._lines.append(Line(AfterHeard(reply, int(self._random.integers(0, 12))), kind, noise=noise))

    def _say(self, cue: Cue, text: str) -> None:
        self._speech += 1
        self._lines.append(Line(cue, f"speech {self._speech}", say=text))

    def _sentence(self, least: int, most: int) -> str:
        return self._some(int(self._random.integers(least, most))).capitalize() + "."

    def _some(self, count: int) -> str:
        return " ".join(str(self._random.choice(_WORDS)) for _ in range(count))

    def _between(self, least: float, most: float) -> float:
        return round(float(self._random.uniform(least, most)), 3)


def draw(seed: int, turns: int) -> Script:
    """A dialogue of at most so many turns; the same seed gives the same one."""
    return Author(seed).write(turns, f"dialogue of seed {seed}")
