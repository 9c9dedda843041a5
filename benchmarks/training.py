"""Figures of training, on recordings of people; tables on the terminal and JSON in results/.

    python benchmarks/training.py ablation     # the default recipe without each of its ingredients, on validation speakers
    python benchmarks/training.py few          # accuracy against clips an intent: default, reference-short, linear probe
    python benchmarks/training.py once         # the sets' own test parts, once for a recipe: clean, noise, telephone
    python benchmarks/training.py bases        # whisper-mini between random weights and its teacher
    python benchmarks/training.py speed        # seconds for a clip: stock class on 30 s windows against short context

The sets are CSVs (path, intent, speaker, transcript, split) in folders under --speech, which no user needs.
"""

import json
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import typer
from bench import HERE, console, save
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from transformers import WhisperConfig

from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.features import log_mel
from spoken_intents.recognizer import Recognizer
from spoken_intents_training.augment import add_noise, telephone
from spoken_intents_training.batches import Examples
from spoken_intents_training.dataset import Clip, read_clips, read_samples
from spoken_intents_training.distill import save_base
from spoken_intents_training.evaluate import recordings
from spoken_intents_training.finetune import PROBE_C, freeze, frozen_features, train
from spoken_intents_training.loop import run
from spoken_intents_training.modeling import load_base
from spoken_intents_training.recipe import Recipe, load_recipe
from spoken_intents_training.sources import base_model_source

SHARED = HERE.parent.parent / "shared"
app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)
SPEECH = typer.Option(SHARED / "speech", help="Folder of the sets.")
BASE = typer.Option(str(SHARED / "models/whisper-tiny.en-encoder"), help="Base model.")
SETS = typer.Option(["an4", "coffee"], "--set", help="Which sets; may be given again.")

# The default recipe with one thing changed, each.
NOT_VARIED = tuple(load_recipe("default").augment)
ABLATIONS: Dict[str, Dict[str, Any]] = {
    "default": {},
    "classifier not fitted first; mean pooling": {"pooling": "mean", "head_learning_rate": 1e-3},
    "clips not varied": {"augment": ()},
    "no noise": {"augment": tuple(name for name in NOT_VARIED if name != "noise")},
    "no telephone": {"augment": tuple(name for name in NOT_VARIED if name != "telephone")},
    "no room": {"augment": tuple(name for name in NOT_VARIED if name != "room")},
    "no gain, no shift": {"augment": tuple(name for name in NOT_VARIED if name not in ("gain", "shift"))},
    "no other voice": {"augment": tuple(name for name in NOT_VARIED if name != "voice")},
    "nothing blanked out": {"augment": tuple(name for name in NOT_VARIED if name != "blank")},
    "every layer trained": {"frozen_layers": 0},
    "no more steps for few clips": {"min_steps": 0},
    "one clip a step": {"batch_size": 1, "min_steps": 0, "epochs": 12},
    "encoder's rate 1e-5": {"learning_rate": 1e-5},
    "no warm-up, no clipping": {"warmup_share": 0.0, "max_grad_norm": 0.0},
}


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


def conditions(recognizer: Recognizer, clips: Sequence[Clip], speech: Path) -> Dict[str, float]:
    """Accuracy on the clips as they are, at 10 dB of recorded noise, and on a telephone."""
    noises = [read_audio(path, 120) for path in recordings(speech / "noise")]
    right: Dict[str, List[bool]] = defaultdict(list)
    for index, clip in enumerate(clips):
        samples = read_samples(clip)
        rng = np.random.default_rng((7, index))
        for name, heard in (
            ("clean", samples),
            ("noise_10_db", add_noise(samples, noises[index % len(noises)], 10.0, rng)),
            ("telephone", telephone(samples)),
        ):
            recognition = recognizer.classify(heard)
            right[name].append(recognition.is_speech and recognition.intent == clip.intent)
    return {name: float(np.mean(values)) for name, values in right.items()}


