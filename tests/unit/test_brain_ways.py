"""Ways back and on: to boundaries that were left, by the very tokens that were decoded, and to other replies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from app.brain import CUT
from app.config import Llm
from app.ports import BoundaryMark
from engine import live
from engine.chat import Example
from engine.session import Engine
from tests.engine import lanes
from tests.unit.brains import TINY, Bench, opened, run, straight, tiny_engine


@pytest.fixture(scope="module", params=lanes.KINDS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = tiny_engine(tmp_path_factory.mktemp("tiny"), request.param)
    yield engine
    engine.close()


def drop_capsules(engine: Engine) -> None:
    for name in engine.store.names:
        engine.store.drop(name)


@pytest.mark.parametrize("left", ["marks", "capsules", "capsules that fail", "text"])
def test_there_is_always_a_way_back(engine: Engine, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the memory is gone")

    async def talk() -> None:
        bench = await opened(engine)
        settled = await bench.exchange("Hello.", "Hi! How are?")
        text, digest = bench.text(), bench.lane.digest()
        await bench.exchange("Which planet is red?", "Mars is red.")
        if left != "marks":
            # A restore writes over everything that marks lean on.
            bench.lane.restore(bench.lane.snapshot())
        if left == "text":
            drop_capsules(engine)
        with monkeypatch.context() as patched:
            if left == "capsules that fail":
                patched.setattr(live, "copy_bytes", fail)
            report = await bench.brain.roll_back(settled.handle, "", cut=False)
        assert report.refed_tokens == (0 if left in ("marks", "capsules") else settled.position)
        assert (bench.text(), bench.lane.digest()) == (text, digest)

    run(talk())


def test_a_hybrid_goes_back_further_than_its_rings_reach(tmp_path: Path) -> None:
    """Beyond them a mark is refused, and the capsule of the same turn serves: nothing is read again."""
    engine = tiny_engine(tmp_path, "hybrid fp32")

    async def talk() -> None:
        bench = await opened(engine)
        taken = [(await bench.brain.open(), bench.lane.digest())]
        for _ in range(3):
            await bench.brain.read_user("And then? " * 10)
            await bench.hear(pieces=5)
            taken.append((await bench.brain.close_reply(), bench.lane.digest()))
        for mark, digest in reversed(taken[:-1]):
            report = await bench.brain.roll_back(mark.handle, "", cut=False)
            assert (report.refed_tokens, bench.lane.digest()) == (0, digest)

    run(talk())
    assert engine.counters.rollbacks
    assert engine.counters.restores
    engine.close()


@pytest.mark.parametrize("left", ["capsules", "text"])
def test_a_branch_that_was_left_is_taken_up_as_it_was(engine: Engine, left: str) -> None:
    """The state, the turns and what comes after them, as if the other branch had never been."""

    async def talk(*, detour: bool) -> tuple[object, ...]:
        bench = await opened(engine)
        first = await bench.exchange("Hello.", "Hi there.")
        asked = await bench.brain.read_user("Which planet is red?")
        bench.force_text("Mars is red.")
        await bench.hear()
        second = await bench.brain.close_reply()
        if detour:
            digest = bench.lane.digest()
            await bench.brain.roll_back(first.handle, "", cut=False)
            assert bench.brain.turns == (Example("Hello.", "Hi there."),)
            await bench.exchange("Which planet is large? " * 3, "It is Jupiter.")
            assert [turn.assistant for turn in bench.brain.turns] == ["Hi there.", "It is Jupiter."]
            if left == "text":
                drop_capsules(engine)
            report = await bench.brain.roll_back(second.handle, "", cut=False)
            assert report.refed_tokens == (0 if left == "capsules" else second.position)
            assert bench.lane.digest() == digest
            # Another answer to the same question: the user's turn is open again.
            await bench.brain.roll_back(asked.handle, "", cut=False)
            bench.force_text("It is Mars.")
            await bench.hear()
            await bench.brain.close_reply()
            assert bench.brain.turns[-1] == Example("Which planet is red?", "It is Mars.")
            await bench.brain.roll_back(second.handle, "", cut=False)
        await bench.exchange("Thanks.", "Fine.")
        return bench.text(), bench.lane.digest(), bench.brain.turns

    assert run(talk(detour=True)) == run(talk(detour=False))


@pytest.mark.parametrize("way", ["mark", "capsule"])
def test_after_a_way_back_capsules_go_on_sharing(engine: Engine, way: str) -> None:
    """What follows is a delta of the capsule that was gone back to, as heavy as if nothing had been between."""

    async def talk(*, detour: bool) -> tuple[int, int]:
        bench = await opened(engine)
        settled = await bench.exchange("Hello.", "Hi there.")
        if detour:
            await bench.exchange("Which planet is red?", "Mars is red.")
            if way == "capsule":
                bench.lane.restore(bench.lane.snapshot())
            await bench.brain.roll_back(settled.handle, "", cut=False)
        asked = await bench.brain.read_user("And then?")
        capsule = engine.store.get(f"boundary-{asked.handle}")
        assert capsule is not None
        assert engine.lane(capsule).digest() == capsule.digest() == bench.lane.digest() == straight(bench)
        assert capsule.borrowed
        return asked.capsule_bytes, capsule.total_bytes

    own_bytes, total_bytes = run(talk(detour=True))
    assert (own_bytes, total_bytes) == run(talk(detour=False))
    assert own_bytes < total_bytes


def test_what_is_forgotten_leaves_no_memory_behind(engine: Engine) -> None:
    async def talk() -> None:
        bench = await opened(engine)
        settled = await bench.exchange("Hello.", "Hi there.")
        assert engine.store.names == ["boundary-2", "boundary-3", "persona"]
        used_bytes = engine.pool.usage().used_bytes
        asked = await bench.brain.read_user("Er")
        clause = await bench.brain.mark_clause()
        report = await bench.brain.roll_back(settled.handle, "", cut=False)
        bench.brain.forget([asked.handle, report.mark.handle])
        assert engine.pool.usage().used_bytes == used_bytes
        assert engine.store.names == ["boundary-2", "boundary-3", "persona"]
        # The boundary that was kept is still one.
        assert (await bench.brain.roll_back(clause.handle, "", cut=False)).mark.position == clause.position
        assert bench.lane.digest() == straight(bench)

    run(talk())


def test_the_persona_s_capsule_is_whole_in_every_conversation(engine: Engine) -> None:
    """The one before it is dropped, so what it shared with that would be nobody else's."""

    async def talk() -> None:
        await opened(engine)
        mark = await (await opened(engine)).brain.open()
        capsule = engine.store.get("persona")
        assert capsule is not None
        assert mark.capsule_bytes == capsule.total_bytes

    run(talk())


