"""Whatever clients send: messages within their bounds, or the error that says why not."""

import asyncio
import base64
import json
from types import SimpleNamespace
from typing import Any, List, Tuple, Union
from xml.etree import ElementTree

import numpy as np
import pytest
from fuzzing import as_json, assert_words, fuzz, fuzz_changed, objects, tampered, values
from hypothesis import assume, example
from hypothesis import strategies as st
from sanic.exceptions import WebsocketClosed
from websockets.connection import OPEN, SERVER, Connection
from websockets.frames import Frame, Opcode

from spoken_intents.audio import float_to_pcm16
from spoken_intents.channels import inbox, protocol, twilio_protocol
from spoken_intents.channels.connection import ConnectionCall
from spoken_intents.channels.inbox import Inbox
from spoken_intents.client import parsed
from spoken_intents.errors import ProtocolError
from spoken_intents.keys import MAX_KEYS, Keys, payload
from spoken_intents.utterances import is_audio_reference

pytestmark = pytest.mark.filterwarnings("error")

# ---------------------------------------------------------------- the voice channel

FIELDS = [
    "sample_rate",
    "language",
    "sender",
    "token",
    "record",
    "audio",
    "text",
    "payload",
    "commit",
    "dtmf",
    "speech",
    "marker",
]
VALID = [
    {"sample_rate": 8000, "language": "en", "sender": "anna", "token": "abc", "record": True},
    {"audio": base64.b64encode(bytes(640)).decode()},
    {"text": "hello"},
    {"payload": "/greet"},
    {"commit": True},
    {"dtmf": "12#"},
    {"speech": "started"},
    {"marker": "0f4c"},
]
client_text = (
    st.text(max_size=100) | as_json(values) | as_json(objects(FIELDS)) | as_json(st.sampled_from(VALID).flatmap(tampered))
)


def assert_within_bounds(message: protocol.ClientMessage) -> None:
    if isinstance(message, protocol.Handshake):
        assert type(message.sample_rate) is int and message.sample_rate in protocol.SAMPLE_RATES
        for name in (message.language, message.sender):
            assert name is None or (0 < len(name) <= protocol.MAX_SENDER and name.isprintable())
        assert message.token is None or 0 < len(message.token) <= protocol.MAX_TOKEN
    elif isinstance(message, protocol.Audio):
        assert message.samples.dtype == np.float32 and message.samples.ndim == 1
        assert np.all(np.abs(message.samples) <= 1)
    elif isinstance(message, protocol.Typed):
        assert message.text.strip() and len(message.text) <= protocol.MAX_TEXT
        assert not is_audio_reference(message.text.strip())
        message.text.encode()  # whoever keeps it has to
    elif isinstance(message, protocol.Pressed):
        assert 0 < len(message.keys) <= MAX_KEYS and protocol.KEYS.issuperset(message.keys)
    elif isinstance(message, protocol.Speech):
        assert isinstance(message.started, bool)
    elif isinstance(message, protocol.Marker):
        assert isinstance(message.id, str)
    else:
        assert isinstance(message, protocol.Commit)


@fuzz(share=2, message=client_text)
@example(message='{"sample_rate": 8000.0}')
@example(message='{"sample_rate": "\\n8000"}')
@example(message='{"sender": "anna\\u0000"}')
@example(message='{"text": "\\ud800"}')
@example(message="[" * 100_000)
def test_what_a_client_writes(message: str) -> None:
    try:
        assert_within_bounds(protocol.parse(message))
    except ProtocolError as error:
        assert_words(error)
        assert error.code.isidentifier() and 4000 <= error.close_code <= 4999


@fuzz_changed([json.dumps(message).encode() for message in VALID], share=1.5)
def test_what_a_client_writes_and_the_line_makes_of_it(content: bytes) -> None:
    try:
        assert_within_bounds(protocol.parse(content.decode(errors="replace")))
    except ProtocolError as error:
        assert_words(error)


@fuzz(message=st.binary(max_size=2000))
def test_what_a_client_says(message: bytes) -> None:
    """Bytes are audio, as they are; the same in base64."""
    written = json.dumps({"audio": base64.b64encode(message).decode()})
    if len(message) % 2:
        for some in (message, written):
            with pytest.raises(ProtocolError) as caught:
                protocol.parse(some)
            assert caught.value.code == "bad_audio"
    else:
        for some in (message, written):
            audio = protocol.parse(some)
            assert isinstance(audio, protocol.Audio)
            assert_within_bounds(audio)
            assert float_to_pcm16(audio.samples) == message


@fuzz(text=st.text(max_size=200) | as_json(values))
def test_what_a_server_answers(text: str) -> None:
    try:
        assert isinstance(parsed(text), dict)
    except ProtocolError as error:
        assert_words(error)


# ---------------------------------------------------------------- keys


