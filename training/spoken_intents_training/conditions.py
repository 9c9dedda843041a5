"""How well a model hears where it is used: with noise around the caller, and over the telephone."""

from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import soundfile
import soxr

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import AudioError
from spoken_intents.recognizer import Recognition
from spoken_intents_training.augment import add_noise, telephone
from spoken_intents_training.dataset import SILENCE, Clip, read_samples
from spoken_intents_training.evaluate import Progress, recordings
from spoken_intents_training.metrics import wilson_interval
from spoken_intents_training.nonspeech import non_speech_clips

SNRS_DB = (20, 15, 10, 5, 0)
NOISE_SECONDS = 60  # of each recording
NOISES = 48  # made up, where none are given
# A recipe's seed is below 2**32: no noise made up here was trained with.
MADE_UP_SEED = 2**64 - 1
MADE_UP = "made-up noise"

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def measure_conditions(
    classify: Callable[[np.ndarray], Recognition],
    clips: Sequence[Clip],
    noises: Optional[Sequence[np.ndarray]] = None,
    seed: int = 0,
    progress: Progress = lambda clips: clips,
) -> List[Dict[str, Any]]:
    """Accuracy on the clips as they are, with noise of each of `SNRS_DB`, and over the telephone.

    Noise and signal are compared by their mean power over the whole clip, pauses included.

    Args:
        classify: `Recognizer.classify`.
        noises: Float32 at 16 kHz; each clip gets a random stretch of a random one. None: made-up ones.
        seed: Together with a clip's place and the condition it decides which.

    Returns:
        A row for each condition: condition (its name), snr_db and noise (None where none is added), accuracy,
        accuracy_95, difference (from the clips as they are), n.

    Raises:
        AudioError: A clip that cannot be used.
    """
    made_up = noises is None
    chosen = non_speech_clips(NOISES, MADE_UP_SEED) if noises is None else noises
    listed = list(_conditions(chosen))
    right = np.zeros((len(listed), len(clips)), dtype=bool)
    for place, clip in enumerate(progress(clips)):
        samples = read_samples(clip)
        for number, (_, _, change) in enumerate(listed):
            heard = classify(change(samples, np.random.default_rng((seed, place, number))))
            right[number, place] = heard.is_speech and heard.intent == clip.intent
    source = MADE_UP if made_up else f"{len(chosen)} recording(s)"
    told = [{"condition": name, "snr_db": snr_db, "noise": None if snr_db is None else source} for name, snr_db, _ in listed]
    return _rows(told, right.sum(axis=1).tolist(), len(clips))


def pool_conditions(parts: Sequence[List[Dict[str, Any]]]) -> List[Dict[str, Any]]:
    """The rows of `measure_conditions` over all clips, from those of several models that heard a part of them each."""
    same = list(zip(*parts))
    right = [sum(round(row["accuracy"] * row["n"]) for row in rows) for rows in same]
    return _rows([rows[0] for rows in same], right, sum(part[0]["n"] for part in parts if part))


def _rows(told: Sequence[Dict[str, Any]], right: Sequence[int], n: int) -> List[Dict[str, Any]]:
    return [
        {
            **condition,
            "accuracy": count / n,
            "accuracy_95": list(wilson_interval(count, n)),
            "difference": (count - right[0]) / n,
            "n": n,
        }
        for condition, count in zip(told, right)
    ]


def _conditions(noises: Sequence[np.ndarray]) -> Iterator[Tuple[str, Optional[int], Change]]:
    """Name, SNR and what is done to the samples; first nothing."""
    yield "clean", None, lambda samples, rng: samples
    for snr_db in SNRS_DB:
        yield f"{snr_db} dB", snr_db, partial(_noisy, noises, snr_db)
    yield "telephone", None, lambda samples, rng: telephone(samples)


def _noisy(noises: Sequence[np.ndarray], snr_db: int, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return add_noise(samples, noises[rng.integers(len(noises))], snr_db, rng)


def read_noises(folder: Path) -> List[np.ndarray]:
    """The first 60 s of every recording in a folder, float32, 16 kHz.

    Raises:
        DataError: No such folder, or no recording in it.
        AudioError: A recording that cannot be read or holds only silence.
    """
    return [_read_noise(path) for path in recordings(folder)]


def _read_noise(path: Path) -> np.ndarray:
    try:
        with soundfile.SoundFile(path) as file:
            sample_rate = file.samplerate
            mono = file.read(NOISE_SECONDS * sample_rate, dtype="float32", always_2d=True).mean(axis=1)
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(f"{path}: cannot be read as audio ({str(error).rstrip('.')}).") from None
    if not len(mono) or not np.isfinite(mono).all() or np.abs(mono).max() < SILENCE:
        raise AudioError(f"{path}: holds no noise that could be added, only silence or no numbers.")
    return soxr.resample(mono, sample_rate, SAMPLE_RATE)
