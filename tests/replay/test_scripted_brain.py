"""The scripted brain keeps to its port's word: what is in the state after each verb, and what is a misuse."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from app.errors import BacktalkError
from app.replay import virtual
from app.replay.scripted import Faults, Jitter, Said, ScriptedBrain, Times

STEADY = Jitter(0, 0.0)


def brain(*replies: str) -> ScriptedBrain:
    return ScriptedBrain(Times(), STEADY, [(reply,) for reply in replies])


async def written(one: ScriptedBrain, turn: int, *, again: bool = False) -> str:
    async with aclosing(one.reply(turn, again=again)) as pieces:
        return "".join([piece async for piece in pieces])


def test_a_rollback_to_a_clause_and_the_heard_tail_is_what_was_heard() -> None:
    async def main() -> ScriptedBrain:
        one = brain("The moon is far. It is cold there.")
        await one.open()
        await one.read_user("Tell me about the moon.")
        mark = None
        async with aclosing(one.reply(1)) as pieces:
            async for piece in pieces:
                if piece == " It":
                    mark = await one.mark_clause()
        assert mark is not None
        assert one.said == [
            Said("user", "Tell me about the moon."),
            Said("agent", "The moon is far. It is cold there."),
        ]
        report = await one.roll_back(mark.handle, " It is", cut=True)
        assert report.refed_tokens == 3
        return one

    assert virtual.run(main()).said == [
        Said("user", "Tell me about the moon."),
        Said("agent", "The moon is far. It is—"),
    ]


def test_a_piece_is_in_the_state_only_when_the_next_one_comes() -> None:
    async def main() -> str:
        one = brain("One two three.")
        await one.open()
        await one.read_user("Count.")
        async with aclosing(one.reply(1)) as pieces:
            async for piece in pieces:
                if piece == " two":
                    break
        return one.said[-1].text

    assert virtual.run(main()) == "One"


def test_moving_the_state_during_a_decode_is_caught() -> None:
    async def main() -> None:
        one = brain("One two three.")
        mark = await one.open()
        await one.read_user("Count.")
        async with aclosing(one.reply(1)) as pieces:
            await anext(pieces)
            await one.roll_back(mark.handle, "", cut=False)

    with pytest.raises(AssertionError, match="one caller at a time"):
        virtual.run(main())


def test_a_forgotten_boundary_is_gone() -> None:
    async def main() -> None:
        one = brain("One.")
        mark = await one.open()
        one.forget([mark.handle])
        await one.roll_back(mark.handle, "", cut=False)

    with pytest.raises(KeyError):
        virtual.run(main())


def test_what_was_read_ahead_is_not_read_again_and_leaves_nothing() -> None:
    async def main() -> tuple[ScriptedBrain, list[float], list[int]]:
        one, clock = brain("One."), virtual.VirtualClock()
        await one.open()
        before = one.live_boundaries
        read = [await one.read_ahead("Tell me about"), await one.read_ahead("Tell me about the moon.")]
        assert (one.live_boundaries, one.said) == (before, [])
        took_s: list[float] = []
        for text in ("Tell me about the moon.", "Something else entirely."):
            since_s = clock.now_s()
            mark = await one.read_user(text)
            took_s.append(clock.now_s() - since_s)
            await one.roll_back(1, "", cut=False)
            one.forget([mark.handle])
            await one.read_ahead("Something else")
            await one.roll_back(1, "", cut=False)
        return one, took_s, [ahead.tokens for ahead in read]

    one, took_s, tokens = virtual.run(main())
    assert took_s[0] == 0
    assert took_s[1] > 0, "a rollback drops what was read ahead"
    assert tokens[0] > tokens[1] > 0
    assert one.said == []


def test_the_model_expects_more_words_where_the_text_does() -> None:
    async def main() -> list[float | None]:
        one = ScriptedBrain(Times(), STEADY, [("One.",)], context_pieces=20)
        await one.open()
        return [(await one.read_ahead(text)).end_logprob for text in ("Tell me more.", "Tell me the", "word " * 30)]

    ends, goes_on, no_room = virtual.run(main())
    assert ends is not None
    assert goes_on is not None
    assert ends > goes_on
    assert no_room is None


def test_a_note_stands_before_the_turn_and_is_no_part_of_it() -> None:
    async def main() -> list[Said]:
        one = brain("One.")
        await one.open()
        await one.read_user("And now?", "(cut off)")
        await one.read_line("One.")
        await one.close_reply()
        return one.said

    assert virtual.run(main()) == [Said("note", "(cut off)"), Said("user", "And now?"), Said("agent", "One.")]


def test_a_reply_that_was_begun_goes_on_where_it_was() -> None:
    async def main() -> tuple[str, str]:
        one = brain("The moon is far. It is cold there.", "Something else.")
        await one.open()
        await one.read_user("Go on.")
        await one.read_line("It is")
        rest = await written(one, 2)
        return rest, one.said[-1].text

    assert virtual.run(main()) == (" cold there.", "It is cold there.")


def test_another_answer_is_another_one_each_time() -> None:
    async def main() -> list[str]:
        one = ScriptedBrain(Times(), STEADY, [("One.", "Two.")])
        await one.open()
        mark = await one.read_user("Count.")
        answers: list[str] = []
        for again in (False, True, True, False):
            answers.append(await written(one, 1, again=again))
            await one.roll_back(mark.handle, "", cut=False)
        return answers

    assert virtual.run(main()) == ["One.", "Two.", "Put differently: Two.", "One."]


def test_a_line_in_no_reply_and_a_turn_in_an_open_one_are_caught() -> None:
    async def line() -> None:
        one = brain("One.")
        await one.open()
        await one.read_line("Hello.")

    async def turn() -> None:
        one = brain("One.")
        await one.open()
        await one.read_user("Hello.")
        await one.read_ahead("Hello again.")

    async def cut() -> None:
        one = brain("One.")
        mark = await one.open()
        await one.roll_back(mark.handle, "", cut=True)

    for misuse, told in ((line, "open reply"), (turn, "after a closed one"), (cut, "only a reply is cut")):
        with pytest.raises(AssertionError, match=told):
            virtual.run(misuse())


def test_faults_come_as_often_as_they_are_wanted() -> None:
    async def failed(faults: Faults) -> int:
        jitter = Jitter(1, 0.0, faults)
        one = ScriptedBrain(Times(), jitter, [("One two three four five.",)])
        mark = await one.open()
        count = 0
        for _ in range(100):
            try:
                await one.read_user("Hello.")
                await written(one, 1)
            except BacktalkError:
                count += 1
            one.forget([(await one.roll_back(mark.handle, "", cut=False)).mark.handle])
        return count

    assert virtual.run(failed(Faults())) == 0
    assert virtual.run(failed(Faults(failing=1.0))) == 100
    assert 30 <= virtual.run(failed(Faults(unread=0.3, failing=0.2))) <= 60