@fuzz(
    length=st.integers(0, MAX_KEYS),
    pressed=st.lists(st.tuples(st.text(sorted(protocol.KEYS), max_size=40), st.integers(0, 3000)), max_size=10),
)
def test_keys_make_turns_and_none_is_lost(length: int, pressed: List[Tuple[str, int]]) -> None:
    gathered, now, turns = Keys(length, 2000), 0, []
    for keys, wait in pressed:
        turns += gathered.press(keys, now)
        now += wait
        turns += gathered.due(now)
    turns += gathered.end()
    assert not gathered.waiting and gathered.end() == []
    assert "".join(turns) == "".join(keys for keys, _ in pressed).replace("#", "")
    for turn in turns:
        assert 0 < len(turn) <= (length or MAX_KEYS)
        assert json.loads(payload(turn).removeprefix("/dtmf")) == {"digits": turn}


# ---------------------------------------------------------------- the telephone

START = {
    "event": "start",
    "start": {
        "streamSid": "MZ1",
        "callSid": "CA1",
        "mediaFormat": twilio_protocol.MEDIA_FORMAT,
        "customParameters": {"branch": "north", twilio_protocol.TOKEN: "1.0"},
    },
}
TWILIO = [
    START,
    {"event": "connected", "protocol": "Call"},
    {"event": "media", "media": {"track": "inbound", "payload": base64.b64encode(bytes(160)).decode()}},
    {"event": "dtmf", "dtmf": {"digit": "1"}},
    {"event": "mark", "mark": {"name": "1"}},
    {"event": "stop", "stop": {}},
]
twilio_text = (
    st.text(max_size=100)
    | as_json(values)
    | as_json(objects(["event", "start", "media", "dtmf", "mark", "stop"]))
    | as_json(st.sampled_from(TWILIO).flatmap(tampered))
)
parameters = st.dictionaries(st.text(max_size=30), st.text(max_size=520), max_size=6) | objects(["branch"])


@fuzz(share=2, message=twilio_text | st.binary(max_size=50))
def test_what_twilio_sends(message: Union[str, bytes]) -> None:
    assert_twilios(message)


@fuzz_changed([json.dumps(message).encode() for message in TWILIO], share=1.5)
def test_what_twilio_sends_and_the_line_makes_of_it(content: bytes) -> None:
    assert_twilios(content.decode(errors="replace"))


def assert_twilios(message: Union[str, bytes]) -> None:
    try:
        found = twilio_protocol.parse(message)
    except ProtocolError as error:
        return assert_words(error)
    if isinstance(found, twilio_protocol.Start):
        for name in (found.call_id, found.stream_id):
            assert 0 < len(name) <= twilio_protocol.MAX_NAME and name.isascii() and name.isprintable()
        assert len(found.parameters) <= twilio_protocol.MAX_PARAMETERS
        for name, value in found.parameters.items():
            assert len(name) + len(value) <= twilio_protocol.MAX_PARAMETER
    elif isinstance(found, twilio_protocol.Media):
        assert found.samples.dtype == np.float32 and found.samples.ndim == 1 and np.all(np.abs(found.samples) < 1)
    elif isinstance(found, twilio_protocol.Dtmf):
        assert len(found.digit) == 1 and found.digit in protocol.KEYS
    elif isinstance(found, twilio_protocol.Mark):
        assert 0 < len(found.name) <= twilio_protocol.MAX_NAME
    elif isinstance(found, twilio_protocol.Unknown):
        assert len(found.event) <= twilio_protocol.MAX_NAME


@fuzz(url=st.text(max_size=60), some=parameters)
def test_twiml_is_xml_and_says_what_it_was_given(url: str, some: Any) -> None:
    assume(not twilio_protocol._NOT_XML.search(url))  # which the channel checks
    try:
        answer = twilio_protocol.twiml(url, some)
    except ProtocolError as error:
        return assert_words(error)
    stream = ElementTree.fromstring(answer.encode()).find("Connect/Stream")
    assert stream is not None
    flat = str.maketrans("\t\n\r", "   ")
    assert stream.get("url", "").translate(flat) == url.translate(flat)
    found = {line.get("name", "").translate(flat): line.get("value", "").translate(flat) for line in stream}
    assert found == {name.translate(flat): value.translate(flat) for name, value in some.items()}


@fuzz(
    secret=st.text(max_size=20), call=st.from_regex("[ -~]{1,40}", fullmatch=True), at=st.integers(0, 10**12 - 1), shown=st.text()
)
def test_a_token_opens_its_call_until_it_expires_and_nothing_else_does(secret: str, call: str, at: int, shown: str) -> None:
    assume("\ud800" > max(secret, default="") or max(secret) > "\udfff")
    token = twilio_protocol.stream_token(secret, call, at)

    def opens(token: str, call_id: str, now: float) -> bool:
        try:
            twilio_protocol.check_token(secret, twilio_protocol.Start("MZ1", call_id, {twilio_protocol.TOKEN: token}), now)
        except ProtocolError as error:
            assert error.code == "bad_token" and error.close_code == 4403
            assert_words(error)
            assert token not in str(error) or len(token) < 3
            return False
        return True

    assert opens(token, call, at)
    assert not opens(token, call, at + 1)
    assert not opens(token, call + "x", at)
    assert not opens(shown, call, 0) or shown == token


