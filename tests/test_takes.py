"""What is said of a recording right after it was made: nothing of a good one, and of a bad one what is wrong."""

import csv
from typing import List

import numpy as np
import pytest

from assistant import PROJECT
from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16, pcm16_to_float, read_audio
from spoken_intents.segmenter import Segmenter, Utterance
from spoken_intents_training import takes
from spoken_intents_training.takes import faults
from spoken_intents_training.teach import SETTINGS

RNG = np.random.default_rng(0)
CLIPS = list(csv.DictReader((PROJECT / "audio/manifest.csv").open(encoding="utf-8")))[::97]


def quiet(seconds: float) -> np.ndarray:
    return RNG.normal(0, 1e-4, int(seconds * SAMPLE_RATE)).astype(np.float32)


def spoken(clip: "dict[str, str]") -> np.ndarray:
    return read_audio(PROJECT / "audio" / clip["path"], 30)


def codes(samples: np.ndarray, sentence: str = "", commit: bool = False) -> List[str]:
    """The faults of the first utterance in it."""
    segmenter = Segmenter(SETTINGS)
    events = [*segmenter.push(samples.astype(np.float32)), *segmenter.flush("commit" if commit else "end_of_stream")]
    utterance = next(event for event in events if isinstance(event, Utterance))
    return [fault.code for fault in faults(utterance, sentence)]


def shares(change, sentence: bool = True) -> "dict[str, float]":
    """In how many of the clips each fault is found, after a change to them."""
    found = [codes(change(spoken(clip)), clip["transcript"] if sentence else "") for clip in CLIPS]
    return {code: sum(code in one for one in found) / len(found) for one in found for code in one}


def test_nothing_is_wrong_with_good_recordings() -> None:
    assert len(CLIPS) > 25
    assert shares(lambda samples: np.concatenate([quiet(0.8), samples, quiet(1.2)])) == {}


@pytest.mark.parametrize(
    "code, change",
    [
        ("clipped", lambda samples: pcm16_to_float(float_to_pcm16(3 * samples / np.abs(samples).max()))),
        ("quiet", lambda samples: 0.01 * samples / np.abs(samples).max()),
        ("noisy", lambda samples: samples + RNG.normal(0, 0.7 * np.sqrt(np.mean(samples**2)), len(samples))),
    ],
)
def test_each_fault_is_found(code: str, change) -> None:
    found = shares(lambda samples: change(np.concatenate([quiet(0.8), samples, quiet(1.2)])))
    assert found.pop(code) == 1
    assert max(found.values(), default=0) < 0.2, "of what is not wrong with them little is said"


def test_what_is_cut_by_hand_has_no_end() -> None:
    def half(samples: np.ndarray) -> np.ndarray:
        louder = np.flatnonzero(np.abs(samples) > 0.5 * np.abs(samples).max())
        return np.concatenate([quiet(0.8), samples[: louder[len(louder) // 2]]])

    found = [codes(half(spoken(clip)), commit=True) for clip in CLIPS]
    assert np.mean(["cut_end" in one for one in found]) > 0.9


def test_what_begins_before_somebody_listens_has_no_beginning() -> None:
    clip = np.concatenate([quiet(0.8), spoken(CLIPS[0]), quiet(1.2)])
    (utterance,) = [event for event in Segmenter(SETTINGS).push(clip) if isinstance(event, Utterance)]
    assert faults(utterance) == [] and faults(utterance, lead_samples=100) == [takes.CUT_START]


def test_a_cough_is_no_sentence() -> None:
    short = min(CLIPS, key=lambda clip: len(clip["transcript"]))
    samples = np.concatenate([quiet(0.8), spoken(short), quiet(1.2)])
    assert codes(samples, "I would like to know how much money I have got left on my current account today, please") == [
        "too_short"
    ]


def test_what_does_not_end_is_too_long() -> None:
    samples = np.concatenate([quiet(0.5), *[spoken(clip) for clip in CLIPS[:12]]])
    found = codes(samples)
    assert "too_long" in found and "cut_end" not in found
