"""Text -> speech, sentence by sentence, in a thread; what was spoken before comes from the disk.

    speak("Done. Anything else?") ──▶ samples of "Done." ──▶ samples of "Anything else?"

An engine is named in the settings: ``espeak``, ``piper``, or a class by its dotted path.
"""

import asyncio
import ctypes
import hashlib
import io
import logging
import os
import re
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Dict, List, Mapping, Optional, Protocol, Tuple
from weakref import WeakValueDictionary

import numpy as np
import soundfile
import soxr

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.config import class_at, require
from spoken_intents.errors import ConfigError
from spoken_intents.files import is_file, write_whole
from spoken_intents.reading import sentences

logger = logging.getLogger(__name__)

MUTE = ("none", "browser")  # the server speaks nothing; in a browser the page may, from the text


@dataclass(frozen=True)
class SpeechSettings:
    """How the bot speaks.

    Attributes:
        speech: ``espeak``, ``piper``, an engine class by its dotted path, ``browser`` (the page speaks), ``none``;
            ``auto``: espeak where it is installed, else none.
        voice: Espeak: a voice such as ``en-gb`` or ``en-us+f3``. Piper: a voice's .onnx file. Empty: the engine's own.
            Settings of that engine may follow: ``en-us+f3 rate=150 pitch=60``.
        speech_timeout_ms: A sentence that takes an engine longer is not spoken; its text arrives all the same.
        speech_cache: Directory of what was spoken before; empty: in the user's cache directory.
        speech_cache_mb: Most it may hold; 0: nothing is kept.
    """

    speech: str = "auto"
    voice: str = ""
    speech_timeout_ms: int = 5_000
    speech_cache: str = ""
    speech_cache_mb: int = 100

    def __post_init__(self) -> None:
        require(100 <= self.speech_timeout_ms <= 60_000, f"speech_timeout_ms takes 100 to 60000, got {self.speech_timeout_ms}.")
        require(0 <= self.speech_cache_mb <= 100_000, f"speech_cache_mb takes 0 to 100000, got {self.speech_cache_mb}.")


class Engine(Protocol):
    """A synthesizer. Made with the voice's name; called from one thread at a time.

    Attributes:
        sample_rate: Of what `synthesize` returns, in Hz.
        language: Of the voice, such as ``en-gb``.
    """

    sample_rate: int
    language: str

    def synthesize(self, sentence: str) -> np.ndarray:
        """The sentence as float32 samples in [-1, 1], shape (samples,)."""
        ...


def voice_settings(voice: str, defaults: Mapping[str, float]) -> Tuple[str, Dict[str, float]]:
    """A voice's name, and its settings: those that follow the name (``en-us+f3 rate=150``), else the defaults.

    Raises:
        ConfigError: A setting that has no default.
    """
    behind = re.search(r"(?:\s+\w+=-?[\d.]+)*\s*$", voice)
    assert behind is not None  # nothing at all matches, too
    settings = dict(defaults)
    for setting in behind[0].split():
        key, _, value = setting.partition("=")
        if key not in defaults or value.count(".") > 1 or not value.strip("-."):
            raise ConfigError(f"voice: {setting} in {voice!r}; takes a number each for {', '.join(defaults) or 'nothing'}.")
        settings[key] = float(value)
    return voice[: behind.start()].strip(), settings


