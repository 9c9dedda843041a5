"""Speaks the banking sentences and writes the clips and the NLU files that list them.

    python corpus/generate.py            # everything the project ships (needs espeak-ng, festival and flite)
    python corpus/generate.py --extra 4 --out runs/distil   # only train sentences, in four more voices each

The same sentences, seed and synthesizer versions give the same waveforms. README.md beside this file is the
data card.
"""

import argparse
import csv
import hashlib
import itertools
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Tuple, Union

import numpy as np
import soundfile
import soxr
import yaml
from rich.progress import track
from scipy.signal import butter, fftconvolve, sosfilt

RATE = 16_000
HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent / "assistant_project"
# The demo noise: no speech in it, yet webrtcvad hears some (a test says so).
DEMO_NOISE = "noise"
FEW_SENTENCES = 60


@dataclass(frozen=True)
class Clip:
    """One sentence to be spoken; `key` seeds everything random about it."""

    path: str
    intent: str
    text: str
    part: str
    key: str


# ---------------------------------------------------------------- the sentences


def sentences() -> Dict[str, Dict[str, List[str]]]:
    """{intent: {"train": [...], "test": [...]}} from sentences/*.txt, in file order."""
    parts: Dict[str, Dict[str, List[str]]] = {}
    for file in sorted((HERE / "sentences").glob("*.txt")):
        part = ""
        parts[file.stem] = {"train": [], "test": []}
        for line in file.read_text().splitlines():
            if line.startswith("# "):
                part = line[2:].strip()
            elif line.strip():
                parts[file.stem][part].append(line.strip())
    return parts


def clips() -> Iterator[Clip]:
    """Every clip the project ships but the demo's noise."""
    for intent, parts in sentences().items():
        for part, lines in parts.items():
            # Where people use few sentences, such as yes and no, more voices make up for them.
            voices = 3 if part == "train" and len(lines) < FEW_SENTENCES else 1
            for index, (voice, text) in enumerate(itertools.product(range(voices), lines)):
                path = f"audio/{part}/{intent}/{index:04d}.ogg"
                yield Clip(path, intent, text, part, f"{part}/{intent}/{text}" + (f"/{voice}" if voice else ""))
    for turn in yaml.safe_load((PROJECT / "demo.yml").read_text()):
        if "say" in turn:
            yield Clip(f"audio/demo/{turn['clip']}.ogg", "", turn["say"], "demo", f"demo/{turn['say']}")


def extra_clips(voices: int) -> Iterator[Clip]:
    """The train sentences again in other voices: unlabelled speech to distil from."""
    for intent, parts in sentences().items():
        for index, text in enumerate(parts["train"]):
            for voice in range(voices):
                path = f"{intent}-{index:04d}-{voice}.flac"
                yield Clip(path, intent, text, "train", f"extra {voice}/{intent}/{text}")


# ---------------------------------------------------------------- the voices


ESPEAK_ACCENTS = [
    "en-us",
    "en-us",
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
]
ESPEAK_VARIANTS = [
    "",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m7",
    "klatt",
    "klatt2",
    "klatt3",
    "klatt4",
    "Annie",
    "Andy",
    "Alicia",
    "Alex",
    "Gene",
    "Lee",
    "Mario",
    "Michael",
    "linda",
    "steph",
    "belinda",
    "john",
    "max",
    "rob",
    "victor",
    "travis",
    "zac",
    "iven",
    "norbert",
    "quincy",
    "shelby",
    "sandro",
    "kaukovalta",
]
FESTIVAL_VOICES = ["kal_diphone", "ked_diphone"]
FLITE_VOICES = ["slt", "awb", "rms"]  # no clip of the train part is spoken by flite, and none by these people


