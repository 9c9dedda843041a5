"""A model out of what `rasa train` leaves: the right files of it, nothing else, and no path of its choosing."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Dict

import pytest

from spoken_intents import archives
from spoken_intents.archives import Fallback, model_directory, read_fallback
from spoken_intents.errors import ModelError
from spoken_intents.recognizer import Recognition, Recognizer

MODEL = "components/train_spoken_intents.nlu.SpokenIntentClassifier4/"


def metadata(**config: object) -> bytes:
    nodes = {
        "a": {"uses": "rasa.nlu.tokenizers.whitespace_tokenizer.WhitespaceTokenizer", "config": {"threshold": 9}},
        "b": {"uses": "rasa.nlu.classifiers.fallback_classifier.FallbackClassifier", "config": config},
    }
    return json.dumps({"predict_schema": {"nodes": nodes}}).encode()


def archive(file: Path, files: Dict[str, bytes]) -> Path:
    with tarfile.open(file, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


def test_what_is_needed_to_hear_is_taken(tmp_path: Path) -> None:
    files = {
        "/": b"",
        "components/train_DIETClassifier3/model.json": b"DIET's",
        f"{MODEL}model.json": b"{}",
        f"{MODEL}model.onnx": b"graph",
        f"{MODEL}encoder.safetensors": b"not to hear with",
        "metadata.json": metadata(threshold=0.5, epochs=3),
    }
    with model_directory(archive(tmp_path / "a.tar.gz", files)) as directory:
        assert {file.name: file.read_bytes() for file in directory.iterdir()} == {
            "model.json": b"{}",
            "model.onnx": b"graph",
            "metadata.json": files["metadata.json"],
        }
        assert read_fallback(directory) == Fallback(0.5, 0.1)
    assert not directory.exists()


def test_no_path_leads_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "a.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        link = tarfile.TarInfo(f"{MODEL}model.onnx")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name in (f"../../{MODEL}model.json", f"/{MODEL}../x.SpokenIntentClassifier1/model.fp32.onnx"):
            member = tarfile.TarInfo(name)
            member.size = 2
            tar.addfile(member, io.BytesIO(b"{}"))
    before = sorted(tmp_path.rglob("*"))
    with model_directory(file) as directory:
        assert sorted(path.name for path in directory.rglob("*")) == ["model.fp32.onnx", "model.json"]
    assert sorted(tmp_path.rglob("*")) == before


def test_of_a_folder_the_newest_is_taken(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old")):
        file = archive(tmp_path / f"{name}.tar.gz", {f"{MODEL}model.json": name.encode()})
        os.utime(file, (1_000 - age, 1_000 - age))
    with model_directory(tmp_path) as directory:
        assert (directory / "model.json").read_bytes() == b"new"


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    for model in (tmp_path, tmp_path / "missing"):  # the recognizer says what is wrong with it
        with model_directory(model) as directory:
            assert directory == model
    assert read_fallback(tmp_path) is None


def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = archive(tmp_path / "whole.tar.gz", {f"{MODEL}model.json": bytes(range(256)) * 400})
    cut_off = tmp_path / "cut_off.tar.gz"
    cut_off.write_bytes(whole.read_bytes()[:-300])
    text = tmp_path / "text.tar.gz"
    text.write_text("no archive")
    for file in (cut_off, text):
        with pytest.raises(ModelError, match=f"{file.name}: no model's directory, and no archive of `rasa train`"):
            with model_directory(file):
                pass
    with pytest.raises(ModelError, match="missing.tar.gz: no such file"):
        with model_directory(tmp_path / "missing.tar.gz"):
            pass
    silent = archive(tmp_path / "silent.tar.gz", {"metadata.json": metadata()})
    with pytest.raises(ModelError, match="holds no SpokenIntentClassifier that was trained"):
        with model_directory(silent):
            pass
    monkeypatch.setattr(archives, "FILE_BYTES", 1_000)
    with pytest.raises(ModelError, match="model.json has 102400 bytes, more than any model's"):
        with model_directory(whole):
            pass


@pytest.mark.parametrize("content", [b"", b"[]", b'{"predict_schema": {}}', metadata(threshold="high"), metadata(threshold=[1])])
def test_metadata_that_is_not_rasas(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metadata.json").write_bytes(content)
    with pytest.raises(ModelError, match="metadata.json: not as Rasa writes it"):
        read_fallback(tmp_path)


def test_a_pipeline_without_a_fallback(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text('{"predict_schema": {"nodes": {}}}')
    assert read_fallback(tmp_path) is None
    (tmp_path / "metadata.json").write_bytes(metadata())
    assert read_fallback(tmp_path) == Fallback(0.3, 0.1)


@pytest.mark.parametrize(
    ("confidences", "asked"), [((0.5, 0.1), False), ((0.29, 0.1), True), ((0.5, 0.41), True), ((0.5,), False), ((0.2,), True)]
)
def test_it_asks_back_as_rasa_does(confidences: "tuple[float, ...]", asked: bool) -> None:
    from rasa.nlu.classifiers.fallback_classifier import FallbackClassifier
    from rasa.shared.nlu.constants import INTENT, INTENT_RANKING_KEY
    from rasa.shared.nlu.training_data.message import Message

    heard = Recognition(tuple((f"intent{i}", confidence) for i, confidence in enumerate(confidences)), 0.0, "model", 1.0)
    assert Fallback().asks_back(heard) == asked
    message = Message({INTENT: heard.as_rasa()[0], INTENT_RANKING_KEY: heard.as_rasa()})
    FallbackClassifier(FallbackClassifier.get_default_config()).process([message])
    assert (message.get(INTENT)["name"] == "nlu_fallback") == asked


def test_what_rasa_train_leaves(spoken_project: Path) -> None:
    with model_directory(spoken_project / "models") as directory:
        assert read_fallback(directory) == Fallback(0.5)
        recognizer = Recognizer(directory)
    assert {"greet", "goodbye", "affirm", "deny"} < set(recognizer.labels)
