"""The telephone: Twilio Media Streams, both ways. Sanic and Rasa glue only.

    call ──▶ POST /webhook ──▶ TwiML: connect to ──▶ WebSocket /websocket ──▶ session

Setting it up is in ``docs/telephone.md``.
"""

import hmac
import json
import logging
import re
import time
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Union
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from sanic import Blueprint
from sanic.exceptions import WebsocketClosed
from sanic.request import Request
from sanic.response import HTTPResponse, text

from spoken_intents import metrics
from spoken_intents.audio import float_to_mulaw
from spoken_intents.channels import twilio_protocol as protocol
from spoken_intents.channels.access import check_secret
from spoken_intents.channels.connection import ConnectionCall, ConnectionInput, ConnectionSettings
from spoken_intents.channels.spoken import RECORD, OnNewMessage, said_yes
from spoken_intents.channels.upload import hang_up_behind, read_body
from spoken_intents.config import require, settings_from
from spoken_intents.errors import ProtocolError
from spoken_intents.turns import Turn

logger = logging.getLogger(__name__)

START_MS = 5_000  # until `start`, which Twilio sends within a second
START_BYTES = 65_536  # of a message: TwiML, and so what `start` has of it, may not be larger
MAX_BEFORE_START = 10  # messages; Twilio sends one
ADDRESS = re.compile(r"[\w.:\[\]/%~-]{1,500}", re.ASCII)
GIVE_WAY_MS = 1_000  # to say goodbye in
MAX_FORM_BYTES = 65_536  # Twilio sends about 1,000
KNOWN = {"From": "caller", "To": "callee", "Direction": "direction", "language": "language"}  # parameter -> metadata


@dataclass(frozen=True)
class TwilioSettings(ConnectionSettings):
    """What credentials.yml may say of the telephone, beside what it may say of every channel of speech.

    Attributes:
        auth_token: The Twilio account's; with it only Twilio may ask for TwiML, and only calls that it was given to may
            open a stream. Without: anybody may do both.
        public_url: Where Twilio reaches this server, such as ``https://bot.example``, with the path under which a proxy
            has it, if any. Empty: https and the host that the request names.
        max_messages_per_second: Twilio sends 50.
    """

    auth_token: Optional[str] = field(default=None, repr=False)
    public_url: str = ""
    max_connections_per_address: int = 0  # Twilio calls from a few
    idle_timeout_ms: int = 20_000  # Twilio sends silence, too
    max_messages_per_second: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        check_secret("auth_token", self.auth_token)
        require(
            not self.public_url or _is_public(self.public_url),
            f"public_url takes an address such as https://bot.example, got {self.public_url!r}.",
        )


def _is_public(url: str) -> bool:
    try:
        address = urlsplit(url)
    except ValueError:  # such as half an IPv6 address
        return False
    return address.scheme in ("https", "wss") and bool(address.netloc) and not address.query


