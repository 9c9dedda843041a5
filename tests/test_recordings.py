"""What callers said, on disk: whole or not there, as much and as long as is allowed, and removed when its speaker wants it."""

import asyncio
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import aiohttp
import numpy as np
import pytest
import soundfile
import yaml
from conftest import disk_that_takes
from rasa.shared.core.domain import Domain
from rasa.shared.core.events import (
    ActionExecuted,
    ActiveLoop,
    BotUttered,
    SessionStarted,
    SlotSet,
    UserUttered,
)
from rasa.shared.core.trackers import DialogueStateTracker
from sanic import Sanic
from telephone import Telephone
from test_session import NOISE, LoudVad, ScriptedRecognizer, said

from counted import Counted
from in_process import PATIENCE_S, run, serving
from spoken_intents import recordings as module
from spoken_intents import segmenter
from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16, read_audio
from spoken_intents.channels import stories
from spoken_intents.channels.stories import steps_between
from spoken_intents.channels.twilio import TwilioInput, TwilioSettings
from spoken_intents.channels.voice import VoiceInput, VoiceSettings
from spoken_intents.cli import typed
from spoken_intents.errors import AudioError, ConfigError, DataError
from spoken_intents.files import write_whole
from spoken_intents.recordings import About, Recorder, RecordingSettings, read_recording, recording_files

ABOUT = About("anna", "5c1e", "voice", 1, "2026-05-12T14:25:01.000+00:00", "balance", 0.98)
SAMPLES = (0.1 * np.sin(np.arange(SAMPLE_RATE) / 5)).astype(np.float32)
OLD = f"120000000000-{'0' * 16}.flac"  # a recording's name
QUICK = {
    "start_window_ms": 60, "min_speech_duration_ms": 60, "pause_ms": 60, "min_silence_duration_ms": 100, "speech_pad_ms": 0,
    "turn_end": "fixed", "silence_timeout_ms": 0, "speech": "none",
}  # fmt: skip


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "make_vad", lambda *_: LoudVad())
    monkeypatch.setattr(Sanic, "test_mode", True)


def keep(directory: Path, *abouts: About, samples: np.ndarray = SAMPLES, **settings: Any) -> List[Path]:
    """Has these recorded and the recorder ended; returns all there is."""
    recorder = Recorder(RecordingSettings(str(directory), **settings))
    recorder.start()
    for about in abouts:
        recorder.record(samples, about)
    recorder.close()
    return recording_files(directory)


def counted(counts: Counted, outcome: str) -> float:
    return counts("spoken_intents_recordings_total", outcome=outcome)


# ------------------------------------------------------------------ one recording


def test_a_recording_holds_what_was_said_and_what_is_known_of_it(tmp_path: Path) -> None:
    about = replace(ABOUT, sender="Änne\n\0", steps=[{"user": "live/1.wav", "intent": "balance"}, {"action": "utter_balance"}])
    (file,) = keep(tmp_path / "new" / "recordings", about)
    found = read_recording(file)
    assert found.about == about and found.seconds == 1.0
    np.testing.assert_allclose(read_audio(file, 30), SAMPLES, atol=1 / 32768)
    assert soundfile.info(file).subtype == "PCM_16" and file.suffix == ".flac"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d/\d{12}-[0-9a-f]{16}\.flac", str(file.relative_to(tmp_path / "new/recordings")))


def test_loud_samples_are_clipped_and_do_not_turn_over(tmp_path: Path) -> None:
    (file,) = keep(tmp_path, ABOUT, samples=np.array([0.5, 1.5, -1.5, 1.0], dtype=np.float32))
    np.testing.assert_allclose(read_audio(file, 30), [0.5, 1, -1, 1], atol=1e-4)


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        (file,) = keep(tmp_path / "recordings", ABOUT)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent, tmp_path / "recordings")]
    assert modes == [0o600, 0o700, 0o700]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"recordings_mb": 0}, "recordings_mb takes 1 to 10000000, got 0"),
        ({"recordings_days": 0}, "recordings_days takes 1 to 3650, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: Dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RecordingSettings(**settings)


def test_a_directory_that_cannot_be_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="recordings .*is no directory that can be written to"):
        VoiceInput(VoiceSettings(**QUICK, recordings=str(tmp_path / "file" / "inside")))
    assert VoiceInput(VoiceSettings(**QUICK)).recorder is None, "off, when nobody asks for it"


