"""Inference servers: heard there as here, and every way in which they fail leaves the turn to this process."""

import json
import logging
import re
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterator, List

import numpy as np
import pytest
from rasa.engine.graph import ExecutionContext, GraphSchema
from rasa.engine.storage.local_model_storage import LocalModelStorage
from rasa.engine.storage.resource import Resource

from assistant import ROOT
from counted import Counted
from graph_server import GraphServer, drip, never, says, stall
from spoken_intents import remote
from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import ConfigError
from spoken_intents.nlu import SpokenIntentClassifier
from spoken_intents.recognizer import FP32, MODEL_JSON, NON_SPEECH, Recognition, Recognizer
from spoken_intents.remote import RemoteSettings
from spoken_intents.seal import sealed

LABELS = ["affirm", "balance", "deny", NON_SPEECH]
Heard = Callable[[], List[int]]
pytestmark = pytest.mark.usefixtures("one_thread")


def make(out: Path, tiny_base: str, seed: int) -> Path:
    """A model that was never trained, with an end-of-turn output; its logits spread as those of a trained one do."""
    import torch

    from spoken_intents_training.export import export
    from spoken_intents_training.modeling import load_base
    from spoken_intents_training.turn_end import TurnEnd

    torch.manual_seed(seed)
    model = load_base(tiny_base, LABELS)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.normal_(std=0.5)
    model.turn_end = TurnEnd(model.config.d_model)
    export(model, out, {"labels": LABELS, "temperature": 1.3, "seed": seed}, parity_on=[])
    return out


@pytest.fixture(scope="module")
def artefact(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("model") / "model", tiny_base, 1)


@pytest.fixture(scope="module")
def local(artefact: Path) -> Recognizer:
    return Recognizer(artefact, "fp32")


@pytest.fixture()
def server(artefact: Path, local: Recognizer) -> Iterator[GraphServer]:
    with GraphServer(artefact / FP32, f"spoken-intents-{local.fingerprint}") as served:
        yield served


@pytest.fixture(autouse=True)
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_REST_SECONDS", 0.05)


