"""The conversation's decisions: `step(state, event) -> (state, effects)`. No clock, no await, no I/O.

An overlap first ducks the reply, then shuts its gate; both can be taken back without a trace. Only words end a reply,
and what was heard of it until the gate shut is what stays in the model's state. If no word was heard, the reply never
was, and what the user says now continues the turn before.
"""

from __future__ import annotations

from dataclasses import replace

from app import effects as ask
from app import endpoint, overlap
from app import events as fact
from app.config import Turns
from app.state import Agent, AgentPhase, State, User, UserPhase

# How soon to look again for the loudspeaker's word count: one block of sound.
BLOCK_S = 0.02


class _Step:
    """One event being decided: collects effects and the state's changes."""

    def __init__(self, state: State, turns: Turns) -> None:
        self.state = state
        self.turns = turns
        self.effects: list[ask.Effect] = []

    def ask(self, *wanted: ask.Effect) -> None:
        self.effects.extend(wanted)

    def announce(self, what: fact.Event) -> None:
        self.effects.append(ask.Announce(fact=what))

    def user(self, **changes: object) -> None:
        self.state = replace(self.state, user=replace(self.state.user, **changes))  # pyright: ignore[reportArgumentType]  # field names are checked by replace itself

    def agent(self, **changes: object) -> None:
        self.state = replace(self.state, agent=replace(self.state.agent, **changes))  # pyright: ignore[reportArgumentType]  # field names are checked by replace itself

    def arm(self, name: str, at_s: float) -> None:
        serial = self.state.serial + 1
        self.state = replace(self.state, serial=serial, timers={**self.state.timers, name: serial})
        self.ask(ask.SetTimer(name=name, serial=serial, at_s=at_s))

    def disarm(self, *names: str) -> None:
        self.state = replace(self.state, timers={k: v for k, v in self.state.timers.items() if k not in names})


def step(state: State, event: fact.Event, turns: Turns) -> tuple[State, list[ask.Effect]]:
    """Decide what follows from an event.

    Args:
        state: The state before.
        event: What happened; its `t_s` is stamped.
        turns: The configured times.

    Returns:
        The state after, and what to do, in order.
    """
    now = _Step(state, turns)
    match event:
        case fact.SpeechStarted():
            _speech_started(now, event.at_s)
        case fact.SpeechStopped():
            _speech_stopped(now, event.at_s)
        case fact.PartialTranscribed():
            _partial(now, event)
        case fact.FinalTranscribed():
            _final(now, event)
        case fact.TimerFired():
            if state.timers.get(event.name) == event.serial:
                now.disarm(event.name)
                _timer(now, event)
        case fact.TextTyped():
            _typed(now, event)
        case fact.StopPressed():
            _interrupt(now, overlap.Verdict("stop", "the stop key"), event.t_s)
        case (
            fact.PlayoutStarted()
            | fact.WordHeard()
            | fact.OutputHeld()
            | fact.OutputResumed()
            | fact.PlayoutFinished()
            | fact.ReplyFailed()
        ):
            if event.branch == state.agent.branch and state.agent.phase is not AgentPhase.IDLE:
                _playout(now, event)
        case _:
            pass
    return now.state, now.effects


def _speech_started(now: _Step, at_s: float) -> None:
    user, turns = now.state.user, now.turns
    if user.talking:
        return
    now.user(talking=True, run_since_s=at_s)
    now.disarm("blip", "probe", "commit")
    match user.phase:
        case UserPhase.SILENT:
            utterance = user.utterance + 1
            now.state = replace(now.state, user=User(UserPhase.ONSET, utterance, True, at_s, at_s))
            now.ask(ask.StartUtterance(utterance=utterance, from_s=at_s - turns.preroll_ms / 1000))
            _arm_onset(now)
        case UserPhase.ONSET:
            _arm_onset(now)
        case UserPhase.PAUSE:
            now.user(phase=UserPhase.SPEAKING, text=None, request=user.request + 1)
            if now.state.agent.phase is AgentPhase.HELD:
                now.arm("wordless", at_s + turns.wordless_hold_ms / 1000)
            else:
                # An overlap before this one was judged to be nothing, so this one has to last as long as any.
                _arm_overlap(now, at_s)
        case UserPhase.SPEAKING:
            pass


