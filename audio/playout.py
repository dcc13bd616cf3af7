"""Sound that waits for the loudspeaker, the gate before it, and how much of it was really heard.

The conversation's thread queues clauses and gives orders; the sound callback reads. They share one reference, the
newest order, which is replaced in one step: the callback never waits, and an order takes effect at the next block.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from audio.frame import SPEAKER_HZ, Samples

_PIECE_SAMPLES = 4096  # longest stretch rendered at once; the size of the scratch rows
_BLOCKS_REMEMBERED = 512  # more than any device keeps between the callback and the air
_FADE_OUT_MS = 5
_FADE_IN_MS = 20
_DUCK_RAMP_MS = 15
_NOBODY_READS_S = 0.25  # past the end of the newest block: the device is gone, and so is the sound


class Playhead(NamedTuple):
    """What the loudspeaker has done with a branch so far. Times are session times in s."""

    branch: int
    heard_samples: int
    """Samples of the branch's stream that have left the loudspeaker: the position after the newest."""
    started_at_s: float | None
    """When the first sample became audible; None before that."""
    last_at_s: float | None
    """When the newest audible sample was."""
    held: bool
    """The gate is shut and all that was handed out before has left the loudspeaker."""
    done: bool
    """`finish` was called and every sample has left the loudspeaker."""


class _Stream:
    """One branch's sound: a stretch of the playout's ring, and the blocks handed to the device."""

    __slots__ = (
        "_at_s",
        "_count",
        "_first",
        "_started_at_s",
        "base",
        "blocks",
        "branch",
        "farthest",
        "finished",
        "read",
        "starving",
        "written",
    )

    def __init__(self, branch: int | None, base: int) -> None:
        self.branch = branch
        self.base = base
        """Ring position of the stream's sample 0."""
        self.written = 0
        self.read = 0
        self.farthest = 0
        """Most samples that were ever read: behind it sound is kept to step back to."""
        self.finished = False
        self.starving = False
        self.blocks = 0
        self._started_at_s: float | None = None
        self._at_s = np.zeros(_BLOCKS_REMEMBERED)
        self._first = np.zeros(_BLOCKS_REMEMBERED, np.int64)
        self._count = np.zeros(_BLOCKS_REMEMBERED, np.int64)

    def hand_out(self, count: int, at_s: float) -> None:
        """Note that the next `count` samples become audible from `at_s` on. For the callback."""
        if self._started_at_s is None:
            self._started_at_s = at_s
        slot = self.blocks % _BLOCKS_REMEMBERED
        self._at_s[slot], self._first[slot], self._count[slot] = at_s, self.read, count
        self.read += count
        self.farthest = max(self.farthest, self.read)
        self.blocks += 1  # last: from here on the block counts

    def heard(self, now_s: float, hz: int) -> tuple[int, float | None]:
        """Samples that have left the loudspeaker, and when the newest did."""
        newest = self.blocks
        for block in range(newest - 1, max(-1, newest - _BLOCKS_REMEMBERED), -1):
            slot = block % _BLOCKS_REMEMBERED
            at_s = float(self._at_s[slot])
            if at_s <= now_s:
                count = min(int(self._count[slot]), int((now_s - at_s) * hz) + 1)
                return int(self._first[slot]) + count, at_s + (count - 1) / hz
        return 0, None

    def started_at_s(self, now_s: float) -> float | None:
        """When the first sample became audible, if it has."""
        started = self._started_at_s
        return started if started is not None and started <= now_s else None

    def all_heard(self, now_s: float, hz: int) -> bool:
        """Whether nothing is between the callback and the air."""
        if self.blocks == 0:
            return True
        slot = (self.blocks - 1) % _BLOCKS_REMEMBERED
        return now_s >= float(self._at_s[slot]) + (int(self._count[slot]) - 1) / hz


class _Order(NamedTuple):
    """What the callback is to do from its next block on."""

    stream: _Stream
    open: bool
    from_sample: int | None = None
    """Where to go on, with a fade-in; None: where it is."""


