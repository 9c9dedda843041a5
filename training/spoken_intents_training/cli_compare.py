"""The command ``spoken-intents compare``."""

import json
import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spoken_intents.archives import Fallback, model_directory, newest_archive, read_fallback
from spoken_intents.errors import DataError
from spoken_intents.files import require_file, write_whole
from spoken_intents.recognizer import Recognizer
from spoken_intents_training.cli_import import progress
from spoken_intents_training.cli_measure import OUT_OF_SCOPE, REPORT, of_split

comparing = typer.Typer()
console = Console()
MODELS = Path("models")
MANIFEST, REVIEWED, TESTS = "audio/manifest.csv", "data/nlu_reviewed.yml", "tests"  # of a Rasa project
# What `review` keeps of turns that are of no intent, and of those that are no speech.
REVIEWED_OUTSIDE, REVIEWED_NOISES = Path("audio/reviewed/__out_of_scope__"), Path("audio/reviewed/__non_speech__")
SHOWN = {"newly_wrong": 8, "newly_right": 4, "still_wrong": 4}  # clips
INTENTS_SHOWN = 8
WORDS = {"asked_back": ", asked back", "answered_right": "", "answered_wrong": "", "no_speech": ""}


@comparing.command()
def compare(
    old: Path = typer.Argument(..., help="The model in use: an archive of [bold]rasa train[/], or a model's directory."),
    new: Path = typer.Argument(MODELS, help="The one that may replace it. Left out: the newest in models/."),
    data: List[Path] = typer.Option(
        [],
        help="nlu.yml, test stories or CSV; may be given several times. Left out: the project's test clips and corrected turns.",
    ),
    split: Optional[str] = typer.Option(
        None, help="Only a CSV's rows of this split; [bold]all[/]: every row. Left out: those marked test, where there are any."
    ),
    out_of_scope: Optional[Path] = OUT_OF_SCOPE,
    threshold: Optional[float] = typer.Option(
        None, min=0, max=1, help="FallbackClassifier's, for both. Left out: what each archive has in its pipeline."
    ),
    fail_if_worse: bool = typer.Option(
        False, "--fail-if-worse", help="End with 1 where NEW is worse by more than chance, over all clips or of one intent."
    ),
    json_file: Optional[Path] = typer.Option(None, "--json", help="Write all figures and every clip that changed here."),
    report: Optional[Path] = REPORT,
) -> None:
    """Say what a new model hears better and worse than the one in use, before it is deployed.

    Clips that one of the two learnt do not count.

    [dim]spoken-intents compare models/20260501-120000-calm-oak.tar.gz --report compare.html[/]
    """
    require_file("--json", json_file)
    require_file("--report", report)
    from spoken_intents_training.compare import Ear, served_bytes
    from spoken_intents_training.compare import compare as hear_both
    from spoken_intents_training.dataset import read_all_samples
    from spoken_intents_training.evaluate import out_of_scope_clips

    clips = _clips(data, split)
    outside, noises = (
        [] if folder is None else out_of_scope_clips(folder)
        for folder in (out_of_scope or _reviewed(REVIEWED_OUTSIDE, data), _reviewed(REVIEWED_NOISES, data))
    )
    read_all_samples([*outside, *noises])  # what is broken is told now
    ears = []
    with ExitStack() as opened:
        for model in (old, new):
            directory = opened.enter_context(model_directory(model))
            fallback = read_fallback(directory)
            if threshold is not None:
                fallback = replace(fallback or Fallback(), threshold=threshold)
            recognizer = Recognizer(directory)
            ears.append(Ear(_name(model), recognizer, fallback, served_bytes(directory, recognizer.precision)))
    result = hear_both(ears[0], ears[1], clips, outside, noises, progress("Listening"))
    figures = result.as_json()
    _tell(figures)
    if json_file:
        write_whole(json_file, (json.dumps(figures, indent=2) + "\n").encode())
    if report:
        from spoken_intents_training.report import comparison_report

        write_whole(report, comparison_report(result, shlex.join(["spoken-intents", *sys.argv[1:]])).encode())
        console.print(f"Report: {escape(str(report))}", highlight=False, soft_wrap=True)
    if fail_if_worse and figures["worse"]:
        raise typer.Exit(1)