def speak(clip: Clip, rng: np.random.Generator, wav: Path) -> str:
    """Writes `clip` spoken by one synthesizer to `wav`; returns the voice's name."""
    if clip.part in ("test", "demo"):
        voice = str(rng.choice(FLITE_VOICES)) if clip.part == "test" else "slt"
        stretch, pitch = rng.uniform(0.85, 1.2), rng.uniform(0.9, 1.12)
        mean = {"slt": 180, "awb": 125, "rms": 100}[voice] * pitch
        _run(
            [
                "flite",
                "-voice",
                voice,
                "--setf",
                f"duration_stretch={stretch:.2f}",
                "--setf",
                f"int_f0_target_mean={mean:.0f}",
                "-t",
                clip.text,
                "-o",
                str(wav),
            ]
        )
        return f"flite {voice}"
    if rng.random() < 0.3:
        voice = str(rng.choice(FESTIVAL_VOICES))
        _run(
            [
                "text2wave",
                "-eval",
                f"(voice_{voice})",
                "-eval",
                f"(Parameter.set 'Duration_Stretch {rng.uniform(0.8, 1.25):.2f})",
                "-o",
                str(wav),
            ],
            clip.text,
        )
        return f"festival {voice}"
    accent, variant = str(rng.choice(ESPEAK_ACCENTS)), str(rng.choice(ESPEAK_VARIANTS))
    voice = f"{accent}+{variant}" if variant else accent
    _run(
        [
            "espeak-ng",
            "-v",
            voice,
            "-s",
            str(rng.integers(125, 205)),
            "-p",
            str(rng.integers(20, 80)),
            "-g",
            str(rng.integers(0, 3)),
            "-w",
            str(wav),
            clip.text,
        ]
    )
    return f"espeak-ng {voice}"


def _run(command: List[str], text: str = "") -> None:
    subprocess.run(command, input=text, text=True, check=True, capture_output=True, timeout=60)


# ---------------------------------------------------------------- rough edges


def roughen(speech: np.ndarray, rng: np.random.Generator, severity: float = 1.0) -> np.ndarray:
    """`speech` as a telephone, a room or a street would bring it; float32, 16 kHz, quiet before and after."""
    factor = rng.uniform(0.88, 1.14)  # another vocal tract: rate and pitch together
    speech = soxr.resample(speech, RATE * factor, RATE)
    speech = speech / (np.abs(speech).max() + 1e-9)
    lead, tail = (int(RATE * rng.uniform(0.08, 0.35)) for _ in range(2))
    speech = np.concatenate([np.zeros(lead), speech, np.zeros(tail)])
    if rng.random() < 0.4 * severity:
        speech = _room(speech, rng)
    signal_to_noise = rng.uniform(14, 40) if severity == 1 else rng.uniform(25, 40)
    speech = speech + _noise(len(speech), rng) * np.sqrt(np.mean(speech**2)) / 10 ** (signal_to_noise / 20)
    if rng.random() < 0.4 * severity:
        speech = _telephone(speech)
    peak = 10 ** (rng.uniform(-18, -2) / 20)
    return (speech / (np.abs(speech).max() + 1e-9) * peak).astype(np.float32)


