"""Telephone calls against the channel on a real socket: Twilio's side independent, Rasa, recognizer and voice scripted."""

import asyncio
import logging
import re
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, List, Optional, Tuple

import aiohttp
import numpy as np
import pytest
import yaml
from prometheus_client import REGISTRY
from sanic import Sanic
from telephone import CHANNEL, Telephone, mulaw
from test_session import LoudVad

import in_process
from assistant import ROOT
from counted import Counted
from in_process import run
from spoken_intents import segmenter
from spoken_intents.audio import SAMPLE_RATE, StreamingResampler
from spoken_intents.channels import twilio
from spoken_intents.channels.spoken import said_yes
from spoken_intents.channels.twilio import TwilioInput, TwilioSettings
from spoken_intents.errors import ConfigError
from spoken_intents.recognizer import Recognition
from spoken_intents.utterances import hand_off, is_audio_reference

TOKEN = "the account's auth token"
SETTINGS = TwilioSettings(
    start_window_ms=60, min_speech_duration_ms=60, pause_ms=60, min_silence_duration_ms=100, speech_pad_ms=0, turn_end="fixed",
    interruption_ms=160, silence_timeout_ms=0, max_ahead_ms=3_600_000, max_messages_per_second=100_000, speech="none",
)  # fmt: skip
COUGH = 0.95  # how loud it is


class Ear:
    """Hears `intent_<n>` in what is 0.n loud, and no speech in a cough."""

    fingerprint = "scripted"

    def classify(self, samples: np.ndarray) -> Recognition:
        level = float(np.median(samples[samples > 0.5]))
        speech = level < COUGH - 0.03
        sure, none = (0.9, 0.05) if speech else (0.05, 0.9)
        return Recognition(((f"intent_{round(level * 10)}", sure),), none, self.fingerprint, 1.0)


class Voice:
    """Speaks a text as so many seconds of a tone; the text says how many."""

    async def speak(self, text: str) -> AsyncIterator[np.ndarray]:
        yield tone(float(text))

    def close(self) -> None: ...


