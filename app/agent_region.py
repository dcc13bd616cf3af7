"""What the agent does: begin a reply, follow how far it is heard, end it; its unheard tail; the check-in after it."""

from __future__ import annotations

from app import effects as ask
from app import events as fact
from app.decisions import Scores
from app.language import words_of
from app.state import Agent, AgentPhase, Clause, Turn, UserPhase
from app.step import Step

SAID_S = 5.0
"""How long what the agent said can come back as an echo."""
SAID_WORDS = 64
CLAUSES = 64
"""More than are ever written and not yet heard."""

Progress = (
    fact.UserTurnAppended
    | fact.FirstTokenDecoded
    | fact.ClauseDecoded
    | fact.ClauseSynthesised
    | fact.ReplyDecoded
    | fact.PlayoutStarted
    | fact.WordHeard
    | fact.OutputHeld
    | fact.OutputResumed
    | fact.PlayoutFinished
    | fact.ReplyFailed
)
"""What becomes of a reply."""


def commit(
    now: Step,
    turn: Turn,
    reason: str,
    *,
    scores: Scores | None = None,
    waited_ms: float | None = None,
    tail_of: int | None = None,
    again: bool = False,
) -> None:
    """A turn of the user is over: answer it. No reply is live.

    Args:
        now: The step.
        turn: The turn; it has the number of the last one if `again`.
        reason: Why it is over.
        scores: What that rests on.
        waited_ms: Silence after which it was taken to be over.
        tail_of: Begin with the unheard rest of this branch.
        again: Another answer to the last turn is wanted.
    """
    now.announce(
        fact.TurnCommitted(
            turn=turn.number,
            branch=now.state.branches + 1,
            text=turn.text,
            speech_start_s=turn.start_s,
            speech_end_s=turn.end_s,
            reason=reason,
            scores=scores or {},
        )
    )
    now.set(checked_in=False)
    _begin(now, turn, waited_ms=waited_ms, tail_of=tail_of, again=again)


def _begin(
    now: Step,
    turn: Turn,
    *,
    waited_ms: float | None = None,
    line: str = "",
    tail_of: int | None = None,
    again: bool = False,
) -> None:
    state = now.state
    branch = state.branches + 1
    now.disarm("check_in")
    now.ask(ask.StartReply(branch=branch, turn=turn.number, text=turn.text, line=line, tail_of=tail_of, again=again))
    agent = Agent(AgentPhase.PREPARING, branch, turn, waited_ms)
    now.set(branches=branch, last=turn, before=state.before if again else state.last, agent=agent)
    now.user(reopened=None)
    if state.user.phase is UserPhase.ONSET and state.user.talking:
        hold(now, state.user.onset_s)  # a reply never starts into what may be speech


def progress(now: Step, event: Progress) -> None:
    """Note how far the live reply has got; dead branches are dropped."""
    agent = now.state.agent
    if event.branch != agent.branch or not agent.live:
        return
    match event:
        case fact.ClauseDecoded():
            first = agent.clauses[-1].end if agent.clauses else 0
            clause = Clause(first, first + len(event.text.split()), now.language.asks(event.text))
            now.agent(clauses=(*agent.clauses, clause)[-CLAUSES:])
        case fact.PlayoutStarted():
            preparing = agent.phase is AgentPhase.PREPARING
            now.agent(audible_s=event.at_s, phase=AgentPhase.SPEAKING if preparing else agent.phase)
        case fact.WordHeard():
            now.agent(words=event.words)
            recent = tuple(word for word in now.state.said if word[0] >= event.at_s - SAID_S)
            said = tuple((event.at_s, word) for word in words_of(event.text))
            now.set(said=(recent + said)[-SAID_WORDS:])
        case fact.OutputResumed():
            now.agent(words=event.words)
        case fact.PlayoutFinished():
            if agent.phase is AgentPhase.HELD:
                now.agent(finished=True)
            else:
                close(now)
        case fact.ReplyFailed():
            cut_off(now, agent.words)
        case _:
            pass


def hold(now: Step, overlap_s: float) -> None:
    """Shut the gate because of an overlap that began then."""
    now.agent(phase=AgentPhase.HELD, held_words=None, overlap_s=overlap_s)
    now.ask(ask.Hold(branch=now.state.agent.branch))


