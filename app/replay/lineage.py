"""Which turns stand, and which attempt at a reply each got: a fold of events that follows the moves on the tree."""

from __future__ import annotations

from collections.abc import Mapping

from app import events as ev


class Lineage:
    """Feed it every event; it knows nothing of app/tree.py, so the two can be compared."""

    def __init__(self) -> None:
        self._turns: dict[int, int] = {}
        self._at: dict[int, dict[int, int]] = {}
        """Serial number of a boundary A to the turns up to it."""
        self._newest = 0
        """The newest boundary A."""
        self._unread: dict[int, int] = {}
        """Turns that are committed, and that the model has still to read or to take back, each with its branch."""
        self._instead_of: dict[int, int] = {}
        """Branch to the one that had answered its turn before."""

    @property
    def turns(self) -> Mapping[int, int]:
        """Number of each turn that stands to the branch of its reply, in order."""
        return self._turns

    def feed(self, event: ev.Event) -> None:
        """Take the next event of the log."""
        match event:
            case ev.TurnCommitted() | ev.CheckedIn():
                if before := self._turns.get(event.turn):
                    self._instead_of[event.branch] = before
                self._turns = {turn: branch for turn, branch in self._turns.items() if turn < event.turn}
                self._turns[event.turn] = self._unread[event.turn] = event.branch
            case ev.TurnReopened():
                self._turns = _without(self._turns, event.branch)
                self._unread = _without(self._unread, event.branch)
            case ev.UserTurnAppended():
                self._unread = _without(self._unread, event.branch)
            case ev.BoundaryTaken() if event.name.startswith("A"):
                self._newest = event.boundary
                # It may be taken to make room for a turn that is committed already.
                self._at[event.boundary] = {turn: b for turn, b in self._turns.items() if turn <= event.turn}
            case ev.ReplyCommitted():
                kept = {turn: branch for turn, branch in self._turns.items() if turn <= event.turn}
                self._at[self._newest] = {**kept, event.turn: event.branch}
                self._unread = _without(self._unread, event.branch)
            case ev.RolledBack() if event.boundary.startswith("A"):
                self._unread = _without(self._unread, event.branch)
                turn, before = int(event.boundary[1:]), self._instead_of.get(event.branch)
                if before is not None and self._turns.get(turn) == event.branch:
                    self._turns[turn] = before  # another answer could not be given, so the first one stands
            case ev.Moved():
                # What was committed while the model was on its way comes after where it arrives.
                self._turns = {**self._at[event.boundary], **self._unread}
            case _:
                pass


def _without(turns: Mapping[int, int], branch: int) -> dict[int, int]:
    return {turn: other for turn, other in turns.items() if other != branch}
