"""The voice channel over a real socket, against a real `rasa run`."""

import asyncio
import base64
import json
import re
import time
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, List, Optional

import aiohttp
import numpy as np
import pytest
import soundfile
import soxr
from sanic import Sanic

from assistant import PROJECT, Assistant
from in_process import PATIENCE_S, serving
from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16, read_audio
from spoken_intents.channels.voice import VoiceInput, VoiceSettings
from spoken_intents.client import VoiceClient
from spoken_intents.errors import ConfigError, ProtocolError

GREET = PROJECT / "audio/train/greet/0010.ogg"
DENY = PROJECT / "audio/train/deny/0000.ogg"
GREETING = "Hey! How are you?"


def run(coroutine: Awaitable[Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 90))


async def exchange(server: Assistant, *messages: Any, binary: bool = False) -> List[Dict[str, Any]]:
    """Sends raw messages and gathers everything until the server closes; the last entry holds the close code."""
    received: List[Dict[str, Any]] = []
    async with aiohttp.ClientSession() as http, http.ws_connect(server.voice, max_msg_size=2**24) as socket:
        for message in messages:
            await (socket.send_bytes(message) if isinstance(message, bytes) else socket.send_str(message))
        async for frame in socket:
            received.append(json.loads(frame.data))
        received.append({"close_code": socket.close_code})
    return received


async def still_answers(server: Assistant) -> None:
    async with VoiceClient(server.voice) as client:
        answer = await client.type("hello")
    assert answer is not None
    assert answer.texts == [GREETING]


def test_spoken_and_typed_turns_in_one_conversation(server: Assistant) -> None:
    events: List[Dict[str, Any]] = []

    async def call() -> None:
        async with VoiceClient(server.voice, events.append) as client:
            spoken = await client.say(read_audio(GREET, 30))
            typed = await client.type("I am so sad")  # an intent that no clip was recorded for: DIET's
            pressed = await client.type("/goodbye")
        assert spoken is not None
        assert typed is not None
        assert pressed is not None
        assert spoken.heard["intent"] == "greet"
        assert spoken.texts == [GREETING]
        assert typed.heard is None
        assert typed.messages[0]["response"].startswith("Here is something to cheer you up")
        assert any("image" in message for message in typed.messages)
        assert pressed.texts == ["Bye"]
        assert spoken.latency["endpoint_delay_ms"] >= VoiceSettings().sure_silence_ms - 20
        wanted = ("asr", "rasa_processing", "first_response", "tts_first_byte", "tts_complete")
        assert {f"{name}_latency_ms" for name in wanted} <= set(spoken.latency)
        assert 0.5 * SAMPLE_RATE < len(spoken.speech) < 5 * SAMPLE_RATE and np.abs(spoken.speech).max() > 0.1

    run(call())
    traced = [event["trace_event"] for event in events if "trace_event" in event]
    assert traced[0] == "user_speaking_start" and "at_ms" in events[0]
    assert traced.index("user_pause") < traced.index("partial") < traced.index("user_speaking_end") < traced.index("transcript")
    ranking = next(event for event in events if event.get("trace_event") == "transcript")["intent_ranking"]
    assert [entry["name"] for entry in ranking][0] == "greet"
    assert sorted(entry["name"] for entry in ranking) == ["affirm", "deny", "goodbye", "greet"]
    confidences = [entry["confidence"] for entry in ranking]
    assert confidences == sorted(confidences, reverse=True)
    finals = [event for event in events if event.get("final")]
    assert len(finals) == 3
    assert finals[0]["turn"]["intent"] == "greet" and finals[0]["turn"]["interrupted"] is None
    assert 0 <= finals[0]["turn"]["start_ms"] < finals[0]["turn"]["speech_end_ms"] < finals[0]["turn"]["end_ms"]
    first_response = next(i for i, event in enumerate(events) if "response" in event)
    after = [next(iter(event)) for event in events[first_response + 1 :]]
    assert after[: after.index("marker")] == ["audio"] * after.index("marker"), "the mark is behind the message's speech"
    assert after.index("marker") > 0


