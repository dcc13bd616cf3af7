"""Where the parts are made and joined. The only place that calls the constructors of `audio` and `engine`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from app import models
from app.clock import WallClock
from app.config import Config
from app.errors import leaf
from app.events import DeviceLost, DeviceOpened
from app.journal import Journal
from app.ports import Clock, Commands, Parts
from app.session import Session, Sink
from app.sound_ports import PlayoutBuffer, Recogniser, SoundCard, TurnEnd, Voice

if TYPE_CHECKING:
    from audio.duplex import DuplexCard
    from engine.session import Engine

Tell = Callable[[str], None]
"""Takes a line about what is going on, for a person who waits."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The models in memory. Several conversations, one after the other, may use them."""

    engine: Engine
    recogniser: Recogniser
    voice: Voice
    turn_end: TurnEnd | None
    names: dict[str, str]
    """Kind of model (llm, asr, tts, turn, vad) to its name, for the log."""
    parrots_notes: bool
    """The language model is known to say notes aloud that are meant for it alone."""


def load(config: Config, tell: Tell, with_voice: Callable[[Voice], None] | None = None) -> Loaded:
    """Find, fetch if need be, and load the three models, at the same time.

    Args:
        config: Which models, and how they run.
        tell: Takes a line about what is going on.
        with_voice: Work that needs only the voice, which is there long before the language model; done on its thread.

    Raises:
        ModelError: One is not there and can't be had.
        EngineError: The language model's file can't be used.
        AudioError: A speech model's files can't be used.
    """
    wanted = config.models
    llm = models.resolve_llm(wanted.llm, offline=config.offline)
    asr = models.resolve(wanted.asr, "asr", offline=config.offline)
    voice = models.resolve(wanted.voice, "voice", offline=config.offline)
    turn = models.resolve(wanted.turn, "turn", offline=config.offline) if wanted.turn else None
    tell(f"loading {wanted.llm}, {wanted.asr} and {wanted.voice}")
    with ThreadPoolExecutor(3) as pool:
        engine_job = pool.submit(load_engine, config, llm)
        recogniser_job = pool.submit(load_recogniser, asr, config.language)
        voice_job = pool.submit(_load_voice_and_use, voice, with_voice)
        return Loaded(
            engine_job.result(),
            recogniser_job.result(),
            voice_job.result(),
            load_turn_end(turn) if turn else None,
            {"llm": wanted.llm, "asr": wanted.asr, "tts": wanted.voice, "turn": wanted.turn, "vad": "silero"},
            models.parrots_notes(wanted.llm),
        )


def _load_voice_and_use(path: Path, use: Callable[[Voice], None] | None) -> Voice:
    voice = load_voice(path)
    if use:
        use(voice)
    return voice


def load_engine(config: Config, name: Path | str) -> Engine:
    """The language model of a path, or `random:SHAPE`. Importing torch takes a second or two, so it happens here."""
    from engine.session import Engine

    llm = config.llm
    return Engine.load(
        name, device=llm.device, format=llm.format, context_tokens=llm.context_tokens, threads=llm.threads
    )


def load_recogniser(path: Path, language: str = "en") -> Recogniser:
    """The speech recogniser, for a language that it knows; a model of English alone knows no other."""
    from audio.asr import Whisper

    return Whisper(path, language=language)


def load_turn_end(path: Path) -> TurnEnd:
    """What hears whether an utterance sounds finished."""
    from audio.turn_end import SmartTurn

    return SmartTurn(path)


def load_voice(path: Path) -> Voice:
    """A voice."""
    from audio.tts import PiperVoice

    return PiperVoice(path, threads=2)


def live_parts(loaded: Loaded, config: Config, clock: Clock, card: SoundCard, playout: PlayoutBuffer) -> Parts:
    """The real parts on a sound card, be it of this machine or simulated."""
    from app.brain import LaneBrain
    from app.listening import LiveEars
    from app.speaking import LiveMouth
    from audio.echo import WebRtcCanceller
    from audio.linear_echo import LinearCanceller
    from audio.vad import SileroVad

    ears = LiveEars(
        card,
        SileroVad(),
        loaded.recogniser,
        canceller=WebRtcCanceller(),
        gentle=LinearCanceller(),
        turn_end=loaded.turn_end,
        speech_start=config.audio.speech_start,
        speech_end=config.audio.speech_end,
        speaker_dbfs=lambda: playout.level_dbfs,
    )
    return Parts(
        clock,
        ears,
        LaneBrain(loaded.engine, config.llm, clock=clock, seed=config.seed),
        LiveMouth(loaded.voice, playout, clock),
    )


async def talk(
    loaded: Loaded,
    config: Config,
    sinks: Sequence[Sink],
    stop: asyncio.Event,
    commands: Commands | None = None,
    record: Path | None = None,
) -> None:
    """A conversation on this machine's microphone and loudspeaker, until `stop` is set.

    Args:
        loaded: The models.
        config: The configuration.
        sinks: Take every event.
        stop: Ends it.
        commands: Lets a keyboard or the like ask for things.
        record: Where the sound of both sides goes; None: nowhere.

    Raises:
        BacktalkError, EngineError, AudioError: What the user has to mend.
    """
    from app.replay.tap import LiveRecording
    from audio.duplex import DuplexCard
    from audio.playout import Playout

    clock = WallClock()
    playout = Playout(duck_db=config.audio.duck_db)
    with ExitStack() as stack:
        recording = stack.enter_context(LiveRecording(record)) if record else None
        card = stack.enter_context(
            DuplexCard(
                recording.tap(playout) if recording else playout,
                clock.now_s,
                input_device=config.audio.input,
                output_device=config.audio.output,
                block_ms=config.audio.block_ms,
            )
        )
        kept = [stack.enter_context(Journal(journal_path(config, clock), fresh=True))] if config.journal.keep else []
        session = Session(
            live_parts(loaded, config, clock, recording.card(card) if recording else card, playout),
            config,
            sinks=[*kept, *sinks],
            seed=config.seed,
            clock_name="wall",
            models=loaded.names,
            parrots_notes=loaded.parrots_notes,
        )
        try:
            with commands(session.emit) if commands else nullcontext():
                async with asyncio.TaskGroup() as tasks:
                    news = tasks.create_task(_tell_news(card, session))
                    await session.run(stop)
                    news.cancel()
        except BaseExceptionGroup as group:
            raise leaf(group) from None


async def _tell_news(card: DuplexCard, session: Session) -> None:
    async for item in card.news():
        lost = item.lost
        session.emit(DeviceOpened(device=item.device) if lost is None else DeviceLost(device=item.device, reason=lost))


def journal_path(config: Config, clock: WallClock) -> Path:
    """A new file, named after the time of day, where journals are kept."""
    directory = Path(config.journal.directory) if config.journal.directory else journal_directory()
    return directory / f"{clock.stamp()}.jsonl"


def journal_directory() -> Path:
    """Where journals go unless the configuration names another place."""
    return platformdirs.user_state_path("backtalk") / "journals"
