"""Whatever configuration and models say: settings within their ranges, or the error that says why not."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, Type

import pytest
import yaml
from fuzzing import assert_words, fuzz, fuzz_changed, objects, put_into, tampered, values, write
from hypothesis import example
from hypothesis import strategies as st

from spoken_intents.channels.connection import ConnectionSettings
from spoken_intents.channels.protocol import Allowance
from spoken_intents.channels.twilio import TwilioSettings
from spoken_intents.channels.voice import VoiceSettings
from spoken_intents.config import settings_from
from spoken_intents.errors import ConfigError, ModelError
from spoken_intents.features import FrontEnd
from spoken_intents.load_report import LoadSettings
from spoken_intents.nlu import ClassifierSettings
from spoken_intents.recognizer import FORMAT, MODEL_JSON, NON_SPEECH, read_model_json
from spoken_intents.remote import PREFIX, RemoteSettings
from spoken_intents.seal import sealed
from spoken_intents.segmenter import Segmenter, SegmenterSettings
from spoken_intents.session import SessionSettings
from spoken_intents.speech import SpeechSettings
from spoken_intents_training.recipe import Recipe, load_recipe

pytestmark = pytest.mark.filterwarnings("error")

KINDS = [
    SegmenterSettings(),
    SessionSettings(),
    SpeechSettings(),
    ConnectionSettings(),
    VoiceSettings(),
    TwilioSettings(),
    ClassifierSettings(),
    LoadSettings("ws://127.0.0.1:5005"),
    RemoteSettings(),
    load_recipe("default"),
]
ODD = st.sampled_from([10**400, "1e400", "nan", "https://[", "https://[::1", "http://a:b", "1_0", " 1", True, {1: 2}, [None]])


@st.composite
def written(draw: Any) -> Any:
    """A kind of settings, and what somebody wrote for it."""
    kind = draw(st.sampled_from(KINDS))
    defaults = asdict(kind)
    change = st.dictionaries(st.sampled_from(sorted(defaults)), values | ODD | st.integers(0, 5000), max_size=4)
    return type(kind), {**draw(st.sampled_from([defaults, {}])), **draw(change | objects(["vad", "url", "recipe"]))}


@fuzz(written=written())
@example(written=(SegmenterSettings, {"threshold": 10**400}))
@example(written=(TwilioSettings, {"public_url": "https://["}))
@example(written=(SegmenterSettings, {"vad": "\n" * 5000}))
def test_settings_are_taken_or_refused(written: Any) -> None:
    cls: Type[Any]
    cls, some = written
    try:
        settings = settings_from(cls, some, "credentials.yml")
    except ConfigError as error:
        return assert_words(error, 2000)  # all names that are allowed are long
    except TypeError as error:  # one that has to be named is missing
        assert cls in (LoadSettings, Recipe) and "missing" in str(error)
        return
    for value in asdict(settings).values():
        assert not isinstance(value, float) or math.isfinite(value)
    if isinstance(settings, SegmenterSettings):
        for complete in (None, 0.0, 0.5, 0.65, 1.0):
            assert 20 <= settings.silence_for(complete) <= 10_000
        if settings.vad == "webrtcvad":
            Segmenter(settings)
    if isinstance(settings, ConnectionSettings):
        assert Allowance(settings.max_messages_per_second, 5 * settings.max_messages_per_second).spend(1)
        assert settings.idle_timeout_ms / 1000 > 0 and settings.max_ahead_ms / 1000 > 0


@fuzz(some=values | st.dictionaries(st.integers() | st.tuples(st.integers()) | st.none(), values, max_size=3))
def test_what_is_no_mapping_of_settings_is_refused(some: Any) -> None:
    try:
        assert settings_from(SegmenterSettings, some, "config.yml") == SegmenterSettings()
    except ConfigError as error:
        assert_words(error, 1000 + len(repr(some)))


@fuzz(
    variables=st.dictionaries(
        st.sampled_from([PREFIX + "URL", PREFIX + "TIMEOUT_MS", PREFIX + "X", "PATH"]),
        st.text(max_size=30)
        | st.sampled_from(["http://gpu:8000, https://b", "http://", "http://a:99999", "500", "nan", "-1", "1e999"]),
    )
)
def test_the_environment(variables: Any) -> None:
    try:
        settings = RemoteSettings.read(variables)
    except ConfigError:
        return
    assert 0 < settings.timeout_ms < math.inf and all(url.startswith("http") for url in map(str.lower, settings.urls))


# ---------------------------------------------------------------- recipes

RECIPE = yaml.safe_dump(asdict(load_recipe("default"))).encode()
YAML = st.sampled_from(
    [b"seed: 2020-13-45", b"seed: !!int ''", b"seed: !!float x", b"seed: !!timestamp x", b"? [a]\n: b", b"{" * 2000, b"- " * 2000,
     b"a: &a [*a]", b"seed: !!python/object/apply:os.getcwd []", b"&a {*a: 1}", b"seed: 1:60:99", b"seed: !!binary '\xc3'", b"<<: 1"]
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@fuzz(share=0.2, content=YAML | st.binary(max_size=60) | objects(["seed", "epochs"]).map(lambda some: json.dumps(some).encode()))
def test_a_recipes_file_is_read_or_refused(folder: Path, content: bytes) -> None:
    assert_read_or_refused(folder, content)


@fuzz_changed([RECIPE], share=0.01)  # PyYAML is slow
def test_a_recipe_that_was_tampered_with_is_read_or_refused(folder: Path, content: bytes) -> None:
    assert_read_or_refused(folder, content)


def assert_read_or_refused(folder: Path, content: bytes) -> None:
    try:
        recipe = load_recipe(str(write(folder / "recipe.yml", content)))
    except ConfigError as error:
        return assert_words(ConfigError(str(error).replace("\n", " ")), 3000)  # PyYAML shows where, in several lines
    assert_sound(recipe)


@fuzz(
    recipe=st.text(max_size=300)
    | st.sampled_from(["default", ".", "/", "/dev/zero", "x" * 5000, "\0", "\ud800"])
    | tampered(asdict(load_recipe("default"))).filter(lambda some: isinstance(some, (str, dict)))
)
def test_a_recipe_by_any_name_or_mapping(recipe: Any) -> None:
    try:
        assert_sound(load_recipe(recipe))
    except ConfigError as error:
        assert 0 < len(str(error)) < 10_000


def assert_sound(recipe: Recipe) -> None:
    assert 1 <= recipe.epochs_for(100) and 1 <= recipe.shortened(0.5).epochs
    for value in asdict(recipe).values():
        assert not isinstance(value, float) or math.isfinite(value)


# ---------------------------------------------------------------- models

MODEL = {
    "format": FORMAT,
    "labels": ["balance", "greet", NON_SPEECH],
    "temperature": 1.2,
    "parity": {"int8_margin_error": 0.1},
    "front_end": asdict(FrontEnd()),
    "base_model": "whisper-mini",
    "metrics": {"accuracy": 0.9},
}


@fuzz(
    content=tampered(MODEL).map(lambda some: json.dumps(some).encode())
    | values.map(lambda some: json.dumps(some).encode())
    | st.binary(max_size=60),
)
@example(content=b"[" * 100_000)
@example(content=json.dumps(put_into(MODEL, ["labels"], [["a"], ["b"]])).encode())
@example(content=json.dumps(put_into(MODEL, ["labels"], [1, 2])).encode())
@example(content=json.dumps(put_into(MODEL, ["parity"], [1])).encode())
@example(content=json.dumps(put_into(MODEL, ["temperature"], 0)).encode())
@example(content=json.dumps(put_into(MODEL, ["temperature"], float("nan"))).encode())
@example(content=json.dumps(put_into(MODEL, ["front_end", "n_mels"], 10**9)).encode())
@example(content=json.dumps(put_into(MODEL, ["front_end", "padded"], "no")).encode())
def test_a_models_description_is_whole_or_refused(folder: Path, content: bytes) -> None:
    assert_whole_or_refused(folder, content)


@fuzz_changed([json.dumps(MODEL).encode()], share=0.4)
def test_a_models_description_that_was_tampered_with_is_whole_or_refused(folder: Path, content: bytes) -> None:
    assert_whole_or_refused(folder, content)


def assert_whole_or_refused(folder: Path, content: bytes) -> None:
    """Sealed as it is: who tampers with a model can do that, too."""
    try:
        described = json.loads(content)
        content = json.dumps(sealed(described, [])).encode() if isinstance(described, dict) else content
    except (ValueError, RecursionError):
        pass
    write(folder / MODEL_JSON, content)
    try:
        described = read_model_json(folder)
    except ModelError as error:
        return assert_words(error, 1000)
    assert len(set(described["labels"])) == len(described["labels"]) >= 2
    assert all(isinstance(label, str) for label in described["labels"])
    assert math.isfinite(described["temperature"]) and described["temperature"] > 0
    assert 0 <= described["parity"]["int8_margin_error"] < math.inf
    front_end = FrontEnd(**described["front_end"])
    assert 1 <= front_end.n_mels <= 256 and isinstance(front_end.padded, bool)
