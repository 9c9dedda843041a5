"""More callers than there are places, and clients that read nothing: refused, bounded, and no harm to other calls."""

import asyncio
import base64
import io
import json
import re
import socket
from typing import Any, AsyncIterator, Dict, List
from xml.etree import ElementTree

import aiohttp
import numpy as np
import pytest
import soundfile
from sanic import Sanic
from telephone import Telephone
from test_session import LoudVad, ScriptedRecognizer, intent_of, said

from counted import Counted
from in_process import PATIENCE_S, run, serving
from spoken_intents import segmenter
from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16
from spoken_intents.channels import connection
from spoken_intents.channels.connection import BURST_S
from spoken_intents.channels.places import counted_as
from spoken_intents.channels.twilio import TwilioInput, TwilioSettings
from spoken_intents.channels.voice import VoiceInput, VoiceSettings
from spoken_intents.utterances import hand_off, is_audio_reference

QUICK = {
    "start_window_ms": 60, "min_speech_duration_ms": 60, "pause_ms": 60, "min_silence_duration_ms": 100, "speech_pad_ms": 0,
    "turn_end": "fixed", "silence_timeout_ms": 0, "speech": "none", "max_turns_per_minute": 100_000,
}  # fmt: skip
MINUTES = 5  # of speech at 48 kHz, about 40 MB on the wire: more than the kernel keeps for two sockets


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "make_vad", lambda *_: LoudVad())
    monkeypatch.setattr(Sanic, "test_mode", True)


async def rasa(message: Any) -> None:
    """Says what it heard."""
    text = hand_off.take(message.text).recognition.intent if is_audio_reference(message.text) else message.text
    await message.output_channel.send_text_message(message.sender_id, text)


class Endless:
    """A voice that speaks for minutes."""

    name = "endless"

    async def speak(self, text: str) -> AsyncIterator[np.ndarray]:
        for _ in range(MINUTES * 60):
            yield np.full(SAMPLE_RATE, 0.1, dtype=np.float32)

    def close(self) -> None: ...


class Caller:
    """One call over the voice channel, a turn at a time; from `address`, says a proxy."""

    def __init__(self, http: aiohttp.ClientSession, port: int, address: str = "") -> None:
        self._http, self._url = http, f"ws://127.0.0.1:{port}/webhooks/voice/websocket"
        self._headers = {"X-Forwarded-For": address} if address else {}

    async def __aenter__(self) -> "Caller":
        self._socket = await self._http.ws_connect(self._url, headers=self._headers)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._socket.close()

    async def say(self, number: int) -> str:
        await self._socket.send_bytes(float_to_pcm16(said(number)))
        return await self._answer()

    async def type(self, text: str) -> str:
        await self._socket.send_json({"text": text})
        return await self._answer()

    async def _answer(self) -> str:
        response = ""
        async for frame in self._socket:
            message = json.loads(frame.data)
            response = message.get("response", response)
            if message.get("final"):
                break
        return response

    async def refusal(self) -> Dict[str, Any]:
        """What the server says without being asked, and the code by which it closes."""
        told: Dict[str, Any] = {}
        async for frame in self._socket:
            told = json.loads(frame.data).get("error", told)
        return {**told, "close_code": self._socket.close_code}


# ---------------------------------------------------------------- a burst of connections


