"""The client against servers that play a script; with a real one it is tested in test_voice_channel.py."""

import asyncio
import base64
import itertools
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, List, Optional

import numpy as np
import pytest
from aiohttp import WSMsgType, web

from spoken_intents import client as client_module
from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16
from spoken_intents.client import INBOX_MESSAGES, PACKET_SAMPLES, Message, VoiceClient, end_of_speech
from spoken_intents.errors import ProtocolError, SpokenIntentsError

pytestmark = pytest.mark.filterwarnings("error")

Handler = Callable[[web.WebSocketResponse], Awaitable[None]]
MARKS = map(str, itertools.count())
STARTED: Message = {"trace_event": "user_speaking_start"}
NON_SPEECH: Message = {"trace_event": "non_speech", "confidence": 0.9}
FAILED: Message = {"error": {"code": "turn_failed", "message": "This turn could not be answered (KeyError)."}}
REFUSED: Message = {"error": {"code": "no_recognizer", "message": "The loaded Rasa model hears nothing."}}


def heard(intent: str) -> Message:
    return {"trace_event": "transcript", "intent": intent, "confidence": 0.9, "intent_ranking": []}


def turn(text: str) -> List[Message]:
    """The bot's answer to a turn."""
    marks = next(MARKS), next(MARKS)
    return [{"response": text}, {"marker": marks[0]}, {"marker": marks[1], "final": True, "latency": {"asr_latency_ms": 5.0}}]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """The URL of a WebSocket whose calls `handler` takes."""

    async def call(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        await handler(websocket)
        return websocket

    app = web.Application()
    app.router.add_get("/", call)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


def by_audio(script: Dict[int, List[Message]]) -> Handler:
    """Sends messages once so many packets of audio have come; stays silent otherwise."""

    async def handler(websocket: web.WebSocketResponse) -> None:
        packets = 0
        async for received in websocket:
            packets += received.type is WSMsgType.BINARY
            for message in script.get(packets, []) if received.type is WSMsgType.BINARY else []:
                await websocket.send_json(message)

    return handler


def by_text(*answers: List[Message], pause_s: float = 0.0) -> Handler:
    """Answers each typed turn by the next list, with a pause between its messages."""

    async def handler(websocket: web.WebSocketResponse) -> None:
        left = iter([[], *answers])  # the handshake has no answer
        async for received in websocket:
            for message in next(left, []) if "marker" not in received.data else []:
                await websocket.send_json(message)
                await asyncio.sleep(pause_s)

    return handler


async def refusing(websocket: web.WebSocketResponse) -> None:
    await websocket.send_json(REFUSED)
    # aiohttp reads one message while it closes; TCP resets what is closed with more unread, and the refusal is lost.
    with suppress(asyncio.TimeoutError):
        for _ in range(100):
            await asyncio.wait_for(websocket.receive(), 0.1)
    await websocket.close(code=4503)


def with_client(handler: Handler, use: Callable[[VoiceClient], Awaitable[Any]], **kwargs: Any) -> Any:
    async def call() -> Any:
        async with serving(handler) as url, VoiceClient(url, **kwargs) as client:
            return await use(client)

    return asyncio.run(asyncio.wait_for(call(), 20))


@pytest.fixture
def settle_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SETTLE_S", 0.3)


def recording(packets: int) -> np.ndarray:
    """Loud to its end."""
    return 0.5 * np.sin(np.arange(packets * PACKET_SAMPLES, dtype=np.float32) / 5)


# ------------------------------------------------------------------ where speech ends


@pytest.mark.parametrize("peak", [0.9, 0.01])
def test_speech_ends_with_the_last_loud_10_ms(peak: float) -> None:
    speech = peak * np.sin(np.arange(SAMPLE_RATE) / 5)
    hiss = 0.001 * peak * np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE)
    line = hiss.astype(np.float32)
    line[4_000 : 4_000 + SAMPLE_RATE] += speech.astype(np.float32)
    assert end_of_speech(line) == 4_000 + SAMPLE_RATE


@pytest.mark.parametrize("samples", [0, 100, 1_000])
def test_without_any_sound_it_is_the_end(samples: int) -> None:
    assert end_of_speech(np.zeros(samples, dtype=np.float32)) == samples


# ------------------------------------------------------------------ recordings

WITH_A_PAUSE = {
    5: [STARTED],
    15: [heard("greet"), *turn("Hello")],
    20: [STARTED],
    30: [NON_SPEECH],
    38: [STARTED],
    60: [heard("balance"), *turn("Ten pounds")],  # 20 packets after the recording's end
}


