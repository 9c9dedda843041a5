"""Fine-tuning on two processes, as on two GPUs: one artefact, said once; and gone on with when it was interrupted."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, List

import numpy as np
import psutil
import pytest
import yaml

from assistant import BIN, free_port
from spoken_intents.recognizer import Recognizer
from spoken_intents_training.checkpoints import CHECKPOINTS
from spoken_intents_training.dataset import read_clips, read_samples
from spoken_intents_training.loop import last_checkpoint

pytestmark = pytest.mark.slow

RECIPE = {
    "epochs": 5,
    "min_steps": 0,
    "batch_size": 4,  # two for each process
    "learning_rate": 1e-3,
    "pooling": "auto",
    "frozen_layers": 1,  # parameters without a gradient
    "warmup_share": 0.1,
    "max_grad_norm": 1.0,
    "non_speech_share": 0.06,
    "held_out_share": 0.1,
    "precision": "fp32",
}
STEPS_AN_EPOCH = 8  # 22 clips and 10 noises
TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port"]
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def arguments(tiny_base: str, buzzes: Path, tmp_path_factory: pytest.TempPathFactory) -> List[str]:
    """`spoken-intents train` on two processes, but for --out."""
    recipe = tmp_path_factory.mktemp("recipe") / "mine.yml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    return [str(BIN / "spoken-intents"), "train", str(buzzes), "--base-model", tiny_base, "--recipe", str(recipe)]


@pytest.fixture(scope="module")
def uninterrupted(arguments: List[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("two") / "out"
    command = [*ACCELERATE, str(free_port()), *arguments, "--out", str(out)]
    return out, subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)


def logits(model: Path, buzzes: Path) -> np.ndarray:
    recognizer = Recognizer(model, "fp32")
    return np.array([recognizer.logits(read_samples(clip)) for clip in read_clips(buzzes)])


def test_two_processes_make_one_artefact_and_say_it_once(uninterrupted: Any, buzzes: Path) -> None:
    out, done = uninterrupted
    assert done.returncode == 0, done.stdout + done.stderr
    files = {"model.json", "model.onnx", "model.fp32.onnx", "encoder.safetensors", "README.md", "training.png"}
    assert {file.name for file in out.iterdir()} == files
    described = json.loads((out / "model.json").read_text())
    assert described["log"][-1]["step"] == RECIPE["epochs"] * STEPS_AN_EPOCH
    assert described["metrics"]["n"] == 2
    intents = logits(out, buzzes)[:, :2].argmax(axis=1)
    truth = [["high", "low"].index(clip.intent) for clip in read_clips(buzzes)]
    assert (intents == truth).mean() > 0.8
    for said in (r"Fine-tuning \S+ on 22 clips", r"Fine-tuning: epoch 5 of 5", "held-out clips right", "out: 2 intents"):
        assert len(re.findall(said, done.stdout)) == 1, done.stdout
    for complaint in ("Traceback", "Warning", "warning:", "destroy_process_group"):
        assert complaint not in done.stderr, done.stderr


def test_two_processes_go_on_where_they_were_killed(
    uninterrupted: Any, arguments: List[str], buzzes: Path, tmp_path: Path
) -> None:
    checkpoints = tmp_path / "out" / CHECKPOINTS
    command = [*TORCHRUN, *arguments, "--out", str(tmp_path / "out")]
    with (tmp_path / "log").open("wb") as log:
        process = psutil.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while step_reached(checkpoints) <= STEPS_AN_EPOCH and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        for each in [process, *process.children(recursive=True)]:  # the launcher first, which would end the others gently
            each.kill()
        process.wait()
    assert step_reached(checkpoints) > STEPS_AN_EPOCH, (tmp_path / "log").read_text()
    if step_reached(checkpoints) % STEPS_AN_EPOCH == 0:  # the one before is in the middle of an epoch, which is harder
        shutil.rmtree(checkpoints / f"checkpoint-{step_reached(checkpoints)}")
    assert step_reached(checkpoints) > STEPS_AN_EPOCH and step_reached(checkpoints) % STEPS_AN_EPOCH
    assert not (tmp_path / "out" / "model.json").exists()
    done = subprocess.run([*command, "--resume"], env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Going on from step {STEPS_AN_EPOCH}" not in done.stdout and done.stdout.count("Going on from step") == 1
    np.testing.assert_allclose(logits(tmp_path / "out", buzzes), logits(uninterrupted[0], buzzes), atol=1e-4)


def step_reached(checkpoints: Path) -> int:
    last = last_checkpoint(checkpoints)
    return int(last.name.split("-")[1]) if last else 0