@pytest.mark.parametrize("content", [b"", b"fLaC", b"half a file", b"no comment"])
def test_what_is_no_recording_is_told(tmp_path: Path, content: bytes) -> None:
    (file,) = keep(tmp_path, ABOUT)
    if content == b"no comment":
        soundfile.write(file, SAMPLES, SAMPLE_RATE)
    else:
        file.write_bytes(file.read_bytes()[:100] if content == b"half a file" else content)
    with pytest.raises(AudioError, match="is no recording of a call, or damaged"):
        read_recording(file)


# ------------------------------------------------------------------ as much and as long as is allowed


def test_the_oldest_go_first(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, 10 * SAMPLE_RATE).astype(np.float32)  # 320 kB, whatever FLAC does
    counts = Counted()
    recorder = Recorder(RecordingSettings(str(tmp_path), recordings_mb=1))
    recorder.start()
    for number in range(8):
        recorder.record(noise, replace(ABOUT, turn=number))
        while counted(counts, "written") <= number:
            time.sleep(0.001)
        assert sum(file.stat().st_size for file in recording_files(tmp_path)) <= 2**20
    recorder.close()
    kept = [read_recording(file).about.turn for file in recording_files(tmp_path)]
    assert kept == sorted(kept) and kept[-1] == 7 and 2 <= len(kept) <= 3


def test_what_is_too_old_goes_and_nothing_else_does(tmp_path: Path) -> None:
    today = datetime.now(timezone.utc).date()
    for days in (0, 1, 29, 30, 31, 400):
        day = tmp_path / str(today - timedelta(days=days))
        day.mkdir()
        (day / OLD).write_bytes(b"a recording")
    old = tmp_path / str(today - timedelta(days=400))
    (old / "mine.flac").write_bytes(b"somebody's own")
    (tmp_path / "audio.flac").write_bytes(b"somebody's own")
    keep(tmp_path, recordings_days=30)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.flac"))
    assert left == sorted(
        [
            "audio.flac",
            f"{old.name}/mine.flac",
            *(f"{today - timedelta(days=days)}/{OLD}" for days in (0, 1, 29)),
        ]
    )
    assert not (tmp_path / str(today - timedelta(days=31))).exists(), "nor its day"


def test_it_is_looked_for_what_is_too_old_without_any_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_S", 0.01)
    recorder = Recorder(RecordingSettings(str(tmp_path)))
    recorder.start()
    try:
        while not tmp_path.is_dir():
            time.sleep(0.001)
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / OLD).write_bytes(b"a recording")
        day = (tmp_path / "new").rename(tmp_path / "2020-01-01")
        deadline = time.monotonic() + PATIENCE_S
        while day.exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        recorder.close()


def test_a_deletion_meanwhile_costs_no_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep(tmp_path, ABOUT, ABOUT)
    day, gone = tmp_path / "2020-01-01", tmp_path / "2020-01-02"
    day.mkdir()
    gone.mkdir()
    part = day / f".{OLD}.7.part"
    part.touch()
    os.utime(part, (0, 0))
    found, iterdir = recording_files, Path.iterdir

    def removed_behind_it(directory: Path) -> List[Path]:
        files = found(directory)
        files[0].unlink()
        return files

    def removed_before_and_behind_it(folder: Path) -> Iterator[Path]:
        if folder == gone:
            shutil.rmtree(gone, ignore_errors=True)
        files = list(iterdir(folder))
        if folder == day:
            part.unlink(missing_ok=True)
        return iter(files)

    monkeypatch.setattr(module, "recording_files", removed_behind_it)
    monkeypatch.setattr(Path, "iterdir", removed_before_and_behind_it)
    counts = Counted()
    assert len(keep(tmp_path, ABOUT, ABOUT)) == 3
    assert counted(counts, "written") == 2 and not gone.exists() and not part.exists()
    assert caplog.messages == []


# ------------------------------------------------------------------ disks and processes that fail


