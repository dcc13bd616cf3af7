"""One event while it is being decided: the state as it becomes, and the effects so far."""

from __future__ import annotations

from dataclasses import replace

from app import effects as ask
from app import events as fact
from app.decisions import Command, NoteKind
from app.rules import Rules
from app.state import State, UserPhase

USER_TIMERS = ("duck", "confirm", "verdict", "blip", "probe", "commit")
"""Timers that mean nothing without an utterance."""


class Step:
    """Collects what follows from one event.

    Args:
        state: The state before.
        t_s: When the event came.
        rules: The rules to go by.
    """

    def __init__(self, state: State, t_s: float, rules: Rules) -> None:
        self.state = state
        self.t_s = t_s
        self.turns, self.language, self.weights = rules
        self.effects: list[ask.Effect] = []

    def ask(self, *wanted: ask.Effect) -> None:
        """Add effects."""
        self.effects.extend(wanted)

    def announce(self, what: fact.Event) -> None:
        """Add a decision to the log."""
        self.effects.append(ask.Announce(fact=what))

    def set(self, **changes: object) -> None:
        """Change fields of the state."""
        self.state = replace(self.state, **changes)  # pyright: ignore[reportArgumentType]  # field names are checked by replace itself

    def user(self, **changes: object) -> None:
        """Change fields of the user's region."""
        self.set(user=replace(self.state.user, **changes))  # pyright: ignore[reportArgumentType]  # as above

    def agent(self, **changes: object) -> None:
        """Change fields of the agent's region."""
        self.set(agent=replace(self.state.agent, **changes))  # pyright: ignore[reportArgumentType]  # as above

    def arm(self, name: str, at_s: float) -> None:
        """Set a timer; one of the same name that is still to come will be ignored."""
        serial = self.state.serial + 1
        self.set(serial=serial, timers={**self.state.timers, name: serial})
        self.ask(ask.SetTimer(name=name, serial=serial, at_s=at_s))

    def disarm(self, *names: str) -> None:
        """Ignore timers that are still to come."""
        if any(name in self.state.timers for name in names):
            self.set(timers={k: v for k, v in self.state.timers.items() if k not in names})

    def turn_text(self, said: str) -> str:
        """All of the turn that ends with `said`."""
        reopened = self.state.user.reopened
        return f"{reopened.text if reopened else ''} {said}".strip()

    def end_utterance(self) -> None:
        """The utterance is committed, on record or was nothing."""
        if self.state.user.phase is not UserPhase.SILENT:
            self.disarm(*USER_TIMERS)
            self.ask(ask.EndUtterance(utterance=self.state.user.utterance))
            self.user(phase=UserPhase.SILENT, partial="", text=None, wait=None, due=False, over_reply=False)

    def drop_utterance(self, reason: str) -> None:
        """End the utterance although it is no turn; what is known of it goes on record."""
        user = self.state.user
        if user.phase is not UserPhase.SILENT:
            self.note("dropped", user.partial if user.text is None else user.text, reason)
            self.end_utterance()

    def drop_reopened(self, reason: str) -> None:
        """Let go of a turn that could have gone on; its words go on record."""
        if reopened := self.state.user.reopened:
            self.note("dropped", reopened.text, reason)
            self.user(reopened=None)

    def note(self, kind: NoteKind, text: str, reason: str) -> None:
        """Put words of the user on record that are in no turn."""
        if text.strip():
            self.announce(fact.UserNoted(utterance=self.state.user.utterance, kind=kind, text=text, reason=reason))

    def refuse(self, command: Command, reason: str) -> None:
        """Tell that a command can't be carried out."""
        self.announce(fact.CommandRefused(command=command, reason=reason))

    def take(self, command: Command, reason: str) -> None:
        """Tell that a command is carried out."""
        self.announce(fact.CommandTaken(command=command, reason=reason))
