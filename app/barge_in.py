"""Speech over a reply: duck, hold, judge, and then either let it go on or end it.

Ducking and holding can be taken back without a trace. Only words end a reply (or a key), and what was heard of it until
the gate shut is what stays in the model's state. If hardly anything was heard, the reply never was, and what the user
says continues the turn before.
"""

from __future__ import annotations

import math

from app import agent_region, echo_watch, overlap, pauses
from app import effects as ask
from app import events as fact
from app.language import words_of
from app.state import AgentPhase, UserPhase
from app.step import Step

ANSWER_WORDS = 4
"""A question is still being answered while the agent says so many words more."""
IN_VAIN_KEPT = 5
"""So many times that the gate was shut for nothing are remembered."""
REOPENED_CHARS = 4000
"""A turn as long as this was said on purpose: it is not reopened."""


def arm(now: Step, from_s: float) -> None:
    """Set how much more speech ducks and holds the live reply, if there is one; speech counts from `from_s`."""
    phase = now.state.agent.phase
    if phase is AgentPhase.PREPARING:
        # Nothing was heard yet, so shutting the gate costs nothing, and a reply never starts into speech.
        agent_region.hold(now, from_s)
    elif phase is AgentPhase.SPEAKING:
        now.arm("duck", from_s + now.turns.duck_after_ms / 1000)
        now.arm("confirm", from_s + hold_after_ms(now, from_s) / 1000)


def hold_after_ms(now: Step, from_s: float) -> int:
    """Speech over a reply until the gate shuts.

    It takes more while the echo canceller still learns, and twice as much for each time too often that the gate was
    shut for nothing: or else a noisy room would hold a reply for ever, a word at a time.
    """
    turns = now.turns
    usual_ms = turns.warm_up_hold_ms if _learning(now, from_s) else turns.hold_after_ms
    in_vain = sum(at_s >= from_s - turns.in_vain_ms / 1000 for at_s in now.state.agent.in_vain_s)
    return usual_ms << max(0, in_vain + 1 - turns.in_vain_most)


def _learning(now: Step, from_s: float) -> bool:
    """Whether what sounded like speech from then on may be an echo that the canceller has not learned yet."""
    return now.state.mode == "duplex" and from_s < now.state.learns_until_s


def doubtful(now: Step) -> bool:
    """Whether the utterance may be an echo that is being learned: then it can stop the reply, and nothing else."""
    agent = now.state.agent
    return agent.live and agent.phase is not AgentPhase.HELD and _learning(now, now.state.user.onset_s)


def worth_reading(now: Step) -> bool:
    """Whether a doubtful utterance was long enough for a stop word."""
    return doubtful(now) and now.state.user.spoken_s >= now.turns.hold_after_ms / 1000


def echo_noticed(now: Step, event: fact.EchoNoticed) -> None:
    """The loudspeaker is heard by the microphone, so what sounds like speech may be the reply itself."""
    if event.rise_db <= 0:
        return
    now.set(learns_until_s=now.t_s + now.turns.warm_up_ms / 1000)
    if now.state.agent.live and "confirm" in now.state.timers:
        from_s = now.state.user.run_since_s - now.state.user.spoken_s
        now.arm("confirm", from_s + hold_after_ms(now, from_s) / 1000)


def duck(now: Step) -> None:
    """There was enough speech to lower the reply."""
    agent, user = now.state.agent, now.state.user
    if agent.phase is AgentPhase.SPEAKING:
        now.agent(phase=AgentPhase.DUCKED, overlap_s=user.onset_s)
        now.ask(ask.Duck(branch=agent.branch))
        now.announce(fact.OverlapStarted(branch=agent.branch, onset_s=user.onset_s))


def unduck(now: Step) -> None:
    """There was not enough speech to hold it."""
    agent = now.state.agent
    now.disarm("duck", "confirm", "verdict")
    if agent.phase is AgentPhase.DUCKED:
        now.agent(phase=AgentPhase.SPEAKING)
        now.ask(ask.Unduck(branch=agent.branch))


def confirmed(now: Step) -> None:
    """There was enough speech to hold the reply."""
    if now.state.agent.phase in (AgentPhase.PREPARING, AgentPhase.SPEAKING, AgentPhase.DUCKED):
        agent_region.hold(now, _overlap_s(now))
    await_words(now, now.t_s)
    weigh(now, now.state.user.partial, final=False)


def await_words(now: Step, from_s: float) -> None:
    """Sound that brings no words does not hold a reply for long."""
    if now.state.agent.phase is AgentPhase.HELD:
        now.arm("verdict", from_s + now.turns.wordless_hold_ms / 1000)


def words_are_due(now: Step) -> None:
    """The time to judge a held reply has come."""
    partial = now.state.user.partial
    if words_of(partial):
        weigh(now, partial, final=False)
    else:
        release(now, overlap.judge_wordless(now.turns.wordless_hold_ms))


