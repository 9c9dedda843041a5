"""Distillation with a tiny random teacher: what is written, what is skipped, what is refused."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
import typer
from transformers import WhisperConfig
from typer.testing import CliRunner, Result

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import ConfigError, DataError
from spoken_intents_training.distill import main, save_base, student_of
from spoken_intents_training.modeling import ShortContextClassifier, encode, load_base

CLIPS = 3


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    config = WhisperConfig(d_model=64, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=128, num_hidden_layers=2)
    folder = tmp_path_factory.mktemp("teacher")
    save_base(ShortContextClassifier(config), folder)
    return str(folder)


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Clips without any label: no file beside them, and names that say nothing."""
    folder = tmp_path / "audio"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, suffix in enumerate(("wav", "FLAC", "ogg")[:CLIPS]):
        soundfile.write(folder / f"{number}.{suffix}", 0.1 * rng.standard_normal(SAMPLE_RATE // 2), SAMPLE_RATE)
    return folder


def distil(teacher: str, audio: Path, out: Path, layers: str = "0", neurons: int = 96) -> Result:
    """The command, for two steps."""
    command = typer.Typer()
    command.command()(main)
    options = ["--teacher", teacher, "--audio", str(audio), "--out", str(out), "--layers", layers, "--steps", "2"]
    return CliRunner().invoke(command, [*options, "--neurons", str(neurons)])


def test_the_small_model_can_be_loaded_and_holds_a_layer_less(teacher: str, audio: Path, tmp_path: Path) -> None:
    result = distil(teacher, audio, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"{CLIPS} clips." in result.output and "after 2 steps" in result.output and "0 unusable" in result.output
    student, large = load_base(str(tmp_path / "out"), ["a", "b"]), load_base(teacher, ["a", "b"])
    assert len(student.encoder.layers) == student.config.encoder_layers == len(large.encoder.layers) - 1 == 1
    assert student.encoder.layers[0].fc1.out_features == 96 < large.encoder.layers[0].fc1.out_features
    torch.testing.assert_close(student.encoder.embed_positions.weight, large.encoder.embed_positions.weight)  # in no file
    assert not torch.equal(student.encoder.conv1.weight, large.encoder.conv1.weight), "two steps were learnt"
    torch.testing.assert_close(student.encoder.conv1.weight, large.encoder.conv1.weight, atol=0.01, rtol=0)  # from the teacher's
    with torch.no_grad():
        hidden, _ = encode(student.encoder, torch.zeros(1, 80, 100))
    assert hidden.shape == (1, 50, 64) and torch.isfinite(hidden).all()
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]


def features(seed: int) -> torch.Tensor:
    return torch.randn(2, 80, 60, generator=torch.Generator().manual_seed(seed))


def test_a_student_with_every_layer_and_neuron_is_its_teacher(teacher: str) -> None:
    large = load_base(teacher, ["-"])
    student = student_of(large, [0, 1], 128, [features(0)])
    with torch.no_grad():
        torch.testing.assert_close(encode(student.encoder, features(1))[0], encode(large.encoder, features(1))[0])


def test_the_neurons_that_matter_are_kept_and_the_others_stay_as_a_constant(teacher: str) -> None:
    large = load_base(teacher, ["-"])
    idle = torch.arange(0, 128, 2)  # of the first layer: constant, but not nothing
    with torch.no_grad():
        large.encoder.layers[0].fc1.weight[idle] = 0.0
        large.encoder.layers[0].fc1.bias[idle] = 3.0
    student = student_of(large, [0], 64, [features(0)])
    large.encoder.layers = large.encoder.layers[:1]
    with torch.no_grad():
        torch.testing.assert_close(
            encode(student.encoder, features(1))[0], encode(large.encoder, features(1))[0], atol=1e-5, rtol=0
        )


def test_transformers_reports_nothing(
    teacher: str, audio: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head is new, of which transformers would make a "LOAD REPORT"."""
    transformers.logging.set_verbosity_warning()
    transformers.logging.enable_progress_bar()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    result = distil(teacher, audio, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Loading weights" not in result.output
    assert caplog.text == ""


def test_unusable_clips_are_skipped_and_counted(teacher: str, audio: Path, tmp_path: Path) -> None:
    unusable = make_unusable(audio)
    result = distil(teacher, audio, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"{CLIPS + unusable} clips." in result.output
    assert f"{unusable} unusable clips skipped" in result.output


def make_unusable(folder: Path) -> int:
    """Adds clips that cannot be used; returns how many."""
    soundfile.write(folder / "short.wav", np.zeros(SAMPLE_RATE // 100), SAMPLE_RATE)
    soundfile.write(folder / "long.flac", np.zeros(121 * 8_000), 8_000)
    (folder / "text.wav").write_text("no audio")
    return 3


def test_only_unusable_clips_are_refused(teacher: str, tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    make_unusable(tmp_path / "audio")
    error = distil(teacher, tmp_path / "audio", tmp_path / "out").exception
    assert isinstance(error, DataError) and str(error).startswith("No clip can be used. The last one: ")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_clips_is_refused(teacher: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    error = distil(teacher, tmp_path, tmp_path / "out").exception
    assert isinstance(error, DataError) and str(error).startswith(f"{tmp_path}: no clip there. Clips end in .wav, ")


def test_what_the_teacher_has_not_got_is_refused(teacher: str, audio: Path, tmp_path: Path) -> None:
    error = distil(teacher, audio, tmp_path / "out", layers="0,2").exception
    assert isinstance(error, ConfigError) and str(error) == "layers takes some of 0 to 1, the teacher's, got [0, 2]."
    error = distil(teacher, audio, tmp_path / "out", neurons=129).exception
    assert isinstance(error, ConfigError) and str(error) == "neurons takes 1 to 128, the teacher's, got 129."