def test_what_is_durable_is_on_the_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync

    def noted(descriptor: int) -> None:
        synced.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, (tmp_path / "file").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_whole(tmp_path / "file", b"whole", durable=True)
    assert synced == [(f".file.{os.getpid()}.part", False), (tmp_path.name, True)]


KILLS = """
import os, random, signal, sys, time
import numpy as np
from spoken_intents.recordings import About, Recorder, RecordingSettings
noise = np.random.default_rng(0).uniform(-0.9, 0.9, 20 * 16_000).astype(np.float32)
about = About("anna", "5c1e", "voice", 1, "2026-05-12T14:25:01.000+00:00", "balance", 0.98)
random.seed(0)
for _ in range(60):
    child = os.fork()
    if not child:
        recorder = Recorder(RecordingSettings(sys.argv[1]))
        recorder.start()
        while True:
            recorder.record(noise, about)
            time.sleep(0.001)
    time.sleep(random.uniform(0.02, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_a_process_that_is_killed_leaves_no_half_file_that_looks_whole(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLS, str(tmp_path)], check=True, timeout=120)
    left = len(list(tmp_path.rglob("*.part")))
    files = recording_files(tmp_path)
    assert len(files) > 12
    for file in files:
        assert read_recording(file).about == ABOUT
        assert len(read_audio(file, 30)) == 20 * SAMPLE_RATE
    assert left, "or no kill came in the middle of a file"
    keep(tmp_path)
    assert len(list(tmp_path.rglob("*.part"))) == left, "another process may be at it"
    for part in tmp_path.rglob("*.part"):
        os.utime(part, (time.time() - 61, time.time() - 61))
    keep(tmp_path)
    assert not list(tmp_path.rglob("*.part")) and recording_files(tmp_path) == files


def test_a_full_disk_is_told_once_and_leaves_nothing_half(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = Counted()
    with disk_that_takes(1_000):
        assert keep(tmp_path, ABOUT, ABOUT, ABOUT) == []
    assert counted(counts, "failed") == 3 and counted(counts, "written") == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    (told,) = caplog.messages
    assert told.startswith(f"Calls are not recorded in {tmp_path} (") and "They go on" in told
    assert len(keep(tmp_path, ABOUT)) == 1


def test_a_disk_that_works_again_and_fails_again_is_told_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = Counted()
    recorder = Recorder(RecordingSettings(str(tmp_path / "recordings")))
    recorder.start()

    def record(outcome: str, number: float) -> None:
        recorder.record(SAMPLES, ABOUT)
        while counted(counts, outcome) < number:
            time.sleep(0.001)

    record("written", 1)
    shutil.rmtree(tmp_path / "recordings")
    (tmp_path / "recordings").touch()  # where the directory was mounted
    record("failed", 1)
    record("failed", 2)
    assert len(caplog.messages) == 1
    (tmp_path / "recordings").unlink()
    record("written", 2)
    shutil.rmtree(tmp_path / "recordings")
    (tmp_path / "recordings").touch()
    record("failed", 3)
    assert len(caplog.messages) == 2
    recorder.close()


def test_a_disk_that_hangs_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    disk, hangs = threading.Event(), threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        hangs.set()
        disk.wait()

    monkeypatch.setattr(module, "write_whole", hang)
    monkeypatch.setattr(module, "FINISH_S", 0.05)
    counts = Counted()
    recorder = Recorder(RecordingSettings(str(tmp_path)))
    recorder.start()
    recorder.record(SAMPLES, ABOUT)
    assert hangs.wait(PATIENCE_S)
    for _ in range(module.WAITING + 7):
        recorder.record(SAMPLES, ABOUT)
    assert counted(counts, "dropped") == 7
    recorder.close()  # returns
    disk.set()


# ------------------------------------------------------------------ calls


DOMAIN = Domain.from_dict(
    {
        "intents": ["greet", "affirm", *(f"intent_{number}" for number in range(10))],
        "entities": ["account"],
        "slots": {
            "account": {"type": "text", "influence_conversation": True, "mappings": [{"type": "custom"}]},
            "name": {"type": "text", "influence_conversation": False, "mappings": [{"type": "custom"}]},
        },
        "actions": ["action_balance"],
        "forms": {"freeze_form": {"required_slots": []}},
        "responses": {"utter_greet": [{"text": "Hello."}]},
    }
)


class Rasa:
    """What Rasa is to a channel, and its tracker store: each turn is answered by a form, slots and an action."""

    def __init__(self, fails_at: str = "") -> None:
        self.trackers: Dict[str, DialogueStateTracker] = {}
        self._fails_at = fails_at

    async def __call__(self, message: Any) -> None:
        heard = (message.metadata.get("spoken") or {}).get("intent") or message.text.lstrip("/")
        if heard == self._fails_at:
            raise ValueError("a failing action")
        new = message.sender_id not in self.trackers
        tracker = self.trackers.setdefault(
            message.sender_id, DialogueStateTracker.from_events(message.sender_id, [], DOMAIN.slots)
        )
        happened: List[Any] = [
            *([ActionExecuted("action_session_start"), SessionStarted()] if new else []),
            *([SlotSet("session_started_metadata", message.metadata)] if new else []),
            ActionExecuted("action_listen"),
            UserUttered(message.text, {"name": heard, "confidence": 1.0}, [], metadata=message.metadata),
            ActionExecuted("freeze_form"),
            ActiveLoop("freeze_form"),
            SlotSet("account", "savings"),
            SlotSet("name", "Anna"),
            ActionExecuted("action_balance"),
            BotUttered("You have nothing."),
            ActiveLoop(None),
            ActionExecuted("action_listen"),
        ]
        for event in happened:
            tracker.update(event)
        await message.output_channel.send_text_message(message.sender_id, "You have nothing.")

    async def retrieve(self, sender: str) -> Optional[DialogueStateTracker]:
        tracker = self.trackers.get(sender)
        return tracker and tracker.copy()  # as a store does


async def talk(app: Any, *messages: Any, finals: int) -> None:
    async with aiohttp.ClientSession() as http:
        async with http.ws_connect(f"ws://127.0.0.1:{app.ctx.port}/webhooks/voice/websocket") as socket:
            for message in messages:
                await (socket.send_bytes(message) if isinstance(message, bytes) else socket.send_json(message))
            async for frame in socket:
                finals -= json.loads(frame.data).get("final", False)
                if finals == 0:
                    return


def speech(number: int) -> bytes:
    return float_to_pcm16(said(number))


def recorded(directory: Path, scenario: Callable[[Any], Any], rasa: Rasa, **settings: Any) -> List[Any]:
    """What is on disk when the scenario is over and the server stopped."""
    channels = [
        VoiceInput(VoiceSettings(**QUICK, recordings=str(directory), **settings)),
        TwilioInput(TwilioSettings(**QUICK, recordings=str(directory), **settings)),
    ]

    async def whole() -> None:
        async with serving(*channels, rasa=rasa, ear=ScriptedRecognizer(), domain=DOMAIN) as app:
            app.ctx.agent.tracker_store.retrieve = rasa.retrieve
            await scenario(app)

    run(whole())
    return sorted((read_recording(file) for file in recording_files(directory)), key=lambda found: found.about.time)


ANSWER = [
    {"action": "freeze_form"},
    {"active_loop": "freeze_form"},
    {"slot_was_set": [{"account": "savings"}]},
    {"action": "action_balance"},
    {"active_loop": None},
]


def test_a_call_is_recorded_turn_by_turn_with_what_happened_in_between(tmp_path: Path) -> None:
    async def scenario(app: Any) -> None:
        await talk(app, {"sender": "anna"}, speech(1), {"text": "/affirm"}, speech(2), finals=3)

    first, second = recorded(tmp_path, scenario, Rasa())
    assert (first.about.turn, first.about.intent, first.about.sender, first.about.channel) == (1, "intent_1", "anna", "voice")
    assert (second.about.turn, second.about.intent) == (3, "intent_2"), "what was typed is a turn, too"
    assert first.about.call_id == second.about.call_id != "anna"
    assert first.about.steps == [{"intent": "intent_1", "user": first.about.reference}, *ANSWER]
    affirmed = [{"intent": "affirm", "user": "/affirm"}, *ANSWER]
    assert second.about.steps == [*affirmed, {"intent": "intent_2", "user": second.about.reference}, *ANSWER]
    assert "Anna" not in str(first.about), "slots that decide nothing may hold anything"
    for number, found in ((1, first), (2, second)):
        samples = read_audio(found.file, 30)
        assert round((float(samples.max()) - 0.6) * 1000) == number, "its own audio"


@pytest.mark.parametrize("consent", [False, True])
def test_a_caller_may_refuse(tmp_path: Path, consent: bool) -> None:
    async def scenario(app: Any) -> None:
        await talk(app, {"record": consent}, speech(1), finals=1)
        async with Telephone(app.ctx.port) as phone:
            await phone.connect(parameters={"record": str(consent).lower(), "branch": "Leeds"})
            await phone.say(np.concatenate([np.full(800, 0.8), np.zeros(1600)]))
            await phone.until(lambda: rasa.trackers.get(phone.call_sid))
            await phone.stop()
            await phone.until(lambda: phone.closed)
        async with aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{app.ctx.port}/webhooks/voice/webhook?sender=uploader&record={str(consent).lower()}"
            (tmp_path / "upload.wav").write_bytes(b"")
            soundfile.write(tmp_path / "upload.wav", said(3), SAMPLE_RATE)
            async with http.post(url, data=(tmp_path / "upload.wav").read_bytes()) as answer:
                assert answer.status == 200

    rasa = Rasa()
    found = recorded(tmp_path / "recordings", scenario, rasa)
    assert len(rasa.trackers) == 3, "all were heard"
    assert len(found) == (3 if consent else 0)
    assert {one.about.channel for one in found} == ({"voice", "twilio_media_streams"} if consent else set())
    metadata = [str(tracker.get_slot("session_started_metadata")) for tracker in rasa.trackers.values()]
    assert not any("record" in one for one in metadata)


@pytest.mark.parametrize(
    ("query", "form"),
    [
        ("record=", None), ("record", None), ("record=true&record=false", None), ("record=false&record=true", None),
        ("Record=False", None), ("record=True", None), ("", ["no"]), ("", [""]), ("record=true", ["false"]),
        ("record=true", ["true", "false"]), ("record=", ["true"]),
    ],
)  # fmt: skip
def test_one_no_is_a_no_however_it_is_said(tmp_path: Path, query: str, form: Optional[List[str]]) -> None:
    soundfile.write(tmp_path / "upload.wav", said(3), SAMPLE_RATE)
    wav = (tmp_path / "upload.wav").read_bytes()

    def body(consent: Optional[List[str]]) -> Any:
        if consent is None:
            return wav
        fields = aiohttp.FormData()
        fields.add_field("audio", wav, filename="upload.wav")
        for value in consent:
            fields.add_field("record", value)
        return fields

    async def scenario(app: Any) -> None:
        async with aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{app.ctx.port}/webhooks/voice/webhook"
            for sender, said_in_query, said_in_form in (("no", query, form), ("yes", "record=true", form and ["true", "true"])):
                async with http.post(f"{url}?sender={sender}&{said_in_query}", data=body(said_in_form)) as answer:
                    assert answer.status == 200

    assert [one.about.sender for one in recorded(tmp_path / "recordings", scenario, Rasa())] == ["yes"]


def test_what_another_call_of_the_conversation_was_told_is_not_in_it(tmp_path: Path) -> None:
    async def scenario(app: Any) -> None:
        async with aiohttp.ClientSession() as http:
            url = f"ws://127.0.0.1:{app.ctx.port}/webhooks/voice/websocket"

            async def end_of_turn(socket: Any) -> None:
                async for frame in socket:
                    if json.loads(frame.data).get("final"):
                        return

            async with http.ws_connect(url) as willing, http.ws_connect(url) as unwilling:
                await willing.send_json({"sender": "anna"})
                await willing.send_json({"text": "/greet"})
                await end_of_turn(willing)
                await unwilling.send_json({"sender": "anna", "record": False})
                await unwilling.send_json({"text": "my PIN is 1234"})
                await end_of_turn(unwilling)
                await willing.send_bytes(speech(2))
                await end_of_turn(willing)

    (found,) = recorded(tmp_path, scenario, Rasa())
    greeted, spoken = {"intent": "greet", "user": "/greet"}, {"intent": "intent_2", "user": found.about.reference}
    assert found.about.steps == [greeted, *ANSWER, spoken, *ANSWER]


def test_of_a_long_conversation_its_end_is_looked_at() -> None:
    tracker = DialogueStateTracker.from_events("anna", [], DOMAIN.slots)
    for _ in range(1000):
        tracker.update(ActionExecuted("action_listen"))
        tracker.update(UserUttered("/greet", {"name": "greet"}, metadata={"call_id": "5c1e"}))
        tracker.update(ActionExecuted("utter_greet"))
    steps = steps_between(tracker, "5c1e", 0, time.time(), DOMAIN)
    assert 600 < len(steps) <= 1000 and steps[-2:] == [{"intent": "greet", "user": "/greet"}, {"action": "utter_greet"}]


def test_a_slow_tracker_store_keeps_no_turn_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stories, "STEPS_S", PATIENCE_S)
    monkeypatch.setattr(stories, "WAITING", 2)
    asked = []

    class Slow(Rasa):
        async def retrieve(self, sender: str) -> Any:
            asked.append(sender)
            await ended.wait()
            return await super().retrieve(sender)

    async def scenario(app: Any) -> None:
        nonlocal ended
        ended = asyncio.Event()
        await talk(app, {"sender": "anna"}, speech(1), speech(2), speech(3), finals=3)
        ended.set()

    ended: asyncio.Event
    found = sorted(recorded(tmp_path, scenario, Slow()), key=lambda one: one.about.turn)
    assert len(asked) == 2, "the third has too many before it"
    told = [(one.about.turn, one.about.steps) for one in found]
    spoken = [{"intent": one.about.intent, "user": one.about.reference} for one in found]
    assert told == [(1, [spoken[0], *ANSWER]), (2, [spoken[1], *ANSWER]), (3, [])]


def test_a_tracker_store_that_hangs_costs_the_story_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stories, "STEPS_S", 0.01)

    class Hanging(Rasa):
        async def retrieve(self, sender: str) -> Any:
            await asyncio.Event().wait()

    async def scenario(app: Any) -> None:
        await talk(app, {"sender": "anna"}, speech(1), finals=1)

    (found,) = recorded(tmp_path, scenario, Hanging())
    assert found.about.intent == "intent_1" and found.about.steps == []
    assert "is recorded without what the bot did" in caplog.text


def test_a_turn_that_failed_is_recorded_all_the_same(tmp_path: Path) -> None:
    async def scenario(app: Any) -> None:
        await talk(app, {"sender": "anna"}, speech(1), speech(2), finals=2)

    first, second = recorded(tmp_path, scenario, Rasa(fails_at="intent_1"))
    assert first.about.intent == "intent_1" and first.about.steps == []
    assert second.about.steps == [{"intent": "intent_2", "user": second.about.reference}, *ANSWER]


def test_a_tracker_store_that_is_gone_costs_the_story_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Gone(Rasa):
        async def retrieve(self, sender: str) -> Any:
            raise ConnectionError("gone")

    async def scenario(app: Any) -> None:
        await talk(app, {"sender": "anna"}, speech(1), finals=1)

    (found,) = recorded(tmp_path, scenario, Gone())
    assert found.about.intent == "intent_1" and found.about.steps == []
    assert "is recorded without what the bot did" in caplog.text


def test_nothing_that_was_no_turn_is_recorded(tmp_path: Path) -> None:
    async def scenario(app: Any) -> None:
        noise = np.concatenate([np.full(SAMPLE_RATE // 5, NOISE), np.zeros(SAMPLE_RATE // 2)])
        await talk(app, float_to_pcm16(noise), {"text": "hello"}, finals=1)

    assert recorded(tmp_path, scenario, Rasa()) == []


# ------------------------------------------------------------------ the command


def called(capsys: pytest.CaptureFixture, *arguments: Any) -> str:
    with pytest.raises(SystemExit) as ended:
        typed(["recordings", *map(str, arguments)])
    assert not ended.value.code
    return capsys.readouterr().out


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with recordings of two callers, one of whom called twice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    calls = [("anna", "5c1e", 1), ("anna", "5c1e", 2), ("anna", "77ab", 1), ("b[o]b", "0f4c", 1)]
    keep(Path("recordings"), *(replace(ABOUT, sender=sender, call_id=call, turn=turn) for sender, call, turn in calls))
    yield tmp_path / "recordings"


def test_recordings_are_listed(kept: Path, capsys: pytest.CaptureFixture) -> None:
    listed = called(capsys, "list")
    assert listed.count("balance 98%") == 4 and "b[o]b" in listed
    assert called(capsys, "list", "--sender", "anna").count("balance") == 3
    assert called(capsys, "list", "--call", "5c1e", "--directory", kept).count("balance") == 2
    assert called(capsys, "list", "--sender", "an").count("balance") == 0


def test_a_name_reaches_the_terminal_as_text_and_is_found_by_what_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = ["\ud800", "\x1b[2J\nx", "\u202ecod", "back\\slash", "\\ud800"]
    shown = ["\\ud800", "\\x1b[2J\\nx", "\\u202ecod", "back\\\\slash", "\\\\ud800"]
    keep(tmp_path, *(replace(ABOUT, sender=name, call_id=name) for name in names))
    listed = called(capsys, "list", "--directory", tmp_path)
    for name in shown:
        assert f"call {name}, sender {name}\n" in listed
    assert listed.replace("\n", "").isprintable()
    for left, name in enumerate(reversed(shown)):
        assert called(capsys, "list", "--directory", tmp_path, "--sender", name, "--call", name).count("balance") == 1
        assert "1 recordings removed." in called(capsys, "delete", "--directory", tmp_path, "--sender", name)
        assert len(recording_files(tmp_path)) == len(names) - left - 1


def test_with_a_sender_goes_what_was_half_written(kept: Path, capsys: pytest.CaptureFixture) -> None:
    day = recording_files(kept)[0].parent
    old, new = day / f".{OLD}.7.part", day / f".{OLD}.8.part"
    for part in (old, new):
        part.write_bytes(b"fLaC")
    os.utime(old, (time.time() - 61, time.time() - 61))
    called(capsys, "delete", "--sender", "anna")
    assert not old.exists() and new.exists(), "the new one may still become whole"


def test_all_recordings_of_one_sender_are_removed(kept: Path, capsys: pytest.CaptureFixture) -> None:
    (kept / "2020-01-01").mkdir()
    damaged = kept / "2020-01-01" / OLD
    damaged.write_bytes(b"fLaC")
    with pytest.raises(SystemExit):
        typed(["recordings", "delete", "--sender", "anna"])
    said = capsys.readouterr()
    assert "3 recordings removed." in said.out
    assert f"1 files are damaged, and were left as they are, such as {damaged.relative_to(kept.parent)}" in said.err
    assert [read_recording(file).about.sender for file in recording_files(kept) if file != damaged] == ["b[o]b"]
    assert "0 recordings removed." in called(capsys, "delete", "--sender", "an")


def test_a_call_becomes_a_test_story(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "40")

    async def scenario(app: Any) -> None:
        await talk(app, {"sender": "anna"}, speech(1), {"text": "/affirm"}, speech(2), finals=3)

    first, second = recorded(Path("recordings"), scenario, Rasa())
    told = called(capsys, "story", first.about.call_id)
    assert f"  - intent: intent_1\n    user: |\n      {first.file}\n" in told
    (story,) = yaml.safe_load(told)["stories"]
    assert story["story"] == f"call {first.about.call_id}"
    users = [step["user"].strip() for step in story["steps"] if "user" in step]
    assert users == [str(first.file), "/affirm", str(second.file)]
    assert [step for step in story["steps"] if "user" not in step] == ANSWER * 3
    first.file.unlink()
    with pytest.raises(SystemExit):
        typed(["recordings", "story", first.about.call_id])
    assert "user" in capsys.readouterr().out


def test_a_turn_without_its_story_is_in_it_all_the_same(kept: Path, capsys: pytest.CaptureFixture) -> None:
    (story,) = yaml.safe_load(called(capsys, "story", "5c1e"))["stories"]
    assert [step["intent"] for step in story["steps"]] == ["balance", "balance"]
    assert all(Path(step["user"].strip()).is_file() for step in story["steps"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("story", "nobody"), "holds no recording of a call nobody"), (("list", "--directory", "elsewhere"), "no such directory")],
)
def test_what_is_not_there_is_told(kept: Path, arguments: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        typed(["recordings", *arguments])
