"""Drives the reducer event by event on hand-made time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from app import effects as ask
from app import events as fact
from app.endpoint import Term, Weights
from app.language import load
from app.rules import Rules
from app.state import State
from app.timing import Turns
from app.turns import step

ENGLISH = load("en")
# Two signs that alone make an end all but sure or unlikely, so that a new fit of the real weights changes no test.
WEIGHTS = Weights(
    bias=0.0,
    terms={
        "full_stop": Term(weight=4.0, mean=0.5, scale=0.5),
        "llm_eot": Term(weight=4.0, mean=-3.0, scale=1.0),
    },
)
Step = Callable[[State, fact.Event, Rules], tuple[State, list[ask.Effect]]]
F = TypeVar("F", bound=fact.Fact)
E = TypeVar("E", bound=ask.Request)


def rules(**turns: object) -> Rules:
    """The default times but for these."""
    return Rules(msgspec.structs.replace(Turns(), **turns), ENGLISH, WEIGHTS)


@dataclass
class Driver:
    """Keeps time and timers, and answers nothing by itself."""

    rules: Rules = field(default_factory=rules)
    state: State = field(default_factory=State)
    step: Step = step
    now_s: float = 0.0
    timers: list[tuple[float, int, str]] = field(default_factory=list[tuple[float, int, str]])
    asked: list[ask.Effect] = field(default_factory=list[ask.Effect])

    def tell(self, event: fact.Event) -> list[ask.Effect]:
        stamped = msgspec.structs.replace(event, t_s=round(self.now_s, 6))
        self.state, effects = self.step(self.state, stamped, self.rules)
        self.asked += effects
        self.timers += [(e.at_s, e.serial, e.name) for e in effects if isinstance(e, ask.SetTimer)]
        return effects

    def due(self) -> tuple[float, int, str] | None:
        """The next timer that is not stale."""
        self.timers = [timer for timer in self.timers if self.state.timers.get(timer[2]) == timer[1]]
        return min(self.timers, default=None)

    def until(self, at_s: float) -> None:
        """Let time pass, with the timers that come due."""
        while (due := self.due()) and due[0] <= at_s:
            self.timers.remove(due)
            self.now_s = max(self.now_s, due[0])
            self.tell(fact.TimerFired(name=due[2], serial=due[1]))
        self.now_s = max(self.now_s, at_s)

    def onset(self, at_s: float) -> None:
        self.until(at_s)
        self.tell(fact.SpeechStarted(at_s=at_s))

    def silence(self, at_s: float) -> None:
        self.until(at_s)
        self.tell(fact.SpeechStopped(at_s=at_s))

    def speech(self, start_s: float, end_s: float) -> None:
        self.onset(start_s)
        self.silence(end_s)

    def partial(self, text: str) -> None:
        self.tell(fact.PartialTranscribed(utterance=self.state.user.utterance, stable="", unstable=text))

    def transcript(self, text: str) -> None:
        """Answer the newest Transcribe."""
        wanted = next(e for e in reversed(self.asked) if isinstance(e, ask.Transcribe))
        self.tell(fact.FinalTranscribed(utterance=wanted.utterance, request=wanted.request, text=text, took_ms=50))

    def read(self, end_logprob: float) -> None:
        """Answer the newest ReadAhead."""
        wanted = next(e for e in reversed(self.asked) if isinstance(e, ask.ReadAhead))
        self.tell(
            fact.UserTextRead(
                utterance=wanted.utterance, request=wanted.request, tokens=9, end_logprob=end_logprob, took_ms=20
            )
        )

    def say(self, start_s: float, end_s: float, text: str) -> None:
        """A whole turn: speech, transcript 150 ms later, commit."""
        self.speech(start_s, end_s)
        self.until(end_s + 0.15)
        self.transcript(text)
        self.until(end_s + 0.3)

    def reply(self, words: int = 0, text: str = "", at_s: float | None = None) -> int:
        """The live reply becomes audible and `words` words of it are heard, one each 300 ms."""
        branch = self.state.agent.branch
        if text:
            self.tell(fact.ClauseDecoded(branch=branch, clause=0, text=text))
        self.until(self.now_s if at_s is None else at_s)
        self.tell(fact.PlayoutStarted(branch=branch, at_s=self.now_s))
        for word in range(1, words + 1):
            self.until(self.now_s + 0.3)
            heard = text.split()[word - 1] if text else "w"
            self.tell(fact.WordHeard(branch=branch, words=word, text=heard, at_s=self.now_s))
        return branch

    def held(self, words: int) -> None:
        """The loudspeaker answers Hold."""
        self.tell(fact.OutputHeld(branch=self.state.agent.branch, at_s=self.now_s, words=words))

    def finish(self) -> None:
        """The live reply is heard to its end."""
        self.tell(fact.PlayoutFinished(branch=self.state.agent.branch, at_s=self.now_s))

    def take(self, kind: type[E]) -> list[E]:
        """Effects of a kind asked for since the last time."""
        found = [e for e in self.asked if isinstance(e, kind)]
        self.asked = [e for e in self.asked if not isinstance(e, kind)]
        return found

    def facts(self, kind: type[F]) -> list[F]:
        """All that was announced of a kind."""
        return [e.fact for e in self.asked if isinstance(e, ask.Announce) and isinstance(e.fact, kind)]

    def texts(self) -> list[str]:
        """The texts of replies asked for since the last time."""
        return [e.text for e in self.take(ask.StartReply)]

    def notes(self) -> list[tuple[str, str]]:
        """Kind and text of what was put on record."""
        return [(note.kind, note.text) for note in self.facts(fact.UserNoted)]

    def verdicts(self) -> list[str]:
        """What overlaps were judged to be."""
        return [judged.verdict for judged in self.facts(fact.OverlapJudged)]

    def commands(self) -> tuple[list[str], list[str]]:
        """Commands that were taken, and refused."""
        taken: list[str] = [e.command for e in self.facts(fact.CommandTaken)]
        return taken, [e.command for e in self.facts(fact.CommandRefused)]


def speaking(words: int = 5, text: str = "", **turns: object) -> Driver:
    """Turn 1 was committed 200 ms after 2.0; its reply is audible since 2.3, with so many words heard."""
    driver = Driver(rules(**turns))
    driver.say(1.0, 2.0, "Tell me about the moon.")
    driver.reply(words, text)
    driver.until(max(6.0, driver.now_s))
    driver.asked.clear()
    return driver


def cut_off(words: int = 5, *, tail: bool = True) -> Driver:
    """Reply 1 was ended by the stop key after so many words, and the rest of it is kept."""
    driver = speaking(words)
    driver.tell(fact.StopPressed())
    driver.held(words)
    if tail:
        driver.tell(fact.TailKept(branch=1, turn=1, text="the rest", complete=True))
    driver.asked.clear()
    return driver
