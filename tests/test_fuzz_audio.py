"""Whatever bytes and samples come: audio within its bounds, or the error that says why not."""

import io
from dataclasses import fields
from typing import Any, List, Optional

import numpy as np
import pytest
import soundfile
from fuzzing import assert_words, fuzz, fuzz_changed
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from test_segmenter import ScriptedVad, plain, stream

from spoken_intents.audio import (
    SAMPLE_RATE,
    StreamingResampler,
    float_to_mulaw,
    float_to_pcm16,
    mulaw_to_float,
    pcm16_to_float,
    read_audio,
)
from spoken_intents.channels.protocol import SAMPLE_RATES
from spoken_intents.errors import AudioError, ConfigError
from spoken_intents.segmenter import Event, Segmenter, SegmenterSettings, SpeechPaused, SpeechStarted, Undecided, Utterance
from spoken_intents.vad import WebRtcVad

pytestmark = pytest.mark.filterwarnings("error")

# ---------------------------------------------------------------- recordings

KINDS = [
    ("WAV", "PCM_16"), ("WAV", "PCM_U8"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("WAV", "ULAW"),
    ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"),
    ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
    ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("NIST", "PCM_16"), ("VOC", "PCM_16"),
    ("PAF", "PCM_16"), ("SVX", "PCM_16"), ("AVR", "PCM_16"), ("MAT5", "PCM_16"), ("SDS", "PCM_16"), ("XI", "DPCM_16"),
]  # fmt: skip
LONGEST_S = 0.5


def recording(container: str, subtype: str, rate: int = 16_000, channels: int = 1) -> bytes:
    """A fifth of a second, as libsndfile writes it."""
    rng, file = np.random.default_rng(0), io.BytesIO()
    samples = 0.1 * rng.standard_normal((rate // 5, channels))
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


RECORDINGS = [
    *(recording(*kind) for kind in KINDS),
    recording("WAV", "PCM_16", 44_100, 2),
    recording("WAV", "PCM_16", 192_000, 8),
    recording("FLAC", "PCM_24", 48_000, 2),
    recording("OGG", "VORBIS", 8_000, 2),
    recording("MP3", "MPEG_LAYER_III", 44_100, 2),
]


@fuzz_changed([*RECORDINGS, b""], share=0.4)
def test_a_recording_that_was_tampered_with_is_audio_or_refused(content: bytes) -> None:
    try:
        samples = read_audio(io.BytesIO(content), LONGEST_S, "The recording")
    except AudioError as error:
        return assert_words(error)
    assert samples.dtype == np.float32 and samples.ndim == 1 and np.isfinite(samples).all()
    assert 0 < len(samples) <= LONGEST_S * SAMPLE_RATE + 1


# ---------------------------------------------------------------- samples


@fuzz(mulaw=st.binary(max_size=400))
def test_mulaw_survives_the_way_to_float_and_back(mulaw: bytes) -> None:
    samples = mulaw_to_float(mulaw)
    assert samples.dtype == np.float32 and len(samples) == len(mulaw) and np.all(np.abs(samples) < 1)
    assert float_to_mulaw(samples) == mulaw.replace(b"\x7f", b"\xff")  # two codes are zero


floats = arrays.arrays(np.float32, st.integers(0, 200), elements=st.floats(-4, 4, width=32))


@fuzz(samples=floats)
def test_samples_become_the_nearest_there_is_and_no_louder(samples: np.ndarray) -> None:
    kept = samples.copy()
    there = pcm16_to_float(float_to_pcm16(samples))
    np.testing.assert_array_equal(samples, kept)
    np.testing.assert_allclose(there, np.clip(samples, -1, 32767 / 32768), rtol=0, atol=0.5 / 32768)
    spoken = mulaw_to_float(float_to_mulaw(samples))
    assert len(spoken) == len(samples) and np.all(np.abs(spoken - there) <= 0.03125 * np.abs(there) + 2**-12)


cuts = st.lists(st.integers(0, 700), min_size=1, max_size=12)


@fuzz(share=0.5, samples=floats, repeated=st.integers(1, 8), rate=st.sampled_from(SAMPLE_RATES), back=st.booleans(), cuts=cuts)
def test_resampling_does_not_depend_on_the_cut(
    samples: np.ndarray, repeated: int, rate: int, back: bool, cuts: List[int]
) -> None:
    rates = (SAMPLE_RATE, rate) if back else (rate, SAMPLE_RATE)
    samples = np.tile(samples, repeated)
    whole, parts = StreamingResampler(*rates), StreamingResampler(*rates)
    wanted = np.concatenate([whole.push(samples), whole.flush()])
    got = [parts.push(some) for some in pieces(samples, cuts)]
    assert len(wanted) == -(-len(samples) * rates[1] // rates[0])
    np.testing.assert_array_equal(np.concatenate([*got, parts.flush()]), wanted)
    assert np.isfinite(wanted).all() and np.all(np.abs(wanted) <= 4 * np.abs(samples).max(initial=0) + 1e-6)


def pieces(samples: np.ndarray, sizes: List[int]) -> List[np.ndarray]:
    """All of `samples`, cut so; then the sizes again and again, somewhat larger, or it would take for ever."""
    found, number = [], 0
    while len(samples):
        size = sizes[number % len(sizes)] + (0 if number < len(sizes) else 100)
        found.append(samples[:size])
        samples = samples[size:]
        number += 1
    return found


# ---------------------------------------------------------------- segmentation

ranges = {
    "start_window_ms": st.integers(20, 2000),
    "min_speech_duration_ms": st.integers(20, 400),
    "turn_end": st.sampled_from(["fixed", "adaptive"]),
    "min_silence_duration_ms": st.integers(20, 800),
    "sure_silence_ms": st.integers(20, 400),
    "unsure_silence_ms": st.integers(20, 1200),
    "pause_ms": st.integers(20, 300),
    "interruption_ms": st.integers(100, 1000),
    "speech_pad_ms": st.integers(0, 2000),
    "max_speech_duration_ms": st.integers(1000, 3000),
}
stretches = st.lists(st.tuples(st.sampled_from("#."), st.integers(1, 40)), max_size=20)
script = stretches.map(lambda some: "".join(sign * times for sign, times in some)) | st.text("#.", max_size=200)
settings = st.fixed_dictionaries({}, optional=ranges)
acts = st.dictionaries(st.integers(0, 400), st.sampled_from(["hold", "release", "commit", "flush"]), max_size=6)
said = st.none() | st.floats(0, 1)


def checked(values: Any) -> SegmenterSettings:
    """Settings that may be; others are refused by what the fuzz of settings looks at."""
    try:
        return SegmenterSettings(**values)
    except ConfigError:
        assume(False)
        raise


class Listener:
    """Pushes a stream into a segmenter, and does at samples what people do at them."""

    def __init__(self, segmenter: Segmenter, settings: SegmenterSettings, complete: Optional[float]) -> None:
        self._segmenter, self._settings, self._complete = segmenter, settings, complete
        self.events: List[Event] = []

    def push(self, samples: np.ndarray) -> None:
        for event in self._segmenter.push(samples):
            self.events.append(event)
            if isinstance(event, Undecided) and self._complete is not None:
                self._segmenter.settle(self._settings.silence_for(self._complete))

    def act(self, act: str) -> None:
        self._segmenter.held = act == "hold" or (self._segmenter.held and act != "release" and act != "commit")
        if act in ("commit", "flush"):
            self.events += self._segmenter.flush("commit" if act == "commit" else "end_of_stream")

    def end(self) -> None:
        self.events += self._segmenter.flush()


@fuzz(values=settings, script=script, acts=acts, cuts=cuts, complete=said, extra=st.integers(0, 319))
def test_utterances_of_any_stream(
    values: Any, script: str, acts: Any, cuts: List[int], complete: Optional[float], extra: int
) -> None:
    """In order, no sample in two of them, none too long, and the same however the stream is cut."""
    settings = checked(values)
    samples = stream(len(script), extra)
    whole, parts = (Listener(Segmenter(settings, ScriptedVad(script)), settings, complete) for _ in range(2))
    at = 0
    for end, act in [*sorted((window * 320, act) for window, act in acts.items() if window < len(script)), (len(samples), "")]:
        whole.push(samples[at:end])
        for piece in pieces(samples[at:end], cuts):
            parts.push(piece)
        for listener in (whole, parts):
            listener.act(act)
        at = end
    for listener in (whole, parts):
        listener.end()
    assert plain(whole.events) == plain(parts.events)
    assert_in_order(whole.events, samples, settings)


def assert_in_order(events: List[Event], samples: np.ndarray, settings: SegmenterSettings) -> None:
    longest_ms = max(settings.max_speech_duration_ms, settings.start_window_ms + settings.speech_pad_ms + 20)
    speaking, free_from, told = False, 0, -1
    for event in events:
        if isinstance(event, Utterance):
            assert speaking and 0 < len(event.samples) <= longest_ms * SAMPLE_RATE // 1000
            end = event.start_sample + len(event.samples)
            assert free_from <= event.start_sample < event.speech_end_sample <= event.end_sample <= len(samples)
            assert end <= event.end_sample
            np.testing.assert_array_equal(event.samples, samples[event.start_sample : end])
            free_from, told, speaking = end, event.end_sample, False
        elif isinstance(event, SpeechStarted):
            assert not speaking and event.at_sample >= free_from
            speaking = True
        else:
            assert speaking and event.at_sample <= len(samples)
            if isinstance(event, SpeechPaused):
                assert event.at_sample > told
                told = event.at_sample
    assert not speaking


@fuzz(
    share=0.2,
    stretches=st.lists(st.tuples(st.sampled_from(["silence", "noise", "buzz", "clip"]), st.integers(1, 6000)), max_size=8),
    seed=st.integers(0, 2**16),
    cuts=cuts,
    mode=st.integers(0, 3),
)
def test_the_detector_hears_any_audio_the_same_however_it_is_cut(stretches: Any, seed: int, cuts: List[int], mode: int) -> None:
    rng = np.random.default_rng(seed)
    sounds = {
        "silence": lambda count: np.zeros(count),
        "noise": lambda count: rng.uniform(0, 0.5) * rng.standard_normal(count),
        "buzz": lambda count: rng.uniform(0, 1) * np.sign(np.sin(np.arange(count) * rng.uniform(0.03, 0.2))),
        "clip": lambda count: rng.choice([-1.0, 1.0], count),
    }
    samples = np.concatenate([np.zeros(0), *(sounds[sound](count) for sound, count in stretches)]).astype(np.float32)
    settings = SegmenterSettings()
    whole, parts = (Listener(Segmenter(settings, WebRtcVad(mode)), settings, None) for _ in range(2))
    whole.push(samples)
    for piece in pieces(samples, cuts):
        parts.push(piece)
    for listener in (whole, parts):
        listener.end()
    assert plain(whole.events) == plain(parts.events)
    assert_in_order(whole.events, samples, settings)


def test_every_setting_of_the_segmenter_is_tried() -> None:
    assert {field.name for field in fields(SegmenterSettings)} - set(ranges) == {"vad", "vad_mode", "threshold"}