class EspeakEngine:
    """eSpeak NG, from the extra ``espeak``: the library and its voices are in the wheel.

    Behind the voice's name may stand ``rate`` (words a minute, 80 to 450), ``pitch`` and ``range`` (of the pitch; 0 to 99) and
    ``gap`` (between words, in 10 ms). The same sentence differs a little from one time to the next, as where the voice's flutter
    was is gone on from: only what is said first in a process is always the same.

    Raises:
        ConfigError: The extra is not installed, or has no such voice or setting.
    """

    _SETTINGS = {"rate": 175.0, "pitch": 50.0, "range": 50.0, "gap": 0.0}
    _PARAMETERS = {"rate": 1, "pitch": 3, "range": 4, "gap": 7}  # espeak_PARAMETER of espeak-ng's speak_lib.h
    _lock = threading.Lock()  # the library is one for the process
    _library: Optional[ctypes.CDLL] = None
    _rate = 0

    def __init__(self, voice: str) -> None:
        name, self._settings = voice_settings(voice, self._SETTINGS)
        self._voice = name or "en-us"
        self.language = self._voice
        with self._lock:
            self._load()
            self._choose()
            self.sample_rate = self._rate

    @classmethod
    def _load(cls) -> None:
        if cls._library is not None:
            return
        try:
            import espeakng_loader
        except ImportError:
            raise ConfigError("speech: espeak needs the extra: pip install 'rasa-spoken-intents[espeak]'.") from None
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        synchronous = 2  # samples go to a callback, not to a loudspeaker, and in the thread that asks
        rate = library.espeak_Initialize(synchronous, 200, str(espeakng_loader.get_data_path()).encode(), 0)
        if rate <= 0:
            raise ConfigError("speech: espeak could not be started; its voices may be missing. Install the extra espeak again.")
        library.espeak_ng_SetRandSeed(1)  # else the time's: breath is noise
        cls._library, cls._rate = library, rate

    def _choose(self) -> None:
        library = self._library
        assert library is not None
        if library.espeak_SetVoiceByName(self._voice.encode(errors="replace")):
            language, _, variant = self._voice.partition("+")
            wanted = _EspeakVoice(languages=language.encode(errors="replace"))  # en-gb is a language, not a voice's name
            missing = library.espeak_SetVoiceByProperties(ctypes.byref(wanted))
            if variant and not missing:  # which a voice has that is chosen by its name
                library.espeak_GetCurrentVoice.restype = ctypes.POINTER(_EspeakVoice)
                name = library.espeak_GetCurrentVoice().contents.identifier
                missing = library.espeak_SetVoiceByName(name + b"+" + variant.encode(errors="replace"))
            if missing:
                raise ConfigError(f"voice: espeak has no {self._voice!r}. Take a language such as en-gb, or a variant: en-us+f3.")
        for setting, parameter in self._PARAMETERS.items():
            library.espeak_SetParameter(parameter, int(self._settings[setting]), 0)

    def synthesize(self, sentence: str) -> np.ndarray:
        """See `Engine`."""
        pieces: List[np.ndarray] = []

        @_ESPEAK_CALLBACK
        def take(samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: int) -> int:
            if count > 0:
                pieces.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float32) / 32768.0)
            return 0

        text = sentence.encode() + b"\0"
        utf8, by_character = 1, 1
        with self._lock:
            assert self._library is not None
            self._choose()  # another engine may have chosen its own
            self._library.espeak_SetSynthCallback(take)
            failed = self._library.espeak_Synth(text, len(text), 0, by_character, 0, utf8, None, None)
        if failed:
            raise RuntimeError(f"espeak_Synth returned {failed}")
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


