"""The command ``spoken-intents import``."""

from pathlib import Path
from typing import Any, Callable, Iterable, Optional, Sequence

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track

importing = typer.Typer(no_args_is_help=True)
console = Console()
PROJECT = typer.Option(..., "--out", help="A Rasa project, or a directory to be made.")


def progress(doing: str) -> Callable[[Sequence[Any]], Iterable[Any]]:
    """Goes through a sequence with a bar, on stderr, that is gone when it ends."""
    return lambda items: track(items, doing, console=Console(stderr=True), transient=True)


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
    split_column: str = typer.Option("split", help="The column that says which rows are for the test."),
) -> None:
    """Recordings that a CSV lists. Rows with the split [bold]test[/] are kept from training.

    [dim]spoken-intents import csv calls/list.csv --path-column wav --intent-column label --out my_bank[/]
    """
    from spoken_intents_training.importers import from_csv

    columns = {"path": path_column, "intent": intent_column, "speaker": speaker_column}
    columns.update(transcript=transcript_column, split=split_column)
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

    _import(from_folder(folder, out / "audio"), out)


def _import(recordings: Any, out: Path) -> None:
    from spoken_intents_training.project import NLU, import_recordings

    imported = import_recordings(recordings, out, progress("Importing"))
    console.print(imported.table())
    if not imported.written:
        console.print("\nEverything was there already; nothing was changed.")
    if imported.unlisted:
        lines = "".join(f"\n  - {intent}" for intent in imported.unlisted)
        console.print(f"\n{escape(str(out / 'domain.yml'))} lacks intents; add to it:\nintents:{lines}", highlight=False)
    elif not (out / "domain.yml").is_file():
        console.print("\nNo domain.yml there yet: [bold]rasa init[/] makes one, which then lists these intents.")
    console.print(f"\nNext, in {escape(str(out))}: [bold]spoken-intents check {NLU}[/], then [bold]rasa train[/].")
