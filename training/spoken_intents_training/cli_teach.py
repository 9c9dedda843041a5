"""The command ``spoken-intents teach``."""

from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from spoken_intents_training.teach import GOAL, Teaching
from spoken_intents_training.teach_server import TeachServer
from spoken_intents_training.teach_terminal import teach_in_terminal

teaching = typer.Typer()
console = Console()
PORT = 8642


@teaching.command()
def teach(
    project: Path = typer.Argument(Path("."), help="A Rasa project: what `rasa init` made, say."),
    goal: int = typer.Option(GOAL, min=1, max=1000, help="How many recordings of each intent are enough."),
    port: int = typer.Option(PORT, min=0, max=65535, help="Of the page, or a free one where it is taken."),
    no_browser: bool = typer.Option(False, "--no-browser", help="Do not open the page; print its address only."),
    cli: bool = typer.Option(
        False, "--cli", help="In this terminal, with this computer's microphone (needs the extra [bold]mic[/])."
    ),
    name: str = typer.Option("", help="Who speaks, with [bold]--cli[/]; asked for otherwise."),
) -> None:
    """Read the project's sentences aloud, so that it learns to hear you: a page records them hands-free.

    Kept recordings are training examples at once: clips in audio/taught/, their entries in data/nlu_taught.yml.

    [dim]spoken-intents teach my_bot[/]
    """
    taught = Teaching(project, goal)
    for notice in taught.notices:
        console.print(f"[yellow]{escape(notice)}[/]", highlight=False)
    if cli:
        return teach_in_terminal(taught, name, console)

    def say(address: str) -> None:
        console.print(f"Teach {escape(str(project.resolve().name))} at\n\n  {address}\n", highlight=False, soft_wrap=True)
        console.print("Only this computer reaches it, and only with that address. Ctrl-C ends it; what is kept is kept.")

    TeachServer(taught).page.run(port, not no_browser, say)