def test_a_turn_is_in_the_metrics(server: Assistant) -> None:
    async def call() -> str:
        async with aiohttp.ClientSession() as http:
            async with VoiceClient(server.voice) as client:
                await client.say(read_audio(GREET, 30))
                while True:  # the turn is over when its answer was played
                    await client.type("hello")
                    async with http.get(f"{server.http}/webhooks/voice/metrics") as answer:
                        text = await answer.text()
                    if 'intent="greet"' in text:
                        return text

    text = run(call())
    assert re.search(r'spoken_intents_turns_total\{channel="voice",intent="greet",outcome="answered"\} [1-9]', text)
    assert re.search(r'spoken_intents_calls_open\{channel="voice"\} [1-9]', text)
    assert re.search(r"spoken_intents_event_loop_lag_seconds_count [1-9]", text)


def test_audio_never_enters_the_tracker(server: Assistant) -> None:
    async def call() -> Dict[str, Any]:
        async with VoiceClient(server.voice, sender="tracker-test") as client:
            await client.say(read_audio(GREET, 30))
        async with aiohttp.ClientSession() as http, http.get(f"{server.http}/conversations/tracker-test/tracker") as answer:
            return await answer.json()

    tracker = run(call())
    assert len(json.dumps(tracker)) < 20_000
    turn = next(event for event in tracker["events"] if event["event"] == "user")
    assert turn["text"].startswith("live/")
    assert turn["metadata"]["spoken"]["intent"] == "greet"
    assert turn["metadata"]["spoken"]["end_ms"] > turn["metadata"]["spoken"]["start_ms"]


def test_the_log_names_the_call_and_the_turn_that_the_tracker_has(server: Assistant) -> None:
    async def call() -> Dict[str, Any]:
        async with VoiceClient(server.voice, sender="log-test") as client:
            await client.type("/greet")
            await client.type("/mood_unhappy")
        async with aiohttp.ClientSession() as http, http.get(f"{server.http}/conversations/log-test/tracker") as answer:
            return await answer.json()

    told = [event["metadata"] for event in run(call())["events"] if event["event"] == "user"]
    assert [metadata["turn"] for metadata in told] == [1, 2]
    for metadata in told:
        line = f'call={metadata["call_id"]} turn={metadata["turn"]} {{"event": "turn_over", "number": {metadata["turn"]},'
        deadline = time.monotonic() + PATIENCE_S
        while line not in server.log.read_text():
            assert time.monotonic() < deadline, line
            time.sleep(0.05)


