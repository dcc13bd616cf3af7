"""What must hold in every dialogue, checked on its event log and on what the model's state holds at the end.

The invariants are those of the design (I1 to I9). Words of the user and of the replies that end in a number are said
once in a dialogue, so that where they are found says what became of them.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from app import events as ev
from app.replay.lineage import Lineage
from app.replay.moments import UserSound
from app.replay.runner import Run
from app.replay.scripted import CUT, ScriptedBrain
from app.work import SILENCE

# From when on the gate must be shut while the user speaks: at once before a reply has begun, else after 600 ms of it
# while the echo canceller learns. Voice activity tells of speech late, and the loudspeaker is a block or two behind.
_BEGUN_S, _NOTICED_S = 0.25, 0.8
# How far the edges of what the microphone missed may be from where the log has them.
_EDGE_S = 0.5
# How long after a word its transcript may come.
_LATE_S = 0.7
# No region may stand still for longer.
_LIVELY_S = 15.5
_NUMBERED = re.compile(r"[a-z]+\d+", re.IGNORECASE)

Span = tuple[float, float]


@dataclass(frozen=True)
class Outcome:
    """A dialogue that was performed."""

    run: Run
    brain: ScriptedBrain

    @property
    def events(self) -> list[ev.Event]:
        return self.run.events

    @cached_property
    def lineage(self) -> Lineage:
        """Which turns stand at the end."""
        lineage = Lineage()
        for event in self.events:
            lineage.feed(event)
        return lineage

    @cached_property
    def commits(self) -> dict[int, ev.TurnCommitted | ev.CheckedIn]:
        """Branch to the turn that it answers."""
        return {event.branch: event for event in self.events if isinstance(event, ev.TurnCommitted | ev.CheckedIn)}

    @cached_property
    def replies(self) -> dict[int, ev.ReplyCommitted]:
        """Branch to what was heard of it."""
        return {event.branch: event for event in self.events if isinstance(event, ev.ReplyCommitted)}

    @cached_property
    def deaf(self) -> list[Span]:
        """When the microphone may have missed something: it was shut, gone, or lost frames."""
        spans = [(fault.start_s - _EDGE_S, fault.end_s + _EDGE_S) for fault in self.run.director.faults]
        return [*spans, *_shut(self.events), *_let_go(self.events)]

    def missed(self, sound: UserSound) -> bool:
        """Whether the microphone may not have got all of it, or the user let it be known that it does not count."""
        return any(begin_s < sound.end_s and sound.start_s < end_s for begin_s, end_s in self.deaf)

    def taken(self, sound: UserSound) -> list[str]:
        """Words of a sound that had not been told yet when a key or a typed turn took the word."""
        words = (sound.line.say or "").split()
        step_s = (sound.end_s - sound.start_s) / max(1, len(words))
        ends = [sound.start_s + number * step_s for number in range(1, len(words) + 1)]
        keys = ev.TextTyped | ev.GoOnPressed | ev.UndoPressed | ev.RegeneratePressed | ev.BranchChosen
        gaps: list[Span] = []
        told_s = 0.0
        for event in self.events:
            if isinstance(event, ev.PartialTranscribed):
                told_s = event.t_s
            elif isinstance(event, keys):
                gaps.append((told_s - _LATE_S, event.t_s + _LATE_S))
        return [
            word.strip(",.")
            for word, end_s in zip(words, ends, strict=True)
            if any(from_s < end_s < until_s for from_s, until_s in gaps)
        ]


def _shut(events: Sequence[ev.Event]) -> Iterator[Span]:
    """When the mode kept the microphone shut, and a little more."""
    mode, key_down, sounding, since_s = "duplex", False, False, None
    for event in events:
        match event:
            case ev.SessionOpened():
                mode = event.settings["mode"]
            case ev.ModeChanged():
                mode = event.mode
            case ev.TalkPressed() | ev.TalkReleased():
                key_down = isinstance(event, ev.TalkPressed)
            case ev.PlayoutStarted() | ev.OutputResumed():
                sounding = True
            case ev.OutputHeld() | ev.PlayoutFinished() | ev.ReplyCommitted():
                sounding = False
            case _:
                pass
        shut = (mode == "half" and sounding) or (mode == "ptt" and not key_down)
        if shut and since_s is None:
            since_s = event.t_s - _EDGE_S
        elif not shut and since_s is not None:
            yield since_s, event.t_s + _EDGE_S
            since_s = None
    if since_s is not None:
        yield since_s, events[-1].t_s


def _let_go(events: Sequence[ev.Event]) -> Iterator[Span]:
    """From a key that says that the word is given away until the user falls silent."""
    since_s: float | None = None
    for event in events:
        talked_on = isinstance(event, ev.UserNoted) and event.reason == "the go on key"
        if (isinstance(event, ev.TalkReleased) or talked_on) and since_s is None:
            since_s = event.t_s - _LATE_S
        elif isinstance(event, ev.SpeechStarted | ev.SpeechStopped | ev.SessionClosed) and since_s is not None:
            yield since_s, event.t_s
            since_s = None


def violations(outcome: Outcome) -> Iterator[str]:
    """What does not hold, in words that begin with the invariant's name."""
    yield from _state_is_what_was_heard(outcome)
    yield from _never_speaks_over_the_user(outcome)
    yield from _every_word_has_one_place(outcome)
    yield from _words_are_heard_once(outcome)
    yield from _what_was_cut_off_goes_on(outcome)
    yield from _the_dead_are_silent(outcome)
    yield from _boundaries_are_let_go(outcome)
    yield from _lively(outcome)
    yield from _no_turn_without_words(outcome)


