"""The command ``spoken-intents synthesize``."""

import os
from pathlib import Path
from typing import Iterable, Iterator, List, Optional, Sequence, Set

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from spoken_intents.errors import DataError, SpeechError
from spoken_intents_training.examples import project_intents
from spoken_intents_training.project import listed
from spoken_intents_training.synthetic import LIMIT, NLU, PER_SENTENCE, Made, Outcome, Wanted, synthesize, wanted_clips
from spoken_intents_training.typed import Typed, read_typed
from spoken_intents_training.voices import families_of, make_engine

synthesizing = typer.Typer()
console = Console()
NEVER_TYPED = {"nlu_fallback", "session_start", "restart", "back"}  # Rasa's own


@synthesizing.command("synthesize")
def synthesize_command(
    data: Optional[List[Path]] = typer.Argument(None, help="nlu.yml files, and folders of them (default: data)."),
    project: Path = typer.Option(Path(), help="The Rasa project that gets the clips."),
    engine: List[str] = typer.Option(
        ["espeak"], help="[bold]espeak[/], [bold]piper[/], a command with {text}, {wav} and {voice}, a class by its dotted path."
    ),
    voice: List[str] = typer.Option(
        [], help="Only these of the engine's voices; of Piper: its files. Several times for several."
    ),
    language: str = typer.Option("", help="Of the sentences (default: what config.yml says, else en)."),
    per_sentence: int = typer.Option(
        PER_SENTENCE, min=1, max=200, help="By how many voices each is spoken; more where an intent has few."
    ),
    limit: int = typer.Option(LIMIT, min=1, max=1_000_000, help="Most clips in all, shared evenly by the intents."),
    seed: int = typer.Option(0, help="Another one: other voices, words and rooms."),
    processes: int = typer.Option(os.cpu_count() or 1, min=1, max=256, help="How many speak at the same time."),
) -> None:
    """Speak the typed examples of a project, by many voices, so that it can be trained before anybody is recorded.

    Writes audio/synthetic/ and data/nlu_synthetic.yml. What is there is not spoken again: after an interruption, or with a few
    sentences more, the same command goes on.

    [dim]spoken-intents synthesize data/nlu.yml[/]
    """
    from spoken_intents_training.spoken_text import Reader
    from spoken_intents_training.synthesize import Director

    language = language or _language(project)
    families = families_of(engine, voice, language)
    for family in families:  # what is not installed is to be said before anything is begun
        make_engine(family.first)
    found = read_typed(data or [project / "data"])
    wanted = wanted_clips(found.sentences, per_sentence, limit, seed)
    reader = Reader(language, found.values, found.synonyms)
    try:
        made = synthesize(project, Director(families, seed, read=reader.words), wanted, processes, _progress)
    except (SpeechError, OSError) as error:
        said = f"{error.filename}: {error.strerror}." if isinstance(error, OSError) and error.filename else str(error)
        raise SpeechError(f"{said} {STAYS}") from None
    except KeyboardInterrupt:
        console.print(f"Interrupted. {STAYS}")
        raise typer.Exit(130) from None
    _tell(made, found, wanted, project)


STAYS = f"The clips that are made stay, {NLU} is as it was; the same command goes on from there."


def _progress(done: Iterable[Outcome], of: int) -> Iterator[Outcome]:
    columns = (TextColumn("Speaking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=of)
        for one in done:
            yield one
            bar.advance(task)


def _language(project: Path) -> str:
    try:
        config = yaml.safe_load((project / "config.yml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError):
        return "en"
    return str((config.get("language") if isinstance(config, dict) else "") or "en")


def _tell(made: Made, found: Typed, wanted: Wanted, project: Path) -> None:
    table = Table("intent", box=None)
    for column in ("sentences", "clips", "voices"):
        table.add_column(column, justify="right")

    def texts(intent: str) -> Set[str]:
        return {text for text, _ in wanted[intent]} - {*made.unsaid}

    for intent in [*sorted({one.intent for one in made.examples}), ""]:
        clips = [one for one in made.examples if intent in (one.intent, "")]
        spoken = sum(len(texts(name)) for name in wanted if intent in (name, ""))
        table.add_row(escape(intent) or "in all", str(spoken), str(len(clips)), str(len({one.more["voice"] for one in clips})))
    console.print(table)
    unspoken = sum(map(len, found.sentences.values())) - sum(len({text for text, _ in places}) for places in wanted.values())
    if unspoken:
        _warn(f"{unspoken} sentence(s) are not spoken, for more than --limit in all.")
    if made.unsaid:
        _warn(f"{len(made.unsaid)} example(s) hold nothing to say, or too much to be said at once:{listed(made.unsaid)}")
    if made.failed:
        _warn(f"{len(made.failed)} clip(s) could not be made:{listed(made.failed)}")
    mute = [name for name in _intents(project, found) if name not in {one.intent for one in made.examples}]
    if mute:
        _warn(f"No typed example to speak of {len(mute)} intent(s):{listed(mute)}")
    console.print(f"\n{NLU}: {len(made.examples)} clips, {made.spoken} of them spoken now. Next: [bold]rasa train[/]")


def _warn(text: str) -> None:
    console.print(f"\n[yellow]Warning:[/] {escape(text)}", highlight=False)


def _intents(project: Path, found: Typed) -> Sequence[str]:
    """Those of the domain, where there is one, and of the examples."""
    try:
        names = project_intents(project)
    except DataError:
        names = []
    retrieval = {intent.partition("/")[0] for intent in found.sentences if "/" in intent}
    return [name for name in dict.fromkeys([*names, *found.sentences]) if name not in NEVER_TYPED | retrieval]
