"""Made-up noises: what the non-speech output learns from."""

from typing import List

import numpy as np
import pytest

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.features import log_mel
from spoken_intents.segmenter import SegmenterSettings, segment
from spoken_intents_training.nonspeech import non_speech_clips

pytestmark = pytest.mark.filterwarnings("error")

COUNT = 60


@pytest.fixture(scope="module")
def noises() -> List[np.ndarray]:
    return non_speech_clips(COUNT, seed=0)


def test_as_many_as_asked_for(noises: List[np.ndarray]) -> None:
    assert len(noises) == COUNT
    assert non_speech_clips(0, seed=0) == []


def test_each_is_finite_audio_of_half_to_four_seconds(noises: List[np.ndarray]) -> None:
    for noise in noises:
        assert noise.dtype == np.float32 and noise.ndim == 1
        assert 0.5 * SAMPLE_RATE <= len(noise) <= 4 * SAMPLE_RATE
        assert np.isfinite(noise).all()
        assert 10 ** (-51 / 20) < np.abs(noise).max() < 1
    assert np.isfinite(log_mel(noises[0])).all()


def test_they_differ_from_each_other_in_length_and_level(noises: List[np.ndarray]) -> None:
    assert len({len(noise) for noise in noises}) > COUNT * 0.9
    levels = [20 * np.log10(np.abs(noise).max()) for noise in noises]
    assert min(levels) < -40 and max(levels) > -10
    assert len({noise[:4000].tobytes() for noise in noises}) == COUNT


def test_the_same_seed_makes_the_same_and_a_longer_list_begins_with_a_shorter(noises: List[np.ndarray]) -> None:
    for again, noise in zip(non_speech_clips(12, seed=0), noises):
        np.testing.assert_array_equal(again, noise)


def test_another_seed_makes_others(noises: List[np.ndarray]) -> None:
    others = non_speech_clips(12, seed=1)
    assert all(len(other) != len(noise) or not np.allclose(other, noise) for other, noise in zip(others, noises))


def test_the_detector_takes_many_for_speech(noises: List[np.ndarray]) -> None:
    """Noises that never get past the detector would teach the model nothing it needs."""
    taken = sum(bool(segment(noise, SegmenterSettings())) for noise in noises)
    assert taken >= COUNT // 3
