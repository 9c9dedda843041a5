"""A caller of the voice channel: streams audio in real time and gathers what comes back. aiohttp only."""

import asyncio
import base64
import itertools
import json
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, AsyncIterator, Callable, Dict, Iterator, List, Optional, Protocol

import aiohttp
import numpy as np

from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16, pcm16_to_float
from spoken_intents.errors import ProtocolError, SpokenIntentsError

PACKET_SAMPLES = SAMPLE_RATE // 50  # 20 ms, as a telephone sends
DEFAULT_URL = "ws://127.0.0.1:5005/webhooks/voice/websocket"
SETTLE_S = 2.0  # after a recording: a server that has reported no more speech by then heard none
GONE = (1001, 1012)  # close codes of a server that ends
TOKEN = "SPOKEN_INTENTS_TOKEN"  # the variable that the commands read it from
ADVICE = {
    "unauthorized": f" Name a valid one in the variable {TOKEN} (or as --token, or VoiceClient's token).",
    "forbidden_sender": " Leave sender out, or name a token of its own.",
}
INBOX_MESSAGES = 1000  # kept for `VoiceClient.messages`; on_message gets all

Message = Dict[str, Any]


@dataclass
class Answer:
    """What came back for one spoken or typed turn.

    Attributes:
        heard: The transcript event (intent, confidence, intent_ranking); None for typed turns.
        messages: The bot's messages, in order.
        speech: What the bot said as samples (float32, 16 kHz); none where it does not speak.
        latency: The server's figures, in milliseconds.
        answered_after_ms: From the end of speech (or of typing) to the bot's first message, by our clock;
            None when the bot said nothing, and in a recording of several turns.
        error: Why the server could not answer this turn; None when it could.
    """

    heard: Optional[Message] = None
    messages: List[Message] = field(default_factory=list)
    speech: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    latency: Dict[str, float] = field(default_factory=dict)
    answered_after_ms: Optional[float] = None
    error: Optional[ProtocolError] = None

    @property
    def texts(self) -> List[str]:
        """What the bot said."""
        return [message["response"] for message in self.messages if "response" in message]


class Output(Protocol):
    """Where the bot is heard: `microphone.Loudspeaker`."""

    def play(self, samples: np.ndarray) -> None: ...
    def then(self, played: Callable[[], None]) -> None: ...
    def clear(self) -> None: ...