form = st.lists(st.tuples(st.text(max_size=10), st.text(max_size=10)), max_size=5)


@fuzz(url=st.text(max_size=50), fields=form, other=form)
def test_a_signature_is_of_all_fields_whatever_their_order(url: str, fields: Any, other: Any) -> None:
    sign = twilio_protocol.signature
    assert sign("secret", url, fields) == sign("secret", url, fields[::-1]) != sign("other", url, fields)
    joined = [url + "".join(name + value for name, value in sorted(set(some))) for some in (fields, other)]
    assert (sign("secret", url, fields) == sign("secret", url, other)) is (joined[0] == joined[1])


# ---------------------------------------------------------------- frames


class Transport:
    reading = True

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


class Wire:
    """A connection's bytes on their way to the inbox: websockets' own parser, as Sanic has it, and what ours does to it."""

    def __init__(self) -> None:
        self.parser = Connection(SERVER, OPEN, max_size=2**20)
        self.transport = Transport()
        websocket = SimpleNamespace(connection=self.parser, connection_lost_waiter=asyncio.get_running_loop().create_future())
        self.inbox = Inbox(websocket, self.transport, idle_s=0.001)
        never = SimpleNamespace(spend=lambda amount: True)
        call = SimpleNamespace(_websocket=websocket, _transport=self.transport, _messages=never, _inbox=self.inbox)
        ConnectionCall._take_frames(call)  # type: ignore[arg-type]


message = st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | st.binary(max_size=300)


def frames_of(message: Union[str, bytes], cuts: List[int]) -> bytes:
    content = message.encode() if isinstance(message, str) else message
    ends = [*sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    opcode, begin, frames = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY, 0, b""
    for number, end in enumerate(ends):
        frame = Frame(opcode if number == 0 else Opcode.CONT, content[begin:end], fin=number == len(ends) - 1)
        frames += frame.serialize(mask=True)
        begin = end
    return frames


@fuzz(
    share=0.5,
    said=st.lists(st.tuples(message, st.lists(st.integers(0, 400), max_size=3)), max_size=8),
    pieces=st.lists(st.integers(1, 200), min_size=1, max_size=10),
    takes=st.lists(st.integers(0, 3), min_size=1, max_size=10),
    full=st.sampled_from([0, 100, 10_000]),
)
def test_frames_cut_anyhow_are_the_messages_that_were_sent(said: Any, pieces: List[int], takes: List[int], full: int) -> None:
    """And nothing is read from the client while too many wait."""

    async def main() -> List[Union[str, bytes]]:
        there, got, number = Wire(), [], 0
        stream = b"".join(frames_of(*some) for some in said)
        while stream:
            size = pieces[number % len(pieces)]
            if there.transport.reading:
                there.parser.receive_data(stream[:size])
                stream = stream[size:]
                assert there.transport.reading == (there.inbox._bytes <= full or not there.inbox._messages)
            wanted = takes[number % len(takes)] if there.transport.reading else 1
            for _ in range(min(wanted, len(there.inbox._messages))):
                got.append(await there.inbox.get())
            if not there.transport.reading and not there.inbox._messages:
                break  # a single message that is larger than all that may wait
            number += 1
        if stream:
            there.transport.reading = there.inbox._reading = True
            there.parser.receive_data(stream)
        while there.inbox._messages:
            got.append(await there.inbox.get())
        assert there.inbox._bytes == 0 and there.transport.reading
        assert await there.inbox.get() is None
        there.inbox.close()
        with pytest.raises(WebsocketClosed):
            await there.inbox.get()
        return got

    before, inbox.FULL_BYTES = inbox.FULL_BYTES, full
    try:
        assert asyncio.run(main()) == [some for some, _ in said]
    finally:
        inbox.FULL_BYTES = before


@fuzz_changed(
    [
        frames_of("hello" * 30, [7, 90]) + frames_of(b"\0\1" * 80, []),
        frames_of("", []) + Frame(Opcode.PING, b"x").serialize(mask=True),
    ],
    share=0.4,
)
def test_bytes_that_are_no_frames_end_the_connection_and_raise_nothing(content: bytes) -> None:
    async def main() -> None:
        there = Wire()
        for begin in range(0, len(content), 7):
            there.parser.receive_data(content[begin : begin + 7])
        for some in there.inbox._messages:
            assert isinstance(some[0], (str, bytes))

    asyncio.run(main())
