"""Twilio's messages, signature and TwiML: what is understood, and what each mistake is called."""

import base64
import json
from contextlib import suppress
from typing import Any, Dict, Optional
from xml.etree import ElementTree

import numpy as np
import pytest

from spoken_intents.audio import mulaw_to_float
from spoken_intents.channels import twilio_protocol as protocol
from spoken_intents.channels.twilio_protocol import Connected, Dtmf, Mark, Media, Start, Stop, Unknown, parse
from spoken_intents.errors import ProtocolError

pytestmark = pytest.mark.filterwarnings("error")

# As Twilio documents them.
PUBLISHED = {
    "connected": '{"event": "connected", "protocol": "Call", "version": "1.0.0"}',
    "start": """{"event": "start", "sequenceNumber": "1", "start": {"accountSid": "ACXX", "streamSid": "MZXX",
        "callSid": "CAXX", "tracks": ["inbound"], "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": {"FirstName": "Jane", "LastName": "Doe", "RemoteParty": "Bob"}}, "streamSid": "MZXX"}""",
    "media": """{"event": "media", "sequenceNumber": "4", "media": {"track": "inbound", "chunk": "2", "timestamp": "5",
        "payload": "/4B//w=="}, "streamSid": "MZXX"}""",
    "dtmf": """{"event": "dtmf", "streamSid": "MZXX", "sequenceNumber": "5",
        "dtmf": {"track": "inbound_track", "digit": "1"}}""",
    "mark": '{"event": "mark", "sequenceNumber": "4", "streamSid": "MZXX", "mark": {"name": "my label"}}',
    "stop": """{"event": "stop", "sequenceNumber": "5", "streamSid": "MZXX",
        "stop": {"accountSid": "ACXX", "callSid": "CAXX"}}""",
}


def start(**change: Any) -> str:
    message = json.loads(PUBLISHED["start"])
    message["start"].update(change)
    return json.dumps(message)


def media(payload: Any) -> str:
    return json.dumps({"event": "media", "media": {"payload": payload}})


# ---------------------------------------------------------------- what is understood


def test_published_messages_are_understood() -> None:
    assert parse(PUBLISHED["connected"]) == Connected()
    assert parse(PUBLISHED["start"]) == Start("MZXX", "CAXX", {"FirstName": "Jane", "LastName": "Doe", "RemoteParty": "Bob"})
    assert parse(PUBLISHED["dtmf"]) == Dtmf("1")
    assert parse(PUBLISHED["mark"]) == Mark("my label")
    assert parse(PUBLISHED["stop"]) == Stop()
    heard = parse(PUBLISHED["media"])
    assert isinstance(heard, Media) and heard.track == "inbound" and heard.samples.dtype == np.float32
    assert (heard.samples * 32768).tolist() == [0, 32124, 0, 0]  # G.711: FF is zero, 80 the loudest, 7F the other zero


def test_what_twilio_adds_one_day_is_no_harm() -> None:
    assert parse('{"event": "weather", "weather": {"sun": true}}') == Unknown("weather")
    assert parse(json.dumps({"event": "x" * 10_000})) == Unknown("x" * protocol.MAX_NAME)
    format_ = {**protocol.MEDIA_FORMAT, "bits": 8}
    assert isinstance(parse(start(mediaFormat=format_, more=1)), Start)


@pytest.mark.parametrize("size", [0, 1, 3, 160, 161, 8000])
def test_a_payload_may_have_any_size(size: int) -> None:
    codes = bytes(range(256)) * 32
    heard = parse(media(base64.b64encode(codes[:size]).decode()))
    assert isinstance(heard, Media)
    np.testing.assert_array_equal(heard.samples, mulaw_to_float(codes[:size]))


def test_parameters_may_be_missing() -> None:
    message = json.loads(PUBLISHED["start"])
    del message["start"]["customParameters"]
    assert parse(json.dumps(message)) == Start("MZXX", "CAXX", {})


# ---------------------------------------------------------------- what is not

