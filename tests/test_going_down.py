"""A server that is told to end (SIGTERM): callers are answered first, and told to call again; new ones find it closed."""

import asyncio
import json
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, AsyncIterator, Dict, List, Tuple

import aiohttp
import numpy as np
import pytest
from sanic import Sanic
from telephone import CHANNEL, Telephone
from test_limits import QUICK, Caller
from test_session import LoudVad, ScriptedRecognizer, intent_of, said

from counted import Counted
from in_process import PATIENCE_S, run, serving
from spoken_intents import segmenter
from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16
from spoken_intents.channels.twilio import TwilioInput, TwilioSettings
from spoken_intents.channels.voice import VoiceInput, VoiceSettings
from spoken_intents.utterances import hand_off, is_audio_reference


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "make_vad", lambda *_: LoudVad())
    monkeypatch.setattr(Sanic, "test_mode", True)


class Rasa:
    """Answers "wait" and `said(1)` when `go_on` is set, everything else at once."""

    def __init__(self) -> None:
        self.go_on, self.asked, self.done = asyncio.Event(), 0, 0

    async def __call__(self, message: Any) -> None:
        text = hand_off.take(message.text).recognition.intent if is_audio_reference(message.text) else message.text
        self.asked += 1
        if text in ("wait", intent_of(1)):
            await self.go_on.wait()
        await message.output_channel.send_text_message(message.sender_id, text)
        self.done += 1


