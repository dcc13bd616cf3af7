"""The dialogue as lines of text: a fold of events that prints each turn, what was heard of its reply, and latencies."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TextIO

from app import events as ev
from app.latency import Latency

_INDENT = 7
_TURNS_KEPT = 256
_CODES = {"plain": "", "bright": "\x1b[1m", "dim": "\x1b[2m", "struck": "\x1b[2;9m", "note": "\x1b[33m"}
_RESET = "\x1b[0m"
_COMMANDS = {
    "stop": "stop",
    "go_on": "go on",
    "undo": "undo",
    "regenerate": "answer again",
    "take_up": "take up another branch",
}
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that reorder what stands after them."""


class Word(NamedTuple):
    """A word and how it looks: plain, bright, dim, struck or note."""

    text: str
    style: str = "plain"


def has_colour(out: TextIO) -> bool:
    """Whether escape sequences may be written: only to a terminal, and not where NO_COLOR is set."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def neutralised(text: str) -> str:
    """`text` without anything that a terminal obeys: what a model writes or hears is not to be trusted."""
    return "".join(" " if character.isspace() else character if _harmless(character) else "�" for character in text)


def width_of(text: str) -> int:
    """Cells that `text` takes on a terminal (Unicode Standard Annex 11; ambiguous characters count one)."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def painted(words: Iterable[Word], colour: bool) -> str:
    """Words with spaces between, painted run by run. Without colour `~~` marks struck runs."""
    parts: list[str] = []
    run: list[str] = []
    style = "plain"
    for word in (*words, Word("", "end")):
        if word.style != style:
            if run:
                parts.append(_run(" ".join(run), style, colour))
            run, style = [], word.style
        run.append(word.text)
    return " ".join(parts)


def wrapped(words: Sequence[Word], width: int | None) -> list[list[Word]]:
    """Words in rows of at most `width` cells; a longer word has a row of its own. None: one row."""
    rows: list[list[Word]] = [[]]
    used = 0
    for word in words:
        cells = width_of(word.text)
        if width is not None and rows[-1] and used + 1 + cells > width:
            rows.append([])
            used = 0
        used += cells + bool(rows[-1])
        rows[-1].append(word)
    return rows


class LineView:
    """Prints a dialogue as it goes."""

    def __init__(self, out: TextIO, width: int | None = None, colour: bool = False) -> None:
        """
        Args:
            out: Where lines go.
            width: Cells of a line; None never wraps.
            colour: Whether escape sequences may be used.
        """
        self._out = out
        self._width = width
        self._colour = colour
        self._latency = Latency(_TURNS_KEPT)
        self._clauses: dict[int, list[str]] = {}
        self._turn: ev.TurnCommitted | None = None
        """The one that was printed last."""

    def show(self, event: ev.Event) -> None:
        """Print what the event adds to the dialogue, which is nothing for most."""
        for line in self.lines(event):
            print(line, file=self._out, flush=True)

    def lines(self, event: ev.Event) -> list[str]:
        """The lines that `show` prints."""
        self._latency.feed(event)
        match event:
            case ev.SessionOpened():
                self._clauses, self._turn = {}, None
                return self._note(event)
            case ev.ClauseDecoded():
                self._clauses.setdefault(event.branch, []).append(event.text)
            case ev.ReplyDecoded():
                self._clauses[event.branch] = [event.text]
            case ev.TurnCommitted():
                # The reply before may still be committed; older ones that were not were abandoned.
                self._clauses = {
                    branch: clauses for branch, clauses in self._clauses.items() if branch >= event.branch - 1
                }
                last, self._turn = self._turn, event
                if last and (last.turn, last.text, last.speech_end_s) == (event.turn, event.text, event.speech_end_s):
                    return []  # another answer was asked for, which was told
                return self._block("you", _words(event.text, "plain"))
            case ev.ReplyCommitted():
                return self._reply(event)
            case _:
                return self._note(event)
        return []

    def _reply(self, event: ev.ReplyCommitted) -> list[str]:
        generated = " ".join(self._clauses.pop(event.branch, [])).split()
        words = _words(event.heard, "bright")
        if event.interrupted:
            words += _words(" ".join(generated[event.words :]), "struck")
            words.append(Word(f"({event.words} of {len(generated)} words heard)", "note"))
        return self._block("agent", words) + self._waterfall(event.turn)

    def _waterfall(self, turn: int) -> list[str]:
        spans = self._latency.turn_spans(turn)
        if not spans:
            return []
        # Rounding the marks between the spans, not the spans, makes what is shown add up too.
        marks_ms = [round(mark_ms) for mark_ms in itertools.accumulate(spans.values(), initial=0.0)]
        parts = [
            f"{name.replace('_', ' ')} {after - before}"
            for name, (before, after) in zip(spans, itertools.pairwise(marks_ms), strict=True)
        ]
        return self._block("", _words(f"{marks_ms[-1]} ms to the first sound = {' + '.join(parts)}", "dim"))

    def _note(self, event: ev.Event) -> list[str]:
        text = note(event)
        return [] if text is None else self._block("--", _words(text, "note"))

    def _block(self, label: str, words: Sequence[Word]) -> list[str]:
        rows = wrapped(words, None if self._width is None else max(8, self._width - _INDENT))
        labels = [label, *[""] * (len(rows) - 1)]
        return [
            f"{name:<{_INDENT}}{painted(row, self._colour)}".rstrip() for name, row in zip(labels, rows, strict=True)
        ]


