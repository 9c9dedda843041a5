"""Figures of the bundled corpus, as tables and as JSON beside this file: python benchmarks/bench.py

Trains on the bundled clips and tests on the other synthesizer.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict

import typer
from rich.console import Console

from spoken_intents.recognizer import Recognizer
from spoken_intents_training.dataset import Clip, read_clips, read_samples
from spoken_intents_training.evaluate import evaluate
from spoken_intents_training.finetune import train
from spoken_intents_training.recipe import load_recipe

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent / "assistant_project"
console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)  # a log takes whole tables


def machine() -> Dict[str, Any]:
    """Where and on what the figures were measured."""
    import onnxruntime
    import torch

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    return {
        "commit": commit,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _processor() -> str:
    """Its name, as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


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


if __name__ == "__main__":
    typer.run(accuracy)
