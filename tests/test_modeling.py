"""The short-context encoder against Hugging Face's own, its export against torch, and the recognizer that serves it.

The weights are random: everything here must hold for any.
"""

import gc
import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import onnx
import pytest
import torch
from conftest import disk_that_takes
from safetensors.torch import save_file
from transformers import WhisperConfig, WhisperForAudioClassification, WhisperForConditionalGeneration, WhisperModel

from spoken_intents import recognizer as recognizers
from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import AudioError, ModelError, TrainingError
from spoken_intents.features import MAX_FRAMES, log_mel
from spoken_intents.recognizer import (
    ENCODER,
    FP32,
    FP32_DATA,
    INT8,
    MODEL_JSON,
    NON_SPEECH,
    Recognition,
    Recognizer,
    read_model_json,
    softmax,
)
from spoken_intents.seal import sealed
from spoken_intents_training import export as export_module
from spoken_intents_training.export import EXPORTING, export, export_onnx, load_weights, measure_parity
from spoken_intents_training.heads import HEADS, AttentionHead
from spoken_intents_training.modeling import ShortContextClassifier, encode, load_base, pad_batch
from spoken_intents_training.sources import BASE_MODELS

LABELS = ["affirm", "balance", "deny", NON_SPEECH, "freeze"]
FRAMES = [2, 3, 9, 50, 51, 77, 128, 200, 333]
TEMPERATURE = 0.7


def small_config(**changes: Any) -> WhisperConfig:
    settings: Dict[str, Any] = {
        "vocab_size": 64,
        "d_model": 64,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 64,
        "num_mel_bins": 80,
        "classifier_proj_size": 32,
        "num_labels": len(LABELS),
        "init_std": 0.2,  # so that logits differ enough for a mistake to show
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    return WhisperConfig(**{**settings, **changes})


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Tiny models gain nothing from more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> ShortContextClassifier:
    torch.manual_seed(0)
    return ShortContextClassifier(small_config()).eval()


def spectrograms(frames: List[int], seed: int = 0) -> List[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0.0, 0.5, (80, count)).astype(np.float32) for count in frames]


def labelled(pictures: List[np.ndarray]) -> List[Tuple[np.ndarray, int]]:
    """For `export`; whether the label is right does not matter."""
    return [(picture, 0) for picture in pictures]


def alone(model: ShortContextClassifier, spectrogram: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(spectrogram[None])).logits.numpy()[0]


# ---------------------------------------------------------------- the short context


def test_a_batch_of_mixed_lengths_equals_one_by_one(model: ShortContextClassifier) -> None:
    lengths, compared = np.random.default_rng(0).permutation(FRAMES).tolist(), 0
    mixed = spectrograms(lengths)
    with torch.inference_mode():
        together = model(*pad_batch(mixed)).logits.numpy()
    for row, spectrogram in zip(together, mixed):
        np.testing.assert_allclose(row, alone(model, spectrogram), atol=1e-4)
        compared += 1
    assert compared == len(FRAMES)
    assert np.ptp(together, axis=0).min() > 0.01  # clips are told apart, so the comparison says something


def test_what_pads_a_batch_does_not_matter(model: ShortContextClassifier) -> None:
    features, frames = pad_batch(spectrograms([31, 90]))
    garbage = features.clone()
    garbage[0, :, 31:] = 1000.0
    with torch.inference_mode():
        np.testing.assert_allclose(model(garbage, frames).logits.numpy(), model(features, frames).logits.numpy(), atol=1e-6)


def test_hidden_states_are_masked_where_there_is_padding(model: ShortContextClassifier) -> None:
    features, frames = pad_batch(spectrograms([31, 90]))
    with torch.inference_mode():
        hidden, mask = encode(model.encoder, features, frames)
        first, none = encode(model.encoder, features[:1, :, :31])
    assert mask is not None and mask.sum(dim=1).tolist() == [16, 45] and none is None
    assert hidden.shape == (2, 45, 64)
    np.testing.assert_allclose(hidden[0, :16].numpy(), first[0].numpy(), atol=1e-4)


def test_thirty_seconds_equal_hugging_faces_own(model: ShortContextClassifier) -> None:
    stock = WhisperForAudioClassification(model.config).eval()
    stock.load_state_dict(model.state_dict())
    windows = torch.from_numpy(np.stack(spectrograms([MAX_FRAMES] * 2, seed=1)))
    with torch.inference_mode():
        wanted, got = stock(windows).logits.numpy(), model(windows).logits.numpy()
        masked = model(windows, torch.tensor([MAX_FRAMES] * 2)).logits.numpy()
    assert wanted.shape == (2, len(LABELS)) and np.ptp(wanted) > 0.1
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    np.testing.assert_allclose(masked, wanted, atol=1e-4)


def test_a_batch_holds_every_frame_and_zeros_behind() -> None:
    mixed = spectrograms([3, 8, 5])
    features, frames = pad_batch(mixed)
    assert features.shape == (3, 80, 8) and features.dtype == torch.float32 and frames.tolist() == [3, 8, 5]
    for row, spectrogram in zip(features.numpy(), mixed):
        np.testing.assert_array_equal(row[:, : spectrogram.shape[1]], spectrogram)
        assert not row[:, spectrogram.shape[1] :].any()


# ---------------------------------------------------------------- base models


