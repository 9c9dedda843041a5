"""What a clip would sound like elsewhere: another speaker, another room, noise, a telephone.

Every function here returns a new array and draws from the generator it is given, so that the same seed gives the
same clip whatever order or process it is made in. `add_noise` and `telephone` are also what evaluation measures with.
"""

from dataclasses import dataclass
from typing import Tuple

import numpy as np
import soxr
from scipy.signal import butter, fftconvolve, sosfilt

from spoken_intents.audio import SAMPLE_RATE, float_to_mulaw, mulaw_to_float
from spoken_intents.features import MAX_FRAMES
from spoken_intents_training.nonspeech import non_speech_clips

TELEPHONE_RATE = 8_000  # Hz
NOISES = 48  # made up once, to draw from
# Of a synthesizer's sentence made rough: another vocal tract is another rate and pitch together.
VOCAL_TRACT = (0.88, 1.14)
PAUSE_S = (0.08, 0.35)
PEAK_DB = (-18, -2)


@dataclass(frozen=True)
class Surroundings:
    """Where clips may be heard: shares of them, and how bad it gets there.

    Attributes:
        room: Share of clips in a room, which reverberates for 0.1 to 0.6 s.
        noise: Share in noise.
        snr_db: How far below the speech, in dB: from, to.
        telephone: Share through a telephone.
    """

    room: float = 0.3
    noise: float = 0.5
    snr_db: Tuple[float, float] = (0, 25)
    telephone: float = 0.25


class Elsewhere:
    """Clips as they would sound in another room, in noise or on a telephone.

    Args:
        seed: Of the noises that are made up.
    """

    def __init__(self, seed: int, surroundings: Surroundings = Surroundings()) -> None:
        self._noises = non_speech_clips(NOISES, seed)
        self._where = surroundings

    def sampled(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A copy of `samples`, some in a room, some in noise, some on a telephone; same length."""
        for change in (self.room, self.noise, self.telephone):
            samples = change(samples, rng)
        return samples.astype(np.float32, copy=False)

    def roughened(self, speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What a synthesizer says (float32, 16 kHz) as a caller's microphone may bring it.

        By another vocal tract, with a pause before and behind, at another level; longer or shorter for it.
        """
        speech = soxr.resample(without_silence(speech), SAMPLE_RATE * rng.uniform(*VOCAL_TRACT), SAMPLE_RATE)
        speech = np.pad(speech / (np.abs(speech).max() + 1e-9), [int(SAMPLE_RATE * rng.uniform(*PAUSE_S)) for _ in range(2)])
        heard = self.sampled(speech.astype(np.float32), rng)
        return (heard / (np.abs(heard).max() + 1e-9) * 10 ** (rng.uniform(*PEAK_DB) / 20)).astype(np.float32)

    def room(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Some in a room."""
        if rng.random() >= self._where.room:
            return samples
        return reverberate(samples, rng.uniform(0.1, 0.6), rng.uniform(0, 15), rng)

    def noise(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Some in a made-up noise."""
        if rng.random() >= self._where.noise:
            return samples
        return add_noise(samples, self._noises[rng.integers(len(self._noises))], rng.uniform(*self._where.snr_db), rng)

    def telephone(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Some through a telephone."""
        return telephone(samples) if rng.random() < self._where.telephone else samples


def without_silence(speech: np.ndarray) -> np.ndarray:
    """Without the digital silence that synthesizers put around a sentence."""
    loud = np.flatnonzero(np.abs(speech) > 0.01 * np.abs(speech).max(initial=0))
    return speech[loud[0] : loud[-1] + 1] if len(loud) else speech


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """`samples` with a random stretch of `noise`, repeated when too short, `snr_db` below them in mean power.

    Louder than full scale is scaled down whole, not clipped.
    """
    start = int(rng.integers(len(noise)))
    stretch = np.resize(np.roll(noise, -start), len(samples))
    power = float(np.mean(samples**2)) / (float(np.mean(stretch**2)) + 1e-12)
    mixed = samples + stretch * np.float32(np.sqrt(power * 10 ** (-snr_db / 10)))
    return (mixed / max(1.0, float(np.abs(mixed).max()))).astype(np.float32)


def telephone(samples: np.ndarray) -> np.ndarray:
    """`samples` as they come out of a telephone: 300 to 3400 Hz, 8 kHz, G.711 µ-law. Same length."""
    narrow = soxr.resample(samples, SAMPLE_RATE, TELEPHONE_RATE)
    band = butter(4, [300, 3400], "bandpass", fs=TELEPHONE_RATE, output="sos")
    heard = mulaw_to_float(float_to_mulaw(sosfilt(band, narrow)))
    wide = soxr.resample(heard, TELEPHONE_RATE, SAMPLE_RATE)
    return np.resize(wide, len(samples)) if len(wide) >= len(samples) else np.pad(wide, (0, len(samples) - len(wide)))


def reverberate(samples: np.ndarray, rt60: float, direct_db: float, rng: np.random.Generator) -> np.ndarray:
    """`samples` in a room: convolved with noise that falls by 60 dB in `rt60` seconds, `direct_db` below the direct sound."""
    length = int(rt60 * SAMPLE_RATE)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail *= 10 ** (-direct_db / 20) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    return fftconvolve(samples, tail)[: len(samples)].astype(np.float32)


def change_voice(spectrogram: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As somebody else would say it: up to 15 % faster or slower, by a vocal tract up to 10 % longer or shorter.

    Resamples the log-mel as a picture (vocal tract length perturbation, Jaitly and Hinton 2013).
    """
    bands, frames = spectrogram.shape
    picture = spectrogram
    for axis, places in (
        (0, np.clip(np.arange(bands) * rng.uniform(0.9, 1.1), 0, bands - 1)),
        (1, np.arange(0, frames - 1, rng.uniform(0.85, 1.15))),
    ):
        low = np.minimum(places.astype(int), picture.shape[axis] - 2)
        share = (places - low).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        picture = np.take(picture, low, axis) * (1 - share) + np.take(picture, low + 1, axis) * share
    return picture[:, :MAX_FRAMES]
