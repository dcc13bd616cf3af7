"""Moves on the tree: undo, another answer, another branch; and wishes that meet."""

from __future__ import annotations

from app import effects as ask
from app import events as fact
from app.state import AgentPhase
from tests.unit.turns_driver import Driver, cut_off, speaking


def moved(driver: Driver, turn: int, text: str = "") -> None:
    driver.tell(fact.Moved(boundary=7, name=f"A{turn}", turn=turn, text=text, left=9, rollback_us=5.0))


# ---- undo ----


def test_undo_takes_the_last_exchange_back() -> None:
    driver = speaking()
    driver.tell(fact.UndoPressed())
    driver.held(5)
    asked = [type(e).__name__ for e in driver.asked if not isinstance(e, ask.Announce | ask.SetTimer)]
    assert asked == ["Hold", "Yield", "MoveBack"]
    assert driver.take(ask.MoveBack) == [ask.MoveBack(turn=1)]
    assert driver.state.agent.phase is AgentPhase.MOVING
    driver.tell(fact.TailKept(branch=1, turn=1, text="the rest", complete=True))
    moved(driver, 0)
    assert driver.take(ask.ForgetTail) == [ask.ForgetTail(branch=1)], "of an exchange that is taken back"
    assert driver.state.agent.phase is AgentPhase.IDLE
    assert driver.state.turns == 0
    driver.say(10.0, 11.0, "Tell me about Mars.")
    assert [e.turn for e in driver.take(ask.StartReply)] == [1]


def test_scratch_that_means_the_exchange_before() -> None:
    driver = speaking()
    driver.finish()
    driver.say(8.0, 9.0, "Scratch that.")
    assert driver.take(ask.MoveBack) == [ask.MoveBack(turn=1)]
    assert not driver.take(ask.StartReply)
    assert driver.notes() == [("command", "Scratch that.")]
    assert driver.commands() == (["undo"], [])


def test_scratch_that_at_the_start_of_a_reply_drops_its_turn() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "Tell me about the moon.")
    driver.onset(2.6)
    driver.until(3.3)
    driver.held(0)
    driver.partial("Scratch that")
    driver.silence(3.4)
    driver.until(3.5)
    driver.texts()
    driver.transcript("Scratch that.")
    driver.until(6.0)
    assert not driver.take(ask.StartReply)
    assert not driver.take(ask.MoveBack), "the state is before it already"
    assert driver.notes() == [("command", "Scratch that."), ("dropped", "Tell me about the moon.")]
    assert (driver.state.turns, driver.state.user.reopened) == (0, None)


def test_undo_with_nothing_to_take_back_is_refused() -> None:
    driver = Driver()
    driver.tell(fact.UndoPressed())
    driver.say(1.0, 2.0, "Undo that.")
    assert driver.commands() == ([], ["undo", "undo"])
    assert driver.notes() == [("command", "Undo that.")]


def test_a_move_that_is_refused_leaves_everything_where_it_was() -> None:
    driver = speaking()
    driver.finish()
    driver.tell(fact.UndoPressed())
    driver.tell(fact.MoveRefused(what="turn 1 can't be taken back", why="it left the context"))
    assert driver.facts(fact.CommandRefused)[0].reason == "turn 1 can't be taken back: it left the context"
    assert (driver.state.agent.phase, driver.state.turns) == (AgentPhase.IDLE, 1)


def test_what_is_said_while_the_state_moves_waits() -> None:
    driver = speaking()
    driver.finish()
    driver.tell(fact.UndoPressed())
    driver.say(7.0, 8.0, "Tell me about Mars.")
    assert not driver.take(ask.StartReply)
    moved(driver, 0)
    assert [(e.turn, e.text) for e in driver.take(ask.StartReply)] == [(1, "Tell me about Mars.")]


# ---- another answer ----


def test_another_answer_is_the_same_turn_on_a_new_branch() -> None:
    driver = speaking()
    driver.tell(fact.RegeneratePressed())
    driver.held(5)
    assert driver.take(ask.Yield)
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=2, turn=1, text="Tell me about the moon.", again=True)]
    again = driver.facts(fact.TurnCommitted)[-1]
    assert (again.turn, again.branch, again.speech_start_s, again.speech_end_s) == (1, 2, 1.0, 2.0)
    assert again.reason == "another answer was asked for"
    driver.tell(fact.TailKept(branch=1, turn=1, text="the rest", complete=True))
    assert driver.take(ask.ForgetTail), "the rest of an answer that was thrown away"