def test_a_base_model_gets_a_new_head_for_its_labels(tmp_path: Path, model: ShortContextClassifier) -> None:
    model.save_pretrained(tmp_path)
    loaded = load_base(str(tmp_path), ["a", "b", NON_SPEECH])
    assert loaded.config.id2label == {0: "a", 1: "b", 2: NON_SPEECH}
    assert loaded.classifier.weight.shape[0] == 3
    assert loaded.dtype == torch.float32
    assert not loaded.encoder.embed_positions.weight.requires_grad
    assert loaded.encoder.conv1.weight.requires_grad
    for name, weight in model.encoder.state_dict().items():
        assert torch.equal(loaded.encoder.state_dict()[name], weight), name


def checkpoint_of(kind: str, folder: Path) -> Dict[str, torch.Tensor]:
    """Saves a checkpoint as one finds it on the hub; returns its encoder's weights."""
    torch.manual_seed(3)
    if kind == "with a decoder":
        whole = WhisperForConditionalGeneration(small_config(vocab_size=211))
        encoder = whole.model.encoder
    elif kind == "with a decoder, for 128 mels":
        whole = WhisperForConditionalGeneration(small_config(vocab_size=212, num_mel_bins=128))
        encoder = whole.model.encoder
    elif kind == "without the language model's head":
        whole = WhisperModel(small_config())
        encoder = whole.encoder
    elif kind == "somebody's classifier":
        names = ["yes", "no", "up", "down", "left", "right", "on"]
        whole = WhisperForAudioClassification(small_config(num_labels=7, id2label=dict(enumerate(names))))
        encoder = whole.encoder
    elif kind == "somebody's classifier of as many labels":
        whole = WhisperForAudioClassification(small_config())
        encoder = whole.encoder
    else:
        assert kind == "in 16-bit floats"
        whole = WhisperForConditionalGeneration(small_config()).half()
        encoder = whole.model.encoder
    whole.save_pretrained(folder)
    return {name: weight.float() for name, weight in encoder.state_dict().items()}


@pytest.mark.parametrize("context", ["short", "padded"])
@pytest.mark.parametrize(
    "kind",
    [
        "with a decoder",
        "with a decoder, for 128 mels",
        "without the language model's head",
        "somebody's classifier",
        "somebody's classifier of as many labels",
        "in 16-bit floats",
    ],
)
def test_any_whispers_encoder_is_taken_as_it_is(tmp_path: Path, kind: str, context: str) -> None:
    wanted = checkpoint_of(kind, tmp_path)
    loaded = load_base(str(tmp_path), LABELS, context=context)
    assert isinstance(loaded, ShortContextClassifier) == (context == "short")
    assert loaded.dtype == torch.float32
    assert loaded.config.id2label == dict(enumerate(LABELS)) and loaded.classifier.weight.shape[0] == len(LABELS)
    compared = 0
    for name, weight in loaded.encoder.state_dict().items():
        assert torch.equal(weight, wanted[name]), name
        compared += 1
    assert compared == len(wanted) > 30


@pytest.mark.parametrize("context", ["short", "padded"])
@pytest.mark.parametrize("kind", ["somebody's classifier", "somebody's classifier of as many labels", "one of ours"])
def test_a_head_is_the_seeds_whatever_the_base_model_came_with(tmp_path: Path, kind: str, context: str) -> None:
    checkpoint_of("with a decoder", tmp_path / "headless")
    if kind == "one of ours":
        theirs: Any = ShortContextClassifier(small_config())
        theirs.put_head(AttentionHead(64, len(LABELS)))
        theirs.save_pretrained(tmp_path / "headed")
    else:
        checkpoint_of(kind, tmp_path / "headed")
        theirs = WhisperForAudioClassification.from_pretrained(tmp_path / "headed")
    heads = []
    for base, seed in (("headless", 5), ("headed", 5), ("headed", 6)):
        torch.manual_seed(seed)
        loaded = load_base(str(tmp_path / base), LABELS, context)
        heads.append({name: tensor for name, tensor in loaded.state_dict().items() if not name.startswith("encoder.")})
    drawn, same, other = heads
    assert all(torch.equal(tensor, same[name]) for name, tensor in drawn.items()) and drawn.keys() == same.keys()
    for name in {"classifier.weight", "projector.weight"} & drawn.keys():
        assert not torch.equal(same[name], other[name]) and float(same[name].std()) == pytest.approx(0.2, rel=0.2)
        assert name not in theirs.state_dict() or not torch.equal(same[name], theirs.state_dict()[name])
    assert not same["classifier.bias"].any()
    assert drawn.keys() == {"classifier.weight", "classifier.bias", "projector.weight", "projector.bias"}


@pytest.mark.parametrize("pooling", ["mean", *HEADS])
@pytest.mark.parametrize("kind", ["with a decoder, for 128 mels", "somebody's classifier"])
def test_any_whisper_gives_an_artefact(tmp_path: Path, kind: str, pooling: str) -> None:
    checkpoint_of(kind, tmp_path / "base")
    loaded: Any = load_base(str(tmp_path / "base"), LABELS).eval()
    if pooling in HEADS:
        loaded.put_head(HEADS[pooling](64, len(LABELS)))
    n_mels = loaded.config.num_mel_bins
    samples = samples_of(1.0, 0)
    export(loaded, tmp_path / "out", {"labels": LABELS, "temperature": 1.0}, [(log_mel(samples, n_mels), 0)])
    recognizer = Recognizer(tmp_path / "out", "fp32")
    assert recognizer.front_end.n_mels == n_mels == (128 if "128" in kind else 80)
    np.testing.assert_allclose(recognizer.logits(samples), alone(loaded, log_mel(samples, n_mels)), atol=1e-3)