def close(now: Step) -> None:
    """The live reply was heard to its end."""
    agent = now.state.agent
    now.disarm("duck")
    now.ask(ask.CloseReply(branch=agent.branch, turn=agent.turn.number))
    _rest(now)
    asks = bool(agent.clauses) and agent.clauses[-1].asks
    wanted = now.turns.check_in == "always" or (now.turns.check_in == "after_question" and asks)
    if wanted and now.language.check_in and not now.state.checked_in:
        now.ask(ask.PrepareLine(text=now.language.check_in))
        now.arm("check_in", now.t_s + now.turns.check_in_ms / 1000)


def cut_off(now: Step, words: int) -> None:
    """The live reply ends here, after `words` heard words."""
    agent = now.state.agent
    now.ask(ask.Yield(branch=agent.branch, turn=agent.turn.number, words=words))
    now.set(leaver=agent.branch if agent.turn.text else 0)  # nobody wants the rest of a question of our own
    stopped = agent.verdict is not None and agent.verdict.kind == "stop"
    now.user(over_reply=now.state.user.over_reply and stopped)  # who only stopped it may have murmured all the same
    _rest(now)


def reopen(now: Step, reason: str) -> None:
    """The live reply never was, and the turn before it goes on."""
    agent, before = now.state.agent, now.state.before
    now.ask(ask.Abandon(branch=agent.branch, turn=agent.turn.number))
    now.announce(fact.TurnReopened(turn=agent.turn.number, branch=agent.branch, reason=reason))
    now.set(last=before, before=Turn(max(0, before.number - 1)))
    now.user(reopened=agent.turn if agent.turn.text else None, over_reply=False)
    _rest(now)


def _rest(now: Step) -> None:
    """No reply is live. What the last one asked still tells an answer from a backchannel."""
    agent = now.state.agent
    now.set(agent=Agent(branch=agent.branch, words=agent.words, clauses=agent.clauses))


# ---- moves on the tree ----


def moved(now: Step, event: fact.Moved) -> None:
    """The conversation goes on from elsewhere. If that comes too late, what has begun since has its own numbers."""
    if now.state.agent.phase not in (AgentPhase.MOVING, AgentPhase.IDLE):
        return
    now.set(last=Turn(event.turn, event.text, now.t_s, now.t_s), before=Turn(max(0, event.turn - 1)), checked_in=False)
    forget_tail(now, "the conversation goes on from elsewhere")
    _rest(now)


def move_refused(now: Step, event: fact.MoveRefused) -> None:
    """The conversation stays where it was."""
    if command := now.state.agent.moving:
        now.refuse(command, f"{event.what}: {event.why}")
        _rest(now)


def give_up_move(now: Step) -> None:
    """Nothing came of it."""
    if command := now.state.agent.moving:
        now.refuse(command, "there was no answer")
    _rest(now)


# ---- the unheard rest of a reply ----


def keep_tail(now: Step, event: fact.TailKept) -> None:
    """What was not heard of the reply that was cut off last can be asked for, for a while."""
    if event.branch != now.state.leaver:
        _let_go(now, event.branch, "nobody can want it")
        return
    forget_tail(now, "another reply was cut off since")
    now.set(tail=event.branch)
    now.arm("tail", now.t_s + now.turns.tail_ms / 1000)


def forget_tail(now: Step, reason: str) -> None:
    """It can't be asked for any more."""
    tail = now.state.tail
    now.disarm("tail")
    now.set(tail=None, leaver=0)
    if tail is not None:
        _let_go(now, tail, reason)


def _let_go(now: Step, tail: int, reason: str) -> None:
    now.ask(ask.ForgetTail(branch=tail))
    now.announce(fact.TailForgotten(branch=tail, reason=reason))


# ---- nobody says anything ----


def check_in(now: Step) -> None:
    """Ask whether the user is still there; later, if there is something to wait for."""
    user, agent = now.state.user, now.state.agent
    if agent.phase is not AgentPhase.IDLE or user.phase is not UserPhase.SILENT or user.key_down:
        now.arm("check_in", now.t_s + now.turns.check_in_ms / 1000)
        return
    turn = Turn(now.state.turns + 1, "", now.t_s, now.t_s)
    now.announce(
        fact.CheckedIn(
            turn=turn.number,
            branch=now.state.branches + 1,
            text=now.language.check_in,
            reason=f"no word in {now.turns.check_in_ms} ms after the reply",
        )
    )
    now.set(checked_in=True)
    _begin(now, turn, line=now.language.check_in)