def trained(clips: Sequence[Clip], base_model: str, recipe: Recipe, tested: Sequence[Clip], speech: Path) -> Dict[str, Any]:
    """Trains on `clips`, measures on `tested`, in fp32."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        described = train(clips, base_model, recipe, Path(folder))
        seconds = time.monotonic() - began
        measured = conditions(Recognizer(Path(folder), "fp32"), tested, speech)
    return {
        **measured,
        "seconds": round(seconds, 1),
        "clips": len(clips),
        "tested": len(tested),
        "temperature": described["temperature"],
    }


@app.command()
def ablation(
    speech: Path = SPEECH,
    base_model: str = BASE,
    sets: List[str] = SETS,
    an_intent: int = typer.Option(5, help="Clips of each intent to learn from."),
    seeds: int = typer.Option(1),
    only: List[str] = typer.Option([], help="Only these rows."),
    most: int = typer.Option(150, help="Validation clips at most."),
    name: str = typer.Option("ablation", help="What to call the results."),
) -> None:
    """The default recipe with one ingredient changed at a time, on validation speakers cut from the train parts."""
    rows: List[Dict[str, Any]] = []
    for row, changes in ABLATIONS.items():
        if only and row not in only:
            continue
        for dataset in sets:
            learnt, chosen_on = validation_split(train_part(speech, dataset), 0)
            chosen_on = draw(chosen_on, None, 0)[:most]
            for seed in range(seeds):
                recipe = replace(load_recipe("default"), **changes, seed=seed)
                measured = trained(draw(learnt, an_intent, seed), base_model, recipe, chosen_on, speech)
                rows.append({"row": row, "set": dataset, "seed": seed, **measured})
                console.print(json.dumps(rows[-1]))
                save(name, {"recipe": asdict(load_recipe("default")), "an_intent": an_intent, "rows": rows})


@app.command()
def few(
    speech: Path = SPEECH,
    base_model: str = BASE,
    sets: List[str] = SETS,
    points: str = typer.Option("1,2,5,10,20", help="Clips of each intent."),
    draws: int = typer.Option(3, help="Random choices of the clips."),
    methods: str = typer.Option("probe,default,reference-short"),
    name: str = typer.Option("few_clips", help="What to call the results."),
) -> None:
    """Accuracy on the test parts against clips of an intent to learn from, drawn at random from the train parts."""
    rows: List[Dict[str, Any]] = []
    for dataset in sets:
        learnt, tested = train_part(speech, dataset), test_part(speech, dataset)
        features = dict(zip((clip.path for clip in learnt + tested), pooled(base_model, learnt + tested)))
        for an_intent, seed, method in product(map(int, points.split(",")), range(draws), methods.split(",")):
            drawn = draw(learnt, an_intent, seed)
            if method == "probe":
                measured = probe(features, drawn, tested)
            else:
                recipe = replace(load_recipe(method), seed=seed)
                measured = trained(drawn, base_model, recipe, tested, speech)
            rows.append({"set": dataset, "an_intent": an_intent, "draw": seed, "method": method, **measured})
            console.print(json.dumps(rows[-1]))
            save(name, {"base_model": Path(base_model).name, "rows": rows})


def pooled(base_model: str, clips: Sequence[Clip]) -> np.ndarray:
    """What the default recipe's classifier gets of each clip from the encoder as it is, shape (clips, width)."""
    model = load_base(base_model, ["-", "+"], "statistics")
    spectrograms = [log_mel(read_samples(clip), model.config.num_mel_bins) for clip in clips]
    return frozen_features(model, spectrograms)


def probe(features: Dict[Path, np.ndarray], learnt: Sequence[Clip], tested: Sequence[Clip]) -> Dict[str, Any]:
    """Accuracy of logistic regression on the frozen encoder."""
    seen, unseen = (np.stack([features[clip.path] for clip in clips]) for clips in (learnt, tested))
    center, scale = seen.mean(axis=0), seen.std(axis=0) + 1e-4
    regression = LogisticRegression(C=PROBE_C, max_iter=200).fit((seen - center) / scale, [clip.intent for clip in learnt])
    heard = regression.predict((unseen - center) / scale)
    return {"clean": float(np.mean([intent == clip.intent for intent, clip in zip(heard, tested)])), "clips": len(learnt)}


