"""The two components: text classifiers never see references, every setting and clip counts, serving needs no torch."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np
import pytest
import yaml
from conftest import run_rasa
from rasa.engine.graph import ExecutionContext, GraphSchema
from rasa.engine.recipes.default_recipe import DefaultV1Recipe
from rasa.engine.storage.local_model_storage import LocalModelStorage
from rasa.engine.storage.resource import Resource
from rasa.nlu.classifiers.diet_classifier import DIETClassifier
from rasa.nlu.classifiers.logistic_regression_classifier import LogisticRegressionClassifier
from rasa.nlu.featurizers.sparse_featurizer.count_vectors_featurizer import CountVectorsFeaturizer
from rasa.nlu.tokenizers.whitespace_tokenizer import WhitespaceTokenizer
from rasa.shared.data import TrainingType
from rasa.shared.nlu.training_data.message import Message
from rasa.shared.nlu.training_data.training_data import TrainingData

from assistant import BIN, PROJECT, ROOT, Assistant
from spoken_intents.audio import read_audio
from spoken_intents.client import VoiceClient
from spoken_intents.errors import AudioReferenceError, ConfigError, DataError
from spoken_intents.nlu import ClassifierSettings, SpokenIntentClassifier, SpokenMessages
from spoken_intents.recognizer import Recognition, Recognizer
from spoken_intents.recordings import Recording, read_recording, recording_files
from spoken_intents.utterances import LiveUtterance, hand_off

# ------------------------------------------------------------------ a process of its own

FRESH = """
import sys
for name in ("torch", "transformers", "onnx", "datasets", "accelerate", "spoken_intents_training"):
    sys.modules[name] = None  # an import of it would raise
import asyncio, json
from rasa.core.agent import Agent
from rasa.core.test import test
import spoken_intents.channels.twilio, spoken_intents.channels.voice

async def parsed(text):
    try:
        return await agent.parse_message(text)
    except Exception as error:
        return {"error": type(error.__cause__ or error).__name__}  # Rasa wraps it

async def replayed(story):
    result = await test(story, agent, out_directory=sys.argv[3], e2e=True, disable_plotting=True)
    return result["report"]["conversation_accuracy"]["correct"]

async def answers():
    return {asked: await (replayed if asked.endswith(".yml") else parsed)(asked) for asked in json.load(open(sys.argv[2]))}

