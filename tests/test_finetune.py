"""Fine-tuning with a tiny random base model: what is written, what is refused, and that something is learnt."""

import json
import logging
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List

import matplotlib.image
import numpy as np
import pytest
import soundfile
import torch
from conftest import disk_that_takes
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import ConfigError, DataError, DivergedError, ModelError, TrainingError
from spoken_intents.recognizer import ENCODER, NON_SPEECH, Recognizer
from spoken_intents_training import finetune
from spoken_intents_training.batches import Examples
from spoken_intents_training.card import model_card, threshold_advice
from spoken_intents_training.dataset import Clip, noise_clips, read_all_samples, read_samples
from spoken_intents_training.finetune import freeze, train
from spoken_intents_training.fitting import begin_with_head, predict
from spoken_intents_training.heads import HEADS
from spoken_intents_training.modeling import load_base
from spoken_intents_training.nonspeech import non_speech_clips
from spoken_intents_training.recipe import load_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = load_recipe(
    "reference-short",
    epochs=6,
    batch_size=4,
    learning_rate=2e-3,
    pooling="statistics",
    warmup_share=0.1,
    max_grad_norm=1.0,
    non_speech_share=0.1,
    held_out_share=0.1,
)
QUICK = load_recipe("reference-short", epochs=1, batch_size=8, learning_rate=1e-3)


