"""The rest of a reply that was cut off: kept, asked for, cut off again, forgotten; and what the model keeps of it."""

from __future__ import annotations

import asyncio

import pytest

from app import events as fact
from app.config import Config, parse
from app.errors import MachineError
from tests.unit.hand_parts import Stage, played, settle

MOON = "Tell me about the moon."
LONG = "One| two| three| four,| five| six| seven| eight,| nine| ten| eleven| twelve."


def test_go_on_says_the_rest_from_the_very_word_and_makes_nothing_again() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.ask(MOON)
        await stage.stop(7)
        await stage.tell(fact.GoOnPressed())
        await stage.hear()

    played(scene(), stage)
    (tail,) = stage.of(fact.TailKept)
    assert (tail.branch, tail.turn, tail.text, tail.complete) == (1, 1, "is cold there.", True)
    assert stage.brain.text == f"P:<u>{MOON}</u>The moon is far away, and it—<u>Go on.</u>is cold there.;"
    assert stage.mouth.said == ["The moon is far away,", "and it is cold there.", "is cold there."]
    assert stage.mouth.rests == [(2, 1, 1, 2)], "the third word of the second clause, and no synthesis"
    assert len(stage.of(fact.FirstTokenDecoded)) == 1, "and no decoding"
    assert [e.heard for e in stage.of(fact.ReplyCommitted)] == ["The moon is far away, and it", "is cold there."]
    assert stage.mouth.kept == {}


def test_the_rest_sounds_while_the_model_still_reads_and_what_was_heard_of_it_counts() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.ask(MOON)
        await stage.stop(2)
        stage.brain.reading.clear()
        await stage.tell(fact.GoOnPressed())
        assert stage.mouth.said[-2:] == ["is far away,", "and it is cold there."]
        await stage.stop(4)
        assert "Go on." not in stage.brain.text
        stage.brain.reading.set()
        await settle()

    played(scene(), stage)
    assert stage.brain.text == f"P:<u>{MOON}</u>The moon—<u>Go on.</u>is far away, and—"
    assert [e.boundary for e in stage.of(fact.RolledBack)] == ["U1", "U2"]
    assert stage.of(fact.TailKept)[-1].text == "it is cold there."


def test_a_rest_that_is_cut_off_is_kept_again() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.ask(MOON)
        for heard, left in ((1, "moon is far away, and it is cold there."), (2, "far away, and it is cold there.")):
            await stage.stop(heard)
            assert stage.of(fact.TailKept)[-1].text == left
            await stage.tell(fact.GoOnPressed())
        await stage.stop(3)
        await stage.tell(fact.GoOnPressed())
        await stage.hear()

    played(scene(), stage)
    assert stage.mouth.rests == [(2, 1, 0, 1), (2, 1, 1, 0), (3, 2, 0, 2), (3, 2, 1, 0), (4, 3, 1, 1)]
    assert [e.heard for e in stage.of(fact.ReplyCommitted)] == ["The", "moon is", "far away, and", "it is cold there."]
    assert stage.brain.text.endswith("</u>far away, and—<u>Go on.</u>it is cold there.;")
    assert stage.mouth.kept == {}


def test_a_rest_whose_sound_was_not_made_yet_is_synthesised() -> None:
    stage = Stage(LONG)

    async def scene() -> None:
        stage.mouth.voice.clear()
        await stage.ask("Count.")
        await stage.stop(0)
        stage.mouth.voice.set()
        await stage.tell(fact.GoOnPressed())
        await stage.hear()

    played(scene(), stage)
    assert stage.mouth.rests == []
    assert [e.what for e in stage.of(fact.DeadBranchDropped)] == ["a token", "clause 0"]
    assert stage.of(fact.ReplyCommitted)[-1].heard == LONG.replace("|", "")


def test_the_model_goes_on_where_a_reply_was_not_complete() -> None:
    stage = Stage(LONG)
    stage.brain.gate = asyncio.Semaphore(9)

    async def scene() -> None:
        await stage.ask("Count.")
        await stage.stop(2)
        stage.brain.gate.release()
        await settle()
        assert stage.of(fact.TailKept)[-1].text == "three four,", "the token in work is no clause"
        assert not stage.of(fact.TailKept)[-1].complete
        stage.brain.gate = asyncio.Semaphore(100)
        await stage.tell(fact.GoOnPressed())
        await stage.hear()

    played(scene(), stage)
    assert (
        stage.brain.text
        == "P:<u>Count.</u>One two—<u>Go on.</u>three four, five six seven eight, nine ten eleven twelve.;"
    )
    heard = " ".join(e.heard for e in stage.of(fact.ReplyCommitted))
    assert heard == LONG.replace("|", ""), "each word was heard once"


def test_a_reply_that_begins_with_a_rest_has_clauses_of_both_kinds_to_keep() -> None:
    stage = Stage(LONG)
    stage.brain.gate = asyncio.Semaphore(5)

    async def scene() -> None:
        await stage.ask("Count.")
        await stage.stop(3)
        stage.brain.gate.release()
        await settle()
        stage.brain.gate = asyncio.Semaphore(100)
        await stage.tell(fact.GoOnPressed())
        await stage.stop(2)
        await stage.tell(fact.GoOnPressed())
        await stage.hear()

    played(scene(), stage)
    assert stage.mouth.rests[0] == (2, 1, 0, 3)
    assert stage.mouth.rests[1][:3] == (3, 2, 1), "what followed the rest was the second clause that branch 2 said"
    heard = " ".join(e.heard for e in stage.of(fact.ReplyCommitted))
    assert heard == LONG.replace("|", "")