def test_a_burst_of_connections_is_refused_and_calls_in_progress_go_on() -> None:
    """500 at once where 20 have a place, 5 of them taken: 15 are calls, 485 are told why not."""
    counted = Counted()
    # Those who talk do so as fast as they are answered, for as long as it takes.
    channel = VoiceInput(VoiceSettings(**QUICK, max_connections=20, max_ahead_ms=3_600_000, max_bytes_per_second=10**9))

    async def connect(http: aiohttp.ClientSession, port: int) -> Any:
        async with Caller(http, port) as caller:
            await asyncio.sleep(0)
            answered = asyncio.create_task(caller.type("hello"))
            done, _ = await asyncio.wait({answered}, timeout=PATIENCE_S)
            assert done
            if answered.result() == "hello":
                await burst_over.wait()
                return "hello"
        return caller._socket.close_code

    async def talk(caller: Caller, stop: asyncio.Event) -> List[str]:
        answers = []
        while not stop.is_set() or len(answers) < 3:
            answers.append(await caller.say(len(answers) % 10))
        return answers

    async def main() -> Any:
        nonlocal burst_over
        burst_over = asyncio.Event()
        connector = aiohttp.TCPConnector(limit=0)
        async with serving(channel, rasa=rasa, ear=EAR) as app, aiohttp.ClientSession(connector=connector) as http:
            callers = [Caller(http, app.ctx.port) for _ in range(5)]
            for caller in callers:
                await caller.__aenter__()
                assert await caller.type("first") == "first"
            stop = asyncio.Event()
            talking = [asyncio.create_task(talk(caller, stop)) for caller in callers]
            burst = [asyncio.create_task(connect(http, app.ctx.port)) for _ in range(500)]
            while sum(task.done() for task in burst) < 485:
                assert not any(task.done() for task in talking)
                await asyncio.sleep(0.01)
            assert counted("spoken_intents_calls_open", channel="voice") == 20
            burst_over.set()
            results = await asyncio.gather(*burst)
            stop.set()
            answers = await asyncio.gather(*talking)
            for caller in callers:
                await caller.__aexit__()
            async with Caller(http, app.ctx.port) as late:  # there is room again
                assert await late.type("late") == "late"
            return results, answers

    burst_over: asyncio.Event
    results, answers = run(main())
    assert results.count("hello") == 15 and results.count(4503) == 485
    for said_by_one in answers:
        assert said_by_one == [intent_of(number % 10) for number in range(len(said_by_one))]
    assert counted("spoken_intents_refusals_total", channel="voice", code="too_many_calls") == 485
    assert counted("spoken_intents_calls_open", channel="voice") == 0


@pytest.mark.parametrize("channel", [VoiceInput(VoiceSettings(**QUICK)), TwilioInput(TwilioSettings(speech="none"))])
def test_a_connection_brings_no_body(channel: Any) -> None:
    """Sanic would keep up to 100 MB of it before anybody is asked."""

    async def main() -> bytes:
        async with serving(channel, rasa=rasa, ear=EAR) as app:
            reader, writer = await asyncio.open_connection("127.0.0.1", app.ctx.port)
            head = [f"GET /webhooks/{channel.name()}/websocket HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"]
            head += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Content-Length: 90000000"]
            writer.write("\r\n".join([*head, "", ""]).encode())
            answer = await asyncio.wait_for(reader.readline(), PATIENCE_S)
            writer.close()
            return answer

    assert b" 101 " in run(main())


def test_a_refused_caller_is_told_why() -> None:
    channel = VoiceInput(VoiceSettings(**QUICK, max_connections=1))

    async def main() -> Dict[str, Any]:
        async with serving(channel, rasa=rasa, ear=EAR) as app, aiohttp.ClientSession() as http:
            async with Caller(http, app.ctx.port) as first:
                assert await first.type("hello") == "hello"
                async with Caller(http, app.ctx.port) as second:
                    return await second.refusal()

    refusal = run(main())
    assert (refusal["code"], refusal["close_code"]) == ("too_many_calls", 4503)
    assert re.search(r"1 calls are open, .* Try again later", refusal["message"])