def test_a_recording_with_a_pause_is_played_to_its_end(settle_soon: None) -> None:
    answers = with_client(by_audio(WITH_A_PAUSE), lambda client: client.play(recording(40)))
    assert [(answer.heard["intent"], answer.texts) for answer in answers] == [
        ("greet", ["Hello"]),
        ("balance", ["Ten pounds"]),
    ]
    assert [answer.latency for answer in answers] == [{"asr_latency_ms": 5.0}] * 2
    assert [answer.answered_after_ms for answer in answers] == [None, None]


def test_the_next_recording_gets_its_own_answers(settle_soon: None) -> None:
    script = {**WITH_A_PAUSE, 66: [STARTED], 72: [heard("goodbye"), *turn("Bye")]}

    async def use(client: VoiceClient) -> Any:
        first = await client.say(recording(40))  # also waits for what else was heard in it
        return first, await client.say(recording(5))

    first, second = with_client(by_audio(script), use)
    assert first.texts == ["Hello"]
    assert second.texts == ["Bye"]


def test_a_cough_does_not_end_the_sentence_behind_it(settle_soon: None) -> None:
    script = {2: [STARTED], 5: [NON_SPEECH], 25: [STARTED], 45: [heard("greet"), *turn("Hello")]}
    answer = with_client(by_audio(script), lambda client: client.say(recording(30)))
    assert answer.texts == ["Hello"]
    assert 200 < answer.answered_after_ms < 3000, "15 packets after the end, and what the machine adds"


@pytest.mark.parametrize("script", [{}, {5: [STARTED], 25: [NON_SPEECH]}])
def test_noise_is_no_turn(script: Dict[int, List[Message]], settle_soon: None) -> None:
    assert with_client(by_audio(script), lambda client: client.say(recording(10))) is None
    assert with_client(by_audio(script), lambda client: client.play(recording(10))) == []


def test_patience_ends_waiting_for_a_turn_that_nobody_answers() -> None:
    unanswered = by_audio({5: [STARTED], 10: [heard("greet"), {"response": "Just a moment"}]})
    assert with_client(unanswered, lambda client: client.say(recording(10), patience_s=0.5)) is None
    assert with_client(by_text(), lambda client: client.type("hello", patience_s=0.5)) is None


def test_silence_is_sent_until_the_answer() -> None:
    sent: List[bytes] = []

    async def handler(websocket: web.WebSocketResponse) -> None:
        async for received in websocket:
            if received.type is WSMsgType.BINARY:
                sent.append(received.data)
                for message in {2: [STARTED], 20: turn("Hello")}.get(len(sent), []):
                    await websocket.send_json(message)

    with_client(handler, lambda client: client.say(recording(3)[:-100]))
    assert {len(packet) for packet in sent} == {2 * PACKET_SAMPLES}
    assert any(sent[2])
    assert not any(sent[2][-200:])
    assert not any(b"".join(sent[3:]))


# ------------------------------------------------------------------ errors


def test_a_failed_turn_is_read_to_its_end_before_it_is_raised() -> None:
    async def use(client: VoiceClient) -> Any:
        with pytest.raises(ProtocolError, match="could not be answered") as raised:
            await client.type("first")
        assert raised.value.code == "turn_failed"
        return await client.type("second")

    final = turn("")[-1]
    answer = with_client(by_text([FAILED, final], turn("Second"), pause_s=0.1), use)
    assert answer.texts == ["Second"]


def test_a_failed_turn_does_not_end_a_recording(settle_soon: None) -> None:
    script = {
        2: [STARTED],
        5: [heard("greet"), FAILED, turn("")[-1]],
        10: [STARTED],
        15: [heard("balance"), *turn("Ten pounds")],
    }
    failed, answered = with_client(by_audio(script), lambda client: client.play(recording(20)))
    assert failed.error.code == "turn_failed"
    assert failed.texts == []
    assert answered.error is None
    assert answered.texts == ["Ten pounds"]


@pytest.mark.parametrize("method", ["type", "say", "play"])
def test_the_servers_reason_is_raised_whatever_was_asked(method: str) -> None:
    async def use(client: VoiceClient) -> None:
        for _ in range(2):  # the second time into a closed line
            with pytest.raises(ProtocolError, match="hears nothing") as raised:
                await getattr(client, method)("hello" if method == "type" else recording(10))
            assert raised.value.code == "no_recognizer"

    with_client(refusing, use)