def _name(model: Path) -> str:
    """The model as people call it; of a folder, the archive that is taken of it."""
    newest = newest_archive(model) if model.is_dir() else None
    return str(newest or model)


def _clips(data: List[Path], split: Optional[str]) -> List[Any]:
    """What the files list, each clip once: where two files differ on its intent, the later one is right.

    Raises:
        DataError: No clip.
    """
    from spoken_intents_training.dataset import read_clips
    from spoken_intents_training.sources import file_digest

    found: Dict[str, Any] = {}
    for file in data or _of_project():
        for clip in of_split(read_clips(file), split if file.suffix.lower() == ".csv" else None, file):
            found[file_digest(clip.path)] = clip
    return list(found.values())


def _of_project() -> List[Path]:
    """Where a project's test clips are, and last what was corrected.

    Raises:
        DataError: There are none.
    """
    from spoken_intents_training.dataset import read_clips

    files = [Path(MANIFEST), *sorted(path for path in Path(TESTS).rglob("*") if path.suffix in (".yml", ".yaml")), Path(REVIEWED)]
    found = []
    for file in filter(Path.is_file, files):
        try:
            clips = read_clips(file, require=False)
        except DataError:  # of typed examples only, perhaps: then it lists no clip
            continue
        if file.name != Path(MANIFEST).name or any(clip.split == "test" for clip in clips):
            found.append(file)
    if not found:
        raise DataError(
            f"Nothing here to compare on: {MANIFEST} with rows marked test, clips in {TESTS}/, or corrected turns in {REVIEWED}. "
            "Name clips with --data."
        )
    console.print(f"Clips of {', '.join(map(str, found))}.", highlight=False, soft_wrap=True)
    return found


def _reviewed(folder: Path, data: List[Path]) -> Optional[Path]:
    """The folder, where the project's own clips are wanted and there are some in it."""
    return folder if not data and folder.is_dir() and any(folder.iterdir()) else None


# ---------------------------------------------------------------- what is told


def _tell(figures: Dict[str, Any]) -> None:
    """The verdict, the figures, the intents that changed, and some clips: what matters first."""
    for name in ("old", "new"):
        side = figures[name]
        stops = "no threshold" if side["threshold"] is None else f"threshold {side['threshold']:.2f}"
        console.print(
            f"[bold]{name.upper()}[/]  {escape(side['model'])}, {side['clips']} clips, {stops}", highlight=False, soft_wrap=True
        )
    for warning in figures["warnings"]:
        console.print(f"[yellow]{escape(warning)}[/]", highlight=False, soft_wrap=True)
    console.print(f"\n{verdict(figures)}\n", highlight=False, soft_wrap=True)
    for reason in figures["worse"]:
        console.print(f"[red]{escape(reason)}[/]", highlight=False, soft_wrap=True)
    console.print(_figures_table(figures), "", sep="\n")
    changed = {intent: row for intent, row in figures["intents"].items() if row["newly_right"] or row["newly_wrong"]}
    if changed:
        console.print(_intents_table(changed), "", sep="\n")
    for change, most in SHOWN.items():
        clips = figures[change]
        if clips:
            more = f", {most} of {len(clips)}" if len(clips) > most else ""
            console.print(f"[bold]{change.replace('_', ' ').capitalize()}[/] (the surest first{more}):", highlight=False)
        for clip in clips[:most]:
            console.print(f"  {escape(_line(clip))}", highlight=False, soft_wrap=True)


