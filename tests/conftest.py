"""One trained model and one running server for every end-to-end test: a `rasa init` project, made spoken by docs/builder.md."""

import re
import resource
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List

import fuzzing
import numpy as np
import pytest
import soundfile
import yaml
from hypothesis import settings

from assistant import BIN, PROJECT, QUIET, ROOT, Assistant
from chromium import CHROMIUM
from spoken_intents_training.dataset import Clip, read_clips

SHARED = ROOT.parent / "shared"
INTENTS = ("greet", "goodbye", "affirm", "deny")  # of `rasa init`, for which there are clips
CLIPS = 30  # an intent
# What a bot of `rasa init` has nothing of: an announcement to be heard to its end, keys, hanging up.
CONVERSATION = """
intents: [announce, explain, dtmf, hang_up]
entities: [digits, {branch: {influence_conversation: false}}]
slots: {branch: {type: text, influence_conversation: false, mappings: [{type: from_entity, entity: branch}]}}
responses:
  utter_announce: [{text: "This call is recorded for as long as it lasts, and kept for ninety days.", metadata: {barge_in: false}}]
  utter_explain: [{text: "You may ask me anything you like, at any time, and in your own words."}]
  utter_keys: [{text: "Keys."}, {text: "Keys, by voice.", channel: voice}]
  utter_hang_up: [{text: "Good night.", custom: {hangup: true}}]
rules:
- {rule: announce, steps: [{intent: announce}, {action: utter_announce}]}
- {rule: explain, steps: [{intent: explain}, {action: utter_explain}]}
- {rule: keys, steps: [{intent: dtmf}, {action: utter_keys}]}
- {rule: hang up, steps: [{intent: hang_up}, {action: utter_hang_up}]}
"""
TELEPHONE = {  # a minute of a call in a second or two, so it may come much faster than time passes
    "auth_token": "the account's auth token",
    "public_url": "https://bot.example",
    "initial_message": "/announce",
    "silence_timeout_ms": 0,
    "max_ahead_ms": 3_600_000,
    "max_messages_per_second": 100_000,
}
LEAVE = {"text": "Bye. Thank you for calling.", "custom": {"hangup": True}, "channel": "twilio_media_streams"}


settings.load_profile("fast")  # unless --hypothesis-profile says otherwise


