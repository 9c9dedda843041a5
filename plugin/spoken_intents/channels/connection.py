"""One WebSocket that is a call: how fast it may send, how it is answered, how it ends. Sanic glue, no wire format."""

import asyncio
import json
import logging
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, AsyncIterator, Coroutine, Dict, Iterator, List, Optional, Set, Union

import numpy as np
from sanic.exceptions import WebsocketClosed
from sanic.request import Request
from websockets.exceptions import ProtocolError as FrameError
from websockets.frames import Frame, Opcode

from spoken_intents import metrics
from spoken_intents.audio import SAMPLE_RATE, StreamingResampler
from spoken_intents.channels.inbox import Inbox, Message
from spoken_intents.channels.places import Places
from spoken_intents.channels.protocol import Allowance
from spoken_intents.channels.spoken import GOING_DOWN, NO_RECOGNIZER, OnNewMessage, SpokenCall, SpokenInput, recognizer_of, settle
from spoken_intents.config import require
from spoken_intents.errors import ProtocolError
from spoken_intents.logs import in_call
from spoken_intents.recordings import RecordingSettings
from spoken_intents.session import SessionSettings, SpokenSession
from spoken_intents.speech import SpeechSettings
from spoken_intents.turns import Turn

logger = logging.getLogger(__name__)

SEND_TIMEOUT_MS = 10_000  # a client that reads nothing for so long is gone
LOOK_S = 0.05  # how often it is looked whether a call may end
FULL_BYTES = 65_536  # sent, but not taken by the client yet: from here on Sanic makes senders wait
BURST_S = 5  # of messages and of bytes that may come at once
PORTION_BYTES = 65_536  # charged at a time: of most messages, of which there are many, it is only a sum
STRANGER_BYTES = 8_192  # of the message in which a caller says who it is
LIMITS = (
    "max_connections",
    "idle_timeout_ms",
    "max_call_ms",
    "max_messages_per_second",
    "max_bytes_per_second",
    "max_ahead_ms",
    "max_turns_per_minute",
)


@dataclass(frozen=True)
class ConnectionSettings(SessionSettings, SpeechSettings, RecordingSettings):
    """How a conversation goes, how the bot speaks, whether callers are recorded, and what a connection may cost.

    Attributes:
        max_connections: Calls at the same time, of this channel and in this process; further ones are refused.
        max_connections_per_address: Of them, connections of one network address (of IPv6, one /64); 0: as many as
            there are. This machine's own address, where a proxy may speak for many, has no such limit.
        idle_timeout_ms: A client that sends nothing for so long is disconnected.
        max_call_ms: A call that lasts longer is ended.
        max_messages_per_second: Refuses floods; five seconds' worth may come at once.
        max_bytes_per_second: Likewise.
        max_ahead_ms: How much more audio a client may send than time has passed.
        max_turns_per_minute: Turns that Rasa is given; a minute's worth may come at once.
        audio_files: Whether text, over whatever channel of this server, may name files in `audio_directories`. Every
            channel of speech has to allow it.
        shutdown_timeout_ms: When the server is told to end, how long callers may go on until their turn is answered and
            heard. Less than what the supervisor gives it, less the two or three seconds that Rasa needs to end.
    """

    max_connections: int = 200
    max_connections_per_address: int = 50
    idle_timeout_ms: int = 60_000
    max_call_ms: int = 7_200_000
    max_messages_per_second: int = 1000
    max_bytes_per_second: int = 2_000_000
    max_ahead_ms: int = 60_000
    max_turns_per_minute: int = 120
    audio_files: bool = False
    shutdown_timeout_ms: int = 6_000

    def __post_init__(self) -> None:
        SessionSettings.__post_init__(self)
        SpeechSettings.__post_init__(self)
        RecordingSettings.__post_init__(self)
        for name in LIMITS:
            require(getattr(self, name) > 0, f"{name} takes more than 0, got {getattr(self, name)}.")
        most = self.max_connections_per_address
        require(most >= 0, f"max_connections_per_address takes 0 or more, got {most}.")
        shutdown = self.shutdown_timeout_ms
        require(0 <= shutdown <= 600_000, f"shutdown_timeout_ms takes 0 to 600000, got {shutdown}.")