def _arm_onset(now: _Step) -> None:
    """How much more speech until the onset counts as speech; short runs add up."""
    from_s = now.state.user.run_since_s - now.state.user.spoken_s
    if now.state.agent.phase is AgentPhase.IDLE:
        now.arm("confirm", from_s + now.turns.onset_confirm_ms / 1000)
    else:
        _arm_overlap(now, from_s)
        now.arm("confirm", from_s + now.turns.hold_after_ms / 1000)


def _arm_overlap(now: _Step, from_s: float) -> None:
    """How much more speech until the live reply, if there is one, is ducked and held."""
    agent = now.state.agent
    if agent.phase is AgentPhase.PREPARING:
        # Nothing was heard yet, so shutting the gate costs nothing, and a reply never starts into speech.
        _hold(now, from_s)
    elif agent.phase is AgentPhase.SPEAKING:
        now.arm("duck", from_s + now.turns.duck_after_ms / 1000)
        now.arm("confirm", from_s + now.turns.hold_after_ms / 1000)


def _speech_stopped(now: _Step, at_s: float) -> None:
    user, agent, turns = now.state.user, now.state.agent, now.turns
    if not user.talking:
        return
    now.user(talking=False, spoken_s=user.spoken_s + max(0.0, at_s - user.run_since_s), silent_since_s=at_s)
    now.disarm("duck", "confirm")
    if agent.phase is AgentPhase.DUCKED:
        now.agent(phase=AgentPhase.SPEAKING)
        now.ask(ask.Unduck(branch=agent.branch))
    if user.phase is UserPhase.ONSET:
        now.arm("blip", at_s + turns.blip_silence_ms / 1000)
    elif user.phase is UserPhase.SPEAKING:
        now.user(phase=UserPhase.PAUSE, text=None)
        now.disarm("wordless")
        now.arm("probe", at_s + turns.probe_ms / 1000)


def _partial(now: _Step, event: fact.PartialTranscribed) -> None:
    if event.utterance == now.state.user.utterance:
        _weigh(now, f"{event.stable} {event.unstable}".strip(), final=False)


def _final(now: _Step, event: fact.FinalTranscribed) -> None:
    if event.utterance != now.state.user.utterance or now.state.user.phase is UserPhase.SILENT:
        return
    current = event.request == now.state.user.request and now.state.user.phase is UserPhase.PAUSE
    _weigh(now, event.text, final=current)
    if not current:
        return
    text = _turn_text(now, event.text)
    if not endpoint.words_of(text):
        _forget_utterance(now)
        return
    now.user(text=event.text)
    user = now.state.user
    wait = endpoint.patience(text, now.turns, interrupting=user.interrupting)
    now.arm("commit", user.silent_since_s + wait.silence_ms / 1000)


def _turn_text(now: _Step, said: str) -> str:
    return f"{now.state.user.reopened} {said}".strip()


def _forget_utterance(now: _Step) -> None:
    now.user(phase=UserPhase.SILENT)
    now.ask(ask.EndUtterance(utterance=now.state.user.utterance))


def _commit(now: _Step, text: str, start_s: float, end_s: float, reason: str) -> None:
    turn, branch = now.state.turns + 1, now.state.branches + 1
    now.state = replace(now.state, turns=turn, branches=branch)
    now.announce(
        fact.TurnCommitted(
            turn=turn, branch=branch, text=text, speech_start_s=start_s, speech_end_s=end_s, reason=reason
        )
    )
    now.ask(ask.StartReply(branch=branch, turn=turn, text=text))
    now.state = replace(now.state, agent=Agent(AgentPhase.PREPARING, branch, turn, text, start_s))
    now.user(reopened="", turn_start_s=None, interrupting=False)