class VoiceClient:
    """One call. Use as an async context manager; one method at a time, but for `send_audio` beside `messages`.

    A server that ends, or dies, takes the connection along, and not the conversation: `is_lost` tells, `dial_again` goes on.

    Args:
        url: Of the voice WebSocket.
        on_message: Called with every message of the server as it comes.
        sender: The conversation to go on with; a new one when left out. With a token that is not for one conversation
            alone, name one, or `dial_again` begins anew.
        output: What plays the bot's speech; None: the server is told at once that it was played.
        token: Shows who calls, to a server that takes calls with a token only.

    Raises:
        SpokenIntentsError: Nobody listens at `url`.
        ProtocolError: (from every method) the server refused something, or hung up.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        on_message: Callable[[Message], None] = lambda message: None,
        sender: str = "",
        output: Optional[Output] = None,
        token: str = "",
    ) -> None:
        self._url = url
        self._token = token
        self._output = output
        self._on_message = on_message
        self._sender = sender or ("" if token else uuid.uuid4().hex)

    async def __aenter__(self) -> "VoiceClient":
        self._http = aiohttp.ClientSession(headers=showing(self._token))
        try:
            await self._connect()
        except BaseException:
            await self._http.close()
            raise
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._disconnect()
        await self._http.close()

    @property
    def is_lost(self) -> bool:
        """Whether the connection is over though nobody wanted the call to be: its server ends or died, or the network did."""
        return self._lost

    async def dial_again(self, within_s: float = 60.0) -> None:
        """Goes on with the conversation over a new connection, as soon as a server takes it.

        Raises:
            SpokenIntentsError: None has in that time.
        """
        await self._disconnect()
        deadline = time.perf_counter() + within_s
        for pause_s in itertools.chain((0.5, 1, 2), itertools.repeat(3)):
            try:
                return await self._connect()
            except SpokenIntentsError:
                if time.perf_counter() + pause_s > deadline:
                    raise
            await asyncio.sleep(pause_s)

    async def _connect(self) -> None:
        self._inbox: "asyncio.Queue[Optional[Message]]" = asyncio.Queue(INBOX_MESSAGES)
        self._refusal: Optional[ProtocolError] = None
        self._last_final = ""
        self._over = False  # the bot has ended the call, on purpose
        self._lost = False
        self._echoes: "set[asyncio.Future[None]]" = set()
        self._socket = await dial(self._http, self._url)
        self._reader = asyncio.create_task(self._read())
        try:
            handshake: Message = {"sample_rate": SAMPLE_RATE}
            if self._sender:
                handshake["sender"] = self._sender
            await self._send(json.dumps(handshake))
        except BaseException:
            await self._disconnect()
            raise

    async def _disconnect(self) -> None:
        await self._socket.close()
        await asyncio.gather(self._reader, *self._echoes)

    async def say(self, samples: np.ndarray, patience_s: float = 10.0) -> Optional[Answer]:
        """Streams one utterance (float32, 16 kHz) in real time, then silence, until it is answered.

        Returns:
            The answer to the first turn heard. None when the server took nothing for speech, or when it sent nothing
            for `patience_s` after the end of the samples.
        """
        began = time.perf_counter()
        answers = await self._say(samples, patience_s, began, began + end_of_speech(samples) / SAMPLE_RATE)
        return _first(answers)

    async def play(self, samples: np.ndarray, patience_s: float = 10.0) -> List[Answer]:
        """Streams a whole recording (float32, 16 kHz) in real time, then silence, until all its turns are answered.

        Returns:
            An answer for each turn, in order; one that failed has its `error`. Empty when nothing was taken for speech.
            What is still not answered when the server sent nothing for `patience_s` is left out.
        """
        return await self._say(samples, patience_s, time.perf_counter(), None)

    async def type(self, text: str, patience_s: float = 10.0) -> Optional[Answer]:
        """Sends a typed turn, or a button's payload (begins with /), and waits for its answer."""
        self._forget()
        began = time.perf_counter()
        await self._send(json.dumps({"payload" if text.startswith("/") else "text": text}))
        return _first(await self._gather(began, patience_s, began, pending=1))

    async def send_audio(self, samples: np.ndarray) -> None:
        """Sends samples (float32, 16 kHz) as they are, for a microphone."""
        await self._send(float_to_pcm16(samples))

    async def messages(self) -> AsyncIterator[Message]:
        """The server's messages until it hangs up, from the oldest of the last `INBOX_MESSAGES` not yet read.

        Raises:
            ProtocolError: The server refused something; else its hanging up is the end.
        """
        while True:
            try:
                message = await self._next()
            except ProtocolError:
                if self._refusal:
                    raise
                return
            yield message

    async def _say(self, samples: np.ndarray, patience_s: float, began: float, one_ends_at: Optional[float]) -> List[Answer]:
        self._forget()
        line = asyncio.create_task(self._stream(samples, began))
        try:
            return await self._gather(began + len(samples) / SAMPLE_RATE, patience_s, one_ends_at)
        finally:
            line.cancel()
            await asyncio.gather(line, return_exceptions=True)  # a line that broke: `_gather` has said so

    async def _stream(self, samples: np.ndarray, began: float) -> None:
        """Sends the samples, then silence until it is cancelled."""
        for start in itertools.count(0, PACKET_SAMPLES):
            ahead = began + (start + PACKET_SAMPLES) / SAMPLE_RATE - time.perf_counter()
            await asyncio.sleep(max(0.0, ahead))  # a packet exists once its last sample was spoken
            packet = samples[start : start + PACKET_SAMPLES]
            await self.send_audio(np.pad(packet, (0, PACKET_SAMPLES - len(packet))))

    async def _gather(self, over_at: float, patience_s: float, one_ends_at: Optional[float], pending: int = 0) -> List[Answer]:
        """The answers that come until nothing is pending any more.

        Args:
            over_at: When everything is said, by ``time.perf_counter``.
            one_ends_at: When the one turn that is wanted is said; None to wait for all there may be.
            pending: Turns sent so far that are not answered.
        """
        answers: List[Answer] = []
        answer, last_at = Answer(), over_at
        while True:
            if pending:
                deadline = max(over_at, last_at) + patience_s
            elif answers and one_ends_at is not None:
                deadline = one_ends_at
            else:
                deadline = max(over_at, last_at) + min(SETTLE_S, patience_s)
            try:
                message = await self._next(deadline)
            except asyncio.TimeoutError:
                return answers
            except ProtocolError:
                if (self._over or self._lost) and answers and not pending:  # the bot has said goodbye, or `is_lost` says so
                    return answers
                raise
            last_at = time.perf_counter()
            event = message.get("trace_event")
            if "error" in message:
                answer.error = _error_in(message)
                if answer.error.code != "turn_failed":  # which alone leaves the call open: its final marker follows
                    if self._lost and answers and not pending:
                        return answers
                    raise answer.error
            elif event == "user_speaking_start":
                pending += 1
            elif event == "transcript":
                answer.heard = message
            elif event in ("non_speech", "ignored"):
                pending = max(0, pending - 1)
            elif "audio" in message:
                answer.speech = np.concatenate([answer.speech, _samples_in(message)])
            elif message.get("final"):
                if message["marker"] == self._last_final:
                    continue  # told again, behind speech that was broken off by mistake
                self._last_final = message["marker"]
                pending = max(0, pending - 1)
                answer.latency = message.get("latency", {})
                answers.append(answer)
                answer = Answer()
            elif event is None and not {"marker", "interruptPlayback", "hangup"} & set(message):
                if not answer.messages and one_ends_at is not None and last_at >= one_ends_at:
                    answer.answered_after_ms = (last_at - one_ends_at) * 1000
                answer.messages.append(message)

    async def _send(self, message: "str | bytes") -> None:
        try:
            await (self._socket.send_bytes(message) if isinstance(message, bytes) else self._socket.send_str(message))
        except (ConnectionError, aiohttp.ClientError):
            await asyncio.wait({self._reader}, timeout=1)  # the server's reason may still be on its way
            raise self._hung_up() from None

    async def _next(self, deadline: Optional[float] = None) -> Message:
        """The next message; a TimeoutError when none has come by `deadline`, a ProtocolError when none can come."""
        if self._inbox.empty():
            timeout = None if deadline is None else deadline - time.perf_counter()
            message = await asyncio.wait_for(self._inbox.get(), timeout)
        else:
            message = self._inbox.get_nowait()
        if message is None:
            self._keep(None)  # whoever asks again is told again
            raise self._hung_up()
        return message

    async def _play_back(self, message: Message) -> None:
        output = self._output
        if "audio" in message and output is not None:
            output.play(_samples_in(message))
        elif message.get("interruptPlayback") and output is not None:
            output.clear()
        elif message.get("hangup"):
            self._over = True
        elif message.get("final"):
            if output is None:
                await self._echo(message["marker"])
            else:
                output.then(lambda: self._echo_soon(message["marker"]))

    async def _echo(self, marker: str) -> None:
        try:
            await self._socket.send_str(json.dumps({"marker": marker}))
        except (ConnectionError, aiohttp.ClientError):
            pass  # the reader is told so, too

    def _echo_soon(self, marker: str) -> None:
        task = asyncio.ensure_future(self._echo(marker))
        self._echoes.add(task)
        task.add_done_callback(self._echoes.discard)

    def _forget(self) -> None:
        """What came before a turn is no answer to it."""
        while not self._inbox.empty():
            self._inbox.get_nowait()
        if self._reader.done():
            self._keep(None)

    def _keep(self, message: Optional[Message]) -> None:
        if self._inbox.full():
            self._inbox.get_nowait()
        self._inbox.put_nowait(message)

    def _hung_up(self) -> ProtocolError:
        code = self._socket.close_code
        return self._refusal or ProtocolError("closed", f"The server hung up (WebSocket close code {code}).")

    async def _read(self) -> None:
        ends = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        try:
            while (received := await self._socket.receive()).type not in ends:
                if received.type is aiohttp.WSMsgType.TEXT:
                    message = parsed(received.data)
                    if "error" in message and _error_in(message).code != "turn_failed":
                        self._refusal = _error_in(message)
                        self._lost = self._refusal.code == "going_down"
                    self._on_message(message)
                    self._keep(message)
                    await self._play_back(message)
            told = received.type is aiohttp.WSMsgType.CLOSE
            self._lost = self._lost or not self._over and (not told or received.data in GONE)
        except ProtocolError as error:
            self._refusal = error
            await self._socket.close()
        finally:
            self._keep(None)


