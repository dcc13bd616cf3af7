"""Talking in a plain terminal: the dialogue scrolls, and one live line below it shows levels, state and words.

What app/lines.py prints scrolls; this module adds the live line and the keys, and leaves the terminal as it was on
every way out.
"""

from __future__ import annotations

import contextlib
import os
import sys
import termios
from collections.abc import Generator
from typing import TextIO

from app import events as ev
from app import headless
from app.config import Config
from app.lines import LineView, Word, has_colour, neutralised, painted, width_of
from tui.branches import Branches
from tui.keys import HELP, Keys, reading

_ERASE = "\r\x1b[K"
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_METER_CELLS = 5
_QUIETEST_DBFS = -60.0
_STATE_CELLS = 9


def main(config: Config) -> int:
    """Talk until Ctrl-C. Returns the exit status."""
    if not sys.stdout.isatty():
        return headless.run(config, [LineView(sys.stdout).show], headless.tell_on_stderr)
    with _single_keys() as terminal, LiveView(sys.stdout, has_colour(sys.stdout)) as view:
        if terminal is None:
            return headless.run(config, [view.show], view.tell)
        view.tell(HELP)
        return headless.run(config, [view.show], view.tell, lambda emit: reading(terminal, view.keys, emit))


class Status:
    """The live line as a fold of events."""

    def __init__(self) -> None:
        self._agent = "starting"
        self._user_speaks = self._device_lost = self._audible = False
        self._mic_dbfs = self._speaker_dbfs = _QUIETEST_DBFS
        self._partial: list[Word] = []
        self._branch = -1
        self._clauses: list[str] = []
        self._heard = 0

    def feed(self, event: ev.Event) -> None:
        """Take an event in."""
        match event:
            case ev.LevelsMeasured():
                self._mic_dbfs, self._speaker_dbfs = event.mic_dbfs, event.speaker_dbfs
            case ev.PartialTranscribed():
                self._partial = [
                    *(Word(word, "bright") for word in neutralised(event.stable).split()),
                    *(Word(word, "dim") for word in neutralised(event.unstable).split()),
                ]
            case ev.TurnCommitted() | ev.CheckedIn():
                self._begin(event.branch)
            case ev.PlayoutStarted() if event.branch == self._branch:
                self._audible = True
            case ev.ClauseDecoded() if event.branch == self._branch:
                self._clauses.append(event.text)
            case ev.WordHeard() | ev.OutputHeld() | ev.OutputResumed() if event.branch == self._branch:
                self._heard = event.words
            case ev.ReplyCommitted() | ev.TurnReopened() if event.branch == self._branch:
                self._begin(-1)
            case _:
                pass
        self._agent = _AGENT.get(type(event), self._agent)
        if isinstance(event, ev.OutputResumed) and not self._audible:
            self._agent = "thinking"
        self._user_speaks = _USER_SPEAKS.get(type(event), self._user_speaks)
        self._device_lost = _DEVICE_LOST.get(type(event), self._device_lost)

    @property
    def state(self) -> str:
        """What is going on, in one word or two."""
        if self._device_lost:
            return "no sound"
        if self._user_speaks and self._agent == "speaking":
            return "overlap"
        if self._agent != "listening":
            return self._agent
        return "hearing" if self._user_speaks else "listening"

    def line(self, width: int, colour: bool) -> str:
        """The line, at most `width` cells wide: meters if there is room, the state, and the newest words."""
        meters = f"mic {_meter(self._mic_dbfs)} out {_meter(self._speaker_dbfs)} " if width >= 40 else ""
        head = f"{meters}{self.state:<{_STATE_CELLS}}"[:width]
        words = self._reply_words() if self._clauses else self._partial
        # A word that was just heard stays in sight with as much of what follows as there is room for.
        focus = self._heard if self._clauses else len(words)
        return f"{head} {painted(_window(words, focus, width - len(head) - 1), colour)}".rstrip()

    def _begin(self, branch: int) -> None:
        self._branch, self._clauses, self._heard, self._partial = branch, [], 0, []
        self._audible = False

    def _reply_words(self) -> list[Word]:
        words = neutralised(" ".join(self._clauses)).split()
        return [Word(word, "bright" if place < self._heard else "dim") for place, word in enumerate(words)]


