"""The part of the command ``spoken-intents`` that makes and measures models."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from spoken_intents.errors import ConfigError
from spoken_intents.recognizer import MODEL_JSON, Recognizer

typed = typer.Typer()
importing = typer.Typer(no_args_is_help=True)
typed.add_typer(importing, name="import")
console = Console()
MODEL = typer.Option(..., help="A model's directory: what [bold]train --out[/] wrote.")
PROJECT = typer.Option(..., "--out", help="A Rasa project, or a directory to be made.")


@typed.command()
def train(
    data: Path = typer.Argument(
        ..., help="nlu.yml, or a CSV with the columns path,intent (optional: speaker, transcript, split)."
    ),
    out: Path = typer.Option(..., help="Directory for the model."),
    base_model: str = typer.Option(
        "openai/whisper-base.en", help="A Whisper on the hub, a directory, or [bold]whisper-mini[/] (bundled)."
    ),
    recipe: str = typer.Option(
        "default", help="How to fine-tune: [bold]default[/], [bold]reference[/], [bold]reference-short[/], or a YAML file."
    ),
    epochs: Optional[int] = typer.Option(None, help="Instead of the recipe's."),
    seed: Optional[int] = typer.Option(None, help="Instead of the recipe's."),
    resume: bool = typer.Option(False, "--resume", help="Go on with a training that was interrupted: the same command, and this."),
    tensorboard: Optional[Path] = typer.Option(None, help="Write TensorBoard's event file to this directory."),
) -> None:
    """Fine-tune a Whisper encoder on spoken examples.

    In a CSV with the column split, rows marked [bold]test[/] are left out. On several processors or GPUs:
    accelerate launch --num_processes 2 .venv/bin/spoken-intents train ...

    [dim]spoken-intents train data/nlu_spoken.yml --base-model whisper-mini --out my_model[/]
    """
    existing = next(path for path in (out, *out.parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise ConfigError(f"--out {out}: {existing} is no directory that can be written to. Name another.")
    from spoken_intents_training.dataset import read_clips
    from spoken_intents_training.recipe import load_recipe

    chosen = load_recipe(recipe, **{name: value for name, value in (("epochs", epochs), ("seed", seed)) if value is not None})
    clips = [clip for clip in read_clips(data) if clip.split != "test"]
    try:  # last: PyTorch takes long to load
        from spoken_intents_training import finetune
    except ImportError as error:
        raise ConfigError(f"Training needs the extra: pip install 'rasa-spoken-intents[train]' ({error}).") from None
    if resume and (out / MODEL_JSON).exists() and not (out / finetune.CHECKPOINTS).exists():
        console.print(f"{escape(str(out))} is complete: there is nothing to resume.")
        return
    checkpoints = finetune.checkpoint_directory(out, clips, base_model, chosen, resume)
    described = finetune.train(clips, base_model, chosen, out, checkpoints=checkpoints, tensorboard=tensorboard)
    if not finetune.is_first_process():
        return
    shutil.rmtree(checkpoints)
    name = escape(str(out))
    console.print(f"{name}: {len(described['data']['clips'])} intents. Next: spoken-intents evaluate --model {name} --data ...")


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


@typed.command("cross-validate")
def cross_validate(
    data: Path = typer.Argument(..., help="nlu.yml or CSV, as for [bold]train[/]; the column split is not looked at."),
    base_model: str = typer.Option("openai/whisper-base.en", help="As for [bold]train[/]."),
    recipe: str = typer.Option("default", help="As for [bold]train[/]."),
    k: int = typer.Option(5, "--folds", min=2, max=20, help="How many models to train, each on the others' clips."),
    group_by: str = typer.Option("auto", help="speaker, transcript, both, none; auto: speaker if known, else transcript if known."),
    seed: int = typer.Option(0, help="Of the folds."),
    json_file: Optional[Path] = typer.Option(None, "--json", help="Write the figures and every wrong clip here."),
) -> None:
    """Measure a recipe honestly where there is no test set: every clip is heard by a model that did not learn it.

    Clips of a speaker (or with a transcript) stay on one side, so that nobody is recognized by voice or by wording.

    [dim]spoken-intents cross-validate data/nlu_spoken.yml --base-model whisper-mini --json figures.json[/]
    """
    from spoken_intents_training.crossvalidate import cross_validate as heard_in_folds
    from spoken_intents_training.crossvalidate import folds
    from spoken_intents_training.dataset import read_clips
    from spoken_intents_training.evaluate import Evaluation
    from spoken_intents_training.recipe import load_recipe

    chosen, clips = load_recipe(recipe), read_clips(data)
    tested, grouped_by = folds(clips, k, group_by, seed)
    console.print(f"{len(clips)} clips in {k} folds, grouped by {grouped_by}.")
    heard: Dict[int, Any] = {}
    by_fold: List[Dict[str, Any]] = []
    for number, recognitions in enumerate(heard_in_folds(clips, base_model, chosen, tested), 1):
        heard.update(recognitions)
        right = sum(recognition.is_speech and recognition.intent == clips[i].intent for i, recognition in recognitions.items())
        by_fold.append({"n": len(recognitions), "accuracy": right / len(recognitions)})
        console.print(f"[bold]Fold {number} of {k}:[/] {right} of {len(recognitions)} right ({right / len(recognitions):.1%}).")
    figures = Evaluation(clips, [heard[index] for index in range(len(clips))]).as_json()
    low, high = figures["accuracy_95"]
    console.print(
        f"Accuracy [bold]{figures['accuracy']:.1%}[/] (95 % interval {low:.1%} to {high:.1%}), macro-F1 "
        f"[bold]{figures['macro_f1']:.1%}[/], calibration error {figures['calibration']['error']:.3f}, {len(clips)} clips."
    )
    if json_file:
        settings = {"base_model": base_model, "recipe": asdict(chosen), "grouped_by": grouped_by, "folds": by_fold}
        json_file.write_text(json.dumps({**settings, **figures}, indent=2) + "\n")


@importing.callback()
def import_() -> None:
    """Bring recordings into a Rasa project: [bold]minds14[/], [bold]csv[/] or [bold]folder[/].

    Each writes audio/<intent>/, data/nlu_spoken.yml (to train) and audio/manifest.csv (to evaluate), or nothing at all.

    [dim]spoken-intents import folder recordings --out my_bank[/]
    """


@importing.command("minds14")
def import_minds14(
    out: Path = PROJECT,
    language: str = typer.Option("en-US", help="One of its fourteen, such as de-DE."),
    source: Optional[Path] = typer.Option(
        None, help="A copy to read instead of the hub: of its files, or of MInDS-14.zip, unpacked (audio.zip and text.zip too)."
    ),
) -> None:
    """MInDS-14: 14 banking intents in 14 languages, said over the phone; some 40 clips of each.

    [dim]spoken-intents import minds14 --out my_bank --language en-GB[/]
    """
    from spoken_intents_training.importers import from_minds14

    _import(from_minds14(language, source), out)


@importing.command("csv")
def import_csv(
    file: Path = typer.Argument(..., help="Columns path,intent (optional: speaker,transcript,split); paths start at its folder."),
    out: Path = PROJECT,
    path_column: str = typer.Option("path", help="The column of paths."),
    intent_column: str = typer.Option("intent", help="The column of intents."),
    speaker_column: str = typer.Option("speaker", help="The column of speakers."),
    transcript_column: str = typer.Option("transcript", help="The column of transcripts."),
) -> None:
    """Recordings that a CSV lists. Rows with the split [bold]test[/] are kept from training.

    [dim]spoken-intents import csv calls/list.csv --path-column wav --intent-column label --out my_bank[/]
    """
    from spoken_intents_training.importers import from_csv

    columns = {"path": path_column, "intent": intent_column, "speaker": speaker_column, "transcript": transcript_column}
    _import(from_csv(file, {key: name for key, name in columns.items() if name != key}), out)


@importing.command("folder")
def import_folder(
    folder: Path = typer.Argument(..., help="Holds one folder for each intent, with its recordings, also in folders below."),
    out: Path = PROJECT,
) -> None:
    """Recordings in one folder for each intent, such as recordings/card_issues/1.wav.

    [dim]spoken-intents import folder recordings --out my_bank[/]
    """
    from spoken_intents_training.importers import from_folder

    _import(from_folder(folder), out)


def _import(recordings: Any, out: Path) -> None:
    from spoken_intents_training.project import NLU, import_recordings

    imported = import_recordings(
        recordings, out, lambda items: track(items, "Importing", console=Console(stderr=True), transient=True)
    )
    console.print(imported.table())
    if not imported.written:
        console.print("\nEverything was there already; nothing was changed.")
    if imported.unlisted:
        lines = "".join(f"\n  - {intent}" for intent in imported.unlisted)
        console.print(f"\n{escape(str(out / 'domain.yml'))} lacks intents; add to it:\nintents:{lines}", highlight=False)
    elif not (out / "domain.yml").is_file():
        console.print("\nNo domain.yml there yet: [bold]rasa init[/] makes one, which then lists these intents.")
    console.print(f"\nNext, in {escape(str(out))}: [bold]spoken-intents check {NLU}[/], then [bold]rasa train[/].")
