"""A log decided again: what was recorded goes through the reducer once more, and must lead to the same conversation.

A log has three kinds of events. This is the one place that says which is which:

    input      everything else     goes into `step`, in the order of the log
    decided    app/decisions.py    announced by `step`: must come out again after the same input, equal and in order
    done       `DONE`              what those who carry out effects did; tells where the tree goes

The tree is made again as well: which boundaries were taken and gone back to is in the log, but what was said in them is
taken from the effects, and from the clauses and words that they name. Its digest must be that of the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TextIO, get_args

import msgspec

from app import decisions, effects, endpoint, heard, journal, language
from app import events as ev
from app.errors import BacktalkError, ScriptError
from app.ports import BoundaryMark
from app.rules import Rules
from app.state import State
from app.timing import Turns
from app.tree import Boundary, Tree
from app.turns import step

DECIDED: tuple[type, ...] = tuple(kind for kind in get_args(ev.Event) if kind.__module__ == decisions.__name__)
DONE = (ev.SessionOpened, ev.SessionClosed, ev.BoundaryTaken, ev.RolledBack, ev.ContextTrimmed, ev.ReplyCommitted)

_decoder = msgspec.json.Decoder(ev.Event)


class Difference(NamedTuple):
    """Where the log and what is decided now part."""

    line: int
    """Of the log."""
    logged: str
    decided: str


class Told(NamedTuple):
    """What came of one session of a log."""

    first_line: int
    last_line: int
    decisions: int
    difference: Difference | None
    """The first one."""
    whole: bool
    """The log has the session's end; else it was cut short."""


def replay(paths: Sequence[Path], out: TextIO | None = None) -> int:
    """Decide logs again, and print what came of it.

    Returns:
        0 if all is the same, else 1.

    Raises:
        BacktalkError: A file is no log, or not one that can be decided again.
    """
    status = 0
    for path in paths:
        for told in sessions(path):
            where = f"{path}, lines {told.first_line} to {told.last_line}"
            if told.difference:
                line, logged, decided = told.difference
                print(f"{path}, line {line}: not the same", file=out)
                print(f"  log: {logged}\n  now: {decided}", file=out)
                status = 1
            elif told.whole:
                print(f"{where}: the same {told.decisions} decisions, and the same tree", file=out)
            else:
                print(
                    f"{where}: the same {told.decisions} decisions; the log ends there, without its session", file=out
                )
    return status


def sessions(path: Path) -> Iterator[Told]:
    """What came of each session of a log, one after the other.

    Raises:
        BacktalkError: As `replay`.
    """
    current: _Session | None = None
    line = 0
    for line, event in enumerate(journal.read(path), 1):
        if isinstance(event, ev.SessionOpened):
            if current:
                yield current.told(line - 1)
            current = _Session(event, line, path)
        elif current is None:
            raise ScriptError(
                f"{path} can't be decided again", "it does not begin with SessionOpened", "name a whole journal"
            )
        elif not current.over:
            current.take(line, event)
    if current is None:
        raise ScriptError(f"{path} can't be decided again", "it is empty", "name a journal")
    yield current.told(line)


class _Session:
    """One session while it is decided again."""

    def __init__(self, opened: ev.SessionOpened, line: int, path: Path) -> None:
        try:
            turns = msgspec.convert(opened.settings["turns"], Turns)
            mode = msgspec.convert(opened.settings["mode"], ev.Mode)
            weights = msgspec.convert(opened.settings["weights"], endpoint.Weights)
            spoken = language.load(msgspec.convert(opened.settings["language"], str))
        except (KeyError, msgspec.ValidationError, BacktalkError) as error:
            why = getattr(error, "why", None) or f"its settings can't be used: {error}"
            raise ScriptError(
                f"line {line} of {path} can't be decided again", why, "use a journal of this version of backtalk"
            ) from error
        self._rules = Rules(turns, spoken, weights)
        self._state = State(mode=mode)
        self._tree = _Tree(turns.keep)
        self._expected: deque[ev.Event] = deque()
        self._first_line, self._last_line = line, line
        self._decisions = 0
        self._difference: Difference | None = None
        self._closed = False

    @property
    def over(self) -> bool:
        """Nothing more can be said of it."""
        return self._closed or self._difference is not None

    def told(self, last_line: int) -> Told:
        """What came of it; the log of it ends with `last_line`."""
        return Told(self._first_line, last_line, self._decisions, self._difference, self._closed)

    def take(self, line: int, event: ev.Event) -> None:
        """The next event of the log."""
        if isinstance(event, DECIDED):
            expected = self._expected.popleft() if self._expected else None
            self._compare(line, msgspec.structs.replace(event, t_s=0.0), expected)
            self._decisions += 1
        elif isinstance(event, ev.SessionClosed):
            self._closed = True
            self._compare_digest(line, event)
        elif isinstance(event, DONE):
            self._tree.done(event)
        elif self._expected:
            self._compare(line, None, self._expected.popleft())
        else:
            self._state, asked = step(self._state, event, self._rules)
            self._tree.fact(event)
            for effect in asked:
                if isinstance(effect, effects.Announce):
                    self._expected.append(_as_logged(effect.fact))
                self._tree.effect(effect)

    def _compare(self, line: int, logged: ev.Event | None, decided: ev.Event | None) -> None:
        if logged != decided:
            self._difference = Difference(line, _shown(logged), _shown(decided))

    def _compare_digest(self, line: int, closed: ev.SessionClosed) -> None:
        if self._expected:
            self._compare(line, None, self._expected.popleft())
        elif (digest := self._tree.digest()) != closed.tree:
            self._difference = Difference(line, f"a tree of digest {closed.tree}", f"one of {digest}")


