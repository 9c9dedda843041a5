"""The commands ``spoken-intents evaluate`` and ``cross-validate``."""

import json
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import typer
from rich.console import Console
from rich.markup import escape

from spoken_intents.archives import model_directory
from spoken_intents.errors import DataError
from spoken_intents.files import require_directory, require_file, write_whole
from spoken_intents.recognizer import Recognizer
from spoken_intents_training.cli_import import progress

measuring = typer.Typer()
console = Console()
MODEL = typer.Option(
    ...,
    help="A model: the directory that [bold]train --out[/] wrote, or an archive of [bold]rasa train[/], or a folder of these (the newest).",
)
OUT_OF_SCOPE = typer.Option(None, help="Clips that belong to no intent, to tell apart: nlu.yml, CSV, or a folder of recordings.")
CONDITIONS = typer.Option(
    False, "--conditions", help="Also in noise (20 to 0 dB) and over the telephone; takes eight times as long."
)
NOISE = typer.Option(
    None, help="A folder of recordings for [bold]--conditions[/], the first 60 s of each, instead of made-up noise."
)
JSON_FILE = typer.Option(None, "--json", help="Write the figures and every wrong clip here.")
REPORT = typer.Option(None, help="Write a page (HTML) here: figures, pictures, wrong clips to listen to.")
PLOTS = typer.Option(None, help="Write the pictures (PNG) to this directory.")


@measuring.command()
def evaluate(
    model: Path = MODEL,
    data: Path = typer.Option(..., help="nlu.yml or CSV, as for [bold]train[/]."),
    split: Optional[str] = typer.Option(
        None, help="Only the CSV's rows of this split; [bold]all[/]: every row. Left out: those marked test, where there are any."
    ),
    out_of_scope: Optional[Path] = OUT_OF_SCOPE,
    conditions: bool = CONDITIONS,
    noise: Optional[Path] = NOISE,
    json_file: Optional[Path] = JSON_FILE,
    report: Optional[Path] = REPORT,
    plots: Optional[Path] = PLOTS,
) -> None:
    """Measure a model on clips it was not trained on: accuracy, confusions, calibration, a threshold to set.

    [dim]spoken-intents evaluate --model my_model --data clips.csv --split test --conditions --report report.html[/]
    """
    _require_outputs(json_file, report, plots)
    from spoken_intents_training.dataset import read_clips
    from spoken_intents_training.evaluate import evaluate as measure
    from spoken_intents_training.sources import file_digest

    clips = of_split(read_clips(data), split, data)
    measure_further = _further(out_of_scope, conditions, noise)
    with model_directory(model) as directory:
        recognizer = Recognizer(directory)
    learnt = set(recognizer.description.get("data", {}).get("learnt", ()))
    known = sum(file_digest(clip.path) in learnt for clip in clips)
    if known:
        console.print(
            f"[yellow]The model learnt from {known} of these {len(clips)} clips: its figures for others will be worse.[/]"
        )
    result = measure(recognizer, clips, progress("Listening"))
    result = replace(result, **measure_further(recognizer, clips))
    _tell(result, recognizer.description, json_file, report, plots)


def of_split(listed: Sequence[Any], split: Optional[str], data: Path) -> List[Any]:
    found = sorted({clip.split for clip in listed} - {""})
    if split is None and "test" in found:
        split = "test"
        count = sum(clip.split == split for clip in listed)
        if count < len(listed):
            console.print(
                f"Of {len(listed)} clips the {count} marked test are heard; --split all hears every one.", highlight=False
            )
    clips = [clip for clip in listed if split in (None, "all", clip.split)]
    if not clips:
        raise DataError(f"{data}: no clip has the split {split}; splits found: {', '.join(found) or 'none'}.")
    return clips


def _further(
    out_of_scope: Optional[Path], conditions: bool, noise: Optional[Path]
) -> Callable[[Recognizer, Sequence[Any]], Dict[str, List[Any]]]:
    """Measures what else is wanted of a model, as fields of `Evaluation`. Files are read now, before anything slow begins."""
    from spoken_intents_training.conditions import measure_conditions, read_noises
    from spoken_intents_training.dataset import read_all_samples
    from spoken_intents_training.evaluate import hear, out_of_scope_clips

    outside = [] if out_of_scope is None else out_of_scope_clips(out_of_scope)
    read_all_samples(outside)  # what is broken is told now
    noises = None if noise is None else read_noises(noise)

    def measure(recognizer: Recognizer, clips: Sequence[Any]) -> Dict[str, List[Any]]:
        heard: List[Any] = hear(recognizer, outside, progress("Out of scope"))
        wanted = conditions or noise is not None
        rows = measure_conditions(recognizer.classify, clips, noises, progress=progress("In noise")) if wanted else []
        return {"out_of_scope": heard, "conditions": rows}

    return measure


