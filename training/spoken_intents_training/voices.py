"""Who speaks synthetic clips: engines, their voices and how far each may vary. A longer list is more people.

A voice is what an engine of `spoken_intents.speech` is made with: a name, with settings behind it. Here is only what there is
to draw from; to have more, add to a `Family`, or a family.
"""

import shlex
import subprocess
import tempfile
from dataclasses import dataclass, field
from math import gcd
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Sequence, Tuple

import numpy as np
import soundfile

from spoken_intents.errors import ConfigError, SpeechError
from spoken_intents.speech import Engine, engine_class, voice_settings

COMMAND_TIMEOUT_S = 60
ENGLISH_ACCENTS = (
    *("en-us", "en-us", "en-us", "en-gb", "en-gb-scotland"),
    *("en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029"),
)
ACCENTS = {
    "en": ENGLISH_ACCENTS,
    "es": ("es", "es-419"),
    "fr": ("fr-fr", "fr-be", "fr-ch"),
    "pt": ("pt", "pt-br"),
    "vi": ("vi", "vi-vn-x-central", "vi-vn-x-south"),
}
VARIANTS = (
    *("", "f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "klatt", "klatt2", "klatt3", "klatt4"),
    *("Annie", "Andy", "Alicia", "Alex", "Gene", "Lee", "Mario", "Michael", "linda", "steph", "belinda", "john", "max", "rob"),
    *("victor", "travis", "zac", "iven", "norbert", "quincy", "shelby", "sandro", "kaukovalta"),
)
ESPEAK_RANGES = {"rate": (125, 205), "pitch": (20, 80), "gap": (0, 3)}
PIPER_RANGES = {"length": (0.85, 1.2), "noise": (0.5, 0.9), "timing": (0.6, 1.0)}
COMMAND_RANGES = {"rate": (0.85, 1.2), "pitch": (0.9, 1.12)}


@dataclass(frozen=True)
class Voice:
    """One way to speak: an engine, a name it knows, settings of that engine."""

    engine: str
    name: str
    settings: Tuple[Tuple[str, float], ...] = ()

    @property
    def speaker(self) -> str:
        """For metadata; the same person at another rate is the same speaker."""
        return " ".join(filter(None, (_short(self.engine), Path(self.name).stem if "/" in self.name else self.name)))

    def __str__(self) -> str:
        """What the engine is made with."""
        return " ".join([self.name, *(f"{key}={value:g}" for key, value in self.settings)])


@dataclass(frozen=True)
class Family:
    """Voices of one engine, and the settings of it that are drawn for each clip: from, to."""

    engine: str
    names: Sequence[str]
    ranges: Mapping[str, Tuple[float, float]] = field(default_factory=dict)

    @property
    def first(self) -> Voice:
        """A voice of it, to see whether there is one."""
        return Voice(self.engine, self.names[0])

    def voice(self, index: int, rng: np.random.Generator) -> Voice:
        """The voice with this number, as `rng` has it speak today."""
        settings = tuple((key, round(float(rng.uniform(*between)), 2)) for key, between in self.ranges.items())
        return Voice(self.engine, self.names[index % len(self.names)], settings)


def families_of(engines: Sequence[str], voices: Sequence[str], language: str) -> List[Family]:
    """Everybody who can speak by these engines, or by these voices of them: .onnx files are Piper's, others the other engine's.

    Raises:
        ConfigError: Piper without a file, files without Piper, or voices of which it is not clear whose they are.
    """
    files, others = ([voice for voice in voices if voice.partition(".onnx")[1] == is_file] for is_file in (".onnx", ""))
    named = [engine for engine in engines if engine != "piper" and (" " not in engine or "{voice}" in engine)]
    if "piper" in engines and not files:
        raise ConfigError("--engine piper needs voices: --voice en_GB-alba-medium.onnx, several times for several.")
    if files and "piper" not in engines:
        raise ConfigError(f"--voice {files[0]}: a file for --engine piper.")
    if others and len(named) != 1:
        raise ConfigError(f"--voice {others[0]}: of which engine? Name one that takes voices, got {', '.join(engines)}.")
    return [_family(engine, files if engine == "piper" else others, language) for engine in engines]


def _family(engine: str, voices: Sequence[str], language: str) -> Family:
    if engine == "espeak":
        if any("+" in voice for voice in voices):
            return Family("espeak", voices, ESPEAK_RANGES)
        return espeak_family(voices or ACCENTS.get(language.lower(), (language.lower(),)))
    if engine == "piper":
        return Family("piper", voices, PIPER_RANGES)
    if " " in engine:
        return Family(engine, voices or [""], {key: between for key, between in COMMAND_RANGES.items() if f"{{{key}}}" in engine})
    return Family(engine, voices or [""])


def espeak_family(accents: Sequence[str] = ENGLISH_ACCENTS, variants: Sequence[str] = VARIANTS) -> Family:
    """eSpeak NG's voices: every accent with every variant. Of another language: ``espeak_family(["de"])``."""
    names = [f"{accent}+{variant}" if variant else accent for accent in accents for variant in variants]
    return Family("espeak", names, ESPEAK_RANGES)


def draw_voices(families: Sequence[Family], rng: np.random.Generator) -> Callable[[int], Voice]:
    """A row of voices without end, by number: families take turns, and no name comes again before all have been.

    The voice of a number depends on `rng`'s seed alone, not on how many are asked for.
    """
    seed, first = int(rng.integers(2**63)), int(rng.integers(len(families)))
    paths = [(int(rng.integers(len(family.names))), _stride(len(family.names), rng)) for family in families]

    def voice(number: int) -> Voice:
        turn, which = divmod(number + first, len(families))
        start, stride = paths[which]
        return families[which].voice(start + turn * stride, np.random.default_rng((seed, number)))

    return voice


def _stride(count: int, rng: np.random.Generator) -> int:
    """Steps of so many go through all of `count` before they come to one again."""
    while True:
        stride = int(rng.integers(1, count + 1))
        if gcd(stride, count) == 1:
            return stride


def make_engine(voice: Voice) -> Engine:
    """What speaks as `voice`.

    Raises:
        ConfigError: There is no such engine or voice.
    """
    if " " in voice.engine:
        return CommandEngine(voice.engine, str(voice))
    return engine_class(voice.engine)(str(voice))


class CommandEngine:
    """Any program that writes a WAV file.

    Args:
        template: The command, with {wav} for the file to write, {text} for the sentence (else it comes on its standard input), and
            if you like {voice}, {rate} and {pitch} (1: as it is). It is run without a shell.
        voice: The voice's name, ``rate=1.1`` and ``pitch=0.9`` may stand behind it.

    Raises:
        ConfigError: The template has other names in braces, or no {wav}.
    """

    language = ""

    def __init__(self, template: str, voice: str) -> None:
        self._name, self._settings = voice_settings(voice, {"rate": 1.0, "pitch": 1.0})
        self._words = shlex.split(template)
        self.sample_rate = 16_000
        try:
            words = self._command("text", "wav")
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigError(f"{template}: takes {{text}}, {{wav}}, {{voice}}, {{rate}} and {{pitch}} ({error}).") from None
        if not any("wav" in word for word in words):
            raise ConfigError(f"{template}: has to say where the sound goes, by {{wav}}.")

    def _command(self, text: str, wav: str) -> List[str]:
        values: Dict[str, object] = {"text": text, "wav": wav, "voice": self._name, **self._settings}
        return [word.format(**values) for word in self._words]

    def synthesize(self, sentence: str) -> np.ndarray:
        """See `Engine`.

        Raises:
            SpeechError: The program fails, hangs or writes no sound.
        """
        with tempfile.TemporaryDirectory() as folder:
            wav = Path(folder) / "speech.wav"
            command = self._command(sentence, str(wav))
            try:
                subprocess.run(command, input=sentence.encode(), capture_output=True, timeout=COMMAND_TIMEOUT_S, check=True)
                samples, self.sample_rate = soundfile.read(wav, dtype="float32")
            except subprocess.CalledProcessError as error:
                said = error.stderr.decode(errors="replace").strip()
                raise SpeechError(f"{command[0]} ended with {error.returncode}: {said:.300}") from None
            except subprocess.TimeoutExpired:
                raise SpeechError(f"{command[0]} took longer than {COMMAND_TIMEOUT_S} s.") from None
            except soundfile.LibsndfileError as error:
                raise SpeechError(f"{command[0]} wrote no sound to {{wav}} ({error.error_string.rstrip('.')}).") from None
            except OSError as error:
                raise ConfigError(f"{command[0]}: cannot be run ({error.strerror}).") from None
        return samples if samples.ndim == 1 else samples.mean(axis=1)


def _short(engine: str) -> str:
    return Path(engine.split()[0]).name if engine.strip() else engine
