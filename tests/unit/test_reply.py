"""A reply by itself: what is left of it after some words, and how it ends."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import events as fact
from app.chunker import Clause, speakable
from app.errors import MachineError
from app.reply import WAITING_CLAUSES, Part, Reply, Sound
from tests.unit.hand_parts import HandMouth, settle

word = st.text(st.sampled_from("aé.*,"), min_size=1, max_size=3)
texts = st.lists(st.lists(word, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=5)


def parts_of(written: list[str]) -> list[Part]:
    """Clauses as a model writes them; every second has sound, from its second word on in an earlier branch."""
    clauses = [Clause(text if at == 0 else f" {text}", speakable(text)) for at, text in enumerate(written)]
    return [Part(clause, Sound(9, at, 1) if at % 2 else None) for at, clause in enumerate(clauses)]


@given(texts, st.data())
def test_what_is_left_is_the_other_words(written: list[str], data: st.DataObject) -> None:
    reply = Reply(1, 1, parts_of(written), complete=True)
    whole = "".join(reply.texts)
    heard = data.draw(st.integers(0, len(whole.split())))
    tail = reply.rest(heard)
    assert tail.text.split() == whole.split()[heard:]
    assert whole.endswith(tail.text), "as the model wrote it"
    assert not tail.text.startswith(" ")
    assert " ".join(part.clause.spoken for part in tail.parts).split() == speakable(whole).split()[heard:]
    for clause, _ in tail.parts:
        assert len(clause.text.split()) == len(clause.spoken.split()), "they stay one for one"
    for _, sound in tail.parts:
        if sound:
            before = len("".join(reply.texts[: sound.clause]).split())
            assert sound == Sound(9, sound.clause, 1 + max(0, heard - before))
    assert tail.sources == ({9} if any(sound for _, sound in tail.parts) else set())
    again = Reply(2, 2, tail.parts, complete=tail.complete).rest(len(tail.text.split()))
    assert (again.parts, again.complete) == ((), True)


def spoken(reply: Reply, mouth: HandMouth, act: list[str]) -> list[fact.Event]:
    """Let a reply be spoken, do to it what `act` says, and wait until the voice has no more to do."""
    told: list[fact.Event] = []

    async def main() -> None:
        mouth.begin(reply.branch)
        speaking = asyncio.create_task(reply.speak(mouth, told.append))
        await settle()
        for verb in act:
            getattr(reply, verb)()
        mouth.voice.set()
        await asyncio.wait_for(speaking, 1)

    asyncio.run(main())
    return told


def test_a_reply_that_dies_with_many_clauses_waiting_lets_its_voice_go() -> None:
    known = [Part(Clause(f" word{number}", f"word{number}")) for number in range(3 * WAITING_CLAUSES)]
    mouth = HandMouth()
    mouth.voice.clear()
    told = spoken(Reply(1, 1, known), mouth, ["die", "die"])
    assert mouth.said == ["word0"], "it was in work"
    assert told == [fact.DeadBranchDropped(branch=1, what="clause 0")]
    assert mouth.calls == [], "a dead reply is not finished"


def test_what_is_no_fault_of_the_machine_is_not_told_as_one() -> None:
    reply, told = Reply(1, 1), list[fact.Event]()
    with pytest.raises(ZeroDivisionError):
        reply.fail(ZeroDivisionError("a bug"), told.append)
    assert (told, reply.dead) == ([], False)
    reply.fail(MachineError("no voice", "the model is damaged", "fetch it again"), told.append)
    assert told == [
        fact.ReplyFailed(branch=1, what="no voice", why="the model is damaged", fix="fetch it again"),
    ]
    assert reply.dead
