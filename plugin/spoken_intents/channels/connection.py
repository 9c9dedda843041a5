"""One WebSocket that is a call: how fast it may send, how it is answered, how it ends. Sanic glue, no wire format."""

import asyncio
import json
import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Coroutine, Dict, Iterator, Optional, Union

import numpy as np
from sanic.exceptions import WebsocketClosed
from sanic.request import Request
from websockets.exceptions import ProtocolError as FrameError
from websockets.frames import Frame, Opcode

from spoken_intents import metrics
from spoken_intents.audio import SAMPLE_RATE, StreamingResampler
from spoken_intents.channels.inbox import Inbox
from spoken_intents.channels.protocol import Allowance
from spoken_intents.channels.spoken import NO_RECOGNIZER, OnNewMessage, SpokenCall, SpokenInput, recognizer_of, settle
from spoken_intents.config import require
from spoken_intents.errors import ProtocolError
from spoken_intents.logs import in_call
from spoken_intents.session import SessionSettings, SpokenSession
from spoken_intents.speech import SpeechSettings

logger = logging.getLogger(__name__)

SEND_TIMEOUT_MS = 10_000  # a client that reads nothing for so long is gone
FULL_BYTES = 65_536  # sent, but not taken by the client yet: from here on Sanic makes senders wait


@dataclass(frozen=True)
class ConnectionSettings(SessionSettings, SpeechSettings):
    """How a conversation goes, how the bot speaks, and what a connection may cost.

    Attributes:
        max_connections: Calls at the same time, of this channel and in this process; further ones are refused.
        idle_timeout_ms: A client that sends nothing for so long is disconnected.
        max_messages_per_second: Refuses floods; five seconds' worth may come at once.
        max_ahead_ms: How much more audio a client may send than time has passed.
    """

    max_connections: int = 200
    idle_timeout_ms: int = 60_000
    max_messages_per_second: int = 1000
    max_ahead_ms: int = 60_000

    def __post_init__(self) -> None:
        SessionSettings.__post_init__(self)
        SpeechSettings.__post_init__(self)
        for name in ("max_connections", "idle_timeout_ms", "max_messages_per_second", "max_ahead_ms"):
            require(getattr(self, name) > 0, f"{name} takes more than 0, got {getattr(self, name)}.")