class Rasa:
    """Answers by what `answers` has for an intent or a text: texts to say, or a function of the output and the sender."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.turns: List[Tuple[str, str]] = []  # sender, intent or text
        self.done: List[str] = []
        self.metadata: List[Dict[str, Any]] = []

    async def __call__(self, message: Any) -> None:
        said = message.text
        if is_audio_reference(said):
            said = hand_off.take(said).recognition.intent
        assert message.input_channel == message.output_channel.name() == "twilio_media_streams"
        self.turns.append((message.sender_id, said))
        self.metadata.append(message.metadata)
        answer = self.answers.get(said.strip("/"), ())
        if callable(answer):
            await answer(message.output_channel, message.sender_id)
        else:
            for text in answer:
                await message.output_channel.send_text_message(message.sender_id, text)
        self.done.append(said)

    async def knows(self, sender: str) -> bool:
        return any(sender == known for known, _ in self.turns)

    @property
    def heard(self) -> List[str]:
        return [said for _, said in self.turns]


def tone(seconds: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def on_the_wire(seconds: float) -> bytes:
    """The tone as a telephone gets it: resampled in one piece, in µ-law by libsndfile."""
    resampler = StreamingResampler(SAMPLE_RATE, 8000)
    return mulaw(np.concatenate([resampler.push(tone(seconds)), resampler.flush()]))


def said(number: int, seconds: float = 0.1) -> np.ndarray:
    """`intent_<number>` at 8 kHz, and the silence that ends it."""
    return np.concatenate([np.full(int(8000 * seconds), number / 10), np.zeros(1600)])


@pytest.fixture(autouse=True)
def loud_is_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "make_vad", lambda *_: LoudVad())


@pytest.fixture(autouse=True)
def several_servers_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sanic, "test_mode", True)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Any:
    yield
    assert len(hand_off) == 0


class Server(SimpleNamespace):
    """What runs.

    Attributes:
        channel: The channel.
        port: Where.
    """

    channel: TwilioInput
    port: int

    def phone(self, *args: Any, **kwargs: Any) -> Telephone:
        return Telephone(self.port, *args, **kwargs)


@asynccontextmanager
async def serving(
    rasa: Rasa,
    settings: TwilioSettings = SETTINGS,
    intents: Tuple[str, ...] = (),
    entities: Tuple[str, ...] = (),
    agent: bool = True,
) -> AsyncIterator[Server]:
    channel = TwilioInput(settings)
    channel.speech = Voice()  # type: ignore[assignment]
    domain = SimpleNamespace(intents=list(intents), entities=list(entities))
    async with in_process.serving(channel, rasa=rasa, ear=Ear(), domain=domain, knows=rasa.knows, agent=agent) as app:
        yield Server(channel=channel, port=app.ctx.port, app=app)
    assert not channel._calls, "every call that began has ended"


def call(
    rasa: Rasa,
    scenario: Callable[[Telephone], Awaitable[Any]],
    settings: TwilioSettings = SETTINGS,
    intents: Tuple[str, ...] = (),
    **phone: Any,
) -> Telephone:
    """One call, to its end; closed by the caller unless `scenario` does something else."""

    async def main() -> Telephone:
        async with serving(rasa, settings, intents) as server:
            async with server.phone(**phone) as caller:
                await caller.connect()
                await scenario(caller)
            return caller

    return run(main())


# ---------------------------------------------------------------- a call


def test_speech_goes_in_and_the_voice_comes_out_byte_for_byte() -> None:
    rasa = Rasa(intent_6=["1.5", "0.25"])

    async def scenario(phone: Telephone) -> None:
        await phone.say(said(6))
        await phone.listen(lambda: len(phone.echoed) == 2)
        await phone.stop()
        await phone.until(lambda: phone.closed)

    phone = call(rasa, scenario)
    assert rasa.turns == [(phone.call_sid, "intent_6")]
    assert phone.heard == on_the_wire(1.5) + on_the_wire(0.25)
    order = [message["event"] for message in phone.received]
    assert order.count("mark") == 2 and order[-1] == "mark", "one behind each message, none without audio before it"
    sizes = [len(message["media"]["payload"]) * 3 // 4 for message in phone.events("media")]
    assert max(sizes) <= 8100, "a second at most"
    assert phone.closed == 1000


def test_turns_by_voice_and_keys_keep_their_order() -> None:
    rasa = Rasa()

    async def scenario(phone: Telephone) -> None:
        await phone.say(said(6))
        for digit in "12":
            await phone.press(digit)
        await phone.press("#")
        await phone.say(said(7))
        await phone.press("5")  # ended by a pause
        await phone.listen(lambda: len(rasa.turns) == 4)

    call(rasa, scenario, intents=("dtmf",))
    assert rasa.heard == ["intent_6", '/dtmf{"digits": "12"}', "intent_7", '/dtmf{"digits": "5"}']


def test_a_key_pressed_in_mid_word_loses_neither() -> None:
    rasa = Rasa()

    async def scenario(phone: Telephone) -> None:
        await phone.say(said(6)[:400])
        await phone.press("9")
        await phone.press("#")
        await phone.say(said(6)[400:])
        await phone.listen(lambda: len(rasa.turns) == 2)

    call(rasa, scenario)
    assert rasa.heard == ["9", "intent_6"]


def test_the_call_is_known_to_rasa_from_its_first_message() -> None:
    rasa = Rasa()
    settings = replace(SETTINGS, initial_message="/greet")
    known = {"From": "+4420", "To": "+4415", "Direction": "inbound", "language": "en-GB", "branch": 'Leeds "1"', "floor": "2"}

    async def main(entities: Tuple[str, ...]) -> str:
        async with serving(rasa, settings, entities=entities) as server, server.phone() as phone:
            await phone.connect(known)
            await phone.until(lambda: rasa.turns)
            return phone.stream_sid

    stream = run(main(()))
    (turn,) = rasa.turns
    assert turn == ("CA" + stream[2:], "/greet")
    assert rasa.metadata[0] == {
        "call_id": "CA" + stream[2:],
        "stream_id": stream,
        "caller": "+4420",
        "callee": "+4415",
        "direction": "inbound",
        "language": "en-GB",
        "parameters": {"branch": 'Leeds "1"', "floor": "2"},
        "turn": 1,
        "spoken": None,
    }
    rasa.turns.clear()
    run(main(("branch", "caller", "amount", "parameters")))
    assert rasa.heard == ['/greet{"branch": "Leeds \\"1\\"", "caller": "+4420"}'], "what the domain has as entities"


def test_a_call_that_connects_anew_is_not_greeted_again() -> None:
    rasa = Rasa()

    async def main() -> None:
        async with serving(rasa, replace(SETTINGS, initial_message="/greet")) as server:
            for count in (1, 2):
                async with server.phone() as phone:
                    await phone.connect()
                    await phone.until(lambda: rasa.turns)
                    await phone.say(said(6))
                    await phone.until(lambda count=count: len(rasa.turns) == 1 + count)

    run(main())
    assert rasa.heard == ["/greet", "intent_6", "intent_6"]


@pytest.mark.parametrize("message", ["hello", '/greet{"branch": "York"}'])
def test_an_initial_message_of_ones_own_is_sent_as_it_is(message: str) -> None:
    rasa = Rasa()

    async def main() -> None:
        async with serving(rasa, replace(SETTINGS, initial_message=message), entities=("branch",)) as server:
            async with server.phone() as phone:
                await phone.connect({"branch": "Leeds"})
                await phone.until(lambda: rasa.turns)

    run(main())
    assert rasa.heard == [message]


# ---------------------------------------------------------------- interrupted


def test_barge_in_clears_what_twilio_has_not_played() -> None:
    rasa = Rasa(intent_6=["5"])

    async def scenario(phone: Telephone) -> None:
        await phone.say(said(6))
        await phone.until(lambda: len(phone.heard) == 40_000 and phone.events("mark"))
        await phone.silence(1000)
        assert phone.echoed == []
        await phone.say(said(7, seconds=0.4))
        await phone.until(lambda: len(rasa.turns) == 2)

    phone = call(rasa, scenario)
    assert [message["event"] for message in phone.received][-1] == "clear"
    assert phone.received[-1] == {"event": "clear", "streamSid": phone.stream_sid}
    assert phone.echoed == ["1"], "by the clear: that says nothing of what was heard"
    interrupted = rasa.metadata[1]["interrupted"]
    # 1.2 s of silence before the caller speaks, and 160 ms until that is sustained; the tone began within these.
    assert interrupted["of_ms"] == 5000 and 1000 <= interrupted["heard_ms"] <= 1700


def test_after_a_cough_the_rest_is_played_and_marked_anew() -> None:
    rasa = Rasa(intent_6=["3"])

    async def scenario(phone: Telephone) -> None:
        await phone.say(said(6))
        await phone.until(lambda: len(phone.heard) == 24_000 and phone.events("mark"))
        await phone.silence(1000)
        await phone.say(np.concatenate([np.full(3200, COUGH), np.zeros(1600)]))
        await phone.listen(lambda: "2" in phone.echoed)

    phone = call(rasa, scenario)
    assert rasa.heard == ["intent_6"]
    assert [message["event"] for message in phone.received if message["event"] != "media"] == ["mark", "clear", "mark"]
    assert 24_000 < len(phone.heard) < 48_000


def test_a_cough_while_the_bot_takes_leave_does_not_keep_the_call() -> None:
    """Playback is held when the assistant hangs up, and nobody is heard any more: the rest is said, then the call ends."""
    coughing = asyncio.Event()

    async def leave(output: Any, sender: str) -> None:
        await output.send_text_message(sender, "3")
        await coughing.wait()
        await output.send_custom_json(sender, {"hangup": True})

    async def scenario(phone: Telephone) -> None:
        await phone.say(said(6))
        await phone.until(lambda: phone.events("mark"))
        await phone.silence(1000)
        await phone.say(np.full(3200, COUGH))
        await phone.until(lambda: phone.events("clear"))
        coughing.set()
        await phone.until(lambda: rasa.done)
        await phone.listen(lambda: phone.closed)
        assert phone.all_played

    rasa = Rasa(intent_6=leave)
    phone = call(rasa, scenario)
    assert phone.closed == 1000 and 24_000 < len(phone.heard) < 48_000
    assert phone.received[-1] == {"event": "mark", "streamSid": phone.stream_sid, "mark": {"name": phone.echoed[-1]}}


# ---------------------------------------------------------------- marks


def test_the_call_is_hung_up_behind_its_last_word() -> None:
    async def leave(output: Any, sender: str) -> None:
        await output.send_text_message(sender, "2")
        await output.send_custom_json(sender, {"hangup": True})

    async def scenario(phone: Telephone) -> None:
        await phone.say(said(6))
        await phone.until(lambda: phone.events("mark"))
        await phone.silence(1900)
        await phone.say(said(7))  # too late
        assert phone.all_played
        await phone.until(lambda: phone.closed)

    rasa = Rasa(intent_6=leave)
    phone = call(rasa, scenario)
    assert phone.closed == 1000 and phone.echoed == ["1"] and rasa.heard == ["intent_6"]


def test_marks_that_never_existed_say_nothing() -> None:
    async def leave(output: Any, sender: str) -> None:
        await output.send_text_message(sender, "2")
        await output.send_custom_json(sender, {"hangup": True})

    async def scenario(phone: Telephone) -> None:
        await phone.mark("1")  # before there was one
        await phone.say(said(6))
        await phone.until(lambda: phone.events("mark"))
        for name in ("never", "2", "01", " "):
            await phone.mark(name)
        await phone.silence(1000)
        assert phone.closed is None, "it has heard half of it"
        await phone.mark("1")
        await phone.until(lambda: phone.closed)

    phone = call(Rasa(intent_6=leave), scenario, plays=False)
    assert phone.closed == 1000


def test_a_caller_that_never_plays_is_hung_up_on_by_the_clock() -> None:
    async def leave(output: Any, sender: str) -> None:
        await output.send_text_message(sender, "2")
        await output.send_custom_json(sender, {"hangup": True})

    frames = 0

    async def scenario(phone: Telephone) -> None:
        nonlocal frames
        await phone.say(said(6))
        await phone.until(lambda: phone.events("mark"))
        while phone.closed is None:
            await phone.silence(20)
            frames += 1
            await asyncio.sleep(0.001)

    phone = call(Rasa(intent_6=leave), scenario, plays=False)
    assert phone.closed == 1000 and phone.echoed == []
    assert frames >= 140, "2 s of speech, and a second in which a mark may be late"


def test_a_call_without_a_word_ends_at_once() -> None:
    async def leave(output: Any, sender: str) -> None:
        await output.send_custom_json(sender, {"hangup": True})

    async def scenario(phone: Telephone) -> None:
        await phone.say(said(6))
        await phone.until(lambda: phone.closed)

    phone = call(Rasa(intent_6=leave), scenario)
    assert phone.received == [] and phone.closed == 1000


# ---------------------------------------------------------------- the end, in every order


@pytest.mark.parametrize("end", ["stop", "close", "vanish"])
def test_a_turn_that_rasa_has_is_finished_when_the_caller_is_gone(end: str) -> None:
    go_on, busy = asyncio.Event(), asyncio.Event()

    async def slow(output: Any, sender: str) -> None:
        busy.set()
        await go_on.wait()
        await output.send_text_message(sender, "1")

    async def main() -> Telephone:
        async with serving(rasa) as server:
            async with server.phone() as phone:
                await phone.connect()
                await phone.say(said(6))
                await phone.until(busy.is_set)
                await phone.say(said(7)[:1000])  # still being said: nobody will hear the rest
                if end == "stop":
                    await phone.stop()
                    await phone.until(lambda: phone.closed)
                elif end == "vanish":
                    await phone.vanish()
            await phone.until(lambda: not server.channel._calls)
            assert rasa.done == []
            go_on.set()
            await phone.until(lambda: rasa.done)
        return phone

    rasa = Rasa(intent_6=slow)
    phone = run(main())
    assert rasa.done == rasa.heard == ["intent_6"] and phone.received == []


@pytest.mark.parametrize(
    "messages", [[], ["connected"], ["stop"], ["connected", "stop"], ["connected", "vanish"], ["start", "stop"]]
)
def test_a_call_may_end_before_it_has_begun(messages: List[str]) -> None:
    async def main() -> None:
        async with serving(rasa) as server, server.phone() as phone:
            await phone.open()
            for message in messages:
                if message == "vanish":
                    await phone.vanish()
                elif message == "start":
                    await phone.start()
                else:
                    await phone.event(message)
            if "stop" in messages:
                await phone.until(lambda: phone.closed)
                assert phone.closed == 1000

    rasa = Rasa()
    run(main())
    assert rasa.turns == []


def test_what_comes_behind_stop_is_not_heard() -> None:
    rasa = Rasa()

    async def scenario(phone: Telephone) -> None:
        await phone.stop()
        await phone.press("5")
        await phone.press("#")
        await phone.until(lambda: phone.closed)

    call(rasa, scenario)
    assert rasa.turns == []


def test_the_newer_of_two_connections_for_one_call_is_the_call(caplog: pytest.LogCaptureFixture) -> None:
    rasa = Rasa(intent_7=["1"])

    async def main() -> Tuple[Telephone, Telephone, Telephone]:
        async with serving(rasa) as server:
            async with server.phone() as older, server.phone("CA2") as other, server.phone() as newer:
                for count, phone in enumerate((older, other, newer), 1):
                    await phone.connect()
                    await phone.say(said(6))
                    await phone.until(lambda count=count: len(rasa.turns) == count)
                await older.until(lambda: older.closed)
                await older.say(said(8))
                await newer.say(said(7))
                await newer.listen(lambda: newer.echoed)
                assert other.closed is None
            return older, other, newer

    with caplog.at_level(logging.WARNING):
        older, other, newer = run(main())
    assert older.closed == 4409 and older.received == [] and other.received == []
    assert rasa.turns == [
        (older.call_sid, "intent_6"),
        ("CA2", "intent_6"),
        (older.call_sid, "intent_6"),
        (older.call_sid, "intent_7"),
    ]
    assert newer.heard == on_the_wire(1) and "connected anew" in caplog.text


@pytest.mark.parametrize(("idle_timeout_ms", "give_way_ms"), [(600_000, 100), (3000, 600_000)])
def test_an_older_connection_on_a_dead_network_keeps_no_place(
    idle_timeout_ms: int, give_way_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not answer that it is closed: it is gone soon, or, where its silence ends it first, not refused for that."""
    monkeypatch.setattr(twilio, "GIVE_WAY_MS", give_way_ms)
    rasa, counted = Rasa(), Counted()

    def calls_open() -> Optional[float]:
        """Of this process: a call of the test before may still be counted when this one begins."""
        return REGISTRY.get_sample_value("spoken_intents_calls_open", {"channel": "twilio_media_streams"})

    async def main() -> None:
        async with serving(rasa, replace(SETTINGS, idle_timeout_ms=idle_timeout_ms)) as server:
            async with server.phone() as older, server.phone() as newer:
                await older.connect()
                await older.say(said(6))
                await older.until(lambda: rasa.turns)
                older._reader.cancel()  # a client that reads would answer
                older._reader = asyncio.create_task(asyncio.sleep(0))
                await newer.connect()
                await newer.listen(lambda: calls_open() == 2)
                await newer.listen(lambda: calls_open() == 1)
                await newer.say(said(7))
                await newer.until(lambda: len(rasa.turns) == 2)

    run(main())
    assert rasa.heard == ["intent_6", "intent_7"]
    assert counted("spoken_intents_refusals_total", channel="twilio_media_streams") == 0


