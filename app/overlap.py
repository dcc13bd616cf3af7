"""Is this an interruption? Pure rules on what is known of speech that overlaps a reply.

Sound alone shuts the gate, which costs nothing that can't be taken back; only words end a reply.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from app.endpoint import words_of

Kind = Literal["turn", "stop", "backchannel", "echo", "noise"]


class Verdict(NamedTuple):
    """What an overlap is, and why we think so."""

    kind: Kind
    reason: str


def judge(text: str, *, final: bool) -> Verdict | None:
    """Judge an overlap by its transcript.

    Args:
        text: The newest transcript, partial or final.
        final: Nothing will be added to `text` unless the user speaks again.

    Returns:
        None while it can't be told.
    """
    words = words_of(text)
    if words:
        return Verdict("turn", f"words over the reply: {' '.join(words[:4])}")
    if final:
        return Verdict("noise", "the sound held no words")
    return None


def judge_wordless(held_ms: float) -> Verdict:
    """The verdict on speech-like sound that has brought no word for `held_ms` over a held reply."""
    return Verdict("noise", f"no word in {held_ms:.0f} ms of sound")