@app.command()
def once(
    speech: Path = SPEECH,
    base_model: str = BASE,
    sets: List[str] = SETS,
    recipes: str = typer.Option("default,reference-short"),
    name: str = typer.Option("test_parts", help="What to call the results."),
) -> None:
    """The sets' own test parts, once for a recipe."""
    rows = []
    for dataset, recipe in product(sets, recipes.split(",")):
        measured = trained(train_part(speech, dataset), base_model, load_recipe(recipe), test_part(speech, dataset), speech)
        rows.append({"set": dataset, "recipe": recipe, **measured})
        console.print(json.dumps(rows[-1]))
        save(name, {"base_model": Path(base_model).name, "rows": rows})


@app.command()
def bases(
    speech: Path = SPEECH,
    teacher: str = BASE,
    student: str = typer.Option("whisper-mini"),
    sets: List[str] = typer.Option(["an4", "coffee", "keywords"], "--set"),
    an_intent: int = typer.Option(10, help="Clips of each intent to learn from."),
    seeds: int = typer.Option(3),
    name: str = typer.Option("bases", help="What to call the results."),
) -> None:
    """The default recipe from the bundled base model, from its teacher, and from random weights; on the test parts."""
    rows: List[Dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        save_base(type(load_base(student, ["-"]))(WhisperConfig.from_pretrained(base_model_source(student))), Path(folder))
        for dataset, seed in product(sets, range(seeds)):
            drawn, tested = draw(train_part(speech, dataset), an_intent, seed), test_part(speech, dataset)
            for base, source in (("random", folder), (student, student), ("teacher", teacher)):
                measured = trained(drawn, source, replace(load_recipe("default"), seed=seed), tested, speech)
                rows.append({"set": dataset, "seed": seed, "base": base, **measured})
                console.print(json.dumps(rows[-1]))
                save(name, {"teacher": Path(teacher).name, "an_intent": an_intent, "rows": rows})
    for dataset in sets:
        low, middle, high = (
            np.mean([row["clean"] for row in rows if (row["set"], row["base"]) == (dataset, base)])
            for base in ("random", student, "teacher")
        )
        console.print(
            f"{dataset}: {low:.1%} random, {middle:.1%} {student}, {high:.1%} teacher: {(middle - low) / (high - low):.0%} of the gap"
        )


@app.command()
def speed(
    speech: Path = SPEECH,
    base_model: str = BASE,
    clips: int = typer.Option(16, help="Of AN4's lengths."),
    rounds: int = typer.Option(3),
) -> None:
    """Seconds of training a clip, stock class on 30 s windows and short context interleaved, same recipe otherwise."""
    learnt = train_part(speech, "an4")[:: len(train_part(speech, "an4")) // clips][:clips]
    samples = [read_samples(clip) for clip in learnt]
    labels = sorted({clip.intent for clip in learnt})
    recipes = {"reference": load_recipe("reference"), "reference-short": load_recipe("reference-short")}
    batched = replace(load_recipe("default"), epochs=1, min_steps=0, pooling="mean", augment=())
    recipes.update({"default, padded": replace(batched, context="padded"), "default, short": replace(batched, context="short")})
    seconds: Dict[str, List[float]] = defaultdict(list)
    for turn in range(rounds + 1):
        for name, recipe in recipes.items():
            recipe = replace(recipe, epochs=1)
            model = load_base(base_model, labels, recipe.pooling, recipe.context)
            freeze(model, recipe.frozen_layers)
            data = Examples(samples, [labels.index(clip.intent) for clip in learnt], [clip.name for clip in learnt], recipe, 80)
            with tempfile.TemporaryDirectory() as folder:
                began = time.monotonic()
                run(model, data, recipe, Path(folder))
                if turn:  # warm
                    seconds[name].append((time.monotonic() - began) / len(learnt))
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    ratios = {
        "batch 1": medians["reference"] / medians["reference-short"],
        "batch 8": medians["default, padded"] / medians["default, short"],
    }
    length = float(np.mean([len(clip) for clip in samples])) / SAMPLE_RATE
    for name, value in medians.items():
        console.print(f"{name:18} {value:.3f} s a clip")
    console.print(
        f"short context is faster by {ratios['batch 1']:.1f} (batch 1), {ratios['batch 8']:.1f} (batch 8); clips of {length:.1f} s"
    )
    figures = {"seconds_a_clip": seconds, "medians": medians, "ratios": ratios, "mean_clip_seconds": length}
    save("training_speed", {"base_model": Path(base_model).name, **figures})


if __name__ == "__main__":
    app()