def test_sending_into_a_closed_line_says_why() -> None:
    async def use(client: VoiceClient) -> None:
        for _ in range(1000):
            await client.send_audio(recording(1))
            await asyncio.sleep(0.001)

    with pytest.raises(ProtocolError, match="hears nothing"):
        with_client(refusing, use)


def test_messages_end_with_the_servers_reason() -> None:
    messages: List[Message] = []

    async def use(client: VoiceClient) -> None:
        async for message in client.messages():
            messages.append(message)

    with pytest.raises(ProtocolError, match="hears nothing"):
        with_client(refusing, use)
    assert messages == [REFUSED]


def test_a_server_that_hangs_up_without_a_word() -> None:
    async def handler(websocket: web.WebSocketResponse) -> None:
        await websocket.send_json(STARTED)
        await websocket.close(code=1001)

    async def use(client: VoiceClient) -> List[Message]:
        messages = [message async for message in client.messages()]
        assert [message async for message in client.messages()] == []
        with pytest.raises(ProtocolError, match=r"The server hung up \(WebSocket close code 1001\)"):
            await client.type("hello")
        return messages

    assert with_client(handler, use) == [STARTED]


@pytest.mark.parametrize("end", [1012, 1001, None])
def test_a_call_whose_server_is_gone_is_dialled_again(end: Optional[int]) -> None:
    """In the same conversation; `None`: a server that dies says no goodbye."""
    handshakes: List[Message] = []

    async def handler(websocket: web.WebSocketResponse) -> None:
        handshakes.append(await websocket.receive_json())
        await websocket.receive_json()
        if len(handshakes) > 1:
            await websocket.send_json({"response": "Here I am."})
            await websocket.send_json({"marker": "m", "final": True})
            async for _ in websocket:
                pass
        elif end is None:
            websocket._req.transport.abort()
        else:
            await websocket.send_json({"error": {"code": "going_down", "message": "Call again."}})
            await websocket.close(code=end)

    async def use(client: VoiceClient) -> Any:
        assert not client.is_lost
        with pytest.raises(ProtocolError) as raised:
            await client.type("hello")
        assert raised.value.code == ("closed" if end is None else "going_down") and client.is_lost
        await client.dial_again()
        assert not client.is_lost
        return await client.type("hello")

    assert with_client(handler, use).texts == ["Here I am."]
    assert handshakes[0] == handshakes[1] and handshakes[0]["sender"]


def test_an_answer_is_kept_whose_server_ends_right_behind_it() -> None:
    async def handler(websocket: web.WebSocketResponse) -> None:
        await websocket.receive_json()
        await websocket.receive_bytes()
        gone = {"error": {"code": "going_down", "message": "Call again."}}
        for message in [STARTED, heard("greet"), *turn("Hello"), gone]:
            await websocket.send_json(message)
        async for _ in websocket:
            pass

    async def use(client: VoiceClient) -> Any:
        answer = await client.say(np.full(SAMPLE_RATE, 0.5, dtype=np.float32))
        assert client.is_lost
        return answer

    assert with_client(handler, use).texts == ["Hello"]


def test_who_was_refused_is_not_lost() -> None:
    async def use(client: VoiceClient) -> None:
        with pytest.raises(ProtocolError, match="hears nothing"):
            await client.type("hello")
        assert not client.is_lost

    with_client(refusing, use)


def test_dialling_again_is_given_up() -> None:
    async def call() -> None:
        async def handler(websocket: web.WebSocketResponse) -> None:
            await websocket.receive()

        async with AsyncExitStack() as server:
            url = await server.enter_async_context(serving(handler))
            async with VoiceClient(url) as client:
                await server.aclose()
                with pytest.raises(SpokenIntentsError, match="Nobody answers"):
                    await client.dial_again(within_s=0.1)

    asyncio.run(asyncio.wait_for(call(), 20))


@pytest.mark.parametrize("words", ["welcome", '["welcome"]'])
def test_a_server_that_speaks_something_else(words: str) -> None:
    async def handler(websocket: web.WebSocketResponse) -> None:
        await websocket.send_str(words)
        async for _ in websocket:
            pass

    with pytest.raises(ProtocolError, match="no JSON object. Is this a voice channel"):
        with_client(handler, lambda client: client.type("hello"))


