"""The reference task: 14 banking intents of MInDS-14 en-US (563 telephone clips), learnt from openai/whisper-base.en.

    python benchmarks/reproduce.py                                 # data and base model from the hub
    python benchmarks/reproduce.py --source MInDS-14 --base-model whisper-base.en    # from copies on this disk

Each recipe is measured twice: 5-fold cross-validation over all clips (no transcript on two sides), and the usual
random split, 450/113. Hours without a GPU; what is measured is kept in results/reproduce.json, and run again it goes on.
"""

import json
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import typer
from bench import HERE, console, save
from rich.table import Table
from trials import identity

from spoken_intents.recognizer import Recognizer
from spoken_intents_training.crossvalidate import cross_validate, folds
from spoken_intents_training.dataset import Clip, read_clips
from spoken_intents_training.evaluate import Evaluation, evaluate
from spoken_intents_training.finetune import train
from spoken_intents_training.importers import from_minds14
from spoken_intents_training.project import import_recordings
from spoken_intents_training.recipe import load_recipe

TEST_SHARE = 0.2


def five_fold(clips: List[Clip], base_model: str, recipe: str) -> Evaluation:
    """Every clip heard by a model that did not learn it."""
    heard: Dict[int, Any] = {}
    tested, _ = folds(clips, 5, "transcript")
    for recognitions in cross_validate(clips, base_model, load_recipe(recipe), tested):
        heard.update(recognitions)
    return Evaluation(clips, [heard[index] for index in range(len(clips))])


def random_split(clips: List[Clip], base_model: str, recipe: str) -> Evaluation:
    """A fifth of the clips, chosen at random, heard by a model of the others: what papers report."""
    order = np.random.default_rng(0).permutation(len(clips))
    tested = {int(index) for index in order[: split_sizes(len(clips))[1]]}
    with tempfile.TemporaryDirectory() as folder:
        learnt = [clip for index, clip in enumerate(clips) if index not in tested]
        train(learnt, base_model, load_recipe(recipe), Path(folder))
        return evaluate(Recognizer(Path(folder)), [clips[index] for index in sorted(tested)])


def split_sizes(clips: int) -> Tuple[int, int]:
    """How many clips `random_split` learns from, and how many it tests on."""
    tested = round(clips * TEST_SHARE)
    return clips - tested, tested


def main(
    base_model: str = typer.Option("openai/whisper-base.en", help="On the hub, or a directory."),
    source: Optional[Path] = typer.Option(None, help="A copy of MInDS-14 instead of the hub's."),
    recipes: str = typer.Option("reference,default", help="Which recipes, with commas between."),
    results: str = typer.Option("reproduce", help="What to call the results."),
    data: Path = typer.Option(HERE.parent / "runs/minds14", help="Where the clips are imported to."),
) -> None:
    """Train the reference and the default recipe on the reference task and write the figures."""
    recordings = from_minds14("en-US", source)
    import_recordings(recordings, data)
    clips = read_clips(data / "audio/manifest.csv")
    task = {"clips": len(clips), "left_out": len(recordings) - len(clips)}
    experiments = {"5-fold": five_fold, "random split {}/{}".format(*split_sizes(len(clips))): random_split}
    file = HERE / "results" / f"{results}.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    if before and before["task"] != task:
        raise typer.BadParameter(f"{file} holds figures of other clips. Name another file: --results")
    rows: List[Dict[str, Any]] = before.get("rows", [])
    wanted = []
    for recipe in recipes.split(","):
        for name, experiment in experiments.items():
            key = {"base_model": base_model, "recipe": recipe, "settings": identity(load_recipe(recipe)), "experiment": name}
            row = next((row for row in rows if key.items() <= row.items()), None)
            if row:
                console.print(f"{recipe}, {name}: measured before.")
            else:
                row = {**key, **experiment(clips, base_model, recipe).as_json()}
                rows.append(row)
                save(results, {"task": task, "rows": rows})
            wanted.append(row)
    console.print(_table(wanted))


def _table(rows: Sequence[Dict[str, Any]]) -> Table:
    table = Table("recipe", "experiment", "accuracy", "95 % interval", "macro-F1", "calibration error", box=None)
    for row in rows:
        low, high = row["accuracy_95"]
        error = row["calibration"]["error"] if row["calibration"] else float("nan")
        table.add_row(
            row["recipe"],
            row["experiment"],
            f"{row['accuracy']:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{row['macro_f1']:.1%}",
            f"{error:.3f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
