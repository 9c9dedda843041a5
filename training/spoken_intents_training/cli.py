"""The part of the command ``spoken-intents`` that makes models; what measures them is in `cli_measure`."""

import json
from contextlib import suppress
from pathlib import Path
from typing import List, Optional

import typer
from rich.console import Console
from rich.markup import escape

from spoken_intents.errors import ConfigError, DivergedError
from spoken_intents.files import require_directory, require_file, write_whole
from spoken_intents.recognizer import MODEL_JSON
from spoken_intents_training.cli_compare import comparing
from spoken_intents_training.cli_import import importing, progress
from spoken_intents_training.cli_measure import measuring
from spoken_intents_training.cli_review import reviewing
from spoken_intents_training.cli_synthesize import synthesizing
from spoken_intents_training.cli_teach import teaching

typed = typer.Typer()
typed.add_typer(importing, name="import")
typed.add_typer(measuring)
typed.add_typer(comparing)
typed.add_typer(teaching)
typed.add_typer(reviewing)
typed.add_typer(synthesizing)
console = Console()


@typed.command()
def check(
    data: List[Path] = typer.Argument(..., help="nlu.yml or CSV, as for [bold]train[/]; several count as one data set."),
    test: Optional[Path] = typer.Option(None, help="Clips to test on, where no split of DATA says so: nlu.yml or CSV."),
    strict: bool = typer.Option(False, "--strict", help="End with 1 for warnings too."),
    json_file: Optional[Path] = typer.Option(None, "--json", help="Write everything that was found here."),
) -> None:
    """Say what in a data set will hurt, before any training: broken clips, leaks into the test, misspelt intents.

    Ends with 1 for an error.

    [dim]spoken-intents check data/nlu_spoken.yml --test audio/manifest.csv[/]
    """
    require_file("--json", json_file)
    from spoken_intents_training.check import check as look
    from spoken_intents_training.check import read_data

    found = look(read_data(data, test), progress("Listening"))
    for table in found.tables():
        console.print(table)
    console.print(f"\n{found}", highlight=False)
    if json_file:
        write_whole(json_file, (json.dumps(found.as_json(), indent=2) + "\n").encode())
    if found.failed(strict):
        raise typer.Exit(1)


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
    epochs: Optional[int] = typer.Option(None, help="Instead of the recipe's, and of its min_steps: just so many."),
    seed: Optional[int] = typer.Option(None, help="Instead of the recipe's."),
    resume: bool = typer.Option(
        False, "--resume", help="Go on with a training that was interrupted: the same command, and this."
    ),
    tensorboard: Optional[Path] = typer.Option(None, help="Write TensorBoard's event file to this directory."),
) -> None:
    """Fine-tune a Whisper encoder on spoken examples.

    In a CSV with the column split, rows marked [bold]test[/] are left out. On several GPUs or processors:
    accelerate launch --multi_gpu --num_processes 2 .venv/bin/spoken-intents train ...

    [dim]spoken-intents train data/nlu_spoken.yml --base-model whisper-mini --out my_model[/]
    """
    require_directory("--out", out)
    require_directory("--tensorboard", tensorboard)
    from spoken_intents_training.dataset import read_clips
    from spoken_intents_training.recipe import load_recipe, overrides

    chosen = load_recipe(recipe, **overrides(epochs, seed))
    clips = [clip for clip in read_clips(data) if clip.split != "test"]
    try:  # last: PyTorch takes long to load
        from spoken_intents_training import checkpoints, finetune
        from spoken_intents_training.loop import is_first_process
    except ImportError as error:
        raise ConfigError(f"Training needs the extra: pip install 'rasa-spoken-intents[train]' ({error}).") from None
    if resume and (out / MODEL_JSON).exists() and not (out / checkpoints.CHECKPOINTS).exists():
        checkpoints.require_same_training(out, clips, base_model, chosen)
        checkpoints.remove_checkpoints(out / checkpoints.CHECKPOINTS)  # what is left, where that was interrupted
        console.print(f"{escape(str(out))} is complete: there is nothing to resume.")
        return
    made = not out.exists()
    folder = checkpoints.checkpoint_directory(out, clips, base_model, chosen, resume)
    try:
        described = finetune.train(clips, base_model, chosen, out, checkpoints=folder, tensorboard=tensorboard)
    except Exception as error:
        _remove_useless(folder, error, made)
        raise
    if not is_first_process():
        return
    checkpoints.remove_checkpoints(folder)
    name = escape(str(out))
    console.print(f"{name}: {len(described['data']['clips'])} intents. Next: spoken-intents evaluate --model {name} --data ...")


def _remove_useless(folder: Path, error: Exception, made: bool) -> None:
    """Removes checkpoints that nothing can be gone on from, and the model's directory where it is empty and was `made` for them."""
    from spoken_intents_training.checkpoints import remove_checkpoints
    from spoken_intents_training.loop import last_checkpoint

    if last_checkpoint(folder) and not isinstance(error, DivergedError):
        return
    remove_checkpoints(folder)
    if made:
        with suppress(OSError):  # it is not empty
            folder.parent.rmdir()