def test_another_answer_by_word() -> None:
    driver = speaking()
    driver.finish()
    driver.say(8.0, 9.0, "Try again.")
    assert [(e.turn, e.again) for e in driver.take(ask.StartReply)] == [(1, True)]
    assert driver.notes() == [("command", "Try again.")]


def test_another_answer_at_the_start_of_a_reply_answers_its_turn() -> None:
    driver = speaking()
    driver.finish()
    driver.say(8.0, 9.0, "And Mars?")
    driver.onset(9.6)
    driver.until(10.3)
    driver.held(0)
    driver.partial("Try again")
    driver.silence(10.4)
    driver.until(10.55)
    driver.texts()
    driver.transcript("Try again.")
    driver.until(12.0)
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=3, turn=2, text="And Mars?")]


def test_another_answer_after_a_move_is_to_the_turn_one_moved_to() -> None:
    driver = speaking()
    driver.finish()
    driver.tell(fact.BranchChosen(boundary=7))
    moved(driver, 5, "What is Mars?")
    driver.tell(fact.RegeneratePressed())
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=2, turn=5, text="What is Mars?", again=True)]


def test_another_answer_to_nothing_is_refused() -> None:
    driver = Driver()
    driver.tell(fact.RegeneratePressed())
    assert driver.commands() == ([], ["regenerate"])


def test_another_answer_is_not_begun_into_speech() -> None:
    driver = speaking()
    driver.tell(fact.RegeneratePressed())
    driver.onset(6.1)
    driver.until(6.5)
    driver.held(5)
    assert not driver.take(ask.StartReply)
    assert driver.commands() == ([], ["regenerate"])


def test_who_goes_on_at_the_start_of_another_answer_goes_on_with_the_turn() -> None:
    driver = speaking()
    driver.finish()
    driver.say(7.0, 8.0, "And Mars?")
    driver.reply(3)
    driver.finish()
    driver.tell(fact.RegeneratePressed())
    driver.texts()
    driver.onset(10.0)
    driver.until(10.7)
    driver.held(0)
    driver.partial("and Venus please")
    driver.silence(10.8)
    driver.until(10.95)
    driver.transcript("And Venus.")
    driver.until(12.0)
    assert [(e.turn, e.text) for e in driver.take(ask.StartReply)] == [(2, "And Mars? And Venus.")]


# ---- another branch, and wishes that meet ----


def test_an_abandoned_branch_is_taken_up() -> None:
    driver = speaking()
    driver.tell(fact.BranchChosen(boundary=7))
    driver.held(5)
    assert driver.take(ask.Yield)
    assert driver.take(ask.TakeUp) == [ask.TakeUp(boundary=7)]
    moved(driver, 3)
    assert driver.state.turns == 3
    assert driver.commands() == (["take_up"], [])


def test_a_typed_line_comes_before_a_command_and_a_newer_command_before_an_older() -> None:
    driver = speaking()
    driver.tell(fact.RegeneratePressed())
    driver.tell(fact.UndoPressed())
    driver.tell(fact.TextTyped(text="And Mars?"))
    driver.tell(fact.UndoPressed())
    driver.held(5)
    assert driver.texts() == ["And Mars?"]
    assert driver.commands() == ([], ["regenerate", "undo", "undo"])


def test_another_answer_is_not_asked_for_before_the_first_has_begun() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "Tell me about the moon.")
    driver.tell(fact.RegeneratePressed())
    assert driver.commands() == ([], ["regenerate"])
    assert not driver.take(ask.Hold)


def test_a_move_that_is_refused_keeps_the_newest_rest() -> None:
    driver = cut_off()
    driver.say(8.0, 9.0, "Tell me about Mars.")
    driver.reply(4)
    driver.tell(fact.BranchChosen(boundary=99))
    driver.held(4)
    driver.tell(fact.TailKept(branch=2, turn=2, text="of Mars", complete=True))
    driver.tell(fact.MoveRefused(what="x", why="y"))
    assert driver.state.tail == 2


def test_a_view_is_told_of_each_rest_that_is_not_kept() -> None:
    driver = speaking()
    driver.tell(fact.RegeneratePressed())
    driver.held(5)
    driver.tell(fact.TailKept(branch=1, turn=1, text="the rest", complete=True))
    assert [e.branch for e in driver.facts(fact.TailForgotten)] == [1]
