"""Random traces: whatever the ports send, in whatever order, the conversation stays one that a person can go on with.

Each promise is also broken on purpose, to see that its check fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import agent_region, barge_in, pauses, stuck, turns, user_region, wishes
from app import effects as ask
from app import events as fact
from app.language import words_of
from app.rules import Rules
from app.state import Agent, AgentPhase, State, Turn, UserPhase
from app.step import Step
from tests.unit.turns_world import ACTIONS, RULES, TEXTS, Action, World

actions = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.floats(0.0, 1.5, allow_subnormal=False), st.integers(0, 99)), max_size=80
)
OF_A_REPLY = (ask.Duck, ask.Unduck, ask.Hold, ask.Resume, ask.Yield, ask.Abandon, ask.CloseReply)


def no_sound_into_speech(before: State, event: fact.Event, after: State, effects: list[ask.Effect]) -> None:
    """I2: neither a reply nor its sound starts while the user speaks, unless what they speak has brought no words."""
    opens = isinstance(event, fact.GoOnPressed) or (isinstance(event, fact.TimerFired) and event.name == "verdict")
    wordless = not words_of(after.user.partial)
    if after.user.phase is UserPhase.SPEAKING and not (opens and wordless):
        assert not [e for e in effects if isinstance(e, ask.Resume | ask.StartReply)]


class OneReplyAtATime:
    """Replies end once each, in order, and nothing is asked of one that has ended."""

    def __init__(self) -> None:
        self.live = 0
        self.newest = 0

    def __call__(self, before: State, event: fact.Event, after: State, effects: list[ask.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, ask.StartReply):
                assert self.live == 0, "at most one reply is live"
                assert effect.branch > self.newest, "each reply is a branch of its own"
                self.live = self.newest = effect.branch
            elif isinstance(effect, OF_A_REPLY):
                assert effect.branch == self.live, f"{effect} names a dead branch"
                if isinstance(effect, ask.Yield | ask.Abandon | ask.CloseReply):
                    self.live = 0
        assert self.live == (after.agent.branch if after.agent.live else 0)


def at_rest(state: State) -> bool:
    return (
        state.user.phase is UserPhase.SILENT
        and state.agent.phase is AgentPhase.IDLE
        and state.wish is None
        and state.user.reopened is None
    )


def world(**changes: object) -> World:
    made = World(checks=[no_sound_into_speech, OneReplyAtATime()])
    return replace(made, **changes)  # pyright: ignore[reportArgumentType]  # fields of World


@settings(max_examples=300, deadline=None)
@given(actions)
def test_any_trace_comes_to_rest_when_all_is_answered(trace: list[Action]) -> None:
    comes_to_rest(world().play(trace))


def comes_to_rest(driver: World) -> None:
    """I7: silence and ports that answer bring every state to rest within 15 s of silence, and every timer ends."""
    driver.fall_silent()
    for _ in range(150):
        driver.until(driver.now_s + 0.1)
        driver.answer()
    assert at_rest(driver.state), driver.state
    for _ in range(800):  # a minute for the tail, five for the mode
        driver.until(driver.now_s + 0.5)
        driver.answer()
    assert driver.due() is None, driver.state.timers
    assert at_rest(driver.state)


@settings(max_examples=150, deadline=None)
@given(actions)
def test_any_trace_comes_to_rest_when_nothing_is_answered_any_more(trace: list[Action]) -> None:
    comes_unstuck(world().play(trace))


def comes_unstuck(driver: World) -> None:
    """The stuck guard alone brings every state to rest, whichever answers are lost."""
    driver.fall_silent()
    driver.until(driver.now_s + 120)
    assert at_rest(driver.state), driver.state


@settings(max_examples=100, deadline=None)
@given(actions)
def test_the_same_trace_is_decided_in_the_same_way(trace: list[Action]) -> None:
    same_twice(trace, world)


def same_twice(trace: list[Action], make: Callable[[], World]) -> None:
    first, second = make().play(trace), make().play(trace)
    assert first.asked == second.asked
    assert first.state == second.state


@settings(max_examples=300, deadline=None)
@given(actions)
def test_every_word_ends_in_one_turn_or_one_note(trace: list[Action]) -> None:
    accounts_for_words(trace, world())


def accounts_for_words(trace: list[Action], driver: World) -> None:
    """I3 for transcripts that all have words, each with a mark of its own."""

    def marked(number: int) -> list[fact.Event]:
        user = driver.state.user
        end = ("here.", "and", "wait")[number % 3]
        return driver.transcribed(f"Told u{user.utterance}r{user.request} {end}")

    for name, after_s, number in trace:
        driver.until(driver.now_s + after_s)
        for event in marked(number) if name == "final" else [] if name == "partial" else driver.event(name, number):
            driver.tell(event)
    driver.fall_silent()
    for _ in range(150):
        driver.until(driver.now_s + 0.1)
        if driver.state.user.phase is UserPhase.PAUSE and driver.state.user.text is None:
            for event in marked(0):
                driver.tell(event)
        driver.answer()

    facts = [e.fact for e in driver.asked if isinstance(e, ask.Announce)]
    reopened = {f.branch for f in facts if isinstance(f, fact.TurnReopened)}
    committed = [f for f in facts if isinstance(f, fact.TurnCommitted)]
    again = {e.branch for e in driver.asked if isinstance(e, ask.StartReply) and e.again}
    turns_kept = [f.text for f in committed if f.branch not in reopened]
    notes = [f.text for f in facts if isinstance(f, fact.UserNoted)]
    for text in driver.texts_of.values():
        mark = text.split()[1]
        places = [kept for kept in (*turns_kept, *notes) if mark in kept.split()]
        repeats = [f for f in committed if f.branch in again and mark in f.text.split()]
        assert places, f"{text!r} is lost"
        assert len(places) <= 1 + len(repeats), f"{text!r} is in {places}"


# ---- ten thousand events ----


def long_trace(seed: int, count: int) -> list[Action]:
    draw = np.random.default_rng(seed)
    names = draw.integers(0, len(ACTIONS), count)
    return [
        (ACTIONS[name], float(after_s), int(number))
        for name, after_s, number in zip(names, draw.exponential(0.3, count), draw.integers(0, 100, count), strict=True)
    ]


def stays_small(trace: list[Action]) -> None:
    """No part of the state grows with the length of the session."""
    driver = world()
    largest = 0
    for at, action in enumerate(trace):
        driver.play([action])
        driver.asked = driver.asked[-50:]
        if at % 50 == 0:
            largest = max(largest, len(repr(driver.state)))
    assert driver.state.branches > 100, "a trace in which nothing is said proves nothing"
    assert largest < 5_000, largest


def test_the_state_stays_small_over_ten_thousand_events() -> None:
    stays_small(long_trace(seed=4, count=10_000))


# ---- the checks, on reducers broken on purpose ----


def nothing(*_: object) -> None:
    """Does not do what it stands for."""


def fails(check: Callable[[], object]) -> None:
    with pytest.raises(AssertionError):
        check()


INTERRUPTED: list[Action] = [
    *[("start", 0.0, 0), ("stop", 1.0, 0), ("final", 0.2, 9)],
    *[("clause", 2.6, 0), ("play", 0.1, 0), *[("word", 0.3, n) for n in range(5)]],
    *[("start", 1.0, 0), ("held", 0.3, 0), ("partial", 0.1, 2), ("partial", 0.4, 9), ("partial", 0.4, 9)],
]
"""A turn, its reply, and speech over it: a murmur, then words."""


def test_the_trace_of_an_interruption_interrupts() -> None:
    driver = world().play(INTERRUPTED)
    assert driver.take(ask.Yield)
    comes_to_rest(driver)


def test_a_reply_that_goes_on_into_speech_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    good = barge_in.weigh

    def hasty(now: Step, text: str, *, final: bool) -> bool:
        user = now.state.user
        nothing = good(now, text, final=final or text == TEXTS[2])
        now.set(user=user)
        return nothing

    monkeypatch.setattr(barge_in, "weigh", hasty)
    fails(lambda: world().play(INTERRUPTED))


def test_an_effect_on_a_dead_branch_is_caught() -> None:
    def late(state: State, event: fact.Event, by: Rules) -> tuple[State, list[ask.Effect]]:
        after, effects = turns.step(state, event, by)
        dead = any(isinstance(e, ask.Yield) for e in effects)
        return after, [*effects, ask.Resume(branch=after.agent.branch)] if dead else effects

    fails(lambda: world(step=late).play(INTERRUPTED))


def test_a_second_reply_beside_the_first_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barge_in, "interrupt", nothing)
    fails(lambda: comes_to_rest(world(step=impatient).play([*INTERRUPTED[:3], ("type", 3.0, 0)])))


def impatient(state: State, event: fact.Event, by: Rules) -> tuple[State, list[ask.Effect]]:
    """Answers a typed line although a reply is live."""
    if isinstance(event, fact.TextTyped):
        state = replace(state, agent=Agent(branch=state.agent.branch))
    return turns.step(state, event, by)


def test_a_state_that_never_comes_to_rest_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_region, "waited", nothing)
    fails(lambda: comes_to_rest(world().play(INTERRUPTED[:3])))


def test_a_timer_that_never_ends_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def again(now: Step) -> None:
        now.arm("check_in", now.t_s + 5.0)

    monkeypatch.setattr(agent_region, "check_in", again)
    asking: list[Action] = [*INTERRUPTED[:4], ("clause", 0.1, 1), ("play", 0.1, 0), ("done", 2.0, 0)]
    fails(lambda: comes_to_rest(world().play(asking)))


@pytest.mark.parametrize("lost", ["text", "held", "reply", "move"])
def test_each_lost_answer_needs_the_stuck_guard(monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    traces: dict[str, list[Action]] = {
        "text": INTERRUPTED[:2],
        "held": [*INTERRUPTED[:9], ("stop_key", 0.1, 0)],
        "reply": INTERRUPTED[:4],
        "move": [*INTERRUPTED[:9], ("done", 0.1, 0), ("undo", 0.1, 0)],
    }
    comes_unstuck(world().play(traces[lost]))
    monkeypatch.setattr(stuck, "watch", nothing)
    fails(lambda: comes_unstuck(world().play(traces[lost])))


def test_a_decision_that_depends_on_more_than_its_arguments_is_caught() -> None:
    calls: list[int] = []

    def moody(state: State, event: fact.Event, by: Rules) -> tuple[State, list[ask.Effect]]:
        calls.append(1)
        times = msgspec.structs.replace(by.turns, probe_ms=100 + len(calls))
        return turns.step(state, event, by._replace(turns=times))

    fails(lambda: same_twice(INTERRUPTED, lambda: world(step=moody)))


def test_a_lost_word_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    typed_over: list[Action] = [*INTERRUPTED[:3], ("type", 0.0, 0)]
    accounts_for_words(typed_over, world())
    monkeypatch.setattr(Step, "note", nothing)
    fails(lambda: accounts_for_words(typed_over, world()))


def test_a_word_said_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    good = wishes.commit

    def stutter(now: Step, turn: Turn, reason: str, **how: object) -> None:
        now.note("dropped", turn.text, "too")
        good(now, turn, reason, **how)  # pyright: ignore[reportArgumentType]  # passed on as they came

    monkeypatch.setattr(wishes, "commit", stutter)
    fails(lambda: accounts_for_words(INTERRUPTED[:3], world()))


def test_a_state_that_grows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_region, "SAID_WORDS", 1_000_000)
    monkeypatch.setattr(agent_region, "SAID_S", 1e9)
    fails(lambda: stays_small(long_trace(seed=4, count=10_000)))


def test_the_floor_never_leaves_its_limits() -> None:
    driver = world(checks=[floor_in_limits])
    driver.play(long_trace(seed=5, count=3000))
    assert driver.state.floor_ms > 0


def floor_in_limits(before: State, event: fact.Event, after: State, effects: list[ask.Effect]) -> None:
    times = RULES.turns
    assert after.floor_ms == 0 or times.floor_least_ms <= after.floor_ms <= times.floor_most_ms


def test_a_floor_without_limits_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def move(now: Step, wanted_ms: float, reason: str) -> None:
        now.set(floor_ms=wanted_ms)

    monkeypatch.setattr(pauses, "_move", move)
    fails(lambda: world(checks=[floor_in_limits]).play(long_trace(seed=5, count=3000)))