def test_a_telephone_call_without_a_place_hears_the_busy_tone() -> None:
    """Asked before it is connected; a stream that comes all the same is closed."""
    counted = Counted()
    channel = TwilioInput(TwilioSettings(**QUICK, max_connections=1))

    async def main() -> Any:
        async with serving(channel, rasa=rasa, ear=EAR) as app:
            async with Telephone(app.ctx.port) as first, Telephone(app.ctx.port, "CA2") as second:
                await first.connect()
                await first.say(np.zeros(160))
                while not counted("spoken_intents_calls_open", channel="twilio_media_streams"):
                    await asyncio.sleep(0.001)
                status, answer = await second.ask({"CallSid": "CA2"})
                await second.connect()
                await second.until(lambda: second.closed)
                return status, answer, second.closed

    status, answer, closed = run(main())
    reject = ElementTree.fromstring(answer).find("Reject")
    assert status == 200 and reject is not None and reject.get("reason") == "busy"
    assert closed == 4503
    assert counted("spoken_intents_refusals_total", channel="twilio_media_streams", code="busy") == 1
    assert counted("spoken_intents_refusals_total", channel="twilio_media_streams", code="too_many_calls") == 1


# ---------------------------------------------------------------- one caller who takes too much, and one beside


def refused_beside_another(settings: Dict[str, Any], too_much: Any) -> Dict[str, Any]:
    """What the one is told at the end of `too_much` (given its `Caller`); another's turns go on before, meanwhile and after."""
    counted = Counted()
    channel = VoiceInput(VoiceSettings(**{**QUICK, **settings}))

    async def main() -> Dict[str, Any]:
        async with serving(channel, rasa=rasa, ear=EAR) as app, aiohttp.ClientSession() as http:
            async with Caller(http, app.ctx.port) as other, Caller(http, app.ctx.port) as one:
                assert await other.say(1) == intent_of(1)
                doing = asyncio.create_task(too_much(one))
                assert await other.say(2) == intent_of(2)
                refusal = await doing
                assert await other.say(3) == intent_of(3)
                return refusal

    refusal = run(main())
    assert counted("spoken_intents_refusals_total", channel="voice", code=refusal["code"]) == 1
    assert counted("spoken_intents_refusals_total", channel="voice") == 1
    assert counted("spoken_intents_calls_open", channel="voice") == 0
    return refusal


def test_more_bytes_a_second_than_may_be_end_the_call() -> None:
    """In few messages, and none of it audio, which has a budget of its own."""

    async def much(caller: Caller) -> Dict[str, Any]:
        for _ in range(6):
            await caller._socket.send_json({"marker": "x" * 99_900})
        return await caller.refusal()

    refusal = refused_beside_another({"max_bytes_per_second": 100_000}, much)
    assert (refusal["code"], refusal["close_code"]) == ("too_many_bytes", 4429)
    assert refusal["message"] == "More than 100000 bytes a second."


def test_rasas_browser_client_stays_within_its_budgets() -> None:
    """A second of it: 375 messages of 128 samples in base64, at 48 kHz. Five of such seconds may come at once."""
    settings = VoiceSettings(speech="none")
    message = json.dumps({"audio": base64.b64encode(bytes(256)).decode()})
    assert 375 < settings.max_messages_per_second and 10 * 375 * len(message) < settings.max_bytes_per_second
    early = settings.max_ahead_ms / 1000 * 375 * len(message)
    assert early < BURST_S * settings.max_bytes_per_second + settings.max_bytes_per_second, "what may come ahead, may come"


def test_more_turns_a_minute_than_may_be_end_the_call() -> None:
    async def much(caller: Caller) -> Dict[str, Any]:
        for number in range(20):
            assert await caller.type(f"turn {number}") == f"turn {number}"
        await caller._socket.send_json({"text": "one more"})
        return await caller.refusal()

    async def waits_for_no_answer(caller: Caller) -> Dict[str, Any]:
        for number in range(30):
            await caller._socket.send_json({"text": f"turn {number}"})
        for number in range(20):
            assert await caller._answer() == f"turn {number}"
        return await caller.refusal()

    for way in (much, waits_for_no_answer):
        refusal = refused_beside_another({"max_turns_per_minute": 20}, way)
        assert (refusal["code"], refusal["close_code"]) == ("too_many_turns", 4429)
        assert refusal["message"] == "More than 20 turns a minute."