def note(event: ev.Event) -> str | None:
    """What a person should know of an event that is no turn and no reply."""
    match event:
        case ev.SessionOpened():
            return "ready: " + ", ".join(f"{kind} {name}" for kind, name in event.models.items())
        case ev.SessionClosed():
            return f"closed: {event.reason}"
        case ev.DeviceLost():
            return f"sound device {event.device} is gone ({event.reason}); the dialogue is kept"
        case ev.DeviceOpened():
            return f"sound flows through {event.device}"
        case ev.SoundTroubled():
            return f"sound stumbled: {event.xruns} xruns, {event.dropped_frames} dropped frames so far"
        case ev.TurnReopened():
            return f"the turn goes on: {event.reason}"
        case ev.UserNoted():
            return f'noted as {event.kind}: "{event.text}"'
        case ev.CommandTaken():
            return f"{_COMMANDS[event.command]}: {event.reason}"
        case ev.CommandRefused():
            return f"can't {_COMMANDS[event.command]}: {event.reason}"
        case ev.Moved():
            return f"the dialogue goes on after turn {event.turn}" if event.turn else "the dialogue begins anew"
        case ev.TailKept():
            return f'{len(event.text.split())} words were not heard; "go on" plays them'
        case ev.TailForgotten():
            return f"the unheard rest is let go: {event.reason}"
        case ev.CheckedIn():
            return f"a word to a silent user: {event.reason}"
        case ev.ModeChanged():
            return f"mode {event.mode}: {event.reason}"
        case ev.PauseLearned():
            return f"waits at least {event.floor_ms:.0f} ms from now on: {event.reason}"
        case ev.StuckRecovered():
            return f"nothing moved for {event.waited_ms / 1000:.0f} s ({event.region} {event.phase}): put back to rest"
        case ev.OutputResumed():
            return "the reply goes on"
        case ev.OverlapJudged(verdict="backchannel" | "echo" | "noise"):
            return f"{event.verdict}: {event.reason}"
        case ev.ContextTrimmed():
            return f"the context was full: the model keeps the newest {event.kept_turns} turns"
        case ev.ReplyFailed():
            return f"no reply: {event.what}, {event.why}. {event.fix}"
        case _:
            return None


def _words(text: str, style: str) -> list[Word]:
    return [Word(word, style) for word in neutralised(text).split()]


def _run(text: str, style: str, colour: bool) -> str:
    code = _CODES[style]
    if colour and code:
        return f"{code}{text}{_RESET}"
    return f"~~{text}~~" if style == "struck" else text


def _harmless(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cs", "Cn", "Co") and character not in _BIDI