def _state_is_what_was_heard(outcome: Outcome) -> Iterator[str]:
    """I1: the text in the state is the text that was said and heard, to the word, along the turns that stand."""
    yield from _kept_by_the_policy(outcome)
    wanted: list[tuple[str, str]] = []
    for branch in outcome.lineage.turns.values():
        commit, reply = outcome.commits[branch], outcome.replies.get(branch)
        if reply:
            text = commit.text if isinstance(commit, ev.TurnCommitted) else SILENCE
            wanted.append((text, reply.heard if reply.kept is None else reply.kept))
    said = [turn for turn in outcome.brain.said if turn.role != "note"]
    got = [(user.text, agent.text.removesuffix(CUT).strip()) for user, agent in zip(said[::2], said[1::2], strict=True)]
    if any(isinstance(event, ev.ContextTrimmed) for event in outcome.events):
        wanted = wanted[max(0, len(wanted) - len(got)) :]
    if got != wanted:
        first = next((pair for pair in zip(got, wanted, strict=False) if pair[0] != pair[1]), (len(got), len(wanted)))
        yield f"I1: in the state stands {first[0]}, heard was {first[1]}"
    heard: dict[int, list[str]] = {}
    for event in outcome.events:
        if isinstance(event, ev.WordHeard):
            heard.setdefault(event.branch, []).append(event.text)
        elif isinstance(event, ev.ReplyCommitted) and heard.get(event.branch, []) != event.heard.split():
            yield f"I1: turn {event.turn} commits {event.heard!r}, heard was {heard.get(event.branch)}"


def _kept_by_the_policy(outcome: Outcome) -> Iterator[str]:
    """I1: what the state keeps of a reply is what the configuration says."""
    opened = outcome.events[0]
    assert isinstance(opened, ev.SessionOpened), "a log begins so"
    policy = opened.settings["turns"]["keep"]
    for reply in outcome.replies.values():
        kept, heard = reply.kept, reply.heard
        holds = {
            "heard": kept is None,
            "sentence": kept is None or (heard.startswith(kept) and kept[-1:] in (".", "?", "")),
            "none": kept is None or kept == "",
            "all": kept is None or kept.startswith(heard),
        }
        if not holds[policy]:
            yield f"I1: of {heard!r} is kept {kept!r}, and the policy is {policy}"


def _never_speaks_over_the_user(outcome: Outcome) -> Iterator[str]:
    """I2: the gate does not open while the user speaks."""
    heard = [s for s in outcome.run.director.sounds if s.line.is_speech and not outcome.missed(s)]
    speech = sorted((sound.start_s, sound.end_s) for sound in heard)
    words_known = wordless = False
    for event in outcome.events:
        if isinstance(event, ev.SpeechStarted | ev.PartialTranscribed | ev.UserNoted):
            words_known = isinstance(event, ev.PartialTranscribed)
        elif isinstance(event, ev.OverlapJudged | ev.TurnCommitted):
            # Speech of which no word comes for long is noise, as far as anybody can tell.
            wordless = isinstance(event, ev.OverlapJudged) and not words_known
        if isinstance(event, ev.PlayoutStarted | ev.OutputResumed) and not wordless:
            before = bisect.bisect(speech, (event.at_s, event.at_s)) - 1
            late_s = _BEGUN_S if isinstance(event, ev.PlayoutStarted) else _NOTICED_S
            if before >= 0 and speech[before][0] + late_s < event.at_s < speech[before][1]:
                yield f"I2: {type(event).__name__} at {event.at_s} in speech from {speech[before]}"


