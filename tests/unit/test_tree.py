"""The tree of boundaries: where a move goes, what it lets go of, and what it can never lose."""

from __future__ import annotations

import hashlib

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.ports import BoundaryMark
from app.tree import KEPT_LEAVES, KEPT_TURNS, Boundary, Tree


def grown(turns: int = 2) -> Tree:
    """So many whole turns."""
    tree = Tree().take("A", 0, 0, BoundaryMark(10, 0, 1))
    for turn in range(1, turns + 1):
        tree = whole_turn(tree, turn)
    return tree


def whole_turn(tree: Tree, turn: int, text: str = "") -> Tree:
    tree = tree.take("U", turn, turn, at(tree), f"user {turn}{text}")
    tree = tree.take("W", 1, turn, at(tree), "clause")
    return tree.take("A", turn, turn, at(tree), f"agent {turn}{text}").prune()[0]


def at(tree: Tree) -> BoundaryMark:
    return BoundaryMark(10 * tree.taken, 0, tree.taken + 1)


def names(boundaries: tuple[Boundary, ...]) -> list[str]:
    return [b.name for b in boundaries]


def test_a_live_reply_has_its_clauses_and_an_answer_takes_their_place() -> None:
    tree = grown(1).take("U", 2, 2, BoundaryMark(50, 0, 50))
    tree = tree.take("W", 1, 2, BoundaryMark(60, 0, 60)).take("W", 2, 2, BoundaryMark(70, 0, 70))
    assert names(tree.clauses()) == ["U2", "W1", "W2"]
    assert tree.base().name == "A1"
    tree, gone = tree.move(tree.clauses()[1])
    assert gone == [70]
    tree = tree.take("A", 2, 2, BoundaryMark(63, 0, 63))
    assert tree.tip.serial == 7, "serial numbers are never used twice"
    tree, gone = tree.prune()
    assert gone == [60]
    assert names(tree.live) == ["A0", "U1", "A1", "U2", "A2"]
    asked = tree.asked(2)
    assert asked is not None
    assert tree.tip.parent == asked.serial


def test_what_was_never_answered_is_forgotten_when_it_is_left() -> None:
    tree = grown(1).take("U", 2, 2, BoundaryMark(50, 0, 50)).take("W", 1, 2, BoundaryMark(60, 0, 60))
    tree, gone = tree.move(tree.base())
    assert (gone, names(tree.nodes)) == ([50, 60], ["A0", "U1", "A1"])


def test_undo_another_answer_and_taking_up() -> None:
    tree = grown(2)
    answered = tree.tip
    before, asked = tree.before(2), tree.asked(2)
    assert before is not None
    assert asked is not None
    tree, gone = tree.move(asked)
    tree = tree.take("A", 2, 2, BoundaryMark(99, 0, 99), "otherwise").prune()[0]
    assert gone == []
    assert names(tree.live) == ["A0", "U1", "A1", "U2", "A2"]
    tree, gone = tree.move(before)
    assert (gone, names(tree.live)) == ([], ["A0", "U1", "A1"])
    assert tree.asked(2) is None, "it is not live"
    found = tree.agent(answered.serial)
    assert found == answered
    assert found is not None
    tree, gone = tree.move(found)
    assert (gone, tree.tip.text) == ([], "agent 2")
    assert tree.agent(asked.serial) is None, "a question is nothing to go on from"
    assert tree.before(1) == tree.live[0]
    assert tree.before(0) is None


def test_turns_too_old_are_forgotten() -> None:
    tree = grown(KEPT_TURNS + 10)
    ends = [b for b in tree.live if b.kind == "A"]
    assert len(ends) == KEPT_TURNS
    assert tree.live == tree.nodes
    assert tree.before(11) is None
    assert ends[0].number == 11


def test_the_oldest_abandoned_ends_are_forgotten() -> None:
    tree = grown(1)
    base, gone = tree.tip, list[int]()
    for number in range(KEPT_LEAVES + 5):
        tree, more = whole_turn(tree, 2, f" {number}").move(base)
        gone += more
    texts = [b.text for b in tree.nodes if b.kind == "A" and b not in tree.live]
    assert texts == [f"agent 2 {number}" for number in range(5, KEPT_LEAVES + 5)]
    assert len(gone) == len(set(gone)) == 10, "five answers and their questions"


