"""Sounds that are not speech, made up: what the reserved non-speech output learns from.

Voice activity detectors take swelling, tonal and bursty sounds for speech, so those are most of it.
"""

from typing import List

import numpy as np
from scipy.signal import butter, sosfilt

from spoken_intents.audio import SAMPLE_RATE


def non_speech_clips(count: int, seed: int) -> List[np.ndarray]:
    """`count` different noises, float32, 16 kHz, 0.5 to 4 s each, from hardly audible to loud."""
    kinds = (_rushing, _motor, _knocks, _tones, _breath, _chirps)
    clips = []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        time = np.arange(int(rng.uniform(0.5, 4.0) * SAMPLE_RATE)) / SAMPLE_RATE
        sound = kinds[index % len(kinds)](time, rng)
        if rng.random() < 0.3:  # two sounds at once
            sound = _unit(sound) + rng.uniform(0.2, 1) * _unit(kinds[rng.integers(len(kinds))](time, rng))
        sound = sound + rng.uniform(0.001, 0.1) * _coloured(len(time), rng)
        clips.append((sound / np.abs(sound).max() * 10 ** (rng.uniform(-50, -1) / 20)).astype(np.float32))
    return clips


def _unit(sound: np.ndarray) -> np.ndarray:
    return sound / (sound.std() + 1e-9)


def _coloured(length: int, rng: np.random.Generator) -> np.ndarray:
    frequency = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 30)
    return _unit(np.fft.irfft(np.fft.rfft(rng.standard_normal(length)) / frequency ** rng.uniform(0, 1.3), length))


def _swell(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A slow envelope, 0.05 to 1."""
    return 0.05 + 0.95 * np.sin(np.pi * rng.uniform(0.2, 3) * time + rng.uniform(0, np.pi)) ** 2


def _band(sound: np.ndarray, low: float, high: float) -> np.ndarray:
    return sosfilt(butter(2, [low, high], "bandpass", fs=SAMPLE_RATE, output="sos"), sound)


def _rushing(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wind, water, line noise."""
    noise = _coloured(len(time), rng)
    if rng.random() < 0.5:
        low = rng.uniform(100, 1500)
        noise = _band(noise, low, low * rng.uniform(1.5, 4.5))
    return noise * (_swell(time, rng) if rng.random() < 0.7 else 1.0)


def _motor(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mains hum, engines, fans: harmonics that drift, and air."""
    pitch = rng.uniform(45, 420) * (1 + rng.uniform(0, 0.05) * np.sin(2 * np.pi * rng.uniform(0.1, 2) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    harmonics = rng.uniform(0.2, 1, 12) / np.arange(1, 13) ** rng.uniform(0, 1.5)
    sound = sum(strength * np.sin(k * phase) for k, strength in enumerate(harmonics, 1))
    return (_unit(sound) + rng.uniform(0, 2) * _coloured(len(time), rng)) * _swell(time, rng)


def _knocks(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Typing, dishes, taps, doors: short rings."""
    sound = np.zeros(len(time))
    for start in rng.integers(0, len(time), rng.integers(1, 25)):
        ring = time[: len(time) - start]
        frequency, decay = rng.uniform(80, 6000, 3), rng.uniform(5, 120)
        hit = np.sin(2 * np.pi * frequency[:, None] * ring).sum(axis=0) + rng.standard_normal(len(ring))
        sound[start:] += rng.uniform(0.2, 1) * hit * np.exp(-decay * ring)
    return sound


def _tones(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Beeps, rings, chords, simple music."""
    sound = np.zeros(len(time))
    note = int(rng.uniform(0.08, 0.8) * SAMPLE_RATE)
    for start in range(0, len(time), note):
        part = time[start : start + note] - time[start]
        for frequency in rng.uniform(150, 2500, rng.integers(1, 4)):
            for k in range(1, rng.integers(2, 6)):
                sound[start : start + note] += np.sin(2 * np.pi * k * frequency * part) / k * np.exp(-rng.uniform(0, 6) * part)
    return sound


def _breath(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Breath, rustle, coughing bursts."""
    centre = rng.uniform(300, 3000)
    air = _band(rng.standard_normal(len(time)), centre * 0.6, min(centre * 1.8, 7500))
    envelope = np.zeros(len(time))
    for _ in range(rng.integers(1, 5)):
        middle, width = rng.uniform(0, time[-1]), rng.uniform(0.03, 0.5)
        envelope += np.exp(-(((time - middle) / width) ** 2))
    return air * envelope


def _chirps(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Squeaks, sirens, birds: gliding tones."""
    glide = rng.uniform(200, 3000) * 2 ** (rng.uniform(0.1, 1.5) * np.sin(2 * np.pi * rng.uniform(0.3, 9) * time))
    return np.sin(2 * np.pi * np.cumsum(glide) / SAMPLE_RATE) * _swell(time, rng)