def _every_word_has_one_place(outcome: Outcome) -> Iterator[str]:
    """I3: each word of the user is in one turn that stands or one note, or in a turn that was abandoned; in order."""
    said = [word for sound in outcome.run.director.sounds for word in _NUMBERED.findall(sound.line.say or "")]
    lineage = Lineage()
    asked_again = False
    reopened = {event.branch for event in outcome.events if isinstance(event, ev.TurnReopened)}
    places: list[tuple[float, list[str]]] = []
    """Words that are in one text, each with when it was told."""
    standing: list[str] = []
    for event in outcome.events:
        if isinstance(event, ev.UserNoted):
            places.append((event.t_s, _NUMBERED.findall(event.text)))
            standing += places[-1][1]
        elif isinstance(event, ev.TurnCommitted):
            if event.branch not in reopened:
                places.append((event.t_s, _NUMBERED.findall(event.text)))
            if event.turn in lineage.turns and not asked_again:
                yield f"I3: turn {event.turn} is committed, and stands already"
            if outcome.lineage.turns.get(event.turn) == event.branch:
                standing += _NUMBERED.findall(event.text)
            asked_again = False
        elif isinstance(event, ev.CommandTaken):
            asked_again = event.command == "regenerate"
        lineage.feed(event)
    found = {word for _, words in places for word in words}
    twice = {word: count for word, count in Counter(standing).items() if count > 1 and word in said}
    if twice:
        yield f"I3: words that stand in several places: {twice}"
    given_up = [
        event.t_s for event in outcome.events if isinstance(event, ev.StuckRecovered) and event.region == "user"
    ]
    for sound in outcome.run.director.sounds:
        if sound.line.is_speech and not outcome.missed(sound):
            words = _NUMBERED.findall(sound.line.say or "")
            lost = [word for word in words if word not in found and word not in outcome.taken(sound)]
            if lost and not any(sound.start_s < at_s < sound.end_s + _LIVELY_S for at_s in given_up):
                yield f"I3: said from {sound.start_s} on, and in no turn and no note: {' '.join(lost)}"
    order = {word: place for place, word in enumerate(said)}
    for at_s, words in places:
        spoken = [order[word] for word in words if word in order]
        if spoken != sorted(spoken):
            yield f"I3: at {at_s} in another order than they were said: {' '.join(words)}"


def _words_are_heard_once(outcome: Outcome) -> Iterator[str]:
    """I4: each word of a reply is counted once, in order, whatever stops it in between."""
    words: dict[int, int] = {}
    for event in outcome.events:
        if isinstance(event, ev.OutputResumed) and event.words != words.get(event.branch, 0):
            yield f"I4: held after {words.get(event.branch)} words, resumed after {event.words}"
        if isinstance(event, ev.WordHeard) and event.words != words.get(event.branch, 0) + 1:
            yield f"I4: word {event.words} is heard after word {words.get(event.branch, 0)}"
        if isinstance(event, ev.WordHeard | ev.OutputHeld | ev.OutputResumed):
            words[event.branch] = event.words


def _what_was_cut_off_goes_on(outcome: Outcome) -> Iterator[str]:
    """I4: what was heard and what is kept of a reply is all of it, and "go on" plays on from the very word."""
    written: dict[int, str] = {}
    tails: list[ev.TailKept] = []
    going_on: dict[int, list[ev.TailKept]] = {}
    """Branch to what it may begin with."""
    asked = False
    for event in outcome.events:
        match event:
            case ev.ClauseDecoded():
                written[event.branch] = written.get(event.branch, "") + event.text
            case ev.TailKept():
                tails.append(event)
                heard = outcome.replies[event.branch].heard.split()
                # Of what is said without asking the model, some may not have been read by it yet.
                known = [source.text.split() for source in going_on.get(event.branch, [])]
                if heard + event.text.split() not in [written.get(event.branch, "").split(), *known]:
                    yield f"I4: of {written.get(event.branch)!r} was heard {heard}, and {event.text!r} is kept"
            case ev.TailForgotten():
                tails = [tail for tail in tails if tail.branch != event.branch]
            case ev.TurnCommitted() if asked:
                going_on[event.branch] = list(tails)
            case _:
                pass
        # Said or pressed while a reply is held, it only opens the gate.
        asked = isinstance(event, ev.CommandTaken) and event.command == "go_on"
    for branch, sources in going_on.items():
        if not any(_begins_with(written.get(branch, "").split(), source) for source in sources):
            yield f"I4: branch {branch} says {written.get(branch)!r}, kept were {[source.text for source in sources]}"
    yield from _numbered_words_once(outcome)