def test_weights_that_a_graph_cannot_hold_lie_beside_it(
    tmp_path: Path, model: ShortContextClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    described, samples = {"labels": LABELS, "temperature": 1.0}, samples_of(1.0, 0)
    export(model, tmp_path, described, [(log_mel(samples), 0)])
    wanted = {precision: Recognizer(tmp_path, precision).logits(samples) for precision in ("fp32", "int8")}
    names = {file.name for file in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(export_module, "PROTOBUF_BYTES", 1000)
        export(model, tmp_path, described, [(log_mel(samples), 0)])
    assert {file.name for file in tmp_path.iterdir()} - names == {"model.fp32.onnx.data"}
    for precision, logits in wanted.items():
        np.testing.assert_allclose(Recognizer(tmp_path, precision).logits(samples), logits, atol=0.02)
    export(model, tmp_path, described, [(log_mel(samples), 0)])
    assert {file.name for file in tmp_path.iterdir()} == names


@pytest.mark.parametrize("most_bytes_in_a_graph", [export_module.PROTOBUF_BYTES, 1000])
@pytest.mark.parametrize("context", ["short", "padded"])
def test_no_product_of_the_encoder_keeps_fp32_weights_in_int8(
    context: str, most_bytes_in_a_graph: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Any = ShortContextClassifier if context == "short" else WhisperForAudioClassification
    monkeypatch.setattr(export_module, "PROTOBUF_BYTES", most_bytes_in_a_graph)
    export_onnx(made(small_config()).eval(), tmp_path)
    graph = onnx.load(tmp_path / INT8).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    products = [weights.get(node.input[1]) for node in graph.node if node.op_type in ("MatMul", "MatMulInteger", "Conv")]
    quantized = [weights[node.input[1]] for node in graph.node if node.op_type == "MatMulInteger"]
    # What is left multiplies two activations (attention's scores and their values), or is a convolution.
    left = [shape for shape in products if shape is not None and shape not in quantized]
    assert left == ([(64, 80, 3)] if context == "short" else [(64, 80, 3), (64, 64, 3)])
    assert quantized.count((3 * 64, 64)) == (1 if context == "short" else 0)  # the second convolution
    assert quantized.count((64, 128)) == quantized.count((128, 64)) == 2  # each layer's


@pytest.mark.parametrize("most_bytes_in_a_graph", [export_module.PROTOBUF_BYTES, 1000])
def test_nothing_goes_to_the_systems_temporary_directory(
    most_bytes_in_a_graph: int, tmp_path: Path, model: ShortContextClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "PROTOBUF_BYTES", most_bytes_in_a_graph)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "there is none"))
    export(model, tmp_path / "out", {"labels": LABELS, "temperature": 1.0}, labelled(spectrograms([50])))
    assert len(Recognizer(tmp_path / "out", "int8").logits(samples_of(1.0, 0))) == len(LABELS)
    assert tempfile.tempdir == str(tmp_path / "there is none")


@pytest.mark.parametrize("bytes_kept", [0, 100, 5_000])
def test_weights_that_are_cut_off_are_refused(tmp_path: Path, model: ShortContextClassifier, bytes_kept: int) -> None:
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:bytes_kept])
    with pytest.raises(ModelError, match=r"cannot be loaded: "):
        load_base(str(tmp_path), LABELS)


def test_weights_without_an_encoder_are_refused(tmp_path: Path, model: ShortContextClassifier) -> None:
    model.save_pretrained(tmp_path)
    save_file({"something": torch.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"cannot be loaded: "):
        load_base(str(tmp_path), LABELS)


def test_an_encoder_of_other_sizes_than_its_configuration_says_is_refused(tmp_path: Path, model: ShortContextClassifier) -> None:
    model.save_pretrained(tmp_path)
    small_config(d_model=32).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"cannot be loaded: "):
        load_base(str(tmp_path), LABELS)


def test_the_bundled_base_model_loads_by_name() -> None:
    assert load_base("whisper-mini", LABELS).classifier.weight.shape[0] == len(LABELS)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"cannot be loaded: .*Name a directory with config\.json.*or a bundled one: whisper-mini"
    ):
        load_base(str(tmp_path), LABELS)


@pytest.fixture
def unreachable_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return constants


def test_an_unreachable_hub_is_asked_once_and_without_a_warning(
    unreachable_hub: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    words = (
        r"'openai/whisper-base\.en' cannot be loaded: it is not on this machine, and the hub does not give it \(.+\)\. To use a "
        r"local copy, run `hf download openai/whisper-base\.en --local-dir whisper-base\.en` "
        r"where .* name it as the base model\. Bundled: whisper-mini\."
    )
    began = time.monotonic()
    with pytest.raises(ModelError, match=words):
        load_base("openai/whisper-base.en", LABELS)
    assert time.monotonic() - began < 5
    assert not caplog.records and not capfd.readouterr().err


def test_an_earlier_download_is_used_where_the_hub_cannot_be_reached(
    unreachable_hub: Any, model: ShortContextClassifier, tmp_path: Path
) -> None:
    repository = tmp_path / "cache" / "models--somebody--whisper"
    model.save_pretrained(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    loaded = load_base("somebody/whisper", LABELS)
    assert torch.equal(loaded.encoder.conv1.weight, model.encoder.conv1.weight)
    (repository / "snapshots/abc/model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="'somebody/whisper' cannot be loaded: (?!it is not on this machine)"):
        load_base("somebody/whisper", LABELS)


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "../nowhere", "/nowhere", "~/nowhere", "no/such/model", "nowhere/"])
def test_what_is_no_name_of_the_hub_is_refused_without_asking_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", None)
    with pytest.raises(ModelError, match=r"cannot be loaded: no such directory or bundled model\. .*one: whisper-mini"):
        load_base(name, LABELS)


def test_a_configuration_without_weights_is_refused(tmp_path: Path) -> None:
    small_config().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"cannot be loaded: "):
        load_base(str(tmp_path), LABELS)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError):
        load_base(str(tmp_path), LABELS)


