"""Who speaks synthetic clips: engines, their voices and how far each may vary. A longer list is more people.

A voice is what an engine of `spoken_intents.speech` is made with: a name, with settings behind it. Here is only what there is
to draw from; to have more, add to a `Family`, or a family.
"""

import shlex
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Sequence, Tuple

import numpy as np
import soundfile

from spoken_intents.errors import ConfigError
from spoken_intents.speech import Engine, engine_class, voice_settings

COMMAND_TIMEOUT_S = 60
ENGLISH_ACCENTS = (
    *("en-us", "en-us", "en-us", "en-gb", "en-gb-scotland"),
    *("en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029"),
)
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

    def voice(self, index: int, rng: np.random.Generator) -> Voice:
        """The voice with this number, as `rng` has it speak today."""
        settings = tuple((key, round(float(rng.uniform(*between)), 2)) for key, between in self.ranges.items())
        return Voice(self.engine, self.names[index % len(self.names)], settings)


def espeak_family(accents: Sequence[str] = ENGLISH_ACCENTS, variants: Sequence[str] = VARIANTS) -> Family:
    """eSpeak NG's voices: every accent with every variant. Of another language: ``espeak_family(["de"])``."""
    names = [f"{accent}+{variant}" if variant else accent for accent in accents for variant in variants]
    return Family("espeak", names, ESPEAK_RANGES)


def draw_voices(families: Sequence[Family], rng: np.random.Generator) -> Callable[[int], Voice]:
    """A row of voices without end, by number: families take turns, and no name comes again before all have been.

    The voice of a number depends on `rng`'s seed alone, not on how many are asked for.
    """
    seed = int(rng.integers(2**63))
    order = [rng.permutation(len(family.names)) for family in families]
    first = int(rng.integers(len(families)))

    def voice(number: int) -> Voice:
        turn, which = divmod(number, len(families))
        which = (first + which) % len(families)
        index = int(order[which][turn % len(order[which])])
        return families[which].voice(index, np.random.default_rng((seed, number)))

    return voice


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
        """See `Engine`."""
        with tempfile.TemporaryDirectory() as folder:
            wav = Path(folder) / "speech.wav"
            ran = subprocess.run(
                self._command(sentence, str(wav)), input=sentence.encode(), capture_output=True, timeout=COMMAND_TIMEOUT_S
            )
            if ran.returncode or not wav.is_file():
                said = ran.stderr.decode(errors="replace").strip()
                raise RuntimeError(f"{self._words[0]} ended with {ran.returncode} and wrote {'a' if wav.is_file() else 'no'} file: {said:.300}")
            samples, self.sample_rate = soundfile.read(wav, dtype="float32")
        return samples if samples.ndim == 1 else samples.mean(axis=1)


def _short(engine: str) -> str:
    return Path(engine.split()[0]).name if engine.strip() else engine
