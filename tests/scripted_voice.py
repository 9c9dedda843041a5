"""A voice server by script: the real page's files and the real wire format, and a test in place of recognizer and bot."""

import asyncio
import base64
import json
import time
from typing import Any, Callable, Dict, List, Optional

import numpy as np
from aiohttp import WSMsgType, web

from chromium import PATIENCE_S
from spoken_intents.pages import TYPES, headers, page_files

Message = Dict[str, Any]


class ScriptedCall:
    """One page that calls. `received` has its text messages in order, `audio` its samples so far, 16 bits each."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self.received: List[Message] = []
        self.audio = b""
        self.is_over = False

    async def run(self) -> None:
        async for message in self._socket:
            if message.type is WSMsgType.BINARY:
                self.audio += message.data
            elif message.type is WSMsgType.TEXT:
                self.received.append(json.loads(message.data))
        self.is_over = True

    async def send(self, *messages: Message) -> None:
        for message in messages:
            await self._socket.send_json(message)

    async def close(self, code: int = 1000) -> None:
        await self._socket.close(code=code)

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Waits until the condition holds; returns its value."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if value := condition():
                return value
            await asyncio.sleep(0.02)
        raise AssertionError(f"The page sent {self.received} and {len(self.audio)} bytes of audio.")

    async def gets(self, **fields: Any) -> None:
        """Waits until the page has sent this message; a typed turn is taken at once."""
        await self.until(lambda: fields in self.received)
        if {"text", "payload"} & set(fields):
            await self.send({"trace_event": "typed", "text": next(iter(fields.values()))})

    @property
    def rate(self) -> int:
        return self.received[0]["sample_rate"]

    def now_ms(self) -> float:
        """How much of the page's audio has come."""
        return len(self.audio) / 2 / self.rate * 1000

    def loudest(self, since_ms: float = 0) -> int:
        """The largest sample since then."""
        samples = np.frombuffer(self.audio, dtype="<i2")[int(since_ms * self.rate / 1000) :]
        return int(np.abs(samples.astype(int)).max()) if len(samples) else 0

    def tone(self, ms: float) -> Message:
        """An `audio` message: what a bot of one tone says."""
        time_s = np.arange(int(ms * self.rate / 1000)) / self.rate
        pcm = (8000 * np.sin(2 * np.pi * 330 * time_s)).astype("<i2").tobytes()
        return {"audio": base64.b64encode(pcm).decode()}


class ScriptedVoice:
    """The server. Use as an async context manager; `stop` and `start` again are its restart, at the same address."""

    def __init__(self) -> None:
        self.recognizer = True
        self.speech = "espeak"
        self.token = ""  # that callers have to show; empty: none
        self.refused: List[str] = []  # tokens
        self.calls: List[ScriptedCall] = []
        self.port = 0
        self._runner: Optional[web.AppRunner] = None

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/webhooks/voice/"

    async def __aenter__(self) -> "ScriptedVoice":
        await self.start()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.stop()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/webhooks/voice/", self._file)
        app.router.add_get("/webhooks/voice/page/{name}", self._file)
        app.router.add_get("/webhooks/voice/status", self._status)
        app.router.add_get("/webhooks/voice/websocket", self._websocket)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._runner:
            await asyncio.gather(*(call.close(1001) for call in self.calls if not call.is_over))
            await self._runner.cleanup()
            self._runner = None

    async def call(self, number: int = 1) -> ScriptedCall:
        """The page's first, second, ... call, once its handshake is there."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if len(self.calls) >= number and self.calls[number - 1].received:
                return self.calls[number - 1]
            await asyncio.sleep(0.02)
        raise AssertionError(f"There were {len(self.calls)} calls.")

    async def _file(self, request: web.Request) -> web.Response:
        path = page_files()[request.match_info.get("name", "index.html")]
        return web.Response(body=path.read_bytes(), headers={**headers(request.host), "Content-Type": TYPES[path.suffix]})

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response({"recognizer": self.recognizer, "speech": self.speech, "token": bool(self.token)})

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=2**20)
        await socket.prepare(request)
        call = ScriptedCall(socket)
        if self.token:
            call.received.append(await socket.receive_json())
            if (shown := call.received[0].get("token")) != self.token:
                self.refused.append(shown)
                await socket.send_json({"error": {"code": "unauthorized", "message": "The token is not valid."}})
                await socket.close(code=4401)
                return socket
        self.calls.append(call)
        await call.run()
        return socket
