"""A caller of the voice channel: streams audio in real time and gathers what comes back. aiohttp only."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, AsyncIterator, Callable, Dict, List, Optional

import aiohttp
import numpy as np

from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16
from spoken_intents.errors import ProtocolError, SpokenIntentsError

CHUNK_SAMPLES = SAMPLE_RATE // 50  # 20 ms, as a telephone sends
DEFAULT_URL = "ws://127.0.0.1:5005/webhooks/voice/websocket"

Message = Dict[str, Any]


@dataclass
class Answer:
    """What came back for one spoken or typed turn.

    Attributes:
        heard: The transcript event (intent, confidence, intent_ranking); None for typed turns.
        messages: The bot's messages, in order.
        latency: The server's figures, in milliseconds.
        answered_after_ms: From the end of speech (or of typing) to the bot's first message, by our clock;
            None when the bot said nothing.
    """

    heard: Optional[Message] = None
    messages: List[Message] = field(default_factory=list)
    latency: Dict[str, float] = field(default_factory=dict)
    answered_after_ms: Optional[float] = None

    @property
    def texts(self) -> List[str]:
        """What the bot said."""
        return [message["response"] for message in self.messages if "response" in message]


class VoiceClient:
    """One call. Use as an async context manager.

    Args:
        url: Of the voice WebSocket.
        on_message: Called with every message of the server as it comes.
        sender: The conversation to go on with; a new one when left out.

    Raises:
        SpokenIntentsError: Nobody listens at `url`.
        ProtocolError: (from every method) the server refused something.
    """

    def __init__(
        self, url: str = DEFAULT_URL, on_message: Callable[[Message], None] = lambda message: None, sender: str = ""
    ) -> None:
        self._url = url
        self._on_message = on_message
        self._sender = sender
        self._inbox: "asyncio.Queue[Optional[Message]]" = asyncio.Queue()

    async def __aenter__(self) -> "VoiceClient":
        self._http = aiohttp.ClientSession()
        try:
            self._socket = await self._http.ws_connect(self._url, max_msg_size=2**20)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            await self._http.close()
            raise SpokenIntentsError(
                f"Nobody answers at {self._url} ({error}). Is `rasa run` up, with the voice channel?"
            ) from None
        handshake: Message = {"sample_rate": SAMPLE_RATE}
        if self._sender:
            handshake["sender"] = self._sender
        await self._socket.send_str(json.dumps(handshake))
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._socket.close()
        await self._reader
        await self._http.close()

    async def say(self, samples: np.ndarray, patience_s: float = 10.0) -> Optional[Answer]:
        """Streams an utterance (float32, 16 kHz) in real time, then silence, until it is answered.

        Returns:
            The answer, or None when the server dropped it as no speech, or nothing came for `patience_s` after its end.
        """
        speech_end = end_of_speech(samples)
        line = asyncio.create_task(self._stream(samples, speech_end, patience_s))
        try:
            answer, first_at = await self._answer(len(samples) / SAMPLE_RATE + patience_s)
        finally:
            line.cancel()
            try:
                await line
            except asyncio.CancelledError:
                pass
        if answer and first_at is not None:
            answer.answered_after_ms = (first_at - self._speech_ended_at) * 1000
        return answer

    async def type(self, text: str, patience_s: float = 10.0) -> Optional[Answer]:
        """Sends a typed turn, or a button's payload (begins with /), and waits for its answer."""
        began = time.perf_counter()
        await self._socket.send_str(json.dumps({"payload" if text.startswith("/") else "text": text}))
        answer, first_at = await self._answer(patience_s)
        if answer and first_at is not None:
            answer.answered_after_ms = (first_at - began) * 1000
        return answer

    async def send_audio(self, chunk: np.ndarray) -> None:
        """Sends samples (float32, 16 kHz) as they are, for a microphone."""
        await self._socket.send_bytes(float_to_pcm16(chunk))

    async def messages(self) -> AsyncIterator[Message]:
        """The server's messages until it hangs up."""
        while True:
            message = await self._inbox.get()
            if message is None:
                return
            yield message

    async def _stream(self, samples: np.ndarray, speech_end: int, patience_s: float) -> None:
        silence = np.zeros(int(patience_s * SAMPLE_RATE), dtype=np.float32)
        line = np.concatenate([samples, silence])
        began = time.perf_counter()
        self._speech_ended_at = began + speech_end / SAMPLE_RATE
        for start in range(0, len(line), CHUNK_SAMPLES):
            ahead = began + (start + CHUNK_SAMPLES) / SAMPLE_RATE - time.perf_counter()
            await asyncio.sleep(max(0.0, ahead))  # a chunk exists once its last sample was spoken
            await self.send_audio(line[start : start + CHUNK_SAMPLES])

    async def _answer(self, timeout_s: float) -> Any:
        """(Answer or None, when its first message came)."""
        answer, first_at = Answer(), None
        deadline = time.perf_counter() + timeout_s
        while True:
            try:
                message = await asyncio.wait_for(self._inbox.get(), deadline - time.perf_counter())
            except asyncio.TimeoutError:
                return None, None
            if message is None:
                raise ProtocolError("closed", "The server hung up.")
            if "error" in message:
                raise ProtocolError(message["error"].get("code", ""), message["error"].get("message", ""))
            event = message.get("trace_event")
            if event == "transcript":
                answer.heard = message
            elif event == "non_speech":
                return None, None
            elif message.get("final"):
                answer.latency = message.get("latency", {})
                return answer, first_at
            elif event is None and "marker" not in message:
                first_at = first_at or time.perf_counter()
                answer.messages.append(message)

    async def _read(self) -> None:
        try:
            async for frame in self._socket:
                if frame.type is aiohttp.WSMsgType.TEXT:
                    message = json.loads(frame.data)
                    self._on_message(message)
                    self._inbox.put_nowait(message)
        finally:
            self._inbox.put_nowait(None)


def end_of_speech(samples: np.ndarray) -> int:
    """Where the last sound of a quiet recording ends, in samples: the last 10 ms within 30 dB of the loudest."""
    window = SAMPLE_RATE // 100
    count = len(samples) // window
    levels = np.sqrt(np.mean(samples[: count * window].reshape(count, window) ** 2, axis=1))
    return (
        int((np.flatnonzero(levels > levels.max() * 10 ** (-30 / 20))[-1] + 1) * window)
        if count and levels.max() > 0
        else len(samples)
    )
