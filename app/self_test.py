"""`backtalk doctor --sound`: plays a sweep and something like speech; what comes back tells which mode fits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import NamedTuple, Protocol

import numpy as np

from app.config import Config
from app.decisions import Mode
from app.doctor import Finding, State
from app.echo_guard import EchoGuard
from app.sound_ports import FrameLike, Samples, VoiceActivity
from audio import devices
from audio.devices import SILENT_DBFS, Device
from audio.errors import AudioError, DeviceError
from audio.frame import FRAME_SAMPLES, SPEAKER_HZ
from audio.playout import Playout
from audio.probe import Heard, judge, probe, speech_part
from audio.reference import AHEAD_S
from audio.vad import WINDOW_SAMPLES

_WARM_UP_FRAMES = 25  # a sound server that slept drops what it is given first
_LONGEST_S = 20.0
_NO_SOUND_FIX = "check that the sound server runs, then: backtalk devices --test"


class ProbedCard(Protocol):
    """What a test needs of a sound card; `app.sound_ports.SoundCard` has more."""

    def frames(self) -> AsyncGenerator[FrameLike, None]: ...

    def time_of_sample(self, sample: int) -> float: ...

    def reference(self, at_s: float, count: int) -> Samples: ...


class Trial(NamedTuple):
    """What came of the test."""

    heard: Heard
    residual_share: float
    """Share of the playback in which what was left of the echo looked like speech, 0..1: of the better half of it, for
    in a conversation too the mode changes only after two bad measures in a row."""


def findings(config: Config) -> list[Finding]:
    """Make a noise on the configured devices for some 10 s, and tell what was found."""
    try:
        devices.refresh()
        return [
            _rates("microphone rates", devices.find("input", config.audio.input)),
            _rates("loudspeaker rates", devices.find("output", config.audio.output)),
            told(asyncio.run(_on_this_machine(config)), config),
        ]
    except AudioError as error:
        return [Finding(subject="sound test", state="bad", found=f"{error.what}: {error.why}", fix=error.fix)]


async def _on_this_machine(config: Config) -> Trial:
    from app.clock import WallClock
    from audio.duplex import DuplexCard
    from audio.echo import WebRtcCanceller
    from audio.linear_echo import LinearCanceller
    from audio.vad import SileroVad

    clock, playout, audio = WallClock(), Playout(), config.audio
    guard = EchoGuard(WebRtcCanceller(), LinearCanceller())
    with DuplexCard(
        playout, clock.now_s, input_device=audio.input, output_device=audio.output, block_ms=audio.block_ms
    ) as card:
        try:
            async with asyncio.timeout(_LONGEST_S):
                return await perform(card, playout, clock.now_s, guard, SileroVad())
        except TimeoutError:
            raise DeviceError("the sound test came to no end", "sound does not flow", _NO_SOUND_FIX) from None


async def perform(
    card: ProbedCard, playout: Playout, now_s: Callable[[], float], guard: EchoGuard, activity: VoiceActivity
) -> Trial:
    """Play the probe and listen until it has died away; the guard is one that a conversation would use.

    Raises:
        DeviceError: The microphone's sound ended before.
    """
    near, far = list[Samples](), list[Samples]()
    async with aclosing(card.frames()) as frames:
        async for frame in frames:
            near.append(frame.samples)
            far.append(card.reference(card.time_of_sample(frame.first_sample) + AHEAD_S, FRAME_SAMPLES))
            if len(near) == _WARM_UP_FRAMES:
                playout.begin(1)
                playout.enqueue(1, probe(SPEAKER_HZ))
                playout.finish(1)
            head = playout.playhead(now_s())
            if head is not None and head.done:
                break
        else:
            raise DeviceError("the microphone gives no sound", "its stream ended", _NO_SOUND_FIX)
    pairs = zip(near, far, strict=True)
    left = np.concatenate([guard.process(*pair, key_down=False, speech=False).heard for pair in pairs])
    heard, played = np.concatenate(near), np.concatenate(far)
    halves = np.array_split(left[speech_part(played)], 2)
    return Trial(judge(heard, played, left), min(_speech_share(half, activity) for half in halves))


def told(trial: Trial, config: Config) -> Finding:
    """What the test means for a conversation."""
    heard = trial.heard
    if heard.level_dbfs < SILENT_DBFS:
        fix = "unmute the microphone, or choose another one: backtalk devices"
        return Finding(subject="echo", state="warning", found="the microphone hears nothing at all", fix=fix)
    mode: Mode
    if not heard.echo:
        found, mode = "the microphone does not hear the loudspeaker", "headset"
    else:
        limit = config.turns.echo_residual
        mode = "duplex" if trial.residual_share <= limit else "half"
        found = (
            f"{1000 * (heard.delay_s - AHEAD_S):.0f} ms after the driver says, {heard.echo_db:+.0f} dB; "
            f"ERLE {heard.erle_db:.0f} dB, {trial.residual_share:.0%} of what is left looks like speech"
        )
    if mode == config.audio.mode:
        return Finding(subject="echo", state="good", found=f"{found}; mode {mode} fits")
    # Only a canceller that fails does harm: where there is no echo it has nothing to do, and half and ptt need none.
    state: State = "warning" if mode == "half" and config.audio.mode != "ptt" else "good"
    state = "warning" if heard.echo and config.audio.mode == "headset" else state
    fix = f'`mode = "{mode}"` under [audio] in the configuration; `backtalk config path` tells where it lies'
    return Finding(subject="echo", state=state, found=f"{found}; mode {mode} fits better", fix=fix)


def _rates(subject: str, device: Device) -> Finding:
    """Which of our rates a device takes."""
    best = devices.best_format(device)
    rates = dict.fromkeys(f"{chosen.hz / 1000:g}" for chosen in devices.formats(device))
    return Finding(subject=subject, state="good", found=f"{' '.join(rates)} kHz; {best.hz / 1000:g} is used")


def _speech_share(sound: Samples, activity: VoiceActivity) -> float:
    windows = [sound[at : at + WINDOW_SAMPLES] for at in range(0, sound.size - WINDOW_SAMPLES + 1, WINDOW_SAMPLES)]
    return float(np.mean([activity.score(window) >= 0.5 for window in windows])) if windows else 0.0
