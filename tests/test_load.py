"""Many callers at once: against a real `rasa run`, and against servers that play a script."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any, Callable, List, Tuple

import numpy as np
import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, web
from test_cli import called, command

from assistant import PROJECT, Assistant, free_port
from spoken_intents import load
from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import ConfigError, DataError, SpokenIntentsError
from spoken_intents.load import GAINS_DB, read_recordings
from spoken_intents.load_report import LoadSettings, Report, Said, Take

FOLDERS = [PROJECT / f"audio/test/{intent}" for intent in ("greet", "affirm", "deny")]
NONE = {"said": 0, "right": 0, "wrong": 0, "failed": 0, "lost": 0, "silent": 0, "late": 0, "double": 0}
WORD = ("word", (0.3 * np.sin(np.arange(SAMPLE_RATE // 2) / 5)).astype(np.float32))  # half a second


def test_what_callers_of_a_running_server_say_is_answered_or_said_to_be_rejected(server: Assistant, tmp_path: Path) -> None:
    told = tmp_path / "load.json"
    done = command(
        *("load", *FOLDERS, "--url", server.voice, "--callers", 3, "--seconds", 15, "--ramp", 1, "--late-ms", 60_000),
        "--json",
        told,
    )
    report = json.loads(told.read_text())
    counts = report["counts"]
    assert done.returncode == (1 if counts["lost"] else 0), done.stdout + done.stderr
    assert counts["said"] >= 3
    answered = counts["right"] + counts["wrong"]
    assert answered >= 1 and answered + report["rejected"] == counts["said"]  # this small model may take something for noise
    assert counts["failed"] == counts["late"] == counts["double"] == 0 and counts["lost"] == report["rejected"]
    assert report["dropped_calls"] == {}
    for figure in ("server_intent", "caller_intent"):
        assert report["latency_ms"][figure]["n"] == answered
    for figure in ("server_message", "caller_message", "speech_end_to_message"):  # to a yes out of nowhere the bot says nothing
        assert report["latency_ms"][figure]["n"] == answered - counts["silent"]
    for what in ("intent", "message"):  # nobody sees an answer before the server has sent it
        assert report["latency_ms"][f"caller_{what}"]["max"] >= report["latency_ms"][f"server_{what}"]["median"]
    assert "3 callers" in done.stdout
    assert "end of turn to intent" in done.stdout


# ------------------------------------------------ scripted servers


class Scripted:
    """A voice channel that hears an intent in every recording, and takes calls as `answer` says."""

    def __init__(self, answer: Callable[..., Any], intents: Tuple[str, ...] = ("greet",)) -> None:
        self._answer, self._intents = answer, intents
        self.received: List[List[str]] = []  # by call
        self.at_once = self.most = 0

    async def _recording(self, request: web.Request) -> web.Response:
        assert (await request.read())[:4] == b"RIFF"
        return web.json_response([{"text": "Hey!", "custom": {"spoken": {"intent": intent}}} for intent in self._intents])

    async def _call(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        received: List[str] = []
        self.received.append(received)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                received.append(message.data)
                await self._answer(socket, received)
        self.at_once -= 1
        return socket

    async def __aenter__(self) -> str:
        app = web.Application()
        app.router.add_post("/webhooks/voice/webhook", self._recording)
        app.router.add_get("/webhooks/voice/websocket", self._call)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"ws://127.0.0.1:{self._runner.addresses[0][1]}/webhooks/voice/websocket"

    async def __aexit__(self, *error: Any) -> None:
        await self._runner.cleanup()


def under_load(scripted: Scripted, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Report:
    monkeypatch.setattr(load, "PATIENCE_S", 0.3)
    monkeypatch.setattr(load, "LINGER_S", 0.3)
    monkeypatch.setattr(load, "NOISE_S", 0.4)

    async def run() -> Report:
        async with scripted as url:
            return await load.run(LoadSettings(url, ramp_s=0, **settings), [WORD], lambda gone_s, report: None)

    return asyncio.run(asyncio.wait_for(run(), 30))


def final(number: int, start_ms: int, end_ms: int, intent: str = "greet") -> str:
    turn = {"start_ms": start_ms, "speech_end_ms": end_ms, "end_ms": end_ms, "intent": intent, "ahead": True}
    return json.dumps({"marker": str(number), "final": True, "latency": {"asr_latency_ms": 5.0}, "turn": turn})


def answering(*intents: str) -> Callable[..., Any]:
    """Makes so many turns of the first second of a call, once half a second more has come."""

    async def answer(socket: web.WebSocketResponse, received: List[str]) -> None:
        if sum("audio" in message for message in received) == 75 and "audio" in received[-1]:
            for number, intent in enumerate(intents):
                await socket.send_str(json.dumps({"trace_event": "transcript", "intent": intent}))
                await socket.send_str(json.dumps({"audio": "not base64: nobody decodes it"}))
                await socket.send_str(json.dumps({"response": "Hey!"}))
                await socket.send_str(final(number, 0, 1000, intent))

    return answer


def script(*steps: Tuple[int, Any]) -> Callable[..., Any]:
    """Sends each message when so many have come."""

    async def answer(socket: web.WebSocketResponse, received: List[str]) -> None:
        for count, message in steps:
            if count == len(received):
                await socket.send_str(message if isinstance(message, str) else json.dumps(message))

    return answer


HEARD = {"trace_event": "transcript", "intent": "greet"}


async def silent(socket: web.WebSocketResponse, received: List[str]) -> None:
    pass


def test_messages_are_paced_by_the_clock_and_markers_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(answering("greet"))
    report = under_load(scripted, monkeypatch, callers=2, seconds=2)
    assert scripted.most == 2
    for received in scripted.received:
        assert json.loads(received[0]) == {"sample_rate": 8000}
        audio = [message for message in received if "audio" in message]
        assert len(audio) <= (2 + 0.3 + 0.3) * 50  # what the clock allows, whatever the machine can send
        assert len(audio) >= 75
        assert {len(message) for message in audio} == {len(json.dumps({"audio": "A" * 428}))}  # 320 bytes: 20 ms at 8 kHz
        assert json.dumps({"marker": "0"}) in received
    assert report.counts() == {**NONE, "said": 2, "right": 2}
    assert report.passed
    assert all(said.message_ms is not None and said.audio_ms is not None for said in report.said)
    assert report.latencies()["server_intent"] == {"median": 5.0, "p95": 5.0, "p99": 5.0, "max": 5.0, "n": 2}
    assert report.lag_ms
    assert min(report.lag_ms) >= 0


def test_a_browsers_messages_are_small_and_many(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(silent)
    under_load(scripted, monkeypatch, callers=1, seconds=1, messages="browser")
    handshake, *audio = scripted.received[0]
    assert json.loads(handshake) == {"sample_rate": 48_000}
    assert {len(message) for message in audio} == {len(json.dumps({"audio": "A" * 344}))}  # 256 bytes: 128 samples
    assert len(audio) > 100


@pytest.mark.parametrize(
    ("intents", "counted"),
    [((), {"lost": 1}), (("deny",), {"wrong": 1}), (("greet", "greet"), {"right": 1, "double": 1})],
)
def test_what_went_wrong_is_counted(intents: Tuple[str, ...], counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    report = under_load(Scripted(answering(*intents)), monkeypatch, callers=1, seconds=2)
    assert report.counts() == {**NONE, "said": 1, **counted}


def test_a_turn_that_failed_is_not_right(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"error": {"code": "turn_failed", "message": "This turn could not be answered (ValueError)."}}
    scripted = Scripted(script((75, HEARD), (75, failed), (75, final(0, 0, 1000))))
    report = under_load(scripted, monkeypatch, callers=1, seconds=2)
    assert report.counts() == {**NONE, "said": 1, "failed": 1}
    assert not report.passed
    scripted = Scripted(script((75, failed), (75, json.dumps({"marker": "0", "final": True, "latency": {}, "turn": {}}))))
    report = under_load(scripted, monkeypatch, callers=1, seconds=2)  # not even heard: nobody knows what was lost
    assert report.counts() == {**NONE, "said": 1, "failed": 1, "lost": 1}


def test_what_the_bot_says_by_itself_answers_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    still_there = [(40, {"response": "Are you still there?"}), (40, {"audio": ""})]
    scripted = Scripted(script(*still_there, (75, HEARD), (75, final(0, 0, 1000))))
    report = under_load(scripted, monkeypatch, callers=1, seconds=2)
    assert report.counts() == {**NONE, "said": 1, "right": 1, "silent": 1}
    assert {"caller_message", "caller_audio", "speech_end_to_message"}.isdisjoint(report.latencies())


def test_a_second_turn_behind_the_last_answer_is_double(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(script((75, HEARD), (75, final(0, 0, 1000)), (80, final(1, 0, 1000))))
    assert under_load(scripted, monkeypatch, callers=1, seconds=2).counts()["double"] == 1


def test_an_end_that_is_told_again_is_no_second_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(script((75, HEARD), (75, final(0, 0, 1000)), (80, final(0, 0, 1000))))
    report = under_load(scripted, monkeypatch, callers=1, seconds=2)
    assert report.counts() == {**NONE, "said": 1, "right": 1, "silent": 1}
    assert scripted.received[0].count(json.dumps({"marker": "0"})) == 2  # the server waits for it, as for the first


def test_an_answer_counts_whose_marker_cannot_be_sent_back(monkeypatch: pytest.MonkeyPatch) -> None:
    send = ClientWebSocketResponse.send_str

    async def broken(socket: ClientWebSocketResponse, text: str) -> None:
        if "marker" in text:
            raise ConnectionResetError("Cannot write to closing transport")
        await send(socket, text)

    monkeypatch.setattr(ClientWebSocketResponse, "send_str", broken)
    report = under_load(Scripted(answering("greet")), monkeypatch, callers=1, seconds=2)
    assert report.counts() == {**NONE, "said": 1, "right": 1}


def test_a_message_that_the_callers_do_not_understand_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    half = {"marker": "0", "final": True, "turn": {"start_ms": 0}}
    with pytest.raises(KeyError, match="speech_end_ms"):
        under_load(Scripted(script((75, half))), monkeypatch, callers=1, seconds=2)
    report = under_load(Scripted(script((75, "no JSON"))), monkeypatch, callers=1, seconds=2)
    assert report.dropped == Counter(bad_json=1)


def test_a_run_in_which_nobody_speaks_does_not_pass(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> int:
        async with Scripted(silent) as url:  # a second is less than a recording, and the pause before it
            return await asyncio.to_thread(called, "load", FOLDERS[0], "--url", url, "--seconds", 1, "--ramp", 0, "--callers", 1)

    assert asyncio.run(run()) == 1
    assert "Nobody has said anything" in " ".join(capsys.readouterr().out.split())


def test_why_an_utterance_was_lost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def reject(socket: web.WebSocketResponse, received: List[str]) -> None:
        if len(received) == 75:
            await socket.send_str(json.dumps({"trace_event": "non_speech", "confidence": 0.9}))

    report = under_load(Scripted(reject), monkeypatch, callers=1, seconds=2)
    assert report.lost == 1
    assert report.problems()[0].startswith("1 utterances were taken for noise")


def test_a_turn_that_nobody_said_is_double(monkeypatch: pytest.MonkeyPatch) -> None:
    async def phantom(socket: web.WebSocketResponse, received: List[str]) -> None:
        if len(received) == 3:
            await socket.send_str(final(0, -500, -100))

    assert under_load(Scripted(phantom), monkeypatch, callers=1, seconds=2).counts()["double"] == 1


def test_who_is_refused_is_dropped_and_who_is_hung_up_on_calls_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(socket: web.WebSocketResponse, received: List[str]) -> None:
        await socket.send_str(json.dumps({"error": {"code": "too_many_calls", "message": "All lines are taken."}}))
        await socket.close(code=4503)

    async def hang_up(socket: web.WebSocketResponse, received: List[str]) -> None:
        if len(received) == 10:
            await socket.send_str(json.dumps({"hangup": True}))
            await socket.close()

    report = under_load(Scripted(refuse), monkeypatch, callers=3, seconds=1)
    assert report.dropped == Counter(too_many_calls=3)
    assert report.problems()[0] == "Calls that ended before their time: too_many_calls (3)."
    scripted = Scripted(hang_up)
    report = under_load(scripted, monkeypatch, callers=1, seconds=1)
    assert len(scripted.received) >= 2
    assert not report.dropped
    assert report.lost == 0  # nobody can answer what was said to a line that is gone


def test_a_hang_up_does_not_excuse_what_was_lost_before(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang_up(socket: web.WebSocketResponse, received: List[str]) -> None:
        if len(received) == 80:  # the utterance is over since half a second at least, and so is the time to call again
            await socket.send_str(json.dumps({"hangup": True}))
            await socket.close()

    report = under_load(Scripted(hang_up), monkeypatch, callers=1, seconds=1.5)
    assert report.counts() == {**NONE, "said": 1, "lost": 1}
    assert not report.dropped


def test_a_generator_that_is_late_says_so() -> None:
    said = [Said(Take("a", [], 0, "greet"), 0, 1, 2, turns=[{"intent": "greet"}])]
    report = Report(LoadSettings("ws://x"), said, lag_ms=[1.0] * 94 + [500.0] * 6)
    assert not report.kept_pace
    assert "could not keep pace" in report.problems()[0]
    assert Report(LoadSettings("ws://x"), said, lag_ms=[1.0] * 96 + [500.0] * 4).problems() == []


def test_late_is_by_the_callers_clock() -> None:
    said = Said(Take("a", [], 0, "greet"), 0, 1, 2, turns=[{"intent": "greet"}], latency={"first_response_latency_ms": 1.0})
    said.message_ms = 1001.0
    report = Report(LoadSettings("ws://x", late_ms=1000), said=[said])
    assert report.counts()["late"] == 1
    assert report.latencies()["server_message"]["max"] == 1.0


# ------------------------------------------------ refusals


def test_what_is_no_single_turn_alone_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted(silent, intents=("greet", "deny"))
    with pytest.raises(SpokenIntentsError, match="one turn"):
        under_load(scripted, monkeypatch, callers=1, seconds=1)
    assert scripted.received == []


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"ws://127.0.0.1:{free_port()}/webhooks/voice/websocket"
    assert called("load", FOLDERS[0], "--url", url) == 1
    error = capsys.readouterr().err
    assert "Nobody answers at http://127.0.0.1" in error
    assert "Traceback" not in error


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(Scripted):
        async def _recording(self, request: web.Request) -> web.Response:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr(load, "ANSWER_S", 0.2)
    with pytest.raises(SpokenIntentsError, match="Nobody answers at http://.*it takes too long"):
        under_load(Stuck(silent), monkeypatch, callers=1, seconds=1)


def test_no_recordings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called("load", tmp_path) == 1
    assert "no recording there" in capsys.readouterr().err
    with pytest.raises(DataError, match="no recording there"):
        read_recordings([tmp_path])
    with pytest.raises(DataError, match="nowhere: no such file"):
        read_recordings([tmp_path, Path("nowhere")])


def test_recordings_are_drawn_by_the_seed_and_bounded() -> None:
    names = [[name for name, _ in read_recordings([PROJECT / "audio/test"], seed)] for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert len(names[0]) == load.TAKES
    assert len(GAINS_DB) == 3


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("url", "127.0.0.1:5005", "url takes an address such as ws://"),
        ("callers", 1001, "callers takes 1 to 1000"),
        ("seconds", 0, "seconds takes 1 to 3600"),
        ("ramp_s", 601, "ramp takes 0 to 600"),
        ("messages", "fax", "messages takes telephone or browser"),
        ("late_ms", 0, "late takes more than 0"),
    ],
)
def test_settings_out_of_bounds(setting: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LoadSettings(**{"url": "ws://x", setting: value})
