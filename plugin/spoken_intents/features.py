"""Waveform -> log-mel, equal to Whisper's own on every frame that covers the utterance.

Padding convention: as in Whisper, the first window is centred on sample 0 over a mirrored start, and the
utterance is followed by zeros up to 30 s, where Whisper's window ends and is mirrored too. Whisper's 3000 frames
of that window go on into the zeros; ours end with the utterance, after ``ceil(samples / 160)`` frames.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import AudioError

N_FFT = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms between frames
MAX_FRAMES = 3000  # 30 s: where Whisper's position table ends
MAX_SAMPLES = MAX_FRAMES * HOP_SAMPLES
# Frames are transformed in blocks that stay in the processor's cache, and whose product with the filters OpenBLAS does in this
# thread: of larger ones it has its own threads do a part, which then spin on every core for ten times as long as all of this takes.
BLOCK_PRODUCTS = 2**18  # multiply-adds
MIN_SAMPLES = 2 * HOP_SAMPLES  # one position of the encoder, and enough to mirror


@dataclass(frozen=True)
class FrontEnd:
    """The constants a model was trained with; they travel in its ``model.json``."""

    n_mels: int = 80
    sample_rate: int = SAMPLE_RATE
    n_fft: int = N_FFT
    hop_samples: int = HOP_SAMPLES
    padded: bool = False


def log_mel(samples: np.ndarray, n_mels: int = 80, padded: bool = False) -> np.ndarray:
    """Log-mel spectrogram, float32, shape (n_mels, frames), one frame each 10 ms, about -1 to 1.5.

    With `padded` it goes on to Whisper's 3000 frames, as the stock model class wants it.

    Follows openai/whisper ``audio.py``: Hann window, power spectrum, Slaney mel filters, log10, at most 8
    (80 dB) below the utterance's loudest value, then (x + 4) / 4.

    Raises:
        AudioError: Shorter than 20 ms or longer than 30 s.
    """
    if not MIN_SAMPLES <= len(samples) <= MAX_SAMPLES:
        raise AudioError(f"An utterance of {len(samples) / SAMPLE_RATE:.2f} s: between 0.02 and 30 s can be classified.")
    frames = -(-len(samples) // HOP_SAMPLES)
    # Windows centred just behind the end still touch it: they count for the loudest value, but are not kept.
    touching = min(-(-(len(samples) + N_FFT // 2) // HOP_SAMPLES), MAX_FRAMES)
    around = np.zeros(max(touching - 1, 0) * HOP_SAMPLES + N_FFT, dtype=np.float32)
    half = N_FFT // 2
    around[:half] = samples[half:0:-1]
    behind = around[half:]
    behind[: len(samples)] = samples
    mirrored = max(len(behind) - MAX_SAMPLES, 0)  # of a full window, the last frame alone looks beyond its end
    behind[len(behind) - mirrored :] = behind[MAX_SAMPLES - mirrored - 1 : MAX_SAMPLES - 1][::-1]
    windows = np.lib.stride_tricks.sliding_window_view(around, N_FFT)[::HOP_SAMPLES]
    # The transform is in double precision, as 80 dB are kept. What follows it only adds what is positive: single is exact enough.
    mel = np.empty((n_mels, touching), dtype=np.float32)
    block = BLOCK_PRODUCTS // (n_mels * (N_FFT // 2 + 1))
    for first in range(0, touching, block):
        spectrum = np.fft.rfft(windows[first : first + block] * _hann(), axis=1)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        mel[:, first : first + block] = _mel_filters(n_mels) @ power.T
    log = np.log10(np.maximum(mel, np.float32(1e-10)))
    lowest = log.max() - np.float32(8.0)
    if padded:
        whole = np.full((n_mels, MAX_FRAMES), max(lowest, -10.0), dtype=np.float32)  # the logarithm of nothing
        whole[:, : log.shape[1]] = np.maximum(log, lowest)
        log = whole
    else:
        log = np.maximum(log, lowest)[:, :frames]
    return (log + 4.0) / 4.0


@lru_cache(maxsize=None)
def _hann() -> np.ndarray:
    return np.hanning(N_FFT + 1)[:-1]  # periodic


@lru_cache(maxsize=None)
def _mel_filters(n_mels: int) -> np.ndarray:
    """Slaney's filters with unit area, float32, shape (n_mels, N_FFT // 2 + 1), 0 to 8000 Hz."""
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    edges = _mel_to_hertz(np.linspace(0, _hertz_to_mel(SAMPLE_RATE / 2), n_mels + 2))
    width = np.diff(edges)
    slopes = edges[:, None] - bins[None, :]
    rising = -slopes[:-2] / width[:-1, None]
    falling = slopes[2:] / width[1:, None]
    filters = np.maximum(0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return filters.astype(np.float32)


# Slaney's scale: linear to 1000 Hz (15 mel), then 27 mel for each factor of 6.4.
def _hertz_to_mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def _mel_to_hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
