"""The part of the command ``spoken-intents`` that makes and measures models."""

import json
import os
from pathlib import Path
from typing import Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from spoken_intents.errors import ConfigError
from spoken_intents.recognizer import Recognizer

typed = typer.Typer()
console = Console()
MODEL = typer.Option(..., help="A model's directory: what [bold]train --out[/] wrote.")


@typed.command()
def train(
    data: Path = typer.Argument(
        ..., help="nlu.yml, or a CSV with the columns path,intent (optional: speaker, transcript, split)."
    ),
    out: Path = typer.Option(..., help="Directory for the model."),
    base_model: str = typer.Option(
        "openai/whisper-base.en", help="A Whisper on the hub, a directory, or [bold]whisper-mini[/] (bundled)."
    ),
    recipe: str = typer.Option("reference", help="A recipe's name or file: how to fine-tune."),
    epochs: Optional[int] = typer.Option(None, help="Instead of the recipe's."),
) -> None:
    """Fine-tune a Whisper encoder on spoken examples.

    In a CSV with the column split, rows marked [bold]test[/] are left out.

    [dim]spoken-intents train data/nlu_spoken.yml --base-model whisper-mini --recipe bundled --out my_model[/]
    """
    existing = next(path for path in (out, *out.parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise ConfigError(f"--out {out}: {existing} is no directory that can be written to. Name another.")
    from spoken_intents_training.dataset import read_clips
    from spoken_intents_training.recipe import load_recipe

    chosen = load_recipe(recipe, **({} if epochs is None else {"epochs": epochs}))
    clips = [clip for clip in read_clips(data) if clip.split != "test"]
    try:  # last: PyTorch takes long to load
        from spoken_intents_training.finetune import train as finetune
    except ImportError as error:
        raise ConfigError(f"Training needs the extra: pip install 'rasa-spoken-intents[train]' ({error}).") from None
    described = finetune(clips, base_model, chosen, out)
    name = escape(str(out))
    console.print(f"{name}: {len(described['labels']) - 1} intents. Next: spoken-intents evaluate --model {name} --data ...")


@typed.command()
def evaluate(
    model: Path = MODEL,
    data: Path = typer.Option(..., help="nlu.yml or CSV, as for [bold]train[/]."),
    split: str = typer.Option("", help="Only the CSV's rows of this split, such as test."),
    json_file: Optional[Path] = typer.Option(None, "--json", help="Write the figures and every wrong clip here."),
) -> None:
    """Measure a model on clips it was not trained on: accuracy, macro-F1, a table by intent."""
    if json_file and (json_file.is_dir() or not os.access(json_file.parent, os.W_OK)):
        raise ConfigError(f"--json {json_file}: takes a file's name in a directory that is there and can be written to.")
    from spoken_intents_training.dataset import read_clips
    from spoken_intents_training.evaluate import evaluate as measure

    clips = [clip for clip in read_clips(data) if not split or clip.split == split]
    result = measure(
        Recognizer(model), clips, lambda clips: track(clips, "Listening", console=Console(stderr=True), transient=True)
    )
    figures = result.as_json()
    console.print(result.table())
    low, high = figures["accuracy_95"]
    console.print(
        f"\nAccuracy [bold]{figures['accuracy']:.1%}[/] (95 % interval {low:.1%} to {high:.1%}), macro-F1 "
        f"[bold]{figures['macro_f1']:.1%}[/], {figures['n']} clips, {figures['milliseconds_per_clip']:.0f} ms each."
    )
    if json_file:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