def pytest_runtest_logfinish() -> None:
    """Keeps how many cases each fuzz test of a long run has had, also where that is cut off."""
    if settings.get_current_profile_name() == "long":
        fuzzing.report()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """After a long run: how many cases each fuzz test has had."""
    if settings.get_current_profile_name() == "long":
        terminalreporter.section("cases")
        terminalreporter.write_line("\n".join(fuzzing.report()))


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """Skips, with the reason, what this machine has not got."""
    for item in items:
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason="needs ../shared"))
        if item.get_closest_marker("browser") and not Path(CHROMIUM).is_file():
            item.add_marker(pytest.mark.skip(reason=f"needs Chromium at {CHROMIUM}, or where the variable CHROMIUM says"))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base model that fine-tunes in seconds: one layer, 64 wide, of random weights."""
    import torch
    from transformers import WhisperConfig

    from spoken_intents_training.distill import save_base
    from spoken_intents_training.modeling import ShortContextClassifier

    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=64, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=128, num_hidden_layers=1, classifier_proj_size=32
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("base")
    save_base(ShortContextClassifier(config), folder)
    return str(folder)


@pytest.fixture(scope="session")
def buzzes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 24 clips with two "intents" anybody can tell apart: vowel-like buzzes of a low and of a high voice."""
    folder = tmp_path_factory.mktemp("buzzes")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        intent, pitch = (("low", 110), ("high", 310))[number % 2]
        time = np.arange(int(rng.uniform(0.4, 0.9) * 16_000)) / 16_000
        buzz = sum(np.sin(2 * np.pi * pitch * rng.uniform(0.97, 1.03) * k * time) / k for k in range(1, 9))
        soundfile.write(folder / f"{intent}{number}.wav", 0.1 * buzz, 16_000)
        rows.append(f"{intent}{number}.wav,{intent}\n")
    (folder / "clips.csv").write_text("path,intent\n" + "".join(rows))
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def clips(buzzes: Path) -> List[Clip]:
    return read_clips(buzzes)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """So that sums come out the same in every process; and tiny models gain nothing from more threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def disk_that_takes(most_bytes: int) -> Iterator[None]:
    """No file can be written beyond `most_bytes` inside: what a full disk does, for real (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def builder_blocks() -> Dict[str, str]:
    """The YAML blocks of docs/builder.md by the file they are for, which is their first line."""
    blocks = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", (ROOT / "docs/builder.md").read_text(), re.S | re.M)
    return dict(blocks)


@pytest.fixture(scope="session")
def spoken_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `rasa init` project with the steps of docs/builder.md done, trained by `rasa train`; its log is train.log."""
    from rasa.cli import scaffold

    project = tmp_path_factory.mktemp("project") / "bot"
    scaffold.create_initial_project(str(project))
    blocks = builder_blocks()
    (project / "config.yml").write_text("assistant_id: bot\nrecipe: default.v1\nlanguage: en\n" + blocks["config.yml"])
    voice = yaml.safe_load(blocks["credentials.yml"])
    voice["spoken_intents.channels.voice.VoiceInput"].update(
        idle_timeout_ms=5000,
        max_upload_ms=60_000,
        max_ahead_ms=20_000,
        max_messages_per_second=200,
        allowed_origins=["https://friend.example"],
        recordings="recordings",
    )
    (project / "credentials.yml").write_text(
        yaml.safe_dump({"rest": None, **voice, "spoken_intents.channels.twilio.TwilioInput": TELEPHONE})
    )
    spoken = yaml.safe_load(blocks["data/spoken.yml"])
    conversation = yaml.safe_load(CONVERSATION)
    spoken["rules"] = conversation.pop("rules")
    domain = yaml.safe_load((project / "domain.yml").read_text())
    domain["intents"] += conversation["intents"]
    domain["entities"], domain["slots"] = conversation["entities"], conversation["slots"]
    domain["responses"].update(conversation["responses"])
    domain["responses"]["utter_goodbye"].append(LEAVE)
    (project / "domain.yml").write_text(yaml.safe_dump(domain))
    spoken["nlu"] = [{"intent": intent, "examples": add_clips(project, intent)} for intent in INTENTS]
    (project / "data/spoken.yml").write_text(yaml.safe_dump(spoken))
    run_rasa(project, "train", log="train.log")
    return project


def add_clips(project: Path, intent: str) -> str:
    """Copies bundled clips of `intent` into the project's audio directory; returns its examples."""
    folder = project / "audio" / intent
    folder.mkdir(parents=True)
    clips = sorted((PROJECT / "audio/train" / intent).glob("*.ogg"))[:CLIPS]
    for number, clip in enumerate(clips, 1):
        shutil.copy(clip, folder / f"{number}.ogg")
    return "".join(f"- audio/{intent}/{number}.ogg\n" for number in range(1, len(clips) + 1))


def run_rasa(project: Path, *arguments: str, log: str = "rasa.log", check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Runs the Rasa command in `project`; its output also goes to `log` there."""
    import os

    done = subprocess.run(
        [str(BIN / "rasa"), *arguments], cwd=project, env={**os.environ, **QUIET}, capture_output=True, text=True, timeout=600
    )
    (project / log).write_text(done.stdout + done.stderr)
    if check and done.returncode:
        raise AssertionError(f"rasa {' '.join(arguments)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done


@pytest.fixture(scope="session")
def server(spoken_project: Path) -> Iterator[Assistant]:
    """The trained project, running."""
    with Assistant(spoken_project, actions=False, api=True) as assistant:
        yield assistant
