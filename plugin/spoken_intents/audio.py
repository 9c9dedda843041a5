"""Samples: the one rate everything runs at, PCM to float and back, reading files, resampling a stream.

Inside the project audio is float32, mono, 16 kHz, -1 to 1. Every other form is converted here and only here.
"""

import io
import re
from contextlib import nullcontext
from functools import lru_cache
from math import gcd
from pathlib import Path
from typing import BinaryIO, Tuple, Union

import numpy as np
import soundfile
import soxr

from spoken_intents.errors import AudioError
from spoken_intents.files import open_regular

SAMPLE_RATE = 16_000  # Hz; Whisper's, and one of webrtcvad's
# Formats: what files are called, how they begin, how samples may be encoded in them. libsndfile opens dozens more.
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
FORMATS = re.compile(rb"(RIFF|RF64)....WAVE|fLaC|OggS", re.S)
MP3 = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][^\xf0-\xff]")  # a frame of MPEG 1, 2 or 2.5, layer I, II or III
MP3_BYTES_A_SECOND = 56_000  # at most: layer I at 448 kbit/s
ID3_HEAD_BYTES = 10
# A tag with nothing in it: without one libsndfile takes an MP3 for none, unless by its name.
ID3 = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
ENCODINGS = frozenset(
    "PCM_S8 PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW VORBIS OPUS MPEG_LAYER_I MPEG_LAYER_II MPEG_LAYER_III".split()
)
UNDERSTOOD = "WAV, FLAC, Ogg and MP3 are understood."
MIN_FILE_RATE, MAX_FILE_RATE = 4_000, 192_000  # Hz; what recorders write. A header can claim a million times more.
MAX_FILE_CHANNELS = 8
LOUDEST = 2.0**31  # of a file's samples: some hold whole numbers as fractions
MULAW_BIAS, MULAW_CLIP = 132, 32_635  # G.711's, on the scale of 16-bit PCM
BLOCK_SAMPLES = 65_536  # decoded at a time, of each channel
SINC_SAMPLES = 16  # of the lower rate, that a stream's resampler looks ahead and back: 2 ms at 8 kHz
SINC_BETA = 8.0  # of its Kaiser window: what is beyond the lower rate is 80 dB softer


def pcm16_to_float(pcm: bytes) -> np.ndarray:
    """Signed 16-bit little-endian PCM as float32 in [-1, 1), shape (samples,).

    Raises:
        AudioError: An odd number of bytes: half a sample is missing.
    """
    if len(pcm) % 2:
        raise AudioError(f"{len(pcm)} bytes of 16-bit PCM: an odd count, half a sample is missing.")
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768.0


def float_to_pcm16(samples: np.ndarray) -> bytes:
    """Float samples as signed 16-bit little-endian PCM; what is beyond [-1, 1) is clipped."""
    scaled = samples * 32768.0
    np.rint(scaled, out=scaled)
    np.minimum(scaled, 32767, out=scaled)  # np.clip takes ten times as long for the 20 ms of a message
    np.maximum(scaled, -32768, out=scaled)
    return scaled.astype("<i2").tobytes()


def mulaw_to_float(mulaw: bytes) -> np.ndarray:
    """G.711 µ-law, one byte a sample, as float32 in (-1, 1), shape (samples,)."""
    return _expanded()[np.frombuffer(mulaw, dtype=np.uint8)]


def float_to_mulaw(samples: np.ndarray) -> bytes:
    """Float samples as G.711 µ-law, one byte a sample; what is beyond the loudest code is clipped."""
    return _compressed()[np.frombuffer(float_to_pcm16(samples), dtype="<u2")].tobytes()


@lru_cache(maxsize=None)
def _expanded() -> np.ndarray:
    """The sample of every µ-law code, float32, shape (256,)."""
    codes = ~np.arange(256, dtype=np.uint8)
    exponents, mantissas = (codes >> 4) & 7, (codes & 15).astype(np.int32)
    magnitudes = (((mantissas << 3) + MULAW_BIAS) << exponents) - MULAW_BIAS
    return (np.where(codes & 128, -magnitudes, magnitudes) / 32768.0).astype(np.float32)


