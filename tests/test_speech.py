"""The bot's voice: real espeak where it is installed, and engines that fail, hang or do not exist."""

import asyncio
import logging
import os
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Iterator, List

import numpy as np
import pytest

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import ConfigError
from spoken_intents.segmenter import SegmenterSettings, segment
from spoken_intents.speech import EspeakEngine, Speech, SpeechSettings, make_speech

pytestmark = pytest.mark.filterwarnings("error")
PATIENCE_S = 20


class Beeps:
    """An engine that says each sentence as a tone as long as its text, 10 ms a character, at 8 kHz."""

    sample_rate = 8_000
    language = "en"

    def __init__(self, voice: str = "") -> None:
        self.spoken: List[str] = []

    def synthesize(self, sentence: str) -> np.ndarray:
        self.spoken.append(sentence)
        return 0.5 * np.sin(np.arange(80 * len(sentence)) * 0.4).astype(np.float32)


def spoken(speech: Speech, text: str) -> List[np.ndarray]:
    async def collect() -> List[np.ndarray]:
        return [samples async for samples in speech.speak(text)]

    return asyncio.run(asyncio.wait_for(collect(), PATIENCE_S))


@pytest.fixture
def settings(tmp_path: Path) -> SpeechSettings:
    return SpeechSettings(speech_cache=str(tmp_path / "cache"), speech_timeout_ms=PATIENCE_S * 1000)


@pytest.fixture(scope="module")
def bank() -> Iterator[Speech]:
    speech = make_speech(SpeechSettings(speech="espeak", voice="en-gb", speech_cache_mb=0))
    assert speech is not None
    yield speech
    speech.close()


def test_espeak_speaks_sentence_by_sentence(bank: Speech) -> None:
    first, second = spoken(bank, "Your bill is £84.20, due on 2026-05-12. Shall I pay it?")
    assert first.dtype == np.float32 and 0.3 < np.abs(first).max() <= 1
    assert 2 * SAMPLE_RATE < len(first) < 8 * SAMPLE_RATE and 0.5 * SAMPLE_RATE < len(second) < 2 * SAMPLE_RATE
    assert segment(np.pad(first, (0, SAMPLE_RATE)), SegmenterSettings()), "a detector takes it for speech"


def test_espeaks_voices_differ_and_do_not_mix(bank: Speech) -> None:
    said = "Good morning"
    british, american = EspeakEngine("en-gb"), EspeakEngine("en-us+f3")
    lengths = [len(engine.synthesize(said)) for engine in (british, american, british)]
    assert lengths[2] == pytest.approx(lengths[0], rel=0.01), "espeak varies itself a little, by less than voices differ"
    assert lengths[1] != pytest.approx(lengths[0], rel=0.02)


def test_espeaks_voices_have_rate_pitch_and_gaps() -> None:
    said = "Good morning to you"
    plain, slow, gaps = (len(EspeakEngine(f"en-us{more}").synthesize(said)) for more in ("", " rate=100", " gap=20"))
    assert slow > 1.4 * plain and gaps > 1.1 * plain
    low, high = (_pitch(EspeakEngine(f"en-us pitch={pitch}").synthesize("are")) for pitch in (10, 90))
    assert high > 1.5 * low


