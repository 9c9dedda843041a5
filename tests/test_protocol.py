"""What a client may send, and what each mistake is called."""

import base64
import json
from types import SimpleNamespace
from typing import Any, List, Union

import numpy as np
import pytest

from spoken_intents.channels.protocol import (
    MAX_TEXT,
    SAMPLE_RATES,
    Allowance,
    Audio,
    Commit,
    Handshake,
    Marker,
    Pressed,
    Speech,
    Typed,
    parse,
)
from spoken_intents.errors import ProtocolError

pytestmark = pytest.mark.filterwarnings("error")


def say(**fields: Any) -> str:
    return json.dumps(fields)


def base64_of(pcm: bytes) -> str:
    return base64.b64encode(pcm).decode()


# ---------------------------------------------------------------- what is understood


@pytest.mark.parametrize("rate", SAMPLE_RATES)
def test_a_handshake_says_the_sample_rate(rate: int) -> None:
    assert parse(say(sample_rate=rate)) == Handshake(rate)


def test_every_field_of_a_handshake_is_optional() -> None:
    assert parse("{}") == Handshake(16_000, None, None)
    assert parse(say(language="en")) == Handshake(language="en")
    assert parse(say(sender="ann", language=None)) == Handshake(sender="ann")
    assert parse(say(sample_rate=8000, language="en-GB", sender="x" * 200)) == Handshake(8000, "en-GB", "x" * 200)
    assert parse(say(record=False)) == Handshake(record=False)


@pytest.mark.parametrize("message", [b"\x00\x40\x00\xc0", say(audio=base64_of(b"\x00\x40\x00\xc0"))])
def test_audio_comes_as_bytes_or_as_base64(message: Union[str, bytes]) -> None:
    audio = parse(message)
    assert isinstance(audio, Audio)
    assert audio.samples.dtype == np.float32 and audio.samples.tolist() == [0.5, -0.5]


def test_no_audio_is_no_samples() -> None:
    for message in (b"", say(audio="")):
        audio = parse(message)
        assert isinstance(audio, Audio) and audio.samples.shape == (0,)


def test_typed_turns_payloads_commit_and_markers() -> None:
    assert parse(say(text="what's my balance?")) == Typed("what's my balance?")
    assert parse(say(text="ü" * MAX_TEXT)) == Typed("ü" * MAX_TEXT)
    assert parse(say(payload='/inform{"amount": 20}')) == Typed('/inform{"amount": 20}')
    assert parse(say(commit=True)) == Commit()
    assert parse(say(marker="a1")) == Marker("a1")


# ---------------------------------------------------------------- what is refused

ODD_BASE64 = base64_of(b"\x00\x01\x02")
REFUSED: List[Any] = [
    # a handshake's
    (say(sample_rate=7), "bad_sample_rate", "sample_rate 7: accepted are 8000, 16000, 24000, 44100, 48000"),
    (say(sample_rate="16000"), "bad_sample_rate", "sample_rate 16000: accepted are"),
    (say(sample_rate=True), "bad_sample_rate", "accepted are"),
    (say(sample_rate=None), "bad_sample_rate", "accepted are"),
    (say(sample_rate=[16000]), "bad_sample_rate", "accepted are"),
    (say(sample_rate={"a": "b" * 9999}), "bad_sample_rate", "accepted are"),
    ('{"sample_rate": 1e999}', "bad_sample_rate", "accepted are"),
    ('{"sample_rate": NaN}', "bad_sample_rate", "accepted are"),
    (say(language=""), "bad_handshake", "language takes text of 1 to 200 characters"),
    (say(language=7), "bad_handshake", "language takes text"),
    (say(sender="x" * 201), "bad_handshake", "sender takes text of 1 to 200 characters"),
    (say(sender=["ann"]), "bad_handshake", "sender takes text"),
    (say(record="no"), "bad_handshake", "record takes true or false"),
    (say(record=None), "bad_handshake", "record takes true or false"),
    # audio
    (b"\x00\x01\x02", "bad_audio", "3 bytes of 16-bit PCM: an odd count"),
    (say(audio=ODD_BASE64), "bad_audio", "3 bytes of 16-bit PCM: an odd count"),
    (say(audio="not base64!"), "bad_base64", "audio takes base64 of 16-bit PCM"),
    (say(audio="AAA"), "bad_base64", "audio takes base64"),
    (say(audio="ü"), "bad_base64", "audio takes base64"),
    (say(audio=7), "bad_base64", "audio takes base64"),
    (say(audio=None), "bad_base64", "audio takes base64"),
    (say(audio=[0, 1]), "bad_base64", "audio takes base64"),
    # text
    ("hello", "bad_json", "takes JSON; this was none"),
    ("", "bad_json", "takes JSON; this was none"),
    ('{"text": "hal', "bad_json", "takes JSON; this was none"),
    ("[1, 2]", "bad_json", "takes a JSON object; this was list"),
    ('"text"', "bad_json", "takes a JSON object; this was str"),
    ("null", "bad_json", "takes a JSON object; this was NoneType"),
    ("[" * 100_000, "bad_json", "this was none"),
    ('{"text":' * 100_000, "bad_json", "this was none"),
    (say(text=""), "bad_text", "1 to 1000 characters"),
    (say(text=" \n"), "bad_text", "1 to 1000 characters"),
    (say(text="x" * (MAX_TEXT + 1)), "bad_text", "1 to 1000 characters"),
    (say(text=7), "bad_text", "characters of text"),
    (say(text=None), "bad_text", "characters of text"),
    (say(text="audio/freeze/0007.flac"), "bad_text", "files are not read over this channel"),
    (say(text="  live/0123.wav \n"), "bad_text", "files are not read over this channel"),
    (say(payload="affirm"), "bad_payload", 'such as "/affirm"'),
    (say(payload=["/affirm"]), "bad_payload", "begins with /"),
    (say(payload=None), "bad_payload", "begins with /"),
    (say(payload=""), "bad_payload", "begins with /"),
    (say(payload="/" + "x" * MAX_TEXT), "bad_text", "1 to 1000 characters"),
    # fields
    (say(hello=1), "unknown_field", "Field hello: not understood. Known: audio, text, payload, commit"),
    (say(commit=False), "unknown_field", "Field commit: not understood"),
    (say(commit=1), "unknown_field", "Field commit: not understood"),
    (say(marker=7), "unknown_field", "Field marker: not understood"),
    (
        say(text="hi", commit=True),
        "unknown_field",
        "Fields commit, text: one of audio, text, payload, commit (true), dtmf, speech (started, completed), marker at a time",
    ),
    (say(sample_rate=16000, rate=1), "unknown_field", "Fields rate, sample_rate: one of"),
]


