"""What the user asks for besides answers: typed turns, and commands by key or by word; and the end of a spoken turn,
which may turn out to be a command.
"""

from __future__ import annotations

from typing import assert_never

from app import agent_region, barge_in
from app import effects as ask
from app.agent_region import commit
from app.decisions import Command
from app.language import words_of
from app.overlap import Verdict
from app.state import AgentPhase, Turn, UserPhase, Wish
from app.step import Step


def typed(now: Step, text: str) -> None:
    """A typed turn takes the word; a second one before the reply has ended belongs to it."""
    if not text.strip():
        return
    waiting = now.state.wish
    if waiting is not None and waiting.kind == "typed":
        text = f"{waiting.text} {text}"
    now.drop_utterance("something was typed instead")
    _wish(now, Wish("typed", now.t_s, "typed", text.strip()))
    barge_in.interrupt(now, Verdict("turn", "typed", {}), now.t_s)


def stop(now: Step) -> None:
    """Be quiet, and wait."""
    reason = "the stop key"
    if now.state.agent.live:
        now.take("stop", reason)
        barge_in.interrupt(now, Verdict("stop", reason, {}), now.t_s)
    elif "check_in" in now.state.timers:
        now.take("stop", reason)
    else:
        now.refuse("stop", "nothing is being said")
    now.disarm("check_in")


def key(now: Step, command: Command, boundary: int = 0) -> None:
    """A command that needs the agent at rest: end the live reply if there is one, then carry it out."""
    reason = f"the {command.replace('_', ' ')} key"
    if command == "go_on" and now.state.agent.live:
        _go_on_now(now, reason)
        return
    if why_not := _why_not(now, command):
        now.refuse(command, why_not)
        return
    if now.state.wish is not None and now.state.wish.kind == "typed":
        now.refuse(command, "a typed turn comes first")
        return
    now.drop_utterance(reason)
    _wish(now, Wish(command, now.t_s, reason, boundary=boundary))
    barge_in.interrupt(now, Verdict("stop", reason, {}), now.t_s)


def _wish(now: Step, wish: Wish) -> None:
    """Wish for something; a command that still waits gives way."""
    if now.state.wish is not None and now.state.wish.kind != "typed":
        now.refuse(now.state.wish.kind, "something else was asked for before it could be carried out")
    now.set(wish=wish)


def _go_on_now(now: Step, reason: str) -> None:
    """Go on with the reply that is live."""
    if now.state.agent.phase is AgentPhase.HELD and now.state.agent.verdict is None:
        now.take("go_on", reason)
        if now.state.user.talking and not words_of(now.state.user.partial):
            now.disarm("confirm")
            now.user(phase=UserPhase.SPEAKING)  # a noise: words that come in it still count
        else:
            now.drop_utterance(reason)
            now.user(talking=False)  # what held the reply does not count any more
        barge_in.release(now, Verdict("backchannel", reason, {}))
    else:
        now.refuse("go_on", "a reply is being said")


def _why_not(now: Step, command: Command) -> str | None:
    """Why a command can't be carried out, as far as can be told."""
    state = now.state
    reopened = state.user.reopened is not None
    match command:
        case "go_on" if state.tail is None:
            return "nothing is left unheard"
        case "undo" if state.turns == 0 and not reopened:
            return "there is nothing to take back"
        case "regenerate" if not (state.last.text or reopened):
            return "no words of yours are known of the last turn"
        case "regenerate" if state.agent.live and state.agent.audible_s is None:
            return "the answer has not begun"
        case _:
            return None


def carry_out(now: Step, wish: Wish) -> None:
    """Do what was wished for. The agent is at rest."""
    speaking = now.state.user.phase in (UserPhase.SPEAKING, UserPhase.PAUSE)
    if wish.kind == "typed":
        _answer_typed(now, wish, speaking=speaking)
    elif why_not := _why_not(now, wish.kind):
        now.refuse(wish.kind, why_not)
    elif speaking and wish.kind in ("go_on", "regenerate"):
        now.refuse(wish.kind, "the user has begun to speak")
    else:
        now.take(wish.kind, wish.reason)
        _command(now, wish.kind, wish)


