"""Speaks the banking sentences and writes the clips and the NLU files that list them.

    python corpus/generate.py            # everything the project ships (needs festival and flite, and the extra espeak)
    python corpus/generate.py --extra 4 --out runs/distil   # only train sentences, in four more voices each

The same sentences, seed and synthesizer versions give the same waveforms. README.md beside this file is the
data card.
"""

import argparse
import csv
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Tuple, Union

import numpy as np
import soundfile
import yaml
from rich.progress import track
from scipy.signal import butter, sosfilt

from spoken_intents_training.augment import Surroundings
from spoken_intents_training.synthesize import SURROUNDINGS, Director, Utterance, speak
from spoken_intents_training.voices import Family, espeak_family

RATE = 16_000
HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent / "assistant_project"
# The demo noise: no speech in it, yet webrtcvad hears some (a test says so).
DEMO_NOISE = "noise"
FEW_SENTENCES = 60


@dataclass(frozen=True)
class Clip:
    """One sentence to be spoken, for the `voice`-th time."""

    path: str
    intent: str
    text: str
    part: str
    voice: int = 0


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
                yield Clip(path, intent, text, part, voice)
    for turn in yaml.safe_load((PROJECT / "demo.yml").read_text()):
        if "say" in turn:
            yield Clip(f"audio/demo/{turn['clip']}.ogg", "", turn["say"], "demo")


def extra_clips(voices: int) -> Iterator[Clip]:
    """The train sentences again in other voices: unlabelled speech to distil from."""
    for intent, parts in sentences().items():
        for index, text in enumerate(parts["train"]):
            for voice in range(voices):
                path = f"{intent}-{index:04d}-{voice}.flac"
                yield Clip(path, intent, text, "extra", voice)


# ---------------------------------------------------------------- the voices


# Turns are taken by family: two of three clips of the train part are espeak's.
FESTIVAL = Family(
    "text2wave -eval '(voice_{voice})' -eval \"(Parameter.set 'Duration_Stretch {rate})\" -o {wav}",
    ["kal_diphone", "ked_diphone"],
    {"rate": (0.8, 1.25)},
)
# No clip of the train part is spoken by flite, and none by these people. Each with the mean of its pitch, in Hz.
FLITE = [
    Family(
        "flite -voice {voice} --setf duration_stretch={rate} --setf int_f0_target_mean={pitch} -t {text} -o {wav}",
        [voice],
        {"rate": (0.85, 1.2), "pitch": (0.9 * mean, 1.12 * mean)},
    )
    for voice, mean in {"slt": 180, "awb": 125, "rms": 100}.items()
]
VOICES = {"train": [espeak_family(), espeak_family(), FESTIVAL], "test": FLITE, "demo": FLITE[:1]}
VOICES["extra"] = VOICES["train"]
NEARBY = Surroundings(room=0, noise=1, snr_db=(25, 40), telephone=0)


def utterance(clip: Clip) -> Utterance:
    """Who speaks `clip`, and how."""
    director = Director(VOICES[clip.part], surroundings=NEARBY if clip.part == "demo" else SURROUNDINGS)
    return director.utterance(f"{clip.part}/{clip.intent}", clip.text, clip.voice)


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
    written = []
    for clip, (said, samples) in zip(todo, track(speak(map(utterance, todo)), "Speaking", total=len(todo))):
        target = arguments.out / clip.path
        target.parent.mkdir(parents=True, exist_ok=True)
        save(target, samples)
        written.append((clip, said.voice.speaker))
    if not arguments.extra:
        save(PROJECT / "audio/demo" / f"{DEMO_NOISE}.ogg", demo_noise(np.random.default_rng(7)))
        write_lists(written)


if __name__ == "__main__":
    main()