@pytest.fixture(scope="module")
def model(tiny_base: str, clips: List[Clip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    train(clips, tiny_base, RECIPE, out, tensorboard=out / "runs")
    return out


def logits(model: Path, clip: Clip) -> np.ndarray:
    return Recognizer(model, "fp32").logits(read_samples(clip))


def poisoned(base: str, copy: Path, **tensors: Any) -> str:
    """A copy of the base model with functions applied to some of its tensors, its position table among them."""
    shutil.copytree(base, copy)
    positions = load_base(base, ["a", "b"]).encoder.embed_positions.weight.detach()  # `save_base` leaves it out
    weights = {**load_file(copy / "model.safetensors"), "encoder.embed_positions.weight": positions}
    for ending, change in tensors.items():
        chosen = {name: tensor for name, tensor in weights.items() if name.endswith(ending.replace("__", "."))}
        changed = {name: change(tensor.clone()) for name, tensor in chosen.items()}
        assert chosen and not any(torch.equal(changed[name], tensor) for name, tensor in chosen.items())
        weights.update(changed)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return str(copy)


# ---------------------------------------------------------------- what a training gives


def test_it_learns_and_is_told_in_model_json(model: Path, clips: List[Clip]) -> None:
    described = json.loads((model / "model.json").read_text())
    assert described["metrics"]["held_out"] is True
    assert described["metrics"]["n"] == 2
    assert described["data"]["clips"] == {"high": 12, "low": 12}
    assert described["labels"] == ["high", "low", NON_SPEECH]
    recognizer = Recognizer(model)
    heard = [recognizer.classify(read_samples(clip)).intent for clip in clips]
    assert sum(intent == clip.intent for intent, clip in zip(heard, clips)) >= 20


def test_clips_of_calls_are_learnt_more_often(
    tiny_base: str, clips: List[Clip], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    called = [replace(clip, heard="high") if index < 2 else clip for index, clip in enumerate(clips)]
    described = train(called, tiny_base, replace(QUICK, calls_share=0.2), tmp_path / "model")
    assert described["data"]["of_calls_again"] == 2, "two of 22, and once more"
    assert len(described["log"]) == math.ceil(26 / QUICK.batch_size)
    assert len(set(described["data"]["learnt"])) == len(described["data"]["learnt"]) == 24
    assert "on 24 clips of 2 intents, those of reviewed calls several times; 0 clips" in " ".join(capsys.readouterr().out.split())


def test_the_log_tells_of_every_step(model: Path) -> None:
    log = json.loads((model / "model.json").read_text())["log"]
    examples = 22 + 12 - 2  # held out: two clips, two of the twelve noises
    steps = RECIPE.epochs * math.ceil(examples / RECIPE.batch_size)
    assert [entry["step"] for entry in log] == list(range(1, steps + 1))
    assert log[-1]["epoch"] == RECIPE.epochs
    assert all(math.isfinite(entry["loss"]) for entry in log)
    assert np.mean([entry["loss"] for entry in log[-5:]]) < np.mean([entry["loss"] for entry in log[:5]])
    rates = [entry["learning_rate"] for entry in log]
    warm = round(steps * RECIPE.warmup_share)
    assert rates[0] == 0 and max(rates) == rates[warm] == pytest.approx(RECIPE.learning_rate)
    assert rates[warm:] == sorted(rates[warm:], reverse=True) and rates[-1] < 0.01 * RECIPE.learning_rate


def test_tensorboard_gets_the_loss(model: Path) -> None:
    (events,) = (model / "runs").glob("events.out.tfevents.*")
    told = EventAccumulator(str(events)).Reload().Scalars("train/loss")
    log = json.loads((model / "model.json").read_text())["log"]
    assert [event.step for event in told] == [entry["step"] for entry in log]
    assert [event.value for event in told] == pytest.approx([entry["loss"] for entry in log], rel=1e-4)


def test_the_same_seed_gives_the_same_model(tiny_base: str, clips: List[Clip], tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1, held_out_share=0.0, non_speech_share=0.0, pooling="mean")
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        train(clips[:12], tiny_base, replace(recipe, seed=seed), tmp_path / name)
    first, second, other = (logits(tmp_path / name, clips[0]) for name in ("first", "second", "other"))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 1e-4


@pytest.mark.parametrize(("has", "precision", "rounded"), [(True, "auto", True), (True, "fp32", False), (False, "auto", False)])
def test_bf16_is_used_where_the_machine_has_it_and_the_recipe_leaves_it_open(
    has: bool, precision: str, rounded: bool, tiny_base: str, clips: List[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spoken_intents_training.loop.has_bf16", lambda device: has)
    seen: List[torch.dtype] = []
    forward = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda layer, given: seen.append((out := forward(layer, given)).dtype) or out)
    described = train(clips[:8], tiny_base, replace(QUICK, precision=precision), tmp_path)
    assert (torch.bfloat16 in seen) == rounded
    assert set(seen[-20:]) == {torch.float32}  # what is measured and exported is fp32, always
    assert all(math.isfinite(entry["loss"]) for entry in described["log"])


def test_few_clips_are_passed_over_until_there_are_enough_steps(tiny_base: str, clips: List[Clip], tmp_path: Path) -> None:
    described = train(clips[:8], tiny_base, replace(QUICK, batch_size=3, min_steps=7), tmp_path)
    assert (described["log"][-1]["step"], described["log"][-1]["epoch"]) == (9, 3)  # three steps an epoch


def test_frozen_layers_stay_as_they_are_and_the_rest_does_not(tiny_base: str, clips: List[Clip], tmp_path: Path) -> None:
    train(clips[:8], tiny_base, replace(QUICK, frozen_layers=1), tmp_path)
    before, after = (load_base(tiny_base, ["high", "low"]).state_dict(), load_file(tmp_path / ENCODER))
    changed = {name for name in before if not torch.equal(before[name].half(), after[name]) and name.startswith("encoder.")}
    assert changed == {"encoder.layer_norm.weight", "encoder.layer_norm.bias"}


def test_without_frozen_layers_all_but_the_positions_is_learnt(tiny_base: str) -> None:
    for layers, kept in ((0, {"embed_positions"}), (1, {"embed_positions", "conv1", "conv2", "layers"})):
        loaded = load_base(tiny_base, ["high", "low"])
        freeze(loaded, layers)
        assert {name.split(".")[0] for name, p in loaded.encoder.named_parameters() if not p.requires_grad} == kept
        assert all(parameter.requires_grad for parameter in loaded.classifier.parameters())


def test_more_frozen_layers_than_there_are_is_refused(tiny_base: str, clips: List[Clip], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frozen_layers takes 0 to 1, the layers of this base model, got 2"):
        train(clips[:8], tiny_base, replace(QUICK, frozen_layers=2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_lone_clip_is_a_warning(tiny_base: str, clips: List[Clip], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train([*clips[:8], Clip(clips[0].path, "lonely", "x")], tiny_base, QUICK, tmp_path)
    assert "single clip" in caplog.text
    assert "lonely" in caplog.text


def test_recorded_noises_are_learnt_as_no_speech(tiny_base: str, model: Path, clips: List[Clip], tmp_path: Path) -> None:
    """Sounds that another model takes for an intent."""
    high, low = ([clip for clip in clips if clip.intent == intent] for intent in ("high", "low"))
    folder = tmp_path / "audio" / "line" / NON_SPEECH
    folder.mkdir(parents=True)
    for clip in high[2:]:
        shutil.copy(clip.path, folder)
    (folder / "notes.txt").touch()
    noises = noise_clips([str(tmp_path / "audio"), str(tmp_path / "nowhere")])
    assert len(noises) == 10
    spoken = [replace(clip, intent=("one", "other")[number % 2]) for number, clip in enumerate(low)]
    described = train(spoken * 2, tiny_base, RECIPE, tmp_path / "out", noises=noises)
    assert described["metrics"]["noises"] == 3, "one of them held out, and two of those made up"
    for directory, is_speech in ((model, True), (tmp_path / "out", False)):
        recognizer = Recognizer(directory)
        assert [recognizer.classify(read_samples(clip)).is_speech for clip in high[:2]] == [is_speech] * 2
        assert all(recognizer.classify(read_samples(clip)).is_speech for clip in low)


# ---------------------------------------------------------------- the reference recipe


def test_the_reference_recipe_trains_the_stock_class_on_padded_clips(tiny_base: str, clips: List[Clip], tmp_path: Path) -> None:
    described = train(clips[:3], tiny_base, load_recipe("reference"), tmp_path)
    assert described["labels"] == ["high", "low"], "no noises were made up"
    assert described["log"][-1]["step"] == 9  # three clips, three epochs, one clip a step
    assert described["front_end"]["padded"] is True
    assert described["metrics"]["held_out"] is False and described["metrics"]["n"] == 3
    assert described["temperature"] == 1.0
    assert described["parity"]["fp32_max_difference"] < 1e-3
    recognizer = Recognizer(tmp_path, "fp32")
    for clip in clips[:3]:
        recognition = recognizer.classify(read_samples(clip))
        assert sorted(name for name, _ in recognition.ranking) == ["high", "low"]
        assert recognition.is_speech and recognition.non_speech == 0.0


# ---------------------------------------------------------------- the classifier it begins with


@pytest.mark.parametrize("pooling", ["auto", *HEADS])
@pytest.mark.parametrize(
    ("intents", "noises"), [(["high", "low"], 0), (["high", "low"], 12), (["high", "low", "none of these"], 0)]
)
def test_the_fitted_classifier_tells_apart_before_anything_is_trained(
    tiny_base: str, clips: List[Clip], intents: List[str], noises: int, pooling: str
) -> None:
    labels = [*intents, NON_SPEECH] if noises else intents
    loaded: Any = load_base(tiny_base, labels)
    samples = [*read_all_samples(clips), *non_speech_clips(noises, 0)]
    targets = [labels.index(clip.intent) for clip in clips] + [len(labels) - 1] * noises
    data = Examples(samples, targets, ["x"] * len(samples), RECIPE, 80)
    before = {name: weight.clone() for name, weight in loaded.encoder.state_dict().items()}
    begin_with_head(loaded, data, replace(RECIPE, pooling=pooling), None)
    assert loaded.config.pooling == pooling or pooling == "auto"
    heard = predict(loaded, data, range(len(data)))
    assert heard.shape == (len(samples), len(labels)) and np.isfinite(heard).all()
    assert (heard.argmax(axis=1) == targets).mean() > 0.9
    assert all(torch.equal(weight, before[name]) for name, weight in loaded.encoder.state_dict().items())


# ---------------------------------------------------------------- going on from a model


def test_it_goes_on_from_a_model_and_says_when_it_cannot(tiny_base: str, clips: List[Clip], model: Path, tmp_path: Path) -> None:
    slow = replace(RECIPE, epochs=1, learning_rate=1e-7)
    described = train(clips, tiny_base, slow, tmp_path / "on", continue_from=model)
    first, second = (logits(folder, clips[0]) for folder in (model, tmp_path / "on"))
    assert np.allclose(first, second, atol=0.05), "it began where the other ended"
    assert described["labels"] == Recognizer(model).labels
    more = [*clips, Clip(clips[0].path, "third", "x"), Clip(clips[1].path, "third", "y")]
    with pytest.raises(ModelError, match=r"the intents changed \(new: third\)\. Train without --finetune"):
        train(more, tiny_base, slow, tmp_path / "no", continue_from=model)
    with pytest.raises(ModelError, match="its pooling is statistics, the recipe's mean"):
        train(clips, tiny_base, replace(slow, pooling="mean"), tmp_path / "no", continue_from=model)
    with pytest.raises(ModelError, match="it was made from base_model"):
        train(clips, "whisper-mini", slow, tmp_path / "no", continue_from=model)
    assert not (tmp_path / "no" / "model.json").exists()


def test_it_goes_on_with_the_head_that_the_model_has(tiny_base: str, clips: List[Clip], tmp_path: Path) -> None:
    short, slow = replace(RECIPE, epochs=1), replace(RECIPE, epochs=1, learning_rate=1e-7, pooling="auto")
    train(clips, tiny_base, replace(short, pooling="attention"), tmp_path / "attention")
    described = train(clips, tiny_base, slow, tmp_path / "on", continue_from=tmp_path / "attention")
    assert described["pooling"] == "attention" and "| pooling | attention |" in (tmp_path / "on" / "README.md").read_text()
    first, second = (logits(tmp_path / name, clips[0]) for name in ("attention", "on"))
    assert np.allclose(first, second, atol=0.05), "it began where the other ended"
    train(clips, tiny_base, replace(short, pooling="mean"), tmp_path / "mean")
    with pytest.raises(ModelError, match="its pooling is mean, the recipe's auto"):
        train(clips, tiny_base, slow, tmp_path / "no", continue_from=tmp_path / "mean")


def test_the_head_is_chosen_beside_an_intent_of_a_single_clip(tiny_base: str, clips: List[Clip], tmp_path: Path) -> None:
    lone = [clip for clip in clips if clip.intent == clips[0].intent] + [Clip(clips[1].path, "lone", "alone.wav")]
    described = train(lone, tiny_base, replace(RECIPE, epochs=1, pooling="auto", held_out_share=0.0), tmp_path)
    assert described["pooling"] == "statistics"


# ---------------------------------------------------------------- what is refused


def test_bad_clips_stop_it_before_it_begins(tiny_base: str, clips: List[Clip], tmp_path: Path) -> None:
    words = tmp_path / "words.wav"
    words.write_text("not audio")
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    with pytest.raises(
        DataError, match=r"(?s)2 clip\(s\) cannot be used.*words.wav \(intent low\).*silent.wav.*only silence"
    ) as error:
        train([*clips, Clip(words, "low", "words.wav"), Clip(silent, "high", "silent.wav")], tiny_base, RECIPE, tmp_path / "out")
    assert "nothing was trained" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_one_intent_is_not_enough(tiny_base: str, clips: List[Clip], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least two"):
        train(clips[::2], tiny_base, RECIPE, tmp_path)


def test_a_base_model_that_is_not_whisper(clips: List[Clip], tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="is a bert model; a Whisper one is needed"):
        train(clips, str(tmp_path / "bert"), RECIPE, tmp_path / "out")


# ---------------------------------------------------------------- what goes wrong


def test_a_loss_that_is_no_number_stops_it_and_names_step_and_clips(tiny_base: str, clips: List[Clip], tmp_path: Path) -> None:
    base = poisoned(tiny_base, tmp_path / "base", layer_norm__weight=lambda tensor: tensor * torch.nan)
    words = (
        r"The loss became nan at step 1, on (low|high)\d+\.wav, (low|high)\d+\.wav\. Nothing was written\. A lower learning_rate"
    )
    with pytest.raises(TrainingError, match=words):
        train(clips, base, replace(QUICK, batch_size=2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pooling", ["auto", "statistics"])
def test_a_base_model_with_broken_weights_stops_it_before_a_head_is_fitted(
    pooling: str, tiny_base: str, clips: List[Clip], tmp_path: Path
) -> None:
    base = poisoned(tiny_base, tmp_path / "base", layer_norm__weight=lambda tensor: tensor * torch.nan)
    words = r"The base model answers with what is no number, on 36 of 36 clips such as (low|high)\d+\.wav"
    with pytest.raises(DivergedError, match=words):
        train(clips, base, replace(RECIPE, pooling=pooling, held_out_share=0.0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_batch_that_cannot_be_shared_out_is_refused(
    tiny_base: str, clips: List[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(TrainingError, match="batch_size: 8 cannot be shared out among 3 processes"):
        train(clips, tiny_base, QUICK, tmp_path)


@pytest.fixture
def deaf_to_what_is_long(tiny_base: str, tmp_path: Path) -> str:
    """A base model that answers clips of more than 2 s with what is no number."""

    def unknown_beyond_2_s(positions: torch.Tensor) -> torch.Tensor:
        positions[100:] = torch.nan
        return positions

    return poisoned(tiny_base, tmp_path / "deaf", embed_positions__weight=unknown_beyond_2_s)


@pytest.fixture
def long_clip(tmp_path: Path) -> Clip:
    soundfile.write(tmp_path / "long.wav", 0.1 * np.sin(np.arange(3 * SAMPLE_RATE) / 20), SAMPLE_RATE)
    return Clip(tmp_path / "long.wav", "low", "long.wav", "bob")


def test_the_clip_that_broke_the_loss_is_named(
    deaf_to_what_is_long: str, clips: List[Clip], long_clip: Clip, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"The loss became nan at step ([2-9]|1\d), on long\.wav\. Nothing was written"):
        train([*clips[:12], long_clip], deaf_to_what_is_long, replace(QUICK, batch_size=1, seed=1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_answers_with_no_number_is_not_written(
    deaf_to_what_is_long: str, clips: List[Clip], long_clip: Clip, tmp_path: Path
) -> None:
    ann = [replace(clip, speaker="ann") for clip in clips]
    bob = [*(replace(clip, speaker="bob") for clip in clips[:4]), long_clip]  # few enough to be the one who is held out
    with pytest.raises(TrainingError, match=r"answers with what is no number\. Nothing was written\. Lower the learning_rate"):
        train([*ann, *bob], deaf_to_what_is_long, replace(QUICK, held_out_share=0.1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_at_the_end_leaves_the_earlier_model(tiny_base: str, clips: List[Clip], model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    before: Dict[Path, bytes] = {file: file.read_bytes() for file in (tmp_path / "model").rglob("*") if file.is_file()}
    with disk_that_takes(500_000), pytest.raises(TrainingError, match=r"could not be written to .*Nothing there was changed"):
        train(clips[:8], tiny_base, QUICK, tmp_path / "model")
    assert {file: file.read_bytes() for file in (tmp_path / "model").rglob("*") if file.is_file()} == before
    assert Recognizer(tmp_path / "model").labels == ["high", "low", NON_SPEECH]


def test_a_model_that_cannot_be_exported_is_told_and_its_training_is_not_lost(
    tiny_base: str, clips: List[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def unsupported(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("ONNX has no such operator\nand much more")

    words = r"could not be exported to ONNX \(ONNX has no such operator\)\. Nothing in .*checkpoints stay, and --resume tries the"
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match=words):
        patch.setattr(torch.onnx, "export", unsupported)
        train(clips[:8], tiny_base, QUICK, tmp_path / "out", checkpoints=tmp_path / "out/checkpoints")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoints"]
    train(clips[:8], tiny_base, QUICK, tmp_path / "out", checkpoints=tmp_path / "out/checkpoints")
    assert "Going on from step 1." in capsys.readouterr().out
    assert Recognizer(tmp_path / "out").labels == ["high", "low"]


def test_a_card_that_does_not_fit_on_the_disk_leaves_nothing(tiny_base: str, clips: List[Clip], tmp_path: Path) -> None:
    def no_space(described: Dict[str, Any]) -> Dict[str, bytes]:
        raise OSError("No space left on device")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingError, match="could not be written to .*No space left"):
        patch.setattr(finetune, "explain", no_space)
        train(clips[:8], tiny_base, QUICK, tmp_path)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- what people are told


def test_the_threshold_is_told_at_the_end_and_in_the_card(
    tiny_base: str, clips: List[Clip], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    described = train(clips, tiny_base, RECIPE, tmp_path)
    advice = f"Suggested threshold for FallbackClassifier: {described['suggested_threshold']:.2f}."
    assert capsys.readouterr().out.splitlines()[-1] == advice
    assert f"\n{advice}\n" in (tmp_path / "README.md").read_text()


def test_whom_was_held_out_is_told_with_how_many_clips_name_no_speaker(
    tiny_base: str, clips: List[Clip], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    named = [replace(clip, speaker=f"speaker {i // 2}" if i > 2 else "") for i, clip in enumerate(clips)]
    described = train(named, tiny_base, replace(QUICK, held_out_share=0.1), tmp_path)
    data = described["data"]
    assert (data["held_out_by"], data["without_speaker"], data["held_out"]) == ("speaker", 3, described["metrics"]["n"])
    told = f"{data['held_out']} clips, of other speakers (clips that name none, each counted as another one: 3)"
    assert f"| held out | {told} |" in (tmp_path / "README.md").read_text()
    assert f"; {told.replace('clips,', 'clips held out,', 1)}." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("share", "why"), [(0.0, "held_out_share is 0"), (0.1, "there are fewer than 10 of an intent on average")]
)
def test_a_confidence_that_is_not_calibrated_is_told_with_the_reason(
    share: float, why: str, tiny_base: str, clips: List[Clip], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    described = train(clips[:8], tiny_base, replace(QUICK, held_out_share=share), tmp_path)
    assert described["suggested_threshold"] is None and described["temperature"] == 1.0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("The confidence is not calibrated") and told.endswith(f"no clip was held out, as {why}.")
    assert told in (tmp_path / "README.md").read_text()


def test_no_threshold_is_suggested_where_nothing_was_heard_right(model: Path) -> None:
    described = {**json.loads((model / "model.json").read_text()), "suggested_threshold": None}
    advice = "No threshold for FallbackClassifier is suggested: no held-out clip was heard right."
    assert threshold_advice(described) == advice and advice in model_card(described)


def test_the_card_names_the_base_model_and_shows_the_training(model: Path, tiny_base: str) -> None:
    described = json.loads((model / "model.json").read_text())
    card = (model / "README.md").read_text()
    assert "| held out | 2 clips, at random |" in card
    assert f"| base model | {Path(tiny_base).name} |" in card and tiny_base not in card
    assert "| base model | openai/whisper-base.en |" in model_card({**described, "base_model": "openai/whisper-base.en"})
    (shown,) = re.findall(r"!\[.+\]\((.+)\)", card)
    picture = matplotlib.image.imread(model / shown)
    assert picture.shape[0] > 300 and picture.std() > 0.02
