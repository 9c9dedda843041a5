"""Training that is interrupted, by a kill or a full disk, and gone on with: the same model as if nothing had happened."""

import json
import logging
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
from conftest import disk_that_takes

from spoken_intents.errors import TrainingError
from spoken_intents.recognizer import Recognizer
from spoken_intents_training.checkpoints import CHECKPOINTS, STARTED_FROM, checkpoint_directory, remove_checkpoints
from spoken_intents_training.dataset import Clip, read_samples
from spoken_intents_training.finetune import train
from spoken_intents_training.loop import COMPLETE, last_checkpoint
from spoken_intents_training.recipe import Recipe, load_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = load_recipe(
    "reference-short",
    epochs=10,
    batch_size=4,
    learning_rate=1e-3,
    pooling="auto",
    warmup_share=0.1,
    non_speech_share=0.1,
    held_out_share=0.1,
)
STEPS = 10 * 8  # 22 clips and 10 noises, four at a time


@pytest.fixture(scope="module")
def uninterrupted(tiny_base: str, clips: List[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    train(clips, tiny_base, RECIPE, out)
    return out


def logits(model: Path, clips: List[Clip]) -> np.ndarray:
    recognizer = Recognizer(model, "fp32")
    return np.array([recognizer.logits(read_samples(clip)) for clip in clips])


def steps_of(model: Path) -> List[int]:
    return [entry["step"] for entry in json.loads((model / "model.json").read_text())["log"]]


TRAIN = """
import sys
from pathlib import Path
import torch
from spoken_intents_training.dataset import read_clips
from spoken_intents_training.checkpoints import checkpoint_directory
from spoken_intents_training.finetune import train
from spoken_intents_training.recipe import load_recipe

data, base, recipe, out = sys.argv[1:]
torch.set_num_threads(1)
arguments = (read_clips(Path(data)), base, load_recipe(recipe))
checkpoints = checkpoint_directory(Path(out), *arguments, resume=False)
train(*arguments, Path(out), checkpoints=checkpoints)
"""


@pytest.fixture(scope="module")
def killed(tiny_base: str, buzzes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a training that `kill -9` ended in the middle."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "recipe.yml").write_text(json.dumps(vars(RECIPE)))  # JSON is YAML
    command = [sys.executable, "-c", TRAIN, str(buzzes), tiny_base, str(folder / "recipe.yml"), str(folder / "out")]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        deadline = time.monotonic() + 120
        while not last_checkpoint(folder / "out" / CHECKPOINTS) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
    reached = last_checkpoint(folder / "out" / CHECKPOINTS)
    assert reached and int(reached.name.split("-")[1]) < STEPS, (folder / "log").read_text()
    assert not (folder / "out" / "model.json").exists()
    return folder / "out"


def a_copy(killed: Path, to: Path) -> Path:
    shutil.copytree(killed, to)
    return to


def gone_on_with(out: Path, clips: List[Clip], base: str) -> Path:
    checkpoints = checkpoint_directory(out, clips, base, RECIPE, resume=True)
    train(clips, base, RECIPE, out, checkpoints=checkpoints)
    return out


# ---------------------------------------------------------------- the same model as if nothing had happened


def test_a_killed_training_ends_like_one_that_was_not(
    killed: Path, uninterrupted: Path, clips: List[Clip], tiny_base: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = a_copy(killed, tmp_path / "out")
    reached = last_checkpoint(out / CHECKPOINTS)
    half_written = out / CHECKPOINTS / "checkpoint-79"
    half_written.mkdir()
    (half_written / "model.safetensors").write_bytes(b"half")
    gone_on_with(out, clips, tiny_base)
    assert reached and f"Going on from step {reached.name.split('-')[1]}." in capsys.readouterr().out
    wanted = logits(uninterrupted, clips)
    np.testing.assert_allclose(logits(out, clips), wanted, rtol=1e-5, atol=1e-5)
    assert len(wanted) == 24 and np.ptp(wanted, axis=0).min() > 0.5
    assert steps_of(out)[-1] == steps_of(uninterrupted)[-1] == STEPS


def test_ten_checkpoints_are_written_two_are_kept_and_the_last_is_not_trained_again(
    uninterrupted: Path,
    clips: List[Clip],
    tiny_base: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    written, touch = [], Path.touch
    monkeypatch.setattr(Path, "touch", lambda path, **named: (written.append(path.parent.name), touch(path, **named)))
    checkpoints = tmp_path / CHECKPOINTS
    train(clips, tiny_base, RECIPE, tmp_path / "first", checkpoints=checkpoints)
    assert [name for name in written if name.startswith("checkpoint-")] == [f"checkpoint-{8 * n}" for n in range(1, 11)]
    assert sorted(path.name for path in checkpoints.glob("checkpoint-*")) == ["checkpoint-72", "checkpoint-80"]
    capsys.readouterr()
    train(clips, tiny_base, RECIPE, tmp_path / "again", checkpoints=checkpoints)  # as if killed while it was exported
    assert "Going on from step 80." in capsys.readouterr().out
    for out in (tmp_path / "first", tmp_path / "again"):
        np.testing.assert_allclose(logits(out, clips), logits(uninterrupted, clips), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- which checkpoint


def test_the_last_checkpoint_is_the_newest_that_is_complete(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None and last_checkpoint(tmp_path / "none") is None
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert last_checkpoint(tmp_path) is None
    for step in (10, 9):
        (tmp_path / f"checkpoint-{step}" / COMPLETE).touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


# ---------------------------------------------------------------- what is refused


def interrupted(out: Path, clips: List[Clip], base: str = "base", recipe: Recipe = RECIPE) -> Path:
    """What an interrupted training leaves, without the training."""
    folder = checkpoint_directory(out, clips, base, recipe, resume=False)
    (folder / "checkpoint-8").mkdir()
    (folder / "checkpoint-8" / COMPLETE).touch()
    return folder


def test_an_interrupted_training_is_not_overwritten(clips: List[Clip], tmp_path: Path) -> None:
    folder = interrupted(tmp_path, clips)
    words = r"checkpoints holds an interrupted training\. Go on with --resume, or delete that directory to begin anew"
    with pytest.raises(TrainingError, match=words):
        checkpoint_directory(tmp_path, clips, "base", RECIPE, resume=False)
    assert last_checkpoint(folder)
    assert checkpoint_directory(tmp_path, clips, "base", RECIPE, resume=True) == folder
    assert last_checkpoint(folder) == folder / "checkpoint-8"


def test_another_training_is_not_gone_on_with(clips: List[Clip], tmp_path: Path) -> None:
    interrupted(tmp_path, clips)
    swapped = [replace(clips[0], intent="high"), replace(clips[1], intent="low"), *clips[2:]]
    for changed, words in (
        ((clips, "other", RECIPE), "began with another base model"),
        ((clips, "base", replace(RECIPE, epochs=11)), "began with another recipe"),
        ((clips[1:], "base", RECIPE), "began with other clips"),
        ((swapped, "base", RECIPE), "began with other clips"),  # the same files, of other intents
        ((clips[::-1], "base", RECIPE), "began with other clips"),  # another order makes other batches
        ((clips[1:], "other", replace(RECIPE, seed=1)), "began with another base model and another recipe and other clips"),
    ):
        with pytest.raises(TrainingError, match=rf"The training in .*{words}\. Resume it with what it began with, or delete"):
            checkpoint_directory(tmp_path, *changed, resume=True)
    assert last_checkpoint(tmp_path / CHECKPOINTS)


@pytest.mark.parametrize("resume", [False, True])
def test_what_holds_no_complete_checkpoint_is_begun_anew(clips: List[Clip], tmp_path: Path, resume: bool) -> None:
    folder = interrupted(tmp_path, clips)
    (folder / "checkpoint-8" / COMPLETE).unlink()
    assert checkpoint_directory(tmp_path, clips, "other", RECIPE, resume=resume) == folder
    assert not list(folder.glob("checkpoint-*"))


# ---------------------------------------------------------------- a disk that is full


def test_on_a_full_disk_checkpoints_are_a_warning_and_the_model_is_an_error(
    clips: List[Clip], tiny_base: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with disk_that_takes(500_000), caplog.at_level(logging.WARNING):
        with pytest.raises(TrainingError, match="The model could not be written to .*Nothing there was changed"):
            train(clips, tiny_base, RECIPE, tmp_path / "out", checkpoints=tmp_path / CHECKPOINTS)
    said = [record.getMessage() for record in caplog.records if "could not be written" in record.getMessage()]
    assert len(said) == 10  # it was trained to its end
    assert said[0].startswith("The checkpoint at step 8 could not be written (")
    assert said[0].endswith("Training goes on; interrupted now, it would resume from the beginning.")
    assert not list((tmp_path / CHECKPOINTS).glob("checkpoint-*")), "nothing half-written stays"
    assert not list((tmp_path / "out").iterdir())


def test_the_checkpoint_before_stays_when_the_next_cannot_be_written(
    uninterrupted: Path, clips: List[Clip], tiny_base: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = tmp_path / CHECKPOINTS
    checkpoints.mkdir()
    for step in range(16, STEPS + 1, 8):
        (checkpoints / f"checkpoint-{step}").write_text("a file in the way")
    with caplog.at_level(logging.WARNING):
        train(clips, tiny_base, RECIPE, tmp_path / "out", checkpoints=checkpoints)
    said = [record.getMessage() for record in caplog.records if "could not be written" in record.getMessage()]
    assert len(said) == 9
    assert all(message.endswith("interrupted now, it would resume from step 8.") for message in said)
    assert last_checkpoint(checkpoints) == checkpoints / "checkpoint-8"
    np.testing.assert_allclose(logits(tmp_path / "out", clips), logits(uninterrupted, clips), rtol=1e-5, atol=1e-5)


def test_killed_while_checkpoints_are_removed_a_complete_model_stays_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / CHECKPOINTS
    (folder / "checkpoint-3").mkdir(parents=True)

    def killed(*arguments: object, **more: object) -> None:
        if (tmp_path / ".removing").exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_checkpoints(folder)
    assert not folder.exists(), "what is half removed lies elsewhere"
    folder.mkdir()
    remove_checkpoints(folder)
    assert list(tmp_path.iterdir()) == [], "and the next time goes too"


def test_checkpoints_that_do_not_say_what_they_began_with(clips: List[Clip], tmp_path: Path) -> None:
    (tmp_path / CHECKPOINTS / "checkpoint-3").mkdir(parents=True)
    (tmp_path / CHECKPOINTS / "checkpoint-3" / COMPLETE).touch()
    assert last_checkpoint(tmp_path / CHECKPOINTS)
    for content in (None, "", '{"another base', "[]"):
        if content is not None:
            (tmp_path / CHECKPOINTS / STARTED_FROM).write_text(content)
        with pytest.raises(TrainingError, match="cannot be gone on with. Delete that directory to begin anew"):
            checkpoint_directory(tmp_path, clips, "base", RECIPE, resume=True)


@pytest.mark.parametrize("content", [None, '{"pooling": "stat', '{"pooling": "mean"}', "{}", "[]"])
def test_a_checkpoint_that_does_not_say_its_head_is_named(
    content: Any, tiny_base: str, clips: List[Clip], tmp_path: Path
) -> None:
    folder = interrupted(tmp_path, clips, tiny_base)
    if content is not None:
        (folder / "checkpoint-8" / "config.json").write_text(content)
    with pytest.raises(TrainingError, match=r"checkpoint-8 is not whole: its config\.json is missing or broken\. Delete that"):
        train(clips, tiny_base, RECIPE, tmp_path, checkpoints=folder)


def test_resume_with_nothing_there_is_told(clips: List[Clip], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint_directory(tmp_path / "mistyped", clips, "base", RECIPE, resume=True)
    assert "mistyped holds no checkpoint: training begins anew." in caplog.text