class TwilioInput(ConnectionInput):
    """People telephone the assistant: TwiML ``/webhooks/twilio_media_streams/webhook``, WebSocket ``…/websocket``."""

    settings: TwilioSettings

    @classmethod
    def name(cls) -> str:
        """The channel's name in URLs, and in ``channel:`` variations of responses."""
        return "twilio_media_streams"

    @classmethod
    def from_credentials(cls, credentials: Optional[Dict[str, Any]]) -> "TwilioInput":
        """The channel with the settings of credentials.yml.

        Raises:
            ConfigError: An unknown setting or a wrong value.
        """
        return cls(settings_from(TwilioSettings, credentials, f"credentials.yml, {cls.name()} channel"))

    def __init__(self, settings: Optional[TwilioSettings] = None) -> None:
        super().__init__(settings or TwilioSettings())
        self._calls: "Dict[str, _TwilioCall]" = {}  # by Twilio's id

    def blueprint(self, on_new_message: OnNewMessage) -> Blueprint:
        """The routes (see parent class)."""
        if self.settings.auth_token is None:
            logger.warning("%s: without auth_token anybody may open calls. Set it in credentials.yml.", self.name())
        if self.speech is None:
            logger.warning("%s: callers will hear nothing, as no speech engine is set or installed.", self.name())
        twilio = Blueprint("spoken_intents_twilio", __name__)

        @twilio.post("/webhook", stream=True)  # or Sanic would keep up to 100 MB for whoever sends them
        async def incoming(request: Request) -> HTTPResponse:
            try:
                return self._answer(request, await read_body(request, MAX_FORM_BYTES))
            except ProtocolError as error:
                hang_up_behind(request)
                return self._refusal(error.close_code - 4000, error.code, str(error))

        @twilio.route("/websocket", websocket=True, ignore_body=True)  # as `websocket`, which would wait for a body
        async def call(request: Request, websocket: Any) -> None:
            await _TwilioCall(self, request, websocket, on_new_message).run()

        self.operate(twilio)
        return twilio

    def begin(self, call: "_TwilioCall") -> None:
        """A call is known. The newer of two connections for one call is it: Twilio opens one at a time, so the older
        one is what a broken network left behind, and would otherwise go on answering nobody."""
        older, self._calls[call.id] = self._calls.get(call.id), call
        if older is not None:
            logger.warning("This call connected anew: its older connection is closed.")
            self.close_soon(older.session)
            self.soon(older.give_way())

    def end(self, call: "_TwilioCall") -> None:
        """A connection is over."""
        if self._calls.get(call.id) is call:
            del self._calls[call.id]

    def _answer(self, request: Request, body: bytes) -> HTTPResponse:
        """TwiML for a call that comes in."""
        # Blank fields are signed, too; Sanic's own form leaves them out.
        form = parse_qsl(body.decode(errors="replace"), keep_blank_values=True)
        # Twilio calls by TLS only, whatever a proxy makes of it on the way here.
        public = self.settings.public_url or f"https://{request.headers.get('host', '')}"
        address = public.split("://", 1)[1].rstrip("/") + request.path
        if not ADDRESS.fullmatch(address):  # a header may hold anything
            return self._refusal(400, "bad_host", "The request's Host is none.")
        token = self.settings.auth_token
        if token is not None and not _signed(token, request, f"https://{address}", form):
            logger.warning("A request for TwiML was refused: Twilio's signature of https://%s is not on it.", address)
            return self._refusal(403, "bad_signature", "Twilio's signature is missing or wrong.")
        if self.places.full:
            logger.warning("A call is told that the line is busy: all %d are open.", self.settings.max_connections)
            metrics.refused(self.name(), "busy")
            return _twiml(protocol.busy())
        fields = dict(form)
        said = parse_qsl(request.query_string, keep_blank_values=True)
        parameters = {name: value for name, value in said if value and name != protocol.TOKEN}
        if not said_yes(said):
            parameters[RECORD] = "false"
        parameters.update({name: fields[name] for name in ("From", "To", "Direction") if fields.get(name)})
        if token is not None:
            expires_at = int(time.time()) + protocol.TOKEN_LIFE_S
            parameters[protocol.TOKEN] = protocol.stream_token(token, fields.get("CallSid", ""), expires_at)
        try:
            answer = protocol.twiml(f"wss://{address.rstrip('/').removesuffix('/webhook')}/websocket", parameters)
        except ProtocolError as error:
            return self._refusal(400, error.code, str(error))
        return _twiml(answer)

    def _refusal(self, status: int, code: str, message: str) -> HTTPResponse:
        metrics.refused(self.name(), code)
        return text(message, status)


def _signed(token: str, request: Request, url: str, form: Any) -> bool:
    if request.query_string:
        url += f"?{request.query_string}"
    expected = protocol.signature(token, url, form)
    shown = request.headers.get("x-twilio-signature", "")
    return hmac.compare_digest(shown.encode(errors="replace"), expected.encode())


def _twiml(answer: str) -> HTTPResponse:
    return text(answer, content_type="text/xml; charset=utf-8")


