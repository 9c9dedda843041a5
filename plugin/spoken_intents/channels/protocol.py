"""The voice WebSocket's client messages: text or bytes in, a checked message out. No Sanic, no Rasa."""

import base64
import binascii
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any, Optional, Union

import numpy as np

from spoken_intents.audio import pcm16_to_float
from spoken_intents.errors import AudioError, ProtocolError, one_line
from spoken_intents.keys import MAX_KEYS
from spoken_intents.utterances import is_audio_reference

SAMPLE_RATES = (8_000, 16_000, 24_000, 44_100, 48_000)
MAX_SENDER = 200  # characters of a conversation's name
MAX_TEXT = 1_000  # characters of a typed turn
MAX_TOKEN = 4_096  # characters of what shows who calls
KEYS = frozenset("0123456789*#ABCD")
_HALF = re.compile("[\ud800-\udfff]")  # of a character, which JSON may hold and UTF-8 may not
KNOWN = "audio, text, payload, commit (true), dtmf, speech (started, completed), marker"


@dataclass(frozen=True)
class Handshake:
    """What the client sends first, if anything. Every field is optional."""

    sample_rate: int = 16_000
    language: Optional[str] = None
    sender: Optional[str] = None
    token: Optional[str] = field(default=None, repr=False)
    record: bool = True


@dataclass(frozen=True)
class Audio:
    """Samples at the client's rate, float32."""

    samples: np.ndarray


@dataclass(frozen=True)
class Typed:
    """A typed turn or a button's payload."""

    text: str


@dataclass(frozen=True)
class Commit:
    """The utterance is over now (push-to-talk)."""


@dataclass(frozen=True)
class Pressed:
    """Keys of a telephone."""

    keys: str


@dataclass(frozen=True)
class Speech:
    """The client's own detector heard speech begin, or end."""

    started: bool


@dataclass(frozen=True)
class Marker:
    """The client has played everything up to this marker."""

    id: str


ClientMessage = Union[Handshake, Audio, Typed, Commit, Pressed, Speech, Marker]


def parse(message: Union[str, bytes]) -> ClientMessage:
    """One message of the client.

    Raises:
        ProtocolError: It is not one; says what came and what is understood.
    """
    if isinstance(message, bytes):
        return _audio(message)
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError):
        raise ProtocolError("bad_json", "A text message takes JSON; this was none.") from None
    if not isinstance(fields, dict):
        raise ProtocolError("bad_json", f"A text message takes a JSON object; this was {type(fields).__name__}.")
    if set(fields) <= {"sample_rate", "language", "sender", "token", "record"}:
        return _handshake(fields)
    if len(fields) != 1:
        raise ProtocolError("unknown_field", f"Fields {_shown(fields)}: one of {KNOWN} at a time.")
    ((name, value),) = fields.items()
    if name == "audio":
        return _audio(_from_base64(value))
    if name == "text":
        return Typed(_text(value))
    if name == "payload":
        if not str(value).startswith("/"):
            raise ProtocolError("bad_payload", 'A payload begins with / and an intent, such as "/affirm".')
        return Typed(_text(value))
    if name == "commit" and value is True:
        return Commit()
    if name == "marker" and isinstance(value, str):
        return Marker(value)
    if name == "dtmf":
        if not isinstance(value, str) or not value or not KEYS.issuperset(value) or len(value) > MAX_KEYS:
            raise ProtocolError("bad_dtmf", f"dtmf takes 1 to {MAX_KEYS} of the keys 0-9 * # A-D.")
        return Pressed(value)
    if name == "speech" and value in ("started", "completed"):
        return Speech(value == "started")
    raise ProtocolError("unknown_field", f"Field {_shown(fields)}: not understood. Known: {KNOWN}.")


def _shown(fields: Any) -> str:
    return one_line(", ".join(sorted(str(name)[:40] for name in fields)[:5]))


def _handshake(fields: Any) -> Handshake:
    rate = fields.get("sample_rate", 16_000)
    if isinstance(rate, bool) or rate not in SAMPLE_RATES:
        shown = one_line(str(rate), 40)
        raise ProtocolError("bad_sample_rate", f"sample_rate {shown}: accepted are {', '.join(map(str, SAMPLE_RATES))}.")
    for name, most in (("language", MAX_SENDER), ("sender", MAX_SENDER), ("token", MAX_TOKEN)):
        value = fields.get(name)
        if value is not None and not (isinstance(value, str) and is_name(value, most)):
            raise ProtocolError("bad_handshake", f"{name} takes text of 1 to {most} characters that can be printed.")
    if not isinstance(fields.get("record", True), bool):
        raise ProtocolError("bad_handshake", "record takes true or false: whether the caller may be recorded.")
    return Handshake(int(rate), fields.get("language"), fields.get("sender"), fields.get("token"), fields.get("record", True))


def is_name(text: str, most: int = MAX_SENDER) -> bool:
    """Whether something can be called that, in logs and in databases: these hold neither NUL nor halves of characters."""
    return 0 < len(text) <= most and text.isprintable()


def _from_base64(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ProtocolError("bad_base64", "audio takes base64 of 16-bit PCM; this was none.") from None


def _audio(pcm: bytes) -> Audio:
    try:
        return Audio(pcm16_to_float(pcm))
    except AudioError as error:
        raise ProtocolError("bad_audio", str(error)) from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT or _HALF.search(value):
        raise ProtocolError("bad_text", f"A typed turn takes 1 to {MAX_TEXT} characters of text.")
    if is_audio_reference(value.strip()):
        raise ProtocolError("bad_text", "A typed turn takes words; files are not read over this channel.")
    return value


class Allowance:
    """A budget that grows with time: `rate` a second, up to `burst`. For refusing floods."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at = burst, time.monotonic()

    def spend(self, amount: float) -> bool:
        """Whether `amount` was still allowed."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - amount
        self._at = now
        return self._left >= 0