# ---------------------------------------------------------------- bad callers


def closing(
    caplog: pytest.LogCaptureFixture, scenario: Callable[[Telephone], Awaitable[Any]], settings: TwilioSettings = SETTINGS
) -> Tuple[Optional[int], str]:
    """The close code and what the log says; and another call does not notice."""
    rasa = Rasa(intent_6=["0.1"])

    async def main() -> Telephone:
        async with serving(rasa, settings) as server:
            async with server.phone("CA1") as other, server.phone("CA2") as phone:
                await other.connect()
                await phone.open()
                await scenario(phone)
                await phone.until(lambda: phone.closed)
                await other.say(said(6))
                await other.listen(lambda: other.echoed)
        return phone

    with caplog.at_level(logging.WARNING):
        phone = run(main())
    assert rasa.turns == [("CA1", "intent_6")] and phone.received == []
    return phone.closed, caplog.text


BROKEN = [
    ("not json", "bad_json"),
    (b"\xff" * 160, "bad_json"),
    ('{"event": "media", "media": {"payload": "%%%"}}', "bad_base64"),
    ('{"event": "dtmf", "dtmf": {"digit": "99"}}', "bad_dtmf"),
    ('{"event": "mark"}', "bad_mark"),
]


@pytest.mark.parametrize(("message", "code"), BROKEN, ids=[f"{case[1]}-{i}" for i, case in enumerate(BROKEN)])
def test_broken_messages_end_the_call_and_the_log_says_why(caplog: pytest.LogCaptureFixture, message: Any, code: str) -> None:
    async def scenario(phone: Telephone) -> None:
        await phone.start()
        await phone.raw(message)

    closed, log = closing(caplog, scenario)
    assert closed == 4400 and "call=CA2 turn=0 Refused: " in log and f"({code})" in log