@pytest.fixture()
def long_rests(short_rests: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that failed stays out for the rest of the test."""
    monkeypatch.setattr(remote, "FIRST_REST_SECONDS", 3600.0)
    monkeypatch.setattr(remote, "LONGEST_REST_SECONDS", 3600.0)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


def connected(artefact: Path, *urls: str, timeout_ms: float = 2000) -> Recognizer:
    """A recognizer that has found all servers well."""
    recognizer = Recognizer(artefact, "fp32", RemoteSettings(",".join(urls), timeout_ms))
    assert recognizer.remote is not None
    until(lambda: len(recognizer.remote.in_use) == len(urls))
    return recognizer


def clip(seed: int, seconds: float = 1.0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32)


def assert_same(heard: Recognition, wanted: Recognition, atol: float = 1e-4) -> None:
    assert [intent for intent, _ in heard.ranking] == [intent for intent, _ in wanted.ranking]
    assert heard.complete == pytest.approx(wanted.complete, abs=atol)
    np.testing.assert_allclose([c for _, c in heard.ranking], [c for _, c in wanted.ranking], atol=atol)
    assert (heard.model, heard.non_speech) == (wanted.model, pytest.approx(wanted.non_speech, abs=atol))


@pytest.fixture()
def heard() -> Heard:
    """How many utterances the first server asked has heard since the test began, a second one, and this process."""
    counted = Counted()
    return lambda: [int(counted("spoken_intents_recognitions_total", where=where)) for where in ("server", "retried", "local")]


def warnings_of(caplog: pytest.LogCaptureFixture) -> List[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# ------------------------------------------------------------------ heard there as here


@pytest.mark.parametrize("binary", [True, False])
def test_a_server_hears_as_this_process_does(
    artefact: Path, local: Recognizer, server: GraphServer, binary: bool, heard: Heard
) -> None:
    server.extensions = ["binary_tensor_data"] if binary else []
    recognizer = connected(artefact, server.url)
    clips = [clip(seed, 0.02 + seed / 3) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        for recognition, samples in zip(threads.map(recognizer.classify, clips), clips):
            assert_same(recognition, local.classify(samples))
    assert server.kinds == ["binary" if binary else "json"] * (1 + len(clips))  # the first is the probe
    assert heard() == [len(clips), 0, 0]


def test_several_servers_share_the_turns(artefact: Path, local: Recognizer, server: GraphServer) -> None:
    with GraphServer(artefact / FP32, server.name) as other:
        recognizer = connected(artefact, server.url, f" {other.url}/ ")
        for seed in range(6):
            assert_same(recognizer.classify(clip(seed)), local.classify(clip(seed)))
        assert len(server.kinds) == len(other.kinds) == 1 + 3


def test_connections_are_kept_and_one_that_is_gone_is_no_outage(
    artefact: Path, server: GraphServer, caplog: pytest.LogCaptureFixture, heard: Heard
) -> None:
    recognizer = connected(artefact, server.url)
    for seed in range(3):
        recognizer.classify(clip(seed))
    assert server.connections == 1
    for seed in range(3):
        server.drop_connections()
        recognizer.classify(clip(seed))
    assert heard() == [6, 0, 0] and warnings_of(caplog) == []


def test_rasa_hears_through_servers_where_the_environment_names_them(
    artefact: Path, local: Recognizer, server: GraphServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    storage, resource = LocalModelStorage(tmp_path), Resource("classifier")
    with storage.write_to(resource) as directory:
        shutil.copytree(artefact, directory, dirs_exist_ok=True)

    def load() -> Recognizer:
        context = ExecutionContext(GraphSchema({}), "model")
        return SpokenIntentClassifier.load(SpokenIntentClassifier.get_default_config(), storage, resource, context)._recognizer

    assert load().remote is None
    monkeypatch.setenv("SPOKEN_INTENTS_RECOGNIZER_URL", server.url)
    recognizer = load()
    until(lambda: recognizer.remote.in_use)
    assert_same(recognizer.classify(clip(0)), local.classify(clip(0)))
    assert heard() == [1, 0, 0]
    monkeypatch.setenv("SPOKEN_INTENTS_RECOGNIZER_URI", "a misspelling")
    with pytest.raises(ConfigError, match=r"SPOKEN_INTENTS_RECOGNIZER_\*: unknown uri\. Allowed: timeout_ms, url"):
        load()


# ------------------------------------------------------------------ servers that fail


def infinite(answer: Any) -> Any:
    answer["outputs"][0]["data"][1] = float("nan")
    return answer


def short(answer: Any) -> Any:
    answer["outputs"][0].update(data=answer["outputs"][0]["data"][:-1], shape=[1, len(LABELS) - 1])
    return answer


def fails(handler: Any, right: bytes) -> None:
    handler.send(500, {"error": "out of memory"})


FAILURES = {
    "hangs": (never, r"it takes more than 300 ms"),
    "drips": (drip, r"it takes more than 300 ms"),
    "an error": (fails, r"it says 500 to POST .*out of memory"),
    "without the model": (lambda handler, right: handler.send(404, {"error": "unknown model"}), r"it says 404 .*unknown model"),
    "full": (lambda handler, right: handler.send(429, b""), r"it says 429"),
    "elsewhere": (lambda handler, right: handler.send(302, b""), r"it says 302"),
    "hangs up": (lambda handler, right: handler.connection.shutdown(socket.SHUT_RDWR), r"it cannot be reached \(ProtocolError\)"),
    "not HTTP": (lambda handler, right: handler.wfile.write(b"\x00\xff\r\n\r\n"), r"it cannot be reached \(ProtocolError\)"),
    "not JSON": (lambda handler, right: handler.send(200, right[:-3]), r"its answer is not JSON"),
    "deep JSON": (lambda handler, right: handler.send(200, b"[" * 100_000), r"its answer is not JSON"),
    "no object": (says(lambda answer: [answer]), r"its answer is no JSON object"),
    "no outputs": (says(lambda answer: {"error": "?"}), r"its answer does not hold logits \[1, 4\], complete \[1, 1\]"),
    "an output less": (says(lambda answer: {"outputs": answer["outputs"][:1]}), r"its answer does not hold logits"),
    "words": (says(lambda answer: {"outputs": [{"name": "logits", "data": ["a", "b"]}]}), r"its answer does not hold logits"),
    "a label less": (says(short), r"its answer does not hold logits"),
    "no number": (says(infinite), r"its answer holds what is no number"),
    "huge": (lambda handler, right: handler.send(200, b" " * (64 << 20)), r"its answer is longer than 1048576 bytes"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.usefixtures("long_rests")
def test_whatever_a_server_does_the_turn_is_heard(
    artefact: Path, local: Recognizer, server: GraphServer, caplog: pytest.LogCaptureFixture, failure: str, heard: Heard
) -> None:
    late = failure in ("hangs", "drips")
    recognizer = connected(artefact, server.url, timeout_ms=300 if late else 5000)
    server.answer, words = FAILURES[failure]
    for seed in range(3):
        assert_same(recognizer.classify(clip(seed)), local.classify(clip(seed)))
    assert heard() == [0, 0, 3] and recognizer.remote.in_use == []
    # Once may be due to a long utterance; and a kept connection may be closed at any time: that is no failure yet.
    asked = 2 if late or failure in ("hangs up", "not HTTP") else 1
    assert len(server.kinds) == 1 + asked
    (warning,) = warnings_of(caplog)
    assert warning.startswith(f"The inference server {server.url} is not used for now: ")
    assert re.search(words, warning), warning


def test_the_time_out_is_for_headers_and_body_together(artefact: Path, local: Recognizer, server: GraphServer) -> None:
    recognizer = connected(artefact, server.url, timeout_ms=1000)
    server.answer = stall
    assert_same(recognizer.classify(clip(0)), local.classify(clip(0)))
    until(lambda: server.left_alone is not None)
    assert server.left_alone


def test_another_server_is_asked_once(
    artefact: Path, local: Recognizer, server: GraphServer, long_rests: None, heard: Heard
) -> None:
    with GraphServer(artefact / FP32, server.name) as second, GraphServer(artefact / FP32, server.name) as third:
        recognizer = connected(artefact, server.url, second.url, third.url, timeout_ms=300)
        server.answer = fails
        assert_same(recognizer.classify(clip(0)), local.classify(clip(0)))
        assert heard() == [0, 1, 0]
        assert recognizer.remote.in_use == [second.url, third.url]
        second.answer = third.answer = fails
        assert_same(recognizer.classify(clip(1)), local.classify(clip(1)))
        assert heard() == [0, 1, 1] and recognizer.remote.in_use == []


@pytest.mark.parametrize("status", remote.ABOUT_THE_REQUEST)
def test_an_utterance_that_is_refused_puts_no_server_out_of_use(
    artefact: Path,
    local: Recognizer,
    server: GraphServer,
    caplog: pytest.LogCaptureFixture,
    long_rests: None,
    status: int,
    heard: Heard,
) -> None:
    with GraphServer(artefact / FP32, server.name) as other:
        recognizer = connected(artefact, server.url, other.url)
        server.answer = other.answer = lambda handler, right: handler.send(status, {"error": "too long"})
        for seed in range(3):
            assert_same(recognizer.classify(clip(seed)), local.classify(clip(seed)))
        assert len(server.kinds) + len(other.kinds) == 2 + 3, "each was asked of one server"
        assert recognizer.remote.in_use == [server.url, other.url]
        assert re.search(f"refuses an utterance, which is heard here: it says {status} .*too long", warnings_of(caplog)[0])
        server.answer = other.answer = None
        assert_same(recognizer.classify(clip(3)), local.classify(clip(3)))
        assert heard() == [1, 0, 3]


def test_a_late_answer_now_and_then_puts_no_server_out_of_use(
    artefact: Path, server: GraphServer, caplog: pytest.LogCaptureFixture, long_rests: None, heard: Heard
) -> None:
    """As to long utterances among others."""
    recognizer = connected(artefact, server.url, timeout_ms=300)
    for answer in (never, None, never, None):
        server.answer = answer
        recognizer.classify(clip(0))
    assert heard() == [2, 0, 2]
    assert recognizer.remote.in_use == [server.url] and warnings_of(caplog) == []


def test_turns_that_fail_together_are_one_outage(
    artefact: Path, server: GraphServer, caplog: pytest.LogCaptureFixture, long_rests: None, heard: Heard
) -> None:
    recognizer = connected(artefact, server.url, timeout_ms=300)
    server.answer = never
    with ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(recognizer.classify, map(clip, range(4))))) == 4
    assert heard() == [0, 0, 4]
    assert len(warnings_of(caplog)) == 1


def test_a_server_that_is_back_is_used_again(
    artefact: Path, local: Recognizer, server: GraphServer, caplog: pytest.LogCaptureFixture, heard: Heard
) -> None:
    caplog.set_level(logging.INFO, "spoken_intents.remote")
    recognizer = connected(artefact, server.url)
    server.stop()
    for seed in range(40):  # of which some find the rest over and have the server asked again
        assert_same(recognizer.classify(clip(seed)), local.classify(clip(seed)))
        time.sleep(0.01)
    assert heard() == [0, 0, 40]
    server.start()

    def used() -> bool:
        recognizer.classify(clip(0))
        return bool(recognizer.remote.in_use)

    until(used)
    assert_same(recognizer.classify(clip(0)), local.classify(clip(0)))
    assert heard()[0]
    told = [record.getMessage() for record in caplog.records if record.name == "spoken_intents.remote"]
    assert ["hears turns by" in line for line in told] == [True, False, True], told
    assert "cannot be reached (NewConnectionError)" in told[1]


def test_rests_become_longer_until_a_turn_is_heard(artefact: Path, server: GraphServer, heard: Heard) -> None:
    recognizer = connected(artefact, server.url)
    (replica,) = recognizer.remote._replicas
    server.answer = says(lambda answer: {})
    for rest in (0.1, 0.2, 0.4):
        until(lambda rest=rest: recognizer.classify(clip(0)) and replica.rest_seconds >= rest)
    server.answer = None
    until(lambda: recognizer.classify(clip(0)) and heard()[0])
    assert replica.rest_seconds == 0.05


def test_a_check_that_breaks_is_told_and_made_again(
    artefact: Path, server: GraphServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By something that is not the server's fault, which no thread may end by."""
    with monkeypatch.context() as broken:
        broken.setattr(remote, "MAY_DIFFER", None)
        recognizer = Recognizer(artefact, "fp32", RemoteSettings(server.url))
        until(lambda: [record for record in caplog.records if record.exc_info])
        assert recognizer.remote.in_use == []
    until(lambda: recognizer.classify(clip(0)) and recognizer.remote.in_use)


def test_turns_are_heard_while_the_system_gives_no_threads(
    artefact: Path, local: Recognizer, server: GraphServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", none_left)
        recognizer = Recognizer(artefact, "fp32", RemoteSettings(server.url))
        time.sleep(0.06)  # the rest is over
        assert_same(recognizer.classify(clip(0)), local.classify(clip(0)))
    (warning,) = warnings_of(caplog)
    assert "no thread asks it (can't start new thread)" in warning
    until(lambda: recognizer.classify(clip(0)) and recognizer.remote.in_use)


# ------------------------------------------------------------------ labels never mix


def test_another_models_graph_under_this_ones_name_is_never_asked(
    artefact: Path, local: Recognizer, tiny_base: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, heard: Heard
) -> None:
    other = make(tmp_path / "other", tiny_base, 2)
    with GraphServer(other / FP32, f"spoken-intents-{local.fingerprint}") as server:
        recognizer = Recognizer(artefact, "fp32", RemoteSettings(server.url))
        until(lambda: warnings_of(caplog))
        for seed in range(3):
            assert_same(recognizer.classify(clip(seed)), local.classify(clip(seed)))
        assert heard() == [0, 0, 3] and "hears otherwise than this model's fp32 graph" in warnings_of(caplog)[0]


def test_a_server_without_this_model_is_asked_until_it_has_it(
    artefact: Path, local: Recognizer, server: GraphServer, caplog: pytest.LogCaptureFixture
) -> None:
    """As on the way to a new model, which a server may get after Rasa does, beside the old one."""
    server.name = "spoken-intents-of-before"
    recognizer = Recognizer(artefact, "fp32", RemoteSettings(server.url))
    until(lambda: warnings_of(caplog))
    assert f"it says 404 to POST /v2/models/spoken-intents-{local.fingerprint}/infer" in warnings_of(caplog)[0]
    server.name = f"spoken-intents-{local.fingerprint}"
    until(lambda: recognizer.classify(clip(0)) and recognizer.remote.in_use)
    assert len(warnings_of(caplog)) == 1


def test_every_model_has_a_name_of_its_own(artefact: Path, tmp_path: Path) -> None:
    shutil.copytree(artefact, tmp_path / "copy")
    described = json.loads((artefact / MODEL_JSON).read_text())
    described = sealed({**described, "labels": LABELS[::-1]}, [artefact / FP32])
    (tmp_path / "copy" / MODEL_JSON).write_text(json.dumps(described))
    nobody = RemoteSettings("http://127.0.0.1:9", 100)
    names = [Recognizer(model, "fp32", nobody).remote.name for model in (artefact, tmp_path / "copy")]
    assert names[0] != names[1]


def test_the_commands_in_the_docs_make_what_is_asked_for(artefact: Path, local: Recognizer, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with tarfile.open(tmp_path / "models/20260101-bot.tar.gz", "w:gz") as archive:  # as Rasa makes it
        archive.add(artefact, "components/train_spoken_intents.nlu.SpokenIntentClassifier5")
    (commands,) = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs/recognizer-server.md").read_text(), re.S | re.M)
    subprocess.run(["bash", "-e", "-c", commands], cwd=tmp_path, check=True)
    nobody = RemoteSettings("http://127.0.0.1:9", 100)
    (graph,) = (tmp_path / "repository").rglob("*.*")
    assert graph.relative_to(tmp_path) == Path("repository") / Recognizer(artefact, "fp32", nobody).remote.name / "1/model.onnx"
    assert graph.read_bytes() == (artefact / FP32).read_bytes()


# ------------------------------------------------------------------ settings


def test_settings_come_from_the_environment() -> None:
    assert RemoteSettings.read({"PATH": "/bin"}).urls == ()
    said = {"SPOKEN_INTENTS_RECOGNIZER_URL": "http://a:8000/, https://b/prefix", "SPOKEN_INTENTS_RECOGNIZER_TIMEOUT_MS": "250"}
    settings = RemoteSettings.read(said)
    assert settings.urls == ("http://a:8000", "https://b/prefix") and settings.timeout_ms == 250


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("URL", "gpu:8000", "url takes addresses such as http://gpu:8000, got gpu:8000"),
        ("URL", "http://", "url takes addresses such as http://gpu:8000, got http:"),
        ("URL", "http://[::1", r"url takes addresses such as http://gpu:8000, got http://\[::1"),
        ("URL", "http://gpu:80000", "url takes addresses such as http://gpu:8000, got http://gpu:80000"),
        ("TIMEOUT_MS", "0", "timeout_ms takes a positive number up to 60000, got 0"),
        ("TIMEOUT_MS", "60001", "timeout_ms takes a positive number up to 60000, got 60001"),
        ("TIMEOUT_MS", "inf", "timeout_ms takes a positive number up to 60000, got inf"),
        ("TIMEOUT_MS", "soon", "timeout_ms takes a number, got 'soon'"),
        ("PORT", "1", "unknown port. Allowed: timeout_ms, url"),
    ],
)
def test_wrong_settings_are_refused(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RemoteSettings.read({f"SPOKEN_INTENTS_RECOGNIZER_{name}": value})