def _room(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    decay = rng.uniform(0.1, 0.35)
    time = np.arange(int(RATE * decay * 1.5)) / RATE
    response = rng.standard_normal(len(time)) * 10 ** (-3 * time / decay)
    response[0] = 0
    response *= rng.uniform(0.1, 0.5) / (np.sqrt(np.sum(response**2)) + 1e-9)
    response[0] = 1
    return fftconvolve(speech, response)[: len(speech)]


def _noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Unit-power noise: white to brown, sometimes with mains hum."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequency = np.maximum(np.fft.rfftfreq(length, 1 / RATE), 30)
    noise = np.fft.irfft(spectrum / frequency ** rng.uniform(0, 1.2), length)
    if rng.random() < 0.2:
        hum = np.sin(2 * np.pi * rng.choice([50, 60, 100, 120]) * np.arange(length) / RATE)
        noise = noise / noise.std() + hum * rng.uniform(0.2, 1.0)
    return noise / (noise.std() + 1e-9)


def _telephone(speech: np.ndarray) -> np.ndarray:
    """300 to 3400 Hz at 8 kHz through µ-law (G.711's curve), back at 16 kHz."""
    band = sosfilt(butter(4, [300, 3400], "bandpass", fs=RATE, output="sos"), speech)
    narrow = soxr.resample(band, RATE, RATE // 2)
    narrow = narrow / (np.abs(narrow).max() + 1e-9)
    coded = np.round(np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256) * 127) / 127
    decoded = np.sign(coded) * (256 ** np.abs(coded) - 1) / 255
    wide = soxr.resample(decoded, RATE // 2, RATE)
    return np.pad(wide, (0, max(0, len(speech) - len(wide))))[: len(speech)]


def demo_noise(rng: np.random.Generator, seconds: float = 3.0) -> np.ndarray:
    """A vacuum cleaner pushed to and fro: hum, harmonics and rushing air that swell and fade."""
    time = np.arange(int(seconds * RATE)) / RATE
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * 0.8 * time) ** 2
    motor = sum(np.sin(2 * np.pi * 212 * k * (1 + 0.01 * np.sin(2 * np.pi * 0.6 * time)) * time + k) / k for k in range(1, 12))
    air = sosfilt(butter(2, [400, 3500], "bandpass", fs=RATE, output="sos"), rng.standard_normal(len(time)))
    fade = np.minimum(1, np.minimum(time, time[::-1]) / 0.3)
    noise = (motor + 2.0 * air) * swell * fade
    return (noise / np.abs(noise).max() * 0.4).astype(np.float32)


# ---------------------------------------------------------------- writing


def write(clip: Clip, root: Path) -> Tuple[Clip, str]:
    """Speaks and roughens one clip into `root`; returns it with its voice's name."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(clip.key.encode()).digest()[:8], "little"))
    target = root / clip.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "speech.wav"
        voice = speak(clip, rng, wav)
        speech, rate = soundfile.read(wav)
    speech = _trim(soxr.resample(speech, rate, RATE))
    save(target, roughen(speech, rng, severity=0.0 if clip.part == "demo" else 1.0))
    return clip, voice


def _trim(speech: np.ndarray) -> np.ndarray:
    """Without the digital silence synthesizers put around a sentence."""
    loud = np.flatnonzero(np.abs(speech) > 0.01 * np.abs(speech).max())
    return speech[loud[0] : loud[-1] + 1]


def save(target: Path, samples: np.ndarray) -> None:
    if target.suffix == ".ogg":
        with soundfile.SoundFile(target, "w", RATE, 1, format="OGG", subtype="OPUS", compression_level=0.96) as file:
            file.write(samples)
    else:
        soundfile.write(target, samples, RATE)


def write_lists(spoken: List[Tuple[Clip, str]]) -> None:
    """The clips as spoken examples (train and test) and their sentences as typed ones (train); a manifest of all."""
    for part, target in (("train", "data/nlu_spoken.yml"), ("test", "tests/nlu_spoken.yml")):
        by_intent: Dict[str, List[Clip]] = {}
        for clip, _ in spoken:
            if clip.part == part:
                by_intent.setdefault(clip.intent, []).append(clip)
        nlu = [{"intent": intent, "examples": _examples(clips)} for intent, clips in by_intent.items()]
        head = "# Written by corpus/generate.py. The text of a spoken example is its clip; audio/manifest.csv says more.\n"
        _save_yaml(PROJECT / target, head, nlu)
    with (PROJECT / "audio/manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "intent", "speaker", "transcript", "split"])
        for clip, voice in spoken:
            if clip.intent:
                rows.writerow([clip.path.split("/", 1)[1], clip.intent, voice, clip.text, clip.part])
    typed = []
    for intent, parts in sentences().items():
        typed.append({"intent": intent, "examples": "".join(f"- {line}\n" for line in parts["train"])})
    _save_yaml(PROJECT / "data/nlu_typed.yml", "# Written by corpus/generate.py: the same sentences, typed.\n", typed)


def _examples(clips: List[Clip]) -> Union[str, List[dict]]:
    """With transcripts where several voices say the same, so that these stay together; else the short form.

    Rasa takes ten seconds to read a few thousand examples with metadata, each time.
    """
    if len({clip.text for clip in clips}) < len(clips):
        return [{"text": clip.path, "metadata": {"transcript": clip.text}} for clip in clips]
    return "".join(f"- {clip.path}\n" for clip in clips)


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)
)


def _save_yaml(target: Path, head: str, nlu: list) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    body = yaml.dump({"version": "3.1", "nlu": nlu}, Dumper=_Dumper, sort_keys=False, width=200, allow_unicode=True)
    target.write_text(head + body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", type=int, default=0, help="only the train sentences, in this many other voices each")
    parser.add_argument("--out", type=Path, default=PROJECT, help="where the audio goes (default: assistant_project)")
    arguments = parser.parse_args()
    todo = list(extra_clips(arguments.extra) if arguments.extra else clips())
    with ThreadPoolExecutor(2) as pool:
        written = list(track(pool.map(lambda clip: write(clip, arguments.out), todo), "Speaking", total=len(todo)))
    if not arguments.extra:
        save(PROJECT / "audio/demo" / f"{DEMO_NOISE}.ogg", demo_noise(np.random.default_rng(7)))
        write_lists(written)


if __name__ == "__main__":
    main()