def _typed(now: _Step, event: fact.TextTyped) -> None:
    if not event.text.strip():
        return
    if now.state.user.phase is not UserPhase.SILENT:
        now.disarm("duck", "confirm", "blip", "probe", "commit", "wordless")
        _forget_utterance(now)
    waiting = now.state.typed
    text = event.text if waiting is None else f"{waiting.text} {event.text}"
    now.state = replace(now.state, typed=fact.TextTyped(t_s=event.t_s, text=text))
    _interrupt(now, overlap.Verdict("turn", "typed"), event.t_s)
    _commit_typed(now)


def _commit_typed(now: _Step) -> None:
    """Commit a typed turn as soon as no reply is live."""
    typed = now.state.typed
    if typed is not None and now.state.agent.phase is AgentPhase.IDLE:
        now.state = replace(now.state, typed=None)
        _commit(now, _turn_text(now, typed.text.strip()), typed.t_s, typed.t_s, "typed")


def _timer(now: _Step, event: fact.TimerFired) -> None:
    user, agent = now.state.user, now.state.agent
    match event.name:
        case "duck":
            if agent.phase is AgentPhase.SPEAKING:
                now.agent(phase=AgentPhase.DUCKED, overlap_s=user.onset_s)
                now.ask(ask.Duck(branch=agent.branch))
                now.announce(fact.OverlapStarted(branch=agent.branch, onset_s=user.onset_s))
        case "confirm":
            now.user(phase=UserPhase.SPEAKING)
            if agent.phase in (AgentPhase.PREPARING, AgentPhase.SPEAKING, AgentPhase.DUCKED):
                _hold(now, user.onset_s)
            if now.state.agent.phase is AgentPhase.HELD:
                now.arm("wordless", event.t_s + now.turns.wordless_hold_ms / 1000)
        case "blip":
            _forget_utterance(now)
            _release(now, overlap.Verdict("noise", "too short for speech"))
        case "probe":
            now.user(request=user.request + 1)
            now.ask(ask.Transcribe(utterance=user.utterance, request=user.request + 1, until_s=user.silent_since_s))
        case "commit":
            _end_turn(now, event)
        case "wordless":
            _release(now, overlap.judge_wordless(now.turns.wordless_hold_ms))
        case _:
            raise AssertionError(f"no such timer: {event.name}")


def _end_turn(now: _Step, event: fact.TimerFired) -> None:
    user = now.state.user
    if now.state.agent.phase is not AgentPhase.IDLE:
        # The loudspeaker has not yet told how much of the cut reply was heard; it will within a block or two.
        now.arm("commit", event.t_s + BLOCK_S)
        return
    assert user.text is not None, "the timer is armed when the text is known, and disarmed when the user goes on"
    text = _turn_text(now, user.text)
    wait = endpoint.patience(text, now.turns, interrupting=user.interrupting)
    start_s = user.onset_s if user.turn_start_s is None else user.turn_start_s
    _forget_utterance(now)
    _commit(now, text, start_s, user.silent_since_s, f"{wait.silence_ms} ms of silence: {wait.reason}")


def _hold(now: _Step, overlap_s: float) -> None:
    now.agent(phase=AgentPhase.HELD, held_words=None, overlap_s=overlap_s)
    now.ask(ask.Hold(branch=now.state.agent.branch))


def _weigh(now: _Step, text: str, *, final: bool) -> None:
    """Judge an overlap by new words, if there is one to judge."""
    agent, user = now.state.agent, now.state.user
    if agent.phase is AgentPhase.IDLE or user.phase not in (UserPhase.SPEAKING, UserPhase.PAUSE):
        return
    verdict = overlap.judge(text, final=final)
    if verdict is None:
        return
    if verdict.kind == "turn":
        now.disarm("wordless")
        now.user(interrupting=True)
        _interrupt(now, verdict, user.onset_s)
    else:
        _release(now, verdict)


