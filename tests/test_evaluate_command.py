"""`spoken-intents evaluate`: what it prints and writes, and what it refuses before it begins. The model is a fake."""

import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import soundfile
from test_cli import called, words

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.recognizer import NON_SPEECH, Recognition
from spoken_intents_training import conditions
from spoken_intents_training.sources import file_digest


class Loudness:
    """Hears "freeze" in loud clips and "deny" in quiet ones, the surer the louder."""

    labels = ["deny", "freeze", NON_SPEECH]
    description: Dict[str, Any] = {"base_model": "a fake"}

    def classify(self, samples: np.ndarray) -> Recognition:
        peak = min(1.0, float(np.abs(samples).max()))
        intents = ("freeze", "deny") if peak > 0.5 else ("deny", "freeze")
        return Recognition(((intents[0], 0.5 + 0.4 * peak), (intents[1], 0.05)), 0.01, "model", 7.0)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Clips of a CSV, of which one of the test part is said quietly; the model is `Loudness`."""
    monkeypatch.setattr("spoken_intents_training.cli_measure.Recognizer", lambda model: Loudness())
    monkeypatch.setattr(conditions, "NOISES", 2)
    rows = [("a", "freeze", 0.9, "test"), ("b", "deny", 0.1, "test"), ("[c]", "freeze", 0.2, "test"), ("d", "deny", 0.9, "train")]
    lines = ["path,intent,split"]
    for name, intent, peak, split in rows:
        soundfile.write(tmp_path / f"{name}.wav", peak * np.sin(np.arange(SAMPLE_RATE // 2) / 10), SAMPLE_RATE)
        lines.append(f"{name}.wav,{intent},{split}")
    (tmp_path / "data.csv").write_text("\n".join(lines))
    return tmp_path / "data.csv"


def evaluate(data: Path, *more: object) -> int:
    return called("evaluate", "--model", "any", "--data", data, "--split", "test", *more)


def test_the_summary(data: Path, capsys: pytest.CaptureFixture) -> None:
    assert evaluate(data) == 0
    out = words(capsys.readouterr().out)
    assert "Accuracy 66.7% (95 % interval 20.8% to 93.9%), macro-F1 66.7%, 3 clips, 7 ms each." in out
    assert "Calibration error" in out
    assert "Suggested threshold for FallbackClassifier: 0." in out
    assert out.endswith("Heard wrong, the surest first: [c].wav: freeze heard as deny, 58%")


def test_left_out_the_split_is_test(data: Path, capsys: pytest.CaptureFixture) -> None:
    assert called("evaluate", "--model", "any", "--data", data) == 0
    out = words(capsys.readouterr().out)
    assert "Of 4 clips the 3 marked test are heard; --split all hears every one." in out and " 3 clips, " in out
    assert called("evaluate", "--model", "any", "--data", data, "--split", "all") == 0
    assert " 4 clips, " in words(capsys.readouterr().out)


def test_clips_that_the_model_learnt_from_are_told(
    data: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate(data) == 0
    assert "learnt from" not in capsys.readouterr().out, "an older model does not say"
    digests = [file_digest(data.parent / f"{name}.wav") for name in "ad"]
    monkeypatch.setattr(Loudness, "description", {"data": {"learnt": digests}})
    assert evaluate(data) == 0
    assert "The model learnt from 1 of these 3 clips: its figures for others will be worse." in words(capsys.readouterr().out)


def test_everything_it_writes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    outside, noise, plots = tmp_path / "outside", tmp_path / "noise", tmp_path / "new" / "plots"
    for folder in (outside, noise):
        folder.mkdir()
        soundfile.write(folder / "x.wav", np.random.default_rng(0).standard_normal(SAMPLE_RATE) * 0.05, SAMPLE_RATE)
    written = ("--json", tmp_path / "out.json", "--report", tmp_path / "out.html", "--plots", plots)
    assert evaluate(data, "--out-of-scope", outside, "--noise", noise, *written) == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["n"] == 3 and figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["out_of_scope"]["n"] == 1
    assert [row["noise"] for row in figures["conditions"]] == [None, *["1 recording(s)"] * 5, None], "--noise is reason enough"
    assert {path.name for path in plots.iterdir()} == {"confusion.png", "intents.png", "reliability.png", "conditions.png"}
    page = (tmp_path / "out.html").read_text()
    assert page.count("<audio") == 1 and "a fake" in page
    assert "spoken-intents evaluate --model any --data" in page
    out = words(capsys.readouterr().out)
    assert f"Report: {tmp_path}/out.html" in out and f"Pictures: {plots}" in out
    assert "Out of scope: AUROC" in out
    assert "With 1 recording(s): clean 66.7%, 20 dB" in out


def test_noise_is_made_up_where_none_is_given(data: Path, capsys: pytest.CaptureFixture) -> None:
    assert evaluate(data, "--conditions") == 0
    assert "With made-up noise: clean 66.7%" in words(capsys.readouterr().out)


def test_intents_the_model_does_not_know(data: Path, capsys: pytest.CaptureFixture) -> None:
    data.write_text(data.read_text().replace("b.wav,deny", "b.wav,smalltalk"))
    assert evaluate(data) == 1
    error = words(capsys.readouterr().err)
    assert "The model knows nothing of smalltalk (1 clip(s)). It knows deny, freeze." in error and "--out-of-scope" in error


def test_a_split_that_there_is_not(data: Path, capsys: pytest.CaptureFixture) -> None:
    assert called("evaluate", "--model", "any", "--data", data, "--split", "Test") == 1
    assert f"{data}: no clip has the split Test; splits found: test, train." in words(capsys.readouterr().err)
    data.write_text("path,intent\na.wav,freeze\n")
    assert called("evaluate", "--model", "any", "--data", data, "--split", "test") == 1
    assert "no clip has the split test; splits found: none." in words(capsys.readouterr().err)


REFUSED = [
    (("--report", "missing/out.html"), "--report {}/missing/out.html: takes a file's name in a directory that is there"),
    (("--report", "."), "--report {}: takes a file's name"),
    (("--json", "missing/out.json"), "--json {}/missing/out.json: takes a file's name"),
    (("--plots", "data.csv/plots"), "--plots {0}/data.csv/plots: {0}/data.csv is no directory that can be written to"),
    (("--noise", "missing"), "{}/missing: no such directory"),
    (("--noise", "empty"), "{}/empty: holds no recording"),
    (("--out-of-scope", "missing.csv"), "{}/missing.csv: no such file"),
    (("--out-of-scope", "empty"), "{}/empty: holds no recording"),
]


@pytest.mark.parametrize(("option", "reason"), REFUSED, ids=[" ".join(option) for option, _ in REFUSED])
def test_refused_before_it_listens(
    option: List[str], reason: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*arguments: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("spoken_intents_training.cli_measure.Recognizer", fail)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    assert evaluate(data, option[0], tmp_path / option[1]) == 1
    assert reason.format(tmp_path) in words(capsys.readouterr().err)
    assert sorted(tmp_path.iterdir()) == before
