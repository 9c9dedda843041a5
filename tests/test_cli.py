"""The command, run as a user runs it."""

import csv
import json
import subprocess
from pathlib import Path
from typing import List

import pytest
from conftest import INTENTS

from assistant import BIN, PROJECT, Assistant


def command(*arguments: object, cwd: Path = PROJECT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(BIN / "spoken-intents"), *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def model(spoken_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained by the command from a CSV, two intents, one epoch."""
    folder = tmp_path_factory.mktemp("cli")
    rows: List[List[str]] = [["path", "intent", "split"]]
    for intent in INTENTS[:2]:
        for number in range(1, 13):
            rows.append([str(spoken_project / f"audio/{intent}/{number}.ogg"), intent, "test" if number > 10 else "train"])
    with (folder / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    done = command(
        "train",
        folder / "data.csv",
        "--out",
        folder / "model",
        "--base-model",
        "whisper-mini",
        "--recipe",
        "bundled",
        "--epochs",
        1,
    )
    assert done.returncode == 0, done.stderr
    assert "held-out clips right" in " ".join(done.stdout.split())
    return folder / "model"


def test_train_writes_the_whole_artefact(model: Path) -> None:
    assert {path.name for path in model.iterdir()} == {"model.json", "model.onnx", "model.fp32.onnx", "encoder.safetensors"}
    described = json.loads((model / "model.json").read_text())
    assert described["labels"] == ["goodbye", "greet", "__non_speech__"]
    assert described["data"]["clips"] == {"goodbye": 10, "greet": 10}, "rows marked test are left out"
    assert described["recipe"]["epochs"] == 1
    assert described["parity"]["n"] > 0
    assert described["parity"]["fp32_max_difference"] < 1e-3
    assert (model / "model.onnx").stat().st_size < (model / "model.fp32.onnx").stat().st_size / 2


def test_evaluate_counts_only_the_split(model: Path, tmp_path: Path) -> None:
    done = command(
        "evaluate", "--model", model, "--data", model.parent / "data.csv", "--split", "test", "--json", tmp_path / "out.json"
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["n"] == 4
    assert 0 <= figures["macro_f1"] <= 1
    assert f"{figures['accuracy']:.1%}" in done.stdout


def test_evaluate_takes_nlu_files(model: Path, spoken_project: Path) -> None:
    done = command("evaluate", "--model", model, "--data", spoken_project / "data/spoken.yml")
    assert done.returncode == 0, done.stderr
    assert "120 clips" in done.stdout


def test_classify_prints_a_ranking(model: Path) -> None:
    done = command("classify", "--model", model, PROJECT / "audio/demo/greet.ogg")
    assert done.returncode == 0, done.stderr
    assert "greet" in done.stdout
    assert "%" in done.stdout


def test_talk_says_files_and_prints_answers(server: Assistant) -> None:
    done = command("talk", "--url", server.voice, PROJECT / "audio/train/greet/0000.ogg", PROJECT / "audio/demo/noise.ogg")
    assert done.returncode == 0, done.stderr
    assert "heard greet" in done.stdout
    assert "Bot: Hey! How are you?" in done.stdout
    assert "no turn" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nothing.yml", "--out", "x"], "nothing.yml: no such file"),
        (["train", "domain.yml", "--out", "x"], "lists no clip"),
        (["train", "data/nlu_spoken.yml", "--out", "x", "--recipe", "best"], "neither a recipe's name (bundled, reference)"),
        (["train", "data/nlu_spoken.yml", "--out", "x", "--base-model", "no/such/model"], "cannot be loaded"),
        (["train", "data/nlu_spoken.yml", "--out", "x", "--epochs", "0"], "epochs takes 1 to 1000"),
        (["classify", "--model", "actions", "audio/demo/greet.ogg"], "actions is not a model"),
        (["talk"], "Name recordings to say, or --mic"),
        (["talk", "domain.yml"], "cannot be read as audio"),
    ],
)
def test_errors_say_what_to_do(arguments: List[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = command(*arguments)
    assert done.returncode == 1
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_help_teaches() -> None:
    assert "talk to a Rasa assistant" in command("--help").stdout
    for name in ("train", "evaluate", "classify", "talk"):
        assert "Usage: spoken-intents " + name in command(name, "--help").stdout