def _begins_with(said: list[str], source: ev.TailKept) -> bool:
    """Whether what was said is the rest of a reply, as far as it was said, and more only if there was more to come."""
    wanted = source.text.split()
    least = min(len(said), len(wanted))
    return said[:least] == wanted[:least] and (len(said) <= len(wanted) or not source.complete)


def _numbered_words_once(outcome: Outcome) -> Iterator[str]:
    """I4: along the turns that stand, no word of a reply is heard twice."""
    standing = [outcome.replies[b].heard for b in outcome.lineage.turns.values() if b in outcome.replies]
    counted = Counter(word.lower() for heard in standing for word in _NUMBERED.findall(heard))
    yield from (f"I4: {word} was heard {count} times" for word, count in counted.items() if count > 1)


def _the_dead_are_silent(outcome: Outcome) -> Iterator[str]:
    """I5: only the reply that was begun last is heard, until its end, and only turns that were committed are read."""
    newest, ended = 0, True
    texts: set[str] = {""}
    for event in outcome.events:
        match event:
            case ev.TurnCommitted() | ev.CheckedIn():
                newest, ended = event.branch, False
                texts.add(event.text if isinstance(event, ev.TurnCommitted) else "")
            case ev.TurnReopened() | ev.ReplyFailed() | ev.RolledBack():
                ended |= event.branch == newest and not (isinstance(event, ev.RolledBack) and event.boundary[0] == "U")
            case ev.ReplyCommitted():
                ended |= event.branch == newest
            case ev.OverlapJudged(verdict="turn" | "stop"):
                ended |= event.branch == newest
            case ev.BoundaryTaken() if event.name[0] == "U" and event.text not in texts:
                yield f"I5: {event.text!r} is in the state and was never committed"
            case ev.PlayoutStarted() | ev.WordHeard() | ev.OutputHeld() | ev.OutputResumed() | ev.PlayoutFinished():
                if event.branch != newest or ended:
                    yield f"I5: {type(event).__name__} of branch {event.branch} at {event.t_s}, which is over"
            case _:
                pass


def _boundaries_are_let_go(outcome: Outcome) -> Iterator[str]:
    """I6: the brain keeps the boundaries that are in the tree and no more, and none that nobody can go back to."""
    nodes = outcome.run.session.tree.nodes
    if len(nodes) != outcome.brain.live_boundaries:
        yield f"I6: {len(nodes)} boundaries in the tree, {outcome.brain.live_boundaries} in the brain"
    parents = {node.parent for node in nodes}
    left = [node.name for node in nodes if node.kind == "W" or (node.kind == "U" and node.serial not in parents)]
    if left:
        yield f"I6: boundaries left over: {left}"


def _lively(outcome: Outcome) -> Iterator[str]:
    """I7: every cue comes, the dialogue ends, and neither a reply nor a turn stands still for long."""
    director = outcome.run.director
    if director.hung or director.unspoken:
        yield f"I7: hung: {director.hung}, never came: {[line.name for line in director.unspoken]}"
    if outcome.run.session.state.wish:
        yield f"I7: never carried out: {outcome.run.session.state.wish}"
    live: ev.TurnCommitted | ev.CheckedIn | None = None
    moved_s, talking = 0.0, False
    for event in outcome.events:
        if live and not talking and event.t_s - moved_s > _LIVELY_S:
            yield f"I7: nothing came of branch {live.branch} from {moved_s} to {event.t_s}"
            live = None
        match event:
            case ev.SpeechStarted() | ev.SpeechStopped():
                talking, moved_s = isinstance(event, ev.SpeechStarted), event.t_s
            case ev.TurnCommitted() | ev.CheckedIn():
                live, moved_s = event, event.t_s
            case ev.ReplyCommitted() | ev.TurnReopened() | ev.RolledBack():
                live = None if live and live.branch == event.branch else live
            case ev.StuckRecovered() | ev.OverlapJudged(verdict="turn" | "stop"):
                live = None  # only the model's state has still to follow
            case ev.UserTurnAppended() | ev.WordHeard() | ev.ClauseSynthesised() | ev.OutputResumed():
                moved_s = event.t_s
            case _:
                pass


def _no_turn_without_words(outcome: Outcome) -> Iterator[str]:
    """I9: no turn out of nothing."""
    for event in outcome.events:
        if isinstance(event, ev.TurnCommitted):
            if not event.text.strip():
                yield f"I9: turn {event.turn} has no words"
            if event.speech_end_s < event.speech_start_s:
                yield f"I9: turn {event.turn} of {event.text!r} ends before it begins"
