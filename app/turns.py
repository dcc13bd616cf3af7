"""The conversation's decisions: `step(state, event, rules) -> (state, effects)`. No clock, no await, no I/O.

Read it from here: the match below says who decides what. app/state.py draws the two regions; app/user_region.py and
app/agent_region.py move them, app/barge_in.py decides where they meet, app/wishes.py what the user asks for besides
answers.
"""

from __future__ import annotations

from app import agent_region, barge_in, echo_watch, effects, stuck, user_region, wishes
from app import events as fact
from app.rules import Rules
from app.state import AgentPhase, State, UserPhase
from app.step import Step


def step(state: State, event: fact.Event, rules: Rules) -> tuple[State, list[effects.Effect]]:
    """Decide what follows from an event.

    Args:
        state: The state before.
        event: What happened; its `t_s` is stamped.
        rules: What decisions go by.

    Returns:
        The state after, and what to do, in order.
    """
    now = Step(state, event.t_s, rules)
    _decide(now, event)
    user_region.keep_listening(now)
    _at_rest(now)
    stuck.watch(now, state, event)
    return now.state, now.effects


def _decide(now: Step, event: fact.Event) -> None:
    match event:
        case fact.SpeechStarted():
            user_region.speech_started(now, event.at_s)
        case fact.SpeechStopped():
            user_region.speech_stopped(now, event.at_s)
        case fact.PartialTranscribed():
            user_region.partial(now, event)
        case fact.FinalTranscribed():
            user_region.final(now, event)
        case fact.UserTextRead():
            user_region.was_read(now, event)
        case fact.TimerFired():
            if now.state.timers.get(event.name) == event.serial:
                now.disarm(event.name)
                _timer(now, event.name)
        case fact.OutputHeld():
            barge_in.gate_shut(now, event)
        case fact.TailKept():
            agent_region.keep_tail(now, event)
        case fact.Moved():
            agent_region.moved(now, event)
        case fact.MoveRefused():
            agent_region.move_refused(now, event)
        case fact.EchoMeasured():
            echo_watch.measure(now, event)
        case fact.EchoNoticed():
            barge_in.echo_noticed(now, event)
        case (
            fact.TextTyped()
            | fact.StopPressed()
            | fact.GoOnPressed()
            | fact.UndoPressed()
            | fact.RegeneratePressed()
            | fact.BranchChosen()
            | fact.TalkPressed()
            | fact.TalkReleased()
            | fact.ModeChosen()
        ):
            _asked_for(now, event)
        case _ if isinstance(event, agent_region.Progress):
            agent_region.progress(now, event)
        case _:
            pass


def _asked_for(
    now: Step,
    event: fact.TextTyped
    | fact.StopPressed
    | fact.GoOnPressed
    | fact.UndoPressed
    | fact.RegeneratePressed
    | fact.BranchChosen
    | fact.TalkPressed
    | fact.TalkReleased
    | fact.ModeChosen,
) -> None:
    match event:
        case fact.TextTyped():
            wishes.typed(now, event.text)
        case fact.StopPressed():
            wishes.stop(now)
        case fact.GoOnPressed():
            wishes.key(now, "go_on")
        case fact.UndoPressed():
            wishes.key(now, "undo")
        case fact.RegeneratePressed():
            wishes.key(now, "regenerate")
        case fact.BranchChosen():
            wishes.key(now, "take_up", event.boundary)
        case fact.TalkPressed():
            user_region.talk_pressed(now)
        case fact.TalkReleased():
            user_region.talk_released(now)
        case fact.ModeChosen():
            echo_watch.choose(now, event.mode)


def _timer(now: Step, name: str) -> None:
    match name:
        case "duck":
            barge_in.duck(now)
        case "confirm":
            user_region.confirmed(now)
        case "verdict":
            barge_in.words_are_due(now)
        case "blip":
            user_region.blip(now)
        case "probe":
            user_region.probe(now)
        case "commit":
            user_region.waited(now)
        case "tail":
            agent_region.forget_tail(now, f"nobody asked for it within {now.turns.tail_ms} ms")
        case "check_in":
            agent_region.check_in(now)
        case "reprobe":
            echo_watch.probe_again(now)
        case "stuck_user":
            stuck.fired(now, "user")
        case "stuck_agent":
            stuck.fired(now, "agent")
        case _:
            raise AssertionError(f"no such timer: {name}")


def _at_rest(now: Step) -> None:
    """Do what waits for the agent to be at rest."""
    if now.state.agent.phase is AgentPhase.IDLE and (wish := now.state.wish):
        now.set(wish=None)
        wishes.carry_out(now, wish)
    if now.state.agent.phase is not AgentPhase.IDLE:
        return
    user = now.state.user
    if user.due:
        wishes.end_turn(now)
    elif user.phase is UserPhase.PAUSE:
        user_region.read_ahead(now)
    elif user.phase is UserPhase.SILENT and not user.key_down:
        wishes.answer_reopened(now)