@pytest.mark.parametrize("event", ["media", "dtmf", "mark"])
def test_nothing_may_come_before_start(caplog: pytest.LogCaptureFixture, event: str) -> None:
    async def scenario(phone: Telephone) -> None:
        await {"media": lambda: phone.frame(b"\xff"), "dtmf": lambda: phone.press("1"), "mark": lambda: phone.mark("1")}[event]()

    closed, log = closing(caplog, scenario)
    assert closed == 4400 and "No audio, key or mark may come before start. (before_start)" in log


def test_nobody_stays_without_a_call(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(phone: Telephone) -> None:
        for _ in range(11):
            await phone.event("connected")

    closed, log = closing(caplog, scenario)
    assert closed == 4400 and "No start among the first 10 messages. (before_start)" in log


def test_a_second_start_ends_the_call(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(phone: Telephone) -> None:
        await phone.start()
        await phone.start()

    closed, log = closing(caplog, scenario)
    assert closed == 4400 and "start comes once in a stream. (late_start)" in log


def test_other_audio_than_a_telephones_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(phone: Telephone) -> None:
        await phone.start(mediaFormat={"encoding": "audio/x-l16", "sampleRate": 16000, "channels": 1})

    closed, log = closing(caplog, scenario)
    assert closed == 4400 and "(bad_media_format)" in log


def test_a_caller_of_whom_nothing_comes_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Telephone:
        async with serving(Rasa(), replace(SETTINGS, idle_timeout_ms=100)) as server, server.phone() as phone:
            await phone.connect()
            await phone.until(lambda: phone.closed)
            return phone

    assert run(main()).closed == 4408 and "Nothing came for 100 ms. (idle)" in caplog.text


def test_floods_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def flood(phone: Telephone, payload: bytes) -> None:
        await phone.start()
        while phone.closed is None:
            await phone.send(payload * 160)
            await asyncio.sleep(0)

    def closed_by(settings: TwilioSettings, payload: bytes) -> Optional[int]:
        return call_alone(settings, lambda phone: flood(phone, payload)).closed

    def call_alone(settings: TwilioSettings, scenario: Callable[[Telephone], Awaitable[Any]]) -> Telephone:
        async def main() -> Telephone:
            async with serving(Rasa(), settings) as server, server.phone() as phone:
                await phone.open()
                await scenario(phone)
                return phone

        return run(main())

    assert closed_by(replace(SETTINGS, max_messages_per_second=10), b"\xff") == 4429
    assert "More than 10 messages a second. (too_many_messages)" in caplog.text
    assert closed_by(replace(SETTINGS, max_ahead_ms=2000), b"\xff") == 4429
    assert "More than 2000 ms of audio ahead of time. (too_fast)" in caplog.text


def test_frames_of_any_size_are_heard() -> None:
    """3 bytes at a time, none at all, a second at once; faster than real time, as everything here."""
    rasa = Rasa()

    async def scenario(phone: Telephone) -> None:
        audio = mulaw(said(6))
        for start in range(0, len(audio), 3):
            await phone.frame(audio[start : start + 3])
            await phone.frame(b"")
        await phone.frame(mulaw(said(7)))
        await phone.until(lambda: len(rasa.turns) == 2)

    call(rasa, scenario)
    assert rasa.heard == ["intent_6", "intent_7"]


def test_unknown_events_and_the_bots_own_track_are_passed_over() -> None:
    rasa = Rasa()

    async def scenario(phone: Telephone) -> None:
        for _ in range(20):
            await phone.event("weather", weather={"sun": True})
            await phone.event("connected")
        payload = {"track": "outbound", "payload": "AAAA" * 800}  # as loud as can be
        await phone.event("media", media=payload)
        await phone.say(said(6))
        await phone.until(lambda: rasa.turns)

    call(rasa, scenario)
    assert rasa.heard == ["intent_6"]


def test_without_a_trained_model_the_call_ends_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Telephone:
        async with serving(Rasa(), agent=False) as server, server.phone() as phone:
            await phone.connect()
            await phone.until(lambda: phone.closed)
            return phone

    assert run(main()).closed == 4503 and "(no_recognizer)" in caplog.text


# ---------------------------------------------------------------- who may call

SAFE = replace(SETTINGS, auth_token=TOKEN)


@pytest.mark.parametrize(
    ("public", "base", "wss"),
    [
        ("", None, "wss://127.0.0.1:{port}"),
        ("https://bot.example", "https://bot.example", "wss://bot.example"),
        ("wss://bot.example/rasa/", "https://bot.example/rasa", "wss://bot.example/rasa"),
        ("https://bot.example:8443", "https://bot.example:8443", "wss://bot.example:8443"),
    ],
)
def test_a_call_from_number_to_answer(public: str, base: Optional[str], wss: str) -> None:
    """The webhook's TwiML leads to a stream that is let in, with what the number's address says as parameters."""
    rasa = Rasa(intent_6=["0.5"])

    async def main() -> None:
        async with serving(rasa, replace(SAFE, public_url=public)) as server, server.phone() as phone:
            url, parameters = await phone.dial(TOKEN, "?branch=Leeds%20%26%20York&From=me&spoken_intents_token=x", base or "")
            assert url == wss.format(port=server.port) + f"{CHANNEL}/websocket"
            assert set(parameters) == {"branch", "From", "To", "Direction", "spoken_intents_token"}
            await phone.connect(parameters, "wss://x" + CHANNEL + "/websocket")
            await phone.say(said(6))
            await phone.listen(lambda: phone.echoed)

    run(main())
    assert rasa.heard == ["intent_6"]
    metadata = rasa.metadata[0]
    assert (metadata["caller"], metadata["callee"], metadata["direction"]) == ("+442071838750", "+441514960000", "inbound")
    assert metadata["parameters"] == {"branch": "Leeds & York"}
    assert TOKEN not in str(metadata) and "spoken_intents_token" not in str(metadata)


@pytest.mark.parametrize(
    "query", ["?record=", "?record", "?record=false&record=true", "?Record=False", "?record=True", "?record=no"]
)
def test_a_no_to_being_recorded_reaches_the_call(query: str) -> None:
    async def main() -> None:
        async with serving(Rasa()) as server, server.phone() as phone:
            _, parameters = await phone.dial(query=query)
            assert parameters["record"] == "false" and not said_yes(parameters.items())
            _, parameters = await phone.dial(query="?record=true")
            assert said_yes(parameters.items())

    run(main())


def test_only_twilio_may_ask_for_twiml(caplog: pytest.LogCaptureFixture) -> None:
    fields = {"CallSid": "CA1", "From": "+44", "Blank": "", "Odd": "é & = \ud7ff"}

    async def main() -> List[int]:
        async with serving(Rasa(), SAFE) as server, server.phone() as phone:
            return [
                (await phone.ask(fields, **how))[0]
                for how in (
                    {"token": TOKEN},
                    {"token": TOKEN, "query": "?a=b%20c&d"},
                    {},
                    {"token": "another"},
                    {"token": TOKEN, "signed": "é"},
                    {"token": TOKEN, "signed": ""},
                    {"token": TOKEN, "public": "https://other.example"},
                )
            ]

    statuses = run(main())
    assert statuses == [200, 200, 403, 403, 403, 200, 403]
    assert "refused: Twilio's signature of https://127.0.0.1" in caplog.text


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Host: \xff", b"400"),
        (b"Host: x\nCRITICAL root a forged line \x1b[31m", b"400"),
        (b"Host: x\x01", b"400"),
        (b"Host: x\r\nX-Twilio-Signature: \xff", b"403"),
        (b"", b"403"),
    ],
)
def test_any_bytes_in_a_header_are_refused(header: bytes, status: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> bytes:
        async with serving(Rasa(), SAFE) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            lines = [f"POST {CHANNEL}/webhook HTTP/1.1".encode(), header, b"Content-Length: 0", b"Connection: close", b"", b""]
            writer.write(b"\r\n".join(line for line in lines[:2] if line) + b"\r\n" + b"\r\n".join(lines[2:]))
            answer = await reader.read()
            writer.close()
            return answer

    assert run(main()).startswith(b"HTTP/1.1 " + status)
    assert "forged" not in caplog.text


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"From": "x" * 600}, 400, "Custom parameter 'From': name and value are text of at most 500 characters"),
        ({"From": "\0"}, 400, "Custom parameter 'From'"),
        ({"From": "x" * 70_000}, 413, "bytes: at most 65536 are taken."),
    ],
)
def test_the_webhook_refuses_what_no_call_has(fields: Dict[str, str], status: int, words: str) -> None:
    async def main() -> Tuple[int, str]:
        async with serving(Rasa()) as server, server.phone() as phone:
            return await phone.ask(fields)

    got, body = run(main())
    assert got == status and words in body