@pytest.mark.parametrize("rate", [8_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("as_json", [True, False])
def test_every_sample_rate_both_ways_of_sending(server: Assistant, rate: int, as_json: bool) -> None:
    """As fast as the socket takes it, in uneven chunks, ended by a commit."""
    samples = soxr.resample(read_audio(GREET, 30), SAMPLE_RATE, rate)
    pcm = float_to_pcm16(np.concatenate([samples, np.zeros(rate // 10)]))

    async def call() -> str:
        async with aiohttp.ClientSession() as http, http.ws_connect(server.voice) as socket:
            await socket.send_json({"sample_rate": rate, "language": "en-US"})
            for start in range(0, len(pcm), 1234):
                chunk = pcm[start : start + 1234]
                await (socket.send_json({"audio": base64.b64encode(chunk).decode()}) if as_json else socket.send_bytes(chunk))
            await socket.send_json({"commit": True})
            async for frame in socket:
                message = json.loads(frame.data)
                if message.get("trace_event") == "transcript":
                    return message["intent"]
        return ""

    assert run(call()) == "greet"


def test_audio_slower_than_real_time_is_the_same_turn(server: Assistant) -> None:
    """A line that brings half a second of audio in a second: turns are found in the audio's time, not in the clock's."""
    pcm = float_to_pcm16(np.concatenate([read_audio(GREET, 30), np.zeros(SAMPLE_RATE)]))

    async def turn(seconds_a_second: float) -> Dict[str, Any]:
        async with aiohttp.ClientSession() as http, http.ws_connect(server.voice) as socket:

            async def send() -> None:
                for start in range(0, len(pcm), 3200):  # 100 ms each
                    await socket.send_bytes(pcm[start : start + 3200])
                    await asyncio.sleep(0.1 / seconds_a_second)

            sending = asyncio.create_task(send())
            async for frame in socket:
                message = json.loads(frame.data)
                if message.get("final"):
                    await sending
                    return message["turn"]
        return {}

    slow, fast = run(turn(0.5)), run(turn(50))
    kept = ("intent", "start_ms", "speech_end_ms", "end_ms")
    assert slow["intent"] == "greet"
    assert {key: slow[key] for key in kept} == {key: fast[key] for key in kept}


def test_two_utterances_become_two_turns_in_order(server: Assistant) -> None:
    async def call() -> List[str]:
        async with VoiceClient(server.voice) as client:
            return [(await client.say(read_audio(clip, 30))).heard["intent"] for clip in (GREET, DENY)]

    assert run(call()) == ["greet", "deny"]


def test_noise_makes_no_turn(server: Assistant) -> None:
    events: List[Dict[str, Any]] = []

    async def call() -> Any:
        async with VoiceClient(server.voice, events.append) as client:
            return await client.say(read_audio(PROJECT / "audio/demo/noise.ogg", 30), patience_s=3)

    assert run(call()) is None
    assert events[0]["trace_event"] == "user_speaking_start", "webrtcvad takes it for speech"
    assert [event["trace_event"] for event in events][-1] == "non_speech"


# ------------------------------------------------------------------ who speaks when


async def until(socket: Any, *names: str) -> List[Dict[str, Any]]:
    """The server's messages up to the first that has one of the fields `names`."""
    received: List[Dict[str, Any]] = []
    async for frame in socket:
        received.append(json.loads(frame.data))
        if set(names) & set(received[-1]):
            break
    return received


async def talk_over(server: Assistant, first: str, sender: str) -> List[Dict[str, Any]]:
    """Begins with a payload, and speaks as soon as the bot does; everything up to the final mark of what was spoken."""
    line = np.concatenate([np.tile(read_audio(GREET, 30), 2), np.zeros(2 * SAMPLE_RATE, dtype=np.float32)])
    async with aiohttp.ClientSession() as http, http.ws_connect(server.voice) as socket:
        await socket.send_json({"sender": sender})
        await socket.send_json({"payload": first})
        received = await until(socket, "audio")
        await socket.send_bytes(float_to_pcm16(line))
        while sum("final" in message for message in received) < 2:
            received += await until(socket, "final")
    return received


def test_a_caller_interrupts_the_bot(server: Assistant) -> None:
    received = run(talk_over(server, "/explain", "interrupts"))
    interrupted = next(i for i, message in enumerate(received) if message.get("interruptPlayback"))
    heard = next(i for i, message in enumerate(received) if message.get("trace_event") == "transcript")
    assert interrupted < heard
    turn = received[-1]["turn"]
    assert 0 < turn["interrupted"]["heard_ms"] <= turn["interrupted"]["of_ms"]

    async def metadata() -> Dict[str, Any]:
        async with aiohttp.ClientSession() as http, http.get(f"{server.http}/conversations/interrupts/tracker") as answer:
            return [event["metadata"] for event in (await answer.json())["events"] if event["event"] == "user"][-1]

    told = run(metadata())
    assert told["interrupted"] == turn["interrupted"]
    assert told["previous_turn"]["tts_first_byte_latency_ms"] > 0


def test_an_announcement_is_heard_to_its_end(server: Assistant) -> None:
    received = run(talk_over(server, "/announce", "announced"))
    assert not any("interruptPlayback" in message for message in received)
    assert received[-1]["turn"]["interrupted"] is None
    assert [message["response"] for message in received if "response" in message][-1] == GREETING


def test_keys_reach_rasa(server: Assistant) -> None:
    async def call() -> Any:
        async with aiohttp.ClientSession() as http:
            async with http.ws_connect(server.voice) as socket:
                await socket.send_json({"sender": "keys"})
                await socket.send_json({"dtmf": "12"})
                await socket.send_json({"dtmf": "3#"})
                received = await until(socket, "final")
            async with http.get(f"{server.http}/conversations/keys/tracker") as answer:
                return received, (await answer.json())["latest_message"]["entities"]

    received, entities = run(call())
    assert received[0] == {"trace_event": "typed", "text": '/dtmf{"digits": "123"}'}
    assert received[1] == {"response": "Keys, by voice."}
    assert [(entity["entity"], entity["value"]) for entity in entities] == [("digits", "123")]


def test_the_bot_hangs_up_once_its_last_word_is_played(server: Assistant) -> None:
    async def call() -> Any:
        async with aiohttp.ClientSession() as http, http.ws_connect(server.voice) as socket:
            await socket.send_json({"payload": "/hang_up"})
            received = await until(socket, "final")
            await socket.send_json({"text": "wait"})  # too late
            await socket.send_json({"marker": "no such mark"})
            await socket.send_json({"marker": received[-1]["marker"]})
            received += await until(socket, "never")
            return received, socket.close_code

    received, code = run(call())
    assert received[-1] == {"hangup": True} and code == 1000
    assert [message["response"] for message in received if "response" in message] == ["Good night."]
    assert not any("custom" in message for message in received)


def test_the_bot_speaks_first_and_greets_nobody_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of its own, as the others' bot does not speak first; Rasa is scripted, and knows who has had a turn."""
    monkeypatch.setattr(Sanic, "test_mode", True)
    had_a_turn: List[str] = []

    async def knows(sender: str) -> bool:
        return sender in had_a_turn

    async def rasa(message: Any) -> None:
        had_a_turn.append(message.sender_id)
        await message.output_channel.send_text_message(message.sender_id, f"Rasa heard {message.text}.")

    async def first_answer(url: str, sender: str) -> str:
        async with aiohttp.ClientSession() as http, http.ws_connect(url) as socket:
            await socket.send_json({"sender": sender} if sender else {})
            await socket.send_json({"text": "hello"})
            return (await until(socket, "response"))[-1]["response"]

    async def calls() -> List[str]:
        channel = VoiceInput(VoiceSettings(initial_message="/greet", speech="none"))
        async with serving(channel, rasa=rasa, ear=rasa, knows=knows) as app:  # any object: nothing is said
            url = f"ws://127.0.0.1:{app.ctx.port}/webhooks/voice/websocket"
            return [await first_answer(url, sender) for sender in ("anna", "anna", "berta", "", "")]

    greeted, not_again = "Rasa heard /greet.", "Rasa heard hello."
    assert run(calls()) == [greeted, not_again, greeted, greeted, greeted]


def test_two_calls_of_one_conversation_both_get_their_answers(server: Assistant) -> None:
    async def call() -> List[List[str]]:
        async with VoiceClient(server.voice, sender="shared") as one, VoiceClient(server.voice, sender="shared") as two:
            answers = await asyncio.gather(one.type("/greet"), two.type("/goodbye"))
        return [answer.texts for answer in answers if answer]

    assert run(call()) == [[GREETING], ["Bye"]]


BAD = [
    ('{"sample_rate": 7}', "bad_sample_rate", "sample_rate 7"),
    (b"abc", "bad_audio", "odd count"),
    ('{"audio": "%%%"}', "bad_base64", "base64"),
    ('{"audio": 12}', "bad_base64", "base64"),
    ('{"colour": "blue"}', "unknown_field", "colour"),
    ('{"text": "hi", "commit": true}', "unknown_field", "at a time"),
    ("not json", "bad_json", "JSON"),
    ("[" * 100_000, "bad_json", "JSON"),
    ('{"sender": "' + "x" * 201 + '"}', "bad_handshake", "1 to 200 characters"),
    ('{"text": "audio/greet/1.ogg"}', "bad_text", "files are not read"),
    ('{"payload": "greet"}', "bad_payload", "begins with /"),
]


@pytest.mark.parametrize(("message", "code", "words"), BAD, ids=[f"{case[1]}-{i}" for i, case in enumerate(BAD)])
def test_bad_messages_are_refused_with_a_reason(server: Assistant, message: Any, code: str, words: str) -> None:
    *_, error, close = run(exchange(server, message))
    assert error["error"]["code"] == code
    assert words in error["error"]["message"]
    assert close == {"close_code": 4400}


def test_the_handshake_comes_once(server: Assistant) -> None:
    *_, error, _ = run(exchange(server, '{"sample_rate": 8000}', '{"sample_rate": 16000}'))
    assert error["error"]["code"] == "late_handshake"


def test_pages_of_other_origins_are_refused(server: Assistant) -> None:
    async def call(origin: str) -> Dict[str, Any]:
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(server.voice, headers={"Origin": origin}) as socket,
        ):
            await socket.send_json({"text": "hello"})
            return json.loads((await socket.receive()).data)

    for origin in ("https://evil.example", "http://[", "null"):
        assert run(call(origin))["error"]["code"] == "bad_origin"
    assert "error" not in run(call(server.http))
    assert "error" not in run(call("https://friend.example"))


def test_a_client_that_sends_nothing_is_let_go(server: Assistant) -> None:
    error, close = run(exchange(server))
    assert error["error"]["code"] == "idle"
    assert close == {"close_code": 4408}


def test_other_calls_do_not_notice_abuse(server: Assistant) -> None:
    """A call goes on, answered right, while others flood, send 50 MB, and vanish in mid-word."""
    greeting = read_audio(GREET, 30)

    async def vanish() -> None:
        async with aiohttp.ClientSession() as http:
            socket = await http.ws_connect(server.voice)
            await socket.send_bytes(float_to_pcm16(greeting[: len(greeting) // 2]))
            socket._response.connection.transport.abort()  # no close frame, no goodbye

    async def fifty_megabytes() -> Optional[int]:
        async with aiohttp.ClientSession() as http, http.ws_connect(server.voice) as socket:
            try:
                await socket.send_bytes(bytes(50_000_000))
                await socket.receive()
            except (ConnectionError, aiohttp.ClientError):
                pass
            return socket.close_code

    async def flood(message: Callable[[], Any]) -> str:
        async with aiohttp.ClientSession() as http, http.ws_connect(server.voice) as socket:

            async def send() -> None:
                try:
                    for _ in range(20_000):
                        await socket.send_bytes(message())
                        await asyncio.sleep(0)  # or this loop would never see that it was refused
                except (ConnectionError, aiohttp.ClientError):
                    pass

            sender = asyncio.create_task(send())
            code = ""
            async for frame in socket:
                code = json.loads(frame.data).get("error", {}).get("code", code)
            sender.cancel()
            return code

    async def abuse() -> List[Any]:
        return await asyncio.gather(vanish(), vanish(), fifty_megabytes(), flood(lambda: bytes(32_000)), flood(lambda: bytes(2)))

    async def call() -> None:
        async with VoiceClient(server.voice) as client:
            # On a loop of their own: it is the server that must stay fair, not this test's client.
            abusers = asyncio.create_task(asyncio.to_thread(asyncio.run, abuse()))
            answer = await client.say(greeting)
            assert answer is not None
            assert answer.heard["intent"] == "greet"
            assert answer.texts == [GREETING]
            _, _, too_big, too_fast, too_many = await abusers
            assert too_big in (1009, 1006, None), "refused, or cut off while still sending"
            assert too_fast == "too_fast"
            assert too_many == "too_many_messages"
        await still_answers(server)

    run(call())


def test_hanging_up_lets_rasas_turn_end(server: Assistant) -> None:
    """The turn that Rasa already had is in the tracker, whole, though its caller is gone."""

    async def call() -> List[Dict[str, Any]]:
        async with aiohttp.ClientSession() as http:
            async with http.ws_connect(server.voice) as socket:
                await socket.send_json({"sender": "gone"})
                await socket.send_bytes(float_to_pcm16(read_audio(GREET, 30)))
                await socket.send_json({"commit": True})
                async for frame in socket:
                    if json.loads(frame.data).get("trace_event") == "transcript":
                        break
            for _ in range(100):
                async with http.get(f"{server.http}/conversations/gone/tracker") as answer:
                    events = (await answer.json())["events"]
                if any(event["event"] == "bot" for event in events):
                    return events
                await asyncio.sleep(0.05)
        return []

    assert [event["text"] for event in run(call()) if event["event"] == "bot"] == [GREETING]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"idle_timeout": 3}, "unknown idle_timeout. Allowed: allowed_origins"),
        ({"idle_timeout_ms": 0}, "idle_timeout_ms takes more than 0"),
        ({"max_connections": 0}, "max_connections takes more than 0"),
        ({"max_uploads": 0}, "max_uploads takes more than 0"),
        ({"min_silence_duration_ms": "long"}, "min_silence_duration_ms takes a whole number"),
        ({"vad_mode": 4}, "vad_mode takes 0, 1, 2 or 3"),
        ({"allowed_origins": "https://x"}, "allowed_origins takes a list"),
        ("yes", "expected settings"),
    ],
)
def test_wrong_settings_are_named(settings: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"credentials.yml, voice channel.*{words}"):
        VoiceInput.from_credentials(settings)


# ------------------------------------------------------------------ recordings over HTTP


async def post(server: Assistant, body: bytes, query: str = "", **kwargs: Any) -> Any:
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{server.http}/webhooks/voice/webhook{query}", data=kwargs.get("form", body)) as answer:
            return answer.status, await answer.json()


def test_a_recording_with_two_utterances_is_two_turns(server: Assistant, tmp_path: Path) -> None:
    quiet = np.zeros(SAMPLE_RATE, dtype=np.float32)
    soundfile.write(
        tmp_path / "two.flac", np.concatenate([read_audio(GREET, 30), quiet, read_audio(DENY, 30), quiet]), SAMPLE_RATE
    )
    status, messages = run(post(server, (tmp_path / "two.flac").read_bytes(), "?sender=recorded"))
    assert status == 200
    spoken = [message["custom"]["spoken"] for message in messages if "custom" in message]
    assert [turn["intent"] for turn in spoken] == ["greet", "deny"]
    assert spoken[0]["end_ms"] < spoken[1]["start_ms"]
    assert messages[0]["text"] == GREETING
    assert {message["recipient_id"] for message in messages} == {"recorded"}


def test_a_recording_as_a_form_field(server: Assistant) -> None:
    form = aiohttp.FormData()
    form.add_field("audio", GREET.read_bytes(), filename="greet.ogg", content_type="audio/ogg")
    form.add_field("sender", "by-form")
    status, messages = run(post(server, b"", form=form))
    assert (status, messages[0]["recipient_id"], messages[0]["text"]) == (200, "by-form", GREETING)


def test_bad_recordings_are_refused_with_a_reason(server: Assistant, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros(61 * 8000, dtype=np.float32), 8000)
    soundfile.write(tmp_path / "none.wav", np.zeros(0, dtype=np.float32), SAMPLE_RATE)
    cases = [
        (b"", 400, "no_audio", "Send a WAV"),
        (b"these are words, not audio", 400, "bad_audio", "cannot be read as audio"),
        ((tmp_path / "none.wav").read_bytes(), 400, "bad_audio", "no audio"),
        ((tmp_path / "long.flac").read_bytes(), 400, "bad_audio", "longer than 60 s"),
        (bytes(26 * 2**20), 413, "too_large", "at most 26214400"),
    ]
    for body, status, code, words in cases:
        got, answer = run(post(server, body))
        assert (got, answer["error"]["code"]) == (status, code)
        assert words in answer["error"]["message"]


def test_a_silent_recording_has_no_turn(server: Assistant, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(2 * SAMPLE_RATE, dtype=np.float32), SAMPLE_RATE)
    assert run(post(server, (tmp_path / "silent.wav").read_bytes())) == (200, [])


def test_the_client_raises_what_the_server_refuses(server: Assistant) -> None:
    async def call() -> None:
        async with VoiceClient(server.voice) as client:
            await client.type("x" * 2000)

    with pytest.raises(ProtocolError, match="1 to 1000 characters"):
        run(call())
