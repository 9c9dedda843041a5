"""Twilio's side of a call: the messages of Media Streams, checked, and who may send them. No Sanic, no Rasa.

Message formats, signature and TwiML as published: twilio.com/docs/voice/media-streams/websocket-messages,
twilio.com/docs/usage/security, twilio.com/docs/voice/twiml/stream.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, Mapping, Tuple, Union
from xml.sax.saxutils import quoteattr

import numpy as np

from spoken_intents.audio import mulaw_to_float
from spoken_intents.channels.protocol import KEYS
from spoken_intents.errors import ProtocolError

SAMPLE_RATE = 8_000  # Hz, of both directions
MEDIA_FORMAT = {"encoding": "audio/x-mulaw", "sampleRate": SAMPLE_RATE, "channels": 1}
MAX_NAME = 200  # characters of a call's, a stream's or a mark's name, which are printable ASCII
MAX_PARAMETERS, MAX_PARAMETER = 50, 500  # custom parameters; characters of name and value together, which is Twilio's limit
TOKEN = "spoken_intents_token"  # the parameter that shows that this server's own TwiML opened the stream
TOKEN_LIFE_S = 120  # from TwiML to `start`, which Twilio sends within seconds
XML = '<?xml version="1.0" encoding="UTF-8"?>'
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Connected:
    """The WebSocket is open; the call is not yet known."""


@dataclass(frozen=True)
class Start:
    """The call is known.

    Attributes:
        parameters: What the TwiML's ``<Parameter>``s said.
    """

    stream_id: str
    call_id: str
    parameters: Dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Media:
    """Audio.

    Attributes:
        samples: float32, 8 kHz.
        track: ``inbound``: the caller.
    """

    samples: np.ndarray
    track: str = "inbound"


@dataclass(frozen=True)
class Dtmf:
    """A key was pressed."""

    digit: str


@dataclass(frozen=True)
class Mark:
    """Everything up to our mark was played, or dropped by `clear`."""

    name: str


@dataclass(frozen=True)
class Stop:
    """The call is over, or the stream is."""


@dataclass(frozen=True)
class Unknown:
    """An event of a kind that this version does not know: Twilio adds some."""

    event: str


TwilioMessage = Union[Connected, Start, Media, Dtmf, Mark, Stop, Unknown]


def parse(message: Union[str, bytes]) -> TwilioMessage:
    """One message of Twilio.

    Raises:
        ProtocolError: It is not one; says what came and what is understood.
    """
    if isinstance(message, bytes):
        raise ProtocolError("bad_json", f"Twilio sends text; {len(message)} bytes of binary came.")
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError):
        raise ProtocolError("bad_json", "Twilio sends JSON; this was none.") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
        raise ProtocolError("bad_json", 'Twilio sends objects with text in "event"; this was none.')
    event = fields["event"]
    if event in ("connected", "stop"):
        return Connected() if event == "connected" else Stop()
    if event not in ("start", "media", "dtmf", "mark"):
        return Unknown(event[:MAX_NAME])
    inner = fields.get(event)
    if not isinstance(inner, dict):
        raise ProtocolError(f"bad_{event}", f'A message {event} holds an object "{event}"; this one does not.')
    if event == "start":
        return _start(inner)
    if event == "media":
        return _media(inner)
    if event == "mark":
        return Mark(_name(inner, "mark", "name"))
    digit = inner.get("digit")
    if not isinstance(digit, str) or len(digit) != 1 or digit not in KEYS:
        raise ProtocolError("bad_dtmf", f"digit takes one of 0-9 * # A-D; this was {str(digit)[:40]!r}.")
    return Dtmf(digit)


def _start(start: Dict[str, Any]) -> Start:
    format_ = start.get("mediaFormat")
    if not isinstance(format_, dict) or any(format_.get(name) != value for name, value in MEDIA_FORMAT.items()):
        raise ProtocolError("bad_media_format", f"Only {json.dumps(MEDIA_FORMAT)} is understood; this was {repr(format_)[:200]}.")
    parameters = start.get("customParameters", {})
    if not isinstance(parameters, dict):
        raise ProtocolError("bad_parameters", "customParameters takes an object of texts.")
    check_parameters(parameters)
    return Start(_name(start, "start", "streamSid"), _name(start, "start", "callSid"), parameters)


def _media(media: Dict[str, Any]) -> Media:
    try:
        payload: Any = media.get("payload")
        mulaw = base64.b64decode(payload, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ProtocolError("bad_base64", "payload takes base64 of µ-law; this was none.") from None
    return Media(mulaw_to_float(mulaw), str(media.get("track", "inbound")))


def _name(inner: Dict[str, Any], event: str, key: str) -> str:
    value = inner.get(key)
    if not isinstance(value, str) or not re.fullmatch("[ -~]{1,%d}" % MAX_NAME, value):
        raise ProtocolError(f"bad_{event}", f"{event}: {key} takes 1 to {MAX_NAME} printable ASCII characters.")
    return value


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Custom parameters end up in the tracker: texts only, few and short.

    Raises:
        ProtocolError: They are not.
    """
    if len(parameters) > MAX_PARAMETERS:
        raise ProtocolError("bad_parameters", f"{len(parameters)} custom parameters: at most {MAX_PARAMETERS} are taken.")
    for name, value in parameters.items():
        if not isinstance(value, str) or len(name) + len(value) > MAX_PARAMETER or _NOT_XML.search(name + value):
            raise ProtocolError(
                "bad_parameters",
                f"Custom parameter {name[:40]!r}: name and value are text of at most {MAX_PARAMETER} characters that XML allows.",
            )


