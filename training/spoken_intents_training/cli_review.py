"""The command ``spoken-intents review``."""

import getpass
from contextlib import ExitStack
from pathlib import Path
from typing import Optional

import typer
from rich.console import Console
from rich.markup import escape

from spoken_intents.archives import model_directory, newest_archive
from spoken_intents.recognizer import Recognizer

reviewing = typer.Typer()
console = Console()
LISTED = 30
PORT = 8643


@reviewing.command()
def review(
    project: Path = typer.Argument(Path("."), help="The Rasa project."),
    directory: Optional[Path] = typer.Option(
        None, help="Where the recordings are: the channel's setting recordings. Left out: recordings in the project."
    ),
    model: Optional[Path] = typer.Option(
        None, help="Hears which clips sound alike: a model's directory, or an archive. Left out: the newest in models."
    ),
    name: str = typer.Option("", help="Who reviews, for the labels. Left out: who is logged in."),
    listed: bool = typer.Option(False, "--list", help="Print the most doubtful turns that nobody has labelled, and end."),
    port: int = typer.Option(PORT, min=0, max=65535, help="Of the page, or a free one where it is taken."),
    no_browser: bool = typer.Option(False, "--no-browser", help="Do not open the page; print its address only."),
) -> None:
    """Say what recorded turns were, the most doubtful first, so that the next [bold]rasa train[/] learns from them.

    Serves a page to this computer's own browser; everything there is done by keyboard ([bold]?[/] tells how). Each label is
    kept at once: as a training example, as a noise, or as a test story.

    [dim]spoken-intents review assistant_project[/]
    """
    from spoken_intents_training.review import Review
    from spoken_intents_training.review_server import ReviewServer

    folder = project / "recordings" if directory is None else directory
    if listed:
        _print(Review(project, folder, ""))
        return
    with ExitStack() as opened:
        place = newest_archive(project / "models") if model is None else model
        recognizer = None if place is None else Recognizer(opened.enter_context(model_directory(place)))
        reviewed = Review(project, folder, name or _user(), recognizer)
    taken = reviewed.take_the_rest()
    if taken:
        console.print(f"Took {taken} turns that were labelled before, and not taken then.")
    if recognizer is None:
        console.print("No model in models: clips that sound alike are not shown. `rasa train` makes one, --model names another.")
    console.print(f"{len(reviewed.recordings())} recorded turns in {escape(str(folder))}.", highlight=False, soft_wrap=True)

    def say(address: str) -> None:
        console.print(f"Review {escape(reviewed.project.name)} at\n\n  {address}\n", highlight=False, soft_wrap=True)
        console.print("Only this computer reaches it, and only with that address. Ctrl-C ends it; each label is kept at once.")

    ReviewServer(reviewed).run(port, not no_browser, say)


def _print(reviewed: "Review") -> None:  # type: ignore[name-defined]  # noqa: F821
    left = [turn for turn in reviewed.turns() if turn["label"] is None]
    for turn in left[:LISTED]:
        head = f"{turn['doubt']:.2f}  {turn['time'][:19]}  {turn['heard']} {turn['confidence']:.0%}"
        console.print(escape(f"{head:<48} {turn['id']}"), highlight=False, soft_wrap=True)
        console.print(
            escape(f"      {turn['sender']}, turn {turn['turn']}: {'; '.join(turn['why']) or 'nothing against it'}"),
            style="dim",
            highlight=False,
            soft_wrap=True,
        )
    more = f"; the {LISTED} most doubtful are shown" if len(left) > LISTED else ""
    console.print(f"{len(left)} turns without a label{more}.", highlight=False)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # nobody of that number has a name, as in a container
        return "somebody"
