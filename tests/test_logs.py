"""Every line of the log about a call says which call and which turn, whoever writes it; and lines as JSON, as Rasa sets them up."""

import asyncio
import io
import json
import logging
import subprocess
import sys
from typing import Any, Dict, List, Tuple

import aiohttp
import pytest
import soundfile
from sanic import Sanic
from telephone import Telephone
from test_limits import QUICK, Caller
from test_session import LoudVad, ScriptedRecognizer, said

from assistant import ROOT
from in_process import run, serving
from spoken_intents import logs, segmenter
from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.channels.twilio import TwilioInput, TwilioSettings
from spoken_intents.channels.voice import VoiceInput, VoiceSettings
from spoken_intents.logs import JsonLines, LogContext, in_call, turn_begins

ACTIONS = logging.getLogger("rasa.core.actions.action")  # as any of Rasa's


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(segmenter, "make_vad", lambda *_: LoudVad())
    monkeypatch.setattr(Sanic, "test_mode", True)
    caplog.set_level(logging.INFO)


async def rasa(message: Any) -> None:
    """Logs what it was told of the call, and fails when it is told to."""
    ACTIONS.info("acting %s", message.metadata["call_id"])
    await asyncio.sleep(0.01)  # others write meanwhile
    if message.text == "fail":
        raise ValueError("a failing action")
    await message.output_channel.send_text_message(message.sender_id, "done")


def named(caplog: pytest.LogCaptureFixture, containing: str) -> List[Tuple[str, int]]:
    """Call and turn of the lines that hold these words."""
    return [
        (getattr(record, "call", ""), getattr(record, "turn", 0))
        for record in caplog.records
        if containing in record.getMessage()
    ]


def calls(caplog: pytest.LogCaptureFixture) -> List[str]:
    """The ids of all calls, in order of their beginning."""
    return [call for call, _ in named(caplog, "Connected.")]


