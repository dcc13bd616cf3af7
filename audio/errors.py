"""What can go wrong with sound and speech, told in three parts: what happened, why, and what to do next.

    AudioError               anything about sound that a user can mend
    ├── DeviceError          a sound device that is missing, busy or refuses
    ├── SpeechModelError     a recogniser, voice or voice-activity model that can't be used
    └── WavError             a WAV file that can't be read or written

`audio` imports nothing of the application; whoever prints errors goes by the three attributes.
"""

from __future__ import annotations


class AudioError(Exception):
    """An error about sound that the user can do something about.

    Attributes:
        what: What happened, in one clause.
        why: The cause, as far as it is known.
        fix: What to type or change next.
    """

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(f"{what}: {why}. {fix}")
        self.what = what
        self.why = why
        self.fix = fix


class DeviceError(AudioError):
    """A sound device that is missing, busy or refuses what we ask."""


class SpeechModelError(AudioError):
    """A speech model that is missing, damaged or of another kind."""


class WavError(AudioError):
    """A WAV file that can't be read or written."""
