"""Audio references, and the hand-off of live utterances from channel to NLU.

A spoken message's text is a reference: a relative path with an audio suffix, and nothing else.
``audio/freeze/0007.flac`` is a file, ``live/<random id>.wav`` an utterance in memory that is taken once.

Whoever may send Rasa text may send a reference, so a server takes live ones only, each from the call that heard it.
"""

import os
import re
import secrets
import threading
from collections import OrderedDict
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Optional, Sequence, Set, Tuple

import numpy as np

from spoken_intents.audio import SUFFIXES
from spoken_intents.errors import AudioReferenceError, one_line
from spoken_intents.files import open_regular
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
    directory, inside = _place(reference, directories, root)
    return directory / inside


def open_clip(reference: str, directories: Sequence[str], root: Optional[Path] = None) -> BinaryIO:
    """Opens the file a reference points to: just what `resolve` has looked at.

    Whatever becomes a link in between, a directory on the way included, is not followed.

    Raises:
        AudioReferenceError: As `resolve`.
    """
    directory, inside = _place(reference, directories, root)
    opened = None
    try:
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for name in inside.parts[:-1]:
            above, opened = opened, None
            try:
                opened = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
            finally:
                os.close(above)
        return open_regular(inside.name, opened, links=False)
    except OSError as error:
        raise AudioReferenceError(f"{shown(reference)}: cannot be opened ({error.strerror}).") from None
    finally:
        if opened is not None:
            os.close(opened)


def _place(reference: str, directories: Sequence[str], root: Optional[Path]) -> Tuple[Path, Path]:
    """The directory that holds a reference's file, and the file in it; neither has a link on its way."""
    root = (root or Path.cwd()).resolve()
    outside = AudioReferenceError(
        f"{shown(reference)}: outside the audio directories ({', '.join(directories)}). Put the clip there, or name its "
        "directory in SpokenIntentClassifier's setting audio_directories."
    )
    if not is_audio_reference(reference):
        raise outside
    try:
        path = (root / reference).resolve()
        found = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, NUL, not encodable, a loop of links
        raise AudioReferenceError(f"{shown(reference)}: no file can be called that ({error!s:.100}).") from None
    for directory in directories:
        allowed = (root / directory).resolve()
        if allowed in path.parents:
            break
    else:
        raise outside
    if not found:
        raise AudioReferenceError(f"{shown(reference)}: no such file in {root}.")
    return allowed, path.relative_to(allowed)


def shown(reference: str) -> str:
    """A reference for a message or a log: whoever wrote it may have put anything there."""
    return one_line(reference[:200])


@dataclass(frozen=True)
class LiveUtterance:
    """An utterance on its way to Rasa, already classified where a model was at hand."""

    samples: np.ndarray
    recognition: Optional[Recognition]


# The last utterance that this task put. Rasa's NLU runs in the task of the turn, so only that turn can name it: whatever
# text and metadata other channels bring, they come in other tasks.
_mine: "ContextVar[str]" = ContextVar("spoken_intents_mine", default="")


class HandOff:
    """Utterances between channel and NLU, by reference; each is taken once, by the task that put it. Thread-safe.

    Holds at most `capacity` utterances: one that nobody takes (its turn failed before NLU) is pushed out by
    newer ones.
    """

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._held: "OrderedDict[str, LiveUtterance]" = OrderedDict()
        self._lock = threading.Lock()
        self._live_only: Set[object] = set()

    def __len__(self) -> int:
        return len(self._held)

    def put(self, utterance: LiveUtterance) -> str:
        """Holds `utterance`; returns the reference that takes it, in this task or one that it starts."""
        reference = f"{LIVE}{secrets.token_hex(16)}.wav"
        with self._lock:
            self._held[reference] = utterance
            while len(self._held) > self._capacity:
                self._held.popitem(last=False)
        _mine.set(reference)
        return reference

    def take(self, reference: str) -> LiveUtterance:
        """The utterance behind `reference`, which is used up by this.

        Raises:
            AudioReferenceError: It was taken before, never existed, or is another call's; the last uses nothing up.
        """
        with self._lock:
            utterance = self._held.pop(reference, None) if reference == _mine.get() else None
        if utterance is None:
            raise AudioReferenceError(
                f"{shown(reference)}: no such live utterance; each is used once, by the call that it was heard in."
            )
        return utterance

    def discard(self, reference: str) -> None:
        """Lets go of `reference` if it is still held."""
        with self._lock:
            self._held.pop(reference, None)

    def serve(self, channel: object) -> None:
        """From now on text in this process names no files, as strangers may write it, until `channel` leaves."""
        self._live_only.add(channel)

    def leave(self, channel: object) -> None:
        """See `serve`."""
        self._live_only.discard(channel)

    @property
    def live_only(self) -> bool:
        """Whether references to files are refused."""
        return bool(self._live_only)


hand_off = HandOff()