_ESPEAK_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class _EspeakVoice(ctypes.Structure):
    """``espeak_VOICE`` of espeak-ng's speak_lib.h."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        *((name, ctypes.c_ubyte) for name in ("gender", "age", "variant", "unused")),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


class PiperEngine:
    """Piper (the package ``piper-tts``), with the voice's .onnx file, beside which its .onnx.json lies.

    Behind the file may stand ``speaker`` (its number, where the file holds several), ``length`` (1.2: slower), ``noise`` (how much
    the voice varies) and ``timing`` (how much the length of sounds does).

    Raises:
        ConfigError: No file is named, it cannot be loaded, a setting is unknown, or the package is not installed.
    """

    _SETTINGS = {"speaker": 0.0, "length": 1.0, "noise": 0.667, "timing": 0.8}  # Piper's own
    _loaded: "WeakValueDictionary[str, Any]" = WeakValueDictionary()  # one in memory, however it is set

    def __init__(self, voice: str) -> None:
        name, settings = voice_settings(voice, self._SETTINGS)
        if not is_file(Path(name)):
            raise ConfigError(f"speech: piper needs a voice's file (voice: en_GB-alba-medium.onnx); {name or 'nothing'} is none.")
        try:
            from piper import PiperVoice, SynthesisConfig
        except ImportError:
            raise ConfigError("speech: piper needs its package: pip install piper-tts.") from None
        try:
            self._voice = self._loaded.get(name) or PiperVoice.load(name)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"voice: {name} cannot be loaded by piper ({error}).") from None
        self._loaded[name] = self._voice
        self._settings = SynthesisConfig(
            speaker_id=int(settings["speaker"]),
            length_scale=settings["length"],
            noise_scale=settings["noise"],
            noise_w_scale=settings["timing"],
        )
        self.sample_rate: int = self._voice.config.sample_rate
        self.language = Path(name).name.split("-")[0].replace("_", "-")

    def synthesize(self, sentence: str) -> np.ndarray:
        """See `Engine`."""
        return np.concatenate([chunk.audio_float_array for chunk in self._voice.synthesize(sentence, self._settings)])


ENGINES: Dict[str, Callable[[str], Engine]] = {"espeak": EspeakEngine, "piper": PiperEngine}


def make_speech(settings: SpeechSettings) -> Optional["Speech"]:
    """What speaks the bot's texts; None when nothing does.

    Raises:
        ConfigError: An engine that is not known or not installed, or a voice it has not got.
    """
    name = settings.speech
    if name == "auto":
        name = "espeak" if find_spec("espeakng_loader") else "none"
    if name in MUTE:
        return None
    return Speech(engine_class(name)(settings.voice), name, settings)


def engine_class(name: str) -> Callable[[str], Engine]:
    """What makes an engine of this name.

    Raises:
        ConfigError: There is none.
    """
    if name in ENGINES:
        return ENGINES[name]
    return class_at(name, "speech", ("auto", *ENGINES, *MUTE))


class Speech:
    """Speaks by one engine, for all calls of a channel; used from one event loop.

    Args:
        name: The engine's, for the cache and for who asks what speaks.
    """

    def __init__(self, engine: Engine, name: str, settings: SpeechSettings) -> None:
        self.name = name
        self._engine = engine
        self._timeout_s = settings.speech_timeout_ms / 1000
        self._voice = f"{name} {settings.voice}"
        self._cache = _Cache(settings) if settings.speech_cache_mb else None
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="speech")
        self._hanging: Optional["Future[np.ndarray]"] = None

    async def speak(self, text: str) -> AsyncIterator[np.ndarray]:
        """Each sentence of `text` as float32 at 16 kHz, as soon as it is there.

        An engine that fails or hangs ends this with what came so far: the log says why.
        """
        for sentence in sentences(text, self._engine.language):
            if self._hanging and not self._hanging.done():
                return
            self._hanging = None
            job = self._worker.submit(self._sentence, sentence)
            try:
                samples = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(job)), self._timeout_s)
            except asyncio.TimeoutError:
                self._hanging = job
                logger.error("%s took longer than %g s.", self._not_spoken(sentence), self._timeout_s)
                return
            except Exception:
                logger.exception("%s failed.", self._not_spoken(sentence))
                return
            if len(samples):
                yield samples

    def _not_spoken(self, sentence: str) -> str:
        """For the log, which is not to hold what a caller is told."""
        return f"A sentence of {len(sentence)} characters is not spoken: {self._voice}"

    def close(self) -> None:
        """Ends the thread, once what it is at is done."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _sentence(self, sentence: str) -> np.ndarray:
        key = hashlib.sha256(f"{self._voice}\n{sentence}".encode()).hexdigest()[:32]
        kept = self._cache.get(key) if self._cache else None
        if kept is not None:
            return kept
        samples = np.asarray(self._engine.synthesize(sentence), np.float32)
        if self._engine.sample_rate != SAMPLE_RATE and len(samples):
            samples = soxr.resample(samples, self._engine.sample_rate, SAMPLE_RATE)
        if self._cache:
            self._cache.put(key, samples)
        return samples


class _Cache:
    """Spoken sentences as FLAC, the longest unused go first. A disk that fails costs time, never the sentence."""

    def __init__(self, settings: SpeechSettings) -> None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._directory = Path(settings.speech_cache) if settings.speech_cache else home / "spoken-intents" / "speech"
        self._most_bytes = settings.speech_cache_mb * 2**20
        self._bytes: Optional[int] = None  # not looked at yet

    def get(self, key: str) -> Optional[np.ndarray]:
        file = self._directory / f"{key}.flac"
        try:
            samples, _ = soundfile.read(io.BytesIO(file.read_bytes()), dtype="float32")
            os.utime(file)  # used now
            return samples
        except (OSError, soundfile.LibsndfileError):
            return None

    def put(self, key: str, samples: np.ndarray) -> None:
        file = io.BytesIO()
        soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        flac = file.getvalue()
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)  # it may hold what a caller was told
            write_whole(self._directory / f"{key}.flac", flac, private=True)
            self._bytes = self._size() if self._bytes is None else self._bytes + len(flac)
            if self._bytes > self._most_bytes:
                self._make_room()
        except OSError as error:
            logger.warning("What is spoken cannot be kept in %s (%s).", self._directory, error)

    def _size(self) -> int:
        return sum(entry.stat().st_size for entry in os.scandir(self._directory))

    def _make_room(self) -> None:
        """Down to nine tenths, so that not every sentence has to."""
        files = sorted(self._directory.iterdir(), key=lambda file: file.stat().st_mtime)
        self._bytes = self._size()
        for file in files:
            if self._bytes <= 0.9 * self._most_bytes:
                break
            self._bytes -= file.stat().st_size
            file.unlink(missing_ok=True)
