"""The voice channel: Rasa's voice WebSocket, and recordings over HTTP. Sanic and Rasa glue only.

The wire format is Rasa's (documented with RasaHQ/lena-voicebot-ui), and ours where it has nothing: see
``docs/protocol.md``.
"""

import asyncio
import io
import json
import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Awaitable, Callable, Dict, List, Optional, Set, Tuple
from urllib.parse import urlsplit

from rasa.core.channels.channel import CollectingOutputChannel, InputChannel, OutputChannel, UserMessage
from sanic import Blueprint, Sanic
from sanic.exceptions import SanicException, WebsocketClosed
from sanic.request import Request
from sanic.response import HTTPResponse
from sanic.response import json as json_response

from spoken_intents import recognizer as recognizers
from spoken_intents.audio import SAMPLE_RATE, StreamingResampler, read_audio
from spoken_intents.channels.protocol import MAX_SENDER, Allowance, Audio, Commit, Handshake, Marker, Typed, parse
from spoken_intents.config import require, settings_from
from spoken_intents.errors import AudioError, ProtocolError
from spoken_intents.recognizer import Recognition, Recognizer
from spoken_intents.segmenter import Segmenter, SegmenterSettings
from spoken_intents.session import SpokenSession, Turn

logger = logging.getLogger(__name__)

OnNewMessage = Callable[[UserMessage], Awaitable[Any]]
SEND_TIMEOUT_MS = 10_000  # a client that reads nothing for so long is gone


@dataclass(frozen=True)
class VoiceSettings(SegmenterSettings):
    """What credentials.yml may say of the voice channel, beside the segmenter's settings.

    Attributes:
        allowed_origins: Web pages that may connect, such as ``https://bank.example``, beside those of this
            server itself; ``*`` for all. Clients other than browsers send no origin and may always connect.
        idle_timeout_ms: A client that sends nothing for so long is disconnected.
        max_messages_per_second: Refuses floods; browsers send up to 375.
        max_ahead_ms: How much more audio a client may send than time has passed.
        max_upload_ms: Longest recording taken over HTTP.
        max_upload_bytes: Largest.
    """

    allowed_origins: Tuple[str, ...] = ()
    idle_timeout_ms: int = 60_000
    max_messages_per_second: int = 1000
    max_ahead_ms: int = 60_000
    max_upload_ms: int = 300_000
    max_upload_bytes: int = 25 * 2**20

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("idle_timeout_ms", "max_messages_per_second", "max_ahead_ms", "max_upload_ms", "max_upload_bytes"):
            require(getattr(self, name) > 0, f"{name} takes more than 0, got {getattr(self, name)}.")