agent = Agent.load(sys.argv[1])
print("\\n" + json.dumps(asyncio.run(answers())))
"""
NOWHERE = ("audio/nobody/1.wav", "audio/../config/x.wav", "live/0123.wav")


@dataclass(frozen=True)
class Fresh:
    """What a process says that has loaded the trained project, and serves nobody: as Rasa's tests and shell do.

    Attributes:
        answers: By what it was asked: what a text was heard as, or how many stories of a file came out as they say.
        clips: Some that the model learnt from.
        story: The call that was recorded, as a test story.
    """

    answers: Dict[str, Any]
    clips: List[Path]
    story: str


@pytest.fixture(scope="module")
def fresh(server: Assistant, spoken_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fresh]:
    """One process for all that is asked of one: it takes half a minute to start."""
    folder = tmp_path_factory.mktemp("fresh")
    clips = [clip.relative_to(spoken_project) for clip in sorted(spoken_project.glob("audio/*/*.ogg"))[::10]]
    renamed, kept = spoken_project / "audio/greet hello hi.ogg", spoken_project / "audio/of a call"
    try:  # every clip in audio/ counts for Rasa's cache: these go again
        shutil.copy(spoken_project / "audio/deny/3.ogg", renamed)
        story = recorded_call(server, spoken_project, kept)
        (folder / "test_call.yml").write_text(story)
        (folder / "test_wrong.yml").write_text(story.replace("utter_goodbye", "utter_greet"))
        asked = [*map(str, clips), "audio/deny/1.ogg", "audio/deny/3.ogg", "audio/greet hello hi.ogg", "are you a bot?", *NOWHERE]
        (folder / "asked.json").write_text(json.dumps([*asked, str(folder / "test_call.yml"), str(folder / "test_wrong.yml")]))
        model = next((spoken_project / "models").glob("*.tar.gz"))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FRESH, str(model), str(folder / "asked.json"), str(folder)],
            cwd=spoken_project, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    finally:
        renamed.unlink(missing_ok=True)
        shutil.rmtree(kept, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = {
        Path(asked).name if asked.endswith(".yml") else asked: said
        for asked, said in json.loads(done.stdout.splitlines()[-1]).items()
    }
    yield Fresh(answers, clips, story)


def recorded_call(server: Assistant, project: Path, kept: Path) -> str:
    """Two clips said and something typed in between, as `spoken-intents recordings story` tells it; its clips are copied to `kept`."""

    async def call() -> None:
        async with VoiceClient(server.voice, sender="a recorded caller") as client:
            await client.say(read_audio(project / "audio/greet/3.ogg", 30))
            await client.type("/announce")
            await client.say(read_audio(project / "audio/goodbye/4.ogg", 30))

    def recordings() -> List[Recording]:
        found = map(read_recording, recording_files(project / "recordings"))
        return [one for one in found if one.about.sender == "a recorded caller"]

    before = len(recordings())
    asyncio.run(call())
    deadline = time.monotonic() + 20
    while len(recordings()) < before + 2:
        assert time.monotonic() < deadline, "the call was not recorded"
        time.sleep(0.05)
    command = [str(BIN / "spoken-intents"), "recordings", "story", recordings()[-1].about.call_id]
    story = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout
    kept.mkdir()
    for place in re.findall(r"recordings/.*\.flac", story):
        shutil.copy(project / place, kept)
    return re.sub("recordings/.*/", f"audio/{kept.name}/", story)


def post(server: Assistant, path: str, **fields: Any) -> Any:
    request = urllib.request.Request(f"{server.http}/{path}", json.dumps(fields).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


# ------------------------------------------------------------------ beside text classifiers


TYPED = {"balance": ["how much money do I have", "my balance please"], "freeze": ["freeze my card", "block the card now"]}


def text_pipeline(folder: Path, clip_names: List[str], classifier: Any, settings: Dict[str, Any]) -> List[Dict[str, Any]]:
    """What a typed and a spoken message are classified as by `classifier`, trained beside spoken examples of these names."""
    storage = LocalModelStorage(folder)
    context = ExecutionContext(GraphSchema({}), "model")

    def make(cls: Any, settings: Dict[str, Any]) -> Any:
        config = {**cls.get_default_config(), **settings}
        return cls.create(config, storage, Resource(cls.__name__), context)

    spoken, tokenizer = SpokenMessages.create({}, storage, Resource("spoken"), context), make(WhitespaceTokenizer, {})
    featurizer, classify = make(CountVectorsFeaturizer, {}), make(classifier, settings)
    examples = [Message.build(text=text, intent=intent) for intent, texts in TYPED.items() for text in texts]
    examples += [Message.build(text=name, intent="freeze") for name in clip_names]
    data = spoken.process_training_data(TrainingData(examples))
    data = tokenizer.process_training_data(data)
    featurizer.train(data)
    data = featurizer.process_training_data(data)
    classify.train(data)
    messages = [Message(data={"text": "freeze my card"}), Message(data={"text": clip_names[0]})]
    for component in (spoken, tokenizer, featurizer, classify):
        messages = component.process(messages)
    return [{"intent": message.get("intent"), "ranking": message.get("intent_ranking")} for message in messages]


@pytest.mark.parametrize(
    ("classifier", "settings"),
    [(LogisticRegressionClassifier, {}), (DIETClassifier, {"epochs": 3, "random_seed": 1, "entity_recognition": False})],
)
def test_renaming_a_clip_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classifier: Any, settings: Dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = (["audio/freeze/1.wav", "audio/freeze/2.wav"], ["audio/balance_money_have/x.ogg", "audio/my/how much.flac"])
    results = []
    for number, clips in enumerate(names):
        (tmp_path / str(number)).mkdir()
        for clip in clips:
            Path(clip).parent.mkdir(parents=True, exist_ok=True)
            Path(clip).touch()
        results.append(text_pipeline(tmp_path / str(number), clips, classifier, settings))
    first, second = results
    assert json.dumps(first, default=float) == json.dumps(second, default=float)
    assert first[0]["intent"]["name"] in TYPED


def test_typed_and_spoken_messages_in_one_pipeline(fresh: Fresh) -> None:
    heard = [fresh.answers[str(clip)] for clip in fresh.clips]
    right = sum(answer["intent"]["name"] == clip.parent.name for answer, clip in zip(heard, fresh.clips))
    assert len(heard) > 10 and right >= len(heard) * 0.8, f"{right} of {len(heard)} clips that it was trained on"
    for answer, clip in zip(heard, fresh.clips):
        assert answer["text"] == str(clip)
        assert answer["entities"] == []
        assert sorted(entry["name"] for entry in answer["intent_ranking"] if entry["name"] != "nlu_fallback") == sorted(
            ["affirm", "deny", "goodbye", "greet"]
        )
    typed = fresh.answers["are you a bot?"]
    assert typed["intent"]["name"] == "bot_challenge"
    assert len(typed["intent_ranking"]) == 7, "DIET's intents, with those nobody spoke"


def test_a_renamed_clip_is_heard_the_same(fresh: Fresh) -> None:
    first, second = (
        {**fresh.answers[name], "text": "", "message_id": ""} for name in ("audio/deny/3.ogg", "audio/greet hello hi.ogg")
    )
    assert first == second


def test_references_that_lead_nowhere_are_errors_not_intents(fresh: Fresh) -> None:
    assert [fresh.answers[reference] for reference in NOWHERE] == [{"error": "AudioReferenceError"}] * 3


def test_a_recorded_call_is_replayed_as_a_test_story(fresh: Fresh) -> None:
    """What `recordings story` tells is what `rasa test core` takes, and it comes out the same."""
    steps = [next(iter(step.values())) for step in yaml.safe_load(fresh.story)["stories"][0]["steps"]]
    assert steps == ["greet", "utter_greet", "announce", "utter_announce", "goodbye", "utter_goodbye"]
    assert (fresh.answers["test_call.yml"], fresh.answers["test_wrong.yml"]) == (1, 0)


def test_a_server_that_hears_calls_reads_no_files_for_whoever_writes_to_it(server: Assistant, spoken_project: Path) -> None:
    """Over channels that know nothing of speech. The bot answers as to anything that it has not understood."""
    clip = sorted(spoken_project.glob("audio/deny/*.ogg"))[0].relative_to(spoken_project)
    for reference in (
        str(clip),
        "audio/nobody/1.wav",
        "audio/../../../etc/x.wav",
        f"live/{'0' * 32}.wav",
        "audio/\x1b[2J\u202e.wav",
    ):
        heard = post(server, "model/parse", text=reference)
        assert heard["intent"]["name"] == "nlu_fallback" and heard["text"] == reference
        metadata = {"call_id": "0" * 32, "spoken": {"intent": "deny"}}
        post(server, "webhooks/rest/webhook", sender="writer", message=reference, metadata=metadata)
    assert post(server, "webhooks/rest/webhook", sender="writer", message="/announce")[0]["text"].startswith("This call")
    tracker = json.loads(urllib.request.urlopen(f"{server.http}/conversations/writer/tracker", timeout=60).read())
    heard_as = [event["parse_data"]["intent"]["name"] for event in tracker["events"] if event["event"] == "user"]
    assert heard_as == [*["nlu_fallback"] * 5, "announce"]
    log = server.log.read_text()
    assert f"A message was heard as nothing. {clip}: this server hears calls and reads no files." in log
    assert "set audio_files: true for each channel of speech" in log
    assert "\x1b[2J" not in log.replace("audio/\x1b", ""), "ours is shown without it"


# ------------------------------------------------------------------ training


def component(folder: Path, **settings: Any) -> SpokenIntentClassifier:
    config = {**SpokenIntentClassifier.get_default_config(), "base_model": "whisper-mini", **settings}
    context = ExecutionContext(GraphSchema({}), "model")
    folder.mkdir(exist_ok=True)
    return SpokenIntentClassifier.create(config, LocalModelStorage(folder), Resource("spoken"), context)


def spoken_data(*references: str) -> TrainingData:
    data = TrainingData([Message.build(text=reference, intent=Path(reference).parent.name) for reference in references])
    return SpokenMessages().process_training_data(data)


def test_missing_clips_are_named_before_any_component_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"(?s)2 clip\(s\) missing.*audio/freeze/1.wav \(intent freeze\)"):
        spoken_data("audio/freeze/1.wav", "audio/balance/1.wav")


def test_spoken_messages_must_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = TrainingData([Message.build(text="audio/freeze/1.wav", intent="freeze")])
    context = ExecutionContext(GraphSchema({}), "model")
    storage = LocalModelStorage(tmp_path)
    tokenizer = WhitespaceTokenizer.create(WhitespaceTokenizer.get_default_config(), storage, Resource("t"), context)
    with pytest.raises(ConfigError, match="comes first in the pipeline"):
        SpokenMessages().process_training_data(tokenizer.process_training_data(data))


def test_training_says_which_extra_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audio/freeze").mkdir(parents=True)
    shutil.copy(PROJECT / "audio/demo/freeze.ogg", tmp_path / "audio/freeze/1.ogg")
    monkeypatch.setitem(sys.modules, "spoken_intents_training.finetune", None)
    with pytest.raises(ConfigError, match=r"Training needs the extra: pip install 'rasa-spoken-intents\[train\]'"):
        component(tmp_path / "storage").train(spoken_data("audio/freeze/1.ogg"))


def test_clips_outside_the_audio_directories_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for intent in ("freeze", "balance"):
        (tmp_path / "elsewhere" / intent).mkdir(parents=True)
        shutil.copy(PROJECT / "audio/demo/freeze.ogg", tmp_path / "elsewhere" / intent / "1.ogg")
    with pytest.raises(AudioReferenceError, match="outside the audio directories"):
        component(tmp_path / "m").train(spoken_data("elsewhere/freeze/1.ogg", "elsewhere/balance/1.ogg"))


def test_no_spoken_examples_is_a_warning_not_a_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    untrained = component(tmp_path / "m")
    untrained.train(TrainingData([Message.build(text="hello there", intent="greet")]))
    assert "No spoken examples" in caplog.text
    message = Message(data={"text": "", "audio": "audio/x/1.wav"})
    untrained.process([message])
    assert message.get("intent") == {"name": None, "confidence": 0.0}
    assert message.get("text") == "audio/x/1.wav"


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"base_modell": "x"}, "unknown base_modell. Allowed: audio_directories, base_model"), ({"epochs": "many"}, "epochs takes")],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: Dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        component(tmp_path / "m", **settings)


def test_the_defaults_are_the_best_recipe_on_whisper_base() -> None:
    from spoken_intents_training.recipe import load_recipe

    settings = ClassifierSettings()
    assert settings.base_model == "openai/whisper-base.en"
    assert settings.recipe == "default"
    assert load_recipe(settings.recipe).context == "short"


@pytest.mark.parametrize("settings", [{}, {"epochs": 4}])
def test_rasa_plans_a_finetuning(settings: Dict[str, Any]) -> None:
    """Rasa multiplies the default `epochs` by --epoch-fraction."""
    component = {"name": "spoken_intents.nlu.SpokenIntentClassifier", **settings}
    config = {"recipe": "default.v1", "language": "en", "pipeline": [{"name": "spoken_intents.nlu.SpokenMessages"}, component]}
    fraction = {"finetuning_epoch_fraction": 0.5}
    graph = DefaultV1Recipe().graph_config_for_recipe(config, fraction, TrainingType.NLU, is_finetuning=True)
    (planned,) = (node.config for name, node in graph.train_schema.nodes.items() if name.startswith("train_spoken"))
    assert planned["epochs"] == settings.get("epochs", 0) / 2 and planned["finetuning_epoch_fraction"] == 0.5
    assert ClassifierSettings.read(planned).epochs == planned["epochs"]


@pytest.mark.slow
def test_rasa_train_finetune_goes_on_from_the_previous_model(spoken_project: Path, tmp_path: Path) -> None:
    project = tmp_path / "bot"
    shutil.copytree(spoken_project, project)
    done = run_rasa(project, "train", "--finetune", "--epoch-fraction", "0.02")
    said = done.stdout + done.stderr
    assert "Fine-tuning whisper-mini on" in said and "held-out clips right" in said
    assert "Fitting the classifier" not in said
    (project / "data/spoken.yml").write_text((project / "data/spoken.yml").read_text().replace("intent: deny", "intent: refuse"))
    refused = run_rasa(project, "train", "--finetune", check=False)
    assert refused.returncode and "Cannot finetune because" in refused.stdout + refused.stderr


def test_what_makes_the_cache_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes and settings give the same fingerprint; another byte, clip, recipe or base model another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audio").mkdir()
    clip = tmp_path / "audio/1.ogg"
    shutil.copy(PROJECT / "audio/demo/freeze.ogg", clip)
    (tmp_path / "base").mkdir()
    (tmp_path / "base/model.safetensors").write_bytes(b"weights")
    (tmp_path / "mine.yml").write_text("epochs: 2\n")
    config = {**SpokenIntentClassifier.get_default_config(), "base_model": "base", "recipe": "mine.yml"}
    seen = [SpokenIntentClassifier.fingerprint_addon(config)]
    assert SpokenIntentClassifier.fingerprint_addon(config) == seen[0]
    clip.write_bytes(clip.read_bytes()[:-1] + b"!")
    seen.append(SpokenIntentClassifier.fingerprint_addon(config))
    (tmp_path / "mine.yml").write_text("epochs: 3\n")
    seen.append(SpokenIntentClassifier.fingerprint_addon(config))
    (tmp_path / "base/model.safetensors").write_bytes(b"better weights")
    seen.append(SpokenIntentClassifier.fingerprint_addon(config))
    shutil.copy(clip, tmp_path / "audio/2.ogg")
    seen.append(SpokenIntentClassifier.fingerprint_addon(config))
    assert None not in seen
    assert len(set(seen)) == 5
    assert SpokenIntentClassifier.fingerprint_addon({"output": Resource("x")}) is None


def test_rasa_train_says_what_it_does(spoken_project: Path) -> None:
    log = (spoken_project / "train.log").read_text()
    assert "Fine-tuning whisper-mini on" in log
    assert "steps/s" in log
    assert "s left" in log
    assert "held-out clips right" in log


# ------------------------------------------------------------------ serving


def test_a_fresh_process_without_torch_or_the_training_package_hears_the_same(
    fresh: Fresh, spoken_project: Path, tmp_path: Path
) -> None:
    with tarfile.open(next((spoken_project / "models").glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path)
    (artefact,) = (file.parent for file in tmp_path.rglob("model.json"))
    here = Recognizer(artefact).classify(read_audio(spoken_project / "audio/deny/1.ogg", 30)).ranking
    ranking = [entry for entry in fresh.answers["audio/deny/1.ogg"]["intent_ranking"] if entry["name"] != "nlu_fallback"]
    assert [entry["name"] for entry in ranking] == [name for name, _ in here]
    assert np.allclose([entry["confidence"] for entry in ranking], [confidence for _, confidence in here], atol=1e-4)


class Scripted:
    fingerprint = "this model"

    def classify(self, samples: np.ndarray) -> Recognition:
        return Recognition((("computed", 1.0),), 0.0, self.fingerprint, 1.0)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SpokenIntentClassifier:
    """The component with a recognizer by script, in a project of one clip, `audio/1.ogg`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audio").mkdir()
    shutil.copy(PROJECT / "audio/demo/freeze.ogg", tmp_path / "audio/1.ogg")
    storage = LocalModelStorage(tmp_path)
    return SpokenIntentClassifier(ClassifierSettings(), storage, Resource("x"), Scripted())  # type: ignore[arg-type]