class Executed:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_weights_that_are_pickled_are_not_opened(tmp_path: Path, name: str) -> None:
    small_config().save_pretrained(tmp_path)
    torch.save({"encoder.conv1.weight": Executed(tmp_path / "executed")}, tmp_path / name)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(str(tmp_path), LABELS)
    assert not (tmp_path / "executed").exists()
    torch.load(tmp_path / name, weights_only=False)
    assert (tmp_path / "executed").exists(), "or the file would prove nothing"


# ---------------------------------------------------------------- the artefact


@pytest.fixture(scope="module")
def artefact(model: ShortContextClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model."""
    out = tmp_path_factory.mktemp("model") / "made" / "on demand"
    export(model, out, {"labels": LABELS, "temperature": TEMPERATURE, "base_model": "small"}, labelled(spectrograms(FRAMES)))
    return out


def test_the_artefact_is_complete_and_describes_itself(artefact: Path) -> None:
    assert {file.name for file in artefact.iterdir()} == {MODEL_JSON, INT8, FP32, ENCODER}
    described = read_model_json(artefact)
    assert described["labels"] == LABELS and described["base_model"] == "small"
    assert described["front_end"] == {"n_mels": 80, "sample_rate": 16_000, "n_fft": 400, "hop_samples": 160, "padded": False}
    assert described["parity"]["n"] == len(FRAMES)
    assert 0 <= described["parity"]["fp32_max_difference"] < 1e-3
    assert described["parity"]["int8_same_first_label"] >= len(FRAMES) - 1
    assert (artefact / INT8).stat().st_size < (artefact / FP32).stat().st_size


def samples_of(seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * rng.uniform(100, 3000) * time) * np.sin(2 * np.pi * rng.uniform(0.5, 5) * time)
    return (0.3 * tone + 0.02 * rng.standard_normal(len(time))).astype(np.float32)


SECONDS = [0.02, 0.021, 0.3, 0.995, 1.0, 2.345, 5.0, 12.0, 29.98]


def test_the_recognizer_equals_torch(artefact: Path, model: ShortContextClassifier) -> None:
    recognizer, compared, seen = Recognizer(artefact, "fp32"), 0, []
    for seed, seconds in enumerate(SECONDS):
        samples = samples_of(seconds, seed)
        wanted = alone(model, log_mel(samples))
        np.testing.assert_allclose(recognizer.logits(samples), wanted, atol=1e-3)
        compared += 1
        seen.append(wanted)
    assert compared == len(SECONDS) and np.ptp(np.array(seen), axis=0).max() > 0.05


needs_exact_int8 = pytest.mark.skipif(
    not recognizers.adds_int8_exactly(), reason="this processor saturates when it adds up int8 products (no VNNI): fp32 serves"
)


@needs_exact_int8
def test_int8_is_close_to_fp32(artefact: Path) -> None:
    precise, fast = Recognizer(artefact, "fp32"), Recognizer(artefact, "int8")
    far = [np.abs(precise.logits(samples_of(s, i)) - fast.logits(samples_of(s, i))).max() for i, s in enumerate(SECONDS[2:8])]
    assert 0 < np.median(far) < 0.3  # of logits that spread over more than 1


@needs_exact_int8
def test_what_int8_cannot_tell_apart_is_heard_in_fp32(artefact: Path, tmp_path: Path) -> None:
    precise, fast = Recognizer(artefact, "fp32"), Recognizer(artefact, "int8")
    clips = [samples_of(seconds, index) for index, seconds in enumerate(SECONDS[2:8])]
    margins = [float(np.diff(np.sort(fast.logits(clip))[-2:])[0]) for clip in clips]
    between = float(np.median(margins))
    shutil.copytree(artefact, tmp_path / "model")
    described = json.loads((artefact / MODEL_JSON).read_text())
    described["parity"]["int8_margin_error"] = between
    (tmp_path / "model" / MODEL_JSON).write_text(json.dumps(sealed(described, [artefact / FP32, artefact / INT8])))
    served = Recognizer(tmp_path / "model")
    (tmp_path / "model" / FP32).unlink()  # as Rasa does once a model is loaded
    for clip, margin in zip(clips, margins):
        assert np.array_equal(served.logits(clip), (precise if margin < between else fast).logits(clip))
    with pytest.raises(ModelError, match="fp32.onnx: cannot be read"):
        Recognizer(tmp_path / "model")
    Recognizer(tmp_path / "model", "int8")


def test_a_recognition_is_a_calibrated_ranking_without_the_reserved_label(artefact: Path) -> None:
    recognizer = Recognizer(artefact, "fp32")
    samples = samples_of(1.0, 4)
    recognition = recognizer.classify(samples)
    wanted = dict(zip(LABELS, softmax(recognizer.logits(samples) / TEMPERATURE)))
    assert sorted(name for name, _ in recognition.ranking) == sorted(set(LABELS) - {NON_SPEECH})
    assert dict(recognition.ranking) == pytest.approx({name: p for name, p in wanted.items() if name != NON_SPEECH})
    assert recognition.non_speech == pytest.approx(wanted[NON_SPEECH])
    confidences = [confidence for _, confidence in recognition.ranking]
    assert confidences == sorted(confidences, reverse=True)
    assert sum(confidences) + recognition.non_speech == pytest.approx(1.0)
    assert (recognition.intent, recognition.confidence) == recognition.ranking[0]
    assert recognition.model == recognizer.fingerprint and recognition.milliseconds > 0
    assert all(type(confidence) is float for confidence in [*confidences, recognition.non_speech])  # JSON can say them
    assert recognition.as_rasa() == [{"name": name, "confidence": confidence} for name, confidence in recognition.ranking]


def test_no_speech_is_what_is_likelier_than_every_intent() -> None:
    assert Recognition((("a", 0.4), ("b", 0.3)), 0.3, "", 0.0).is_speech
    assert Recognition((("a", 0.4), ("b", 0.2)), 0.4, "", 0.0).is_speech
    assert not Recognition((("a", 0.3), ("b", 0.3)), 0.4, "", 0.0).is_speech


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_clip_is_heard_the_same_whatever_is_heard_beside_it(artefact: Path, precision: str) -> None:
    """To the bit: in int8, too, whose one scale for a whole tensor would tie clips together that share a batch."""
    recognizer = Recognizer(artefact, precision)
    loudness = (1.0, 0.001, 0.1)  # clips that would ask for other scales
    clips = [loudness[i % 3] * samples_of(0.3 + 0.1 * i, i) for i in range(11)] + [samples_of(0.5, 0), samples_of(0.5, 1)]
    one_by_one = [recognizer.classify(clip).ranking for clip in clips]
    with ThreadPoolExecutor(4) as pool:
        together = [recognition.ranking for recognition in pool.map(recognizer.classify, clips)]
    assert together == one_by_one
    assert len(set(together)) == len(clips)


@pytest.mark.parametrize("samples", [0, 319, 30 * SAMPLE_RATE + 1])
def test_what_is_too_short_or_too_long_is_refused(artefact: Path, samples: int) -> None:
    with pytest.raises(AudioError, match=r"between 0\.02 and 30 s can be classified"):
        Recognizer(artefact, "fp32").classify(np.zeros(samples, dtype=np.float32))


def test_the_precision_is_chosen_by_the_processor(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for exactly, precision in ((True, "int8"), (False, "fp32")):
        monkeypatch.setattr(recognizers, "adds_int8_exactly", lambda exactly=exactly: exactly)
        assert Recognizer(artefact).precision == precision


def test_the_fingerprint_is_of_what_the_model_says_of_itself(artefact: Path, tmp_path: Path) -> None:
    copy = changed(artefact, tmp_path / "copy", temperature=0.71)
    same = changed(artefact, tmp_path / "same")
    shutil.copy(artefact / MODEL_JSON, same / MODEL_JSON)
    first = Recognizer(artefact, "fp32").fingerprint
    assert Recognizer(same, "fp32").fingerprint == first != Recognizer(copy, "fp32").fingerprint


# ---------------------------------------------------------------- the stock class, padded to 30 s


def test_the_recognizer_pads_for_the_stock_class(tmp_path: Path) -> None:
    torch.manual_seed(2)
    stock = WhisperForAudioClassification(small_config()).eval()
    clips = [samples_of(seconds, seed) for seed, seconds in enumerate([0.02, 1.0, 4.321])]
    pictures = [log_mel(samples, padded=True) for samples in clips]
    export(stock, tmp_path, {"labels": LABELS, "temperature": 1.0}, labelled(pictures))
    recognizer = Recognizer(tmp_path, "fp32")
    assert recognizer.front_end.padded
    assert recognizer.description["parity"]["n"] == 3 and recognizer.description["parity"]["fp32_max_difference"] < 1e-3
    with torch.inference_mode():
        wanted = [stock(torch.from_numpy(picture[None])).logits.numpy()[0] for picture in pictures]
    for samples, logits in zip(clips, wanted):
        np.testing.assert_allclose(recognizer.logits(samples), logits, atol=1e-3)
    assert np.ptp(np.array(wanted), axis=0).max() > 0.05
    with pytest.raises(AudioError, match=r"between 0\.02 and 30 s can be classified"):
        recognizer.classify(np.zeros(MAX_FRAMES * 160 + 1, dtype=np.float32))


# ---------------------------------------------------------------- writing an artefact where another lies


def contents(folder: Path) -> Dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("most_bytes", [1_000, 100_000, 400_000])
def test_a_full_disk_leaves_the_earlier_artefact_as_it_was(
    artefact: Path, tmp_path: Path, model: ShortContextClassifier, most_bytes: int
) -> None:
    copy = changed(artefact, tmp_path / "copy")
    before = contents(copy)
    assert most_bytes < len(before[FP32])
    with disk_that_takes(most_bytes), pytest.raises(TrainingError, match=r"could not be written to .*copy \(.*Nothing there was"):
        export(model, copy, {"labels": LABELS, "temperature": 1.0}, labelled(spectrograms([50])))
    assert contents(copy) == before
    assert Recognizer(copy, "fp32").labels == LABELS


def test_a_full_disk_leaves_no_half_artefact(tmp_path: Path, model: ShortContextClassifier) -> None:
    with disk_that_takes(100_000), pytest.raises(TrainingError, match="could not be written"):
        export(model, tmp_path / "out", {"labels": LABELS, "temperature": 1.0}, labelled(spectrograms([50])))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_artefact_is_replaced_and_what_a_killed_export_left_is_removed(
    artefact: Path, tmp_path: Path, model: ShortContextClassifier
) -> None:
    copy = changed(artefact, tmp_path / "copy", temperature=3.0)
    (copy / f"{EXPORTING}killed").mkdir()
    (copy / f"{EXPORTING}killed" / FP32).write_bytes(b"half a graph")
    export(model, copy, {"labels": LABELS, "temperature": 1.5}, labelled(spectrograms([50])))
    assert set(contents(copy)) == {MODEL_JSON, INT8, FP32, ENCODER}
    assert Recognizer(copy, "fp32").temperature == 1.5


# ---------------------------------------------------------------- artefacts that are not whole


def changed(artefact: Path, copy: Path, leave_out: str = "", **changes: Any) -> Path:
    """A copy of the artefact that was written with something else in its model.json."""
    shutil.copytree(artefact, copy)
    described = {**json.loads((artefact / MODEL_JSON).read_text()), **changes}
    described.pop(leave_out, None)
    seal_anew(copy, described)
    return copy


def seal_anew(copy: Path, described: Dict[str, Any]) -> None:
    files = [copy / name for name in (INT8, FP32, ENCODER, FP32_DATA) if (copy / name).exists()]
    (copy / MODEL_JSON).write_text(json.dumps(sealed(described, files)))


def test_a_directory_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is not a model: it has no model\.json\. `spoken-intents train --out` makes one"):
        Recognizer(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_model_json_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MODEL_JSON).write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.json: not JSON"):
        read_model_json(tmp_path)


@pytest.mark.parametrize("content", [{}, {"format": 1}, {"format": 3}, [], "format", None])
def test_a_model_json_of_another_format(tmp_path: Path, content: Any) -> None:
    (tmp_path / MODEL_JSON).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"of another format than 2, the one this version reads\. Train the model again"):
        read_model_json(tmp_path)


@pytest.mark.parametrize("labels", [None, "ab", [], ["a"], [NON_SPEECH], [NON_SPEECH, "a", NON_SPEECH], ["a", "a", NON_SPEECH]])
def test_labels_that_cannot_be(artefact: Path, tmp_path: Path, labels: Any) -> None:
    with pytest.raises(ModelError, match=f"'labels' takes a list of different intents, and {NON_SPEECH} where it was learnt"):
        Recognizer(changed(artefact, tmp_path / "copy", labels=labels))


def test_a_graph_that_is_missing(artefact: Path, tmp_path: Path) -> None:
    copy = changed(artefact, tmp_path / "copy")
    (copy / INT8).unlink()
    with pytest.raises(ModelError, match=rf"{INT8}: cannot be read \(No such file or directory\)\. Copy the model's directory"):
        Recognizer(copy, "int8")


def test_a_graph_that_is_none(artefact: Path, tmp_path: Path) -> None:
    copy = changed(artefact, tmp_path / "copy")
    (copy / FP32).write_bytes(b"no graph")
    seal_anew(copy, read_model_json(copy))
    with pytest.raises(ModelError, match=rf"{FP32}: cannot be loaded .*Train or export the model again"):
        Recognizer(copy, "fp32")


DAMAGES: Dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "a bit in the middle": lambda content: _flipped(content, len(content) // 2),
    "the last bit": lambda content: _flipped(content, len(content) - 1),
    "longer": lambda content: content + b"\0",
}


def _flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", [INT8, FP32, ENCODER])
def test_files_with_other_bytes_than_were_written_are_refused(
    artefact: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes], model: ShortContextClassifier
) -> None:
    copy = changed(artefact, tmp_path / "copy")
    (copy / name).write_bytes(damage((copy / name).read_bytes()))
    with pytest.raises(ModelError, match=rf"{name}: holds other bytes than when the model was written: cut off, damaged, or"):
        if name == ENCODER:
            load_weights(model, copy, LABELS, "small", "mean")
        else:
            Recognizer(copy, "fp32" if name == FP32 else "int8")
    other = "int8" if name == FP32 else "fp32"
    assert Recognizer(copy, other).labels == LABELS  # which reads the others only


def test_files_of_two_models_in_one_directory_are_refused(artefact: Path, tmp_path: Path, model: ShortContextClassifier) -> None:
    export(model, tmp_path / "other", {"labels": LABELS, "temperature": 1.0}, labelled(spectrograms([50])))
    (tmp_path / "other" / FP32).write_bytes((artefact / FP32).read_bytes() + b"\0")
    with pytest.raises(ModelError, match="or another model's"):
        Recognizer(tmp_path / "other", "fp32")


@pytest.mark.parametrize(
    "change",
    [
        {"labels": LABELS[::-1]},
        {"temperature": 0.1},
        {"base_model": "another"},
        {"parity": {"int8_margin_error": 0.0}},
        {"new": 1},
        {"sha256": None},
        {"sha256": {}},
        {"sha256": ["model.onnx"]},
    ],
)
def test_a_model_json_that_was_changed_is_refused(artefact: Path, tmp_path: Path, change: Dict[str, Any]) -> None:
    shutil.copytree(artefact, tmp_path / "copy")
    described = {**json.loads((artefact / MODEL_JSON).read_text()), **change}
    (tmp_path / "copy" / MODEL_JSON).write_text(json.dumps(described))
    with pytest.raises(ModelError, match=r"model\.json: says something else than when it was written\. Copy the model's"):
        Recognizer(tmp_path / "copy", "fp32")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": ["a", 1]}, "'labels' takes"),
        ({"labels": ["a", ["b"]]}, "'labels' takes"),
        ({"labels": ["a", ""]}, "'labels' takes"),
        ({"temperature": 0}, "'temperature' takes a number above 0"),
        ({"temperature": float("nan")}, "'temperature' takes"),
        ({"temperature": float("inf")}, "'temperature' takes"),
        ({"temperature": True}, "'temperature' takes"),
        ({"parity": [1]}, "'parity' takes"),
        ({"parity": {"int8_margin_error": float("nan")}}, "'parity' takes"),
        ({"front_end": [1]}, "'front_end' is not understood"),
        ({"front_end": {"n_mels": "80"}}, "'front_end' is not understood"),
        ({"front_end": {"n_mels": 10**9}}, "'front_end' is not understood"),
        ({"front_end": {"padded": 1}}, "'front_end' is not understood"),
    ],
)
def test_figures_that_are_none_are_refused(artefact: Path, tmp_path: Path, change: Dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Recognizer(changed(artefact, tmp_path / "copy", **change), "fp32")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"format": 2, "labels": ' + b"[" * 100_000])
def test_a_model_json_that_is_too_deep(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MODEL_JSON).write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.json: not JSON"):
        read_model_json(tmp_path)


def test_a_model_json_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MODEL_JSON)
    with pytest.raises(ModelError, match=r"model\.json: cannot be read \(Not a regular file\)"):
        read_model_json(tmp_path)


# ---------------------------------------------------------------- weights beside the graph


def outsourced(artefact: Path, copy: Path, location: str) -> Path:
    """A model whose fp32 graph has its weights in the file `location`."""
    shutil.copytree(artefact, copy)
    graph = onnx.load(copy / FP32)
    onnx.save_model(graph, copy / FP32, save_as_external_data=True, location=FP32_DATA, size_threshold=0)
    content = onnx.load(copy / FP32, load_external_data=False)
    for tensor in content.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    (copy / FP32).write_bytes(content.SerializeToString())
    seal_anew(copy, read_model_json(artefact))
    return copy


def test_weights_beside_the_graph_belong_to_the_model(artefact: Path, tmp_path: Path) -> None:
    copy = outsourced(artefact, tmp_path / "copy", FP32_DATA)
    clip = samples_of(1.0, 0)
    np.testing.assert_allclose(Recognizer(copy, "fp32").logits(clip), Recognizer(artefact, "fp32").logits(clip), atol=1e-5)
    (copy / FP32_DATA).write_bytes(DAMAGES["a bit in the middle"]((copy / FP32_DATA).read_bytes()))
    with pytest.raises(ModelError, match=rf"{FP32_DATA}: holds other bytes"):
        Recognizer(copy, "fp32")


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/hostname", "elsewhere", "./model.fp32.onnx.data", "model.fp32.onnx.data/../x"]
)
def test_a_graph_cannot_read_other_files(artefact: Path, tmp_path: Path, location: str) -> None:
    copy = outsourced(artefact, tmp_path / "copy", location)
    for name in ("secret", "copy/elsewhere"):
        shutil.copy(copy / FP32_DATA, tmp_path / name)
    with pytest.raises(ModelError, match=rf"{FP32}: reads files that are not its own"):
        Recognizer(copy, "fp32")


@pytest.mark.parametrize("key", ["temperature", "front_end"])
def test_a_model_json_that_leaves_something_out(artefact: Path, tmp_path: Path, key: str) -> None:
    with pytest.raises(ModelError, match=key):
        Recognizer(changed(artefact, tmp_path / "copy", leave_out=key), "fp32")


def test_a_front_end_of_another_version(artefact: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="front_end"):
        Recognizer(changed(artefact, tmp_path / "copy", front_end={"n_mels": 80, "window": "hamming"}), "fp32")


def test_a_front_end_of_other_constants(artefact: Path, tmp_path: Path) -> None:
    front_end = {"n_mels": 80, "sample_rate": 8_000, "n_fft": 400, "hop_samples": 160}
    with pytest.raises(ModelError, match="made for another front end .*sample_rate=8000"):
        Recognizer(changed(artefact, tmp_path / "copy", front_end=front_end), "fp32")


def test_labels_that_are_not_the_graphs(artefact: Path, tmp_path: Path) -> None:
    """One label too few would shift or hide intents without a word."""
    with pytest.raises(ModelError, match="labels"):
        Recognizer(changed(artefact, tmp_path / "copy", labels=LABELS[:-1]), "fp32")


# ---------------------------------------------------------------- going on from an artefact


def test_weights_come_back_from_an_artefact(artefact: Path, model: ShortContextClassifier) -> None:
    torch.manual_seed(1)
    other = ShortContextClassifier(small_config()).eval()
    spectrogram = spectrograms([100])[0]
    assert np.abs(alone(other, spectrogram) - alone(model, spectrogram)).max() > 0.05
    load_weights(other, artefact, LABELS, "small", "mean")
    np.testing.assert_allclose(alone(other, spectrogram), alone(model, spectrogram), atol=0.02)  # kept as 16-bit floats


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([*LABELS, "new one"], r"the intents changed \(new: new one\)"),
        ([label for label in LABELS if label != "deny"], r"the intents changed \(gone: deny\)"),
        (["affirm", "balance", "refuse", NON_SPEECH, "stop"], r"the intents changed \(new: refuse, stop; gone: deny, freeze\)"),
        ([label for label in LABELS if label != NON_SPEECH], "non_speech_share was switched off"),
    ],
)
def test_weights_of_other_labels_are_refused_by_name(artefact: Path, labels: List[str], words: str) -> None:
    other = ShortContextClassifier(small_config(num_labels=len(labels)))
    with pytest.raises(ModelError, match=f"cannot go on from the previous model: {words}. Train without --finetune"):
        load_weights(other, artefact, labels, "small", "mean")


def test_a_reserved_label_that_is_new_is_a_setting_that_was_switched_on(artefact: Path, tmp_path: Path) -> None:
    before = changed(artefact, tmp_path / "copy", labels=[label for label in LABELS if label != NON_SPEECH])
    with pytest.raises(ModelError, match=r"previous model: non_speech_share was switched on\. Train without --finetune"):
        load_weights(ShortContextClassifier(small_config()), before, LABELS, "small", "mean")


def test_weights_of_another_base_model_are_refused_by_name(artefact: Path, model: ShortContextClassifier) -> None:
    words = "cannot go on from the previous model: it was made from base_model 'small', not 'large'. Train without --finetune"
    with pytest.raises(ModelError, match=words):
        load_weights(model, artefact, LABELS, "large", "mean")


@pytest.mark.parametrize("change", [{"d_model": 32}, {"encoder_layers": 3}])
def test_weights_that_do_not_fit_are_refused(artefact: Path, change: Dict[str, Any]) -> None:
    other = ShortContextClassifier(small_config(**change))
    words = r"cannot go on from the previous model: .*Train without --finetune"
    with pytest.raises(ModelError, match=words):
        load_weights(other, artefact, LABELS, "small", "mean")


@pytest.mark.parametrize("content", [None, b"no tensors"])
def test_weights_that_are_missing_or_broken_are_refused(
    artefact: Path, tmp_path: Path, model: ShortContextClassifier, content: Any
) -> None:
    copy = changed(artefact, tmp_path / "copy")
    (copy / ENCODER).unlink()
    if content is not None:
        (copy / ENCODER).write_bytes(content)
    with pytest.raises(ModelError, match="cannot go on from the previous model"):
        load_weights(model, copy, LABELS, "small", "mean")


# ---------------------------------------------------------------- which recognizer is live


def test_a_recognizer_is_live_as_long_as_its_model(artefact: Path) -> None:
    first, second = Recognizer(artefact, "fp32"), Recognizer(artefact, "fp32")
    recognizers.register("model one", first)
    recognizers.register("model two", second)
    assert recognizers.live("model one") is first and recognizers.live("model two") is second
    assert recognizers.live("model three") is None
    assert recognizers.live(None) is None and recognizers.live("") is None
    del first
    gc.collect()
    assert recognizers.live("model one") is None and recognizers.live("model two") is second


@pytest.mark.parametrize(
    ("machine", "flags", "exactly"),
    [
        ("aarch64", "", True),
        ("arm64", "", True),
        ("x86_64", "flags : fpu avx2 avx512_vnni", True),
        ("x86_64", "flags : fpu avx2 avx_vnni", True),
        ("x86_64", "flags : fpu avx2 avx512f", False),
    ],
)
def test_which_processors_add_int8_exactly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: str, flags: str, exactly: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(recognizers, "platform", SimpleNamespace(machine=lambda: machine))
    monkeypatch.setattr(recognizers, "Path", lambda name: tmp_path / Path(name).name)
    assert recognizers.adds_int8_exactly() is exactly


def test_a_graph_that_computes_something_else_is_refused(model: ShortContextClassifier, tmp_path: Path) -> None:
    export_onnx(model, tmp_path)
    other = ShortContextClassifier(small_config())
    with pytest.raises(TrainingError, match=r"its logits are .+ away from PyTorch's, of a spread of"):
        measure_parity(other.eval(), tmp_path, labelled(spectrograms([50])))


def test_parity_counts_what_each_graph_hears_right(model: ShortContextClassifier, tmp_path: Path) -> None:
    export_onnx(model, tmp_path)
    pictures = spectrograms([50, 60, 70, 80])
    with torch.inference_mode():
        heard = [int(model(torch.from_numpy(picture[None])).logits.argmax()) for picture in pictures]
    wrong = (heard[0] + 1) % len(LABELS)
    parity = measure_parity(model, tmp_path, list(zip(pictures, [wrong, *heard[1:]])))
    assert (parity["n"], parity["fp32_right"]) == (4, 3)
    assert 0 <= parity["int8_right"] <= parity["int8_same_first_label"] <= 4
    assert 0 < parity["int8_margin_error"] < 1


def test_a_bundled_base_model_may_be_named_by_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_base("whisper-mini", ["a", "b"]).eval()
    export(model, tmp_path, {"labels": ["a", "b"], "temperature": 1.0, "base_model": "whisper-mini"}, [])
    monkeypatch.chdir(BASE_MODELS.parent)
    for name in ("whisper-mini", str(BASE_MODELS / "whisper-mini"), "base_models/whisper-mini/"):
        load_weights(load_base("whisper-mini", ["a", "b"]), tmp_path, ["a", "b"], name, "mean")
    unnamed = changed(tmp_path, tmp_path / "unnamed", leave_out="base_model")
    with pytest.raises(ModelError, match="it was made from base_model None, not 'whisper-mini'"):
        load_weights(model, unnamed, ["a", "b"], "whisper-mini", "mean")
