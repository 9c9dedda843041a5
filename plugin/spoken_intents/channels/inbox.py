"""What a client sends, taken as its WebSocket's frames are parsed.

Sanic's own way to a message makes several tasks, locks and a timer for each: 0.6 ms of the event loop for 20 ms of audio.
"""

import asyncio
from collections import deque
from typing import Any, Coroutine, Deque, List, Optional, Tuple, Union

from sanic.exceptions import WebsocketClosed
from websockets.frames import Frame, Opcode

from spoken_intents.errors import ProtocolError

Message = Union[str, bytes]

MESSAGE_BYTES = 100  # that a waiting message takes, beside what is in it
FULL_BYTES = 262_144  # that wait to be taken: nothing more is read from the client meanwhile


class Inbox:
    """The messages of one connection, in order. Made before anything is awaited in the connection's handler.

    Args:
        websocket: Sanic's.
        idle_s: Silence after which `get` gives up.
    """

    def __init__(self, websocket: Any, transport: Any, idle_s: float) -> None:
        self._websocket = websocket
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._messages: Deque[Tuple[Message, int]] = deque()  # with their sizes
        self._bytes = 0
        self._parts: List[bytes] = []  # of a message that is not whole yet
        self._is_text = False
        self._reading = True
        self._closed = self._discards = False
        self._refusal: Optional[ProtocolError] = None
        self._working: "Optional[asyncio.Task[None]]" = None
        self._waiting: "Optional[asyncio.Future[None]]" = None
        self._idle_s = idle_s
        websocket.connection_lost_waiter.add_done_callback(lambda _: self.close())

    def put(self, frame: Frame) -> None:
        """Takes a frame of a message, or the client's goodbye.

        Raises:
            UnicodeDecodeError: A text that is none.
        """
        if frame.opcode is Opcode.CLOSE:
            return self.close()
        if self._discards:
            return
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        if frame.data:
            self._parts.append(bytes(frame.data))
            self._bytes += len(frame.data)
        if frame.fin:
            whole, self._parts = b"".join(self._parts), []
            self._bytes += MESSAGE_BYTES
            self._messages.append((whole.decode() if self._is_text else whole, _size(whole)))
            self._wake()
        if self._reading and self._messages and self._bytes > FULL_BYTES:  # else the rest of the one message is waited for
            self._reading = False
            self._transport.pause_reading()

    async def get(self) -> Optional[Message]:
        """The next message; None when nothing came for too long.

        Raises:
            WebsocketClosed: The client is gone.
            ProtocolError: What `refuse` was given.
        """
        if not self._messages and not self._closed and self._refusal is None:
            self._waiting = self._loop.create_future()
            idle = self._loop.call_later(self._idle_s, self._wake)
            try:
                await self._waiting
            finally:
                idle.cancel()
                self._waiting = None
        if self._refusal is not None:
            raise self._refusal
        if self._messages:
            message, size = self._messages.popleft()
            self._bytes -= size
            room = self._bytes <= FULL_BYTES // 2 or not self._messages
            if not self._reading and room and not self._transport.is_closing():
                self._reading = True
                self._transport.resume_reading()
            return message
        if self._closed:
            raise WebsocketClosed("The client is gone.")
        return None

    def put_back(self, message: Message) -> None:
        """Makes it the next one."""
        self._messages.appendleft((message, _size(message)))
        self._bytes += _size(message)

    def refuse(self, why: ProtocolError) -> None:
        """Ends the call for something that is no message: `get` raises it, whatever has come."""
        self._refusal = why
        self._wake()
        if self._working is not None:
            self._working.cancel()

    async def until_refused(self, work: Coroutine[Any, Any, None]) -> None:
        """Does what a message asks for, unless the call is refused meanwhile: a bot that hangs must not keep it.

        Raises:
            ProtocolError: What `refuse` was given.
        """
        self._working = asyncio.current_task()
        try:
            await work
        except asyncio.CancelledError:
            if self._refusal is None:
                raise  # it is the connection's handler that is cancelled
            raise self._refusal from None
        finally:
            self._working = None

    async def take_early(self) -> None:
        """Takes over what Sanic had parsed already when this was made."""
        early: List[Tuple[Message, int]] = []
        await asyncio.sleep(0)  # it has a task for each piece that has come
        while self._websocket.process_event_mutex.locked():
            message = await self._websocket.recv(0)
            if message is not None:
                early.append((message, _size(message)))
                self._bytes += _size(message)
            await asyncio.sleep(0)
        self._messages.extendleft(reversed(early))  # others have come meanwhile

    def discard(self) -> None:
        """Takes nothing more to heart: what still comes is read and dropped, until the client's goodbye. Left unread, it would
        have the system reset the connection, and with it what the client was just told."""
        self._discards = True
        self._messages.clear()
        self._parts, self._bytes = [], 0
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    def close(self) -> None:
        """Nothing more comes."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def _size(message: Message) -> int:
    return len(message) + MESSAGE_BYTES