@pytest.mark.parametrize(("message", "code", "reason"), REFUSED, ids=[f"{i}-{entry[1]}" for i, entry in enumerate(REFUSED)])
def test_a_mistake_is_refused_by_its_code(message: Union[str, bytes], code: str, reason: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(message)
    assert caught.value.code == code
    assert reason in str(caught.value)
    assert caught.value.close_code == 4400


def test_a_refusal_does_not_echo_everything_it_was_sent() -> None:
    for message in (say(**{"x" * 5000: 1}), say(**{f"field{i}" * 100: 1 for i in range(1000)}), say(sample_rate="7" * 5000)):
        with pytest.raises(ProtocolError) as caught:
            parse(message)
        assert len(str(caught.value)) < 400


def test_nests_of_every_depth_are_refused_as_such() -> None:
    """Also at the last depth at which Python reads JSON: whatever looks at the value then, such as `repr`, has its own."""
    for field in ("text", "payload", "sample_rate", "sender", "token", "dtmf", "audio", "marker", "commit", "speech", "other"):
        for depth in range(850, 1000):
            with pytest.raises(ProtocolError) as caught:
                parse(f'{{"{field}": {"[" * depth}{"]" * depth}}}')
            assert caught.value.close_code == 4400 and len(str(caught.value)) < 400


def test_random_bytes_and_text_are_messages_or_protocol_errors() -> None:
    rng, refused = np.random.default_rng(5), 0
    letters = np.array(list('{}[]":,0123456789.eE-+ \\utexmrkcodiasp/\u00fc\ud800\0'))
    for _ in range(3000):
        message: Union[str, bytes] = "".join(rng.choice(letters, rng.integers(0, 40)))
        if rng.random() < 0.3:
            message = rng.bytes(int(rng.integers(0, 40)))
        elif rng.random() < 0.6:
            message = json.dumps({str(rng.choice(["audio", "text", "payload", "commit", "marker", "sender"])): message})
        try:
            assert isinstance(parse(message), (Handshake, Audio, Typed, Commit, Marker))
        except ProtocolError as error:
            refused += 1
            assert error.code and str(error)
    assert 500 < refused < 3000


# ---------------------------------------------------------------- floods


class Clock:
    """A time that stands still until told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("spoken_intents.channels.protocol.time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_an_allowance_takes_a_burst_and_then_its_rate(clock: Clock) -> None:
    allowance = Allowance(rate=10, burst=5)
    assert [allowance.spend(1) for _ in range(6)] == [True] * 5 + [False]
    clock.now += 0.2  # one for the one refused, one more
    assert [allowance.spend(1), allowance.spend(1)] == [True, False]
    clock.now += 1000.0
    assert [allowance.spend(1) for _ in range(6)] == [True] * 5 + [False]


def test_an_allowance_grows_with_time_alone(clock: Clock) -> None:
    allowance = Allowance(rate=2.0, burst=4.0)
    assert allowance.spend(4.0)
    for _ in range(100):  # exactly as fast as allowed, forever
        clock.now += 0.5
        assert allowance.spend(1.0)
    assert not allowance.spend(0.25)


def test_an_allowance_does_not_grow_past_its_burst(clock: Clock) -> None:
    allowance = Allowance(rate=1.0, burst=3.0)
    clock.now += 1e6
    assert allowance.spend(3.0)
    assert not allowance.spend(0.001)


def test_keys_and_the_clients_own_detector_are_understood() -> None:
    assert parse('{"dtmf": "12*#D"}') == Pressed("12*#D")
    assert parse('{"speech": "started"}') == Speech(True) and parse('{"speech": "completed"}') == Speech(False)


def test_foreign_names_cannot_forge_a_line_in_the_log() -> None:
    with pytest.raises(ProtocolError, match=r"Field a\?CRITICAL root\?: not understood"):
        parse(json.dumps({"a\nCRITICAL root\x1b": 1}))


@pytest.mark.parametrize("keys", ["", "x", "1" * 33, 5, None])
def test_what_is_no_key_is_refused(keys: Any) -> None:
    with pytest.raises(ProtocolError, match=r"dtmf takes 1 to 32 of the keys 0-9 \* # A-D\.") as refused:
        parse(json.dumps({"dtmf": keys}))
    assert refused.value.code == "bad_dtmf"
