"""Our log-mel against Whisper's own, frame by frame."""

import os
import subprocess
import sys
from typing import Dict, List

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import AudioError
from spoken_intents.features import HOP_SAMPLES, MAX_FRAMES, MAX_SAMPLES, MIN_SAMPLES, FrontEnd, log_mel

pytestmark = pytest.mark.filterwarnings("error:::spoken_intents.*")

LENGTHS = [
    MIN_SAMPLES,
    MIN_SAMPLES + 1,
    399,
    400,
    401,
    479,
    480,
    481,
    1_599,
    1_600,
    1_601,
    4_321,
    16_000,
    16_079,
    16_081,
    33_333,
    48_040,
    79_999,
    160_001,
    MAX_SAMPLES - 361,
    MAX_SAMPLES - 200,  # from here on a window may reach beyond 30 s, where Whisper mirrors
    MAX_SAMPLES - 41,
    MAX_SAMPLES - 39,
    MAX_SAMPLES - 1,
    MAX_SAMPLES,
]


@pytest.fixture(scope="module")
def extractors() -> Dict[int, WhisperFeatureExtractor]:
    """Whisper's own, by number of mels."""
    return {n_mels: WhisperFeatureExtractor(feature_size=n_mels) for n_mels in (80, 128)}


def whispers(extractor: WhisperFeatureExtractor, samples: np.ndarray) -> np.ndarray:
    """Whisper's 3000 frames."""
    return extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="np").input_features[0]


def speech_like(length: int, rng: np.random.Generator) -> np.ndarray:
    """Noise that swells, with a tone in it, so that frames differ in level by more than 80 dB here and there."""
    time = np.arange(length) / SAMPLE_RATE
    swell = 10 ** (2 * np.sin(2 * np.pi * rng.uniform(0.5, 4) * time) - 2.5)
    tone = np.sin(2 * np.pi * rng.uniform(80, 4000) * time)
    return (swell * (0.3 * rng.standard_normal(length) + tone)).clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize(("n_mels", "lengths"), [(80, LENGTHS), (128, LENGTHS[::4])])
