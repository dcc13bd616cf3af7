"""What the user does: speech and silence, transcripts, and how much silence ends the turn; the talk key."""

from __future__ import annotations

from collections.abc import Mapping

from app import barge_in, endpoint, overlap, pauses
from app import effects as ask
from app import events as fact
from app.language import words_of
from app.state import AgentPhase, User, UserPhase, Wait
from app.step import Step

# ---- voice activity ----


def speech_started(now: Step, at_s: float) -> None:
    """Voice activity rose."""
    user = now.state.user
    if user.talking:
        return
    now.user(talking=True, run_since_s=at_s)
    now.disarm("blip", "probe", "commit")
    match user.phase:
        case UserPhase.SILENT:
            _open_utterance(now, at_s, at_s - now.turns.preroll_ms / 1000)
        case UserPhase.ONSET:
            _arm_onset(now)
        case UserPhase.PAUSE:
            if words_of(user.partial):
                pauses.learn(now, at_s - user.silent_since_s)
            # The request is counted on, so that answers about the pause that is over are known as such.
            now.user(phase=UserPhase.SPEAKING, request=user.request + 1, text=None, due=False, key_ended=False)
            if now.state.agent.phase is AgentPhase.HELD:
                barge_in.await_words(now, at_s)
            else:
                # An overlap before this one was judged to be nothing, so this one has to last as long as any.
                barge_in.arm(now, at_s)
        case UserPhase.SPEAKING:
            pass


def keep_listening(now: Step) -> None:
    """If a key or a typed turn took the word from a user who talks on, what they say from now on counts too."""
    user = now.state.user
    if user.talking and user.phase is UserPhase.SILENT:
        _open_utterance(now, now.t_s, now.t_s)


def _open_utterance(now: Step, at_s: float, from_s: float) -> None:
    old, agent = now.state.user, now.state.agent
    opened = User(
        phase=UserPhase.SPEAKING if old.key_down else UserPhase.ONSET,
        utterance=old.utterance + 1,
        talking=True,
        onset_s=at_s,
        run_since_s=at_s,
        over_reply=agent.live and agent.verdict is None,
        request=old.request,
        key_down=old.key_down,
        reopened=old.reopened,
    )
    now.set(user=opened)
    now.ask(ask.StartUtterance(utterance=opened.utterance, from_s=from_s))
    if old.key_down:
        barge_in.arm(now, at_s)
    else:
        _arm_onset(now)


def _arm_onset(now: Step) -> None:
    """How much more speech until the onset counts as speech; short runs add up."""
    from_s = now.state.user.run_since_s - now.state.user.spoken_s
    if now.state.agent.live:
        now.arm("confirm", from_s + barge_in.hold_after_ms(now, from_s) / 1000)
        barge_in.arm(now, from_s)
    else:
        now.arm("confirm", from_s + now.turns.onset_confirm_ms / 1000)


def confirmed(now: Step) -> None:
    """It was long enough for speech."""
    now.user(phase=UserPhase.SPEAKING)
    barge_in.confirmed(now)


def blip(now: Step) -> None:
    """It was too short for speech."""
    now.end_utterance()
    barge_in.release(now, overlap.Verdict("noise", "too short for speech", {}))


def speech_stopped(now: Step, at_s: float) -> None:
    """Voice activity fell."""
    user = now.state.user
    if not user.talking:
        return
    spoken_s = user.spoken_s + max(0.0, at_s - user.run_since_s)
    now.user(talking=False, spoken_s=spoken_s, silent_since_s=at_s)
    barge_in.unduck(now)
    if user.phase is UserPhase.ONSET and not barge_in.worth_reading(now):
        now.arm("blip", at_s + now.turns.blip_silence_ms / 1000)
    elif user.phase in (UserPhase.ONSET, UserPhase.SPEAKING):
        now.user(phase=UserPhase.PAUSE, text=None)
        if not user.key_down:
            now.arm("probe", at_s + now.turns.probe_ms / 1000)


# ---- what was said ----


def probe(now: Step) -> None:
    """The silence is long enough to be worth asking what was said before it."""
    _ask_for_text(now, now.state.user.silent_since_s)


def _ask_for_text(now: Step, until_s: float) -> None:
    user = now.state.user
    request = user.request + 1
    now.user(request=request, text=None, acoustic={}, wait=None, asked_ahead=False)
    now.ask(ask.Transcribe(utterance=user.utterance, request=request, until_s=until_s))


def partial(now: Step, event: fact.PartialTranscribed) -> None:
    """What the user seems to be saying."""
    if event.utterance == now.state.user.utterance and now.state.user.phase is not UserPhase.SILENT:
        _heard(now, f"{event.stable} {event.unstable}".strip())