def _pitch(samples: np.ndarray) -> float:
    """In Hz, of espeak's rate: 60 to 250, by when a vowel is most like itself."""
    vowel = samples[len(samples) // 4 :][:4096]
    likeness = np.fft.irfft(np.abs(np.fft.rfft(vowel * np.hanning(len(vowel)), 16_384)) ** 2)
    return 22_050 / (88 + int(likeness[88:367].argmax()))


def test_a_language_of_espeaks_has_the_variants_too() -> None:
    """Its voice is called by another name than en-gb, of which a variant was once forgotten."""
    plain, female = (EspeakEngine(voice).synthesize("Good morning") for voice in ("en-gb", "en-gb+f3"))
    assert len(female) != pytest.approx(len(plain), rel=0.02)


def test_a_voice_that_espeak_has_not_got_is_refused() -> None:
    with pytest.raises(ConfigError, match="voice: espeak has no 'klingonese'"):
        make_speech(SpeechSettings(speech="espeak", voice="klingonese"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speech": "festival"}, "speech takes auto, espeak, piper, none, browser, or a class of yours by its dotted path; got"),
        ({"speech": "no.such.Engine"}, "no.such.Engine cannot be imported"),
        ({"speech": "os.path.Engine"}, "os.path.Engine cannot be imported"),
        (
            {"speech": "espeak", "voice": "en-us rat=100"},
            "rat=100 in 'en-us rat=100'; takes a number each for rate, pitch, range, gap",
        ),
        ({"speech": "espeak", "voice": "en-us rate=1.2.3"}, "voice: rate=1.2.3 in"),
        ({"speech": "piper"}, r"needs a voice's file \(voice: en_GB-alba-medium.onnx\); nothing is none"),
        ({"speech": "piper", "voice": "there/is/none.onnx"}, "there/is/none.onnx is none"),
        ({"speech_timeout_ms": 99}, "speech_timeout_ms takes 100 to 60000, got 99"),
        ({"speech_cache_mb": -1}, "speech_cache_mb takes 0 to 100000, got -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_speech(SpeechSettings(**settings))


@pytest.mark.parametrize(
    ("engine", "module", "extra"),
    [("espeak", "espeakng_loader", r"rasa-spoken-intents\[espeak\]"), ("piper", "piper", "piper-tts")],
)
def test_an_engine_that_is_not_installed_says_what_to_install(
    engine: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = tmp_path / "en_GB-alba-medium.onnx"
    voice.touch()
    monkeypatch.setattr(EspeakEngine, "_library", None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"pip install '?{extra}"):
        make_speech(SpeechSettings(speech=engine, voice=str(voice)))


def test_auto_is_espeak_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    speech = make_speech(SpeechSettings())
    assert speech and spoken(speech, "Hello")
    speech.close()
    monkeypatch.setattr("spoken_intents.speech.find_spec", lambda name: None)
    assert make_speech(SpeechSettings()) is None


@pytest.mark.parametrize("name", ["none", "browser"])
def test_nothing_speaks_where_nothing_should(name: str) -> None:
    assert make_speech(SpeechSettings(speech=name)) is None


def test_an_engine_of_ones_own_by_dotted_path(settings: SpeechSettings) -> None:
    speech = make_speech(SpeechSettings(speech=f"{__name__}.Beeps", speech_cache=settings.speech_cache))
    assert speech is not None
    (samples,) = spoken(speech, "Hello")
    assert len(samples) == 5 * SAMPLE_RATE // 100, "resampled to 16 kHz"
    speech.close()


def test_piper_speaks_with_the_voices_rate_and_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By piper-tts's published interface; a voice is too large to be bundled."""
    chunks = [SimpleNamespace(audio_float_array=np.full(100, level, np.float32)) for level in (0.1, 0.2)]
    asked = []

    class Voice:
        config = SimpleNamespace(sample_rate=22_050)

        def synthesize(self, text: str, settings: Any) -> Any:
            asked.append(settings)
            return iter(chunks)

    piper = ModuleType("piper")
    piper.PiperVoice = SimpleNamespace(load=lambda file: Voice())  # type: ignore[attr-defined]
    piper.SynthesisConfig = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "piper", piper)
    voice = tmp_path / "de_DE-thorsten-medium.onnx"
    voice.touch()
    speech = make_speech(SpeechSettings(speech="piper", voice=f"{voice} length=1.2 speaker=3", speech_cache_mb=0))
    assert speech is not None
    (samples,) = spoken(speech, "Hallo")
    assert len(samples) == round(200 * SAMPLE_RATE / 22_050)
    assert asked == [SimpleNamespace(speaker_id=3, length_scale=1.2, noise_scale=0.667, noise_w_scale=0.8)]
    speech.close()


# ---------------------------------------------------------------- failing


def test_an_engine_that_fails_ends_the_speaking_and_is_logged(settings: SpeechSettings, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Beeps):
        def synthesize(self, sentence: str) -> np.ndarray:
            if "two" in sentence:
                raise OSError("no such voice")
            return super().synthesize(sentence)

    speech = Speech(Failing(), "failing", settings)
    assert len(spoken(speech, "One. And two. Three.")) == 1
    assert "A sentence of 8 characters is not spoken: failing  failed." in caplog.text and "no such voice" in caplog.text
    assert len(spoken(speech, "Three.")) == 1, "the next text is spoken again"
    speech.close()


def test_an_engine_that_hangs_is_left_alone_until_it_returns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    go_on = threading.Event()

    class Hanging(Beeps):
        def synthesize(self, sentence: str) -> np.ndarray:
            assert go_on.wait(PATIENCE_S)
            return super().synthesize(sentence)

    engine = Hanging()
    speech = Speech(engine, "hanging", SpeechSettings(speech_timeout_ms=100, speech_cache_mb=0))
    assert spoken(speech, "One. Two.") == []
    assert "A sentence of 4 characters is not spoken: hanging  took longer than 0.1 s." in caplog.text
    assert spoken(speech, "Three.") == [] and caplog.text.count("not spoken") == 1, "nothing piles up behind it"
    go_on.set()
    assert speech._hanging is not None
    speech._hanging.result(PATIENCE_S)
    assert len(spoken(speech, "Four.")) == 1
    assert engine.spoken == ["One.", "Four."]
    speech.close()


def test_whoever_stops_listening_stops_the_synthesis(settings: SpeechSettings) -> None:
    engine = Beeps()
    speech = Speech(engine, "beeps", settings)

    async def first_only() -> None:
        async for _ in speech.speak("One. Two. Three."):
            break

    asyncio.run(first_only())
    speech.close()
    assert engine.spoken == ["One."]


# ---------------------------------------------------------------- the cache


def test_what_was_spoken_once_comes_from_the_disk(settings: SpeechSettings) -> None:
    engine = Beeps()
    speech = Speech(engine, "beeps", settings)
    first = spoken(speech, "Hello there. Hello there.")
    again = Beeps()
    (kept,) = spoken(Speech(again, "beeps", settings), "Hello there.")
    assert engine.spoken == ["Hello there."] and again.spoken == []
    assert np.allclose(kept, first[0], atol=1 / 32000) and np.array_equal(kept, first[1])
    other = Beeps()
    spoken(Speech(other, "another", settings), "Hello there.")
    assert other.spoken == ["Hello there."], "another voice says it anew"
    directory = Path(settings.speech_cache)
    assert not any(path.stat().st_mode & 0o077 for path in (directory, *directory.iterdir())), "for nobody else's eyes"


def test_a_broken_file_is_spoken_anew(settings: SpeechSettings) -> None:
    speech = Speech(Beeps(), "beeps", settings)
    spoken(speech, "Hello.")
    (file,) = Path(settings.speech_cache).iterdir()
    file.write_bytes(b"fLaC, or what is left of it")
    engine = Beeps()
    assert len(spoken(Speech(engine, "beeps", settings), "Hello.")) == 1
    assert engine.spoken == ["Hello."]


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    class Hiss(Beeps):
        def synthesize(self, sentence: str) -> np.ndarray:  # FLAC cannot make it smaller: about 100 kB
            self.spoken.append(sentence)
            return np.random.default_rng(len(self.spoken)).uniform(-1, 1, 26_000).astype(np.float32)

    settings = SpeechSettings(speech_cache=str(cache), speech_cache_mb=1)
    engine = Hiss()
    speech = Speech(engine, "hiss", settings)
    for number in range(5):
        spoken(speech, f"Number {number}.")
    for age, file in enumerate(sorted(cache.iterdir(), key=lambda file: file.stat().st_mtime)):
        os.utime(file, (age, age))
    spoken(speech, "Number 0.")  # used again: now the youngest
    for number in range(5, 12):
        spoken(speech, f"Number {number}.")
    assert sum(file.stat().st_size for file in cache.iterdir()) <= 2**20
    engine.spoken.clear()
    spoken(speech, "Number 0. Number 11. Number 1.")
    assert engine.spoken == ["Number 1."]
    speech.close()


def test_a_disk_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    speech = Speech(Beeps(), "beeps", SpeechSettings(speech_cache=str(tmp_path / "file" / "cache")))
    with caplog.at_level(logging.WARNING):
        assert len(spoken(speech, "Hello.")) == 1
    assert "cannot be kept in" in caplog.text
    speech.close()
