"""The stuck guard: whatever must get on by itself and does not is put back to rest, so that one can always talk on.

Each region has a timer that counts from the last time it was seen to get on. A user who talks for minutes is not stuck,
nor is a long reply that plays.
"""

from __future__ import annotations

from typing import Literal

from app import agent_region, barge_in, user_region
from app import events as fact
from app.overlap import Verdict
from app.state import AgentPhase, State, UserPhase
from app.step import Step
from app.timing import Turns

Region = Literal["user", "agent"]

EARLY_MS = 1
"""Times in the log are rounded, so a timer may seem to come a hair early."""


def watch(now: Step, before: State, event: fact.Event) -> None:
    """Note which regions got on with this event, and set their timers."""
    state = now.state
    undecided = state.agent.phase is AgentPhase.HELD and state.agent.verdict is None
    heard = state.user is not before.user
    told = isinstance(event, agent_region.Progress) and event.branch == state.agent.branch
    if heard:
        now.set(user_moved_s=now.t_s)
    if state.agent is not before.agent or told or (heard and undecided):
        now.set(agent_moved_s=now.t_s)
    _set(now, "user", before)
    _set(now, "agent", before)


def _set(now: Step, region: Region, before: State) -> None:
    name = f"stuck_{region}"
    limit_ms = _limit_ms(now.state, region, now.turns)
    if limit_ms is None:
        now.disarm(name)
    elif name not in now.state.timers or limit_ms != _limit_ms(before, region, now.turns):
        now.arm(name, _moved_s(now.state, region) + limit_ms / 1000)


def _moved_s(state: State, region: Region) -> float:
    return state.user_moved_s if region == "user" else state.agent_moved_s


def _limit_ms(state: State, region: Region, turns: Turns) -> int | None:
    """How long the region may stay as it is; None: for ever."""
    return _user_limit_ms(state, turns) if region == "user" else _agent_limit_ms(state, turns)


def _user_limit_ms(state: State, turns: Turns) -> int | None:
    user = state.user
    waits_for_text = user.phase is UserPhase.PAUSE and user.text is None and not user.key_down
    return turns.stuck_ms if waits_for_text else None


def _agent_limit_ms(state: State, turns: Turns) -> int | None:
    agent = state.agent
    match agent.phase:
        case AgentPhase.IDLE:
            return None
        case AgentPhase.HELD if agent.verdict is None and _user_limit_ms(state, turns) is not None:
            return None  # what is awaited is the user's text
        case AgentPhase.HELD | AgentPhase.MOVING:
            return turns.stuck_ms
        case AgentPhase.PREPARING | AgentPhase.SPEAKING | AgentPhase.DUCKED:
            return turns.stuck_reply_ms


def fired(now: Step, region: Region) -> None:
    """The time is up, unless the region got on in the meantime."""
    state = now.state
    limit_ms = _limit_ms(state, region, now.turns)
    waited_ms = (now.t_s - _moved_s(state, region)) * 1000
    if limit_ms is None or waited_ms < limit_ms - EARLY_MS:
        return
    phase = state.user.phase if region == "user" else state.agent.phase
    now.announce(fact.StuckRecovered(region=region, phase=phase.value, waited_ms=round(waited_ms)))
    if region == "user":
        user_region.gave_up(now)
    elif state.agent.phase is AgentPhase.MOVING:
        agent_region.give_up_move(now)
    else:
        _free_agent(now)


def _free_agent(now: Step) -> None:
    """End the live reply with what is known to have been heard of it."""
    agent = now.state.agent
    if agent.phase is not AgentPhase.HELD:
        agent_region.hold(now, now.t_s)
    words = agent.words if agent.held_words is None else agent.held_words
    now.agent(held_words=words, verdict=agent.verdict or Verdict("stop", "the reply did not get on", {}))
    barge_in.settle(now)