class _Tree:
    """The tree of a session, made again.

    Args:
        keep: What stays of a reply that was cut off.
    """

    def __init__(self, keep: heard.Keep) -> None:
        self._keep: heard.Keep = keep
        self._tree = Tree()
        self._trimmed: Boundary | None = None
        self._asked: dict[int, str] = {}
        """Text of the user's turn, by branch."""
        self._known: dict[int, str] = {}
        """What a branch says in any case: a line, or the rest of another."""
        self._clauses: dict[int, list[str]] = {}
        self._whole: set[int] = set()
        """Branches of which the model has written all."""
        self._heard_words: dict[int, int | None] = {}
        """How a branch ended: after so many words, or heard to its end."""
        self._tails: dict[int, ev.TailKept] = {}

    def digest(self) -> str:
        """What `Tree.digest` says of it."""
        return self._tree.digest()

    def effect(self, effect: effects.Effect) -> None:
        """What was asked for."""
        match effect:
            case effects.StartReply(branch=branch):
                self._asked[branch] = effect.text
                self._known[branch] = effect.line
                if effect.line:
                    self._whole.add(branch)
                if effect.tail_of is not None and (tail := self._tails.get(effect.tail_of)):
                    self._known[branch] = tail.text
                    if tail.complete:
                        self._whole.add(branch)
            case effects.Yield():
                self._heard_words[effect.branch] = effect.words
            case effects.CloseReply():
                self._heard_words[effect.branch] = None
            case _:
                pass

    def fact(self, event: ev.Event) -> None:
        """What happened."""
        match event:
            case ev.ClauseDecoded():
                self._clauses.setdefault(event.branch, []).append(event.text)
            case ev.ReplyDecoded():
                self._whole.add(event.branch)
            case ev.TailKept():
                self._tails[event.branch] = event
            case ev.UserTurnAppended():
                self._say("U", self._asked.get(event.branch, ""))
            case ev.Moved():
                if there := next((b for b in self._tree.nodes if b.serial == event.boundary), None):
                    self._tree, _ = self._tree.move(there)
            case _:
                pass

    def done(self, event: ev.Event) -> None:
        """What those did who carry out effects."""
        match event:
            case ev.BoundaryTaken():
                kind, number = event.name[:1], event.name[1:]
                if kind in ("A", "U", "W") and number.isdecimal():
                    mark = BoundaryMark(event.position, event.capsule_bytes, event.boundary)
                    text = self._trimmed.text if self._trimmed else ""
                    self._tree = self._tree.take(kind, int(number), event.turn, mark, text)
                self._trimmed = None
            case ev.RolledBack():
                if there := next((b for b in reversed(self._tree.live) if b.name == event.boundary), None):
                    self._tree, _ = self._tree.move(there)
            case ev.ContextTrimmed() if self._tree.nodes:
                self._trimmed, self._tree = self._tree.tip, Tree(taken=self._tree.taken)
            case ev.ReplyCommitted():
                self._say("A", self._kept(event.branch))
                self._tree, _ = self._tree.prune()
            case _:
                pass

    def _say(self, kind: str, text: str) -> None:
        """The text of the boundary that was just taken."""
        if self._tree.nodes and (tip := self._tree.nodes[-1]).kind == kind:
            self._tree = replace(self._tree, nodes=(*self._tree.nodes[:-1], replace(tip, text=text)))

    def _kept(self, branch: int) -> str:
        """What the model's state keeps of a reply."""
        decoded, known = "".join(self._clauses.get(branch, [])), self._known.get(branch, "")
        # What is known beforehand may be heard before the model has read it.
        written = max(decoded, known, key=heard.count)
        words, most = self._heard_words.get(branch), heard.count(written)
        if words is None or words > most or (branch in self._whole and words == most):
            return written.strip()
        return heard.first_words(written, heard.words_kept(written, words, self._keep)).strip()


def _as_logged(fact: ev.Event) -> ev.Event:
    """A decision as it reads from a file: an integer where a float is meant is a float there."""
    return _decoder.decode(msgspec.json.encode(fact))


def _shown(event: ev.Event | None) -> str:
    return "nothing" if event is None else msgspec.json.encode(event).decode()
