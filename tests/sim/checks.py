"""What must hold in every dialogue, checked on its event log and on what the model's state holds at the end."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

from app import events as ev
from app.replay.runner import Run
from app.replay.scripted import CUT, ScriptedBrain

# From when on the gate must be shut while the user speaks: hold after 200 ms of speech, which voice activity tells of
# late, and a block or two.
_NOTICED_S = 0.4
# A wait for the rest of a sentence, the recogniser, the model and the voice, with the simulation's jitter.
_LIVELY_S = 15.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A dialogue that was performed."""

    run: Run
    brain: ScriptedBrain

    def committed(self) -> dict[int, ev.TurnCommitted]:
        """The last commit of each turn that was not taken back."""
        turns: dict[int, ev.TurnCommitted] = {}
        for event in self.run.events:
            if isinstance(event, ev.TurnCommitted):
                turns[event.turn] = event
            elif isinstance(event, ev.TurnReopened):
                del turns[event.turn]
        return turns

    def replies(self) -> dict[int, ev.ReplyCommitted]:
        """What was heard, turn by turn."""
        return {event.turn: event for event in self.run.events if isinstance(event, ev.ReplyCommitted)}


def violations(outcome: Outcome) -> Iterator[str]:
    """What does not hold, in words that begin with the invariant's name."""
    yield from _state_is_what_was_heard(outcome)
    yield from _never_speaks_over_the_user(outcome)
    yield from _every_word_has_one_turn(outcome)
    yield from _words_are_heard_once(outcome)
    yield from _boundaries_are_let_go(outcome)
    yield from _lively(outcome)
    yield from _no_turn_without_words(outcome)


def _state_is_what_was_heard(outcome: Outcome) -> Iterator[str]:
    """I1: the text in the state is the text that was said and heard, to the word."""
    turns, replies = outcome.committed(), outcome.replies()
    wanted = [(turns[turn].text, replies[turn].heard) for turn in turns if turn in replies]
    said = outcome.brain.said
    got = [(user.text, agent.text.removesuffix(CUT)) for user, agent in zip(said[::2], said[1::2], strict=True)]
    if any(isinstance(event, ev.ContextTrimmed) for event in outcome.run.events):
        wanted = wanted[-len(got) :]
    if got != wanted:
        first = next((pair for pair in zip(got, wanted, strict=False) if pair[0] != pair[1]), (len(got), len(wanted)))
        yield f"I1: in the state stands {first[0]}, heard was {first[1]}"
    heard: dict[int, int] = {}
    for event in outcome.run.events:
        if isinstance(event, ev.WordHeard | ev.OutputHeld | ev.OutputResumed):
            heard[event.branch] = event.words
        elif isinstance(event, ev.ReplyCommitted) and heard.get(event.branch, 0) != event.words:
            yield f"I1: turn {event.turn} commits {event.words} words, {heard.get(event.branch, 0)} were heard"


def _never_speaks_over_the_user(outcome: Outcome) -> Iterator[str]:
    """I2: the gate does not open while the user speaks."""
    speech = sorted((s.start_s, s.end_s) for s in outcome.run.director.sounds if s.line.is_speech)
    for event in outcome.run.events:
        if isinstance(event, ev.PlayoutStarted | ev.OutputResumed):
            before = bisect.bisect(speech, (event.at_s, event.at_s)) - 1
            if before >= 0 and speech[before][0] + _NOTICED_S < event.at_s < speech[before][1]:
                yield f"I2: {type(event).__name__} at {event.at_s} in speech from {speech[before]}"


def _every_word_has_one_turn(outcome: Outcome) -> Iterator[str]:
    """I3: each word of the user is in exactly one turn, in order."""
    sounds = sorted(outcome.run.director.sounds, key=lambda sound: sound.start_s)
    said = [word for s in sounds if s.line.is_speech for word in (s.line.hears or s.line.say or "").split()]
    got = [word for _, turn in sorted(outcome.committed().items()) for word in turn.text.split()]
    if said != got:
        at = next((i for i, (a, b) in enumerate(zip(said, got, strict=False)) if a != b), min(len(said), len(got)))
        yield f"I3: said …{said[max(0, at - 3) : at + 4]}, turns have …{got[max(0, at - 3) : at + 4]}"


def _words_are_heard_once(outcome: Outcome) -> Iterator[str]:
    """I4: each word of a reply is counted once, in order, whatever stops it in between."""
    words: dict[int, int] = {}
    for event in outcome.run.events:
        if isinstance(event, ev.OutputResumed) and event.words != words.get(event.branch, 0):
            yield f"I4: held after {words[event.branch]} words, resumed after {event.words}"
        if isinstance(event, ev.WordHeard) and event.words != words.get(event.branch, 0) + 1:
            yield f"I4: word {event.words} is heard after word {words.get(event.branch, 0)}"
        if isinstance(event, ev.WordHeard | ev.OutputHeld | ev.OutputResumed):
            words[event.branch] = event.words


def _boundaries_are_let_go(outcome: Outcome) -> Iterator[str]:
    """I6: what stands at the end is the persona and the boundary after each turn, in tree and brain alike."""
    names = [boundary.name for boundary in outcome.run.session.tree.live]
    if len(names) != outcome.brain.live_boundaries:
        yield f"I6: {len(names)} boundaries in the tree, {outcome.brain.live_boundaries} in the brain"
    if any(not name.startswith("A") for name in names):
        yield f"I6: boundaries left over: {names}"


def _lively(outcome: Outcome) -> Iterator[str]:
    """I7: every cue comes, the dialogue ends, and no turn waits for its reply's first sound for long."""
    director = outcome.run.director
    if director.hung or director.unspoken:
        yield f"I7: hung: {director.hung}, never came: {[line.name for line in director.unspoken]}"
    waiting: dict[int, float] = {}
    for event in outcome.run.events:
        if isinstance(event, ev.TurnCommitted):
            waiting[event.branch] = event.t_s
        elif isinstance(event, ev.PlayoutStarted | ev.TurnReopened):
            since_s = waiting.pop(event.branch, event.t_s)
            if event.t_s - since_s > _LIVELY_S:
                yield f"I7: {event.t_s - since_s:.1f} s from commit to {type(event).__name__}"
    if waiting:
        yield f"I7: no sound came of branches {sorted(waiting)}"


def _no_turn_without_words(outcome: Outcome) -> Iterator[str]:
    """I9: no turn out of nothing."""
    for turn in outcome.committed().values():
        if not turn.text.strip() or turn.speech_end_s <= turn.speech_start_s:
            yield f"I9: turn {turn.turn} of {turn.text!r} from {turn.speech_start_s} to {turn.speech_end_s}"