def weigh(now: Step, text: str, *, final: bool) -> bool:
    """Judge an overlap by new words, if there is one to judge.

    Returns:
        Whether the utterance was nothing that needs an answer; it is ended then.
    """
    user, agent = now.state.user, now.state.agent
    in_doubt = doubtful(now)
    heard = user.phase in (UserPhase.SPEAKING, UserPhase.PAUSE) or (in_doubt and user.phase is UserPhase.ONSET)
    if not heard or agent.verdict is not None:
        return False
    if not agent.live and not (final and user.over_reply):
        return False
    verdict = overlap.judge(_known(now, text, final=final), now.language, now.turns)
    if in_doubt and verdict is not None and not _silences(now, text, verdict):
        reason = "it may be an echo that is still being learned"
        verdict = overlap.Verdict("noise", reason, verdict.scores) if final else None
    if verdict is None:
        return False
    if verdict.kind in ("turn", "stop"):
        now.user(phase=UserPhase.SPEAKING if user.phase is UserPhase.ONSET else user.phase)
        overlap_s = agent.overlap_s if agent.phase is AgentPhase.HELD else _overlap_s(now)
        if verdict.kind == "turn" and agent.live:
            pauses.learn_overlap(now, overlap_s)
        interrupt(now, verdict, overlap_s)
    elif final:
        # Partials that look like nothing wait for the final: the gate is shut meanwhile, so an echo has ended by then.
        if agent.phase is AgentPhase.HELD:
            release(now, verdict)
        elif words_of(text):
            _announce(now, verdict, user.onset_s)
        if words_of(text):
            now.note(verdict.kind, text, verdict.reason)
        now.end_utterance()
        return True
    return False


def _silences(now: Step, text: str, verdict: overlap.Verdict) -> bool:
    """Whether these are words for silence, and not the agent's own."""
    wanted = verdict.kind == "stop" or now.language.only_waits(text)
    return wanted and verdict.scores["echo"] < overlap.ECHO_LIKENESS


def _overlap_s(now: Step) -> float:
    """When the overlap began: with the utterance, unless that has held the reply for nothing before."""
    user, in_vain_s = now.state.user, max(now.state.agent.in_vain_s, default=-1.0)
    if in_vain_s < user.onset_s:
        return user.onset_s
    return user.run_since_s if in_vain_s < user.run_since_s else now.t_s


def _known(now: Step, text: str, *, final: bool) -> overlap.Overlap:
    user, agent = now.state.user, now.state.agent
    asked = any(clause.asks and clause.first < agent.words < clause.end + ANSWER_WORDS for clause in agent.clauses)
    return overlap.Overlap(
        text=text,
        final=final,
        speech_ms=_speech_ms(now),
        question=asked,
        said=tuple(word for at_s, word in now.state.said if at_s >= user.onset_s - agent_region.SAID_S),
    )


def _speech_ms(now: Step) -> float:
    user = now.state.user
    running_s = max(0.0, now.t_s - user.run_since_s) if user.talking else 0.0
    return (user.spoken_s + running_s) * 1000


def release(now: Step, verdict: overlap.Verdict) -> None:
    """The overlap was nothing: take back what was done to the reply."""
    agent = now.state.agent
    if agent.phase is not AgentPhase.HELD or agent.verdict is not None:
        return
    now.disarm("verdict")
    _announce(now, verdict, agent.overlap_s)
    if agent.finished:
        agent_region.close(now)
        return
    silent = agent.audible_s is None
    now.agent(
        phase=AgentPhase.PREPARING if silent else AgentPhase.SPEAKING,
        held_words=None,
        in_vain_s=(*agent.in_vain_s, now.t_s)[-IN_VAIN_KEPT:],
    )
    now.ask(ask.Resume(branch=agent.branch))


def _announce(now: Step, verdict: overlap.Verdict, onset_s: float) -> None:
    now.announce(
        fact.OverlapJudged(
            branch=now.state.agent.branch,
            onset_s=onset_s,
            verdict=verdict.kind,
            reason=verdict.reason,
            scores=verdict.scores,
        )
    )
    if verdict.kind == "echo":
        echo_watch.strike(now)


def interrupt(now: Step, verdict: overlap.Verdict, overlap_s: float) -> None:
    """End the live reply, if there is one, as soon as it is known what was heard of it."""
    if not now.state.agent.live:
        return
    now.disarm("verdict")
    if now.state.agent.phase is not AgentPhase.HELD:
        agent_region.hold(now, overlap_s)
    if now.state.agent.verdict is None:
        now.agent(verdict=verdict)
    settle(now)


def gate_shut(now: Step, event: fact.OutputHeld) -> None:
    """The loudspeaker is silent and tells how much was heard."""
    agent = now.state.agent
    if event.branch == agent.branch and agent.phase is AgentPhase.HELD:
        now.agent(held_words=event.words, words=event.words)
        settle(now)


def settle(now: Step) -> None:
    """Carry out a judged interruption once the loudspeaker has told how many words were heard."""
    agent = now.state.agent
    if agent.verdict is None or agent.held_words is None:
        return
    _announce(now, agent.verdict, agent.overlap_s)
    collision = _collision(now, agent.held_words) if agent.verdict.kind == "turn" else None
    if agent.finished:
        agent_region.close(now)
    elif collision is not None:
        agent_region.reopen(now, collision)
    else:
        agent_region.cut_off(now, agent.held_words)


def _collision(now: Step, words: int) -> str | None:
    """Why the user did not interrupt the live reply but only went on; None: they did interrupt."""
    agent, turns = now.state.agent, now.turns
    if len(agent.turn.text) > REOPENED_CHARS:
        return None
    if words < turns.collision_words:
        return f"words of the reply that were heard: {words}"
    after_ms = math.inf if agent.audible_s is None else (agent.overlap_s - agent.audible_s) * 1000
    if after_ms >= turns.collision_ms:
        return None
    return f"the user went on {after_ms:.0f} ms after it had begun" if after_ms >= 0 else "the user had gone on before"