class LiveView:
    """The dialogue with the live line below it, on a terminal."""

    def __init__(self, out: TextIO, colour: bool) -> None:
        self._out = out
        self._colour = colour
        self._status = Status()
        self._scroll = LineView(out, None, colour)
        self._branches = Branches()
        self.keys = Keys(self._branches, self.tell, self._draw)
        """What the keys mean; what is being typed stands in the live line."""

    def __enter__(self) -> LiveView:
        self._out.write(_HIDE)
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        self._out.write(f"{_ERASE}{_SHOW}")
        self._out.flush()

    def show(self, event: ev.Event) -> None:
        """Take an event in and draw."""
        self._status.feed(event)
        self._branches.feed(event)
        self.keys.notice(event)
        if lines := self._scroll.lines(event):
            self._out.write(_ERASE + "".join(f"{line}\n" for line in lines))
        self._draw()

    def tell(self, line: str) -> None:
        """A line that is no event, above the live line."""
        self._out.write(f"{_ERASE}{line}\n")
        self._draw()

    def _draw(self) -> None:
        width = _columns(self._out) - 1
        typed = self.keys.typing
        line = self._status.line(width, self._colour) if typed is None else _prompt(typed, width)
        self._out.write(_ERASE + line)
        self._out.flush()


_AGENT: dict[type[ev.Event], str] = {
    ev.SessionOpened: "listening",
    ev.TurnCommitted: "thinking",
    ev.CheckedIn: "thinking",
    ev.PlayoutStarted: "speaking",
    ev.OutputHeld: "held",
    ev.OutputResumed: "speaking",
    ev.ReplyCommitted: "listening",
    ev.ReplyFailed: "listening",
    ev.TurnReopened: "listening",
    ev.SessionClosed: "closed",
}
_USER_SPEAKS: dict[type[ev.Event], bool] = {ev.SpeechStarted: True, ev.SpeechStopped: False}
_DEVICE_LOST: dict[type[ev.Event], bool] = {ev.DeviceLost: True, ev.DeviceOpened: False}


def _meter(level_dbfs: float) -> str:
    share = (max(_QUIETEST_DBFS, min(0.0, level_dbfs)) - _QUIETEST_DBFS) / -_QUIETEST_DBFS
    filled = round(share * _METER_CELLS)
    return "#" * filled + "-" * (_METER_CELLS - filled)


def _window(words: list[Word], focus: int, width: int) -> list[Word]:
    """The words around `focus` that fit: those before it in two thirds of the room, the rest after it."""
    first, room = focus, width * 2 // 3 if focus < len(words) else width
    while first > 0 and width_of(words[first - 1].text) + 1 <= room:
        first -= 1
        room -= width_of(words[first].text) + 1
    chosen: list[Word] = []
    for word in words[first:]:
        if width_of(" ".join([*(kept.text for kept in chosen), word.text])) > width:
            break
        chosen.append(word)
    return chosen


def _columns(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _prompt(typed: str, width: int) -> str:
    """What is being typed, its end in sight."""
    line = f"type: {neutralised(typed)}_"
    while width_of(line) > width:
        line = line[1:]
    return line


@contextlib.contextmanager
def _single_keys() -> Generator[int | None]:
    """The terminal without echo and line editing, so that each key arrives as it is pressed; None: there is none."""
    if not sys.stdin.isatty():
        yield None
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    single = list(before)
    single[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(descriptor, termios.TCSADRAIN, single)
    try:
        yield descriptor
    finally:
        # TCSAFLUSH: what was pressed last must not reach the shell.
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)