def test_the_digest_is_that_of_what_was_said_and_what_follows_what() -> None:
    tree = grown(1)
    told = b'[["A",0,null,0,"",true],["U",1,0,1,"user 1",true],["A",1,1,1,"agent 1",true]]'
    assert tree.digest() == hashlib.sha256(told).hexdigest()
    told = told.replace(b"true]]", b"false]]").replace(b'user 1",true', b'user 1",false')
    assert tree.move(tree.live[0])[0].digest() == hashlib.sha256(told).hexdigest()
    elsewhere = Tree(taken=5).take("A", 0, 0, BoundaryMark(3, 9, 8))
    assert whole_turn(elsewhere, 1).digest() == tree.digest(), "neither numbers nor places count"
    assert tree.take("U", 2, 2, BoundaryMark(50, 0, 50), "open").digest() == tree.digest(), "nor an open turn"
    changed = [grown(2), grown(0), whole_turn(grown(0), 1, "!"), Tree()]
    assert len({tree.digest(), *(other.digest() for other in changed)}) == 5


class Conversation(RuleBasedStateMachine):
    """Turns, other answers, undo and taking up in any order, against a plain list of the texts on the live line."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = Tree().take("A", 0, 0, BoundaryMark(0, 0, 1))
        self.handles = {1}
        self.lines: dict[int, list[str]] = {0: [""]}
        self.said = [""]

    def take(self, kind: str, number: int, turn: int, text: str = "") -> None:
        handle = self.tree.taken + 1
        self.handles.add(handle)
        self.tree = self.tree.take(kind, number, turn, BoundaryMark(0, 0, handle), text)  # pyright: ignore[reportArgumentType]  # one of three

    def drop(self, gone: list[int]) -> None:
        assert len(gone) == len(set(gone))
        self.handles -= set(gone)

    def answer(self, turn: int, clauses: int) -> None:
        for number in range(1, clauses + 1):
            self.take("W", number, turn)
        text = f"agent {self.tree.taken}"
        self.take("A", turn, turn, text)
        self.said = [*self.said, text]
        self.lines[self.tree.tip.serial] = self.said
        self.tree, gone = self.tree.prune()
        self.drop(gone)

    @rule(clauses=st.integers(0, 3))
    def whole_turn(self, clauses: int) -> None:
        turn, text = self.tree.tip.turn + 1, f"user {self.tree.taken}"
        self.take("U", turn, turn, text)
        self.said = [*self.said, text]
        self.answer(turn, clauses)

    @rule(clauses=st.integers(0, 3))
    def reopened_turn(self, clauses: int) -> None:
        turn = self.tree.tip.turn + 1
        self.take("U", turn, turn)
        for number in range(clauses):
            self.take("W", number + 1, turn)
        self.tree, gone = self.tree.move(self.tree.base())
        self.drop(gone)

    @precondition(lambda self: self.tree.asked(self.tree.tip.turn))
    @rule(clauses=st.integers(0, 2))
    def other_answer(self, clauses: int) -> None:
        turn = self.tree.tip.turn
        asked = self.tree.asked(turn)
        assert asked
        self.tree, gone = self.tree.move(asked)
        self.drop(gone)
        self.said = self.said[:-1]
        self.answer(turn, clauses)

    @precondition(lambda self: self.tree.before(self.tree.tip.turn))
    @rule()
    def undo(self) -> None:
        before = self.tree.before(self.tree.tip.turn)
        assert before
        self.go(before)

    @rule(data=st.data())
    def take_up(self, data: st.DataObject) -> None:
        self.go(data.draw(st.sampled_from([b for b in self.tree.nodes if b.kind == "A"])))

    def go(self, boundary: Boundary) -> None:
        self.tree, gone = self.tree.move(boundary)
        self.drop(gone)
        self.said = self.lines[boundary.serial]
        assert self.tree.tip == boundary

    @invariant()
    def handles_are_those_of_the_nodes(self) -> None:
        assert {b.handle for b in self.tree.nodes} == self.handles

    @invariant()
    def the_live_line_is_what_was_said(self) -> None:
        live = [b.text for b in self.tree.live]
        assert live == self.said[-len(live) :]
        assert len(live) == min(len(self.said), 2 * KEPT_TURNS - 1)


TestConversation = pytest.mark.timeout(60)(Conversation.TestCase)