BAD = [
    (b"\x00", "bad_json", r"Twilio sends text; 1 bytes of binary came\."),
    ("not json", "bad_json", r"Twilio sends JSON; this was none\."),
    ("[" * 100_000, "bad_json", r"Twilio sends JSON; this was none\."),
    ("[]", "bad_json", r'objects with text in "event"'),
    ('{"audio": "x"}', "bad_json", r'objects with text in "event"'),
    ('{"event": 5}', "bad_json", r'objects with text in "event"'),
    ('{"event": "start"}', "bad_start", r'A message start holds an object "start"; this one does not\.'),
    ('{"event": "media", "media": "x"}', "bad_media", r'A message media holds an object "media"'),
    ('{"event": "mark", "mark": []}', "bad_mark", r'A message mark holds an object "mark"'),
    ('{"event": "mark", "mark": {}}', "bad_mark", r"mark: name takes 1 to 200 printable"),
    ('{"event": "dtmf", "dtmf": {}}', "bad_dtmf", r"digit takes one of 0-9 \* # A-D; this was 'None'\."),
    ('{"event": "dtmf", "dtmf": {"digit": "12"}}', "bad_dtmf", r"this was '12'"),
    ('{"event": "dtmf", "dtmf": {"digit": ""}}', "bad_dtmf", r"this was ''"),
    ('{"event": "dtmf", "dtmf": {"digit": "x"}}', "bad_dtmf", r"this was 'x'"),
    (media("%%%"), "bad_base64", r"payload takes base64 of µ-law"),
    (media("abc"), "bad_base64", r"payload takes base64 of µ-law"),
    (media("é"), "bad_base64", r"payload takes base64 of µ-law"),
    (media(12), "bad_base64", r"payload takes base64 of µ-law"),
    ('{"event": "media", "media": {}}', "bad_base64", r"payload takes base64 of µ-law"),
    (start(streamSid=""), "bad_start", r"start: streamSid takes 1 to 200 printable ASCII"),
    (start(streamSid=None), "bad_start", r"start: streamSid takes"),
    (start(callSid="x" * 201), "bad_start", r"start: callSid takes"),
    (start(callSid="a\nb"), "bad_start", r"start: callSid takes"),
    (start(callSid="\ud800"), "bad_start", r"start: callSid takes"),
    (start(mediaFormat=None), "bad_media_format", r"audio/x-mulaw.*this was None"),
    (start(mediaFormat={"encoding": "audio/x-l16", "sampleRate": 8000, "channels": 1}), "bad_media_format", "audio/x-l16"),
    (start(mediaFormat={"encoding": "audio/x-mulaw", "sampleRate": 16000, "channels": 1}), "bad_media_format", "16000"),
    (start(mediaFormat={"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 2}), "bad_media_format", "'channels': 2"),
    (start(customParameters=["x"]), "bad_parameters", r"customParameters takes an object of texts\."),
    (start(customParameters={"x": 1}), "bad_parameters", r"Custom parameter 'x': name and value are text"),
    (start(customParameters={"x": "y" * 500}), "bad_parameters", r"at most 500 characters"),
    (start(customParameters={"x": "\ud800"}), "bad_parameters", r"that XML allows"),
    (start(customParameters={str(n): "" for n in range(51)}), "bad_parameters", r"51 custom parameters: at most 50 are taken\."),
]


@pytest.mark.parametrize(("message", "code", "words"), BAD, ids=[f"{case[1]}-{i}" for i, case in enumerate(BAD)])
def test_broken_messages_are_told_apart(message: Any, code: str, words: str) -> None:
    with pytest.raises(ProtocolError, match=words) as refused:
        parse(message)
    assert refused.value.code == code and refused.value.close_code == 4400


def test_nests_of_every_depth_are_refused_as_such() -> None:
    """Also at the last depth at which Python reads JSON: whatever looks at the value then, such as `repr`, has its own."""
    for depth in range(850, 1000):
        text = "[" * depth + "]" * depth
        for message in (
            f'{{"event": "start", "start": {{"mediaFormat": {text}}}}}',
            f'{{"event": "dtmf", "dtmf": {{"digit": {text}}}}}',
            f'{{"event": "mark", "mark": {{"name": {text}}}}}',
            f'{{"event": "media", "media": {{"payload": {text}}}}}',
        ):
            with pytest.raises(ProtocolError) as refused:
                parse(message)
            assert refused.value.close_code == 4400
        with suppress(ProtocolError):
            parse(f'{{"event": "media", "media": {{"payload": "", "track": {text}}}}}')


def test_random_fields_are_messages_or_protocol_errors() -> None:
    rng = np.random.default_rng(0)
    values = [None, True, 0, -1.5, "", "x", "\ud800", [], {}, {"name": "1"}, {"payload": "AA=="}, {"digit": "#"}, {"digit": []}]
    for _ in range(3000):
        event = str(rng.choice([*PUBLISHED, "other"]))
        fields = {"event": event, event: values[rng.integers(len(values))]}
        if event == "start":
            fields = json.loads(PUBLISHED["start"])
            fields["start"][str(rng.choice([*fields["start"]]))] = values[rng.integers(len(values))]
        try:
            parse(json.dumps(fields))
        except ProtocolError as error:
            assert str(error).encode()


# ---------------------------------------------------------------- what is sent


def test_what_is_sent_is_as_published() -> None:
    assert protocol.media("MZXX", b"\xff\x80") == {"event": "media", "streamSid": "MZXX", "media": {"payload": "/4A="}}
    assert protocol.mark("MZXX", "7") == {"event": "mark", "streamSid": "MZXX", "mark": {"name": "7"}}
    assert protocol.clear("MZXX") == {"event": "clear", "streamSid": "MZXX"}


def test_twiml_is_xml_whatever_the_parameters_hold() -> None:
    parameters = {"plain": "x", 'a"b<c>&\'d"': "\"]]></Parameter>'&\n é 🙂", "": ""}
    response = ElementTree.fromstring(protocol.twiml("wss://x.example/a&b", parameters))
    (stream,) = response[0]
    assert (response.tag, response[0].tag, stream.attrib) == ("Response", "Connect", {"url": "wss://x.example/a&b"})
    assert {entry.attrib["name"]: entry.attrib["value"] for entry in stream} == parameters


@pytest.mark.parametrize("value", ["\0", "\ud800", "x" * 501])
def test_twiml_refuses_what_xml_or_twilio_would(value: str) -> None:
    with pytest.raises(ProtocolError, match="Custom parameter 'x'"):
        protocol.twiml("wss://x.example", {"x": value})


# ---------------------------------------------------------------- who may


def test_the_signature_is_twilios() -> None:
    """The example of Twilio's own helper libraries."""
    form = {
        "CallSid": "CA1234567890ABCDE",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
        "Caller": "+14158675309",
    }
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    assert protocol.signature("12345", url, form.items()) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    assert protocol.signature("12345", url, reversed([*form.items()])) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    assert protocol.signature("12346", url, form.items()) != "RSOYDt4T1cUTdK1PDd93/VVr8B8="


def refusal(token: Optional[str], call_id: str = "CA1", now: float = 1000) -> str:
    parameters: Dict[str, str] = {} if token is None else {protocol.TOKEN: token}
    try:
        protocol.check_token("secret", Start("MZ1", call_id, parameters), now)
    except ProtocolError as error:
        assert (error.code, error.close_code) == ("bad_token", 4403)
        return str(error)
    return ""


def test_a_stream_token_is_for_one_call_and_a_short_time() -> None:
    token = protocol.stream_token("secret", "CA1", 1000)
    assert refusal(token) == refusal(token, now=999) == ""
    for other in (None, "", ".", token[:-1], token + "0", "x" + token, token.replace("1000.", "2000.", 1), "é", "9" * 5000):
        assert refusal(other).startswith("The stream was not opened by this server's webhook")
    assert refusal(token, call_id="CA2").startswith("The stream was not opened by this server's webhook")
    assert refusal(protocol.stream_token("guess", "CA1", 1000)).startswith("The stream was not opened")
    assert refusal(token, now=1001) == "The webhook's answer is older than 120 s. Fetch it anew for each call."
