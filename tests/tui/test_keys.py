"""The keyboard: what each key means, what is typed, and that nothing a terminal sends is mistaken for a command."""

from __future__ import annotations

import asyncio
import os
import pty

import pytest

from app import events as ev
from tui.branches import Branches
from tui.keys import HELP, MODES, Keys, reading


class Board:
    """Keys with what they told."""

    def __init__(self) -> None:
        self.branches = Branches()
        self.told: list[str] = []
        self.drawn = 0
        self.keys = Keys(self.branches, self.told.append, self._draw)
        self.keys.notice(ev.SessionOpened(clock="wall", seed=0, models={}))

    def _draw(self) -> None:
        self.drawn += 1

    def press(self, text: str) -> list[ev.Event]:
        return self.keys.press(text.encode())


@pytest.mark.parametrize(
    ("key", "means"),
    [("\x1b", ev.StopPressed()), ("g", ev.GoOnPressed()), ("u", ev.UndoPressed()), ("r", ev.RegeneratePressed())],
)
def test_a_key_is_a_command(key: str, means: ev.Event) -> None:
    assert Board().press(key) == [means]


def test_keys_mean_nothing_before_and_after_the_conversation() -> None:
    board = Board()
    board.keys.notice(ev.SessionClosed(reason="ended"))
    assert board.press("gur\x1b") == []
    board.keys.notice(ev.SessionOpened(clock="wall", seed=0, models={}))
    assert board.press("g") == [ev.GoOnPressed()]


def test_an_unknown_key_shows_the_keys() -> None:
    board = Board()
    assert board.press("x") == []
    assert board.told == [HELP]


@pytest.mark.parametrize("sent", ["\x1b[A", "\x1b[1;5C", "\x1bOP", "\x1b[200~", "\x1bg"])
def test_an_arrow_is_no_escape_key(sent: str) -> None:
    assert Board().press(sent) == []


def test_space_holds_the_talk_key_until_it_is_pressed_again() -> None:
    assert Board().press("  ") == [ev.TalkPressed(), ev.TalkReleased()]


def test_modes_come_in_turn_from_the_one_in_force() -> None:
    board = Board()
    for before, after in zip(MODES, [*MODES[1:], MODES[0]], strict=True):
        board.keys.notice(ev.ModeChanged(mode=before, reason=""))
        assert board.press("m") == [ev.ModeChosen(mode=after)]


def test_a_typed_turn() -> None:
    board = Board()
    assert board.press("\rgo ondd\x7f\x7f, über") == []
    assert board.keys.typing == "go on, über"
    assert board.press("\r") == [ev.TextTyped(text="go on, über")]
    assert board.keys.typing is None
    assert board.press("g") == [ev.GoOnPressed()]


def test_typing_ends_without_a_turn() -> None:
    board = Board()
    assert board.press("\rhello\x1b") == []
    assert board.keys.typing is None
    assert board.press("\r   \r") == []
    assert board.press("\rhello\x15") == []
    assert board.keys.typing == ""


def test_half_a_character_waits_for_the_rest() -> None:
    board = Board()
    board.press("\r")
    euro = "€".encode()
    board.keys.press(euro[:1])
    board.keys.press(euro[1:])
    assert board.keys.typing == "€"


def exchange(board: Board, turn: int, boundary: int, said: str, answered: str) -> None:
    for serial, name, text in ((boundary, f"U{turn}", said), (boundary + 1, f"A{turn}", answered)):
        board.branches.feed(
            ev.BoundaryTaken(
                boundary=serial, name=name, parent=serial - 1, turn=turn, position=9, capsule_bytes=0, text=text
            )
        )


def test_an_abandoned_branch_is_offered_and_chosen() -> None:
    board = Board()
    exchange(board, 1, 1, "What is the moon?", "A rock.")
    board.press("b")
    assert "no branch" in board.told.pop()
    board.branches.feed(ev.Moved(boundary=0, name="A0", turn=0, left=2, rollback_us=1.0))
    assert board.press("b1") == [ev.BranchChosen(boundary=2)]
    assert board.told == ["1  What is the moon? / A rock."]
    assert board.press("1") == []


def test_a_branch_that_was_taken_up_is_not_offered_again() -> None:
    board = Board()
    exchange(board, 1, 1, "One?", "Two.")
    board.branches.feed(ev.Moved(boundary=0, name="A0", turn=0, left=2, rollback_us=1.0))
    exchange(board, 1, 3, "Three?", "Four.")
    board.branches.feed(ev.Moved(boundary=2, name="A1", turn=1, left=4, rollback_us=1.0))
    assert [branch.boundary for branch in board.branches.abandoned()] == [4]


def test_an_answer_that_was_replaced_is_offered() -> None:
    board = Board()
    exchange(board, 1, 1, "One?", "Two.")
    board.branches.feed(
        ev.BoundaryTaken(boundary=3, name="A1", parent=1, turn=1, position=9, capsule_bytes=0, text="Three.")
    )
    assert [branch.text for branch in board.branches.abandoned()] == ["One? / Two."]


def test_what_left_the_context_is_not_offered() -> None:
    board = Board()
    exchange(board, 1, 1, "One?", "Two.")
    board.branches.feed(ev.Moved(boundary=0, name="A0", turn=0, left=2, rollback_us=1.0))
    board.branches.feed(ev.ContextTrimmed(kept_turns=1, tokens=9))
    assert board.branches.abandoned() == []


def test_keys_of_a_terminal_reach_the_conversation() -> None:
    ours, terminal = pty.openpty()
    got: list[ev.Event] = []

    async def press() -> None:
        arrived = asyncio.Event()

        def emit(event: ev.Event) -> None:
            got.append(event)
            arrived.set()

        with reading(terminal, Board().keys, emit):
            os.write(ours, b"g\n")
            await asyncio.wait_for(arrived.wait(), 5)

    try:
        asyncio.run(press())
    finally:
        os.close(ours)
        os.close(terminal)
    assert got == [ev.GoOnPressed()]
