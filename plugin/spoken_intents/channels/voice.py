"""The voice channel: Rasa's voice WebSocket, and recordings over HTTP. Sanic and Rasa glue only.

The wire format is Rasa's (documented with RasaHQ/lena-voicebot-ui), and ours where it has nothing: see
``docs/protocol.md``.
"""

import asyncio
import base64
import io
import logging
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Optional, Union

import numpy as np
from rasa.core.channels.channel import CollectingOutputChannel, UserMessage
from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse
from sanic.response import json as json_response

from spoken_intents import metrics
from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16, read_audio
from spoken_intents.channels.access import (
    BEARER,
    AccessSettings,
    Grant,
    token_in_header,
    token_in_subprotocols,
    unauthorized,
)
from spoken_intents.channels.connection import ConnectionCall, ConnectionInput, ConnectionSettings
from spoken_intents.channels.correct import add_corrections
from spoken_intents.channels.page import add_page
from spoken_intents.channels.places import Places
from spoken_intents.channels.protocol import (
    MAX_SENDER,
    Allowance,
    Audio,
    Commit,
    Handshake,
    Marker,
    Pressed,
    Speech,
    Typed,
    is_name,
    parse,
)
from spoken_intents.channels.spoken import NO_RECOGNIZER, OnNewMessage, SpokenCall, recognizer_of, said_yes, settle
from spoken_intents.channels.upload import FORM_BYTES, form_of, hang_up_behind, read_body
from spoken_intents.config import require, settings_from
from spoken_intents.errors import ActionError, AudioError, ProtocolError
from spoken_intents.logs import in_call
from spoken_intents.recognizer import Recognition
from spoken_intents.segmenter import SpeechPaused, SpeechResumed, SpeechStarted, Utterance
from spoken_intents.session import SpokenSession
from spoken_intents.turns import (
    Backchannel,
    Happening,
    HeardAhead,
    NotSpeech,
    Silence,
    Turn,
    TurnFailed,
    TurnStarted,
    milliseconds,
)

logger = logging.getLogger(__name__)

RECORDING = "recording"  # in metrics: a recording comes faster than time passes, so its latencies are not a call's


@dataclass(frozen=True)
class VoiceSettings(ConnectionSettings, AccessSettings):
    """What credentials.yml may say of the voice channel, beside who may speak and what it may say of every channel of speech.

    Attributes:
        max_messages_per_second: Browsers send up to 375.
        max_uploads: Recordings over HTTP that are answered at the same time, in this process; further ones are refused. Of one
            network address half as many, or `max_connections_per_address`, if that is less; without such a limit, all.
        max_upload_ms: Longest recording taken over HTTP.
        max_upload_bytes: Largest.
        correct: Whether the page lets a developer say what recorded turns were; see `correct`.
    """

    silence_timeout_ms: int = 30_000  # people read on a screen, too
    max_uploads: int = 8
    max_upload_ms: int = 300_000
    max_upload_bytes: int = 25 * 2**20
    correct: bool = False

    def __post_init__(self) -> None:
        ConnectionSettings.__post_init__(self)
        AccessSettings.__post_init__(self)
        for name in ("max_uploads", "max_upload_ms", "max_upload_bytes"):
            require(getattr(self, name) > 0, f"{name} takes more than 0, got {getattr(self, name)}.")
        require(not self.correct or bool(self.recordings), "correct takes recordings, too: only recorded turns can be corrected.")


