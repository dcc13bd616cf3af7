"""What this user's pauses teach: the shortest silence that ends a turn."""

from __future__ import annotations

from app import events as fact
from app.step import Step

TOLD_MS = 10
"""Smaller moves are not worth a line in the log."""
MORE_SHARE, MORE_MS = 0.5, 100
"""After the user was cut off, the floor goes this share of the way to what was too short, and so much more."""


def floor_ms(now: Step) -> float:
    """The shortest silence that ends a turn of this user."""
    return max(now.turns.floor_least_ms, now.state.floor_ms)


def learn(now: Step, pause_s: float) -> None:
    """The user went on with a turn after a pause."""
    if pause_s * 1000 < now.turns.longest_ms:
        memory = now.turns.floor_memory
        wanted_ms = memory * floor_ms(now) + (1 - memory) * pause_s * 1000
        _move(now, wanted_ms, f"the user paused for {pause_s * 1000:.0f} ms and went on")


def learn_overlap(now: Step, onset_s: float) -> None:
    """The user took the word over a reply: perhaps because the turn before was not over."""
    agent = now.state.agent
    if agent.waited_ms is None or agent.waited_ms >= now.turns.longest_ms:
        return
    if agent.audible_s is None or onset_s < agent.audible_s:
        learn(now, onset_s - agent.turn.end_s)
    elif onset_s - agent.audible_s <= now.turns.regret_ms / 1000:
        over_ms = agent.waited_ms + MORE_MS - floor_ms(now)
        if over_ms > 0:
            reason = f"the user went on {(onset_s - agent.audible_s) * 1000:.0f} ms after the reply had begun"
            _move(now, floor_ms(now) + MORE_SHARE * over_ms, reason)


def _move(now: Step, wanted_ms: float, reason: str) -> None:
    moved_ms = min(max(wanted_ms, now.turns.floor_least_ms), max(now.turns.floor_least_ms, now.turns.floor_most_ms))
    now.set(floor_ms=moved_ms)
    told_ms = now.state.told_floor_ms or now.turns.floor_least_ms
    if abs(moved_ms - told_ms) >= TOLD_MS:
        now.set(told_floor_ms=moved_ms)
        now.announce(fact.PauseLearned(floor_ms=round(moved_ms, 1), reason=reason))
