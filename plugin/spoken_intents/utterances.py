"""Audio references, and the hand-off of live utterances from channel to NLU.

A spoken message's text is a reference: a relative path with an audio suffix, and nothing else.
``audio/freeze/0007.flac`` is a file, ``live/<random id>.wav`` an utterance in memory that is taken once.
"""

import re
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np

from spoken_intents.audio import SUFFIXES
from spoken_intents.errors import AudioReferenceError
from spoken_intents.recognizer import Recognition

LIVE = "live/"
# At least one directory, so that no ordinary sentence is taken for a reference.
_REFERENCE = re.compile(r"[^/\\\n\r\0]+(/[^/\\\n\r\0]+)+")


def is_audio_reference(text: Any) -> bool:
    """Whether a message's text is a reference to audio (not whether that audio exists)."""
    return isinstance(text, str) and text.lower().endswith(SUFFIXES) and _REFERENCE.fullmatch(text) is not None


def resolve(reference: str, directories: Sequence[str], root: Optional[Path] = None) -> Path:
    """The file a reference points to.

    Args:
        directories: Directories that may hold clips, relative to `root`.
        root: Where references start; the working directory when left out.

    Raises:
        AudioReferenceError: No such file, or outside the directories (also by ``..`` or a symbolic link).
    """
    root = (root or Path.cwd()).resolve()
    try:
        path = (root / reference).resolve()
        found = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL, not encodable, a loop of links
        raise AudioReferenceError(f"{reference!r:.100}: no file can be called that ({error}).") from None
    allowed = [(root / directory).resolve() for directory in directories]
    if not is_audio_reference(reference) or not any(directory in path.parents for directory in allowed):
        raise AudioReferenceError(
            f"{reference}: outside the audio directories ({', '.join(directories)}). Put the clip there, or name its "
            "directory in SpokenIntentClassifier's setting audio_directories."
        )
    if not found:
        raise AudioReferenceError(f"{reference}: no such file in {root}.")
    return path


@dataclass(frozen=True)
class LiveUtterance:
    """An utterance on its way to Rasa, already classified where a model was at hand."""

    samples: np.ndarray
    recognition: Optional[Recognition]


class HandOff:
    """Utterances between channel and NLU, by reference; each is taken once. Thread-safe.

    Holds at most `capacity` utterances: one that nobody takes (its turn failed before NLU) is pushed out by
    newer ones.
    """

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._held: "OrderedDict[str, LiveUtterance]" = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def put(self, utterance: LiveUtterance) -> str:
        """Holds `utterance`; returns the reference that takes it."""
        reference = f"{LIVE}{secrets.token_hex(16)}.wav"
        with self._lock:
            self._held[reference] = utterance
            while len(self._held) > self._capacity:
                self._held.popitem(last=False)
        return reference

    def take(self, reference: str) -> LiveUtterance:
        """The utterance behind `reference`, which is used up by this.

        Raises:
            AudioReferenceError: It was taken before, or never existed.
        """
        with self._lock:
            utterance = self._held.pop(reference, None)
        if utterance is None:
            raise AudioReferenceError(f"{reference}: no such live utterance; each is used once, by the channel that heard it.")
        return utterance

    def discard(self, reference: str) -> None:
        """Lets go of `reference` if it is still held."""
        with self._lock:
            self._held.pop(reference, None)


hand_off = HandOff()
