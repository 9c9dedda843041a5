"""``spoken-intents init``: voice for a Rasa project that has none, shown before it is done, and taken back."""

import sys
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from spoken_intents.errors import ConfigError
from spoken_intents.init import adding, removing
from spoken_intents.init.project import nlu_files

typed = typer.Typer()
console = Console()


@typed.command()
def init(
    project: Path = typer.Argument(Path("."), help="The project's folder."),
    yes: bool = typer.Option(False, "--yes", help="Do it without asking: for scripts."),
    undo: bool = typer.Option(False, "--undo", help="Take back what was added, also where the files were changed since."),
    config: str = typer.Option(adding.CONFIG, help="The file with the pipeline, by its path in the project."),
) -> None:
    """Add voice to a Rasa project: show what changes in which file, ask, and do all of it or nothing.

    Two components in the pipeline, the voice channel, and an answer to what is not understood where there is none. All of the
    project's own stays as it is, comments too. Safe to run twice.

    [dim]spoken-intents init my_bot[/]
    """
    changes = removing.plan(project, config) if undo else adding.plan(project, config)
    if not changes:
        console.print("Nothing of Spoken Intents is here." if undo else "All is there: nothing to add.")
        changes.show_notes(console)
    else:
        changes.show(console)
        console.print()
        if not yes and not sys.stdin.isatty():
            raise ConfigError("Nothing was changed: there is no terminal to ask at. Add --yes to do the above.")
        if not yes and not typer.confirm("Take this back?" if undo else "Do this?"):
            console.print("Nothing was changed.")
            raise typer.Exit(1)
        changes.apply()
        console.print("[green]Taken back.[/]" if undo else "[green]Done.[/] `spoken-intents init --undo` takes it back.")
    if not undo:
        _print_next(project, config)


def _print_next(project: Path, config: str) -> None:
    """What to do now, each line a command."""
    inside = [] if project.resolve() == Path.cwd() else [(f"cd {project}", "")]
    train = "rasa train"
    if config != adding.CONFIG:
        train += f" --config {config}"
    if not (project / "domain.yml").exists() and (project / "domain").is_dir():
        train += " --domain domain"
    files = nlu_files(project)
    typed_examples = next((name for name in files if name == "data/nlu.yml"), files[0] if files else "data/nlu.yml")
    steps = [
        *inside,
        (f"spoken-intents synthesize {typed_examples}", "speaks your typed examples in many voices"),
        ("spoken-intents teach", "and/or: people say them, in the browser"),
        (train, "learns from all of it"),
        ("rasa run -i 127.0.0.1", "then talk: http://127.0.0.1:5005/webhooks/voice/"),
        ("spoken-intents review", "after calls, where recordings is set in credentials.yml: correct, and train again"),
    ]
    console.print("\n[bold]Next[/]")
    width = max(len(command) for command, _ in steps)
    for command, what in steps:
        console.print(f"  [cyan]{escape(command):<{width}}[/]  [dim]{what}[/]", highlight=False, soft_wrap=True)