async def dial(http: aiohttp.ClientSession, url: str) -> aiohttp.ClientWebSocketResponse:
    """The open WebSocket of a call.

    Raises:
        SpokenIntentsError: Nobody listens at `url`.
    """
    with reaching(url):
        return await http.ws_connect(url, max_msg_size=2**20)


def showing(token: str) -> Dict[str, str]:
    """The headers of a request that shows a token; none without."""
    return {"Authorization": f"Bearer {token.strip()}"} if token.strip() else {}


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Says in one sentence why a request to `url` failed.

    Raises:
        SpokenIntentsError: Nobody listens there, or in time, or what answers is no voice channel.
    """
    try:
        yield
    except (aiohttp.ClientError, OSError, ValueError, asyncio.TimeoutError) as error:
        why = str(error) or "it takes too long"  # a time-out has no words
        raise SpokenIntentsError(f"Nobody answers at {url} ({why}). Is `rasa run` up, with the voice channel?") from None


def _first(answers: List[Answer]) -> Optional[Answer]:
    """The first answer, None without one; raises what made it fail."""
    if answers and answers[0].error:
        raise answers[0].error
    return answers[0] if answers else None


def parsed(text: str) -> Message:
    """A message of the server.

    Raises:
        ProtocolError: (``bad_json``) It is no JSON object.
    """
    try:
        message = json.loads(text)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise ProtocolError("bad_json", f"The server sent {text[:80]!r}, which is no JSON object. Is this a voice channel?")
    return message


def _samples_in(message: Message) -> np.ndarray:
    return pcm16_to_float(base64.b64decode(message["audio"]))


def _error_in(message: Message) -> ProtocolError:
    return error_of(message["error"])


def error_of(told: Message) -> ProtocolError:
    """What the server says it refused, and what to do about it where it is a token."""
    code = told.get("code", "")
    return ProtocolError(code, told.get("message", "") + ADVICE.get(code, ""))


def end_of_speech(samples: np.ndarray) -> int:
    """Where the last sound of a quiet recording ends, in samples: the last 10 ms within 30 dB of the loudest."""
    step = SAMPLE_RATE // 100
    count = len(samples) // step
    levels = np.sqrt(np.mean(samples[: count * step].reshape(count, step) ** 2, axis=1))
    return (
        int((np.flatnonzero(levels > levels.max() * 10 ** (-30 / 20))[-1] + 1) * step)
        if count and levels.max() > 0
        else len(samples)
    )
