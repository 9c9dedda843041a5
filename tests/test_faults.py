"""What breaks under calls, and what they notice of it: docs/faults.md lists it all."""

import asyncio
import base64
import json
import logging
import os
import re
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Dict, Iterator, List, Sequence

import aiohttp
import numpy as np
import pytest
from conftest import disk_that_takes
from sanic import Sanic
from telephone import mulaw
from test_limits import QUICK, Caller, rasa
from test_session import LoudVad, ScriptedRecognizer, intent_of

from assistant import ROOT
from counted import Counted
from in_process import PATIENCE_S, run, serving
from spoken_intents import segmenter
from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16
from spoken_intents.channels import connection
from spoken_intents.channels.twilio import TwilioInput, TwilioSettings
from spoken_intents.channels.voice import VoiceInput, VoiceSettings
from spoken_intents.recognizer import Recognition
from spoken_intents.speech import Speech, SpeechSettings
from spoken_intents.utterances import hand_off, is_audio_reference

SORRY = VoiceSettings().sorry


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "make_vad", lambda *_: LoudVad())
    monkeypatch.setattr(Sanic, "test_mode", True)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    yield
    assert len(hand_off) == 0


async def until(condition: Callable[[], Any], what: str = "it") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came to that"
        await asyncio.sleep(0.005)


# ---------------------------------------------------------------- the recognizer


class Sick(ScriptedRecognizer):
    """Hangs on `said(1)` until it is released, and has no memory for `said(2)`."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def classify(self, samples: np.ndarray) -> Recognition:
        heard = super().classify(samples)
        if heard.intent == intent_of(1):
            self.release.wait(3 * PATIENCE_S)
        if heard.intent == intent_of(2):
            raise MemoryError
        return heard


@pytest.mark.parametrize("turn_end", ["fixed", "adaptive"])
def test_a_recognizer_that_hangs_or_fails_costs_the_turn_and_not_the_call(turn_end: str) -> None:
    """Also when no thread is left: then every turn says so in its time, and the first after it is answered."""
    counted, sick = Counted(), Sick()
    ends = {**QUICK, "turn_end": turn_end, "sure_silence_ms": 80, "unsure_silence_ms": 200}
    channel = VoiceInput(VoiceSettings(**ends, intent_timeout_ms=300))

    async def main() -> List[str]:
        answers = []
        async with serving(channel, rasa=rasa, ear=sick) as app, aiohttp.ClientSession() as http:
            async with Caller(http, app.ctx.port) as caller, Caller(http, app.ctx.port) as other:
                try:
                    for number in (0, 2, 3, 1, 4):  # a thread hangs with the fourth
                        answers.append(await caller.say(number))
                    answers.append(await other.say(5))
                    answers.append(await other.say(1))  # and the last one with this
                    answers.append(await other.say(6))
                    answers.append(await caller.type("typed"))
                finally:
                    sick.release.set()
                await until(lambda: counted("spoken_intents_recognizer_waiting") == 0)
                answers.append(await caller.say(7))
        return answers

    answers = run(main())
    assert answers[:5] == [intent_of(0), SORRY, intent_of(3), SORRY, intent_of(4)]
    assert answers[5:] == [intent_of(5), SORRY, SORRY, "typed", intent_of(7)]
    assert counted("spoken_intents_turns_total", channel="voice", outcome="failed") == 4
    assert counted("spoken_intents_turns_total", channel="voice", outcome="answered") == 6


# ---------------------------------------------------------------- the clock, the disk


def test_a_clock_that_jumps_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """By days, there and back, each time that anybody looks."""
    looks, real = [0], time.time

    def jumping() -> float:
        looks[0] += 1
        return real() + (-1) ** looks[0] * 86_400 * looks[0]

    async def main() -> List[str]:
        channel = VoiceInput(VoiceSettings(**{**QUICK, "silence_timeout_ms": 1000}, idle_timeout_ms=5000))
        async with serving(channel, rasa=rasa, ear=ScriptedRecognizer()) as app, aiohttp.ClientSession() as http:
            async with Caller(http, app.ctx.port) as caller:
                monkeypatch.setattr(time, "time", jumping)
                answers = [await caller.say(number) for number in range(5)]
                assert time.time() and looks[0], "it does jump"
                monkeypatch.undo()
                return answers

    assert run(main()) == [intent_of(number) for number in range(5)]


class Beeping:
    """A voice that says everything as a second of the same."""

    sample_rate, language = SAMPLE_RATE, "en"

    def synthesize(self, sentence: str) -> np.ndarray:
        return np.full(SAMPLE_RATE, 0.25, dtype=np.float32)


def test_a_full_disk_breaks_no_call(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Neither what is spoken can be kept nor the log be written."""
    full = logging.FileHandler("/dev/full")
    channel = VoiceInput(VoiceSettings(**QUICK))
    channel.speech = Speech(Beeping(), "beeping", SpeechSettings(speech_cache=str(tmp_path / "cache")))
    logger = logging.getLogger("spoken_intents")
    before = logger.level

    async def main() -> List[str]:
        async with serving(channel, rasa=rasa, ear=ScriptedRecognizer()) as app, aiohttp.ClientSession() as http:
            async with Caller(http, app.ctx.port) as caller:
                return [await caller.say(number) for number in range(3)]

    logger.addHandler(full)
    logger.setLevel(logging.INFO)
    try:
        with disk_that_takes(10):
            assert run(main()) == [intent_of(number) for number in range(3)]
    finally:
        logger.removeHandler(full)
        logger.setLevel(before)
        full.stream = None  # type: ignore[assignment]  # what is in its buffer cannot be written at the end either
    assert [*(tmp_path / "cache").iterdir()] == [], "no half file"
    assert "No space left on device" in capsys.readouterr().err


