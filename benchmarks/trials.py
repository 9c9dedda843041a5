"""What the figures of training are made with: sets, their parts, one training and its measurement, files of results."""

import hashlib
import json
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import typer
from bench import HERE, console, machine, save
from sklearn.model_selection import StratifiedGroupKFold

from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.features import MAX_SAMPLES
from spoken_intents.recognizer import Recognizer
from spoken_intents_training.augment import add_noise, reverberate, telephone
from spoken_intents_training.dataset import Clip, read_clips, read_samples
from spoken_intents_training.evaluate import recordings
from spoken_intents_training.finetune import train
from spoken_intents_training.recipe import Recipe

QUIET_SAMPLES = SAMPLE_RATE * 3 // 10


class Results:
    """Rows of results/<name>.json, written as they come; run again, those of the same recipes are gone on with.

    Args:
        recipes: What rows are trained with; the rest of the task is named by keyword.
        look_up: Whether rows are looked for only: none is added, and those of another task are as good as none.

    Raises:
        typer.BadParameter: The file holds rows of another task.
    """

    def __init__(self, name: str, recipes: Sequence[Recipe], look_up: bool = False, **task: Any) -> None:
        self._name, self._task = name, task
        self._recipes = {identity(recipe): asdict(replace(recipe, seed=0)) for recipe in recipes}
        file = HERE / "results" / f"{name}.json"
        before = json.loads(file.read_text()) if file.is_file() else {"task": task, "rows": []}
        same = before.get("task") == task
        if not same and not look_up:
            raise typer.BadParameter(
                f"{file} holds figures of another task, {before.get('task')}, not of {task}. Move it away, or give the options "
                "that it was measured with."
            )
        self._rows: List[Dict[str, Any]] = [row for row in before["rows"] if same and row.get("recipe") in (None, *self._recipes)]
        others = len(before["rows"]) - len(self._rows)
        if others and not look_up:
            console.print(f"{file}: left out {others} row(s) of other recipes; they go when the first new row is written.")

    def find(self, **key: Any) -> Optional[Dict[str, Any]]:
        """The row with that key; None when it is not measured yet."""
        return next((row for row in self._rows if all(row.get(name) == value for name, value in key.items())), None)

    def add(self, key: Dict[str, Any], measured: Dict[str, Any]) -> None:
        """Prints and keeps a row."""
        self._rows.append({**key, **measured, "commit": machine()["commit"]})
        console.print(json.dumps(self._rows[-1]))
        save(self._name, {"task": self._task, "recipes": self._recipes, "rows": self._rows})


def identity(recipe: Recipe) -> str:
    """A short name of a recipe's settings, whatever its seed."""
    # The end-of-turn output is fitted when the encoder is done: it moves no intent's figure. No clip here is of a reviewed call.
    settings = without(asdict(replace(recipe, seed=0)), "turn_end", "calls_share")
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]


def without(settings: Dict[str, Any], *names: str) -> Dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def train_part(speech: Path, name: str) -> List[Clip]:
    return [clip for clip in read_clips(speech / name / "manifest.csv") if clip.split == "train"]


def test_part(speech: Path, name: str) -> List[Clip]:
    return [clip for clip in read_clips(speech / name / "manifest.csv") if clip.split == "test"]


def validation_split(clips: Sequence[Clip], seed: int) -> Tuple[List[Clip], List[Clip]]:
    """Clips to learn from and to choose on: half, of other speakers where they are known."""
    groups = [clip.speaker or str(index) for index, clip in enumerate(clips)]
    folds = StratifiedGroupKFold(2, shuffle=True, random_state=seed)
    learnt, chosen_on = next(folds.split(clips, [clip.intent for clip in clips], groups))
    return [clips[i] for i in learnt], [clips[i] for i in chosen_on]


def draw(clips: Sequence[Clip], an_intent: Optional[int], seed: int) -> List[Clip]:
    """At most so many clips of each intent, at random; None: all."""
    rng = np.random.default_rng(seed)
    taken: Dict[str, int] = defaultdict(int)
    drawn = []
    for clip in (clips[place] for place in rng.permutation(len(clips))):
        taken[clip.intent] += 1
        if an_intent is None or taken[clip.intent] <= an_intent:
            drawn.append(clip)
    return drawn


def conditions(recognizer: Recognizer, clips: Sequence[Clip], speech: Path, noisy: bool = True) -> Dict[str, float]:
    """Accuracy on the clips as they are and, where `noisy`, elsewhere.

    At 10 dB of recorded noise, on a telephone, 20 dB softer, in a room (0.4 s), with 300 ms of near silence at both ends.
    """
    noises = [read_audio(path, 120) for path in recordings(speech / "noise")] if noisy else []
    right: Dict[str, List[bool]] = defaultdict(list)
    for index, clip in enumerate(clips):
        samples = read_samples(clip)
        rng = np.random.default_rng((7, index))
        variants = {"clean": samples}
        if noisy:
            variants["noise_10_db"] = add_noise(samples, noises[index % len(noises)], 10.0, rng)
            variants["telephone"] = telephone(samples)
            variants["soft"] = samples * np.float32(0.1)
            variants["room"] = reverberate(samples, 0.4, 5.0, rng)
            quiet = rng.standard_normal((2, QUIET_SAMPLES), np.float32) * np.float32(1e-4)
            variants["loose"] = np.concatenate([quiet[0], samples, quiet[1]])[:MAX_SAMPLES]
        for name, heard in variants.items():
            recognition = recognizer.classify(heard)
            right[name].append(recognition.is_speech and recognition.intent == clip.intent)
    return {name: float(np.mean(values)) for name, values in right.items()}


def trained(
    clips: Sequence[Clip], base_model: str, recipe: Recipe, tested: Sequence[Clip], speech: Path, noisy: bool = True
) -> Dict[str, Any]:
    """Trains on `clips`, measures on `tested`, in fp32."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        described = train(clips, base_model, recipe, Path(folder))
        seconds = time.monotonic() - began
        measured = conditions(Recognizer(Path(folder), "fp32"), tested, speech, noisy)
        if noisy:
            for name, precision in (("int8", "int8"), ("served", "auto")):
                measured[name] = conditions(Recognizer(Path(folder), precision), tested, speech, noisy=False)["clean"]
    return {
        **measured,
        "seconds": round(seconds, 1),
        "clips": len(clips),
        "tested": len(tested),
        "temperature": described["temperature"],
        "pooling": described["pooling"],
        "recipe": identity(recipe),
    }
