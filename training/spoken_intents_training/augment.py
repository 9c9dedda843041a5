"""What a clip would sound like elsewhere: another speaker, another room, noise, a telephone.

Every function here returns a new array and draws from the generator it is given, so that the same seed gives the
same clip whatever order or process it is made in. `add_noise` and `telephone` are also what evaluation measures with.
"""

from functools import cached_property
from typing import Callable, Dict, List, Sequence

import numpy as np
import soxr
from scipy.signal import butter, fftconvolve, sosfilt

from spoken_intents.audio import SAMPLE_RATE, float_to_mulaw, mulaw_to_float
from spoken_intents.features import MAX_FRAMES, MAX_SAMPLES, MIN_SAMPLES, log_mel
from spoken_intents_training.nonspeech import non_speech_clips

TELEPHONE_RATE = 8_000  # Hz
NOISES = 48  # made up once, to draw from
SAMPLED = ("gain", "shift", "room", "noise", "telephone")  # of the waveform, in this order
PICTURED = ("voice", "blank")  # of the log-mel
AUGMENTATIONS = (*SAMPLED, *PICTURED)


class Augmentation:
    """Varies clips by the named augmentations.

    Args:
        names: Some of `AUGMENTATIONS`.
        seed: Of the noises that are made up.
    """

    def __init__(self, names: Sequence[str], seed: int) -> None:
        self._names = names
        self._seed = seed

    @cached_property
    def _noises(self) -> List[np.ndarray]:
        return non_speech_clips(NOISES, self._seed)  # when first needed: clips that are held out are never varied

    def log_mel(self, samples: np.ndarray, n_mels: int, rng: np.random.Generator, padded: bool = False) -> np.ndarray:
        """The log-mel, (n_mels, frames), of a varied copy of `samples`; see `features.log_mel`."""
        picture = log_mel(self.sampled(samples, rng), n_mels, padded)
        if "voice" in self._names:
            picture = change_voice(picture, rng)
        return blank_out(picture, rng) if "blank" in self._names else picture

    def sampled(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A copy of `samples` varied by what works on the waveform, float32; only `shift` changes its length."""
        for name in SAMPLED:
            if name in self._names:
                samples = self._variations[name](self, samples, rng)
        return samples.astype(np.float32, copy=False)

    def _gain(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return samples * np.float32(10 ** (rng.uniform(-12, 6) / 20))

    def _shift(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Up to 300 ms of near silence more, or up to 60 ms of the clip less, at either end."""
        before, behind = (rng.uniform(-0.06, 0.3, 2) * SAMPLE_RATE).astype(int)
        kept = samples[max(0, -before) : len(samples) - max(0, -behind)]
        if len(kept) < len(samples) // 2 or len(kept) < MIN_SAMPLES:
            kept = samples
        hum = rng.standard_normal(max(0, before) + len(kept) + max(0, behind), np.float32) * np.float32(1e-4)
        hum[max(0, before) : max(0, before) + len(kept)] += kept
        return hum[:MAX_SAMPLES]

    def _room(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return reverberate(samples, rng.uniform(0.1, 0.6), rng.uniform(0, 15), rng) if rng.random() < 0.3 else samples

    def _noise(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < 0.5:
            return samples
        noise = self._noises[rng.integers(len(self._noises))]
        return add_noise(samples, noise, rng.uniform(0, 25), rng)

    def _telephone(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return telephone(samples) if rng.random() < 0.25 else samples

    _variations: Dict[str, Callable[..., np.ndarray]] = {
        "gain": _gain, "shift": _shift, "room": _room, "noise": _noise, "telephone": _telephone,
    }  # fmt: skip


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


def blank_out(spectrogram: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With two stretches of time (up to 250 ms) and two of frequency (up to 11 bands) at its lowest value.

    SpecAugment (Park et al. 2019).
    """
    blanked, lowest = spectrogram.copy(), spectrogram.min()
    bands, frames = blanked.shape
    for _ in range(2):
        blanked[:, _stretch(frames, min(25, frames // 6), rng)] = lowest
        blanked[_stretch(bands, 11, rng)] = lowest
    return blanked


def _stretch(size: int, longest: int, rng: np.random.Generator) -> slice:
    length = int(rng.integers(longest + 1))
    start = int(rng.integers(size - length + 1))
    return slice(start, start + length)
