"""An interrupted training: where its checkpoints lie, what it began with, whether it is the one to go on with."""

import json
import logging
import os
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Sequence

from spoken_intents.errors import TrainingError
from spoken_intents.files import write_whole
from spoken_intents.recognizer import read_model_json
from spoken_intents_training.dataset import Clip
from spoken_intents_training.loop import is_first_process, last_checkpoint
from spoken_intents_training.recipe import Recipe
from spoken_intents_training.sources import files_fingerprint

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"  # in the model's directory, until it is complete
STARTED_FROM = "started_from.json"  # beside them
REMOVING = ".removing"  # what it is called while it is removed


def checkpoint_directory(out: Path, clips: Sequence[Clip], base_model: str, recipe: Recipe, resume: bool) -> Path:
    """Where this training's checkpoints go, inside `out`: what lies there is gone on from with `resume`, else it is new.

    Raises:
        TrainingError: An interrupted training lies there and `resume` was not asked for, or it was another one.
    """
    folder = out / CHECKPOINTS
    now = {
        "another base model": base_model,
        "another recipe": asdict(recipe),
        "other clips": [files_fingerprint([clip.path for clip in clips]), *map(_as_listed, clips)],
    }
    if not is_first_process():
        return folder
    if last_checkpoint(folder) and not resume:
        raise TrainingError(
            f"{folder} holds an interrupted training. Go on with --resume, or delete that directory to begin anew."
        )
    if resume and last_checkpoint(folder):
        changed = _changed(_started_from(folder), now)
        if changed:
            raise TrainingError(
                f"The training in {folder} began with {changed}. Resume it with what it began "
                "with, or delete that directory to begin anew."
            )
        return folder
    if resume:
        logger.warning("%s holds no checkpoint: training begins anew.", out)
    remove_checkpoints(folder)
    folder.mkdir(parents=True)
    write_whole(folder / STARTED_FROM, json.dumps(now).encode())
    return folder


def _started_from(folder: Path) -> Dict[str, Any]:
    try:
        before = json.loads((folder / STARTED_FROM).read_text())
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise TrainingError(
            f"{folder} does not say what its training began with: it cannot be gone on with. Delete that directory to begin anew."
        )
    return before


def remove_checkpoints(folder: Path) -> None:
    """Removes a training's checkpoints. Killed in between, none are left where the next training would look for them."""
    doomed = folder.with_name(REMOVING)
    shutil.rmtree(doomed, ignore_errors=True)
    with suppress(OSError):  # there are none; under accelerate launch another process may be doing the same
        os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def require_same_training(model: Path, clips: Sequence[Clip], base_model: str, recipe: Recipe) -> None:
    """Refuses to take a complete model for the end of another training.

    Raises:
        TrainingError: It was made from another base model, by another recipe, or of other clips.
    """
    made = read_model_json(model)
    before = {
        "another base model": made.get("base_model"),
        "another recipe": made.get("recipe"),
        "other clips": made.get("data", {}).get("fingerprint"),
    }
    wanted = (base_model, asdict(recipe), files_fingerprint([clip.path for clip in clips]))
    changed = _changed(before, dict(zip(before, wanted)))
    if changed:
        raise TrainingError(
            f"{model} holds a complete model, made with {changed}: there is nothing to resume. Train without --resume."
        )


def _changed(before: Dict[str, Any], now: Dict[str, Any]) -> str:
    """The names of what differs, for a message; empty where nothing does."""
    return " and ".join(name for name in now if before.get(name) != now[name])


def _as_listed(clip: Clip) -> List[str]:
    return [clip.name, clip.intent, clip.speaker, clip.transcript]