class ConnectionInput(SpokenInput):
    """A channel whose calls are WebSockets."""

    def __init__(self, settings: ConnectionSettings) -> None:
        super().__init__(settings, settings, settings, settings.audio_files)
        self.settings = settings
        self.places = Places(settings.max_connections, settings.max_connections_per_address)
        self._connected: "Set[ConnectionCall]" = set()

    @property
    def calls(self) -> int:
        """Those that are open."""
        return self.places.calls

    async def wind_down(self) -> None:
        """Sends callers away, each when its turn is over, or all when time is up: they may go on with another server."""
        if not self.ending:
            self.ending = True
            self._ends_at = time.monotonic() + self.settings.shutdown_timeout_ms / 1000
            await asyncio.gather(*(call.end_by(self._ends_at) for call in self._connected))

    @contextmanager
    def place(self, call: "ConnectionCall") -> Iterator[None]:
        """A place for a call, for as long as it lasts.

        Raises:
            ProtocolError: All are taken, or the server is about to end.
        """
        if self.ending:
            raise GOING_DOWN
        with self.places.call(), metrics.CALLS_OPEN.labels(self.name()).track_inprogress():
            self._connected.add(call)
            try:
                yield
            finally:
                self._connected.discard(call)


class ConnectionCall(SpokenCall):
    """One WebSocket around one session. Channels say what the messages are: `admit`, `begin`, `take`, `send_audio`, `refuse`."""

    def __init__(self, channel: ConnectionInput, request: Request, websocket: Any, on_new_message: OnNewMessage) -> None:
        super().__init__(request.app, on_new_message, channel.name(), recorder=channel.recorder)
        self._input = channel
        self._settings = channel.settings
        self._request = request
        self._websocket = websocket
        self._transport: Any = request.transport
        self._open = True
        self._began = time.monotonic()
        self._timers: List[asyncio.TimerHandle] = []
        limits = self._settings
        self._messages = Allowance(limits.max_messages_per_second, BURST_S * limits.max_messages_per_second)
        self._came = 0  # bytes that are not charged yet
        self._bytes = Allowance(limits.max_bytes_per_second, BURST_S * limits.max_bytes_per_second)
        self._audio = Allowance(1.0, limits.max_ahead_ms / 1000)
        self._turns = Allowance(limits.max_turns_per_minute / 60, limits.max_turns_per_minute)
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
        connected = ExitStack()
        try:
            self.admit()
            connected.enter_context(self._input.places.of_address(self._request.remote_addr or self._request.ip))
            await self.introduce()
            settle(self._request.app)
            if recognizer_of(self._request.app) is None:
                raise ProtocolError("no_recognizer", NO_RECOGNIZER, 4503)
            with self._input.place(self):
                session = self.session = SpokenSession(self._settings, self, self, self._input.workers, self._input.speech)
                await self._inbox.take_early()
                await self.begin()
                over = f"The call has lasted for {self._settings.max_call_ms} ms, and is over."
                self._refuse_in(self._settings.max_call_ms, ProtocolError("call_too_long", over, 4408))
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
            for timer in self._timers:
                timer.cancel()
            connected.close()
            if session is not None:
                self._input.close_soon(session)

    async def end_by(self, at: float) -> None:
        """Ends the call when the caller waits for nothing any more, at the latest `at`, by ``time.monotonic``."""
        while self._open and self.session.busy and time.monotonic() < at:
            await asyncio.sleep(LOOK_S)
        if self._open:
            metrics.refused(self.counted_as, GOING_DOWN.code)
            with in_call(self.log):
                await self.refuse(GOING_DOWN)

    # ------------------------------------------------ for the channel to say

    def admit(self) -> None:
        """Raises a `ProtocolError` for a connection that may not be."""

    async def introduce(self) -> None:
        """Waits for whatever has to be known before there is a call, and raises likewise."""

    async def begin(self) -> None:
        """The session is there, and nothing has come yet."""

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
        connection.debug = False  # it would write callers' words and tokens into the log
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

    def _idle(self) -> ProtocolError:
        """The refusal of a client of whom nothing comes."""
        return ProtocolError("idle", f"Nothing came for {self._settings.idle_timeout_ms} ms.", 4408)

    def _refuse_in(self, ms: int, why: ProtocolError) -> asyncio.TimerHandle:
        """Ends the connection then, unless the timer is cancelled before."""
        self._timers.append(asyncio.get_running_loop().call_later(ms / 1000, self._inbox.refuse, why))
        return self._timers[-1]

    async def _first_message(self, within_ms: int, else_: ProtocolError) -> Message:
        """What comes first, which stays in the inbox. Until then a stranger costs little.

        Raises:
            ProtocolError: `else_`, when nothing comes in time.
        """
        connection = self._websocket.connection
        most, take = connection.max_size, connection.recv_frame

        def take_first(frame: Frame) -> None:
            take(frame)
            if frame.fin and frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                let_in()  # what is behind it may have come with it

        def let_in() -> None:
            connection.max_size, connection.recv_frame = most, take

        connection.max_size, connection.recv_frame = STRANGER_BYTES, take_first
        async with self._doorstep(within_ms, else_):
            message = await self._inbox.get()
        let_in()
        if message is None:
            raise else_
        self._inbox.put_back(message)
        return message

    @asynccontextmanager
    async def _doorstep(self, within_ms: int, else_: ProtocolError) -> AsyncIterator[None]:
        """Where it is found out who calls: apart from the calls, and not for long.

        Raises:
            ProtocolError: `else_`, by the inbox, when time is up; or too many are here already.
        """
        timer = self._refuse_in(within_ms, else_)
        with self._input.places.doorstep():
            await self._inbox.take_early()
            yield
        timer.cancel()

    def _tune(self, rate: int) -> None:
        """The client's sample rate is known."""
        self._rate = rate
        self._resampler = StreamingResampler(rate, SAMPLE_RATE)
        self._back = StreamingResampler(SAMPLE_RATE, rate)

    async def _hear(self, samples: np.ndarray) -> None:
        if not self._audio.spend(len(samples) / self._rate):
            raise ProtocolError("too_fast", f"More than {self._settings.max_ahead_ms} ms of audio ahead of time.", 4429)
        await self.session.hear(self._resampler.push(samples))

    async def _send(self, message: Union[Dict[str, Any], bytes]) -> None:
        """Sends, or, when the client is gone, does nothing: an exception here would lose Rasa's turn."""
        if self._open:
            await self._in_time(self._websocket.send(message if isinstance(message, bytes) else json.dumps(message)))

    async def _close(self, code: int, reason: str, within_ms: Optional[int] = None) -> None:
        """Closes the connection, once; a client that does not answer that in time is gone: until then it has its place."""
        if self._open:
            self._open = False
            self._inbox.discard()
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
            raise self._idle()
        if not self._messages.spend(1):
            raise ProtocolError(
                "too_many_messages", f"More than {self._settings.max_messages_per_second} messages a second.", 4429
            )
        self._came += len(message)
        if self._came > PORTION_BYTES:
            came, self._came = self._came, 0
            if not self._bytes.spend(came):
                raise ProtocolError("too_many_bytes", f"More than {self._settings.max_bytes_per_second} bytes a second.", 4429)
        await self._inbox.until_refused(self.take(message))
        await asyncio.sleep(0)  # a client that sends without pause must not keep the loop to itself

    # ------------------------------------------------ what the session wants

    async def converse(self, turn: Turn) -> None:
        """See `session.Assistant`. Rasa gets no more turns than it may: the call ends instead."""
        if self._turns.spend(1):
            return await super().converse(turn)
        turn.failed = True
        many = f"More than {self._settings.max_turns_per_minute} turns a minute."
        self._inbox.refuse(ProtocolError("too_many_turns", many, 4429))

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
