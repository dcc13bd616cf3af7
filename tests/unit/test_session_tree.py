"""Undo, another answer, and branches: the state goes where the tip of the tree goes."""

from __future__ import annotations

import asyncio

from app import events as fact
from app.errors import MachineError
from app.ports import BoundaryMark
from tests.unit.hand_parts import Stage, played, settle

ANSWER = "The moon is far away, and it is cold there."


async def talk(stage: Stage, *texts: str) -> None:
    for text in texts:
        await stage.ask(text)
        await stage.hear()


def test_undo_takes_the_last_exchange_out_of_the_state() -> None:
    stage = Stage()

    async def scene() -> None:
        await talk(stage, "One?", "Two?")
        await stage.tell(fact.UndoPressed())

    played(scene(), stage)
    assert stage.brain.text == f"P:<u>One?</u>{ANSWER};"
    (moved,) = stage.of(fact.Moved)
    assert (moved.name, moved.turn, moved.text) == ("A1", 1, "One?")
    tree = stage.session.tree
    assert [b.name for b in tree.live] == ["A0", "U1", "A1"]
    assert [b.name for b in tree.nodes if b not in tree.live] == ["U2", "A2"]
    assert moved.left == tree.nodes[-1].serial


def test_an_undone_exchange_is_taken_up_again() -> None:
    stage = Stage()

    async def scene() -> None:
        await talk(stage, "One?", "Two?")
        await stage.tell(fact.UndoPressed())
        left = stage.of(fact.Moved)[0].left
        await talk(stage, "Three?")
        assert stage.brain.text == f"P:<u>One?</u>{ANSWER};<u>Three?</u>{ANSWER};"
        await stage.tell(fact.BranchChosen(boundary=left))
        await talk(stage, "Four?")

    played(scene(), stage)
    assert stage.brain.text == f"P:<u>One?</u>{ANSWER};<u>Two?</u>{ANSWER};<u>Four?</u>{ANSWER};"
    tree = stage.session.tree
    assert [b.name for b in tree.live] == ["A0", "U1", "A1", "U2", "A2", "U3", "A3"]
    assert [b.text for b in tree.nodes if b.kind == "U" and b not in tree.live] == ["Three?"]


def test_another_answer_stands_beside_the_first() -> None:
    stage = Stage()

    async def scene() -> None:
        await talk(stage, "One?")
        await stage.tell(fact.RegeneratePressed())
        await stage.hear()

    played(scene(), stage)
    assert stage.brain.text == f"P:<u>One?</u>Otherwise: {ANSWER};"
    (back,) = stage.of(fact.RolledBack)
    assert (back.branch, back.boundary) == (2, "U1")
    tree = stage.session.tree
    first, second = (b for b in tree.nodes if b.name == "A1")
    asked = tree.asked(1)
    assert asked is not None
    assert first.parent == second.parent == asked.serial
    assert (first in tree.live, second in tree.live) == (False, True)
    assert [e.turn for e in stage.of(fact.ReplyCommitted)] == [1, 1]


def test_a_reply_that_is_being_said_is_cut_off_before_it_is_undone() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.ask("One?")
        await stage.hear(3)
        await stage.tell(fact.UndoPressed())
        await stage.tell(fact.OutputHeld(branch=stage.branch, at_s=0.0, words=3))

    played(scene(), stage)
    assert stage.brain.text == "P:"
    assert [e.heard for e in stage.of(fact.ReplyCommitted)] == ["The moon is"]
    assert [b.text for b in stage.session.tree.nodes] == ["", "One?", "The moon is"], "it can be taken up again"


def test_only_what_still_stands_can_be_gone_back_to() -> None:
    stage = Stage()

    async def scene() -> None:
        await talk(stage, "One?")
        await stage.ask("Two?")
        stage.brain.full = True
        await stage.hear()
        assert stage.of(fact.ContextTrimmed)
        first = stage.of(fact.BoundaryTaken)[0].boundary
        await stage.tell(fact.UndoPressed())
        await stage.tell(fact.BranchChosen(boundary=first))
        await stage.tell(fact.BranchChosen(boundary=999))
        await stage.tell(fact.RegeneratePressed())

    played(scene(), stage)
    assert len(stage.of(fact.MoveRefused)) == 3
    assert [e.command for e in stage.of(fact.CommandRefused)] == ["undo", "take_up", "take_up"]
    assert [e.what for e in stage.of(fact.ReplyFailed)] == ["another answer can't be given"]
    assert stage.brain.text == "P:...", "nothing changed"
    assert [b.name for b in stage.session.tree.live] == ["A2"]


def test_another_answer_to_a_turn_that_was_never_read_is_a_first_one() -> None:
    stage = Stage()
    broken = MachineError("no memory", "the context is full", "say less")

    async def read_user(text: str, note: str = "") -> BoundaryMark:
        raise broken

    async def scene() -> None:
        await talk(stage, "One?")
        stage.brain.read_user, whole = read_user, stage.brain.read_user
        await stage.ask("Two?")
        stage.brain.read_user = whole
        await stage.tell(fact.RegeneratePressed())
        await stage.hear()

    played(scene(), stage)
    assert len(stage.of(fact.ReplyFailed)) == 1
    assert stage.brain.text == f"P:<u>One?</u>{ANSWER};<u>Two?</u>Otherwise: {ANSWER};"


def test_the_user_goes_on_before_another_answer_has_begun() -> None:
    stage = Stage()

    async def scene() -> None:
        await talk(stage, "One?", "Two?")
        stage.brain.gate = gate = asyncio.Semaphore(0)
        await stage.tell(fact.RegeneratePressed())
        await stage.ask("I mean three.")
        await stage.tell(fact.OutputHeld(branch=stage.branch, at_s=0.0, words=0))
        stage.brain.gate = asyncio.Semaphore(100)
        gate.release()
        await settle()

    played(scene(), stage)
    assert stage.of(fact.TurnReopened)
    assert [e.boundary for e in stage.of(fact.RolledBack)] == ["U2", "A1"]
    assert stage.brain.text.startswith(f"P:<u>One?</u>{ANSWER};<u>Two? I mean three.</u>")


def test_another_answer_that_is_taken_back_before_its_turn_comes_is_never_begun() -> None:
    stage = Stage()

    async def scene() -> None:
        await talk(stage, "One?")
        await stage.ask("Two?")
        stage.brain.closing.clear()
        await stage.hear()
        await stage.tell(fact.RegeneratePressed())
        await stage.ask("I mean three.")
        await stage.tell(fact.OutputHeld(branch=stage.branch, at_s=0.0, words=0))
        stage.brain.closing.set()
        await settle()

    played(scene(), stage)
    assert stage.of(fact.TurnReopened)
    assert [e.boundary for e in stage.of(fact.RolledBack)] == ["A1"]
    assert stage.brain.text.startswith(f"P:<u>One?</u>{ANSWER};<u>Two? I mean three.</u>")
