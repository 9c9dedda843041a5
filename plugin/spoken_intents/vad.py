"""Voice activity detection: one window of samples -> speech or not."""

import numpy as np
import webrtcvad

from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16
from spoken_intents.config import require


class WebRtcVad:
    """Google's WebRTC detector. Adapts to the background: one instance for each stream.

    Args:
        mode: 0 (lets most through) to 3 (most strict).
    """

    window_samples = SAMPLE_RATE * 20 // 1000

    def __init__(self, mode: int) -> None:
        require(mode in (0, 1, 2, 3), f"vad_mode takes 0, 1, 2 or 3, got {mode}.")
        self._vad = webrtcvad.Vad(mode)

    def is_speech(self, window: np.ndarray) -> bool:
        """Whether `window` (float32, exactly `window_samples` of them) holds speech."""
        return self._vad.is_speech(float_to_pcm16(window), SAMPLE_RATE)