def test_messages_that_nobody_reads_do_not_pile_up() -> None:
    seen: List[Message] = []

    async def handler(websocket: web.WebSocketResponse) -> None:
        for number in range(INBOX_MESSAGES + 100):
            await websocket.send_json({"response": str(number)})

    async def use(client: VoiceClient) -> List[Message]:
        while len(seen) < INBOX_MESSAGES + 100:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        return [message async for message in client.messages()]

    kept = with_client(handler, use, on_message=seen.append)
    assert len(kept) == INBOX_MESSAGES - 1, "and the hanging up"
    assert kept[-1] == {"response": str(INBOX_MESSAGES + 99)}


def spoken(samples: np.ndarray) -> Message:
    return {"audio": base64.b64encode(float_to_pcm16(samples)).decode()}


def marks_after(*messages: Message, **kwargs: Any) -> List[str]:
    """What the client says of the marks in `messages`, until the server hangs up."""
    marks: List[str] = []

    async def handler(websocket: web.WebSocketResponse) -> None:
        for message in messages:
            await websocket.send_json(message)
        async for received in websocket:
            if received.type is WSMsgType.TEXT and "marker" in received.json():
                marks.append(received.json()["marker"])
                break
        await websocket.close()

    async def use(client: VoiceClient) -> None:
        async for _ in client.messages():
            pass

    with_client(handler, use, **kwargs)
    return marks


def test_without_a_loudspeaker_everything_is_played_at_once() -> None:
    assert marks_after(spoken(np.ones(10)), {"marker": "1"}, {"marker": "2", "final": True}) == ["2"]


def test_a_loudspeaker_says_when_it_was_played_and_drops_what_is_interrupted() -> None:
    happened: List[Any] = []

    class Loudspeaker:
        def play(self, samples: np.ndarray) -> None:
            happened.append(round(float(samples.max()), 2))

        def clear(self) -> None:
            happened.append("clear")

        def then(self, played: Callable[[], None]) -> None:
            happened.append("then")
            if happened.count("then") == 2:  # the first was never played to its end
                played()

    loud = [spoken(np.full(10, level)) for level in (0.1, 0.2)]
    marks = marks_after(
        loud[0],
        {"marker": "1", "final": True},
        {"interruptPlayback": True},
        loud[1],
        {"marker": "2", "final": True},
        output=Loudspeaker(),
    )
    assert happened == [0.1, "then", "clear", 0.2, "then"] and marks == ["2"]


def test_an_end_that_is_told_again_is_no_second_answer(settle_soon: None) -> None:
    """After a cough the rest of an answer is sent again, and its end behind it."""
    one, two = turn("One"), turn("Two")

    async def use(client: VoiceClient) -> List[Any]:
        return [await client.type(text) for text in ("a", "b")]

    answers = with_client(by_text([*one], [one[-1], *two]), use)
    assert [answer.texts for answer in answers] == [["One"], ["Two"]]


def test_a_bot_that_hangs_up_has_answered(settle_soon: None) -> None:
    async def handler(websocket: web.WebSocketResponse) -> None:
        await websocket.receive_json()
        await websocket.receive_json()
        for message in [*turn("Goodbye."), {"hangup": True}]:
            await websocket.send_json(message)
        await websocket.close()

    async def use(client: VoiceClient) -> Any:
        answer = await client.type("bye")
        with pytest.raises(ProtocolError, match="The server hung up"):
            await client.type("wait")
        return answer

    assert with_client(handler, use).texts == ["Goodbye."]


def test_speech_belongs_to_its_answer() -> None:
    loud = [spoken(np.full(10, level)) for level in (0.1, 0.2)]
    answers = by_text([*loud, *turn("One")], turn("Two"), [{"trace_event": "ignored"}, {"hangup": True}, *turn("Three")])

    async def use(client: VoiceClient) -> List[Any]:
        return [await client.type(text) for text in ("a", "b", "c")]

    one, two, three = with_client(answers, use)
    np.testing.assert_allclose(one.speech, [0.1] * 10 + [0.2] * 10, atol=1e-4)
    assert [answer.texts for answer in (one, two, three)] == [["One"], ["Two"], ["Three"]] and len(two.speech) == 0
    assert three.messages == [{"response": "Three"}]


def test_nobody_listens() -> None:
    async def call() -> None:
        async with VoiceClient(url):
            pass

    with socket.socket() as taken:  # bound and not listening: nobody else can answer there meanwhile
        taken.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}/webhooks/voice/websocket"
        with pytest.raises(SpokenIntentsError, match=f"Nobody answers at {url} .*Is `rasa run` up, with the voice channel"):
            asyncio.run(call())