@lru_cache(maxsize=None)
def _compressed() -> np.ndarray:
    """The µ-law code of every 16-bit sample, read as an unsigned number; uint8, shape (65536,)."""
    pcm = np.arange(2**16, dtype=np.uint16).view(np.int16).astype(np.int32)
    biased = np.minimum(np.abs(pcm), MULAW_CLIP) + MULAW_BIAS
    exponents = np.floor(np.log2(biased)).astype(np.int32) - 7
    codes = (exponents << 4) | ((biased >> (exponents + 3)) & 15) | np.where(pcm < 0, 128, 0)
    return ~codes.astype(np.uint8)


def read_audio(source: Union[str, Path, BinaryIO], max_seconds: float, name: str = "") -> np.ndarray:
    """A whole recording as float32 mono at 16 kHz, shape (samples,). The mean of its channels, where there are more.

    Memory is bounded by `max_seconds` of one channel at the file's rate, whatever its header claims.

    Args:
        source: A file's path, or a file that can be sought in, which stays open.
        max_seconds: Longer recordings are refused before more than this is decoded.
        name: What to call the recording in messages; the path when left out.

    Raises:
        AudioError: Unreadable, of a format or an encoding that is not understood, empty, longer than `max_seconds`, a
            sample rate outside 4,000 to 192,000 Hz, or more than 8 channels.
    """
    name = name or str(source)
    try:
        with open_regular(source) if isinstance(source, (str, Path)) else nullcontext(source) as stream:
            with soundfile.SoundFile(_Steady(_sniffed(stream, max_seconds, name))) as file:
                sample_rate = file.samplerate
                _refuse_header(file, name)
                mono = _read_mono(file, int(max_seconds * sample_rate) + 1)
    except (soundfile.LibsndfileError, OSError) as error:
        # libsndfile's words, or the system's, without the path once more
        reason = str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error).rstrip(".")
        raise AudioError(f"{name}: cannot be read as audio ({reason}). {UNDERSTOOD}") from None
    if len(mono) > max_seconds * sample_rate:
        raise AudioError(f"{name}: longer than {max_seconds:g} s, the most that is taken here. Cut it into utterances.")
    if not np.abs(mono).max(initial=0) <= LOUDEST:  # which what is no number is not, either
        raise AudioError(f"{name}: holds samples that are no numbers.")
    if len(mono) and sample_rate != SAMPLE_RATE:
        mono = soxr.resample(mono, sample_rate, SAMPLE_RATE).astype(np.float32, copy=False)
    if len(mono) == 0:  # also what is shorter than one sample at 16 kHz
        raise AudioError(f"{name}: holds no audio (0 samples).")
    return mono


def _sniffed(stream: BinaryIO, max_seconds: float, name: str) -> BinaryIO:
    """The stream from its beginning, as a decoder may see it.

    Raises:
        AudioError: It begins like none of the formats.
    """
    start = stream.seek(0)
    head = stream.read(12)
    if head.startswith(b"ID3") and len(head) == 12:  # a tag, whose length has seven bits in each byte; FLAC may have one, too
        length = sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0)))
        stream.seek(ID3_HEAD_BYTES + length)
        head = stream.read(12)
        understood = bool(MP3.match(head)) or head.startswith(b"fLaC")
    elif MP3.match(head):
        stream.seek(start)
        return io.BytesIO(ID3 + stream.read(int((max_seconds + 1) * MP3_BYTES_A_SECOND)))
    else:
        understood = FORMATS.match(head) is not None
    if not understood:
        raise AudioError(f"{name}: cannot be read as audio (of another format, or none). {UNDERSTOOD}")
    stream.seek(start)
    return stream


