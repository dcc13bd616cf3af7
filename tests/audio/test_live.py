"""The live program on the real PortAudio path: real models, a user who talks over it, a sound server that dies."""

from __future__ import annotations

import asyncio
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import events as ev
from app.replay import script
from app.replay.director import Director
from app.replay.report import Report
from app.replay.user import render
from audio.tts import PiperVoice
from tests.audio.live_dialogue import Program, Talker, awake, clients
from tests.soundserver import SoundServer, require_pulseaudio

pytestmark = [
    pytest.mark.models,
    pytest.mark.wall,
    pytest.mark.soundserver,
    pytest.mark.usefixtures("model_cache", "asr_path"),
    pytest.mark.timeout(300),
]

SCRIPT = Path(__file__).parents[1] / "dialogues" / "eight_turns.yaml"
SAID = ["morning", "moon", "one sentence", "thank you", "capital of france", "sky", "stars", "goodbye"]
"""What the recogniser must have understood of each turn."""
LOADED_S = 60.0
"""Until the session must be open; on a machine with nothing else to do it takes 4 s."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SoundServer]:
    require_pulseaudio()
    directory = tmp_path / "server"
    directory.mkdir()
    server = SoundServer(directory)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def voice(voice_path: Path) -> PiperVoice:
    return PiperVoice(voice_path, threads=2)


Performed = tuple[Program, dict[str, Any]]


def perform(wanted: script.Script, server: SoundServer, voice: PiperVoice, directory: Path) -> Performed:
    """Perform a script to its end, then Ctrl-C; the program, and the report of its events."""
    directory.mkdir()
    lines = render(wanted.lines, voice, 0)

    async def main() -> Performed:
        report = Report()
        program = Program(server, directory, "headless", "--json", sinks=(report, lambda event: director(event)))
        with awake(server), Talker(program, lines, directory) as talker:
            director = Director(wanted, program, talker.perform, lambda: True)
            async with program.running():
                await program.first(ev.SessionOpened, LOADED_S)
                async with asyncio.timeout(150):
                    await director.run()
                status, took_s = await program.end(signal.SIGINT, 20)
        assert status == 0
        assert took_s < 5
        return program, report.build(wanted, [], machine={}, capsules=[])

    return asyncio.run(main())


def test_eight_turns_with_two_interruptions(server: SoundServer, voice: PiperVoice, tmp_path: Path) -> None:
    wanted = script.read(SCRIPT)
    program, report = perform(wanted, server, voice, tmp_path / "first")
    if report["totals"]["xruns"]:  # a machine that stalls for 40 ms has an xrun, whoever plays
        program, report = perform(wanted, server, voice, tmp_path / "again")
    assert report["totals"]["xruns"] == 0
    assert report["failures"] == []
    heard = [turn["user_text"].lower() for turn in report["turns"]]
    assert [words in text for words, text in zip(SAID, heard, strict=True)] == [True] * 8, heard
    assert [turn["turn"] for turn in report["turns"] if turn["interrupted"]] == [2, 6]
    for turn in report["turns"]:
        assert (0 < turn["heard_words"] < turn["reply_words"]) == turn["interrupted"]
        assert turn["reply_text"].split()[: turn["heard_words"]] == turn["reply_heard"].split()
    assert not program.of(ev.DeviceLost)
    assert_it_left_nothing_but_its_journal(program, server)


def assert_it_left_nothing_but_its_journal(program: Program, server: SoundServer) -> None:
    """Whole, readable by nobody else; nothing on stderr but that it loaded; nothing open on the sound server."""
    [journal] = program.journals()
    kept = [line for line, event in zip(program.lines, program.events, strict=True) if not is_for_eyes(event)]
    assert journal.read_bytes() == b"".join(kept)
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    closed = program.events[-1]
    assert isinstance(closed, ev.SessionClosed)
    assert closed.reason == "ended"
    # PortAudio says "Expression ... failed" when its server dies, from its own thread; nothing of ours may be said.
    told = [line for line in program.errors if not line.startswith("Expression '")]
    assert [line.split()[:2] for line in told] == [["backtalk:", "loading"]]
    assert clients(server) == []


def is_for_eyes(event: ev.Event) -> bool:
    return isinstance(event, ev.LevelsMeasured)


def test_a_dialogue_goes_on_when_the_sound_server_dies_and_comes_back(
    server: SoundServer, voice: PiperVoice, tmp_path: Path
) -> None:
    said = ["What is the capital of France?", "Thank you, that was very nice."]
    lines = [script.Line(script.At(0.0), "here", say=text) for text in said]
    rendered = render(lines, voice, 0)

    async def main() -> Program:
        program = Program(server, tmp_path, "headless", "--json")
        with Talker(program, rendered, tmp_path) as talker:
            async with program.running():
                await program.first(ev.SessionOpened, LOADED_S)
                talker.perform(lines[0])
                await program.first(ev.WordHeard, 30, lambda event: event.words >= 2)
                await asyncio.to_thread(server.kill)
                await program.first(ev.DeviceLost, 5)
                await asyncio.to_thread(server.start)
                await program.first(ev.DeviceOpened, 5)
                with awake(server):
                    await program.first(ev.ReplyCommitted, 30)
                    talker.perform(lines[1])
                    await program.first(ev.ReplyCommitted, 40, lambda event: event.turn == 2)
                status, _ = await program.end(signal.SIGTERM, 20)
        assert status == 0
        return program

    program = asyncio.run(main())
    # A pause inside the second sentence may end the turn too early, which is taken back before the reply is heard.
    first, second = {event.turn: event for event in program.of(ev.TurnCommitted)}.values()
    assert ("capital of france" in first.text.lower(), "thank you" in second.text.lower()) == (True, True)
    written = {event.branch: event.text.strip() for event in program.of(ev.ReplyDecoded)}
    committed = [(reply.branch, reply.heard, reply.interrupted) for reply in program.of(ev.ReplyCommitted)]
    wanted = [(turn.branch, written[turn.branch], False) for turn in (first, second)]
    assert committed == wanted, "a reply that was half said is said to its end"
    boundaries = {boundary.name: boundary for boundary in program.of(ev.BoundaryTaken)}
    assert boundaries["U2"].parent == boundaries["A1"].boundary, "the second turn stands on the first one's state"
    assert boundaries["U2"].position > boundaries["A1"].position > boundaries["U1"].position
    assert_it_left_nothing_but_its_journal(program, server)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_models_load_ends_it(server: SoundServer, tmp_path: Path, how: signal.Signals) -> None:
    async def main() -> Program:
        program = Program(server, tmp_path, "headless", "--json")
        async with program.running():
            await program.until(lambda: bool(program.errors), LOADED_S)
            status, took_s = await program.end(how, LOADED_S)
        assert status == 0
        assert took_s < LOADED_S
        return program

    program = asyncio.run(main())
    assert program.events == []
    assert program.errors[1:] == ["backtalk: interrupted"]
    assert program.journals() == []
    assert clients(server) == []


def test_a_signal_while_it_speaks_ends_it(server: SoundServer, voice: PiperVoice, tmp_path: Path) -> None:
    line = script.Line(script.At(0.0), "here", say="Tell me about the moon.")
    rendered = render([line], voice, 0)

    async def main() -> Program:
        program = Program(server, tmp_path, "headless", "--json")
        with Talker(program, rendered, tmp_path) as talker:
            async with program.running():
                await program.first(ev.SessionOpened, LOADED_S)
                talker.perform(line)
                await program.first(ev.WordHeard, 30)
                status, took_s = await program.end(signal.SIGTERM, 20)
        assert status == 0
        assert took_s < 5
        return program

    program = asyncio.run(main())
    assert not program.of(ev.PlayoutFinished)
    assert_it_left_nothing_but_its_journal(program, server)
