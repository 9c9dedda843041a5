"""Figures of training, on recordings of people; tables on the terminal and JSON in results/.

    python benchmarks/training.py probes       # what the frozen encoder's classifier should get: layers, pooling
    python benchmarks/training.py ablation     # the default recipe without each of its ingredients, on validation speakers
    python benchmarks/training.py few          # accuracy against clips an intent: default, reference-short, linear probe
    python benchmarks/training.py once         # the sets' own test parts, once for a recipe: clean, noise, telephone
    python benchmarks/training.py bases        # whisper-mini between random weights and its teacher
    python benchmarks/training.py speed        # seconds for a clip: stock class on 30 s windows against short context

The sets are CSVs (path, intent, speaker, transcript, split) in folders under --speech, which no user needs; `speed` takes the
bundled clips.
"""

import tempfile
import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np
import torch
import transformers
import typer
from bench import HERE, PROJECT, console, save
from shapes import SHAPES, config_of
from sklearn.linear_model import LogisticRegression
from transformers import WhisperConfig
from trials import Results, draw, identity, test_part, train_part, trained, validation_split, without
from variants import VARIANTS, poolings, tried

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.features import log_mel
from spoken_intents_training.batches import Examples
from spoken_intents_training.dataset import Clip, read_clips, read_samples
from spoken_intents_training.distill import save_base
from spoken_intents_training.finetune import freeze
from spoken_intents_training.fitting import frozen_hidden
from spoken_intents_training.heads import PROBE_C, fitted_head, hear, statistics
from spoken_intents_training.loop import run
from spoken_intents_training.modeling import ShortContextClassifier, encode_layers, load_base
from spoken_intents_training.recipe import load_recipe, recipe_names
from spoken_intents_training.sources import base_model_source

transformers.logging.set_verbosity_error()
SHARED = HERE.parent.parent / "shared"
app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)
SPEECH = typer.Option(SHARED / "speech", help="Folder of the sets.")
BASE = typer.Option(str(SHARED / "models/whisper-tiny.en-encoder"), help="Base model.")
SETS = typer.Option(["an4", "coffee"], "--set", help="Which sets; may be given again.")

# The default recipe with one thing changed, each; a `variant` is one of variants.VARIANTS.
ABLATIONS: Dict[str, Dict[str, Any]] = {
    "default": {},
    "Hugging Face's head (mean), not fitted first, at 1e-3": {"pooling": "mean", "head_learning_rate": 1e-3},
    "statistics whatever the clips": {"pooling": "statistics"},
    "attention whatever the clips": {"pooling": "attention"},
    "no layer frozen": {"frozen_layers": 0},
    "two layers frozen": {"frozen_layers": 2},
    "three layers frozen": {"frozen_layers": 3},
    "no made-up noises": {"non_speech_share": 0.0},
    "one epoch": {"epochs": 1},
    "five epochs": {"epochs": 5},
    "none held out": {"held_out_share": 0.0},
    "no more steps for few clips": {"min_steps": 0},
    "100 steps at least": {"min_steps": 100},
    "300 steps at least": {"min_steps": 300},
    "one clip a step": {"batch_size": 1, "min_steps": 600},
    "16 clips a step": {"batch_size": 16, "min_steps": 75},
    "encoder's rate 1e-5": {"learning_rate": 1e-5},
    "encoder's rate 1e-4": {"learning_rate": 1e-4},
    "encoder's rate 5e-4": {"learning_rate": 5e-4},
    "head's rate 1e-3": {"head_learning_rate": 1e-3},
    "no warm-up": {"warmup_share": 0.0},
    "no clipping": {"max_grad_norm": 0.0},
    "fp32": {"precision": "fp32"},
    **{name: {"variant": name} for name in VARIANTS},
}