def test_a_call_that_lasts_too_long_is_ended() -> None:
    async def stays(caller: Caller) -> None:
        assert await caller.type("still here") == "still here"

    async def main() -> Dict[str, Any]:
        channel = VoiceInput(VoiceSettings(**QUICK, max_call_ms=1500))
        async with serving(channel, rasa=rasa, ear=EAR) as app, aiohttp.ClientSession() as http:
            async with Caller(http, app.ctx.port) as one:
                await stays(one)
                refusal = await one.refusal()
            async with Caller(http, app.ctx.port) as again:
                await stays(again)
            return refusal

    counted = Counted()
    refusal = run(main())
    assert (refusal["code"], refusal["close_code"]) == ("call_too_long", 4408)
    assert refusal["message"] == "The call has lasted for 1500 ms, and is over."
    assert counted("spoken_intents_refusals_total", channel="voice", code="call_too_long") == 1


def test_a_call_whose_bot_hangs_is_ended_all_the_same() -> None:
    """With as many turns waiting as may, and more behind them. The turn that Rasa has is finished."""
    finished: List[str] = []

    async def main() -> Dict[str, Any]:
        go_on = asyncio.Event()

        async def hangs(message: Any) -> None:
            await go_on.wait()
            finished.append(message.text)

        channel = VoiceInput(VoiceSettings(**QUICK, max_call_ms=1000))
        async with serving(channel, rasa=hangs, ear=EAR) as app, aiohttp.ClientSession() as http:
            async with Caller(http, app.ctx.port) as caller:
                for number in range(12):
                    await caller._socket.send_json({"text": f"turn {number}"})
                refusal = await asyncio.wait_for(caller.refusal(), PATIENCE_S)
            go_on.set()
            return refusal

    counted = Counted()
    refusal = run(main())
    assert (refusal["code"], refusal["close_code"]) == ("call_too_long", 4408)
    assert finished == ["turn 0"]
    assert counted("spoken_intents_calls_open", channel="voice") == 0


