"""Time that stands still while workers compute."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import get_ident
from typing import Any, NamedTuple, cast

import numpy as np
import pytest

from app import config
from app.config import Config
from app.journal import Journal
from app.replay import runner, stopped, trace, wall
from app.replay import script as scripts_format
from app.replay.room import ROOMS
from app.replay.scoring import score
from app.replay.virtual import VirtualClock
from app.replay.wall import Way
from app.sound_ports import Samples, Voice
from app.wiring import Loaded


class Watch:
    """A clock that work moves on by hand."""

    def __init__(self) -> None:
        self.shows_s = 100.0

    def now_s(self) -> float:
        return self.shows_s

    def work(self, seconds: float, result: str) -> Callable[[], str]:
        def job() -> str:
            self.shows_s += seconds
            return result

        return job


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    made = Watch()
    monkeypatch.setattr(stopped, "WallClock", lambda: made)
    return made


def test_work_is_done_on_its_worker_and_costs_nothing() -> None:
    async def main() -> tuple[float, int]:
        with ThreadPoolExecutor(1) as pool:
            thread = await asyncio.get_running_loop().run_in_executor(pool, get_ident)
        return VirtualClock().now_s(), thread

    now_s, thread = stopped.run(main())
    assert now_s == 0.0
    assert thread != get_ident()


def test_to_thread_goes_the_same_way() -> None:
    assert stopped.run(asyncio.to_thread(int, "7")) == 7


def test_others_go_on_before_a_result_arrives() -> None:
    async def main() -> list[str]:
        order: list[str] = []
        asyncio.get_running_loop().call_soon(order.append, "other")
        await asyncio.to_thread(order.append, "work")
        return [*order, "result"]

    assert stopped.run(main()) == ["work", "other", "result"]


def test_what_fails_there_fails_here() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        stopped.run(asyncio.to_thread(int, "x"))


def test_measured_work_takes_virtual_time_and_timers_fire_meanwhile(watch: Watch) -> None:
    async def main() -> list[tuple[str, float]]:
        clock, happened = VirtualClock(), list[tuple[str, float]]()
        loop = asyncio.get_running_loop()
        loop.call_at(0.2, lambda: happened.append(("timer", clock.now_s())))
        happened.append((await asyncio.to_thread(watch.work(0.3, "result")), clock.now_s()))
        return happened

    assert stopped.run(main(), "measured") == [("timer", 0.2), ("result", pytest.approx(0.3))]


def test_a_busy_worker_makes_the_next_job_wait_and_a_free_one_does_not(watch: Watch) -> None:
    async def main(threads: int) -> dict[str, float]:
        clock, done_at_s = VirtualClock(), dict[str, float]()
        with ThreadPoolExecutor(threads) as pool:

            async def give(seconds: float, name: str) -> None:
                await asyncio.get_running_loop().run_in_executor(pool, watch.work(seconds, name))
                done_at_s[name] = round(clock.now_s(), 6)

            async with asyncio.TaskGroup() as group:
                group.create_task(give(0.5, "long"))
                group.create_task(give(0.1, "short"))
            await give(0.1, "later")
        return done_at_s

    assert stopped.run(main(1), "measured") == {"long": 0.5, "short": 0.6, "later": 0.7}
    assert stopped.run(main(2), "measured") == {"short": 0.1, "long": 0.5, "later": 0.6}


def test_a_result_that_nobody_waits_for_any_more_is_dropped(watch: Watch) -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await asyncio.to_thread(watch.work(0.3, "late"))
        await asyncio.sleep(0.5)
        return VirtualClock().now_s()

    assert stopped.run(main(), "measured") == pytest.approx(0.6)


class Spoken(NamedTuple):
    samples: Samples


class Counting:
    """A voice that says something else each time."""

    def __init__(self) -> None:
        self.said = 0

    def synthesise(self, text: str) -> Spoken:
        self.said += 1
        return Spoken(np.full(4800, 0.1 * self.said, np.float32))


def test_what_a_voice_said_in_another_dialogue_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(config: Config, tell: Callable[[str], None], with_voice: Callable[[Voice], None] | None) -> Loaded:
        none: Any = None
        voice = cast(Voice, Counting())
        if with_voice:
            with_voice(voice)
        return Loaded(none, none, voice, none, {}, parrots_notes=False)

    monkeypatch.setattr(wall.wiring, "load", load)
    monkeypatch.setattr(wall, "_voice", lambda name, config: Counting())  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]  # a lambda says nothing of its arguments
    text = 'title: A\n%suser: [{say: "Hello.", at: 0.5}]\n'
    models = wall.Models()
    for voice in ("", "voice: another\n"):
        script = scripts_format.parse(text % voice, Path("a.yaml"))
        for llm in ("one", "one", "two"):
            settings = Config(models=config.Models(llm=llm))
            _, lines = models.prepare(script, settings, Way("stopped"))
            (sound,) = lines.values()
            assert sound.samples.max() == pytest.approx(0.1, abs=0.02), (voice, llm)


@pytest.mark.models
@pytest.mark.usefixtures("model_cache", "asr_path", "voice_path")
def test_a_dialogue_of_real_models_in_a_room_is_the_same_each_time_and_sounds_as_it_is_told(tmp_path: Path) -> None:
    script = scripts_format.read(Path(__file__).parents[1] / "dialogues" / "barge_in_early.yaml")
    perform = runner.with_models(Way("stopped", room=ROOMS["laptop"]))

    def performed() -> tuple[dict[str, Any], bytes]:
        with Journal(tmp_path / "e.jsonl") as journal:
            run = perform(script, runner.settled(script, Config()), [journal], tmp_path / "o.wav")
        return run.told({}), (tmp_path / "e.jsonl").read_bytes() + (tmp_path / "o.wav").read_bytes()

    told, left = performed()
    assert performed() == (told, left)
    (decided,) = trace.sessions(tmp_path / "e.jsonl")
    assert (decided.difference, decided.whole) == (None, True)
    first, second = told["turns"]
    scores = score(tmp_path / "o.wav")
    # Speech fades in and out: the file's 10 ms frames and the report's samples see its edges a little apart.
    assert scores.responses_ms == pytest.approx([first["voice_to_voice_ms"], second["voice_to_voice_ms"]], abs=60)
    (over,) = scores.overlaps
    assert over.stop_ms == pytest.approx(first["barge_in"]["stop_ms"], abs=60)
    assert first["interrupted"]
