"""``spoken-intents recordings``: what was kept of calls, found again, removed, or made a test story."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Dict, List, Tuple

import typer
import yaml
from rich.console import Console
from rich.markup import escape

from spoken_intents.errors import AudioError, DataError
from spoken_intents.files import locked
from spoken_intents.recordings import Recording, read_recording, recording_files, remove_parts

typed = typer.Typer(help="What was kept of calls: see it, remove it, make it a test story.", no_args_is_help=True)
console = Console()
REVIEWED = "audio/reviewed"  # in a project: clips that `spoken-intents review` has kept
DIRECTORY = typer.Option(Path("recordings"), help="Where they are: the channel's setting recordings.")


@typed.command("list")
def list_recordings(
    directory: Path = DIRECTORY,
    sender: str = typer.Option("", help="Only those of this conversation."),
    call: str = typer.Option("", help="Only those of this call."),
) -> None:
    """Print every recording and what is known of it, the oldest first."""
    found, unreadable = read_all(directory)
    shown = [one for one in found if sender in ("", shown_as(one.about.sender)) and call in ("", shown_as(one.about.call_id))]
    for call_id in dict.fromkeys(one.about.call_id for one in shown):
        turns = [one for one in shown if one.about.call_id == call_id]
        head = f"call {shown_as(call_id)}, sender {shown_as(turns[0].about.sender)}"
        console.print(escape(head), style="bold", highlight=False, soft_wrap=True)
        for one in turns:
            about = one.about
            heard = f"{shown_as(about.intent)} {about.confidence:.0%}"
            label = f"  labelled {about.label.intent} by {shown_as(about.label.by)}" if about.label else ""
            line = f"  {about.time[:19]}  turn {about.turn:<3} {heard:<24} {one.seconds:4.1f} s  {one.file}{label}"
            console.print(escape(line), highlight=False, soft_wrap=True)
    _tell_unreadable(unreadable)


@typed.command()
def delete(
    sender: str = typer.Option(..., help="Whose: the conversation's name, as [bold]list[/] shows it."),
    directory: Path = DIRECTORY,
    project: Path = typer.Option(Path("."), help="The Rasa project that may have learnt of them."),
) -> None:
    """Remove every recording of one sender, and what [bold]review[/] made of it. What Rasa's tracker store holds is not touched."""
    # Nobody labels meanwhile: what is deleted would be written again.
    with locked(directory) if directory.is_dir() else nullcontext():
        found, unreadable = read_all(directory)
        theirs = [one.file for one in found if shown_as(one.about.sender) == sender]
        for file in theirs:
            file.unlink(missing_ok=True)
    remove_parts(directory)  # of half a recording nobody knows whose it was
    console.print(f"{len(theirs)} recordings removed.")
    _tell_unreadable(unreadable)
    _forget(project, sender)


def _forget(project: Path, sender: str) -> None:
    """Removes what the project learns of a sender's turns, where any was reviewed."""
    if not (project / REVIEWED).is_dir():
        console.print(
            f"No reviewed clips in {escape(str(project.absolute()))}: where they are in another project, name it with --project.",
            highlight=False,
            soft_wrap=True,
        )
        return
    from spoken_intents_training.reviewed import Reviewed

    gone = Reviewed(project).forget(sender)
    console.print(f"{len(gone)} reviewed clips removed from {escape(str(project / REVIEWED))}.", highlight=False, soft_wrap=True)
    if gone:
        console.print("A model that has learnt from them still exists: train again, and delete old ones.")


@typed.command()
def story(
    call: str = typer.Argument(..., help="The call's id, as [bold]list[/] and the log show it."), directory: Path = DIRECTORY
) -> None:
    """Print a call as a test story for [bold]rasa test core[/]: what was said, what it was heard as, what the bot did.

    Correct the intents where the call was misheard. The clips are named where they lie, in the directory above: it has to be
    among SpokenIntentClassifier's audio_directories, and recordings are removed when they are old. Copy those to keep.

    [dim]spoken-intents recordings story 5c1e... > tests/test_call.yml[/]
    """
    found, unreadable = read_all(directory)
    turns = [one for one in found if shown_as(one.about.call_id) == call]
    if not turns:
        raise DataError(f"{directory} holds no recording of a call {call}. `spoken-intents recordings list` shows all.")
    _tell_unreadable(unreadable)
    steps = [step for turn in turns for step in steps_of(turn)]
    if any(str(step.get("user", "")).startswith("live/") for step in steps):
        Console(stderr=True).print("A turn was not recorded: the story names it by live/, and cannot be replayed as it is.")
    told = {"version": "3.1", "stories": [{"story": f"call {call}", "steps": steps}]}
    print(yaml.dump(told, Dumper=_Dumper, sort_keys=False, allow_unicode=True), end="")  # not for a terminal's width


def steps_of(turn: Recording) -> List[Dict[str, Any]]:
    """A story's steps from the recording before up to the answer to this one, which is named by its file."""
    clip = _Block(f"{turn.file.as_posix()}\n")
    spoken = {"user": clip, "intent": turn.about.intent}
    steps = [{**step, "user": clip} if step.get("user") == turn.about.reference else step for step in turn.about.steps]
    return steps if any(step.get("user") is clip for step in steps) else [*steps, spoken]


def shown_as(name: str) -> str:
    """A name that a client chose, with what cannot be printed escaped as Python does: a terminal would obey some of it."""
    return "".join(letter if letter.isprintable() and letter != "\\" else ascii(letter)[1:-1] for letter in name)


def read_all(directory: Path) -> Tuple[List[Recording], List[Path]]:
    """Every recording in `directory` by time, and the files that are damaged.

    Raises:
        DataError: There is no such directory.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory. Name the one of the channel's setting recordings with --directory.")
    found: List[Recording] = []
    unreadable: List[Path] = []
    for file in recording_files(directory):
        try:
            found.append(read_recording(file))
        except AudioError:
            if file.exists():  # else it was removed meanwhile
                unreadable.append(file)
    return sorted(found, key=lambda one: one.about.time), unreadable


def _tell_unreadable(files: List[Path]) -> None:
    if files:
        Console(stderr=True).print(
            f"{len(files)} files are damaged, and were left as they are, such as {files[0]}.", soft_wrap=True
        )


class _Block(str):
    """Text that YAML shows on a line of its own."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(_Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))