def test_equals_whispers_own_on_every_frame(
    n_mels: int, lengths: List[int], extractors: Dict[int, WhisperFeatureExtractor]
) -> None:
    rng = np.random.default_rng(n_mels)
    compared = 0
    for length in lengths:
        samples = speech_like(length, rng)
        ours = log_mel(samples, n_mels)
        assert ours.dtype == np.float32
        assert ours.shape == (n_mels, -(-length // HOP_SAMPLES)), length
        np.testing.assert_allclose(
            ours, whispers(extractors[n_mels], samples)[:, : ours.shape[1]], atol=1e-4, err_msg=str(length)
        )
        compared += ours.shape[1]
    assert compared == sum(-(-length // HOP_SAMPLES) for length in lengths)
    assert compared > (10_000 if n_mels == 80 else 2_000)


@pytest.mark.parametrize("length", [1_000, 1_599, 1_600, 1_601, 1_640, 1_641, 1_759, 16_000, MAX_SAMPLES - 30, MAX_SAMPLES])
def test_the_loudest_sample_may_be_the_very_last(length: int, extractors: Dict[int, WhisperFeatureExtractor]) -> None:
    samples = (1e-4 * np.random.default_rng(length).standard_normal(length)).astype(np.float32)
    samples[-1] = 1.0
    ours = log_mel(samples)
    np.testing.assert_allclose(ours, whispers(extractors[80], samples)[:, : ours.shape[1]], atol=1e-4)


@pytest.mark.parametrize(("n_mels", "lengths"), [(80, LENGTHS[::3]), (128, [4_321, 33_333, MAX_SAMPLES])])
def test_padded_equals_whispers_own_on_all_its_3000_frames(
    n_mels: int, lengths: List[int], extractors: Dict[int, WhisperFeatureExtractor]
) -> None:
    assert MAX_SAMPLES in lengths
    rng, compared = np.random.default_rng(n_mels), 0
    for length in lengths:
        samples = speech_like(length, rng)
        ours = log_mel(samples, n_mels, padded=True)
        assert ours.dtype == np.float32 and ours.shape == (n_mels, MAX_FRAMES)
        np.testing.assert_allclose(ours, whispers(extractors[n_mels], samples), atol=1e-4, err_msg=str(length))
        compared += 1
    assert compared == len(lengths) >= 3


@pytest.mark.parametrize("length", [1_599, 1_601, 1_641, 16_000, MAX_SAMPLES - 30])
def test_padded_equals_whispers_own_when_the_loudest_sample_is_the_last(
    length: int, extractors: Dict[int, WhisperFeatureExtractor]
) -> None:
    samples = (1e-4 * np.random.default_rng(length).standard_normal(length)).astype(np.float32)
    samples[-1] = 1.0
    np.testing.assert_allclose(log_mel(samples, padded=True), whispers(extractors[80], samples), atol=1e-4)


def test_padded_silence_equals_whispers(extractors: Dict[int, WhisperFeatureExtractor]) -> None:
    silence = np.zeros(8_000, dtype=np.float32)
    np.testing.assert_allclose(log_mel(silence, padded=True), whispers(extractors[80], silence), atol=1e-4)


def test_padding_adds_frames_and_changes_none() -> None:
    samples = speech_like(12_345, np.random.default_rng(1))
    short = log_mel(samples)
    np.testing.assert_array_equal(log_mel(samples, padded=True)[:, : short.shape[1]], short)


def test_digital_silence_equals_whispers(extractors: Dict[int, WhisperFeatureExtractor]) -> None:
    ours = log_mel(np.zeros(8_000, dtype=np.float32))
    np.testing.assert_allclose(ours, whispers(extractors[80], np.zeros(8_000, dtype=np.float32))[:, :50], atol=1e-4)


def test_quiet_is_at_most_80_db_below_the_loudest() -> None:
    samples = np.zeros(16_000, dtype=np.float32)
    samples[:4_000] = np.sin(np.arange(4_000) / 5)
    features = log_mel(samples)
    assert features.max() - features.min() == pytest.approx(2.0, abs=1e-5)  # 8 decades, a quarter of each


def test_does_not_change_its_input() -> None:
    samples = speech_like(5_000, np.random.default_rng(0))
    before = samples.copy()
    log_mel(samples)
    np.testing.assert_array_equal(samples, before)


@pytest.mark.parametrize("length", [0, 1, MIN_SAMPLES - 1, MAX_SAMPLES + 1, 40 * SAMPLE_RATE])
def test_too_short_and_too_long_are_refused(length: int) -> None:
    with pytest.raises(AudioError, match=rf"An utterance of {length / SAMPLE_RATE:.2f} s: between 0\.02 and 30 s"):
        log_mel(np.zeros(length, dtype=np.float32))


def test_the_limits_are_20_ms_and_30_s() -> None:
    assert MIN_SAMPLES == 320
    assert MAX_SAMPLES == 30 * SAMPLE_RATE
    assert log_mel(np.zeros(MAX_SAMPLES, dtype=np.float32)).shape[1] == MAX_FRAMES


def test_the_front_end_is_whispers(extractors: Dict[int, WhisperFeatureExtractor]) -> None:
    front_end, extractor = FrontEnd(), extractors[80]
    assert front_end.n_mels == extractor.feature_size
    assert front_end.sample_rate == extractor.sampling_rate
    assert front_end.n_fft == extractor.n_fft
    assert front_end.hop_samples == extractor.hop_length
    assert MAX_FRAMES == extractor.nb_max_frames
    assert not front_end.padded


IDLE = """
import time
import numpy as np
from spoken_intents.features import log_mel

used = []
for _ in range(10):
    log_mel(np.ones(64_000, dtype=np.float32), N_MELS)
    before = time.process_time()
    time.sleep(0.05)
    used.append(time.process_time() - before)
print(min(used))
"""


@pytest.mark.parametrize("n_mels", [80, 128])
def test_no_thread_of_its_own_works_on_when_it_is_done(n_mels: int) -> None:
    """OpenBLAS's would spin: 20 ms of every core for each utterance, next to everybody else's calls."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    code = IDLE.replace("N_MELS", str(n_mels))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.005