class VoiceInput(InputChannel):
    """People talk to the assistant: WebSocket ``/webhooks/voice/websocket``, recordings ``/webhooks/voice/webhook``."""

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
        self.settings = settings or VoiceSettings()
        Segmenter(self.settings)  # a detector that is not installed is told now, not to the first caller
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="recognizer")
        self._ending: Set["asyncio.Task[None]"] = set()  # sessions whose last turn is still with Rasa

    def blueprint(self, on_new_message: OnNewMessage) -> Blueprint:
        """The routes (see parent class)."""
        voice = Blueprint("spoken_intents_voice", __name__)

        @voice.get("/")
        async def health(request: Request) -> HTTPResponse:
            return json_response({"status": "ok", "recognizer": _recognizer_of(request.app) is not None})

        @voice.post("/webhook")
        async def recording(request: Request) -> HTTPResponse:
            return await self._answer_recording(request, on_new_message)

        @voice.websocket("/websocket")
        async def call(request: Request, websocket: Any) -> None:
            await _Call(self, request, websocket, on_new_message).run()

        @voice.listener("after_server_stop")
        async def stop(app: Sanic, loop: Any) -> None:
            await asyncio.gather(*self._ending, return_exceptions=True)
            self._workers.shutdown(wait=False)

        return voice

    def open_session(self, app: Sanic, converse: Callable[[Turn], Awaitable[None]], listener: Any) -> SpokenSession:
        """A session with a segmenter of its own. Whoever opens it must `finish` or `close` it."""
        segmenter = Segmenter(self.settings)
        return SpokenSession(segmenter, lambda: _recognizer_of(app), converse, listener, self._workers)

    def close_soon(self, session: SpokenSession) -> None:
        """Closes a session whose caller is gone, without making its handler wait."""
        task = asyncio.create_task(session.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _answer_recording(self, request: Request, on_new_message: OnNewMessage) -> HTTPResponse:
        if _recognizer_of(request.app) is None:
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
        answers = _Answers(sender)
        session = self.open_session(request.app, answers.converse_by(on_new_message, self.name()), answers)
        try:
            for start in range(0, len(samples), SAMPLE_RATE):
                await session.hear(samples[start : start + SAMPLE_RATE])
                await asyncio.sleep(0)  # other calls go on meanwhile
            await session.finish()
        except BaseException:  # the caller's leaving (CancelledError) included
            self.close_soon(session)
            raise
        return json_response(answers.messages)


NO_RECOGNIZER = (
    "The loaded Rasa model hears nothing: it has no trained SpokenIntentClassifier. Add it to the pipeline in "
    "config.yml, give it spoken examples, and run rasa train."
)


def _recognizer_of(app: Sanic) -> Optional[Recognizer]:
    agent = getattr(app.ctx, "agent", None)
    return recognizers.live(agent.model_id if agent else None)


def _refusal(status: int, code: str, message: str) -> HTTPResponse:
    return json_response({"error": {"code": code, "message": message}}, status=status)


class _Answers:
    """Listener of an uploaded recording: collects the bot's messages of all its turns."""

    def __init__(self, sender: str) -> None:
        self.sender = sender
        self.messages: List[Dict[str, Any]] = []

    def converse_by(self, on_new_message: OnNewMessage, channel: str) -> Callable[[Turn], Awaitable[None]]:
        async def converse(turn: Turn) -> None:
            output = CollectingOutputChannel()
            spoken = turn.spoken()
            await on_new_message(UserMessage(turn.text, output, self.sender, input_channel=channel, metadata={"spoken": spoken}))
            messages = output.messages
            if not messages or not isinstance(messages[0].get("custom", {}), dict):
                messages = [{"recipient_id": self.sender}, *messages]
            messages[0]["custom"] = {**messages[0].get("custom", {}), "spoken": spoken}
            self.messages += messages

        return converse

    async def speech_started(self) -> None:
        pass

    async def non_speech(self, recognition: Recognition) -> None:
        pass

    async def turn_started(self, turn: Turn) -> None:
        pass

    async def turn_ended(self, turn: Turn) -> None:
        pass

    async def turn_failed(self, turn: Turn, message: str) -> None:
        self.messages.append({"recipient_id": self.sender, "custom": {"spoken": turn.spoken(), "error": message}})


class _Call:
    """One WebSocket connection: the wire format around one session."""

    def __init__(self, channel: VoiceInput, request: Request, websocket: Any, on_new_message: OnNewMessage) -> None:
        self._channel = channel
        self._settings = channel.settings
        self._request = request
        self._websocket = websocket
        self._on_new_message = on_new_message
        self._id = uuid.uuid4().hex
        self._handshake: Optional[Handshake] = None
        self._resampler: Optional[StreamingResampler] = None
        self._output = VoiceOutput(self._send)
        self._open = True
        self._messages = Allowance(self._settings.max_messages_per_second, 5 * self._settings.max_messages_per_second)
        self._audio = Allowance(1.0, self._settings.max_ahead_ms / 1000)

    async def run(self) -> None:
        """Until the client leaves, breaks the protocol, or falls silent for too long."""
        session = None
        try:
            self._check_origin()
            if _recognizer_of(self._request.app) is None:
                raise ProtocolError("no_recognizer", NO_RECOGNIZER, 4503)
            session = self._channel.open_session(self._request.app, self._converse, self)
            while self._open:  # a client that takes nothing any more is gone, too
                await self._receive(session)
        except ProtocolError as error:
            await self._refuse(error)
        except WebsocketClosed:
            pass
        finally:  # every way a connection ends, CancelledError included, comes by here
            self._open = False
            if session is not None:
                self._channel.close_soon(session)

    def _check_origin(self) -> None:
        """Browsers let any page open a WebSocket: who may is for the server to say."""
        origin = self._request.headers.get("origin")
        allowed = self._settings.allowed_origins
        if origin is None or origin in allowed or "*" in allowed:
            return
        try:
            own = urlsplit(origin).netloc == self._request.headers.get("host")
        except ValueError:
            own = False
        if not own:
            raise ProtocolError("bad_origin", f"Pages of {origin[:200]} may not connect; see the setting allowed_origins.", 4403)

    async def _receive(self, session: SpokenSession) -> None:
        message = await self._websocket.recv(self._settings.idle_timeout_ms / 1000)
        if message is None:
            raise ProtocolError("idle", f"Nothing came for {self._settings.idle_timeout_ms} ms.", 4408)
        if not self._messages.spend(1):
            raise ProtocolError(
                "too_many_messages", f"More than {self._settings.max_messages_per_second} messages a second.", 4429
            )
        parsed = parse(message)
        if isinstance(parsed, Handshake):
            self._start(parsed)
        elif isinstance(parsed, Audio):
            if self._resampler is None:
                self._start(Handshake())
            await self._hear(parsed, session)
        elif isinstance(parsed, Commit):
            await session.commit()
        elif isinstance(parsed, Typed):
            await session.type(parsed.text)
        elif isinstance(parsed, Marker):
            pass  # nothing is played yet whose end would matter
        await asyncio.sleep(0)  # a client that sends without pause must not keep the loop to itself

    def _start(self, handshake: Handshake) -> None:
        if self._handshake is not None:
            raise ProtocolError("late_handshake", "sample_rate, language and sender are said once, before any audio.")
        self._handshake = handshake
        self._resampler = StreamingResampler(handshake.sample_rate, SAMPLE_RATE)

    async def _hear(self, audio: Audio, session: SpokenSession) -> None:
        assert self._handshake is not None and self._resampler is not None
        if not self._audio.spend(len(audio.samples) / self._handshake.sample_rate):
            raise ProtocolError("too_fast", f"More than {self._settings.max_ahead_ms} ms of audio ahead of time.", 4429)
        await session.hear(self._resampler.push(audio.samples))

    async def _converse(self, turn: Turn) -> None:
        handshake = self._handshake or Handshake()
        metadata: Dict[str, Any] = {"call_id": self._id, "language": handshake.language, "spoken": turn.spoken()}
        self._output.first_sent_at = None
        message = UserMessage(
            turn.text, self._output, handshake.sender or self._id, input_channel=self._channel.name(), metadata=metadata
        )
        await self._on_new_message(message)
        if self._output.first_sent_at is not None:
            turn.first_response_latency_ms = (self._output.first_sent_at - turn.ended_at) * 1000

    async def _send(self, message: Dict[str, Any]) -> None:
        """Sends, or, when the client is gone, does nothing: an exception here would lose Rasa's turn."""
        if not self._open:
            return
        try:
            await asyncio.wait_for(self._websocket.send(json.dumps(message)), SEND_TIMEOUT_MS / 1000)
        except (WebsocketClosed, asyncio.TimeoutError, ConnectionError, SanicException):
            self._open = False

    async def _refuse(self, error: ProtocolError) -> None:
        logger.info("Call %s refused: %s (%s)", self._id, error.code, error)
        await self._send({"error": {"code": error.code, "message": str(error)}})
        if self._open:
            await self._websocket.close(error.close_code, error.code)

    # ------------------------------------------------ what the session tells

    async def speech_started(self) -> None:
        await self._send({"trace_event": "user_speaking_start"})

    async def non_speech(self, recognition: Recognition) -> None:
        await self._send({"trace_event": "non_speech", "confidence": round(recognition.non_speech, 4)})

    async def turn_started(self, turn: Turn) -> None:
        if turn.recognition is None:
            return
        heard = turn.recognition
        await self._send(
            {
                "trace_event": "transcript",
                "text": f"{heard.intent} ({heard.confidence:.2f})",
                "intent": heard.intent,
                "confidence": round(heard.confidence, 4),
                "intent_ranking": [{"name": name, "confidence": round(value, 4)} for name, value in heard.ranking],
                "asr_ms": round(turn.asr_latency_ms, 1),
            }
        )

    async def turn_ended(self, turn: Turn) -> None:
        await self._send({"marker": uuid.uuid4().hex, "final": True, "latency": turn.latency()})

    async def turn_failed(self, turn: Turn, message: str) -> None:
        await self._send({"error": {"code": "turn_failed", "message": message}})
        await self.turn_ended(turn)


class VoiceOutput(OutputChannel):
    """The bot's messages on the voice WebSocket."""

    @classmethod
    def name(cls) -> str:
        """As `VoiceInput.name`."""
        return "voice"

    def __init__(self, send: Callable[[Dict[str, Any]], Awaitable[None]]) -> None:
        self._send = send
        self.first_sent_at: Optional[float] = None  # of the present turn; time.perf_counter

    async def _say(self, message: Dict[str, Any]) -> None:
        if self.first_sent_at is None:
            self.first_sent_at = time.perf_counter()
        await self._send(message)
        await self._send({"marker": uuid.uuid4().hex})

    async def send_text_message(self, recipient_id: str, text: str, **kwargs: Any) -> None:
        """Text as one response."""
        await self._say({"response": text})

    async def send_text_with_buttons(self, recipient_id: str, text: str, buttons: List[Dict[str, Any]], **kwargs: Any) -> None:
        """Text, and buttons whose payload the client sends back."""
        await self._say({"response": text, "buttons": buttons})

    async def send_image_url(self, recipient_id: str, image: str, **kwargs: Any) -> None:
        """A picture's address."""
        await self._say({"image": image})

    async def send_attachment(self, recipient_id: str, attachment: str, **kwargs: Any) -> None:
        """An attachment, as a custom message."""
        await self._say({"custom": {"attachment": attachment}})

    async def send_custom_json(self, recipient_id: str, json_message: Dict[str, Any], **kwargs: Any) -> None:
        """Whatever the assistant's author put there."""
        await self._say({"custom": json_message})