def test_a_full_pool_costs_no_turn(tmp_path: Path) -> None:
    engine = tiny_engine(tmp_path, "hybrid fp32", capsule_bytes=0)

    async def talk() -> None:
        bench = await opened(engine)
        settled = await bench.exchange("Hello.", "Hi!")
        assert settled.capsule_bytes == 0
        digest = bench.lane.digest()
        await bench.exchange("Bye.", "Bye!")
        await bench.brain.roll_back(settled.handle, "", cut=False)
        assert bench.lane.digest() == digest

    run(talk())
    engine.close()


async def asked(engine: Engine) -> tuple[Bench, BoundaryMark]:
    """A conversation that waits for a reply."""
    bench = await opened(engine)
    return bench, await bench.brain.read_user("Go on.")


def ids(engine: Engine, *texts: str) -> list[int]:
    """Each text in tokens of its own."""
    return [id for text in texts for id in engine.tokenizer.encode(text)]


@pytest.mark.parametrize(
    ("decoded", "heard", "fed"),
    [
        # Encoded anew, "he" would be one token.
        (["h", "e", "y", " ", "he", "l"], "hey he", ["h", "e", "y", " ", "he"]),
        (["h", "e", "y", " ", "he", "l"], "h", ["h"]),
        (["h", "e", "y"], "", []),
        # A token says more than was heard: what comes before it stays as it was.
        (["h", "e", " he", "y"], "he h", ["h", "e", " ", "h"]),
        (["he"], "h", ["h"]),
        # Nothing of the kind was decoded.
        (["h", "e"], "she", ["s", "he"]),
        (["h", "e"], "hey", ["h", "e", "y"]),
        # White space at the start is not spoken, and stays.
        (["\n", " ", "h", "e", "y"], "he", ["\n", " ", "h", "e"]),
        # Characters of several bytes, each a token.
        (["h", "e", "👍", "y"], "he👍", ["h", "e", "👍"]),
        (["h", "e", "👍", "y"], "he👎", ["h", "e", "👎"]),
    ],
)
def test_what_was_decoded_is_fed_again_as_it_was(
    engine: Engine, decoded: list[str], heard: str, fed: list[str]
) -> None:
    async def talk(*, cut: bool) -> None:
        bench, mark = await asked(engine)
        bench.force(ids(engine, *decoded))
        await bench.hear()
        report = await bench.brain.roll_back(mark.handle, heard, cut=cut)
        closing = [*ids(engine, CUT), *engine.chat.closing] if cut else []
        assert bench.lane.journal[mark.position :] == ids(engine, *fed) + closing
        assert report.refed_tokens == len(ids(engine, *fed)) + len(closing)
        assert bench.lane.digest() == straight(bench)

    run(talk(cut=False))
    run(talk(cut=True))