class Playout:
    """Satisfies `app.sound_ports.PlayoutBuffer`. One branch at a time; all calls but `read` from one thread.

    Args:
        hz: Sample rate of everything that goes in and out.
        seconds: Sound that fits in, that kept for stepping back included.
        keep_seconds: Sound kept behind the playhead, at least 1 s.
        duck_db: Level while ducked.
    """

    def __init__(
        self, hz: int = SPEAKER_HZ, seconds: float = 20.0, keep_seconds: float = 1.0, duck_db: float = -15.0
    ) -> None:
        assert 1.0 <= keep_seconds < seconds
        self._hz = hz
        self._sound = np.zeros(int(seconds * hz), np.float32)
        self._keep = int(keep_seconds * hz)
        self._ducked_level = 10.0 ** (duck_db / 20.0)
        self._level_wanted = 1.0
        self._order = _Order(_Stream(None, 0), open=False)
        self._starved = 0
        # From here on the callback's own.
        self._applied = self._order
        self._sounding = False
        self._level = 1.0
        self._fade_in_left = 0
        self._read_until_s: float | None = None
        self._power = 0.0
        self._count_up = np.arange(1, _PIECE_SAMPLES + 1, dtype=np.float32)
        self._ramp = np.zeros(_PIECE_SAMPLES, np.float32)
        fade = hz * _FADE_OUT_MS // 1000
        self._fade_out = np.linspace(1.0, 0.0, fade, dtype=np.float32)
        self._fade_in = np.linspace(0.0, 1.0, hz * _FADE_IN_MS // 1000, dtype=np.float32)

    # ---- the conversation's thread ----

    @property
    def starved(self) -> int:
        """Gaps between clauses so far: the loudspeaker was ready, the next clause was not."""
        return self._starved

    @property
    def level_dbfs(self) -> float:
        """Level of the newest block, 0 for a full square wave, at least -120."""
        return max(-120.0, 10.0 * math.log10(self._power + 1e-12))

    def begin(self, branch: int) -> None:
        """From now on only sound of this branch is played; the gate is open and the level full."""
        self._level_wanted = 1.0
        self._order = _Order(self._fresh_stream(branch), open=True)

    def room_samples(self) -> int:
        """How much `enqueue` takes now."""
        stream = self._order.stream
        return max(0, self._sound.shape[0] - self._keep - (stream.written - stream.read))

    def enqueue(self, branch: int, samples: Samples) -> int | None:
        """Queue float32[n] behind the branch's other sound.

        Returns:
            Offset of the first sample in the branch's stream; None if the branch is dead.
        """
        stream = self._order.stream
        if stream.branch != branch:
            return None
        assert samples.shape[0] <= self.room_samples(), "more sound than there is room for"
        offset = stream.written
        at = (stream.base + offset) % self._sound.shape[0]
        head = min(samples.shape[0], self._sound.shape[0] - at)
        self._sound[at : at + head] = samples[:head]
        self._sound[: samples.shape[0] - head] = samples[head:]
        stream.written = offset + samples.shape[0]  # last: from here on the callback may read it
        return offset

    def finish(self, branch: int) -> None:
        """No more sound will come for this branch."""
        if self._order.stream.branch == branch:
            self._order.stream.finished = True

    def duck(self) -> None:
        """Lower the level, over 15 ms."""
        self._level_wanted = self._ducked_level

    def unduck(self) -> None:
        """Back to full level, over 15 ms."""
        self._level_wanted = 1.0

    def hold(self) -> None:
        """Silence from the next block on, after a fade of 5 ms; the playhead stands still."""
        self._order = _Order(self._order.stream, open=False)

    def resume(self, from_sample: int) -> None:
        """Open the gate and go on from a sample of the stream, with a fade-in of 20 ms.

        Args:
            from_sample: At most `keep_seconds` behind the farthest sample played; a farther one is moved up to there.
        """
        stream = self._order.stream
        oldest = max(0, stream.farthest - self._keep)
        self._order = _Order(stream, True, min(max(from_sample, oldest), stream.farthest))

    def stop(self, branch: int) -> None:
        """The branch is dead: what is queued of it is thrown away. Silent within one block."""
        if self._order.stream.branch == branch:
            self._order = _Order(self._fresh_stream(None), open=False)

    def playhead(self, now_s: float) -> Playhead | None:
        """What has left the loudspeaker by `now_s`. Sound on its way to it has not. None: no branch is alive."""
        order, applied = self._order, self._applied
        stream = order.stream
        if stream.branch is None:
            return None
        heard, last_at_s = stream.heard(now_s, self._hz)
        silent = stream.all_heard(now_s, self._hz)
        obeyed = applied is order or self._read_until_s is None or now_s > self._read_until_s + _NOBODY_READS_S
        done = stream.finished and stream.read == stream.written and silent
        started = stream.started_at_s(now_s)
        return Playhead(stream.branch, heard, started, last_at_s, not order.open and obeyed and silent, done)

    def _fresh_stream(self, branch: int | None) -> _Stream:
        """A stream that starts a little after the old one, whose end the callback may still be fading out."""
        old = self._order.stream
        return _Stream(branch, old.base + old.farthest + 2 * _PIECE_SAMPLES)

    # ---- the sound callback ----

    def read(self, out: Samples, at_s: float) -> None:
        """Fill float32[n] with what is to be heard next. Allocates no arrays and never waits.

        Args:
            out: Overwritten.
            at_s: Session time at which out[0] becomes audible.
        """
        for start in range(0, out.shape[0], _PIECE_SAMPLES):
            self._render(out[start : start + _PIECE_SAMPLES], at_s + start / self._hz)
        self._power = float(np.dot(out, out)) / max(1, out.shape[0])
        self._read_until_s = at_s + out.shape[0] / self._hz

    def _render(self, out: Samples, at_s: float) -> None:
        order = self._order
        filled = 0
        if order is not self._applied:
            if self._sounding:
                filled = self._hand_out(self._applied.stream, out[: self._fade_out.shape[0]], at_s)
                out[:filled] *= self._fade_out[:filled]
            self._obey(order)
        if order.open:
            rest = out[filled:]
            count = self._hand_out(order.stream, rest, at_s + filled / self._hz)
            self._fade(rest[:count])
            self._starve(order.stream, count < rest.shape[0])
            filled += count
            self._sounding = count > 0
        out[filled:] = 0.0
        self._set_level(out)

    def _obey(self, order: _Order) -> None:
        if order.from_sample is not None:
            order.stream.read = order.from_sample
            self._fade_in_left = self._fade_in.shape[0]
        elif order.stream is not self._applied.stream:
            self._fade_in_left = 0
        self._sounding = False
        self._applied = order

    def _hand_out(self, stream: _Stream, out: Samples, at_s: float) -> int:
        """Copy the stream's next samples to the front of `out`; how many there were."""
        count = min(out.shape[0], stream.written - stream.read)
        if count == 0:
            return 0
        at = (stream.base + stream.read) % self._sound.shape[0]
        head = min(count, self._sound.shape[0] - at)
        out[:head] = self._sound[at : at + head]
        out[head:count] = self._sound[: count - head]
        stream.hand_out(count, at_s)
        return count

    def _fade(self, out: Samples) -> None:
        count = min(out.shape[0], self._fade_in_left)
        if count:
            start = self._fade_in.shape[0] - self._fade_in_left
            out[:count] *= self._fade_in[start : start + count]
            self._fade_in_left -= count

    def _starve(self, stream: _Stream, short: bool) -> None:
        """Count the start of each gap."""
        if short and stream.read > 0 and not stream.finished and not stream.starving:
            self._starved += 1
        stream.starving = short

    def _set_level(self, out: Samples) -> None:
        wanted, level = self._level_wanted, self._level
        if level == wanted:
            if level != 1.0:
                out *= level
            return
        step = (1.0 - self._ducked_level) / (self._hz * _DUCK_RAMP_MS / 1000)
        ramp = self._ramp[: out.shape[0]]
        np.multiply(self._count_up[: out.shape[0]], step if wanted > level else -step, out=ramp)
        ramp += level
        np.clip(ramp, min(level, wanted), max(level, wanted), out=ramp)
        out *= ramp
        last = float(ramp[-1]) if out.shape[0] else level
        self._level = wanted if abs(last - wanted) < step / 2 else last