class _TwilioCall(ConnectionCall):
    """One stream: Twilio's messages around one session."""

    def __init__(self, channel: TwilioInput, request: Request, websocket: Any, on_new_message: OnNewMessage) -> None:
        super().__init__(channel, request, websocket, on_new_message)
        self._channel = channel
        self._stream_id = ""  # until `start`
        self._marks = 0
        self._marked = True  # nothing was sent behind the last mark
        self._tune(protocol.SAMPLE_RATE)

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            self._channel.end(self)

    def admit(self) -> None:
        """Refuses pages: Twilio is none, and sends no origin."""
        if "origin" in self._request.headers:
            raise ProtocolError("bad_origin", "No page may open a telephone's stream.", 4403)

    async def introduce(self) -> None:
        """Has `start` say which call it is, and show the token: until then a stranger costs little."""
        self._websocket.connection.max_size = START_BYTES  # for good: nothing of Twilio's is larger
        async with self._doorstep(START_MS, ProtocolError("before_start", f"No start came within {START_MS} ms.", 4408)):
            for _ in range(MAX_BEFORE_START + 1):
                message = await self._inbox.get()
                if message is None:
                    raise self._idle()
                parsed = protocol.parse(message)
                if isinstance(parsed, protocol.Stop):
                    raise WebsocketClosed("The call is over before it began.")
                if isinstance(parsed, protocol.Start):
                    if self._channel.settings.auth_token is not None:
                        protocol.check_token(self._channel.settings.auth_token, parsed, time.time())
                    return self._inbox.put_back(message)
                # Greetings and events that this version does not know are no harm.
                if not isinstance(parsed, (protocol.Connected, protocol.Unknown)):
                    raise ProtocolError("before_start", "No audio, key or mark may come before start.")
        raise ProtocolError("before_start", f"No start among the first {MAX_BEFORE_START} messages.")

    async def take(self, message: Union[str, bytes]) -> None:
        parsed = protocol.parse(message)
        if isinstance(parsed, (protocol.Connected, protocol.Unknown)):
            return
        if isinstance(parsed, protocol.Stop):
            self._open = False
        elif isinstance(parsed, protocol.Start):
            await self._start(parsed)
        elif isinstance(parsed, protocol.Media):
            if parsed.track == "inbound":
                await self._hear(parsed.samples)
        elif isinstance(parsed, protocol.Dtmf):
            await self.session.dtmf(parsed.digit)
        else:
            await self.session.played(parsed.name)

    async def _start(self, start: protocol.Start) -> None:
        if self._stream_id:
            raise ProtocolError("late_start", "start comes once in a stream.")
        logger.info("It is Twilio's call %s.", start.call_id)
        self.id = self.sender = self.log.call = start.call_id
        self._stream_id = start.stream_id
        ours = (*KNOWN, protocol.TOKEN)
        parameters = {n: value for n, value in start.parameters.items() if n not in ours and n.casefold() != RECORD}
        self.may_record = said_yes(start.parameters.items())
        known = {ours: start.parameters.get(theirs) for theirs, ours in KNOWN.items()}
        self.metadata = {"call_id": start.call_id, "stream_id": start.stream_id, **known, "parameters": parameters}
        self._channel.begin(self)
        if self._settings.initial_message and not await self.is_known(start.call_id):  # else the call has connected anew
            await self.session.type(self._opening())

    def _opening(self) -> str:
        """The initial message, with what is known of the call as entities where the domain has such: they fill slots."""
        message, domain = self._settings.initial_message, self.domain()
        if domain is None or not message.startswith("/") or "{" in message:
            return message
        known = {**self.metadata["parameters"], **self.metadata}
        entities = {name: known[name] for name in domain.entities if isinstance(known.get(name), str)}
        return f"{message}{json.dumps(entities)}" if entities else message

    async def refuse(self, error: ProtocolError) -> None:
        logger.warning("Refused: %s (%s)", error, error.code)  # Twilio tells nobody
        await self._close(error.close_code, error.code)

    async def give_way(self) -> None:
        """A newer connection has the call; this one's network is probably dead, and keeps nobody's place."""
        await self._close(4409, "replaced", GIVE_WAY_MS)

    # ------------------------------------------------ what the session wants

    async def send_audio(self, samples: np.ndarray) -> None:
        self._marked = False
        await self._send(protocol.media(self._stream_id, float_to_mulaw(samples)))

    async def clear(self) -> None:
        await super().clear()
        self._marked = True
        await self._send(protocol.clear(self._stream_id))

    async def send_mark(self) -> Optional[str]:
        await self._play_rest()
        if self._marked:  # by the mark before, or there is nothing to play
            return None
        self._marks, self._marked = self._marks + 1, True
        name = str(self._marks)
        await self._send(protocol.mark(self._stream_id, name))
        return name

    async def turn_ended(self, turn: Turn) -> Optional[str]:
        return await self.send_mark()
