"""How a clip sounds: whether it can be used at all, how loud its speech is, how much of it is silence."""

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Iterator

import numpy as np
import soundfile

from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16, read_audio
from spoken_intents.errors import AudioError
from spoken_intents.features import MAX_SAMPLES, MIN_SAMPLES
from spoken_intents_training.dataset import SILENCE, Clip, missing_clips

WINDOW_SAMPLES = SAMPLE_RATE // 50  # 20 ms, over which a level is measured
VOWEL_WINDOWS = 5  # speech is as loud as its fifth loudest window: a vowel lasts 100 ms, a click does not
QUIET_DB = -50  # relative to full scale; a word far from the microphone is at about -40
PAUSE_DB = -30  # relative to the speech of the same clip: nobody speaks so far below himself
PAUSE_SHARE, PAUSE_SECONDS = 0.85, 3.0  # both, so that one word in a recorder's usual three seconds is no problem
# Of all samples. Clipping by 6 dB leaves 0.5 % there, also behind Ogg, MP3 and a resampler, which bend flat tops and so
# rule out looking for equal neighbours. A clip that is merely normalized leaves less than 0.05 %.
FULL_SCALE, CLIPPED_SHARE = 0.99, 0.002
UTTERANCE_SECONDS = 25  # where the channel ends an utterance at the latest


@dataclass(frozen=True)
class Sound:
    """What was measured of a clip; where it cannot be used, `problem` is the kind of error and nothing else is known."""

    problem: str = ""
    reason: str = ""
    seconds: float = 0.0
    sample_rate: int = 0  # the file's
    content: bytes = b""  # a digest of the samples
    speech_db: float = 0.0
    pause_seconds: float = 0.0
    full_scale_share: float = 0.0

    def kinds(self) -> Iterator[str]:
        """The kinds of finding that are due."""
        if self.problem:
            yield self.problem
        if self.full_scale_share >= CLIPPED_SHARE:
            yield "clipped"
        if self.speech_db < QUIET_DB:
            yield "quiet"
        if self.seconds > UTTERANCE_SECONDS:
            yield "long"
        if self.pause_seconds >= max(PAUSE_SHARE * self.seconds, PAUSE_SECONDS):
            yield "pauses"


def measure(clip: Clip) -> Sound:
    """How a clip sounds, or why it cannot be used: for the same reasons as `read_samples`."""
    if missing_clips([clip]):
        return Sound("missing")
    try:
        samples = read_audio(clip.path, MAX_SAMPLES / SAMPLE_RATE, clip.name)
    except AudioError as error:
        return Sound(_why_refused(clip.path), str(error))
    magnitudes = np.abs(samples)
    if len(samples) < MIN_SAMPLES or magnitudes.max() < SILENCE:
        return Sound("too_short" if len(samples) < MIN_SAMPLES else "silent")
    windows = samples[: len(samples) // WINDOW_SAMPLES * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)
    levels = 10 * np.log10(np.maximum((windows**2).mean(axis=1), 1e-12))
    speech_db = float(np.sort(levels)[-VOWEL_WINDOWS:][0])
    return Sound(
        seconds=len(samples) / SAMPLE_RATE,
        sample_rate=soundfile.info(clip.path).samplerate,
        content=blake2b(float_to_pcm16(samples), digest_size=16).digest(),
        speech_db=speech_db,
        pause_seconds=int((levels < speech_db + PAUSE_DB).sum()) * WINDOW_SAMPLES / SAMPLE_RATE,
        full_scale_share=float((magnitudes >= FULL_SCALE).mean()),
    )


def _why_refused(path: Path) -> str:
    """The kind of error of a file that `read_audio` refuses."""
    try:
        header = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError):
        return "unreadable" if path.stat().st_size else "empty"
    samples = header.frames / header.samplerate * SAMPLE_RATE
    if samples > MAX_SAMPLES:
        return "too_long"
    return "empty" if not samples else "too_short" if samples < MIN_SAMPLES else "unreadable"
