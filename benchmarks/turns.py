"""Figures of turn-taking, on recordings of people; tables on the terminal and JSON in results/.

    python benchmarks/turns.py vad          # each detector on meetings with speech marked in time, clean, noisy, telephone
    python benchmarks/turns.py endpoints    # turns cut off, and how long after the end of speech a turn is over

The recordings are in folders under --speech, which no user needs.
"""

import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import typer
from bench import HERE, console, save
from endpoints import CONDITIONS, METHODS, lines, measure, row
from rich.table import Table
from trials import test_part, train_part, validation_split

from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.recognizer import MODEL_JSON, Recognizer
from spoken_intents.vad import Vad, make_vad
from spoken_intents_training.augment import add_noise, telephone
from spoken_intents_training.evaluate import recordings
from spoken_intents_training.finetune import train
from spoken_intents_training.recipe import load_recipe

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)
SPEECH = typer.Option(HERE.parent.parent / "shared/speech", help="Folder of the recordings.")
FRAME = SAMPLE_RATE // 100
DETECTORS = {**{f"webrtcvad, mode {mode}": ("webrtcvad", mode) for mode in range(4)}, "silero": ("silero", 0)}


@app.callback()
def main() -> None:
    """Figures of turn-taking."""


@app.command()
def vad(speech: Path = SPEECH) -> None:
    """Share of 10 ms frames each detector gets wrong, and microseconds for a second of audio."""
    marked = speech_marks(speech / "vad/speech.rttm")
    noises = [read_audio(path, 120) for path in recordings(speech / "noise")]
    files = {path.stem: read_audio(path, 120) for path in sorted((speech / "vad").glob("*.flac"))}
    wrong: Dict[Any, List[np.ndarray]] = {}
    seconds: Dict[str, float] = dict.fromkeys(DETECTORS, 0.0)
    for index, (stem, samples) in enumerate(files.items()):
        truth = np.zeros(len(samples) // FRAME, dtype=bool)
        for start, end in marked[stem]:
            truth[round(start * 100) : round(end * 100)] = True
        noisy = add_noise(samples, noises[index % len(noises)], 10.0, np.random.default_rng((7, index)))
        heard = {"16 kHz": samples, "16 kHz, 10 dB": noisy, "8 kHz": telephone(samples), "8 kHz, 10 dB": telephone(noisy)}
        for name, (kind, mode) in DETECTORS.items():
            for condition, line in heard.items():
                began = time.perf_counter()
                found = flags(make_vad(kind, mode, 0.5), line, len(truth))
                seconds[name] += time.perf_counter() - began
                # Frame by frame: speech missed, silence taken for speech.
                wrong.setdefault((name, condition), []).append(np.stack([truth & ~found, ~truth & found]))
    spoken = sum(end - start for marks in marked.values() for start, end in marks)
    length = sum(len(samples) for samples in files.values()) / SAMPLE_RATE
    conditions = list(dict.fromkeys(condition for _, condition in wrong))
    table = Table(
        "detector",
        *conditions,
        "µs for 1 s",
        title=f"Wrong frames (missed + false), {length:.0f} s, {spoken / length:.0%} speech",
    )
    rows = []
    for name in DETECTORS:
        cells = []
        for condition in conditions:
            missed, false = np.concatenate(wrong[name, condition], axis=1).mean(axis=1)
            rows.append({"detector": name, "condition": condition, "missed": float(missed), "false": float(false)})
            cells.append(f"{missed + false:.1%} ({missed:.1%} + {false:.1%})")
        microseconds = 1e6 * seconds[name] / (length * len(conditions))
        rows.append({"detector": name, "microseconds_a_second": microseconds})
        table.add_row(name, *cells, f"{microseconds:.0f}")
    console.print(table)
    save("vad", {"seconds": length, "speech": spoken / length, "rows": rows})


@app.command()
def endpoints(
    speech: Path = SPEECH,
    base_model: str = typer.Option(str(HERE.parent.parent / "shared/models/whisper-tiny.en-encoder"), help="Base model."),
    sets: List[str] = typer.Option(["coffee", "an4"], "--set", help="Which sets; may be given again."),
    validation: bool = typer.Option(False, help="Train on half of the train part and measure on the rest, to choose on."),
    models: Optional[Path] = typer.Option(None, help="Folder of models by set, from the same training; made where missing."),
) -> None:
    """Share of turns that each method cuts off, and the others' delay from the true end of speech."""
    found: Dict[Any, List[Any]] = {}
    turn_ends: Dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for dataset in sets:
            learnt, tested = train_part(speech, dataset), test_part(speech, dataset)
            if validation:
                learnt, tested = validation_split(learnt, 0)
            folder = (models or Path(temporary)) / dataset
            if not (folder / MODEL_JSON).is_file():
                train(learnt, base_model, load_recipe("default"), folder)
            recognizer = Recognizer(folder)
            learnt_from = sum(recognizer.description["data"]["clips"].values())
            turn_ends[dataset] = {"clips": learnt_from, **(recognizer.description["turn_end"] or {})}
            found.update(measure(recognizer, lines(dataset, tested, speech)))
    rows = [
        {"group": group, "condition": condition, "method": method, **row(delays)}
        for (group, condition, method), delays in found.items()
    ]
    for condition in CONDITIONS:
        groups = list(dict.fromkeys(group for group, *_ in found))
        table = Table("method", *groups, title=f"{condition}: turns cut off; delay in ms, median (95th percentile)")
        for method in METHODS:
            cells = [row(found.get((group, condition, method), [])) for group in groups]
            table.add_row(method, *map(_endpoint, cells))
        console.print(table)
    save("endpoints_validation" if validation else "endpoints", {"models": turn_ends, "rows": rows})


def _endpoint(cell: Dict[str, Any]) -> str:
    if cell["median_ms"] is None:
        return ""
    never = f", {cell['never_ended']} never" if cell["never_ended"] else ""
    return f"{cell['cut_off']:.1%} of {cell['n']}; {cell['median_ms']:.0f} ({cell['p95_ms']:.0f}){never}"


def speech_marks(file: Path) -> Dict[str, Any]:
    """(start, end) of each stretch of speech, in seconds, by recording, from an RTTM file."""
    marks: Dict[str, Any] = {}
    for line in file.read_text().splitlines():
        _, name, _, start, duration, *_ = line.split()
        marks.setdefault(name, []).append((float(start), float(start) + float(duration)))
    return marks


def flags(detector: Vad, samples: np.ndarray, frames: int) -> np.ndarray:
    """The detector's answer for each 10 ms frame, shape (frames,): that of the window its middle lies in."""
    size = detector.window_samples
    padded = np.pad(samples, (0, -len(samples) % size))
    answers = np.array([detector.is_speech(window) for window in padded.reshape(-1, size)])
    return answers[(np.arange(frames) * FRAME + FRAME // 2) // size]


if __name__ == "__main__":
    app()
