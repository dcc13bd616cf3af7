"""Plays random actions to the reducer: any answer of any port, any wish of the user, in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from app import effects as ask
from app import events as fact
from app.endpoint import load_weights
from app.rules import Rules
from app.state import AgentPhase, State, UserPhase
from app.timing import Turns
from tests.unit.turns_driver import ENGLISH, Driver

RULES = Rules(Turns(), ENGLISH, load_weights())
TEXTS = [
    "",
    "...",
    "Mm-hmm.",
    "Stop.",
    "Go on.",
    "Undo that.",
    "Try again.",
    "Hold on.",
    "the moon is a",
    "Some words.",
]
CLAUSES = ["The moon is a rock. ", "Do you want more? ", "Then "]
TALK = ("start", "stop", "stop", "partial", "final", "final", "play", "word", "clause", "held")
ACTIONS = (
    *(*TALK * 6, "read", "resumed", "done", "failed"),
    *("type", "stop_key", "go_on", "undo", "regenerate", "branch", "talk_down", "talk_up", "mode", "echo"),
    *("tail", "moved", "move_refused", "stale"),
)
Action = tuple[str, float, int]
"""What happens, how long after the action before, and a number for its details."""


@dataclass
class World(Driver):
    """A driver that plays random actions, and watches every step."""

    rules: Rules = RULES
    words: int = 0
    texts_of: dict[int, str] = field(default_factory=dict[int, str])
    """Utterance to the last transcript that told something new."""
    checks: list[Callable[[State, fact.Event, State, list[ask.Effect]], None]] = field(
        default_factory=list[Callable[[State, fact.Event, State, list[ask.Effect]], None]]
    )

    def tell(self, event: fact.Event) -> list[ask.Effect]:
        before = self.state
        effects = super().tell(event)
        for check in self.checks:
            check(before, event, self.state, effects)
        return effects

    def play(self, trace: Iterable[Action]) -> World:
        for name, after_s, number in trace:
            self.until(self.now_s + after_s)
            for event in self.event(name, number):
                self.tell(event)
        return self

    def event(self, name: str, number: int) -> list[fact.Event]:
        """What an action sends, if it can be sent now."""
        state, at_s = self.state, self.now_s
        branch = state.agent.branch
        text = TEXTS[number % len(TEXTS)]
        match name:
            case "start":
                return [fact.SpeechStarted(at_s=at_s)]
            case "stop":
                return [fact.SpeechStopped(at_s=at_s)]
            case "partial":
                return [fact.PartialTranscribed(utterance=state.user.utterance, stable=text, unstable="")]
            case "final":
                return self.transcribed(text)
            case "read":
                user = state.user
                return [
                    fact.UserTextRead(
                        utterance=user.utterance, request=user.request, tokens=9, end_logprob=-number / 9, took_ms=9
                    )
                ]
            case "play":
                return [fact.PlayoutStarted(branch=branch, at_s=at_s)]
            case "word":
                self.words += 1
                said = CLAUSES[0].split()[number % 5]
                return [fact.WordHeard(branch=branch, words=self.words, text=said, at_s=at_s)]
            case "clause":
                return [fact.ClauseDecoded(branch=branch, clause=0, text=CLAUSES[number % 3])]
            case "held":
                return [fact.OutputHeld(branch=branch, at_s=at_s, words=self.words)]
            case "resumed":
                return [fact.OutputResumed(branch=branch, at_s=at_s, words=self.words)]
            case "done":
                return [fact.PlayoutFinished(branch=branch, at_s=at_s)]
            case "failed":
                return [fact.ReplyFailed(branch=branch, what="x", why="y", fix="z")]
            case _:
                return self.wish(name, number)

    def wish(self, name: str, number: int) -> list[fact.Event]:
        branch = self.state.agent.branch
        match name:
            case "type":
                return [fact.TextTyped(text="typed words")]
            case "stop_key":
                return [fact.StopPressed()]
            case "go_on":
                return [fact.GoOnPressed()]
            case "undo":
                return [fact.UndoPressed()]
            case "regenerate":
                return [fact.RegeneratePressed()]
            case "branch":
                return [fact.BranchChosen(boundary=number)]
            case "talk_down":
                return [fact.TalkPressed()]
            case "talk_up":
                return [fact.TalkReleased()]
            case "mode":
                return [fact.ModeChosen(mode=("duplex", "headset", "half", "ptt")[number % 4])]
            case "echo":
                return [fact.EchoMeasured(erle_db=9, delay_ms=40, residual_share=number / 500)]
            case "tail":
                return [fact.TailKept(branch=branch, turn=1, text="rest", complete=True)]
            case "moved":
                turn = number % 3
                return [fact.Moved(boundary=1, name="A", turn=turn, text="Once." * turn, left=2, rollback_us=1)]
            case "move_refused":
                return [fact.MoveRefused(what="x", why="y")]
            case _:
                return [fact.PlayoutFinished(branch=branch + 7, at_s=0), fact.TimerFired(name="commit", serial=-1)]

    def transcribed(self, text: str) -> list[fact.Event]:
        """The answer to the newest Transcribe, if there is one."""
        user = self.state.user
        wanted = next((e for e in reversed(self.asked) if isinstance(e, ask.Transcribe)), None)
        if wanted is None:
            return []
        if wanted.utterance == user.utterance and user.phase is not UserPhase.SILENT and user.text is None:
            self.texts_of[user.utterance] = text
        return [fact.FinalTranscribed(utterance=wanted.utterance, request=wanted.request, text=text, took_ms=50)]

    def answer(self) -> None:
        """Answer whatever is asked for now, as ports that work do, with silence."""
        state, branch = self.state, self.state.agent.branch
        if state.user.phase is UserPhase.PAUSE and state.user.text is None:
            for event in self.transcribed(""):
                self.tell(event)
        match self.state.agent.phase:
            case AgentPhase.HELD:
                self.tell(fact.OutputHeld(branch=branch, at_s=self.now_s, words=self.words))
            case AgentPhase.MOVING:
                self.tell(fact.MoveRefused(what="x", why="y"))
            case AgentPhase.IDLE:
                pass
            case _:
                self.tell(fact.PlayoutFinished(branch=branch, at_s=self.now_s))

    def fall_silent(self) -> None:
        """The user takes their hands off and says no more."""
        self.tell(fact.TalkReleased())
        self.tell(fact.SpeechStopped(at_s=self.now_s))