def final(now: Step, event: fact.FinalTranscribed) -> None:
    """What the user has said; if they have gone on since, it is a partial one like any other."""
    user = now.state.user
    if event.utterance != user.utterance or user.phase is UserPhase.SILENT:
        return
    if user.phase is UserPhase.PAUSE and event.request == user.request and user.text is None:
        said(now, event.text, event.acoustic)
    else:
        _heard(now, event.text)


def _heard(now: Step, text: str) -> None:
    now.user(partial=text)
    barge_in.weigh(now, text, final=False)


def said(now: Step, text: str, acoustic: Mapping[str, float]) -> None:
    """All that was said up to the pause is known: is it anything, and is the turn over?"""
    now.user(partial=text)
    if barge_in.weigh(now, text, final=True):
        return
    if not words_of(now.turn_text(text)):
        now.end_utterance()
        return
    now.user(text=text, acoustic=acoustic)
    if now.state.user.key_ended:
        now.user(wait=Wait(0, "the talk key came up", {}), due=True)
    else:
        _score_end(now, None)


def read_ahead(now: Step) -> None:
    """The agent is at rest: let the model read what was said, and tell what it thinks of its end."""
    user = now.state.user
    if user.text is not None and not user.asked_ahead:
        now.user(asked_ahead=True)
        text = endpoint.open_ended(now.turn_text(user.text))
        now.ask(ask.ReadAhead(utterance=user.utterance, request=user.request, text=text))


def was_read(now: Step, event: fact.UserTextRead) -> None:
    """The model has told how likely the turn ends there."""
    user = now.state.user
    current = event.utterance == user.utterance and event.request == user.request
    if current and user.phase is UserPhase.PAUSE and user.text is not None:
        _score_end(now, event.end_logprob)


def _score_end(now: Step, end_logprob: float | None) -> None:
    user, turns = now.state.user, now.turns
    assert user.text is not None, "asked only when the text is there"
    text = now.turn_text(user.text)
    score = endpoint.score(text, user.acoustic, end_logprob, now.language, now.weights)
    floor_ms = pauses.floor_ms(now)
    scores = {**score.scores, "floor_ms": round(floor_ms, 1)}
    if now.language.waits(text):
        wait = Wait(turns.wait_ms, "the user asks for time", scores)
    else:
        wait_ms = endpoint.wait_ms(score.probability, turns, floor_ms)
        if score.scores["full_stop"] and not score.scores["dangling"]:
            wait_ms = min(wait_ms, turns.sentence_ms)
        wait = Wait(wait_ms, score.reason, scores)
    now.announce(
        fact.EndScored(
            utterance=user.utterance,
            request=user.request,
            probability=score.probability,
            wait_ms=wait.silence_ms,
            reason=wait.reason,
            scores=wait.scores,
        )
    )
    now.user(wait=wait._replace(scores={"probability": score.probability, **scores}))
    now.arm("commit", user.silent_since_s + wait.silence_ms / 1000)


def waited(now: Step) -> None:
    """There was enough silence: the turn is over once the agent is at rest."""
    now.user(due=True)


def gave_up(now: Step) -> None:
    """The recogniser does not answer: what it made of the sound so far has to do."""
    user = now.state.user
    if words_of(user.partial):
        said(now, user.partial, {})
    else:
        now.end_utterance()
        barge_in.release(now, overlap.Verdict("noise", "the recogniser did not answer", {}))


# ---- the talk key ----


def talk_pressed(now: Step) -> None:
    """The user takes the word, and keeps it until the key comes up."""
    user = now.state.user
    if user.key_down:
        return
    now.disarm("blip", "probe", "commit", "duck", "confirm")
    now.user(key_down=True, request=user.request + 1, text=None, due=False, key_ended=False, over_reply=False)
    if user.phase is UserPhase.ONSET:
        now.user(phase=UserPhase.SPEAKING if user.talking else UserPhase.PAUSE)
    now.ask(ask.SetTalkKey(down=True))
    barge_in.interrupt(now, overlap.Verdict("turn", "the talk key", {}), now.t_s)


def talk_released(now: Step) -> None:
    """The turn is over as soon as it is known what was said."""
    user = now.state.user
    if not user.key_down:
        return
    now.user(key_down=False)
    now.ask(ask.SetTalkKey(down=False))
    if user.phase is not UserPhase.SILENT:
        speech_stopped(now, now.t_s)
        now.disarm("probe")
        now.user(phase=UserPhase.PAUSE, key_ended=True)
        _ask_for_text(now, now.t_s)
