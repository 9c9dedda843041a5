"""Noise and telephone: that the noise is as loud as is said, that figures repeat, and what is refused."""

from pathlib import Path
from typing import Any, List, Sequence

import numpy as np
import pytest
import soundfile

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import AudioError, DataError
from spoken_intents.recognizer import Recognition
from spoken_intents_training import conditions
from spoken_intents_training.augment import telephone
from spoken_intents_training.conditions import MADE_UP, SNRS_DB, measure_conditions, pool_conditions, read_noises
from spoken_intents_training.dataset import Clip, read_samples
from spoken_intents_training.metrics import wilson_interval
from spoken_intents_training.nonspeech import non_speech_clips

pytestmark = pytest.mark.filterwarnings("error")


class Listener:
    """Keeps what it gets to hear, and hears "voice" unless more than a share of the power is above 3.5 kHz."""

    def __init__(self, most: float = 1.0) -> None:
        self.got: List[np.ndarray] = []
        self._most = most

    def __call__(self, samples: np.ndarray) -> Recognition:
        self.got.append(samples)
        power = np.abs(np.fft.rfft(samples)) ** 2
        above = power[np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE) > 3500].sum() / power.sum()
        intents = ("voice", "hiss") if above <= self._most else ("hiss", "voice")
        return Recognition(tuple(zip(intents, (0.8, 0.1))), 0.1, "model", 1.0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> List[Clip]:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(6):
        time = np.arange(SAMPLE_RATE // 2 + 100 * number) / SAMPLE_RATE
        soundfile.write(folder / f"{number}.wav", 0.05 * np.sin(2 * np.pi * (200 + 50 * number) * time), SAMPLE_RATE)
    return [Clip(folder / f"{number}.wav", "voice", f"{number}.wav") for number in range(6)]


@pytest.fixture(scope="module")
def hiss() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32) * 0.01


def test_the_noise_is_as_loud_as_is_said(clips: List[Clip], hiss: np.ndarray) -> None:
    listener, compared = Listener(), 0
    rows = measure_conditions(listener, clips, [hiss])
    assert [row["snr_db"] for row in rows] == [None, *SNRS_DB, None]
    for place, clip in enumerate(clips):
        plain = read_samples(clip)
        first, *noisy, last = listener.got[place * len(rows) : (place + 1) * len(rows)]
        assert np.array_equal(first, plain)
        assert np.allclose(last, telephone(plain))
        for samples, snr_db in zip(noisy, SNRS_DB):
            assert 10 * np.log10(np.mean(plain**2) / np.mean((samples - plain) ** 2)) == pytest.approx(snr_db, abs=0.01)
            compared += 1
    assert compared == 30


def test_rows_tell_accuracy_its_interval_and_the_difference(clips: List[Clip], hiss: np.ndarray) -> None:
    rows = measure_conditions(Listener(most=0.1), clips, [hiss])
    assert [row["condition"] for row in rows] == ["clean", "20 dB", "15 dB", "10 dB", "5 dB", "0 dB", "telephone"]
    assert [row["accuracy"] for row in rows] == [1, 1, 1, 1, 0, 0, 1]  # white noise of 10 dB: 0.05 of the power
    assert [row["difference"] for row in rows] == [0, 0, 0, 0, -1, -1, 0]
    assert [row["noise"] for row in rows] == [None, *["1 recording(s)"] * 5, None]
    assert rows[0]["n"] == 6 and rows[0]["accuracy_95"] == pytest.approx(wilson_interval(6, 6))
    assert rows[4]["accuracy_95"] == pytest.approx(wilson_interval(0, 6))


def test_rows_of_parts_are_pooled_into_those_of_all(clips: List[Clip], hiss: np.ndarray) -> None:
    parts = [
        measure_conditions(Listener(most), part, [hiss])
        for most, part in ((0.1, clips[:1]), (1.0, clips[1:3]), (0.01, clips[3:]))
    ]
    rows = pool_conditions(parts)
    assert [row["accuracy"] for row in rows] == pytest.approx([1, 1, *[0.5] * 2, *[1 / 3] * 2, 1])
    assert [row["difference"] for row in rows] == pytest.approx([0, 0, *[-0.5] * 2, *[-2 / 3] * 2, 0])
    assert {row["n"] for row in rows} == {6} and rows[2]["accuracy_95"] == pytest.approx(wilson_interval(3, 6))
    assert pool_conditions([rows]) == rows
    assert pool_conditions([]) == pool_conditions([[], []]) == []


def test_what_is_taken_for_no_speech_is_wrong(clips: List[Clip], hiss: np.ndarray) -> None:
    rows = measure_conditions(lambda samples: Recognition((("voice", 0.3),), 0.7, "model", 1.0), clips, [hiss])
    assert {row["accuracy"] for row in rows} == {0.0}


def test_the_same_seed_gives_the_same_noise_whatever_clips_are_behind(clips: List[Clip], hiss: np.ndarray) -> None:
    first, again, fewer, other = (Listener() for _ in range(4))
    noises = [hiss, hiss**2, hiss**3]
    measure_conditions(first, clips[:2], noises)
    measure_conditions(again, clips[:2], noises)
    measure_conditions(fewer, clips[:1], noises)
    measure_conditions(other, clips[:2], noises, seed=1)
    assert all(np.array_equal(*pair) for pair in zip(first.got, again.got))
    assert all(np.array_equal(*pair) for pair in zip(first.got, fewer.got))
    assert not np.array_equal(first.got[1], other.got[1])
    assert not np.allclose(first.got[1] - first.got[0], first.got[2] - first.got[0]), "each condition draws anew"


def test_noise_that_is_made_up_is_called_so_and_is_not_trainings(
    clips: List[Clip], hiss: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: List[int] = []

    def made_up(count: int, seed: int) -> List[np.ndarray]:
        seeds.append(seed)
        return [hiss] * count

    monkeypatch.setattr(conditions, "non_speech_clips", made_up)
    rows = measure_conditions(Listener(), clips[:1])
    assert {row["noise"] for row in rows} == {None, MADE_UP}
    measured_with = [noise.tobytes() for noise in non_speech_clips(4, seeds[0])]
    trained_with = {noise.tobytes() for seed in (0, 1, 2**32 - 1) for noise in non_speech_clips(4, seed)}
    assert len(trained_with) == 12 and len(set(measured_with)) == 4
    assert not trained_with & set(measured_with)
    assert seeds[0] >= 2**32, "a recipe's seed is below"


def test_progress_is_told_by_clips(clips: List[Clip], hiss: np.ndarray) -> None:
    seen: List[str] = []

    def progress(clips: Sequence[Clip]) -> Any:
        for clip in clips:
            seen.append(clip.name)
            yield clip

    measure_conditions(Listener(), clips[:3], [hiss], progress=progress)
    assert seen == ["0.wav", "1.wav", "2.wav"]


# ------------------------------------------------------------------ recordings of noise


def test_noise_is_read_at_our_rate_and_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "NOISE_SECONDS", 2)
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.flac", 0.1 * rng.standard_normal((3 * 44_100, 2)), 44_100)
    soundfile.write(tmp_path / "b.wav", 0.1 * rng.standard_normal(8_000), 8_000)
    first, second = read_noises(tmp_path)
    assert (len(first), len(second)) == (2 * SAMPLE_RATE, SAMPLE_RATE)
    assert first.dtype == np.float32


@pytest.mark.parametrize("content", ["silence", "nothing", "text"])
def test_what_is_no_noise_is_named(content: str, tmp_path: Path) -> None:
    file = tmp_path / "cafe.wav"
    if content == "text":
        file.write_text("no audio")
    else:
        soundfile.write(file, np.zeros(SAMPLE_RATE if content == "silence" else 0), SAMPLE_RATE)
    reason = "cannot be read as audio" if content == "text" else "holds no noise that could be added"
    with pytest.raises(AudioError, match=rf"cafe\.wav: {reason}"):
        read_noises(tmp_path)


def test_a_folder_of_noise_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="street: no such directory"):
        read_noises(tmp_path / "street")