class ConnectionInput(SpokenInput):
    """A channel whose calls are WebSockets."""

    def __init__(self, settings: ConnectionSettings) -> None:
        super().__init__(settings, settings)
        self.settings = settings
        self._taken = 0

    @property
    def calls(self) -> int:
        """Those that are open."""
        return self._taken

    @property
    def full(self) -> bool:
        """Whether as many calls are open as may be."""
        return self._taken >= self.settings.max_connections

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a call, for as long as it lasts.

        Raises:
            ProtocolError: All are taken.
        """
        if self.full:
            raise ProtocolError("too_many_calls", f"{self._taken} calls are open, and no more are taken. Try again later.", 4503)
        self._taken += 1
        try:
            with metrics.CALLS_OPEN.labels(self.name()).track_inprogress():
                yield
        finally:
            self._taken -= 1


class ConnectionCall(SpokenCall):
    """One WebSocket around one session. Channels say what the messages are: `admit`, `take`, `send_audio`, `refuse`."""

    def __init__(self, channel: ConnectionInput, request: Request, websocket: Any, on_new_message: OnNewMessage) -> None:
        super().__init__(request.app, on_new_message, channel.name())
        self._input = channel
        self._settings = channel.settings
        self._request = request
        self._websocket = websocket
        self._transport: Any = request.transport
        self._open = True
        self._began = time.monotonic()
        self._messages = Allowance(self._settings.max_messages_per_second, 5 * self._settings.max_messages_per_second)
        self._audio = Allowance(1.0, self._settings.max_ahead_ms / 1000)
        self._tune(SAMPLE_RATE)
        self._inbox = Inbox(websocket, request.transport, self._settings.idle_timeout_ms / 1000)
        self._take_frames()

    async def run(self) -> None:
        """Until the caller leaves, breaks the protocol, or falls silent for too long."""
        with in_call(self.log):
            logger.info("Connected.")
            try:
                await self._run()
            finally:
                logger.info("Disconnected, %d s later.", time.monotonic() - self._began)

    async def _run(self) -> None:
        session = None
        try:
            settle(self._request.app)
            self.admit()
            if recognizer_of(self._request.app) is None:
                raise ProtocolError("no_recognizer", NO_RECOGNIZER, 4503)
            with self._input.place():
                session = self.session = SpokenSession(self._settings, self, self, self._input.workers, self._input.speech)
                await self._inbox.take_early()
                while self._open:  # a client that takes nothing any more is gone, too
                    await self._receive()
        except ProtocolError as error:
            metrics.refused(self.counted_as, error.code)
            await self.refuse(error)
        except WebsocketClosed:
            pass
        finally:  # every way a connection ends, CancelledError included, comes by here
            self._open = False
            self._inbox.close()
            if session is not None:
                self._input.close_soon(session)

    # ------------------------------------------------ for the channel to say

    def admit(self) -> None:
        """Raises a `ProtocolError` for a connection that may not be."""

    async def take(self, message: Union[str, bytes]) -> None:
        """What to do with a message."""
        raise NotImplementedError

    async def send_audio(self, samples: np.ndarray) -> None:
        """Sends samples, never none, at the client's rate."""
        raise NotImplementedError

    async def refuse(self, error: ProtocolError) -> None:
        """Ends the call, as the client broke the protocol."""
        logger.info("Refused: %s (%s)", error, error.code)
        await self._close(error.close_code, error.code)

    # ------------------------------------------------ for the channel to use

    def _take_frames(self) -> None:
        """Messages go to the inbox. What Sanic takes on its own counts as messages, too: pings and pongs, and parts of messages,
        however small and many.

        It keeps its answer to every ping, however many wait already for a client that reads none of them.
        """
        connection = self._websocket.connection
        take = connection.recv_frame

        def take_within_bounds(frame: Frame) -> None:
            whole = frame.fin and frame.opcode in (Opcode.TEXT, Opcode.BINARY)  # which `_receive` counts
            if not whole and not self._messages.spend(1):
                self._cut_off("too_many_messages", f"more than {self._settings.max_messages_per_second} frames a second")
                raise FrameError("too many")  # else the rest of what has come would be parsed all the same
            if frame.opcode is not Opcode.PING or self._transport.get_write_buffer_size() < FULL_BYTES:
                take(frame)  # which raises where a frame has no place
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                connection.events.pop()
                self._inbox.put(frame)
            elif frame.opcode is Opcode.CLOSE:
                self._inbox.put(frame)

        connection.recv_frame = take_within_bounds

    def _tune(self, rate: int) -> None:
        """The client's sample rate is known."""
        self._rate = rate
        self._resampler = StreamingResampler(rate, SAMPLE_RATE)
        self._back = StreamingResampler(SAMPLE_RATE, rate)

    async def _hear(self, samples: np.ndarray) -> None:
        if not self._audio.spend(len(samples) / self._rate):
            raise ProtocolError("too_fast", f"More than {self._settings.max_ahead_ms} ms of audio ahead of time.", 4429)
        await self.session.hear(self._resampler.push(samples))

    async def _send(self, message: Dict[str, Any]) -> None:
        """Sends, or, when the client is gone, does nothing: an exception here would lose Rasa's turn."""
        if self._open:
            await self._in_time(self._websocket.send(json.dumps(message)))

    async def _close(self, code: int, reason: str, within_ms: Optional[int] = None) -> None:
        """Closes the connection, once; a client that does not answer that in time is gone: until then it has its place."""
        if self._open:
            self._open = False
            within_ms = SEND_TIMEOUT_MS if within_ms is None else within_ms
            asyncio.get_running_loop().call_later(within_ms / 1000, self._transport.abort)
            await self._in_time(self._websocket.close(code, reason))

    async def _in_time(self, sending: Coroutine[Any, Any, None]) -> None:
        """Has it done. When the client is gone Sanic raises this and that, CancelledError included, in whoever waits to send:
        it has to be told from the cancellation of our own caller, which alone goes on."""
        task = asyncio.ensure_future(sending)
        try:
            done, _ = await asyncio.wait({task}, timeout=SEND_TIMEOUT_MS / 1000)
        finally:
            task.cancel()  # unless it is done
        if not done:
            self._cut_off("reads_nothing", f"its client has read nothing for {SEND_TIMEOUT_MS} ms")
        elif task.cancelled() or task.exception() is not None:
            self._open = False

    def _cut_off(self, code: str, why: str) -> None:
        """Ends the connection without a word, once."""
        if self._open:
            self._open = False
            with in_call(self.log):  # who finds out may be Sanic, which reads for nobody in particular
                logger.warning("Cut off: %s (%s).", why, code)
            metrics.refused(self.counted_as, code)
            self._transport.abort()  # what there is to send would stay here for ever

    async def _play_rest(self) -> None:
        """What the resampler still holds of the audio before a mark."""
        rest = self._back.flush()
        self._forget_rest()
        if len(rest):
            await self.send_audio(rest)

    def _forget_rest(self) -> None:
        self._back = StreamingResampler(SAMPLE_RATE, self._rate)

    async def _receive(self) -> None:
        message = await self._inbox.get()
        if not self._open:
            return  # it came, or nothing came, behind our goodbye
        if message is None:
            raise ProtocolError("idle", f"Nothing came for {self._settings.idle_timeout_ms} ms.", 4408)
        if not self._messages.spend(1):
            raise ProtocolError(
                "too_many_messages", f"More than {self._settings.max_messages_per_second} messages a second.", 4429
            )
        await self.take(message)
        await asyncio.sleep(0)  # a client that sends without pause must not keep the loop to itself

    # ------------------------------------------------ what the session wants

    async def play(self, samples: np.ndarray) -> None:
        """See `speaking.Player`."""
        resampled = self._back.push(samples)
        if len(resampled):
            await self.send_audio(resampled)

    async def clear(self) -> None:
        """See `speaking.Player`."""
        self._forget_rest()

    async def hang_up(self) -> None:
        """See `session.Line`."""
        await self._close(1000, "hangup")
