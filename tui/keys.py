"""The keyboard while talking: single keys are commands, and after Enter what is typed is a turn.

Bytes of the terminal in, events out. Nothing here waits for anything.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
from collections.abc import Callable, Generator, Sequence

from app import events as ev
from tui.branches import Branches

HELP = "Esc stop   g go on   u undo   r another answer   b branches   Space talk key   m mode   Enter type   Ctrl-C end"
MODES: tuple[ev.Mode, ...] = ("duplex", "headset", "half", "ptt")
_COMMANDS: dict[str, type[ev.StopPressed | ev.GoOnPressed | ev.UndoPressed | ev.RegeneratePressed]] = {
    "\x1b": ev.StopPressed,
    "g": ev.GoOnPressed,
    "u": ev.UndoPressed,
    "r": ev.RegeneratePressed,
}
_ENTER, _BACKSPACE, _KILL = "\r\n", "\x08\x7f", "\x15"
# What a terminal sends for arrows, function keys and pasted text begins with an escape too, and comes in one piece.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|[^\x1b])")
_MOST_TYPED = 2000


class Keys:
    """What the keys pressed so far mean.

    Attributes:
        typing: The turn that is being typed; None while keys are commands.

    Args:
        branches: What can be taken up again.
        tell: Takes a line for the user.
        typed: Called when `typing` may have changed.
    """

    def __init__(self, branches: Branches, tell: Callable[[str], None], typed: Callable[[], None]) -> None:
        self.typing: str | None = None
        self._branches = branches
        self._tell, self._typed = tell, typed
        self._picking: Sequence[int] = ()
        self._talk_key_down = False
        self._mode: ev.Mode = "duplex"
        self._open = False
        """The conversation takes commands."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def notice(self, event: ev.Event) -> None:
        """Take an event of the log in: the mode may change by itself."""
        match event:
            case ev.SessionOpened():
                self._open, self._mode = True, event.settings.get("mode", self._mode)
            case ev.SessionClosed():
                self._open = False
            case ev.ModeChanged():
                self._mode = event.mode
            case _:
                pass

    def press(self, pressed: bytes) -> list[ev.Event]:
        """Take what the terminal sent; the events that it means, in order. Nothing before the conversation is open."""
        if not self._open:
            return []
        text = _SEQUENCE.sub("", self._decoder.decode(pressed))
        events = [event for character in text if (event := self._press(character)) is not None]
        self._typed()
        return events

    def _press(self, key: str) -> ev.Event | None:
        if self.typing is not None:
            return self._type(self.typing, key)
        picked, self._picking = self._picking, ()
        if key.isdecimal() and 0 < int(key) <= len(picked):
            return ev.BranchChosen(boundary=picked[int(key) - 1])
        if key in _COMMANDS:
            return _COMMANDS[key]()
        match key:
            case "\r" | "\n":
                self.typing = ""
            case " ":
                self._talk_key_down = not self._talk_key_down
                return ev.TalkPressed() if self._talk_key_down else ev.TalkReleased()
            case "m":
                return ev.ModeChosen(mode=MODES[(MODES.index(self._mode) + 1) % len(MODES)])
            case "b":
                self._offer()
            case _:
                self._tell(HELP)
        return None

    def _type(self, typed: str, key: str) -> ev.Event | None:
        if key in _ENTER or key == "\x1b":
            self.typing = None
            return ev.TextTyped(text=typed.strip()) if key in _ENTER and typed.strip() else None
        if key in _BACKSPACE:
            self.typing = typed[:-1]
        elif key == _KILL:
            self.typing = ""
        elif key.isprintable():
            self.typing = (typed + key)[:_MOST_TYPED]
        return None

    def _offer(self) -> None:
        offered = self._branches.abandoned()[:9]
        if not offered:
            self._tell("no branch was left: undo (u) or another answer (r) leaves one")
        for number, branch in enumerate(offered, 1):
            self._tell(f"{number}  {branch.text}")
        self._picking = [branch.boundary for branch in offered]


@contextlib.contextmanager
def reading(descriptor: int, keys: Keys, emit: Callable[[ev.Event], None]) -> Generator[None]:
    """Let the keys of a terminal reach the conversation. Inside a running event loop.

    Args:
        descriptor: The terminal's, already without line editing and echo.
        keys: What they mean.
        emit: Takes the events.
    """
    import asyncio

    loop = asyncio.get_running_loop()

    def read() -> None:
        pressed = os.read(descriptor, 4096)
        if not pressed:  # the terminal is gone; whoever closed it ends the conversation by a signal
            loop.remove_reader(descriptor)
        for event in keys.press(pressed):
            emit(event)

    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
