"""What a clip sounds like elsewhere, and that no clip, however short, is broken by it."""

import numpy as np
import pytest

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.features import MAX_FRAMES, MIN_SAMPLES, log_mel
from spoken_intents_training.augment import Elsewhere, add_noise, change_voice, reverberate, telephone

pytestmark = pytest.mark.filterwarnings("error")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(length: int, seed: int = 0, level: float = 0.05) -> np.ndarray:
    """White noise, float32."""
    return (level * rng(seed).standard_normal(length)).astype(np.float32)


def tone(hertz: float, seconds: float = 1.0, peak: float = 0.3) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


def power(samples: np.ndarray) -> float:
    return float(np.mean(samples.astype(np.float64) ** 2))


def decibels(ratio: float) -> float:
    return 10 * float(np.log10(ratio))


# ---------------------------------------------------------------- each by itself


@pytest.mark.parametrize("snr_db", [-5, 0, 10, 25])
@pytest.mark.parametrize("noise_samples", [500, SAMPLE_RATE, 5 * SAMPLE_RATE])
def test_noise_is_as_loud_as_was_asked(snr_db: float, noise_samples: int) -> None:
    said = tone(300, peak=0.02)
    mixed = add_noise(said, noise(noise_samples), snr_db, rng())
    assert mixed.shape == said.shape and mixed.dtype == np.float32
    assert decibels(power(said) / power(mixed - said)) == pytest.approx(snr_db, abs=0.1)


def test_noise_that_would_clip_is_scaled_down_whole() -> None:
    said = tone(300, peak=0.9)
    mixed = add_noise(said, noise(SAMPLE_RATE), 0, rng())
    assert np.abs(mixed).max() == pytest.approx(1.0, abs=1e-6)
    share = float(mixed @ said / (said @ said))  # how much of the clip is left
    assert share < 1
    assert decibels(power(share * said) / power(mixed - share * said)) == pytest.approx(0, abs=0.2)


def test_where_the_noise_begins_is_drawn() -> None:
    said, sound = tone(300), noise(5 * SAMPLE_RATE)
    mixed = [add_noise(said, sound, 10, rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(mixed[0], mixed[1])
    assert np.abs(mixed[0] - mixed[2]).max() > 0.01


@pytest.mark.parametrize("length", [MIN_SAMPLES, 321, 1_599, 16_000, 16_001, 44_111])
def test_a_telephone_keeps_the_length(length: int) -> None:
    heard = telephone(noise(length))
    assert heard.shape == (length,) and np.isfinite(heard).all()


def test_a_telephone_lets_a_narrow_band_through() -> None:
    heard = telephone(noise(4 * SAMPLE_RATE, level=0.1))
    spectrum = np.abs(np.fft.rfft(heard)) ** 2
    hertz = np.fft.rfftfreq(len(heard), 1 / SAMPLE_RATE)
    spoken = spectrum[(hertz > 500) & (hertz < 3_000)].mean()
    assert decibels(spectrum[hertz > 4_000].mean() / spoken) < -50
    assert decibels(spectrum[(hertz > 3_650) & (hertz < 4_000)].mean() / spoken) < -10
    assert decibels(spectrum[hertz < 100].mean() / spoken) < -15


def test_a_telephone_keeps_a_tone_and_adds_the_noise_of_8_bits() -> None:
    said, heard = (samples[4_000:12_000] for samples in (tone(1_000), telephone(tone(1_000))))
    assert 0.9 < power(heard) / power(said) < 1.1
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)))) ** 2
    hertz = np.fft.rfftfreq(len(heard), 1 / SAMPLE_RATE)
    assert hertz[spectrum.argmax()] == 1_000
    around = np.abs(hertz - 1_000) < 20
    assert 30 < decibels(spectrum[around].sum() / spectrum[~around].sum()) < 50  # of µ-law, about 38 dB


