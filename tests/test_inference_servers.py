"""Inference servers as they are installed from the registry: MLServer, and Triton by PyTriton (without its ONNX Runtime)."""

import json
import urllib.request
from pathlib import Path
from typing import Iterator, Tuple

import pytest
from test_remote import assert_same, clip, connected, make, until

from counted import Counted
from inference_server import InferenceServer, Unavailable
from spoken_intents.recognizer import Recognizer

pytestmark = [pytest.mark.services, pytest.mark.usefixtures("one_thread")]
TAKES_BINARY = {"mlserver": False, "triton": True}
RECOGNITIONS = "spoken_intents_recognitions_total"
SECONDS = (0.02, 0.5, 1.0, 4.0, 9.0)


@pytest.fixture(scope="module")
def artefact(tiny_base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("model") / "model", tiny_base, 1)


@pytest.fixture(scope="module", params=["mlserver", "triton"])
def served(artefact: Path, request: pytest.FixtureRequest) -> Iterator[Tuple[str, InferenceServer]]:
    try:
        server = InferenceServer(request.param, artefact)
    except Unavailable as error:
        pytest.skip(str(error))
    with server:
        yield request.param, server


def test_it_hears_as_this_process_does_and_ends_without_harm(artefact: Path, served: Tuple[str, InferenceServer]) -> None:
    kind, server = served
    local, counted = Recognizer(artefact, "fp32"), Counted()
    recognizer = connected(artefact, server.url, timeout_ms=5000)
    for seed, seconds in enumerate(SECONDS):
        assert_same(recognizer.classify(clip(seed, seconds)), local.classify(clip(seed, seconds)))
    assert counted(RECOGNITIONS, where="server") == counted(RECOGNITIONS) == len(SECONDS)
    with urllib.request.urlopen(f"{server.url}/v2", timeout=10) as about:
        assert ("binary_tensor_data" in json.load(about)["extensions"]) == TAKES_BINARY[kind]  # so both ways are tried here
    server.stop()
    assert_same(recognizer.classify(clip(0)), local.classify(clip(0)))
    assert counted(RECOGNITIONS, where="server") == len(SECONDS) and counted(RECOGNITIONS, where="local") == 1
    server.start()
    until(lambda: recognizer.classify(clip(0)) and recognizer.remote.in_use)
    assert_same(recognizer.classify(clip(1)), local.classify(clip(1)))
