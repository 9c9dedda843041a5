"""What is wrong with a recording that somebody just made, so that it can be said while it can still be repeated."""

from dataclasses import dataclass
from typing import List

import numpy as np

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.segmenter import Utterance

FRAME_SAMPLES = SAMPLE_RATE * 20 // 1000
QUIETEST_FRAMES = 10  # what is quiet around speech, and between words: 200 ms, of some 400 that the segmenter leaves
FULL_SCALE = 0.985  # resampled, what was cut off at 1 lies a little below or above it
CLIPPED_SAMPLES = 48  # 3 ms in all; a browser's automatic gain may let pass less before it turns itself down
QUIET_DB = -42.0  # of speech; the corpus, and people on the telephone, are 10 to 20 dB louder
NOISY_DB = 15.0  # by how much speech is at least louder than what is around it
EDGE_FRAMES, EDGE_DB = 2, 15.0  # speech that begins in the first 40 ms, or ends in the last, was cut
LEAD_SAMPLES = SAMPLE_RATE // 10  # of listening before speech, less than which it has begun before
FASTEST = 30.0  # letters a second; people read about 15, and hurried ones 22


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        code: For programs.
        words: For people.
        spoils: Whether words are missing, so that it had better be said again; else it is only worse than it might be.
    """

    code: str
    words: str
    spoils: bool = False


TOO_LONG = Fault("too_long", "Too long: it was cut.", True)
TOO_SHORT = Fault("too_short", "Too short for this sentence: some of it is missing, or it was no speech.", True)
CUT_START = Fault("cut_start", "The beginning is cut. Wait a moment before you speak.", True)
CUT_END = Fault("cut_end", "The end is cut. Stay silent for a moment after you have spoken.", True)
CLIPPED = Fault("clipped", "Too loud: the microphone is overdriven. Move away from it, or turn it down.")
QUIET = Fault("quiet", "Too quiet. Come closer to the microphone, or turn it up.")
NOISY = Fault("noisy", "Noisy: it is loud around you, or the microphone hums.")


def faults(utterance: Utterance, sentence: str = "", lead_samples: int = LEAD_SAMPLES) -> List[Fault]:
    """What is wrong with an utterance that the segmenter cut, the worst first; often nothing.

    Args:
        sentence: What should have been said, where that is known.
        lead_samples: How much was listened to before speech began.
    """
    samples = utterance.samples
    levels = _levels_db(samples)
    speech_db = float(np.percentile(levels, 90))
    noise_db = float(np.median(np.sort(levels)[:QUIETEST_FRAMES]))
    loud = levels > max(speech_db - EDGE_DB, noise_db + 6)
    seconds = (utterance.speech_end_sample - utterance.start_sample) / SAMPLE_RATE
    found = {
        TOO_LONG: utterance.reason == "max_duration",
        TOO_SHORT: sum(map(str.isalnum, sentence)) > FASTEST * seconds,
        CUT_START: lead_samples < LEAD_SAMPLES or bool(loud[:EDGE_FRAMES].any()),
        CUT_END: utterance.reason != "max_duration" and bool(loud[-EDGE_FRAMES:].any()),
        CLIPPED: np.count_nonzero(np.abs(samples) >= FULL_SCALE) >= CLIPPED_SAMPLES,
        QUIET: speech_db < QUIET_DB,
        NOISY: speech_db - noise_db < NOISY_DB,
    }
    return [fault for fault, is_so in found.items() if is_so]


def _levels_db(samples: np.ndarray) -> np.ndarray:
    """The level of every whole 20 ms, in decibels below full scale; float, shape (frames,)."""
    frames = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    return 10 * np.log10(np.mean(np.square(frames, dtype=np.float64), axis=1) + 1e-10)