@app.command()
def probes(speech: Path = SPEECH, base_model: str = BASE, sets: List[str] = SETS, seeds: int = typer.Option(3)) -> None:
    """Heads on the frozen encoder, from 5 clips an intent, on validation speakers cut from the train parts."""
    rows: List[Dict[str, Any]] = []
    model = load_base(base_model, ["-", "+"])
    for dataset in sets:
        learnt, chosen_on = validation_split(train_part(speech, dataset), 0)
        given, hidden = {}, {}
        for clip in learnt + chosen_on:
            with torch.no_grad():
                layers, _ = encode_layers(model.encoder, torch.from_numpy(log_mel(read_samples(clip)))[None])
                hidden[clip.path] = model.encoder.layer_norm(layers[-1])[0].clone()
                given[clip.path] = {name: row[0].numpy() for name, row in poolings(layers, model.encoder.layer_norm).items()}
        intents = sorted({clip.intent for clip in learnt})
        truth = np.array([intents.index(clip.intent) for clip in chosen_on])
        right: Dict[str, List[float]] = defaultdict(list)
        for seed in range(seeds):
            drawn = draw(learnt, 5, seed)
            targets = np.array([intents.index(clip.intent) for clip in drawn])
            for name in given[drawn[0].path]:
                measured = probe({path: pooled[name] for path, pooled in given.items()}, drawn, chosen_on)
                right[name].append(measured["clean"])
            head = fitted_head("attention", [hidden[clip.path] for clip in drawn], targets, len(intents), seed)
            right["attention"].append(float((hear(head, [hidden[clip.path] for clip in chosen_on]) == truth).mean()))
        rows += [{"set": dataset, "head": name, "clean": values, "tested": len(chosen_on)} for name, values in right.items()]
        for name, values in right.items():
            console.print(f"{dataset:8} {name:36} {np.mean(values):.1%}")
    save("probes", {"base_model": Path(base_model).name, "an_intent": 5, "rows": rows})


@app.command()
def ablation(
    speech: Path = SPEECH,
    base_model: str = BASE,
    sets: List[str] = SETS,
    an_intent: int = typer.Option(5, help="Clips of each intent to learn from; 0: all."),
    seeds: int = typer.Option(1),
    only: List[str] = typer.Option([], help="Only these rows."),
    noisy: bool = typer.Option(True, help="Also at 10 dB of noise and over the telephone."),
    most: int = typer.Option(250, help="Validation clips at most."),
) -> None:
    """The default recipe with one ingredient changed at a time, on validation speakers cut from the train parts."""
    recipes = {row: replace(load_recipe("default"), **without(changes, "variant")) for row, changes in ABLATIONS.items()}
    for dataset in sets:
        results = Results(
            f"ablation_{dataset}{'' if an_intent else '_all'}",
            [*recipes.values()],
            base_model=Path(base_model).name,
            an_intent=an_intent,
            most=most,
        )
        learnt, chosen_on = validation_split(train_part(speech, dataset), 0)
        chosen_on = draw(chosen_on, None, 0)[:most]
        for (row, changes), seed in product(ABLATIONS.items(), range(seeds)):
            key = {"row": row, "set": dataset, "seed": seed}
            if (only and row not in only) or results.find(**key, recipe=identity(recipes[row])):
                continue
            recipe = replace(recipes[row], seed=seed)
            with tried(VARIANTS[changes["variant"]]) if "variant" in changes else nullcontext():
                results.add(key, trained(draw(learnt, an_intent or None, seed), base_model, recipe, chosen_on, speech, noisy))


@app.command()
def few(
    speech: Path = SPEECH,
    base_model: str = BASE,
    sets: List[str] = SETS,
    points: str = typer.Option("1,2,5,10,20,all", help="Clips of each intent."),
    draws: int = typer.Option(3, help="Random choices of the clips; of all clips there is one."),
    methods: str = typer.Option("probe,default,reference-short"),
) -> None:
    """Accuracy on the test parts against clips of an intent to learn from, drawn at random from the train parts."""
    recipes = {method: load_recipe(method) for method in ("default", "reference-short")}
    for dataset in sets:
        results = Results(f"few_{dataset}", [*recipes.values()], base_model=Path(base_model).name)
        learnt, tested = train_part(speech, dataset), test_part(speech, dataset)
        whole = Results(f"once_{dataset}", [*recipes.values()], look_up=True, base_model=Path(base_model).name)
        features = dict(zip((clip.path for clip in learnt + tested), pooled(base_model, learnt + tested)))
        for method, point, seed in product(methods.split(","), points.split(","), range(draws)):
            key = {"set": dataset, "an_intent": point, "draw": seed, "method": method}
            recipe = None if method == "probe" else identity(recipes[method])
            if (point == "all" and seed) or results.find(**key, recipe=recipe):
                continue
            same = whole.find(set=dataset, name=method, recipe=recipe) if point == "all" and recipe else None
            if same:  # a test part is heard once for a recipe
                results.add(key, without(same, "name"))
                continue
            drawn = draw(learnt, None if point == "all" else int(point), seed)
            if method == "probe":
                results.add(key, probe(features, drawn, tested))
            else:
                results.add(key, trained(drawn, base_model, replace(recipes[method], seed=seed), tested, speech, noisy=False))