class VoiceInput(ConnectionInput):
    """People talk to the assistant: WebSocket ``/webhooks/voice/websocket``, recordings ``/webhooks/voice/webhook``."""

    settings: VoiceSettings

    @classmethod
    def name(cls) -> str:
        """The channel's name in URLs, and in ``channel:`` variations of responses."""
        return "voice"

    @classmethod
    def from_credentials(cls, credentials: Optional[Dict[str, Any]]) -> "VoiceInput":
        """The channel with the settings of credentials.yml.

        Raises:
            ConfigError: An unknown setting or a wrong value.
        """
        return cls(settings_from(VoiceSettings, credentials, "credentials.yml, voice channel"))

    def __init__(self, settings: Optional[VoiceSettings] = None) -> None:
        super().__init__(settings or VoiceSettings())
        most = self.settings.max_uploads  # half of them, as one caller whose recordings come slowly would have all for a minute
        self._uploads = Places(most, min(self.settings.max_connections_per_address, (most + 1) // 2))
        # A small file may be half a gigabyte on its way to 16 kHz: one at a time, whether or not its sender waits for it.
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decoder")

    def blueprint(self, on_new_message: OnNewMessage) -> Blueprint:
        """The routes (see parent class)."""
        if not self.settings.is_guarded:
            logger.warning("voice: without auth_token or jwt_secret anybody may talk, as any sender. Set one in credentials.yml.")
        voice = Blueprint("spoken_intents_voice", __name__)
        add_page(voice)
        if self.settings.correct and self.recorder is not None:
            add_corrections(voice, self.recorder.recorder, self.settings)

        @voice.get("/status")
        async def status(request: Request) -> HTTPResponse:
            speech = self.speech.name if self.speech else "browser" if self.settings.speech == "browser" else "none"
            hears, guarded = recognizer_of(request.app) is not None, self.settings.is_guarded
            return json_response({"recognizer": hears, "speech": speech, "token": guarded})

        @voice.post("/webhook", stream=True)  # whose body is read when it is known that it may come
        async def recording(request: Request) -> HTTPResponse:
            try:
                self.settings.check_origin(request.headers.get("origin"), request.headers.get("host"))
                grant = self.settings.grant(token_in_header(request.headers.get("authorization", "")))
                settle(request.app)
                if recognizer_of(request.app) is None:
                    raise ProtocolError("no_recognizer", NO_RECOGNIZER, 4503)
                with ExitStack() as place:
                    place.enter_context(self._uploads.of_address(request.remote_addr or request.ip))
                    place.enter_context(self._uploads.upload())
                    return await self._answer_recording(request, grant, on_new_message, place)
            except ProtocolError as error:
                hang_up_behind(request)
                return _refusal(error, RECORDING)

        @voice.on_request
        async def take_token(request: Request) -> None:
            """Where it is offered as a subprotocol, before the WebSocket's library reads that, and logs what it cannot read."""
            offered = ",".join(request.headers.popall("sec-websocket-protocol", []))
            request.ctx.token = token_in_subprotocols(offered)
            if request.ctx.token is not None:  # others are not ours, and a misspelt one may hold a token
                request.headers["sec-websocket-protocol"] = BEARER

        # As `websocket`, which would wait for a body.
        @voice.route("/websocket", websocket=True, ignore_body=True, subprotocols=[BEARER])
        async def call(request: Request, websocket: Any) -> None:
            await _Call(self, request, websocket, on_new_message).run()

        self.operate(voice)
        return voice

    def refuse_figures(self, request: Request) -> Optional[HTTPResponse]:
        """See parent class: they are for operators, where callers have to show who they are."""
        try:
            grant = self.settings.grant(token_in_header(request.headers.get("authorization", "")))
            if self.settings.is_guarded and not grant.is_operator:
                raise ProtocolError("forbidden", "The figures are for the auth_token, and for tokens of the role admin.", 4403)
        except ProtocolError as error:
            return _refusal(error, self.name())
        return None

    async def stop(self) -> None:
        """See parent class."""
        self._decoder.shutdown(wait=False, cancel_futures=True)
        await super().stop()

    async def _answer_recording(
        self, request: Request, grant: Grant, on_new_message: OnNewMessage, place: ExitStack
    ) -> HTTPResponse:
        # curl calls any body a form: only what names its boundary is one.
        content_type = request.headers.get("content-type", "")
        is_form = content_type.lower().startswith("multipart/form-data")
        most = self.settings.max_upload_bytes
        body, sender = await read_body(request, most + FORM_BYTES if is_form else most), request.args.get("sender")
        said = request.get_query_args(keep_blank_values=True)
        if is_form:
            fields = form_of(body, content_type)
            form = dict(reversed(fields))  # of one name, the first
            body = form.get("audio", b"")
            sender = sender or form.get("sender", b"").decode(errors="replace")
            said = [*said, *((name, value.decode(errors="replace")) for name, value in fields)]
            if len(body) > most:
                raise ProtocolError("too_large", f"{len(body)} bytes: at most {most} are taken.", 4413)
        if not body:
            raise ProtocolError("no_audio", "Send a WAV, FLAC or Ogg recording as the body, or as multipart field 'audio'.")
        if sender and not is_name(sender):
            raise ProtocolError("bad_sender", f"sender takes at most {MAX_SENDER} characters that can be printed.")
        sender = grant.conversation(sender or None) or uuid.uuid4().hex
        try:
            samples = await self._decode(body, place)
        except AudioError as error:
            raise ProtocolError("bad_audio", str(error)) from None
        answers = _Recording(self.settings, request.app, on_new_message, self.name(), RECORDING, self.recorder)
        answers.sender, answers.may_record = sender, said_yes(said)
        with in_call(answers.log):
            await self._hear_out(samples, answers)
        if answers.refused is not None:
            raise answers.refused
        return json_response(answers.messages)

    async def _decode(self, body: bytes, place: ExitStack) -> np.ndarray:
        """The samples of a recording. Nothing stops a thread, so that of a sender who leaves meanwhile keeps the place."""
        decoding = self._decoder.submit(read_audio, io.BytesIO(body), self.settings.max_upload_ms / 1000, "The recording")
        decoded = asyncio.wrap_future(decoding)
        try:
            return await asyncio.shield(decoded)
        except asyncio.CancelledError:
            if not decoding.cancel():
                kept = place.pop_all()

                def give_back(_: "asyncio.Future[np.ndarray]") -> None:
                    decoded.exception()  # of which nobody is told
                    kept.close()

                decoded.add_done_callback(give_back)
            raise

    async def _hear_out(self, samples: np.ndarray, answers: "_Recording") -> None:
        session = SpokenSession(replace(self.settings, silence_timeout_ms=0), answers, answers, self.workers)
        try:
            for start in range(0, len(samples), SAMPLE_RATE):
                await session.hear(samples[start : start + SAMPLE_RATE])
                await asyncio.sleep(0)  # other calls go on meanwhile
                if answers.refused is not None:
                    break
            await session.finish()
        except BaseException:  # the caller's leaving (CancelledError) included
            self.close_soon(session)
            raise


def _refusal(error: ProtocolError, counted_as: str) -> HTTPResponse:
    """As HTTP says it, whose status codes are the last digits of our close codes."""
    metrics.refused(counted_as, error.code)
    status = error.close_code - 4000
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return json_response({"error": {"code": error.code, "message": str(error)}}, status=status, headers=headers)


class _Recording(SpokenCall):
    """An uploaded recording: collects the bot's messages of all its turns.

    Attributes:
        refused: Why the rest of it is not heard.
    """

    def __init__(self, settings: VoiceSettings, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.messages: List[Dict[str, Any]] = []
        self.refused: Optional[ProtocolError] = None
        self._most_turns = settings.max_turns_per_minute
        self._turns = Allowance(self._most_turns / 60, self._most_turns)

    async def converse(self, turn: Turn) -> None:
        if self.refused is not None or not self._turns.spend(1):
            turn.failed = True
            self.refused = ProtocolError("too_many_turns", f"More than {self._most_turns} turns a minute.", 4429)
            return
        output = CollectingOutputChannel()
        spoken = turn.spoken()
        metadata = {**self.metadata, "turn": turn.number, "spoken": spoken}
        message = UserMessage(turn.text, output, self.sender, input_channel=self.channel, metadata=metadata)
        failed = await self.give(turn, message)
        messages = output.messages
        if failed and not messages:
            raise ActionError(f"{', '.join(failed)} failed, and the bot said nothing.")
        if not messages or not isinstance(messages[0].get("custom", {}), dict):
            messages = [{"recipient_id": self.sender}, *messages]
        messages[0]["custom"] = {**messages[0].get("custom", {}), "spoken": spoken}
        self.messages += messages

    async def notify(self, happening: Happening) -> None:
        if isinstance(happening, TurnFailed):
            custom = {"spoken": happening.turn.spoken(), "error": happening.message}
            self.messages.append({"recipient_id": self.sender, "custom": custom})


class _Call(ConnectionCall):
    """One WebSocket connection: the wire format around one session."""

    def __init__(self, channel: "VoiceInput", request: Request, websocket: Any, on_new_message: OnNewMessage) -> None:
        super().__init__(channel, request, websocket, on_new_message)
        self._access: AccessSettings = channel.settings
        self._corrects = channel.settings.correct
        self._grant: Optional[Grant] = None  # until it is known who calls
        self._handshake: Optional[Handshake] = None
        self._ended: Optional[Turn] = None  # the turn whose end was told last
        self._final = ""  # the mark whose coming back tells that all was played

    def admit(self) -> None:
        """Refuses pages that may not, and tokens in headers that are not valid."""
        headers = self._request.headers
        self._access.check_origin(headers.get("origin"), headers.get("host"))
        token = token_in_header(headers.get("authorization", ""))
        if token is None:
            token = self._request.ctx.token
        if token is not None or not self._access.is_guarded:
            self._grant = self._access.grant(token)

    async def introduce(self) -> None:
        """Has the handshake show who calls, where no header did."""
        if self._grant is None:
            within_ms = self._access.auth_timeout_ms
            first = parse(await self._first_message(within_ms, unauthorized(f"No token came within {within_ms} ms.")))
            self._grant = self._access.grant(first.token if isinstance(first, Handshake) else None)

    async def take(self, message: Union[str, bytes]) -> None:
        parsed = parse(message)
        if isinstance(parsed, Handshake):
            await self._start(parsed)
        elif self._handshake is None:
            await self._start(Handshake())
        if isinstance(parsed, Audio):
            await self._hear(parsed.samples)
        elif isinstance(parsed, Commit) or (isinstance(parsed, Speech) and not parsed.started):
            await self.session.commit()
        elif isinstance(parsed, Speech):
            self.session.hold()
        elif isinstance(parsed, Typed):
            await self.session.type(parsed.text)
        elif isinstance(parsed, Pressed):
            await self.session.dtmf(parsed.keys)
        elif isinstance(parsed, Marker) and parsed.id == self._final:
            await self.session.played(parsed.id)

    async def _start(self, handshake: Handshake) -> None:
        if self._handshake is not None:
            raise ProtocolError("late_handshake", "sample_rate, language, sender and token are said once, before anything else.")
        self._handshake = handshake
        self._tune(handshake.sample_rate)
        assert self._grant is not None, "no message is taken of somebody who was not let in"
        sender = self._grant.conversation(handshake.sender)
        self.sender = sender or self.id
        self.may_record = handshake.record
        self.metadata["language"] = handshake.language
        if self._settings.initial_message and not (sender and await self.is_known(sender)):
            await self.session.type(self._settings.initial_message)

    async def refuse(self, error: ProtocolError) -> None:
        await self._send({"error": {"code": error.code, "message": str(error)}})
        await super().refuse(error)

    # ------------------------------------------------ what the session tells and wants

    async def send_audio(self, samples: np.ndarray) -> None:
        await self._send({"audio": base64.b64encode(float_to_pcm16(samples)).decode()})

    async def clear(self) -> None:
        await super().clear()
        await self._send({"interruptPlayback": True})

    async def send_message(self, message: Dict[str, Any]) -> None:
        await self._send(message)

    async def send_mark(self) -> Optional[str]:
        # Clients echo these at once, whatever they still have to play: only the final one's echo says something.
        await self._play_rest()
        await self._send({"marker": uuid.uuid4().hex})
        return None

    async def notify(self, happening: Happening) -> None:
        event = _trace_event(happening)
        if event is not None:
            await self._send(event)

    async def turn_ended(self, turn: Turn) -> Optional[str]:
        await self._play_rest()
        if turn is not self._ended:  # else its end is told again, behind speech that was broken off by mistake
            self._ended, self._final = turn, uuid.uuid4().hex
        recorded = self._corrects and self.may_record and turn.recognition is not None
        recording = {"recording": {"call": self.id, "turn": turn.number}} if recorded else {}
        told = {"marker": self._final, "final": True, "latency": turn.latency(), "turn": turn.record(), **recording}
        await self._send(told)
        return self._final

    async def hang_up(self) -> None:
        await self._send({"hangup": True})
        await super().hang_up()


def _trace_event(happening: Happening) -> Optional[Dict[str, Any]]:
    """How the client is told; positions in milliseconds of its own audio."""
    if isinstance(happening, SpeechStarted):
        return {"trace_event": "user_speaking_start", "at_ms": milliseconds(happening.at_sample)}
    if isinstance(happening, SpeechPaused):
        return {"trace_event": "user_pause", "at_ms": milliseconds(happening.at_sample)}
    if isinstance(happening, SpeechResumed):
        return {"trace_event": "user_resumed", "at_ms": milliseconds(happening.at_sample)}
    if isinstance(happening, Utterance):
        return {
            "trace_event": "user_speaking_end",
            "start_ms": milliseconds(happening.start_sample),
            "speech_end_ms": milliseconds(happening.speech_end_sample),
            "end_ms": milliseconds(happening.end_sample),
            "reason": happening.reason,
        }
    if isinstance(happening, HeardAhead):
        heard = happening.recognition
        complete = None if heard.complete is None else round(heard.complete, 4)
        return {
            "trace_event": "partial",
            "at_ms": milliseconds(happening.at_sample),
            "intent_ranking": _ranking(heard),
            "complete": complete,
        }
    if isinstance(happening, NotSpeech):
        return {"trace_event": "non_speech", "confidence": round(happening.recognition.non_speech, 4)}
    if isinstance(happening, Backchannel):
        heard = happening.recognition
        return {"trace_event": "ignored", "intent": heard.intent, "confidence": round(heard.confidence, 4)}
    if isinstance(happening, Silence):
        return {"trace_event": "silence", "count": happening.count}
    if isinstance(happening, TurnFailed):
        return {"error": {"code": "turn_failed", "message": happening.message}}
    if isinstance(happening, TurnStarted):
        return _turn_event(happening.turn)
    return None


def _turn_event(turn: Turn) -> Optional[Dict[str, Any]]:
    heard = turn.recognition
    if heard is None:
        return None if turn.utterance else {"trace_event": "typed", "text": turn.text}
    return {
        "trace_event": "transcript",
        "text": f"{heard.intent} ({heard.confidence:.2f})",
        "intent": heard.intent,
        "confidence": round(heard.confidence, 4),
        "intent_ranking": _ranking(heard),
        "asr_ms": round(turn.asr_latency_ms, 1),
    }


def _ranking(heard: Recognition) -> List[Dict[str, Any]]:
    return [{"name": name, "confidence": round(value, 4)} for name, value in heard.ranking]