def test_after_a_clause_the_very_tokens_are_fed_too(engine: Engine) -> None:
    async def talk() -> None:
        bench, mark = await asked(engine)
        decoded = ids(engine, "O", "h", ",", " ", "h", "e", " ", "i", "s")
        bench.force(decoded)
        async with aclosing(bench.brain.reply(1)) as pieces:
            async for piece in pieces:
                if piece == " ":
                    clause = await bench.brain.mark_clause()
                    break
        bench.force(decoded[clause.position - mark.position :])
        await bench.hear()
        await bench.brain.roll_back(clause.handle, " he", cut=False)
        assert bench.lane.journal[mark.position :] == decoded[:6] != ids(engine, "Oh,", " he")
        assert bench.lane.digest() == straight(bench)

    run(talk())


def test_what_was_said_on_another_branch_is_not_taken_for_decoded(engine: Engine) -> None:
    async def talk() -> None:
        bench, mark = await asked(engine)
        await bench.brain.roll_back(mark.handle - 1, "", cut=False)
        await bench.brain.read_user("Or not.")
        bench.force(ids(engine, "h", "e"))
        await bench.hear()
        await bench.brain.roll_back(mark.handle, "he", cut=False)
        assert bench.lane.journal[mark.position :] == ids(engine, "he")

    run(talk())


def test_a_name_of_a_mark_that_was_heard_is_text(engine: Engine) -> None:
    """Also where the mark itself stands in the state, after the reply."""

    async def talk() -> None:
        bench, mark = await asked(engine)
        bench.force(ids(engine, "h", "e"))
        await bench.hear()
        await bench.brain.close_reply()
        await bench.brain.roll_back(mark.handle, "he<|im_end|>", cut=False)
        assert not engine.tokenizer.control_ids.intersection(bench.lane.journal[mark.position :])
        assert bench.text().endswith("he<|im_end|>")

    run(talk())


def test_a_line_is_the_beginning_of_the_reply(engine: Engine) -> None:
    async def talk() -> None:
        bench, mark = await asked(engine)
        await bench.brain.read_line("The moon is round,")
        clause = await bench.brain.mark_clause()
        assert clause.position == bench.lane.position == mark.position + len(ids(engine, "The moon is round,"))
        await bench.brain.read_line(" and it")
        bench.force_text(" is far.")
        assert "".join(await bench.hear()) == " is far."
        await bench.brain.roll_back(clause.handle, " and it is", cut=True)
        assert bench.brain.turns == (Example("Go on.", "The moon is round, and it is" + CUT),)
        assert bench.lane.digest() == straight(bench)

    run(talk())


def test_lines_count_as_sentences_and_tokens_of_the_reply(engine: Engine) -> None:
    async def talk(line: str, decoded: str, heard: str) -> None:
        bench, _ = await asked(engine)
        if line:
            await bench.brain.read_line(line)
        bench.force_text(decoded)
        assert "".join(await bench.hear()) == heard

    most = TINY.max_reply_tokens
    run(talk("One. Two.", " Six. Ten.", " Six."))
    run(talk("No. Go. Oh.", " Ten.", ""))
    run(talk("", "x" * 99, "x" * most))
    run(talk("y" * 10, "x" * 99, "x" * (most - 10)))
    run(talk("y" * (most + 9), "x" * 99, ""))


def test_another_answer_is_another_one_and_always_the_same(engine: Engine) -> None:
    async def talk(seed: int, config: Llm = TINY) -> list[str]:
        bench = Bench(engine, config, seed)
        await bench.brain.open()
        mark = await bench.brain.read_user("Go on.")
        told: list[str] = []
        for again in (False, True, True, False):
            told.append("".join(await bench.hear(again=again)))
            await bench.brain.roll_back(mark.handle, "", cut=False)
        return told

    first, second, third, fourth = answers = run(talk(seed=1))
    assert first == fourth
    assert len({first, second, third}) == 3
    assert run(talk(seed=1)) == answers
    greedy, other, *_ = run(talk(seed=2))
    assert (greedy, other) == (first, other)
    assert other not in answers
    # What is warmer anyway stays so.
    assert run(talk(1, msgspec.structs.replace(TINY, temperature=3.0)))[1] not in answers
