"""Fine-tuning with a tiny random base model: what is written, what is refused, and that something is learnt."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import List

import numpy as np
import pytest
import soundfile

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import DataError, ModelError
from spoken_intents.recognizer import Recognizer
from spoken_intents_training.dataset import Clip
from spoken_intents_training.distill import save_base
from spoken_intents_training.finetune import fit_temperature, train
from spoken_intents_training.recipe import Recipe

RECIPE = Recipe(
    context="short", epochs=6, batch_size=4, learning_rate=2e-3, max_grad_norm=1.0, non_speech_share=0.1, held_out_share=0.1
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    import torch
    from transformers import WhisperConfig

    from spoken_intents_training.modeling import ShortContextClassifier

    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=64, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=128, num_hidden_layers=1, classifier_proj_size=32
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("base")
    save_base(ShortContextClassifier(config), folder)
    return str(folder)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> List[Clip]:
    """Two "intents" anybody can tell apart: vowels-like buzzes of a low and of a high voice."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    made = []
    for number in range(24):
        intent, pitch = (("low", 110), ("high", 310))[number % 2]
        time = np.arange(int(rng.uniform(0.4, 0.9) * SAMPLE_RATE)) / SAMPLE_RATE
        buzz = sum(np.sin(2 * np.pi * pitch * rng.uniform(0.97, 1.03) * k * time) / k for k in range(1, 9))
        path = folder / f"{intent}{number}.wav"
        soundfile.write(path, 0.1 * buzz, SAMPLE_RATE)
        made.append(Clip(path, intent, path.name))
    return made


@pytest.fixture(scope="module")
def model(base: str, clips: List[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    train(clips, base, RECIPE, out)
    return out


def test_it_learns_and_is_told_in_model_json(model: Path, clips: List[Clip]) -> None:
    described = json.loads((model / "model.json").read_text())
    assert described["metrics"]["held_out"] is True
    assert described["metrics"]["n"] == 2
    assert described["data"]["clips"] == {"high": 12, "low": 12}
    recognizer = Recognizer(model)
    heard = [recognizer.classify(soundfile.read(clip.path, dtype="float32")[0]).intent for clip in clips]
    assert sum(intent == clip.intent for intent, clip in zip(heard, clips)) >= 20


def test_the_same_seed_gives_the_same_model(base: str, clips: List[Clip], model: Path, tmp_path: Path) -> None:
    train(clips, base, RECIPE, tmp_path)
    samples = soundfile.read(clips[0].path, dtype="float32")[0]
    first, second = (Recognizer(folder, "fp32").logits(samples) for folder in (model, tmp_path))
    assert np.allclose(first, second, atol=1e-4)


def test_it_goes_on_from_a_model_and_says_when_it_cannot(base: str, clips: List[Clip], model: Path, tmp_path: Path) -> None:
    slow = replace(RECIPE, epochs=1, learning_rate=1e-7)
    described = train(clips, base, slow, tmp_path / "on", continue_from=model)
    samples = soundfile.read(clips[0].path, dtype="float32")[0]
    first, second = (Recognizer(folder, "fp32").logits(samples) for folder in (model, tmp_path / "on"))
    assert np.allclose(first, second, atol=0.05), "it began where the other ended"
    assert described["labels"] == Recognizer(model).labels
    more = [*clips, Clip(clips[0].path, "third", "x"), Clip(clips[1].path, "third", "y")]
    with pytest.raises(ModelError, match="Train without --finetune"):
        train(more, base, slow, tmp_path / "no", continue_from=model)
    assert not (tmp_path / "no" / "model.json").exists()


def test_a_lone_clip_is_a_warning(base: str, clips: List[Clip], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train([*clips[:8], Clip(clips[0].path, "lonely", "x")], base, replace(RECIPE, epochs=1), tmp_path)
    assert "single clip" in caplog.text
    assert "lonely" in caplog.text


def test_bad_clips_stop_it_before_it_begins(base: str, clips: List[Clip], tmp_path: Path) -> None:
    words = tmp_path / "words.wav"
    words.write_text("not audio")
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    with pytest.raises(
        DataError, match=r"(?s)2 clip\(s\) cannot be used.*words.wav \(intent low\).*silent.wav.*only silence"
    ) as error:
        train([*clips, Clip(words, "low", "words.wav"), Clip(silent, "high", "silent.wav")], base, RECIPE, tmp_path / "out")
    assert "nothing was trained" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_one_intent_is_not_enough(base: str, clips: List[Clip], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least two"):
        train(clips[::2], base, RECIPE, tmp_path)


def test_a_base_model_that_is_not_whisper(clips: List[Clip], tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="is a bert model; a Whisper one is needed"):
        train(clips, str(tmp_path / "bert"), RECIPE, tmp_path / "out")


def test_temperature_makes_confidence_honest() -> None:
    """Logits that are three times too sure of themselves are cooled by about three."""
    rng = np.random.default_rng(0)
    fair = rng.standard_normal((4000, 4)) * 1.5
    odds = np.exp(fair)
    truth = np.array([rng.choice(4, p=row / row.sum()) for row in odds])
    assert fit_temperature(fair * 3, truth) == pytest.approx(3, rel=0.15)