def test_every_line_about_a_call_names_it_and_its_turn(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(VoiceInput(VoiceSettings(**QUICK)), rasa=rasa, ear=ScriptedRecognizer()) as app:
            async with aiohttp.ClientSession() as http:
                async with Caller(http, app.ctx.port) as first, Caller(http, app.ctx.port) as second:
                    await first.say(1)
                    await asyncio.gather(first.type("fail"), second.type("fail"))
                    await second.say(2)

    run(main())
    first, second = calls(caplog)
    assert sorted(named(caplog, "acting")) == sorted([(first, 1), (first, 2), (second, 1), (second, 2)])
    for call, _ in named(caplog, "acting"):
        assert named(caplog, f"call={call} turn=1 acting {call}") == [(call, 1)], "as text, too; and it is the tracker's call"
    assert sorted(named(caplog, "A turn failed.")) == sorted([(first, 2), (second, 1)])
    over = [(record.call, record.turn, event(record)["number"]) for record in caplog.records if "turn_over" in record.message]
    assert sorted(over) == sorted((call, turn, turn) for call in (first, second) for turn in (1, 2))
    assert [turn for _, turn in named(caplog, "Disconnected, 0 s later.")] == [2, 2]


def event(record: logging.LogRecord) -> Dict[str, Any]:
    return json.loads(JsonLines().format(record))


def test_what_is_refused_and_cut_off_names_the_call(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        settings = VoiceSettings(**QUICK, max_messages_per_second=1)
        async with serving(VoiceInput(settings), rasa=rasa, ear=ScriptedRecognizer()) as app, aiohttp.ClientSession() as http:
            url = f"ws://127.0.0.1:{app.ctx.port}/webhooks/voice/websocket"
            async with http.ws_connect(url) as socket:
                await socket.send_str("{")
                await socket.receive()
            async with http.ws_connect(url, autoping=False) as socket:
                for _ in range(10):
                    await socket.ping()
                while not (await socket.receive()).type.name.startswith("CLOS"):
                    pass

    run(main())
    refused, cut_off = calls(caplog)
    assert named(caplog, "(bad_json)") == [(refused, 0)]
    assert named(caplog, "(too_many_messages)") == [(cut_off, 0)]


def test_a_recording_is_a_call_of_its_own_and_its_connections_next_request_is_not(caplog: pytest.LogCaptureFixture) -> None:
    file = io.BytesIO()
    soundfile.write(file, said(7), SAMPLE_RATE, format="WAV")

    async def main() -> None:
        async with serving(VoiceInput(VoiceSettings(**QUICK)), rasa=rasa, ear=ScriptedRecognizer()) as app:
            url = f"http://127.0.0.1:{app.ctx.port}/webhooks/voice"
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as http:  # kept for the next request
                for _ in range(2):
                    async with http.post(f"{url}/webhook", data=file.getvalue()) as answer:
                        assert answer.status == 200
                app.ctx.agent = None
                async with http.get(f"{url}/health") as answer:
                    assert answer.status == 503
                assert len(app.ctx.connections) == 1

    run(main())
    (first, _), (second, _) = acting = named(caplog, "acting")
    assert first and second and first != second and [turn for _, turn in acting] == [1, 1]
    assert named(caplog, "(no_model)") == [("", 0)]


def test_a_telephone_call_goes_by_twilios_id_once_that_is_known(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        settings = TwilioSettings(**QUICK, initial_message="/greet")
        async with serving(TwilioInput(settings), rasa=rasa, ear=ScriptedRecognizer()) as app, Telephone(app.ctx.port) as phone:
            await phone.connect()
            while not named(caplog, "acting"):
                await asyncio.sleep(0.001)
            await phone.stop()

    run(main())
    sid = "CA0123456789abcdef0123456789abcdef"
    assert named(caplog, f"It is Twilio's call {sid}.") == [(calls(caplog)[0], 0)] != [(sid, 0)]
    assert named(caplog, "acting") == named(caplog, "Disconnected") == [(sid, 1)]


def test_ids_that_clients_choose_stay_one_word(caplog: pytest.LogCaptureFixture) -> None:
    logs.name_calls()
    with in_call(LogContext('a "b" %s turn=9')):
        turn_begins(3)
        ACTIONS.info("100 %")
        ACTIONS.info("%d %%", 100)
        ACTIONS.info("%(n)d %%", {"n": 100})
    ACTIONS.info("about no call")
    *about, other = [record.getMessage() for record in caplog.records]
    assert about == ['call="a \\"b\\" %s turn=9" turn=3 100 %'] * 3
    assert other == "about no call"
    assert {event(record)["message"] for record in caplog.records} == {"100 %", "about no call"}


def test_asking_twice_names_once(caplog: pytest.LogCaptureFixture) -> None:
    logs.name_calls()
    logs.name_calls()
    with in_call(LogContext("one")):
        ACTIONS.info("said")
    assert caplog.messages == ["call=one turn=0 said"]


# ---------------------------------------------------------------- as JSON

AS_RASA_DOES = r"""
import logging, sys, structlog
import rasa.utils.io
from rasa.utils.common import configure_logging_and_warnings, update_sanic_log_level
from rasa.utils.log_utils import configure_structlog
from spoken_intents.logs import LogContext, in_call, name_calls, turn_begins

# What `rasa run --logging-config-file` does, in this order.
configure_logging_and_warnings(None, sys.argv[1])
rasa.utils.io.configure_colored_logging(None)
configure_structlog(None)
update_sanic_log_level()
name_calls()
logging.getLogger("rasa.core.run").info("Rasa server is up and running.")
with in_call(LogContext("ab c")):
    turn_begins(2)
    logging.getLogger("spoken_intents.session").info('{"event": "turn_over", "level": "of the turn"}')
    structlog.get_logger("rasa.core.processor").info("processor.message.parse", intent="greet")
    logging.getLogger("spoken_intents.channels.connection").info("{not JSON")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("sanic.error").exception("It failed.")
        logging.getLogger("spoken_intents.session").exception("It failed.")
    logging.getLogger("somebody.else").info("text")
"""


def test_the_logging_file_makes_each_line_an_object() -> None:
    command = [sys.executable, "-c", AS_RASA_DOES, str(ROOT / "deploy/logging.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    start, over, parsed, broken, sanic, failed = lines
    assert list(start) == ["time", "level", "logger", "message"], "about no call"
    assert start["time"].endswith("+00:00")
    for line in lines[1:]:
        assert (line["call"], line["turn"]) == ("ab c", 2)
    assert over == {**over, "logger": "spoken_intents.session", "event": "turn_over", "level": "INFO"}
    assert parsed == {**parsed, "logger": "rasa.core.processor", "event": "processor.message.parse", "intent": "greet"}
    assert broken["message"] == "{not JSON"
    for line in (sanic, failed):
        assert line["message"] == "It failed." and line["exception"].endswith("ValueError: two\nlines")
    assert 'somebody.else  - call="ab c" turn=2 text' in done.stderr
    assert len(done.stderr.splitlines()) == 1