class Tone:
    """A voice that speaks every text for half a second."""

    name = "tone"

    async def speak(self, text: str) -> AsyncIterator[np.ndarray]:
        yield np.full(SAMPLE_RATE // 2, 0.1, dtype=np.float32)

    def close(self) -> None: ...


@asynccontextmanager
async def both_channels(**settings: Any) -> AsyncIterator[SimpleNamespace]:
    """Both on one server, with what it takes to end it."""
    settings = {**QUICK, "shutdown_timeout_ms": 600_000, **settings}
    voice, twilio, rasa = VoiceInput(VoiceSettings(**settings)), TwilioInput(TwilioSettings(**settings)), Rasa()
    async with serving(voice, twilio, rasa=rasa, ear=ScriptedRecognizer()) as app, aiohttp.ClientSession() as http:
        voice.speech = twilio.speech = Tone()  # type: ignore[assignment]
        yield SimpleNamespace(app=app, http=http, port=app.ctx.port, rasa=rasa, voice=voice, twilio=twilio)


async def rest(caller: Caller) -> Tuple[List[Dict[str, Any]], Any]:
    """Everything that still comes, and the close code."""
    socket = caller._socket
    return [json.loads(frame.data) async for frame in socket], socket.close_code


def test_turns_are_answered_before_callers_are_sent_away() -> None:
    counted = Counted()

    async def main() -> None:
        async with both_channels() as server:
            async with Caller(server.http, server.port) as idle, Caller(server.http, server.port) as waiting:
                assert await idle.type("hello") == "hello"
                async with Telephone(server.port) as phone:
                    await phone.connect()
                    await phone.say(said(1)[::2])
                    await waiting._socket.send_json({"text": "wait"})
                    while server.rasa.asked < 3:
                        await asyncio.sleep(0.005)
                    ending = asyncio.create_task(server.app.ctx.wind_down())
                    for _ in range(20):  # two seconds, in which all is played
                        await idle._socket.send_bytes(bytes(3200))
                    told, code = await asyncio.wait_for(rest(idle), PATIENCE_S)
                    assert (told[-1]["error"]["code"], code) == ("going_down", 1012)
                    assert not ending.done() and phone.closed is None
                    server.rasa.go_on.set()
                    while server.rasa.done < 3:
                        await asyncio.sleep(0.005)
                    assert not ending.done(), "nobody has heard the answer yet"
                    await phone.listen(lambda: phone.closed)
                    for _ in range(20):
                        await waiting._socket.send_bytes(bytes(3200))
                    told, code = await asyncio.wait_for(rest(waiting), PATIENCE_S)
                    assert [message["response"] for message in told if "response" in message] == ["wait"]
                    assert sum(message.get("final", False) for message in told) == 1 and code == 1012
                    assert phone.closed == 1012 and len(phone.heard) == 4000
                    await asyncio.wait_for(ending, PATIENCE_S)

    run(main())
    assert counted("spoken_intents_refusals_total", code="going_down") == 3
    assert counted("spoken_intents_turns_total", outcome="answered") == 3


def test_who_is_in_the_middle_of_a_word_may_end_it() -> None:
    async def main() -> Any:
        async with both_channels() as server, Caller(server.http, server.port) as caller:
            await caller._socket.send_bytes(float_to_pcm16(said(3)[: SAMPLE_RATE // 10]))
            assert json.loads((await caller._socket.receive()).data)["trace_event"] == "user_speaking_start"
            ending = asyncio.create_task(server.app.ctx.wind_down())
            await asyncio.sleep(0.2)
            await caller._socket.send_bytes(float_to_pcm16(np.concatenate([said(3), np.zeros(SAMPLE_RATE)])))
            told = await asyncio.wait_for(rest(caller), PATIENCE_S)
            await asyncio.wait_for(ending, PATIENCE_S)
            return told

    told, code = run(main())
    assert [message["response"] for message in told if "response" in message] == [intent_of(3)] and code == 1012


def test_a_turn_that_takes_too_long_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Any:
        async with both_channels(shutdown_timeout_ms=300) as server, Caller(server.http, server.port) as caller:
            await caller._socket.send_json({"text": "wait"})
            assert json.loads((await caller._socket.receive()).data)["trace_event"] == "typed"
            await asyncio.wait_for(server.app.ctx.wind_down(), PATIENCE_S)
            told = await asyncio.wait_for(rest(caller), PATIENCE_S)
            while not server.voice._ending:
                await asyncio.sleep(0.005)
            began = time.monotonic()
            await server.voice.stop()
            assert time.monotonic() - began < PATIENCE_S, "it is not waited for"
            server.rasa.go_on.set()
            return told

    told, code = run(main())
    assert told[-1]["error"]["code"] == "going_down" and code == 1012
    assert "1 turns were not finished in time" in caplog.text


def test_nobody_new_is_taken() -> None:
    """By a status on which HAProxy asks the next server; figures are told to the end."""
    counted = Counted()

    async def main() -> None:
        async with both_channels() as server:
            async with Caller(server.http, server.port) as caller:
                await caller._socket.send_json({"text": "wait"})
                assert json.loads((await caller._socket.receive()).data)["trace_event"] == "typed"
                ending = asyncio.create_task(server.app.ctx.wind_down())
                await asyncio.sleep(0)
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await Caller(server.http, server.port).__aenter__()
                assert refused.value.status == 503
                base = f"http://127.0.0.1:{server.port}"
                voice = f"{base}/webhooks/voice"
                for method, url in (
                    ("get", f"{voice}/status"),
                    ("post", f"{voice}/webhook"),
                    ("post", f"{base}{CHANNEL}/webhook"),
                ):
                    async with getattr(server.http, method)(url) as answer:
                        assert answer.status == 503, url
                        assert (await answer.json())["error"]["code"] == "going_down"
                async with server.http.get(f"{voice}/metrics") as answer:
                    assert answer.status == 200
                server.rasa.go_on.set()
                for _ in range(20):
                    await caller._socket.send_bytes(bytes(3200))
                await asyncio.wait_for(rest(caller), PATIENCE_S)
                await asyncio.wait_for(ending, PATIENCE_S)

    run(main())
    assert counted("spoken_intents_refusals_total", code="going_down", channel="voice") == 4
    assert counted("spoken_intents_refusals_total", code="going_down", channel="twilio_media_streams") == 1
