"""The tree of boundaries: where a rollback goes, and what it lets go of."""

from __future__ import annotations

from app.tree import KEPT_TURNS, Tree


def grown() -> Tree:
    tree = Tree().take("A", 0, 0, 100, 0)
    tree = tree.take("U", 1, 1, 120, 1)
    tree = tree.take("W", 1, 1, 128, 2)
    return tree.take("W", 2, 1, 140, 3)


def test_heard_boundaries() -> None:
    tree = grown()
    assert tree.heard(1, 0).name == "U1"
    assert tree.heard(1, 1).name == "W1"
    assert tree.heard(1, 2).position == 140
    assert tree.base().name == "A0"


def test_going_back_abandons_what_follows() -> None:
    tree, gone = grown().back_to(grown().heard(1, 1))
    assert [b.name for b in tree.live] == ["A0", "U1", "W1"]
    assert gone == [3]
    tree = tree.take("A", 1, 1, 133, 9)
    assert tree.tip.serial == 4, "serial numbers are never used twice"
    assert tree.tip.parent == 2


def test_pruning_keeps_the_persona_and_the_newest_turns() -> None:
    tree = Tree().take("A", 0, 0, 10, 0)
    for turn in range(1, KEPT_TURNS + 10):
        tree = tree.take("U", turn, turn, 10 * turn, 2 * turn).take("A", turn, turn, 10 * turn + 5, 2 * turn + 1)
    tree, gone = tree.prune()
    assert tree.live[0].name == "A0"
    assert len(tree.live) == KEPT_TURNS + 1
    assert all(b.kind == "A" for b in tree.live)
    assert len(gone) == len(set(gone)) == KEPT_TURNS + 9 + 9
