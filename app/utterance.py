"""What the user is saying, decoded while they say it: in pieces, so that a final costs the same however long it got."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from itertools import pairwise

import numpy as np

from app.events import PartialTranscribed
from app.ports import Emit
from app.sound_ports import Recogniser, Samples
from audio.agree import Agreement
from audio.frame import MIC_HZ
from audio.memory import SoundMemory

_PARTIAL_SAMPLES = 4 * MIC_HZ // 10
_PIECE_SAMPLES = 12 * MIC_HZ
_LONGEST_PIECE_SAMPLES = 26 * MIC_HZ
_PAUSE_SAMPLES = 2 * MIC_HZ // 10
_CUT_SEARCH_SAMPLES = 6 * MIC_HZ
_CUT_GRAIN_SAMPLES = MIC_HZ // 50


class Utterance:
    """What the user says from one onset to its end, in pieces cut at pauses. Samples are indices of the memory.

    Args:
        number: Names it.
        start: Its first sample.
        speech_from: Where speech began, as far as that is known.
    """

    def __init__(self, number: int, start: int, speech_from: int) -> None:
        self.number = number
        self.cuts = [start]
        """Where each piece begins; the last one is still growing."""
        self.agreement = Agreement()
        self.told: tuple[str, str] = ("", "")
        self.partial_end = speech_from
        self._texts: dict[tuple[int, int], str] = {}

    def pieces(self, until: int) -> list[tuple[int, int]]:
        """All sound up to `until` as spans of samples."""
        edges = [cut for cut in self.cuts if cut < until] + [until]
        return list(pairwise(edges))

    def text_of(self, piece: tuple[int, int]) -> str | None:
        """What a piece said, if it was decoded."""
        return self._texts.get(piece)

    def keep(self, piece: tuple[int, int], text: str) -> None:
        """Remember a decode; of the growing piece only the newest."""
        finished = set(pairwise(self.cuts))
        self._texts = {key: old for key, old in self._texts.items() if key in finished}
        self._texts[piece] = text

    def lose(self, start: int, end: int) -> None:
        """No sound came from `start` to `end`."""
        self.cuts += (start, end)
        self._texts[start, end] = ""


class Decoder:
    """Decodes the current utterance: partials of their own accord, finals when they are asked for.

    Args:
        memory: The user's sound.
        recogniser: Called on the workers, by two of them at once.
        worker: Runs it; a final must not have to wait for the partial under way.
    """

    def __init__(self, memory: SoundMemory, recogniser: Recogniser, worker: Executor) -> None:
        self._memory, self._recogniser, self._worker = memory, recogniser, worker
        self.utterance: Utterance | None = None
        self._finals = 0
        self._sound_is_due = asyncio.Event()

    async def run(self, emit: Emit) -> None:
        """Send partials until cancelled."""
        while True:
            await self._sound_is_due.wait()
            self._sound_is_due.clear()
            utterance = self.utterance
            if utterance is None or self._finals:
                continue
            utterance.partial_end = self._memory.end
            text = await self._text(utterance, self._memory.end)
            told = utterance.agreement.update(text)
            if utterance is self.utterance and told != utterance.told:
                utterance.told = told
                emit(PartialTranscribed(utterance=utterance.number, stable=told[0], unstable=told[1]))

    async def final(self, utterance: Utterance, until: int) -> str:
        """The text of all sound of an utterance up to a sample."""
        self._finals += 1
        try:
            return await self._text(utterance, until)
        finally:
            self._finals -= 1

    def follow(self, *, speaking: bool, turned_at: int) -> None:
        """More sound has come.

        Args:
            speaking: Whether the user speaks.
            turned_at: The sample since which that is so.
        """
        utterance, end = self.utterance, self._memory.end
        if utterance is None:
            return
        self._cut(utterance, None if speaking else turned_at)
        # In silence a final is about to be asked for, and a partial would only be in its way.
        if speaking and not self._finals and end - utterance.partial_end >= _PARTIAL_SAMPLES:
            self._sound_is_due.set()

    def _cut(self, utterance: Utterance, silent_from: int | None) -> None:
        """End the growing piece in a pause once it is long, or at its quietest place before it is too long."""
        start, end = utterance.cuts[-1], self._memory.end
        if end - start >= _LONGEST_PIECE_SAMPLES:
            search_from = end - _CUT_SEARCH_SAMPLES
            utterance.cuts.append(search_from + _quietest(self._memory.read(search_from, end)))
            self._sound_is_due.set()
        elif silent_from is not None and end - silent_from >= _PAUSE_SAMPLES:
            middle = (silent_from + end) // 2
            if middle - start >= _PIECE_SAMPLES:
                utterance.cuts.append(middle)
                self._sound_is_due.set()

    async def _text(self, utterance: Utterance, until: int) -> str:
        """The text up to a sample; pieces that were decoded before are not decoded again."""
        texts: list[str] = []
        for piece in utterance.pieces(until):
            text = utterance.text_of(piece)
            if text is None:
                samples = self._memory.read(*piece)
                loop = asyncio.get_running_loop()
                text = (await loop.run_in_executor(self._worker, self._recogniser.transcribe, samples)).text
                utterance.keep(piece, text)
            texts.append(text)
        return " ".join(text for text in texts if text)


def _quietest(samples: Samples) -> int:
    """The middle of the quietest 100 ms, to 20 ms."""
    grains = np.square(samples[: samples.size // _CUT_GRAIN_SAMPLES * _CUT_GRAIN_SAMPLES])
    powers = grains.reshape(-1, _CUT_GRAIN_SAMPLES).sum(axis=1)
    around = np.convolve(powers, np.ones(5), "valid")
    return (int(np.argmin(around)) + 2) * _CUT_GRAIN_SAMPLES + _CUT_GRAIN_SAMPLES // 2
