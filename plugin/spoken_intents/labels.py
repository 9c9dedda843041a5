"""What people say a recorded turn was: written into the recording itself, whole, and under a lock.

A label is the name of an intent, or one of two reserved names: for what is no speech, and for speech that is of no intent.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Optional

import soundfile

from spoken_intents.errors import AudioError, DataError
from spoken_intents.files import locked, open_regular, write_whole
from spoken_intents.recordings import Label, Recording, encoded, read_recording

OUT_OF_SCOPE = "__out_of_scope__"  # reserved, as recognizer.NON_SPEECH is


def label_recording(file: Path, label: Optional[Label], before: Optional[Label]) -> Recording:
    """Writes what a turn was into its recording, whose samples stay as they are; None takes the label away.

    Args:
        before: The label that it had when somebody looked at it.

    Raises:
        AudioError: It is gone, or damaged.
        DataError: Somebody else has labelled it meanwhile, or it cannot be written. Nothing was changed.
    """
    try:
        with locked(file.parent.parent):  # what is deleted meanwhile must not be written again
            found = _looked_at(file, before)
            about = replace(found.about, label=label)
            try:
                with open_regular(file) as opened:
                    samples, _ = soundfile.read(opened, dtype="int16")
                write_whole(file, encoded(samples, about), private=True, durable=True)
            except (OSError, soundfile.LibsndfileError) as error:
                reason = getattr(error, "strerror", None) or error
                raise DataError(f"{file}: could not be labelled ({reason}). It is as it was.") from None
    except FileNotFoundError:  # not even the directory is there
        raise _gone(file) from None
    return replace(found, about=about)


def seen_label(seen: Optional[Dict[str, Any]]) -> Optional[Label]:
    """A label that somebody has seen, from JSON. Raises DataError: it is none."""
    if seen is None:
        return None
    if set(seen) != {"intent", "by", "time"} or not all(isinstance(value, str) for value in seen.values()):
        raise DataError("The label that was seen takes intent, by and time.")
    return Label(**seen)


def _looked_at(file: Path, before: Optional[Label]) -> Recording:
    """The recording, if it is still there and still has the label that it had."""
    if not file.exists():
        raise _gone(file)
    found = read_recording(file)
    if found.about.label != before:
        raise DataError(f"{_told(found.about.label)} meanwhile. Look again.")
    return found


def _gone(file: Path) -> AudioError:
    return AudioError(f"{file}: is gone: somebody removed it, or it was too old, or there was no room. Nothing was labelled.")


def _told(label: Optional[Label]) -> str:
    return f"{label.by} labelled this turn {label.intent}" if label else "Somebody took the label away"
