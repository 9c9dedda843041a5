"""Microphone and loudspeaker of this computer, for `talk --mic` and `teach --cli`. sounddevice only, from the extra ``mic``."""

import asyncio
import threading
from collections import deque
from typing import Any, Callable, Deque, Union

import numpy as np

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.client import PACKET_SAMPLES
from spoken_intents.errors import ConfigError

MOST_BLOCKS = 500  # of 20 ms, kept while the network stalls


def load_sounddevice() -> Any:
    """The module, once it is known that it can record.

    Raises:
        ConfigError: It, the system's PortAudio or a microphone is missing; says what to install.
    """
    try:
        import sounddevice
    except ImportError:
        raise ConfigError("The microphone needs the extra: pip install 'rasa-spoken-intents[mic]'.") from None
    except OSError:
        raise ConfigError(
            "The microphone needs the system's PortAudio library (Debian and Ubuntu: apt install libportaudio2)."
        ) from None
    try:
        sounddevice.check_input_settings(samplerate=SAMPLE_RATE, channels=1)
    except (sounddevice.PortAudioError, ValueError) as error:
        raise ConfigError(f"No microphone can be used: {error}") from None
    try:
        sounddevice.check_output_settings(samplerate=SAMPLE_RATE, channels=1)
    except (sounddevice.PortAudioError, ValueError) as error:
        raise ConfigError(f"No loudspeaker can be used: {error}") from None
    return sounddevice


def _opened(sounddevice: Any, stream: Callable[..., Any], callback: Callable[..., None]) -> Any:
    try:
        return stream(SAMPLE_RATE, PACKET_SAMPLES, channels=1, dtype="float32", callback=callback)
    except sounddevice.PortAudioError as error:
        raise ConfigError(f"The sound device cannot be opened: {error}") from None


def level_bar(block: np.ndarray) -> str:
    """How loud a block (float32) is, in up to 20 marks."""
    level_db = 20 * np.log10(float(np.sqrt(np.mean(np.square(block)))) + 1e-6)
    return f"{'▮' * max(0, min(20, round((level_db + 60) / 2.5))):<20}"


class Microphone:
    """Blocks of 20 ms (float32, 16 kHz), from the sound card's thread to the event loop. A context manager."""

    def __init__(self, sounddevice: Any) -> None:
        loop = asyncio.get_running_loop()
        self._blocks: "asyncio.Queue[np.ndarray]" = asyncio.Queue(MOST_BLOCKS)

        def recorded(block: np.ndarray, count: int, clock: Any, status: Any) -> None:
            loop.call_soon_threadsafe(self._keep, block[:, 0].copy())

        self._stream = _opened(sounddevice, sounddevice.InputStream, recorded)

    def _keep(self, block: np.ndarray) -> None:
        if self._blocks.full():  # the network stalls: the oldest is of no use any more
            self._blocks.get_nowait()
        self._blocks.put_nowait(block)

    def __enter__(self) -> "Microphone":
        self._stream.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stream.__exit__(*error)

    async def block(self) -> np.ndarray:
        """The next 20 ms."""
        return await self._blocks.get()


class Loudspeaker:
    """Plays samples (float32, 16 kHz) one after the other, in the sound card's thread. A context manager."""

    def __init__(self, sounddevice: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: Deque[Union[np.ndarray, Callable[[], None]]] = deque()
        self._lock = threading.Lock()
        self._stream = _opened(sounddevice, sounddevice.OutputStream, self._fill)

    def __enter__(self) -> "Loudspeaker":
        self._stream.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stream.__exit__(*error)

    @property
    def playing(self) -> bool:
        """Whether there is anything left to play."""
        return bool(self._queue)

    def play(self, samples: np.ndarray) -> None:
        """Plays `samples` after what it was given before."""
        self._put(samples)

    def then(self, played: Callable[[], None]) -> None:
        """Calls `played` on the event loop when everything before is played."""
        self._put(played)

    def clear(self) -> None:
        """Drops what is not played yet, and does not tell that it was."""
        with self._lock:
            self._queue.clear()

    def _put(self, item: Union[np.ndarray, Callable[[], None]]) -> None:
        with self._lock:
            self._queue.append(item)

    def _fill(self, block: np.ndarray, count: int, clock: Any, status: Any) -> None:
        block.fill(0)
        filled = 0
        with self._lock:
            while self._queue and filled < count:
                item = self._queue.popleft()
                if callable(item):
                    self._loop.call_soon_threadsafe(item)
                    continue
                piece, rest = item[: count - filled], item[count - filled :]
                block[filled : filled + len(piece), 0] = piece
                filled += len(piece)
                if len(rest):
                    self._queue.appendleft(rest)