@pytest.mark.parametrize("stolen", [False, True])
def test_only_streams_of_our_own_twiml_are_let_in(caplog: pytest.LogCaptureFixture, stolen: bool) -> None:
    rasa = Rasa()

    async def main() -> Telephone:
        async with serving(rasa, SAFE) as server, server.phone() as phone, server.phone("CA2") as thief:
            _, parameters = await phone.dial(TOKEN)
            await thief.connect(parameters if stolen else {})
            await thief.until(lambda: thief.closed)
            return thief

    assert run(main()).closed == 4403
    assert "The stream was not opened by this server's webhook, which it has to be. (bad_token)" in caplog.text


@pytest.mark.parametrize("token", [None, TOKEN])
def test_strangers_take_no_line_and_are_gone_soon(
    token: Optional[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(twilio, "START_MS", 1500)
    rasa = Rasa(intent_6=["0.1"])

    async def main() -> List[Optional[int]]:
        async with serving(rasa, replace(SETTINGS, auth_token=token, max_connections=3)) as server, server.phone() as phone:
            async with server.phone() as one, server.phone() as two:
                for stranger in (one, two):
                    await stranger.open()
                    await stranger.event("connected")
                _, parameters = await phone.dial(token or "")
                await phone.connect(parameters)
                await phone.say(said(6))
                await phone.until(lambda: rasa.turns)
                assert server.channel.calls == 1
                await phone.listen(lambda: one.closed and two.closed)
                assert phone.closed is None
                return [one.closed, two.closed]

    assert run(main()) == [4408, 4408]
    assert "No start came within 1500 ms. (before_start)" in caplog.text


def test_strangers_may_not_send_much(caplog: pytest.LogCaptureFixture) -> None:
    closed, _ = closing(caplog, lambda phone: phone.event("connected", more="x" * 70_000))
    assert closed == 1009


def test_who_leaves_before_start_leaves(caplog: pytest.LogCaptureFixture) -> None:
    closed, log = closing(caplog, lambda phone: phone.stop())
    assert closed is not None and "Refused" not in log


def test_no_page_may_open_a_stream() -> None:
    async def main() -> Optional[int]:
        async with serving(Rasa()) as server, aiohttp.ClientSession() as http:
            url = f"ws://127.0.0.1:{server.port}{CHANNEL}/websocket"
            async with http.ws_connect(url, origin=f"http://127.0.0.1:{server.port}") as page:
                await page.receive(in_process.PATIENCE_S)
                return page.close_code

    assert run(main()) == 4403


UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c3Bva2VuIGludGVudHMhIQ==\r\n"
)


@pytest.mark.parametrize(
    ("asked", "headers", "status"),
    [(b"POST", b"Content-Type: application/x-www-form-urlencoded\r\n", b"413"), (b"GET", UPGRADE, b"101")],
)
def test_a_large_body_is_not_waited_for(asked: bytes, headers: bytes, status: bytes) -> None:
    path = f"{CHANNEL}/{'webhook' if asked == b'POST' else 'websocket'}".encode()

    async def main() -> bytes:
        async with serving(Rasa(), SAFE) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(asked + b" " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n" + headers + b"\r\n")
            answer = await asyncio.wait_for(reader.readline(), in_process.PATIENCE_S)
            writer.transport.abort()
            return answer

    assert run(main()).startswith(b"HTTP/1.1 " + status)


def test_twiml_is_for_now(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Telephone:
        async with serving(Rasa(), SAFE) as server, server.phone() as phone:
            _, parameters = await phone.dial(TOKEN)
            now = twilio.time.time()
            monkeypatch.setattr(twilio, "time", SimpleNamespace(time=lambda: now + 121))
            await phone.connect(parameters)
            await phone.until(lambda: phone.closed)
            return phone

    assert run(main()).closed == 4403 and "older than 120 s" in caplog.text


def test_an_open_door_and_a_mute_bot_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        TwilioInput(SETTINGS).blueprint(Rasa())
    assert "without auth_token anybody may open calls" in caplog.text and "callers will hear nothing" in caplog.text
    caplog.clear()
    channel = TwilioInput(SAFE)
    channel.speech = Voice()  # type: ignore[assignment]
    channel.blueprint(Rasa())
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"token": "x"}, "unknown token. Allowed: .*auth_token"),
        ({"auth_token": ""}, "auth_token is empty. Leave it out"),
        ({"auth_token": "${TWILIO_AUTH_TOKEN}"}, "auth_token names a variable. Write it without quotation marks"),
        (
            {"public_url": "http://bot.example"},
            r"public_url takes an address such as https://bot\.example, got 'http://bot\.example'",
        ),
        ({"public_url": "bot.example"}, "public_url takes an address"),
        ({"public_url": "https://bot.example?x=1"}, "public_url takes an address"),
        ({"max_ahead_ms": 0}, "max_ahead_ms takes more than 0"),
        ({"silence_timeout_ms": 1}, "silence_timeout_ms takes 0 or 1000"),
    ],
)
def test_wrong_settings_are_named(settings: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"credentials.yml, twilio_media_streams channel.*{words}"):
        TwilioInput.from_credentials(settings)


def test_the_settings_in_the_docs_are_taken() -> None:
    text = (ROOT / "docs/telephone.md").read_text()
    block = re.search(r"```yaml\n( *# credentials.yml\n.*?)```", text, re.S)
    assert block is not None
    (name, settings), *_ = yaml.safe_load(block[1]).items()
    assert name == f"{TwilioInput.__module__}.{TwilioInput.__name__}"
    assert settings["auth_token"] == "${TWILIO_AUTH_TOKEN}", "which Rasa puts in"
    channel = TwilioInput.from_credentials({**settings, "auth_token": TOKEN, "speech": "none"})
    assert channel.settings.public_url == "https://bot.example"
    defaults = {row[1]: row[2].strip() for row in re.finditer(r"^\| `(\w+)` \| (.*?)\|", text.split("## What Rasa")[0], re.M)}
    assert len(defaults) == 11
    for setting, default in defaults.items():
        value = getattr(TwilioSettings(), setting)
        assert ("" if value is None else str(value)) == default