# ---------------------------------------------------------------- clients that leave


class Wire:
    """A client by hand: libraries say goodbye on their own, and answer what they are asked.

    Args:
        path: Of the WebSocket.
    """

    def __init__(self, port: int, path: str) -> None:
        self._port, self._path = port, path
        self._loop = asyncio.get_running_loop()
        self.socket = socket.socket()
        self.socket.setblocking(False)

    async def connect(self) -> None:
        await self._loop.sock_connect(self.socket, ("127.0.0.1", self._port))

    async def ask(self, end: str = "\r\n\r\n") -> None:
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        key = "Sec-WebSocket-Key: c3Bva2VuIGludGVudHMhIQ=="
        await self.write(f"GET {self._path} HTTP/1.1\r\nHost: x\r\n{upgrade}{key}{end}".encode())

    async def upgrade(self) -> None:
        await self.ask()
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await self._loop.sock_recv(self.socket, 1)
        assert b" 101 " in answer

    async def write(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.socket, data)

    async def send(self, payload: bytes, opcode: int = 1, all_of_it: bool = True) -> None:
        size = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0xFE]) + struct.pack(">H", len(payload))
        frame = bytes([0x80 | opcode]) + size + bytes(4) + payload
        await self.write(frame if all_of_it else frame[: len(frame) // 2])

    def reset(self) -> None:
        """Is gone, as a process that is killed or a network that breaks."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class ByVoice(Wire):
    """The voice channel's messages."""

    def __init__(self, port: int) -> None:
        super().__init__(port, "/webhooks/voice/websocket")

    async def introduce(self) -> None:
        await self.send(json.dumps({"sample_rate": 16_000}).encode())

    async def say(self, samples: np.ndarray) -> None:
        for start in range(0, len(samples), 1600):
            await self.send(float_to_pcm16(samples[start : start + 1600]), opcode=2)


class ByTelephone(Wire):
    """Twilio's."""

    def __init__(self, port: int) -> None:
        super().__init__(port, "/webhooks/twilio_media_streams/websocket")

    async def introduce(self) -> None:
        await self._event("connected", protocol="Call", version="1.0.0")
        form = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
        start = {"accountSid": "AC1", "streamSid": "MZ1", "callSid": f"CA{id(self)}", "tracks": ["inbound"], "mediaFormat": form}
        await self._event("start", start={**start, "customParameters": {}})

    async def say(self, samples: np.ndarray) -> None:
        audio = mulaw(samples[::2])
        for start in range(0, len(audio), 160):
            payload = base64.b64encode(audio[start : start + 160]).decode()
            await self._event("media", media={"track": "inbound", "chunk": "1", "timestamp": "1", "payload": payload})

    async def _event(self, event: str, **fields: Any) -> None:
        await self.send(json.dumps({"event": event, "sequenceNumber": "1", "streamSid": "MZ1", **fields}).encode())


class Slow:
    """Rasa; what it is asked behind `held` waits for `go_on`."""

    def __init__(self) -> None:
        self.held, self.asked, self.done = False, 0, 0
        self.go_on = asyncio.Event()

    async def __call__(self, message: Any) -> None:
        if is_audio_reference(message.text):
            hand_off.take(message.text)
        self.asked += 1
        if self.held:
            await self.go_on.wait()
        await message.output_channel.send_text_message(message.sender_id, "Here you are.")
        self.done += 1


class Talkative:
    """A voice that speaks each text for a minute."""

    name = "talkative"
    began = 0

    async def speak(self, text: str) -> AsyncIterator[np.ndarray]:
        for _ in range(60):
            self.began += 1
            yield np.full(SAMPLE_RATE, 0.1, dtype=np.float32)

    def close(self) -> None: ...


SPEAKING = np.full(SAMPLE_RATE, 0.9, dtype=np.float32)
DONE = np.concatenate([np.full(SAMPLE_RATE // 5, 0.9), np.zeros(SAMPLE_RATE // 2)]).astype(np.float32)
STATES = ("connected", "asking", "upgraded", "introducing", "introduced", "speaking", "thinking", "answering", "closing")


async def reach(state: str, client: Any, bot: Slow, voice: Talkative) -> None:
    """Brings a call to where it is to be left."""
    await client.connect()
    if state == "asking":
        await client.ask(end="")
    if STATES.index(state) < STATES.index("upgraded"):
        return
    await client.upgrade()
    if state == "introducing":
        await client.send(b'{"sample_rate": 16000}', all_of_it=False)
    if STATES.index(state) < STATES.index("introduced"):
        return
    await client.introduce()
    if state == "speaking":
        await client.say(SPEAKING)
    asked, began = bot.asked, voice.began
    if state in ("thinking", "answering"):
        bot.held = state == "thinking"
        await client.say(DONE)
        await until(lambda: bot.asked > asked, "Rasa")
    if state == "answering":
        await until(lambda: voice.began > began + 1, "the voice")
    if state == "closing":
        await client.send(struct.pack(">H", 1000), opcode=8)  # and never reads the answer


@pytest.mark.parametrize("leaves", ["is gone", "falls silent"])
@pytest.mark.parametrize("kind", [ByVoice, ByTelephone])
def test_wherever_a_client_leaves_nothing_is_left(kind: Any, leaves: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each state of both protocols: no task, no place, no audio, no connection; and others are answered."""
    monkeypatch.setattr(connection, "SEND_TIMEOUT_MS", 400)
    counted = Counted()
    settings: Dict[str, Any] = {**QUICK, "idle_timeout_ms": 300}
    channel: Any = VoiceInput(VoiceSettings(**settings)) if kind is ByVoice else TwilioInput(TwilioSettings(**settings))
    files: List[int] = []

    async def left(app: Sanic, states: Sequence[str], bot: Slow, voice: Talkative) -> None:
        clients = [kind(app.ctx.port) for _ in states]
        for client, state in zip(clients, states):
            await reach(state, client, bot, voice)
        if leaves == "is gone":
            for client in clients:
                client.reset()
        await until(lambda: not app.ctx.connections, f"{leaves} while {states}: its connection")
        bot.held = False
        bot.go_on.set()
        await until(lambda: not channel._ending and bot.done == bot.asked, f"{leaves} while {states}: its session")
        bot.go_on.clear()
        for client in clients:
            client.socket.close()
        await until(lambda: not channel.places._taken and not channel._connected, f"{leaves} while {states}: its place")
        assert len(hand_off) == 0, states
        await until(lambda: not [task for task in asyncio.all_tasks() if "SpokenSession" in repr(task)], f"{states}")

    async def main() -> None:
        bot, voice = Slow(), Talkative()
        async with serving(channel, rasa=bot, ear=ScriptedRecognizer()) as app:
            channel.speech = voice
            app.config.REQUEST_TIMEOUT = app.config.KEEP_ALIVE_TIMEOUT = 0.3  # Sanic's, for who has asked for nothing yet
            for states in [STATES] * 3 if leaves == "falls silent" else [[state] for state in STATES] * 2:
                await left(app, states, bot, voice)
                files.append(len(os.listdir("/proc/self/fd")))

    run(main())
    assert files[-1] <= files[len(files) // 2], files  # the first may have opened what all of them use
    assert counted("spoken_intents_calls_open") == 0
    assert counted("spoken_intents_turns_total", outcome="failed") == 0


# ---------------------------------------------------------------- the list of all this


def test_the_table_names_tests_that_there_are() -> None:
    table = (ROOT / "docs/faults.md").read_text()
    named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", table)
    assert len(named) > 30
    for module, test in named:
        assert f"def {test}(" in (ROOT / "tests" / f"{module}.py").read_text(), f"{module}.py::{test}"
