"""A detector that takes whatever is loud for speech: for a quiet booth, or as the beginning of a better one."""

import numpy as np

from spoken_intents.audio import SAMPLE_RATE


class LoudVad:
    """`threshold`, a setting of every channel, is here the level from 0 to 1, as the root of the mean square."""

    window_samples = SAMPLE_RATE * 20 // 1000

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def is_speech(self, window: np.ndarray) -> bool:
        """Whether `window` (float32, exactly `window_samples` of them) is loud."""
        return bool(np.sqrt(np.mean(np.square(window))) >= self._threshold)
