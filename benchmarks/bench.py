"""Figures of the bundled corpus and of one classification, as tables and as JSON beside this file.

python benchmarks/bench.py accuracy    # train on the bundled clips, test on the other synthesizer
python benchmarks/bench.py speed       # milliseconds for an utterance, int8 and fp32
"""

import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict

import numpy as np
import typer
from rich.console import Console

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.recognizer import Recognizer
from spoken_intents_training.dataset import Clip, read_clips, read_samples
from spoken_intents_training.evaluate import evaluate
from spoken_intents_training.finetune import train
from spoken_intents_training.recipe import load_recipe

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent / "assistant_project"
console = Console(highlight=False)
app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)


def machine() -> Dict[str, Any]:
    """Where and on what the figures were measured."""
    import onnxruntime
    import torch

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    return {
        "commit": commit,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def save(name: str, figures: Dict[str, Any]) -> None:
    """Writes ``results/<name>.json``."""
    (HERE / "results").mkdir(exist_ok=True)
    file = HERE / "results" / f"{name}.json"
    file.write_text(json.dumps({**machine(), **figures}, indent=2) + "\n")
    console.print(f"[dim]{file.relative_to(HERE.parent)}[/]")


def measured(recognizer: Recognizer, clips: "list[Clip]") -> Dict[str, Any]:
    """The evaluation's figures and table."""
    result = evaluate(recognizer, clips)
    console.print(result.table())
    figures = result.as_json()
    console.print(f"accuracy {figures['accuracy']:.1%}, macro-F1 {figures['macro_f1']:.1%}, {figures['n']} clips\n")
    return figures


@app.command()
def accuracy(
    base_model: str = typer.Option("whisper-mini"),
    recipe: str = typer.Option("default"),
    train_data: Path = typer.Option(PROJECT / "data/nlu_spoken.yml", help="nlu.yml or CSV (its split train)."),
    test_data: Path = typer.Option(PROJECT / "audio/manifest.csv", help="nlu.yml or CSV (its split test)."),
    name: str = typer.Option("bundled", help="What to call the results."),
) -> None:
    """Train, then test on clips of other speakers: int8, fp32, and int8 with ties heard in fp32, as it is served."""
    tested = [clip for clip in read_clips(test_data) if clip.split != "train"]
    with tempfile.TemporaryDirectory() as folder:
        learnt = [clip for clip in read_clips(train_data) if clip.split != "test"]
        train(learnt, base_model, load_recipe(recipe), Path(folder))
        recognizers = {precision: Recognizer(Path(folder), precision) for precision in ("int8", "fp32", "auto")}
        figures = {precision: measured(recognizer, tested) for precision, recognizer in recognizers.items()}
        same = sum(
            recognizers["int8"].classify(samples).intent == recognizers["fp32"].classify(samples).intent
            for samples in map(read_samples, tested)
        )
    described = recognizers["int8"].description
    seconds = described["metrics"]["seconds"]
    console.print(f"int8 and fp32 say the same of {same} of {len(tested)} clips; trained in {seconds:.0f} s")
    parity = {"same_first_intent": same, "n": len(tested), "at_export": described["parity"]}
    kept = {key: described[key] for key in ("recipe", "pooling", "base_model", "temperature", "suggested_threshold", "metrics")}
    save(f"accuracy_{name}", {"train_seconds": seconds, "model": kept, "parity": parity, "test": figures})


@app.command()
def speed(model: Path = typer.Option(..., help="A model's directory."), repeats: int = typer.Option(30)) -> None:
    """Milliseconds to classify 1 to 15 s of audio, int8 and fp32 interleaved."""
    recognizers = {precision: Recognizer(model, precision) for precision in ("int8", "fp32")}
    rng = np.random.default_rng(0)
    rows = []
    for seconds in (1, 2, 4, 8, 15):
        samples = rng.standard_normal(seconds * SAMPLE_RATE).astype(np.float32) * 0.1
        times: Dict[str, list] = {precision: [] for precision in recognizers}
        for repeat in range(repeats + 3):
            for precision, recognizer in recognizers.items():
                milliseconds = recognizer.classify(samples).milliseconds
                if repeat >= 3:  # warm
                    times[precision].append(milliseconds)
        row: Dict[str, Any] = {"seconds": seconds}
        for precision, values in times.items():
            row[precision] = {"median_ms": float(np.median(values)), "p95_ms": float(np.percentile(values, 95))}
        row["fp32_over_int8"] = row["fp32"]["median_ms"] / row["int8"]["median_ms"]
        rows.append(row)
        console.print(
            f"{seconds:3d} s   int8 {row['int8']['median_ms']:6.1f} ms   fp32 {row['fp32']['median_ms']:6.1f} ms   "
            f"ratio {row['fp32_over_int8']:.2f}"
        )
    save("speed", {"base_model": recognizers["int8"].description["base_model"], "rows": rows})


if __name__ == "__main__":
    app()
