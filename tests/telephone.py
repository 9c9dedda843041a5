"""Twilio and a caller in one, for tests: written from the published message formats, with nothing of ours in it.

https://www.twilio.com/docs/voice/media-streams/websocket-messages (messages, both ways)
https://www.twilio.com/docs/usage/security#validating-requests (signature)

Time is counted in frames: each 20 ms frame that the caller sends plays 20 ms of what was received, and marks come back
when what was received before them is played.
"""

import asyncio
import base64
import hashlib
import hmac
import io
import json
import time
from typing import Any, Callable, Dict, List, Optional, Tuple
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

import aiohttp
import numpy as np
import soundfile

FRAME = 160  # bytes: 20 ms of µ-law at 8 kHz
SILENT = b"\xff"  # µ-law's zero
PATIENCE_S = 20  # how long a wait may take before it counts as hanging
CHANNEL = "/webhooks/twilio_media_streams"


def mulaw(samples: np.ndarray) -> bytes:
    """8 kHz samples as G.711 µ-law, by libsndfile."""
    file = io.BytesIO()
    pcm = np.clip(np.round(samples * 32768), -32768, 32767).astype("<i2")
    soundfile.write(file, pcm, 8000, format="RAW", subtype="ULAW")
    return file.getvalue()


def signature(token: str, url: str, fields: List[Tuple[str, str]]) -> str:
    """X-Twilio-Signature, as published."""
    text = url + "".join(f"{name}{value}" for name, value in sorted(fields))
    return base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()


