"""How microphone and loudspeaker share the air: what the user chose, unless the agent keeps hearing itself."""

from __future__ import annotations

from app import effects as ask
from app import events as fact
from app.decisions import Mode, Scores
from app.step import Step

LEAKS = 2
"""Measures in a row with too much echo left: one may be a chair."""


def choose(now: Step, mode: Mode) -> None:
    """The user chose a mode."""
    now.disarm("reprobe")
    if mode != now.state.mode:
        _change(now, mode, "chosen by the user", {})


def strike(now: Step) -> None:
    """An overlap was the agent's own words."""
    window_s = now.turns.echo_window_ms / 1000
    strikes_s = tuple(at_s for at_s in (*now.state.strikes_s, now.t_s) if at_s > now.t_s - window_s)
    now.set(strikes_s=strikes_s[-now.turns.echo_strikes :])
    if len(strikes_s) >= now.turns.echo_strikes:
        _downgrade(now, f"the agent heard itself {len(strikes_s)} times", {"strikes": len(strikes_s)})


def measure(now: Step, event: fact.EchoMeasured) -> None:
    """The echo canceller tells how much of the echo was left."""
    leaks = now.state.leaks + 1 if event.residual_share > now.turns.echo_residual else 0
    now.set(leaks=min(leaks, LEAKS))
    if leaks >= LEAKS:
        scores = {"residual_share": event.residual_share, "erle_db": event.erle_db}
        _downgrade(now, "the echo that is left still looks like speech", scores)


def probe_again(now: Step) -> None:
    """Try whether it can be done without shutting the microphone."""
    if now.state.mode == "half":
        _change(now, "duplex", "tried again after a while", {})


def _downgrade(now: Step, reason: str, scores: Scores) -> None:
    if now.state.mode == "duplex":
        _change(now, "half", reason, scores)
        now.arm("reprobe", now.t_s + now.turns.reprobe_ms / 1000)


def _change(now: Step, mode: Mode, reason: str, scores: Scores) -> None:
    now.set(mode=mode, strikes_s=(), leaks=0)
    now.announce(fact.ModeChanged(mode=mode, reason=reason, scores=scores))
    now.ask(ask.SetMode(mode=mode))