# ------------------------------------------------ what is sent


def media(stream_id: str, mulaw: bytes) -> Dict[str, Any]:
    """Audio to be played after what was sent before."""
    return {"event": "media", "streamSid": stream_id, "media": {"payload": base64.b64encode(mulaw).decode()}}


def mark(stream_id: str, name: str) -> Dict[str, Any]:
    """Comes back when everything before it was played."""
    return {"event": "mark", "streamSid": stream_id, "mark": {"name": name}}


def clear(stream_id: str) -> Dict[str, Any]:
    """What is not played yet is dropped; the marks in it come back."""
    return {"event": "clear", "streamSid": stream_id}


def twiml(url: str, parameters: Mapping[str, str]) -> str:
    """The answer to a call: connect it to the WebSocket at `url`; when that closes, the call is over.

    Raises:
        ProtocolError: As `check_parameters`.
    """
    check_parameters(parameters)
    lines = "".join(f"<Parameter name={quoteattr(name)} value={quoteattr(value)}/>" for name, value in parameters.items())
    return f"{XML}<Response><Connect><Stream url={quoteattr(url)}>{lines}</Stream></Connect></Response>"


def busy() -> str:
    """The answer to a call that cannot be taken now: the caller hears the busy tone, and Twilio charges nothing."""
    return f'{XML}<Response><Reject reason="busy"/></Response>'


# ------------------------------------------------ who may


def signature(auth_token: str, url: str, form: Iterable[Tuple[str, str]]) -> str:
    """How Twilio signs a request: SHA-1 of its whole address and its fields by name, with the account's token."""
    signed = url + "".join(name + value for name, value in sorted(set(form)))
    return base64.b64encode(hmac.new(auth_token.encode(), signed.encode(), hashlib.sha1).digest()).decode()


def stream_token(auth_token: str, call_id: str, expires_at: int) -> str:
    """What a stream of this call has to show until `expires_at`, in seconds since the epoch."""
    signed = f"{TOKEN}\n{call_id}\n{expires_at}"
    return f"{expires_at}.{hmac.new(auth_token.encode(), signed.encode(), hashlib.sha256).hexdigest()}"


def check_token(auth_token: str, start: Start, now: float) -> None:
    """Whether this server's own TwiML opened the stream, just now, for this call.

    Raises:
        ProtocolError: It did not.
    """
    token = start.parameters.get(TOKEN, "")
    expires_at = token.split(".")[0]
    well_formed = re.fullmatch("[0-9]{1,12}", expires_at)
    expected = stream_token(auth_token, start.call_id, int(expires_at)) if well_formed else ""
    if not expected or not hmac.compare_digest(token.encode(), expected.encode()):
        raise ProtocolError("bad_token", "The stream was not opened by this server's webhook, which it has to be.", 4403)
    if now > int(expires_at):
        raise ProtocolError(
            "bad_token", f"The webhook's answer is older than {TOKEN_LIFE_S} s. Fetch it anew for each call.", 4403
        )