class _Steady:
    """A stream for libsndfile: where a damaged header has it seek to before the beginning it stays where it is, as in C.

    An exception would be printed with all its lines, once for every such header.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.read, self.readinto, self.tell = stream.read, stream.readinto, stream.tell  # type: ignore[attr-defined]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._stream.seek(offset, whence)
        except (OSError, ValueError):
            return self.tell()


def _refuse_header(file: soundfile.SoundFile, name: str) -> None:
    if not MIN_FILE_RATE <= file.samplerate <= MAX_FILE_RATE:
        raise AudioError(
            f"{name}: its sample rate is {file.samplerate:,} Hz; {MIN_FILE_RATE:,} to {MAX_FILE_RATE:,} Hz are taken. Resample it."
        )
    if file.subtype not in ENCODINGS:
        raise AudioError(f"{name}: its samples are encoded as {file.subtype}, which is not read. Make it 16-bit PCM.")
    if file.channels > MAX_FILE_CHANNELS:
        raise AudioError(f"{name}: has {file.channels} channels; 1 to {MAX_FILE_CHANNELS} are taken. Mix it down.")


def _read_mono(file: soundfile.SoundFile, most: int) -> np.ndarray:
    """At most `most` samples, block by block: a header may lie about the length, and channels add up."""
    blocks = [np.zeros(0, dtype=np.float32)]
    while most > 0:
        block = file.read(min(BLOCK_SAMPLES, most), dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large, or no number, is refused as a whole
            blocks.append(block.mean(axis=1))
        most -= len(block)
    return np.concatenate(blocks)


class StreamingResampler:
    """Resamples one stream chunk by chunk; the result does not depend on how the stream was cut.

    A windowed sinc of few samples. soxr would do it in large blocks: what it returns is 12 to 115 ms behind what it got at
    8 kHz, and callers would be answered so much later. This is 3 ms behind; at 44.1 kHz, where only every 441st sample has
    a partner, 12 ms at most.

    Holds the stream's last samples: one instance for each stream. `flush` returns what they still determine.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        self._from, self._to = from_rate, to_rate
        self._filters, self._step = _sinc_filters(from_rate, to_rate)
        self._held = np.zeros((self._filters.shape[1] - self._step) // 2, dtype=np.float32)  # silence before the stream
        self._got = self._given = 0  # samples, in all

    def push(self, samples: np.ndarray) -> np.ndarray:
        """As many output samples as the input so far determines; may be none."""
        if self._from == self._to:
            return samples
        self._got += len(samples)
        held = np.concatenate((self._held, samples), dtype=np.float32)
        blocks = max(0, (len(held) - self._filters.shape[1]) // self._step + 1)
        windows: np.ndarray = np.ndarray((blocks, self._filters.shape[1]), np.float32, held, strides=(4 * self._step, 4))
        resampled = np.einsum("ij,kj->ik", windows, self._filters).ravel()  # not by BLAS, where the number of blocks matters
        self._held = held[blocks * self._step :].copy()  # a view would keep all of it
        self._given += len(resampled)
        return resampled

    def flush(self) -> np.ndarray:
        """The last samples. The stream is over after this."""
        if self._from == self._to:
            return np.zeros(0, dtype=np.float32)
        rest = -(-self._got * self._to // self._from) - self._given
        return self.push(np.zeros(self._filters.shape[1], dtype=np.float32))[:rest]


@lru_cache(maxsize=None)
def _sinc_filters(from_rate: int, to_rate: int) -> Tuple[np.ndarray, int]:
    """What makes a block of output samples of a window of input samples.

    Returns:
        A filter for each output sample, float32, shape (output samples of a block, input samples of a window); by how
        many input samples the window moves on from block to block.
    """
    blocks = gcd(from_rate, to_rate, 1000)  # a second: a millisecond each, or what is a whole number of samples at both rates
    made, step = to_rate // blocks, from_rate // blocks
    reach = -(-SINC_SAMPLES * from_rate // min(from_rate, to_rate))  # input samples, to both sides
    times = np.arange(2 * reach + step)[None] - reach - np.arange(made)[:, None] * from_rate / to_rate  # from its middle
    window = np.i0(SINC_BETA * np.sqrt(np.maximum(0, 1 - (times / reach) ** 2))) / np.i0(SINC_BETA) * (abs(times) <= reach)
    narrowed = min(1.0, to_rate / from_rate)  # only what both rates can hold
    return (np.sinc(times * narrowed) * window * narrowed).astype(np.float32), step