def intent_of(classifier: SpokenIntentClassifier, reference: str) -> Any:
    message = Message(data={"text": "", "audio": reference})
    classifier.process([message])
    assert message.get("text") == reference
    assert message.get("intent") == (message.get("intent_ranking") or [{"name": None, "confidence": 0.0}])[0]
    return message.get("intent")["name"]


def test_a_ranking_of_the_same_model_is_used_and_of_another_is_not(scripted: SpokenIntentClassifier) -> None:
    for model, expected in (("this model", "ready"), ("another model", "computed")):
        recognition = Recognition((("ready", 0.9), ("computed", 0.1)), 0.0, model, 1.0)
        reference = hand_off.put(LiveUtterance(np.zeros(16_000, dtype=np.float32), recognition))
        assert intent_of(scripted, reference) == expected
        with pytest.raises(AudioReferenceError, match="used once"):
            intent_of(scripted, reference)


def test_files_are_read_but_where_calls_are_heard(scripted: SpokenIntentClassifier, caplog: pytest.LogCaptureFixture) -> None:
    assert intent_of(scripted, "audio/1.ogg") == "computed"
    call = copy_context()
    live = call.run(hand_off.put, LiveUtterance(np.zeros(16_000, dtype=np.float32), None))
    hand_off.serve(scripted)
    try:
        for reference in ("audio/1.ogg", "audio/2.ogg", "live/guessed.wav", live):
            assert intent_of(scripted, reference) is None
            assert f"heard as nothing. {reference}: " in caplog.messages[-1]
        assert call.run(intent_of, scripted, live) == "computed", "the call itself is heard all the same"
    finally:
        hand_off.leave(scripted)
    assert len(caplog.messages) == 4
    assert intent_of(scripted, "audio/1.ogg") == "computed"
    with pytest.raises(AudioReferenceError, match="no such file"):
        intent_of(scripted, "audio/2.ogg")