def pooled(base_model: str, clips: Sequence[Clip]) -> np.ndarray:
    """Statistics of what the encoder as it is gives of each clip, shape (clips, 4 * width)."""
    model = load_base(base_model, ["-", "+"])
    data = Examples(
        [*map(read_samples, clips)], [0] * len(clips), [""] * len(clips), load_recipe("default"), model.config.num_mel_bins
    )
    return np.stack([statistics(hidden[None], None)[0].numpy() for hidden in frozen_hidden(model, data, range(len(clips)))])


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
    recipes: str = typer.Option("default,reference-short", help="Names, between commas; reference takes an hour on two cores."),
) -> None:
    """The sets' own test parts, once for a recipe."""
    loaded = {name: load_recipe(name) for name in recipe_names()}
    for dataset in sets:
        results = Results(f"once_{dataset}", [*loaded.values()], base_model=Path(base_model).name)
        learnt, tested = train_part(speech, dataset), test_part(speech, dataset)
        for name in recipes.split(","):
            key = {"set": dataset, "name": name}
            if not results.find(**key, recipe=identity(loaded[name])):
                results.add(key, trained(learnt, base_model, loaded[name], tested, speech))


@app.command()
def bases(
    speech: Path = SPEECH,
    teacher: str = BASE,
    student: str = typer.Option("whisper-mini"),
    sets: List[str] = typer.Option(["an4", "coffee", "keywords"], "--set"),
    an_intent: int = typer.Option(10, help="Clips of each intent to learn from."),
    seeds: int = typer.Option(3),
) -> None:
    """The default recipe from the bundled base model, from its teacher, and from random weights; on the test parts."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        save_base(type(load_base(student, ["-"]))(WhisperConfig.from_pretrained(base_model_source(student))), Path(folder))
        sources = {"random": folder, student: student, "teacher": teacher}
        default = load_recipe("default")
        for dataset in sets:
            results = Results(f"bases_{dataset}", [default], teacher=Path(teacher).name, an_intent=an_intent)
            few_clips = Results(f"few_{dataset}", [default], look_up=True, base_model=Path(teacher).name)
            for seed, base in product(range(seeds), sources):
                key = {"set": dataset, "seed": seed, "base": base}
                if results.find(**key):
                    continue
                same = few_clips.find(set=dataset, an_intent=str(an_intent), draw=seed, method="default")
                if base == "teacher" and same:
                    results.add(key, without(same, "an_intent", "draw", "method"))
                    continue
                drawn, tested = draw(train_part(speech, dataset), an_intent, seed), test_part(speech, dataset)
                results.add(key, trained(drawn, sources[base], replace(default, seed=seed), tested, speech, noisy=False))


@app.command()
def speed(
    data: Path = typer.Option(PROJECT / "audio/manifest.csv", help="CSV of clips; the bundled ones need nothing else."),
    shape: str = typer.Option("whisper-tiny.en", help="Of which the base model is, with random weights."),
    clips: int = typer.Option(16, help="Evenly from the CSV's train part."),
    rounds: int = typer.Option(3),
) -> None:
    """Seconds of training a clip, stock class on 30 s windows and short context interleaved, same recipe otherwise."""
    train_clips = [clip for clip in read_clips(data) if clip.split == "train"]
    learnt = train_clips[:: max(1, len(train_clips) // clips)][:clips]
    with tempfile.TemporaryDirectory() as base_model:
        torch.manual_seed(0)
        save_base(ShortContextClassifier(config_of(SHAPES[shape])), Path(base_model))
        measure_speed(learnt, base_model, shape, rounds)


def measure_speed(learnt: Sequence[Clip], base_model: str, shape: str, rounds: int) -> None:
    """Prints and saves what `speed` says."""
    samples = [read_samples(clip) for clip in learnt]
    labels = sorted({clip.intent for clip in learnt})
    recipes = {"reference": load_recipe("reference"), "reference-short": load_recipe("reference-short")}
    batched = replace(load_recipe("default"), epochs=1, min_steps=0, pooling="mean")
    recipes.update({"default, padded": replace(batched, context="padded"), "default, short": replace(batched, context="short")})
    seconds: Dict[str, List[float]] = defaultdict(list)
    for turn in range(rounds + 1):
        for name, recipe in recipes.items():
            recipe = replace(recipe, epochs=1)
            model = load_base(base_model, labels, recipe.context)
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
    save("training_speed", {"shape": shape, "clips": len(learnt), **figures})


if __name__ == "__main__":
    app()