def test_a_room_rings_on_and_keeps_the_length() -> None:
    said = np.concatenate([tone(500, 0.5), np.zeros(SAMPLE_RATE // 2, dtype=np.float32)])
    heard = reverberate(said, 0.4, 0, rng())
    assert heard.shape == said.shape and heard.dtype == np.float32
    behind = power(heard[SAMPLE_RATE // 2 :][:1_600])
    assert behind > 1e-3 * power(said[: SAMPLE_RATE // 2])  # where the clip itself is silent
    assert decibels(power(heard[-1_600:]) / behind) < -20  # and dies away


def test_a_distant_direct_sound_is_weaker_in_the_room() -> None:
    click = np.zeros(SAMPLE_RATE, dtype=np.float32)
    click[0] = 1.0
    for direct_db in (0, 15):
        heard = reverberate(click, 0.3, direct_db, rng())
        assert decibels(power(heard[1:]) / power(heard[:1]) * (len(heard) - 1)) == pytest.approx(-direct_db, abs=0.5)


def test_another_voice_is_faster_or_slower_and_of_the_same_bands() -> None:
    picture = log_mel(tone(440, 2.0))
    frames = [change_voice(picture, rng(seed)).shape for seed in range(50)]
    assert {bands for bands, _ in frames} == {80}
    lengths = [length for _, length in frames]
    assert 200 / 1.15 - 2 <= min(lengths) < 190 and 210 < max(lengths) <= 200 / 0.85 + 2


def test_another_voice_moves_a_tone_up_or_down() -> None:
    picture = log_mel(tone(2_000))
    loudest = [int(change_voice(picture, rng(seed))[:, 40].argmax()) for seed in range(40)]
    here = int(picture[:, 40].argmax())
    assert min(loudest) < here < max(loudest)
    assert all(abs(place - here) <= 0.12 * here for place in loudest)


def test_another_voice_is_never_longer_than_30_s() -> None:
    window = np.zeros((80, MAX_FRAMES), dtype=np.float32)
    assert max(change_voice(window, rng(seed)).shape[1] for seed in range(20)) == MAX_FRAMES


def test_the_same_seed_gives_the_same_voice() -> None:
    picture = log_mel(noise(SAMPLE_RATE))
    np.testing.assert_array_equal(change_voice(picture, rng(3)), change_voice(picture, rng(3)))
    other = change_voice(picture, rng(4))
    assert other.shape != picture.shape or np.abs(other - change_voice(picture, rng(3))).max() > 0


# ---------------------------------------------------------------- together


@pytest.fixture(scope="module")
def elsewhere() -> Elsewhere:
    return Elsewhere(0)


def test_the_same_seed_gives_the_same_clip_whoever_makes_it(elsewhere: Elsewhere) -> None:
    clip, another = noise(SAMPLE_RATE), Elsewhere(0)
    heard = [elsewhere.sampled(clip, rng(seed)) for seed in range(12)]
    assert 6 < len({samples.tobytes() for samples in heard}) < 12, "some as they are"
    for seed, samples in enumerate(heard):
        np.testing.assert_array_equal(another.sampled(clip, rng(seed)), samples)


def test_a_clip_is_not_changed_by_hearing_it_elsewhere(elsewhere: Elsewhere) -> None:
    clip = noise(SAMPLE_RATE)
    before = clip.copy()
    for seed in range(12):
        elsewhere.sampled(clip, rng(seed))
    np.testing.assert_array_equal(clip, before)


def test_a_clip_of_any_length_survives_everything(elsewhere: Elsewhere) -> None:
    draw = rng(1)
    for seed in range(500):
        length = int(draw.integers(MIN_SAMPLES, SAMPLE_RATE // 10))  # 20 to 100 ms
        samples = elsewhere.sampled(noise(length, seed), rng(seed))
        assert samples.shape == (length,) and samples.dtype == np.float32 and np.isfinite(samples).all(), (seed, length)


@pytest.mark.parametrize("clip", [np.zeros(8_000, dtype=np.float32), np.ones(8_000, dtype=np.float32), tone(60, peak=1.0)])
def test_silence_and_full_scale_give_numbers(elsewhere: Elsewhere, clip: np.ndarray) -> None:
    for seed in range(30):
        assert np.isfinite(elsewhere.sampled(clip, rng(seed))).all()
