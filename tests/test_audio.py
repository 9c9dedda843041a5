"""Samples: PCM, µ-law and float, files of every kind, and a resampler that does not care how a stream is cut."""

import io
import struct
import tracemalloc
from pathlib import Path
from typing import Iterator, List, Optional

import numpy as np
import pytest
import soundfile
import soxr

from spoken_intents.audio import (
    SAMPLE_RATE,
    SUFFIXES,
    StreamingResampler,
    float_to_mulaw,
    float_to_pcm16,
    mulaw_to_float,
    pcm16_to_float,
    read_audio,
)
from spoken_intents.errors import AudioError

pytestmark = pytest.mark.filterwarnings("error")

RATES = (8_000, 16_000, 24_000, 44_100, 48_000)


def tone(seconds: float, rate: int, hertz: float = 440.0, peak: float = 0.5) -> np.ndarray:
    """A sine, float32."""
    return (peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def cut(samples: np.ndarray, rng: np.random.Generator, longest: int) -> Iterator[np.ndarray]:
    """`samples` in random pieces of 1 to `longest` samples."""
    position = 0
    while position < len(samples):
        size = int(rng.integers(1, longest + 1))
        yield samples[position : position + size]
        position += size


def resampled(chunks: Iterator[np.ndarray], rate: int) -> np.ndarray:
    """Everything a fresh resampler makes of `chunks`."""
    resampler = StreamingResampler(rate, SAMPLE_RATE)
    parts: List[np.ndarray] = [resampler.push(chunk) for chunk in chunks]
    return np.concatenate([*parts, resampler.flush()])


# ---------------------------------------------------------------- PCM


def test_every_pcm_value_survives_the_way_to_float_and_back() -> None:
    every = np.arange(-32768, 32768, dtype="<i2")
    floats = pcm16_to_float(every.tobytes())
    assert floats.dtype == np.float32
    assert floats.min() == -1.0 and floats.max() < 1.0
    assert float_to_pcm16(floats) == every.tobytes()


def test_pcm_is_little_endian() -> None:
    assert pcm16_to_float(b"\x00\x40").tolist() == [0.5]
    assert float_to_pcm16(np.array([0.5], dtype=np.float32)) == b"\x00\x40"


def test_float_beyond_the_range_is_clipped_not_wrapped() -> None:
    pcm = float_to_pcm16(np.array([1.0, 7.0, -1.0, -7.0], dtype=np.float32))
    assert np.frombuffer(pcm, "<i2").tolist() == [32767, 32767, -32768, -32768]


def test_no_bytes_are_no_samples() -> None:
    assert pcm16_to_float(b"").shape == (0,)
    assert float_to_pcm16(np.zeros(0, dtype=np.float32)) == b""


def test_an_odd_number_of_bytes_is_refused() -> None:
    with pytest.raises(AudioError, match="3 bytes of 16-bit PCM: an odd count, half a sample is missing"):
        pcm16_to_float(b"\x00\x01\x02")


# ---------------------------------------------------------------- µ-law

EVERY_PCM = np.arange(-32768, 32768)


def test_mulaw_equals_libsndfiles() -> None:
    held = io.BytesIO()
    soundfile.write(held, EVERY_PCM.astype("<i2"), 8_000, format="RAW", subtype="ULAW")
    codes = held.getvalue()
    assert len(codes) == 65_536 and len(set(codes)) == 256
    assert float_to_mulaw(EVERY_PCM / 32768) == codes
    held.seek(0)
    read, _ = soundfile.read(held, format="RAW", subtype="ULAW", samplerate=8_000, channels=1, dtype="float32")
    np.testing.assert_array_equal(mulaw_to_float(codes), read)


def test_known_mulaw_codes() -> None:
    decoded = mulaw_to_float(bytes([0xFF, 0x7F, 0xFE, 0xEF, 0x80, 0x00])) * 32768
    assert decoded.tolist() == [0, 0, 8, 132, 32124, -32124]  # the table in G.711
    assert float_to_mulaw(np.array([0.0, 1.0, -1.0], dtype=np.float32)) == bytes([0xFF, 0x80, 0x00])


def test_every_mulaw_code_survives_the_way_to_float_and_back() -> None:
    codes = bytes(range(256))
    floats = mulaw_to_float(codes)
    assert floats.dtype == np.float32 and floats.shape == (256,)
    back = float_to_mulaw(floats)
    assert [(code, there) for code, there in zip(codes, back) if code != there] == [(0x7F, 0xFF)]  # the second zero


def test_mulaws_error_is_bounded_by_the_size_of_the_sample() -> None:
    samples = EVERY_PCM[np.abs(EVERY_PCM) < 32_635] / 32768
    error = np.abs(mulaw_to_float(float_to_mulaw(samples)) - samples)
    assert (error <= (np.abs(samples) + 132 / 32768) / 32 + 1e-7).all()  # half a step
    assert error.max() > 0.01  # of the loudest


def test_mulaw_beyond_the_range_is_clipped_not_wrapped() -> None:
    loud = np.array([7.0, -7.0, 1.0, -1.0, 1e9, -1e9], dtype=np.float32)
    assert (mulaw_to_float(float_to_mulaw(loud)) * 32768).tolist() == [32124, -32124] * 3


def test_no_mulaw_bytes_are_no_samples() -> None:
    assert mulaw_to_float(b"").shape == (0,)
    assert float_to_mulaw(np.zeros(0, dtype=np.float32)) == b""


# ---------------------------------------------------------------- the streaming resampler


@pytest.mark.parametrize("rate", RATES)
def test_resampling_does_not_depend_on_the_cut(rate: int) -> None:
    rng = np.random.default_rng(rate)
    samples = (0.2 * rng.standard_normal(rate)).astype(np.float32)
    whole = resampled(iter([samples]), rate)
    assert abs(len(whole) - SAMPLE_RATE) <= 1
    for longest in (50, rate // 50, rate // 3):
        np.testing.assert_array_equal(resampled(cut(samples, rng, longest), rate), whole)


def test_resampling_takes_single_samples_and_empty_chunks() -> None:
    samples = tone(0.1, 48_000)
    pieces = [piece for sample in samples for piece in (sample[None], samples[:0])]
    np.testing.assert_array_equal(resampled(iter(pieces), 48_000), resampled(iter([samples]), 48_000))


@pytest.mark.parametrize("rate", RATES)
def test_streaming_equals_the_whole_clip_resampled_at_once(rate: int) -> None:
    samples = tone(1.3, rate) + tone(1.3, rate, hertz=1234.0, peak=0.2)
    at_once = soxr.resample(samples, rate, SAMPLE_RATE)
    streamed = resampled(cut(samples, np.random.default_rng(1), 700), rate)
    assert len(streamed) == len(at_once) == round(1.3 * SAMPLE_RATE)
    np.testing.assert_allclose(streamed[200:-200], at_once[200:-200], atol=5e-5)
    np.testing.assert_allclose(streamed, at_once, atol=5e-3)  # the tones begin and end at once: each filter rings otherwise


@pytest.mark.parametrize(
    "from_rate, to_rate", [*((rate, SAMPLE_RATE) for rate in RATES), (SAMPLE_RATE, 8_000), (SAMPLE_RATE, 48_000)]
)
def test_resampling_holds_three_milliseconds_at_most(from_rate: int, to_rate: int) -> None:
    resampler, packet = StreamingResampler(from_rate, to_rate), tone(0.02, from_rate)
    out = 0
    for packets in range(1, 60):
        out += len(resampler.push(packet))
        assert packets * 0.02 - out / to_rate <= (0.0121 if from_rate == 44_100 else 0.0031)


@pytest.mark.parametrize("rate", RATES)
def test_resampling_keeps_a_tone_a_tone(rate: int) -> None:
    middle = resampled(iter([tone(1.0, rate)]), rate)[2000:14000]
    np.testing.assert_allclose(middle, tone(1.0, SAMPLE_RATE)[2000:14000], atol=2e-3)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("suffix", "form", "subtype", "tolerance"),
    [
        (".wav", "WAV", "PCM_16", 1e-4),
        (".wav", "WAV", "FLOAT", 0),
        (".flac", "FLAC", "PCM_16", 1e-4),
        (".ogg", "OGG", "OPUS", 0.1),
        (".ogg", "OGG", "VORBIS", 0.1),
    ],
)
def test_files_of_every_kind_are_read(tmp_path: Path, suffix: str, form: str, subtype: str, tolerance: float) -> None:
    samples = tone(1.0, SAMPLE_RATE)
    file = tmp_path / f"clip{suffix}"
    soundfile.write(file, samples, SAMPLE_RATE, format=form, subtype=subtype)
    read = read_audio(file, 30)
    assert suffix in SUFFIXES
    assert read.dtype == np.float32 and read.shape == samples.shape
    np.testing.assert_allclose(read[1000:-1000], samples[1000:-1000], atol=tolerance)


def test_mp3_is_read(tmp_path: Path) -> None:
    file = tmp_path / "clip.mp3"
    soundfile.write(file, tone(1.0, SAMPLE_RATE), SAMPLE_RATE, format="MP3")
    read = read_audio(str(file), 30)
    assert abs(len(read) - SAMPLE_RATE) < 3000  # the format pads
    assert 0.4 < np.abs(read).max() < 0.6


def test_bytes_in_memory_are_read_like_a_file() -> None:
    held = io.BytesIO()
    soundfile.write(held, tone(0.5, SAMPLE_RATE), SAMPLE_RATE, format="WAV", subtype="FLOAT")
    held.seek(0)
    np.testing.assert_array_equal(read_audio(held, 30, "upload"), tone(0.5, SAMPLE_RATE))


def test_stereo_becomes_the_mean_of_its_channels(tmp_path: Path) -> None:
    left, right = tone(0.5, SAMPLE_RATE), tone(0.5, SAMPLE_RATE, hertz=900.0, peak=0.25)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), SAMPLE_RATE, subtype="FLOAT")
    read = read_audio(tmp_path / "stereo.wav", 30)
    assert read.dtype == np.float32 and read.ndim == 1
    np.testing.assert_allclose(read, (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", RATES)
def test_a_second_at_any_rate_becomes_16000_samples(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "clip.wav", tone(1.0, rate), rate, subtype="FLOAT")
    read = read_audio(tmp_path / "clip.wav", 30)
    assert read.shape == (SAMPLE_RATE,) and read.dtype == np.float32
    np.testing.assert_allclose(read[2000:14000], tone(1.0, SAMPLE_RATE)[2000:14000], atol=2e-3)


def unusable(folder: Path, kind: str) -> Path:
    """A file that is no audio, in one of several ways."""
    file = folder / "clip.wav"
    if kind == "empty":
        file.write_bytes(b"")
    elif kind == "text":
        file.write_text("I would like to freeze my card.\n" * 20)
    elif kind == "truncated header":
        file.write_bytes(b"RIFF\x24\x00\x00\x00WAVEfm")
    elif kind == "directory":
        file.mkdir()
    return file


@pytest.mark.parametrize("kind", ["empty", "text", "truncated header", "directory", "missing"])
def test_what_is_no_audio_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    with pytest.raises(AudioError, match=r"audio/x\.wav: cannot be read as audio .*WAV, FLAC, Ogg and MP3 are understood"):
        read_audio(unusable(tmp_path, kind), 30, "audio/x.wav")


def encoded(format: str, subtype: Optional[str] = None, rate: int = SAMPLE_RATE, seconds: float = 1.0) -> bytes:
    held = io.BytesIO()
    soundfile.write(held, tone(seconds, rate), rate, format=format, subtype=subtype)
    return held.getvalue()


def id3(length: int) -> bytes:
    """A tag of so many bytes, and its head."""
    return b"ID3\x04\0\0\0\0" + bytes((length >> 7, length & 127)) + bytes(length)


TAKEN = {
    **{f"WAV {subtype}": encoded("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")},
    **{f"WAV {subtype}": encoded("WAV", subtype) for subtype in ("ULAW", "ALAW")},
    "WAVEX": encoded("WAVEX"),
    "RF64": encoded("RF64"),
    "FLAC": encoded("FLAC"),
    "FLAC with a tag": id3(300) + encoded("FLAC"),
    "Ogg Vorbis": encoded("OGG", "VORBIS"),
    "Ogg Opus": encoded("OGG", "OPUS"),
    "MP3 of MPEG 2": encoded("MP3"),
    "MP3 of MPEG 1": encoded("MP3", rate=44_100),
    "MP3 of MPEG 2.5": encoded("MP3", rate=8_000),
    "MP3 with a tag": id3(300) + encoded("MP3"),
}
REFUSED = {
    **{name: encoded(name) for name in ("AIFF", "AU", "CAF", "W64", "MAT4", "MAT5", "NIST", "PAF", "VOC", "SDS", "AVR", "HTK")},
    "AIFF with a tag": id3(10) + encoded("AIFF"),
    "WAV with a tag": id3(10) + encoded("WAV"),
    "MP3 with two tags": id3(10) + id3(10) + encoded("MP3"),
    "a tag alone": id3(10),
    "a tag that is longer than the file": b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + encoded("MP3"),
    "RIFF, but no WAVE": b"RIFF\x24\0\0\0AVI LIST" + bytes(100),
    "half a WAV's first word": b"RIF",
    "a script": b"#!/bin/sh\n",
}


@pytest.mark.parametrize("content", TAKEN.values(), ids=TAKEN)
def test_formats_are_known_by_how_they_begin(tmp_path: Path, content: bytes) -> None:
    """Whatever a file is called: an upload has no name."""
    (tmp_path / "clip.dat").write_bytes(content)
    uploaded, read = read_audio(io.BytesIO(content), 30), read_audio(tmp_path / "clip.dat", 30)
    np.testing.assert_array_equal(uploaded, read)
    assert abs(len(read) - SAMPLE_RATE) <= 2
    np.testing.assert_allclose(read[4000:12000], tone(1.0, SAMPLE_RATE)[4000:12000], atol=0.1)


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_no_decoder_sees_another_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Of the dozens that libsndfile opens, also by a file's name."""

    def decode(*_: object) -> None:
        raise AssertionError("a decoder saw it")

    monkeypatch.setattr(soundfile, "SoundFile", decode)
    (tmp_path / "clip.wav").write_bytes(content)
    for source in (io.BytesIO(content), tmp_path / "clip.wav"):
        with pytest.raises(AudioError, match=r"of another format, or none\)\. WAV, FLAC, Ogg and MP3 are understood"):
            read_audio(source, 30, "The recording")


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM", "MS_ADPCM", "G721_32"])
def test_rare_encodings_are_not_decoded(monkeypatch: pytest.MonkeyPatch, subtype: str) -> None:
    content = encoded("WAV", subtype)
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    with pytest.raises(AudioError, match=f"its samples are encoded as {subtype}, which is not read. Make it 16-bit PCM"):
        read_audio(io.BytesIO(content), 30, "The recording")


def test_a_long_mp3_is_not_read_whole() -> None:
    class Endless(io.BytesIO):
        taken = 0

        def read(self, size: Optional[int] = -1) -> bytes:
            assert size is not None and size >= 0
            self.taken += size
            return super().read(size)

    endless = Endless(encoded("MP3", seconds=60))
    with pytest.raises(AudioError, match="longer than 2 s"):
        read_audio(endless, 2)
    assert endless.taken < 200_000


def test_without_a_name_the_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no_such_file.wav: cannot be read"):
        read_audio(tmp_path / "no_such_file.wav", 30)


def test_a_wav_without_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", np.zeros(0, dtype=np.float32), SAMPLE_RATE)
    with pytest.raises(AudioError, match=r"clip\.wav: holds no audio \(0 samples\)"):
        read_audio(tmp_path / "clip.wav", 30)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    samples = tone(0.5, SAMPLE_RATE)
    samples[100] = value
    soundfile.write(tmp_path / "clip.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="clip.wav"):
        read_audio(tmp_path / "clip.wav", 30)


def test_exactly_the_longest_is_taken_and_one_sample_more_is_not(tmp_path: Path) -> None:
    for extra, file in ((0, tmp_path / "longest.wav"), (1, tmp_path / "longer.wav")):
        soundfile.write(file, np.zeros(SAMPLE_RATE // 2 + extra, dtype=np.float32), SAMPLE_RATE)
    assert len(read_audio(tmp_path / "longest.wav", 0.5)) == SAMPLE_RATE // 2
    with pytest.raises(AudioError, match=r"longer than 0\.5 s, the most that is taken here\. Cut it into utterances"):
        read_audio(tmp_path / "longer.wav", 0.5)


@pytest.mark.parametrize("rate", [4_000, 11_025, 22_050, 44_101, 96_000, 192_000])
def test_30_s_at_any_rate_are_at_most_480000_samples(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "clip.flac", np.zeros(30 * rate, dtype=np.int16), rate)
    assert len(read_audio(tmp_path / "clip.flac", 30)) == 30 * SAMPLE_RATE


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> List[int]:
    """How many samples each call of soundfile's `read` gave."""
    lengths: List[int] = []
    original = soundfile.SoundFile.read

    def spy(self: soundfile.SoundFile, *args: object, **kwargs: object) -> np.ndarray:
        samples = original(self, *args, **kwargs)
        lengths.append(len(samples))
        return samples

    monkeypatch.setattr(soundfile.SoundFile, "read", spy)
    return lengths


def test_ten_minutes_are_refused_without_decoding_them(tmp_path: Path, decoded: List[int]) -> None:
    rate = 8_000
    soundfile.write(tmp_path / "long.flac", np.zeros(600 * rate, dtype=np.int16), rate)
    with pytest.raises(AudioError, match="longer than 30 s"):
        read_audio(tmp_path / "long.flac", 30)
    assert 30 * rate < sum(decoded) <= 30 * rate + 1


def wav_header(rate: int, channels: int) -> bytes:
    """A 16-bit WAV with one sample of each channel."""
    pcm = b"\0\0" * channels
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2 % 2**32, channels * 2, 16)
    riff = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(pcm)) + pcm
    return b"RIFF" + struct.pack("<I", len(riff)) + riff


@pytest.mark.parametrize(
    ("rate", "channels", "message"),
    [
        (3_999, 1, r"its sample rate is 3,999 Hz; 4,000 to 192,000 Hz are taken"),
        (192_001, 1, r"its sample rate is 192,001 Hz; 4,000 to 192,000 Hz are taken"),
        (2**31 - 1, 1, r"its sample rate is 2,147,483,647 Hz; 4,000 to 192,000 Hz are taken"),
        (48_000, 9, r"has 9 channels; 1 to 8 are taken"),
    ],
)
def test_a_header_nobody_records_with_is_refused_before_decoding(
    decoded: List[int], rate: int, channels: int, message: str
) -> None:
    with pytest.raises(AudioError, match=f"The recording: {message}"):
        read_audio(io.BytesIO(wav_header(rate, channels)), 30, "The recording")
    assert decoded == []


def test_what_is_shorter_than_one_sample_at_16_khz_is_no_audio() -> None:
    with pytest.raises(AudioError, match=r"holds no audio \(0 samples\)"):
        read_audio(io.BytesIO(wav_header(192_000, 1)), 30, "The recording")


def test_memory_does_not_grow_with_the_channels(tmp_path: Path) -> None:
    rate, seconds = 192_000, 5
    soundfile.write(tmp_path / "wide.flac", np.zeros((seconds * rate, 8), dtype=np.int16), rate)
    tracemalloc.start()
    try:
        assert len(read_audio(tmp_path / "wide.flac", 30)) == seconds * SAMPLE_RATE
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    mono_bytes = seconds * rate * 4
    assert mono_bytes < peak < 4 * mono_bytes  # all at once: more than 8