def test_one_address_has_so_many_places_and_no_more() -> None:
    """As the proxy in front tells it. What is not told counts for nobody: a proxy on this machine speaks for many."""
    counted = Counted()

    async def main() -> None:
        channel = VoiceInput(VoiceSettings(**QUICK, max_connections_per_address=2))
        async with serving(channel, rasa=rasa, ear=EAR) as app, aiohttp.ClientSession() as http:
            app.config.PROXIES_COUNT = 1
            port, here, there = app.ctx.port, "203.0.113.7", "203.0.113.8"
            async with Caller(http, port, here) as one, Caller(http, port, here) as two:
                assert await one.say(1) == intent_of(1) and await two.say(2) == intent_of(2)
                async with Caller(http, port, here) as three:
                    refusal = await three.refusal()
                    assert (refusal["code"], refusal["close_code"]) == ("too_many_of_address", 4429)
                    assert refusal["message"] == "2 connections are open from your address, and no more are taken."
                async with Caller(http, port, f"{here}, {there}") as forged:  # by the caller, in front of what the proxy adds
                    assert await forged.say(3) == intent_of(3)
                others = [Caller(http, port) for _ in range(3)]
                for other in others:
                    await other.__aenter__()
                    assert await other.say(4) == intent_of(4)
                for other in others:
                    await other.__aexit__()
                assert await one.say(5) == intent_of(5)
            async with Caller(http, port, here) as again:
                assert await again.say(6) == intent_of(6)

    run(main())
    assert counted("spoken_intents_refusals_total", channel="voice", code="too_many_of_address") == 1


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]", "2001:db8:1:2::/64"),
        ("127.0.0.1", ""),
        ("127.8.9.10", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("203.0.113.7:50001", "203.0.113.7"),
        ("[2001:db8:1:2::9]:50001", "2001:db8:1:2::/64"),
        ("[::ffff:203.0.113.7]:1", "203.0.113.7"),
        ("127.0.0.1:50001", ""),
        ("_hidden", "unknown"),
        ("_hidden:50001", "unknown"),
        ("[::1]:50001 ", "unknown"),
        ("[]:1", "unknown"),
        (":1", "unknown"),
        ("1.2.3", "unknown"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(address: str, caller: str) -> None:
    assert counted_as(address) == caller


@pytest.mark.parametrize(
    "nest", ["[" * 500_000, '{"a":' * 200_000, '{"text": ' + "[" * 900 + "]" * 900 + "}"], ids=["lists", "objects", "text"]
)
def test_json_as_deep_as_a_message_may_be_is_refused(nest: str) -> None:
    async def deep(caller: Caller) -> Dict[str, Any]:
        await caller._socket.send_str(nest)
        return await caller.refusal()

    refusal = refused_beside_another({}, deep)
    assert refusal["code"] in ("bad_json", "bad_text") and refusal["close_code"] == 4400


# ---------------------------------------------------------------- a client that reads nothing


class Deaf:
    """A WebSocket client that sends and never reads, by hand: libraries read on their own."""

    async def connect(self, port: int) -> "Deaf":
        self._loop = asyncio.get_running_loop()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.setblocking(False)
        await self._loop.sock_connect(self.socket, ("127.0.0.1", port))
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c3Bva2VuIGludGVudHMhIQ=="
        await self._loop.sock_sendall(
            self.socket, f"GET /webhooks/voice/websocket HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n\r\n".encode()
        )
        assert b" 101 " in await self._loop.sock_recv(self.socket, 4096)
        return self

    @staticmethod
    def frame(payload: bytes, opcode: int, final: bool = True) -> bytes:
        return bytes([0x80 * final | opcode, 0x80 | len(payload)]) + bytes(4) + payload  # masked by zeros

    async def send(self, payload: bytes, opcode: int = 1) -> None:
        await self.write(self.frame(payload, opcode))

    async def write(self, frames: bytes) -> None:
        try:
            await self._loop.sock_sendall(self.socket, frames)
        except ConnectionError:
            pass  # refused while still sending


def server_side(app: Sanic, client: Deaf) -> Any:
    """The server's side of that client's connection; None when it is over."""
    port = client.socket.getsockname()[1]
    for found in app.ctx.connections:
        if found.transport and (found.transport.get_extra_info("peername") or (0, 0))[1] == port:
            return found
    return None


def test_a_client_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the bot speak for minutes; what waits for it here stays small, and others are answered meanwhile."""
    monkeypatch.setattr(connection, "SEND_TIMEOUT_MS", 1500)  # more than this loop, which all share here, may stand still
    counted = Counted()
    channel = VoiceInput(VoiceSettings(**QUICK, idle_timeout_ms=600_000, max_ahead_ms=3_600_000, max_messages_per_second=100_000))
    largest = 0

    async def main() -> None:
        nonlocal largest
        async with serving(channel, rasa=rasa, ear=EAR) as app, aiohttp.ClientSession() as http:
            async with Caller(http, app.ctx.port) as other:
                assert await other.say(1) == intent_of(1)
                channel.speech = Endless()  # type: ignore[assignment]
                deaf = await Deaf().connect(app.ctx.port)
                await deaf.send(b'{"sample_rate": 48000}')
                await deaf.send(b'{"text": "tell me everything"}')
                answers = []
                while (ours := server_side(app, deaf)) is not None:
                    largest = max(largest, ours.transport.get_write_buffer_size())
                    answers.append(await other.say(2))
                assert set(answers) == {intent_of(2)}
                assert await other.say(3) == intent_of(3)
                deaf.socket.close()

    run(main())
    assert connection.FULL_BYTES < largest < 4 * connection.FULL_BYTES, "its buffer was full, and bounded"
    assert counted("spoken_intents_refusals_total", channel="voice", code="reads_nothing") == 1
    assert counted("spoken_intents_calls_open", channel="voice") == 0


def test_a_turn_is_finished_whoever_of_its_senders_finds_the_client_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four send at once to a client that reads nothing: one waits for it, three for the one. Rasa's turn loses none of them."""
    monkeypatch.setattr(connection, "SEND_TIMEOUT_MS", 3000)  # more than this loop, which all share here, may stand still
    counted, finished = Counted(), []

    async def talkative(message: Any) -> None:
        async def say() -> None:
            for _ in range(400):
                await message.output_channel.send_custom_json(message.sender_id, {"much": "x" * 30_000})

        await asyncio.gather(*(say() for _ in range(4)))
        finished.append(message.text)

    async def main() -> None:
        channel = VoiceInput(VoiceSettings(**QUICK, idle_timeout_ms=600_000))
        async with serving(channel, rasa=talkative, ear=EAR) as app:
            deaf = await Deaf().connect(app.ctx.port)
            await deaf.send(b'{"text": "tell me everything"}')
            await deaf.send(b'{"text": "and once more"}')
            while server_side(app, deaf) is not None:
                await asyncio.sleep(0.01)
            while channel._ending:
                await asyncio.sleep(0.01)
            deaf.socket.close()

    run(main())
    assert finished[:1] == ["tell me everything"]
    assert counted("spoken_intents_refusals_total", channel="voice", code="reads_nothing") == 1
    assert counted("spoken_intents_turns_total", channel="voice", outcome="failed") == 0


@pytest.mark.parametrize(
    "frame", [Deaf.frame(b"", 9), Deaf.frame(b"", 10), Deaf.frame(b"", 0, final=False)], ids=["ping", "pong", "part"]
)
def test_a_flood_of_what_is_no_message_is_refused(frame: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sanic takes these on its own; each costs the event loop some time. What has come with them is looked at no more."""
    counted, spent = Counted(), []

    class Watched(connection.Allowance):
        def spend(self, amount: float) -> bool:
            spent.append(amount)
            return super().spend(amount)

    monkeypatch.setattr(connection, "Allowance", Watched)
    channel = VoiceInput(VoiceSettings(**QUICK, max_messages_per_second=20))

    async def main() -> None:
        async with serving(channel, rasa=rasa, ear=EAR) as app, aiohttp.ClientSession() as http:
            async with Caller(http, app.ctx.port) as other:
                assert await other.say(1) == intent_of(1)
                flooding = await Deaf().connect(app.ctx.port)
                await flooding.write(Deaf.frame(b"", 1, final=False) + frame * 40_000)
                while server_side(app, flooding) is not None:
                    await asyncio.sleep(0.01)
                assert await other.say(2) == intent_of(2)
                flooding.socket.close()

    run(main())
    assert counted("spoken_intents_refusals_total", channel="voice", code="too_many_messages") == 1
    assert counted("spoken_intents_calls_open", channel="voice") == 0
    assert 100 < len(spent) < 1000


def test_pings_of_a_client_that_reads_nothing_do_not_pile_up() -> None:
    """Each is to be answered; answers that wait for it are bounded as everything else is, and others' pings are answered."""
    channel = VoiceInput(VoiceSettings(**QUICK, max_messages_per_second=1_000_000))

    async def main() -> None:
        async with serving(channel, rasa=rasa, ear=EAR) as app, aiohttp.ClientSession() as http:
            deaf = await Deaf().connect(app.ctx.port)
            await deaf.send(b"x" * 100, opcode=9)
            transport, pings = server_side(app, deaf).transport, Deaf.frame(b"x" * 100, 9) * 1000
            deaf.socket.settimeout(PATIENCE_S)
            while transport.get_write_buffer_size() < connection.FULL_BYTES:  # sockets have room, too
                await asyncio.to_thread(deaf.socket.sendall, pings)
            before = len(asyncio.all_tasks())
            for _ in range(40):
                await asyncio.to_thread(deaf.socket.sendall, pings)
            assert len(asyncio.all_tasks()) < before + 20
            assert transport.get_write_buffer_size() < 2 * connection.FULL_BYTES
            async with http.ws_connect(f"ws://127.0.0.1:{app.ctx.port}/webhooks/voice/websocket", autoping=False) as reads:
                await reads.ping(b"there?")
                pong = await reads.receive(PATIENCE_S)
                assert (pong.type, bytes(pong.data)) == (aiohttp.WSMsgType.PONG, b"there?")
            deaf.socket.close()

    run(main())


# ---------------------------------------------------------------- recordings over HTTP


def test_more_recordings_than_may_be_are_refused_and_calls_go_on() -> None:
    counted = Counted()
    channel = VoiceInput(VoiceSettings(**QUICK, max_uploads=2))
    file = io.BytesIO()
    soundfile.write(file, said(7), SAMPLE_RATE, format="WAV")

    async def main() -> None:
        arrived, go_on = 0, asyncio.Event()

        async def slow(message: Any) -> None:
            nonlocal arrived
            if message.sender_id.startswith("upload"):
                arrived += 1
                await go_on.wait()
            await rasa(message)

        async with serving(channel, rasa=slow, ear=EAR) as app, aiohttp.ClientSession() as http:

            async def upload(number: int) -> Any:
                url = f"http://127.0.0.1:{app.ctx.port}/webhooks/voice/webhook?sender=upload{number}"
                async with http.post(url, data=file.getvalue()) as answer:
                    return answer.status, await answer.json()

            async with Caller(http, app.ctx.port) as caller:
                assert await caller.say(1) == intent_of(1)
                app.ctx.settled = "the model before"
                first = [asyncio.create_task(upload(number)) for number in (1, 2)]
                while arrived < 2:
                    await asyncio.sleep(0.001)
                assert app.ctx.settled == app.ctx.agent.model_id, "a recording finds a model that was replaced, as a call does"
                status, refusal = await upload(3)
                assert (status, refusal["error"]["code"]) == (503, "too_many_uploads")
                assert "2 recordings are being answered" in refusal["error"]["message"]
                assert await caller.say(2) == intent_of(2)
                go_on.set()
                for status, messages in await asyncio.gather(*first):
                    assert (status, messages[-1]["text"]) == (200, intent_of(7))
                assert (await upload(4))[0] == 200, "there is room again"

    run(main())
    assert counted("spoken_intents_refusals_total", channel="recording", code="too_many_uploads") == 1


EAR: Any = ScriptedRecognizer()


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(("allowed", "live_only"), [((False, False), True), ((True, False), True), ((True, True), False)])
def test_text_names_files_only_where_every_channel_of_speech_allows_it(allowed: Any, live_only: bool) -> None:
    channels = [
        VoiceInput(VoiceSettings(**QUICK, audio_files=allowed[0])),
        TwilioInput(TwilioSettings(**QUICK, audio_files=allowed[1])),
    ]

    async def scenario() -> None:
        async with serving(*channels, rasa=rasa, ear=ScriptedRecognizer()):
            assert hand_off.live_only is live_only

    assert not hand_off.live_only
    run(scenario())
    assert not hand_off.live_only


@pytest.mark.parametrize("suffix", ["WAV", "FLAC", "OGG", "MP3"])
def test_recordings_of_every_format_are_taken_over_http(suffix: str) -> None:
    held = io.BytesIO()
    soundfile.write(held, said(1), SAMPLE_RATE, format=suffix)

    async def scenario() -> int:
        async with serving(VoiceInput(VoiceSettings(**QUICK)), rasa=rasa, ear=ScriptedRecognizer()) as app:
            async with aiohttp.ClientSession() as http:
                url = f"http://127.0.0.1:{app.ctx.port}/webhooks/voice/webhook"
                async with http.post(url, data=held.getvalue()) as answer:
                    return answer.status

    assert run(scenario()) == 200