def imported_by(file: Path) -> List[str]:
    import ast

    names: List[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append((node.module or "").split(".")[0])
    return names


def test_only_the_edges_import_rasa_and_only_training_imports_torch() -> None:
    plugin = ROOT / "plugin/spoken_intents"
    files = sorted(plugin.rglob("*.py"))
    assert len(files) > 10
    for file in files:
        names = imported_by(file)
        assert not {"torch", "transformers"} & set(names), file
        edge = file.name == "nlu.py" or file.parent.name == "channels"
        assert edge or not {"rasa", "sanic"} & set(names), file


# ------------------------------------------------------------------ Rasa's own commands on speech


@pytest.mark.slow
def test_rasas_commands_take_speech_unchanged(spoken_project: Path) -> None:
    from conftest import run_rasa

    run_rasa(spoken_project, "data", "validate")
    run_rasa(spoken_project, "data", "split", "nlu", "-u", "data/spoken.yml", "--out", "split")
    run_rasa(spoken_project, "test", "nlu", "-u", "split/test_data.yml", "--no-plot")
    report = json.loads((spoken_project / "results/intent_report.json").read_text())
    assert report["accuracy"] > 0.7
    (spoken_project / "tests/test_spoken.yml").write_text(
        "stories:\n- story: spoken\n  steps:\n  - user: |\n      audio/greet/11.ogg\n    intent: greet\n  - action: utter_greet\n"
    )
    run_rasa(spoken_project, "test", "core", "--e2e", "-s", "tests/test_spoken.yml", "--no-plot")
    assert "audio" not in (spoken_project / "results/failed_test_stories.yml").read_text()


@pytest.mark.slow
def test_nothing_is_fine_tuned_twice(spoken_project: Path) -> None:
    from conftest import run_rasa

    assert "Fine-tuning" not in run_rasa(spoken_project, "train").stdout + (spoken_project / "rasa.log").read_text()