def test_a_tail_is_forgotten_in_time_and_with_it_its_sound() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.ask(MOON)
        await stage.stop(2)
        assert list(stage.mouth.kept) == [1]
        await stage.clock.advance(61.0)
        assert stage.mouth.kept == {}
        await stage.tell(fact.GoOnPressed())

    played(scene(), stage)
    assert [e.branch for e in stage.of(fact.TailForgotten)] == [1]
    assert len(stage.of(fact.CommandRefused)) == 1


def test_one_tail_is_kept() -> None:
    stage = Stage()

    async def scene() -> None:
        for number in range(1, 6):
            await stage.ask(MOON)
            await stage.stop(2)
            assert list(stage.mouth.kept) == [number]

    played(scene(), stage)


@pytest.mark.parametrize(
    ("keep", "kept", "noted"),
    [
        ("heard", "One two. Three four", None),
        ("sentence", "One two.", "One two."),
        ("none", "", ""),
        ("all", "One two. Three four five. Six seven eight.", "One two. Three four five. Six seven eight."),
    ],
)
def test_what_the_model_keeps_of_a_reply_that_was_cut_off(keep: str, kept: str, noted: str | None) -> None:
    stage = Stage("One| two.| Three| four| five.| Six| seven| eight.", parse({"turns": {"keep": keep}}, "a test"))

    async def scene() -> None:
        await stage.ask("Count.")
        await stage.stop(4)

    played(scene(), stage)
    assert stage.brain.text == f"P:<u>Count.</u>{kept}—"
    (committed,) = stage.of(fact.ReplyCommitted)
    assert (committed.heard, committed.words, committed.kept) == ("One two. Three four", 4, noted)
    assert stage.of(fact.BoundaryTaken)[-1].text == kept
    assert stage.of(fact.TailKept)[-1].text == "five. Six seven eight.", "whatever the model keeps"


@pytest.mark.parametrize("keep", ["heard", "sentence", "none", "all"])
def test_a_reply_that_was_heard_whole_is_kept_whole(keep: str) -> None:
    stage = Stage("One| two.| Three", parse({"turns": {"keep": keep}}, "a test"))

    async def scene() -> None:
        await stage.ask("Count.")
        await stage.stop(3)

    played(scene(), stage)
    assert stage.brain.text == "P:<u>Count.</u>One two. Three—"
    assert [(e.interrupted, e.kept) for e in stage.of(fact.ReplyCommitted)] == [(False, None)]


def noted(config: Config, *, parrots_notes: bool) -> str:
    """The text in the state after a reply that was cut off and another that was not."""
    stage = Stage(config=config, parrots_notes=parrots_notes)

    async def scene() -> None:
        await stage.ask(MOON)
        await stage.stop(8)
        await stage.ask("And the sun?")
        await stage.hear()
        await stage.ask("Thanks.")
        await stage.hear()

    played(scene(), stage)
    return stage.brain.text


def test_the_model_is_told_once_where_it_was_cut_off_unless_it_parrots() -> None:
    text = noted(Config(), parrots_notes=False)
    assert "<u>(You were cut off after: is far away, and it is)And the sun?</u>" in text
    assert "<u>Thanks.</u>" in text, "after a whole reply there is nothing to tell"
    assert "cut off" not in noted(Config(), parrots_notes=True)
    assert "cut off" not in noted(parse({"turns": {"note": "off"}}, "a test"), parrots_notes=False)
    assert "cut off" in noted(parse({"turns": {"note": "on"}}, "a test"), parrots_notes=True)


def test_a_line_is_prepared_and_said_without_the_model() -> None:
    stage = Stage("Shall| I| go| on?")

    async def scene() -> None:
        await stage.ask(MOON)
        await stage.hear()
        assert stage.mouth.prepared == ["Are you still there?"]
        await stage.clock.advance(13.0)
        await stage.hear()

    played(scene(), stage)
    assert stage.mouth.said[-1] == "Are you still there?"
    assert stage.brain.text.endswith("</u>Shall I go on?;<u>…</u>Are you still there?;")
    assert [e.text for e in stage.of(fact.ReplyDecoded)] == ["Shall I go on?", "Are you still there?"]
    assert len(stage.of(fact.FirstTokenDecoded)) == 1


def test_a_voice_that_can_not_prepare_a_line_is_told_of_when_it_is_to_be_said() -> None:
    stage = Stage("Shall| I| go| on?")

    broken = MachineError("no voice", "the model is damaged", "fetch it again")

    async def prepare(text: str) -> None:
        raise broken

    async def say(branch: int, text: str) -> None:
        raise broken

    async def scene() -> None:
        stage.mouth.prepare = prepare
        await stage.ask(MOON)
        await stage.hear()
        assert not stage.of(fact.ReplyFailed)
        stage.mouth.say = say
        await stage.clock.advance(13.0)

    played(scene(), stage)
    assert [e.branch for e in stage.of(fact.ReplyFailed)] == [2]