def _release(now: _Step, verdict: overlap.Verdict) -> None:
    """The overlap was nothing: take back what was done to the reply."""
    agent = now.state.agent
    if agent.phase is not AgentPhase.HELD or agent.verdict is not None:
        return
    now.disarm("wordless")
    _announce_verdict(now, verdict)
    if agent.finished:
        _close(now)
        return
    now.agent(phase=AgentPhase.SPEAKING if agent.audible else AgentPhase.PREPARING, held_words=None)
    now.ask(ask.Resume(branch=agent.branch))


def _announce_verdict(now: _Step, verdict: overlap.Verdict) -> None:
    agent = now.state.agent
    now.announce(
        fact.OverlapJudged(branch=agent.branch, onset_s=agent.overlap_s, verdict=verdict.kind, reason=verdict.reason)
    )


def _interrupt(now: _Step, verdict: overlap.Verdict, overlap_s: float) -> None:
    """End the reply as soon as it is known what was heard of it."""
    if now.state.agent.phase is AgentPhase.IDLE:
        return
    if now.state.agent.phase is not AgentPhase.HELD:
        _hold(now, overlap_s)
    if now.state.agent.verdict is None:
        now.agent(verdict=verdict)
    _settle(now)


def _settle(now: _Step) -> None:
    """Carry out a judged interruption once the loudspeaker has told how many words were heard."""
    agent = now.state.agent
    if agent.verdict is None or agent.held_words is None:
        return
    _announce_verdict(now, agent.verdict)
    if agent.held_words == 0 and agent.verdict.kind == "turn":
        _reopen(now)
    else:
        _cut_off(now, agent.held_words)


def _reopen(now: _Step) -> None:
    """No word of the live reply was heard, and the user goes on: the reply never was, the turn before it goes on."""
    agent = now.state.agent
    now.ask(ask.Abandon(branch=agent.branch, turn=agent.turn))
    now.announce(fact.TurnReopened(turn=agent.turn, branch=agent.branch, reason="no word of the reply was heard"))
    now.state = replace(now.state, agent=Agent(branch=agent.branch), turns=agent.turn - 1)
    now.user(reopened=agent.turn_text, turn_start_s=agent.turn_start_s, interrupting=False)
    _commit_typed(now)


def _cut_off(now: _Step, words: int) -> None:
    """The live reply ends here, after `words` heard words."""
    agent = now.state.agent
    now.state = replace(now.state, agent=Agent(branch=agent.branch))
    now.ask(ask.Yield(branch=agent.branch, turn=agent.turn, words=words))
    _commit_typed(now)


def _close(now: _Step) -> None:
    """The live reply was heard to its end."""
    agent = now.state.agent
    now.disarm("duck")
    now.state = replace(now.state, agent=Agent(branch=agent.branch))
    now.ask(ask.CloseReply(branch=agent.branch, turn=agent.turn))
    _commit_typed(now)


Playout = (
    fact.PlayoutStarted
    | fact.WordHeard
    | fact.OutputHeld
    | fact.OutputResumed
    | fact.PlayoutFinished
    | fact.ReplyFailed
)


def _playout(now: _Step, event: Playout) -> None:
    agent = now.state.agent
    match event:
        case fact.PlayoutStarted():
            now.agent(audible=True)
            if agent.phase is AgentPhase.PREPARING:
                now.agent(phase=AgentPhase.SPEAKING)
        case fact.WordHeard():
            now.agent(words=event.words)
        case fact.OutputHeld():
            if agent.phase is AgentPhase.HELD:
                now.agent(held_words=event.words, words=event.words)
                _settle(now)
        case fact.OutputResumed():
            now.agent(words=event.words)
        case fact.PlayoutFinished():
            if agent.phase is AgentPhase.HELD:
                now.agent(finished=True)
            else:
                _close(now)
        case fact.ReplyFailed():
            _cut_off(now, agent.words)