def _answer_typed(now: Step, wish: Wish, *, speaking: bool) -> None:
    reopened = now.state.user.reopened
    start_s = reopened.start_s if reopened else wish.at_s
    turn = Turn(now.state.turns + 1, now.turn_text(wish.text), start_s, wish.at_s)
    if speaking:
        now.user(reopened=turn)  # what is being said belongs to it
    else:
        commit(now, turn, wish.reason)


def _command(now: Step, command: Command, wish: Wish) -> None:
    state = now.state
    reopened, last = state.user.reopened, state.last
    now.disarm("check_in")
    match command:
        case "stop":
            now.drop_reopened(wish.reason)
        case "go_on":
            turn = Turn(state.turns + 1, now.turn_text(wish.text or now.language.go_on_text), wish.at_s, wish.at_s)
            _play_tail(now, turn, wish.reason)
        case "undo" if reopened:
            now.drop_reopened(wish.reason)
        case "undo":
            asked_only = state.checked_in and not last.text  # whether the user is there: no exchange of its own
            _move(now, command, ask.MoveBack(turn=state.turns - asked_only))
        case "take_up":
            now.drop_reopened(wish.reason)
            _move(now, command, ask.TakeUp(boundary=wish.boundary))
        case "regenerate" if reopened:
            commit(now, reopened._replace(number=state.turns + 1), "another answer was asked for")
        case "regenerate":
            agent_region.forget_tail(now, "another answer was asked for")
            commit(now, last, "another answer was asked for", again=True)
        case _:
            assert_never(command)


def _play_tail(now: Step, turn: Turn, reason: str) -> None:
    tail = now.state.tail
    now.disarm("tail")
    now.set(tail=None)
    commit(now, turn, reason, tail_of=tail)


def _move(now: Step, command: Command, effect: ask.MoveBack | ask.TakeUp) -> None:
    now.agent(phase=AgentPhase.MOVING, moving=command)
    now.ask(effect)


def answer_reopened(now: Step) -> None:
    """A turn was reopened, and nothing came: it is over after all."""
    if reopened := now.state.user.reopened:
        commit(now, reopened._replace(number=now.state.turns + 1), "nothing was added to it")


def end_turn(now: Step) -> None:
    """The user has finished speaking: a command, a note, or a turn to be answered. The agent is at rest."""
    user, language = now.state.user, now.language
    assert user.text is not None, "a turn is due only when its text is there"
    assert user.wait is not None, "and when the silence was weighed"
    said, text, wait = user.text, now.turn_text(user.text), user.wait
    reason = f"{wait.silence_ms} ms of silence: {wait.reason}" if wait.silence_ms else wait.reason
    start_s = user.reopened.start_s if user.reopened else user.onset_s
    # What was typed may be newer than the sound before a card was lost.
    turn = Turn(now.state.turns + 1, text, start_s, max(start_s, user.silent_since_s))
    now.end_utterance()
    command = language.command(said)
    if command == "go_on":
        if now.state.tail is None:
            command = None  # nothing to go on with: the model may know what is meant
        else:
            now.take(command, f"said: {said}")
            _play_tail(now, turn, reason)
            return
    if command is not None:
        now.note("stop" if command == "stop" else "command", said, "a command, not a turn")
        carry_out(now, Wish(command, now.t_s, f"said: {said}"))
    elif language.only_waits(text):
        now.disarm("check_in")
        now.note("wait", text, "the user only asked for time")
        now.user(reopened=None)
    else:
        waited_ms = (now.t_s - user.silent_since_s) * 1000
        commit(now, turn, reason, scores=wait.scores, waited_ms=waited_ms)