@measuring.command("cross-validate")
def cross_validate(
    data: Path = typer.Argument(..., help="nlu.yml or CSV, as for [bold]train[/]; the column split is not looked at."),
    base_model: str = typer.Option("openai/whisper-base.en", help="As for [bold]train[/]."),
    recipe: str = typer.Option("default", help="As for [bold]train[/]."),
    epochs: Optional[int] = typer.Option(None, help="As for [bold]train[/]."),
    k: int = typer.Option(5, "--folds", min=2, max=20, help="How many models to train, each on the others' clips."),
    group_by: str = typer.Option(
        "auto", help="speaker, transcript, both, none; auto: speaker if at least half are known, else transcript likewise."
    ),
    fold_seed: int = typer.Option(0, help="Another one shares the clips out in another way. (The recipe has its own seed.)"),
    out_of_scope: Optional[Path] = OUT_OF_SCOPE,
    conditions: bool = CONDITIONS,
    noise: Optional[Path] = NOISE,
    json_file: Optional[Path] = JSON_FILE,
    report: Optional[Path] = REPORT,
    plots: Optional[Path] = PLOTS,
) -> None:
    """Measure a recipe where there is no test set: every clip is heard by a model that did not learn it.

    Clips of a speaker (or with a transcript) stay on one side, so that nobody is recognized by voice or by wording.

    [dim]spoken-intents cross-validate data/nlu_spoken.yml --base-model whisper-mini --report report.html[/]
    """
    _require_outputs(json_file, report, plots)
    from spoken_intents_training.conditions import pool_conditions
    from spoken_intents_training.crossvalidate import cross_validate as heard_in_folds
    from spoken_intents_training.crossvalidate import folds
    from spoken_intents_training.dataset import intent_counts, read_all_samples, read_clips
    from spoken_intents_training.evaluate import Evaluation
    from spoken_intents_training.recipe import load_recipe, overrides

    chosen, clips = load_recipe(recipe, **overrides(epochs)), read_clips(data)
    read_all_samples(clips)  # what is broken is told now, not after its fold was trained
    measure_further = _further(out_of_scope, conditions, noise)
    further: List[Dict[str, List[Any]]] = []
    tested, grouped_by = folds(clips, k, group_by, fold_seed)
    alone = sum(not getattr(clip, grouped_by, "") for clip in clips) if group_by == "auto" and grouped_by != "none" else 0
    without = f" ({alone} without one are on their own)" if alone else ""
    console.print(f"{len(clips)} clips in {k} folds, grouped by {grouped_by}{without}.")

    def also(recognizer: Recognizer, of_fold: Sequence[Any]) -> None:
        further.append(measure_further(recognizer, of_fold))

    heard: Dict[int, Any] = {}
    by_fold: List[Dict[str, Any]] = []
    for number, recognitions in enumerate(heard_in_folds(clips, base_model, chosen, tested, also), 1):
        heard.update(recognitions)
        right = sum(recognition.is_speech and recognition.intent == clips[i].intent for i, recognition in recognitions.items())
        by_fold.append({"n": len(recognitions), "accuracy": right / len(recognitions)})
        console.print(f"[bold]Fold {number} of {k}:[/] {right} of {len(recognitions)} right ({right / len(recognitions):.1%}).")
    described = {"base_model": base_model, "recipe": asdict(chosen), "grouped_by": grouped_by, "folds": by_fold}
    described["data"] = {"clips": intent_counts(clips)}
    outside = [one for fold in further for one in fold["out_of_scope"]]  # each clip as often as there are folds
    rows = pool_conditions([fold["conditions"] for fold in further])
    result = Evaluation(clips, [heard[index] for index in range(len(clips))], outside, rows)
    _tell(result, described, json_file, report, plots)


def _require_outputs(json_file: Optional[Path], report: Optional[Path], plots: Optional[Path]) -> None:
    require_file("--json", json_file)
    require_file("--report", report)
    require_directory("--plots", plots)


def _tell(
    result: Any, described: Dict[str, Any], json_file: Optional[Path], report: Optional[Path], plots: Optional[Path]
) -> None:
    """Prints what was measured, and writes it where it is wanted."""
    from spoken_intents_training.evaluate import summary

    figures = result.as_json()
    console.print(result.table())
    console.print("", *summary(figures), sep="\n", highlight=False)
    if json_file:
        model = {name: described[name] for name in ("base_model", "recipe", "grouped_by", "folds") if name in described}
        write_whole(json_file, (json.dumps({**model, **figures}, indent=2) + "\n").encode())
    if plots:
        _write_plots(figures, plots)
    if report:
        from spoken_intents_training.report import report as page

        write_whole(report, page(result, described, shlex.join(["spoken-intents", *sys.argv[1:]])).encode())
        console.print(f"Report: {escape(str(report))}", highlight=False, soft_wrap=True)


def _write_plots(figures: Dict[str, Any], directory: Path) -> None:
    from spoken_intents_training.plots import evaluation_plots, png

    directory.mkdir(parents=True, exist_ok=True)
    for name, figure in evaluation_plots(figures).items():
        write_whole(directory / f"{name}.png", png(figure))
    console.print(f"Pictures: {escape(str(directory))}", highlight=False, soft_wrap=True)
