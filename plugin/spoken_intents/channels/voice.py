"""The voice channel: Rasa's voice WebSocket, and recordings over HTTP. Sanic and Rasa glue only.

The wire format is Rasa's (documented with RasaHQ/lena-voicebot-ui), and ours where it has nothing: see
``docs/protocol.md``.
"""

import asyncio
import base64
import io
import uuid
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Optional, Tuple, Union
from urllib.parse import urlsplit

import numpy as np
from rasa.core.channels.channel import CollectingOutputChannel, UserMessage
from sanic import Blueprint, Sanic
from sanic.request import Request
from sanic.response import HTTPResponse
from sanic.response import json as json_response

from spoken_intents import metrics
from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16, read_audio
from spoken_intents.channels.connection import ConnectionCall, ConnectionInput, ConnectionSettings
from spoken_intents.channels.page import add_page
from spoken_intents.channels.protocol import (
    MAX_SENDER,
    Audio,
    Commit,
    Handshake,
    Marker,
    Pressed,
    Speech,
    Typed,
    parse,
)
from spoken_intents.channels.spoken import NO_RECOGNIZER, OnNewMessage, SpokenCall, recognizer_of, settle
from spoken_intents.config import require, settings_from
from spoken_intents.errors import AudioError, ProtocolError
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

RECORDING = "recording"  # in metrics: a recording comes faster than time passes, so its latencies are not a call's


@dataclass(frozen=True)
class VoiceSettings(ConnectionSettings):
    """What credentials.yml may say of the voice channel, beside what it may say of every channel of speech.

    Attributes:
        allowed_origins: Web pages that may connect, such as ``https://bank.example``, beside those of this
            server itself; ``*`` for all. Clients other than browsers send no origin and may always connect.
        max_messages_per_second: Browsers send up to 375.
        max_uploads: Recordings over HTTP that are answered at the same time, in this process; further ones are refused.
        max_upload_ms: Longest recording taken over HTTP.
        max_upload_bytes: Largest.
    """

    silence_timeout_ms: int = 30_000  # people read on a screen, too
    allowed_origins: Tuple[str, ...] = ()
    max_uploads: int = 8
    max_upload_ms: int = 300_000
    max_upload_bytes: int = 25 * 2**20

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_uploads", "max_upload_ms", "max_upload_bytes"):
            require(getattr(self, name) > 0, f"{name} takes more than 0, got {getattr(self, name)}.")


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
        self._uploads = asyncio.Semaphore(self.settings.max_uploads)  # nobody waits for it

    def blueprint(self, on_new_message: OnNewMessage) -> Blueprint:
        """The routes (see parent class)."""
        voice = Blueprint("spoken_intents_voice", __name__)
        add_page(voice)

        @voice.get("/status")
        async def status(request: Request) -> HTTPResponse:
            speech = self.speech.name if self.speech else "browser" if self.settings.speech == "browser" else "none"
            hears = recognizer_of(request.app) is not None
            return json_response({"recognizer": hears, "speech": speech})

        @voice.post("/webhook")
        async def recording(request: Request) -> HTTPResponse:
            settle(request.app)
            if self._uploads.locked():
                many = f"{self.settings.max_uploads} recordings are being answered, and no more are taken. Try again later."
                return _refusal(503, "too_many_uploads", many)
            async with self._uploads:
                return await self._answer_recording(request, on_new_message)

        @voice.websocket("/websocket")
        async def call(request: Request, websocket: Any) -> None:
            await _Call(self, request, websocket, on_new_message).run()

        self.operate(voice)
        return voice

    async def _answer_recording(self, request: Request, on_new_message: OnNewMessage) -> HTTPResponse:
        if recognizer_of(request.app) is None:
            return _refusal(503, "no_recognizer", NO_RECOGNIZER)
        # Only then: curl calls any body a form, and Sanic would try to read audio as one.
        is_form = request.headers.get("content-type", "").startswith("multipart/form-data")
        upload = request.files.get("audio") if is_form else None
        body = upload.body if upload else b"" if is_form else request.body
        if len(body) > self.settings.max_upload_bytes:
            return _refusal(413, "too_large", f"{len(body)} bytes: at most {self.settings.max_upload_bytes} are taken.")
        if not body:
            return _refusal(400, "no_audio", "Send a WAV, FLAC or Ogg recording as the body, or as multipart field 'audio'.")
        try:
            samples = await asyncio.get_running_loop().run_in_executor(
                None, read_audio, io.BytesIO(body), self.settings.max_upload_ms / 1000, "The recording"
            )
        except AudioError as error:
            return _refusal(400, "bad_audio", str(error))
        sender = request.args.get("sender") or (request.form.get("sender") if is_form else None) or uuid.uuid4().hex
        if len(sender) > MAX_SENDER:
            return _refusal(400, "bad_sender", f"sender takes at most {MAX_SENDER} characters.")
        answers = _Recording(request.app, on_new_message, self.name(), RECORDING)
        answers.sender = sender
        with in_call(answers.log):
            await self._hear_out(samples, answers)
        return json_response(answers.messages)

    async def _hear_out(self, samples: np.ndarray, answers: "_Recording") -> None:
        session = SpokenSession(replace(self.settings, silence_timeout_ms=0), answers, answers, self.workers)
        try:
            for start in range(0, len(samples), SAMPLE_RATE):
                await session.hear(samples[start : start + SAMPLE_RATE])
                await asyncio.sleep(0)  # other calls go on meanwhile
            await session.finish()
        except BaseException:  # the caller's leaving (CancelledError) included
            self.close_soon(session)
            raise


def _refusal(status: int, code: str, message: str) -> HTTPResponse:
    metrics.refused(RECORDING, code)
    return json_response({"error": {"code": code, "message": message}}, status=status)


class _Recording(SpokenCall):
    """An uploaded recording: collects the bot's messages of all its turns."""

    def __init__(self, app: Sanic, on_new_message: OnNewMessage, channel: str, counted_as: str) -> None:
        super().__init__(app, on_new_message, channel, counted_as)
        self.messages: List[Dict[str, Any]] = []

    async def converse(self, turn: Turn) -> None:
        output = CollectingOutputChannel()
        spoken = turn.spoken()
        metadata = {**self.metadata, "turn": turn.number, "spoken": spoken}
        message = UserMessage(turn.text, output, self.sender, input_channel=self.channel, metadata=metadata)
        await self._on_new_message(message)
        messages = output.messages
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
        self._allowed_origins = channel.settings.allowed_origins
        self._handshake: Optional[Handshake] = None
        self._ended: Optional[Turn] = None  # the turn whose end was told last
        self._final = ""  # the mark whose coming back tells that all was played

    def admit(self) -> None:
        """Browsers let any page open a WebSocket: who may is for the server to say."""
        origin = self._request.headers.get("origin")
        if origin is None or origin in self._allowed_origins or "*" in self._allowed_origins:
            return
        try:
            own = urlsplit(origin).netloc == self._request.headers.get("host")
        except ValueError:
            own = False
        if not own:
            raise ProtocolError("bad_origin", f"Pages of {origin[:200]} may not connect; see the setting allowed_origins.", 4403)

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
            raise ProtocolError("late_handshake", "sample_rate, language and sender are said once, before anything else.")
        self._handshake = handshake
        self._tune(handshake.sample_rate)
        self.sender = handshake.sender or self.id
        self.metadata["language"] = handshake.language
        if self._settings.initial_message and not (handshake.sender and await self.is_known(handshake.sender)):
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
        await self._send({"marker": self._final, "final": True, "latency": turn.latency(), "turn": turn.record()})
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