class Telephone:
    """One call. `dial`, then `connect`; or `connect` with parameters of one's own.

    Args:
        port: Of the server on 127.0.0.1.
        plays: Whether what is received is ever played, and so any mark comes back.
    """

    def __init__(self, port: int, call_sid: str = "CA0123456789abcdef0123456789abcdef", plays: bool = True) -> None:
        self.port = port
        self.call_sid = call_sid
        self.stream_sid = "MZ" + call_sid[2:]
        self.received: List[Dict[str, Any]] = []
        self.closed: Optional[int] = None  # by this code
        self.echoed: List[str] = []
        self._plays = plays
        self._buffer: List[Any] = []  # bytes to be played, names of marks
        self._sequence = self._chunk = 0
        self._http: aiohttp.ClientSession
        self._socket: aiohttp.ClientWebSocketResponse

    async def __aenter__(self) -> "Telephone":
        self._http = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *error: Any) -> None:
        if hasattr(self, "_socket"):
            await self._socket.close()
            await self._reader
        await self._http.close()

    # ------------------------------------------------ the webhook

    async def ask(
        self, fields: Dict[str, str], token: str = "", query: str = "", public: str = "", signed: Optional[str] = None
    ) -> Tuple[int, str]:
        """What the webhook answers: status and body."""
        address = f"{CHANNEL}/webhook{query}"
        public = public or f"https://127.0.0.1:{self.port}"
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if token:
            headers["X-Twilio-Signature"] = signed or signature(token, public + address, list(fields.items()))
        url = f"http://127.0.0.1:{self.port}{address}"
        async with self._http.post(url, data=urlencode(fields), headers=headers) as answer:
            return answer.status, await answer.text()

    async def dial(self, token: str = "", query: str = "", public: str = "") -> Tuple[str, Dict[str, str]]:
        """Has the webhook say where to connect the call, and with which parameters."""
        fields = {
            "AccountSid": "AC00000000000000000000000000000000",
            "CallSid": self.call_sid,
            "CallStatus": "ringing",
            "CallerName": "",
            "Direction": "inbound",
            "From": "+442071838750",
            "To": "+441514960000",
        }
        status, twiml = await self.ask(fields, token, query, public)
        assert status == 200, twiml
        response = ElementTree.fromstring(twiml)
        assert response.tag == "Response" and [verb.tag for verb in response] == ["Connect"]
        (stream,) = response[0]
        assert stream.tag == "Stream" and {entry.tag for entry in stream} <= {"Parameter"}
        return stream.attrib["url"], {entry.attrib["name"]: entry.attrib["value"] for entry in stream}

    # ------------------------------------------------ the stream

    async def connect(self, parameters: Optional[Dict[str, str]] = None, url: str = f"wss://x{CHANNEL}/websocket") -> None:
        """Opens the stream, and says whose it is."""
        await self.open(url)
        await self.raw('{"event": "connected", "protocol": "Call", "version": "1.0.0"}')
        await self.start(parameters or {})

    async def open(self, url: str = f"wss://x{CHANNEL}/websocket") -> None:
        """Only opens it. The address is public; the server is here."""
        address = urlsplit(url)
        assert address.scheme == "wss" and not address.query, "Twilio takes nothing else"
        self._socket = await self._http.ws_connect(f"ws://127.0.0.1:{self.port}{address.path}", max_msg_size=2**24)
        self._reader = asyncio.create_task(self._read())

    async def start(self, parameters: Optional[Dict[str, str]] = None, **change: Any) -> None:
        start = {
            "accountSid": "AC00000000000000000000000000000000",
            "streamSid": self.stream_sid,
            "callSid": self.call_sid,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": parameters or {},
        }
        await self.event("start", start={**start, **change})

    async def event(self, event: str, **fields: Any) -> None:
        self._sequence += 1
        message = {"event": event, "sequenceNumber": str(self._sequence), "streamSid": self.stream_sid, **fields}
        await self.raw(json.dumps(message))

    async def raw(self, message: Any) -> None:
        try:
            await (self._socket.send_bytes(message) if isinstance(message, bytes) else self._socket.send_str(message))
        except ConnectionError:
            pass  # the server has closed, which `closed` tells

    async def send(self, audio: bytes) -> None:
        """Audio, in frames of 20 ms, each of which lets as much of the server's be played."""
        for start in range(0, len(audio), FRAME):
            await self.frame(audio[start : start + FRAME])

    async def frame(self, audio: bytes) -> None:
        self._chunk += 1
        payload = base64.b64encode(audio).decode()
        media = {"track": "inbound", "chunk": str(self._chunk), "timestamp": str(20 * self._chunk), "payload": payload}
        await self.event("media", media=media)
        if self._plays:
            await self._play(len(audio))
        await asyncio.sleep(0)

    async def say(self, samples: np.ndarray) -> None:
        """Samples at 8 kHz."""
        await self.send(mulaw(samples))

    async def silence(self, milliseconds: int) -> None:
        await self.send(SILENT * (8 * milliseconds))

    async def press(self, digit: str) -> None:
        await self.event("dtmf", dtmf={"track": "inbound_track", "digit": digit})

    async def mark(self, name: str) -> None:
        await self.event("mark", mark={"name": name})

    async def stop(self) -> None:
        await self.event("stop", stop={"accountSid": "AC00000000000000000000000000000000", "callSid": self.call_sid})

    async def vanish(self) -> None:
        """The network breaks: no `stop`, no goodbye."""
        self._socket._response.connection.transport.abort()
        await self._reader

    # ------------------------------------------------ what came

    def events(self, name: str) -> List[Dict[str, Any]]:
        return [message for message in self.received if message["event"] == name]

    @property
    def heard(self) -> bytes:
        """All audio received."""
        return b"".join(base64.b64decode(message["media"]["payload"], validate=True) for message in self.events("media"))

    @property
    def all_played(self) -> bool:
        return not self._buffer

    async def until(self, condition: Callable[[], Any], listening: bool = False) -> None:
        """Waits for it; `listening`: while the line goes on, silent."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"it never came to that; received: {[m['event'] for m in self.received]}"
            if listening and self.closed is None:
                await self.silence(20)
            await asyncio.sleep(0.001)

    async def listen(self, condition: Callable[[], Any]) -> None:
        await self.until(condition, listening=True)

    async def _read(self) -> None:
        async for frame in self._socket:
            message = json.loads(frame.data)
            assert message["streamSid"] == self.stream_sid
            assert set(message) == {"event", "streamSid", *({message["event"]} - {"clear"})}
            self.received.append(message)
            if message["event"] == "media":
                assert set(message["media"]) == {"payload"}
                self._buffer.append(base64.b64decode(message["media"]["payload"], validate=True))
            elif message["event"] == "mark":
                assert set(message["mark"]) == {"name"}
                self._buffer.append(message["mark"]["name"])
                await self._play(0)
            else:
                assert message["event"] == "clear"
                names = [entry for entry in self._buffer if isinstance(entry, str)]
                self._buffer.clear()
                for name in names:  # at once, though their audio was not played
                    await self._echo(name)
        self.closed = self._socket.close_code

    async def _play(self, samples: int) -> None:
        while self._buffer and self._plays:
            first = self._buffer[0]
            if isinstance(first, str):
                self._buffer.pop(0)
                await self._echo(first)
            elif samples < len(first):
                self._buffer[0] = first[samples:]
                return
            else:
                samples -= len(first)
                self._buffer.pop(0)

    async def _echo(self, name: str) -> None:
        if self._plays:
            self.echoed.append(name)
            await self.mark(name)
