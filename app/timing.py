"""When the user has finished, and when the user interrupts: the times and rules of app/turns.py."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Milliseconds = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Turns(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Section `[turns]` of the configuration."""

    # ---- the user begins ----
    onset_confirm_ms: Milliseconds = 96
    """Speech that makes an utterance while the agent is silent."""
    blip_silence_ms: Milliseconds = 600
    """An onset that stays unconfirmed is forgotten after this much silence."""
    preroll_ms: Milliseconds = 320
    """Sound kept from before the onset."""

    # ---- the user talks over a reply ----
    duck_after_ms: Milliseconds = 64
    """Speech over a reply until it is ducked."""
    hold_after_ms: Milliseconds = 200
    """Speech over a reply until the gate shuts."""
    warm_up_ms: Milliseconds = 2500
    """Once an echo is noticed, its canceller is still learning for so long:"""
    warm_up_hold_ms: Milliseconds = 600
    """then it takes this much speech until the gate shuts. Only in mode duplex."""
    in_vain_most: Annotated[int, msgspec.Meta(ge=1, le=8)] = 2
    """From so many overlaps on that held the same reply for nothing it takes twice as much speech each time,"""
    in_vain_ms: Milliseconds = 10_000
    """as long as they are not older than this."""
    decide_ms: Milliseconds = 600
    """Speech after which words that are no backchannel end the reply; before, it takes a pause."""
    wordless_hold_ms: Milliseconds = 900
    """Speech-like sound over a held reply that brings no words: it was noise, the reply goes on."""
    collision_words: Annotated[int, msgspec.Meta(ge=0)] = 2
    """A user who goes on before so many words of the reply were heard goes on with the same turn,"""
    collision_ms: Milliseconds = 400
    """and so does one who goes on before so much of it was heard."""
    tail_ms: Milliseconds = 60_000
    """How long the unheard rest of a reply that was cut off can be asked for."""
    keep: Literal["heard", "sentence", "none", "all"] = "heard"
    """What the model keeps of a reply that was cut off: the words heard, the sentences heard whole, nothing, or all
    that it had written."""
    note: Literal["auto", "on", "off"] = "auto"
    """Whether the model is told where it was cut off; auto: unless it is known to parrot such notes."""

    # ---- the user pauses ----
    probe_ms: Milliseconds = 100
    """Silence after which transcript and scores are asked for, so that they are there when the turn ends."""
    sure_ms: Milliseconds = 300
    """Silence that ends a turn that is finished with a probability of 0.9 or more,"""
    likely_ms: Milliseconds = 350
    """of 0.7,"""
    even_ms: Milliseconds = 600
    """of 0.5,"""
    unlikely_ms: Milliseconds = 1000
    """of 0.3,"""
    unfinished_ms: Milliseconds = 2000
    """and of 0.1 or less. In between it is interpolated."""
    sentence_ms: Milliseconds = 1000
    """What reads as a whole sentence waits no longer, however it sounds: the recogniser may be wrong, but so may we."""
    longest_ms: Milliseconds = 2500
    """No wait is longer, but for the one below."""
    wait_ms: Milliseconds = 8000
    """The same after "hold on" or "let me think"."""
    floor_least_ms: Milliseconds = 200
    """The shortest wait is learned from the user's pauses; it starts here and never falls below,"""
    floor_most_ms: Milliseconds = 900
    """nor rises above this."""
    floor_memory: Share = 0.9
    """Weight of what was learned before each new pause."""
    regret_ms: Milliseconds = 700
    """A user who goes on so soon after a reply began was cut off: the shortest wait rises."""

    # ---- nobody speaks, or nothing moves ----
    check_in: Literal["never", "after_question", "always"] = "after_question"
    """Whether the agent asks if you are still there, once, when nobody answers."""
    check_in_ms: Milliseconds = 12_000
    """Silence after a reply until it does."""
    stuck_ms: Milliseconds = 5000
    """Without progress for so long, whatever waits is put back to rest,"""
    stuck_reply_ms: Milliseconds = 15_000
    """or for so long while the model or the voice is at work."""

    # ---- the agent hears itself ----
    echo_strikes: Annotated[int, msgspec.Meta(ge=1)] = 2
    """So many overlaps that were the agent's own words,"""
    echo_window_ms: Milliseconds = 60_000
    """within this time, shut the microphone while the loudspeaker plays (mode half),"""
    echo_residual: Share = 0.05
    """and so does echo that still looks like speech in this share of the playback."""
    reprobe_ms: Milliseconds = 300_000
    """After so long it is tried again without."""