def verdict(figures: Dict[str, Any]) -> str:
    """The comparison in a sentence, as markup."""
    row = figures["heard_right"]
    what = {
        "better": "[bold green]NEW is better[/]",
        "worse": "[bold red]NEW is worse[/]",
        "same": "[bold]No difference can be shown[/]",
    }[figures["verdict"]]
    return (
        f"{what}: of {figures['n']} clips that neither learnt OLD hears {row['old']} right, NEW {row['new']}; "
        f"{row['newly_right']} newly right, {row['newly_wrong']} newly wrong ({chance(row['p'])})."
    )


def chance(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _figures_table(figures: Dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("OLD", "NEW", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    n, old, new = figures["n"], figures["old"], figures["new"]

    def shares(row: Dict[str, Any]) -> List[str]:
        both = [f"{row[name] / n:.1%} ({100 * row[f'{name}_95'][0]:.0f}–{row[f'{name}_95'][1]:.0%})" for name in ("old", "new")]
        return [*both, f"{points(row['old'], row['new'])}, {chance(row['p'])}"]

    def points(before: float, after: float) -> str:
        return f"{100 * (after - before) / n:+.1f} points"

    table.add_row("heard right (95 %)", *shares(figures["heard_right"]))
    table.add_row("  and answered", *shares(figures["answered_right"]))
    for outcome, name in (
        ("answered_wrong", "answered wrong"),
        ("asked_back", "asked back"),
        ("no_speech", "taken for no speech"),
    ):
        counts = [side["outcomes"][outcome] for side in (old, new)]
        if any(counts):
            table.add_row(name, *(f"{count / n:.1%}" for count in counts), points(*counts))
    errors = [side["heard"]["calibration"] and side["heard"]["calibration"]["error"] for side in (old, new)]
    if None not in errors:
        table.add_row("calibration error", *(f"{error:.1%}" for error in errors), f"{100 * (errors[1] - errors[0]):+.1f} points")
    thresholds = [side["heard"]["suggested_threshold"] for side in (old, new)]
    table.add_row("suggested threshold", *("–" if one is None else f"{one:.2f}" for one in thresholds))
    if figures["out_of_scope"]:
        table.add_row(
            "out of scope, stopped", *(f"{side['out_of_scope_stopped']} of {figures['out_of_scope']}" for side in (old, new))
        )
    table.add_row("noises told apart", *(f"{side['noises_stopped']} of {figures['noises']}" for side in (old, new)))
    if figures["learnt"]:
        table.add_row("learnt, heard right", *(f"{side['learnt_right']} of {figures['learnt']}" for side in (old, new)))
    times = [f"{side['heard']['milliseconds_per_clip']:.1f} ms" for side in (old, new)]
    table.add_row("time a clip (median)", *times, f"times {figures['times_as_slow']:.2f}")
    sizes = [f"{side['bytes'] / 1e6:.1f} MB" for side in (old, new)]
    table.add_row("size in use", *sizes, f"times {figures['times_as_large']:.2f}")
    return table


def _intents_table(rows: Dict[str, Dict[str, Any]]) -> Table:
    """The intents with changes, the worst first; of many those with the largest losses and gains."""
    names = list(rows)
    if len(names) > INTENTS_SHOWN:
        names = [*names[: INTENTS_SHOWN // 2], *names[-(INTENTS_SHOWN // 2) :]]
    table = Table("intent", box=None, pad_edge=False)
    for name in ("clips", "OLD", "NEW", "newly right", "newly wrong"):
        table.add_column(name, justify="right")
    for name in names:
        row = rows[name]
        table.add_row(escape(name), *(str(row[key]) for key in ("n", "old", "new", "newly_right", "newly_wrong")))
    if len(names) < len(rows):
        table.add_row(f"and {len(rows) - len(names)} more")
    return table


def _line(clip: Dict[str, Any]) -> str:
    sides = (
        f"{name.upper()} {clip[name]['heard'] or 'no speech'} {clip[name]['confidence']:.0%}{WORDS[clip[name]['outcome']]}"
        for name in ("old", "new")
    )
    return f"{clip['clip']}: {clip['intent']}; {'; '.join(sides)}"
