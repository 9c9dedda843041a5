"""What a client sends comes out whole and in order, whatever its frames and whenever they come."""

import asyncio
import socket
from dataclasses import replace
from typing import Any, List

import aiohttp
import pytest
from sanic import Sanic
from test_session import ScriptedRecognizer

from in_process import PATIENCE_S, serving
from spoken_intents.channels import inbox, voice
from spoken_intents.channels.voice import VoiceInput, VoiceSettings

SETTINGS = VoiceSettings(speech="none", idle_timeout_ms=60_000, max_messages_per_second=100_000)
UPGRADE = (
    "GET /webhooks/voice/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c3Bva2VuIGludGVudHMhIQ==\r\n\r\n"
).encode()


def frame(payload: bytes, opcode: int = 1, fin: bool = True) -> bytes:
    """As a client sends it, masked by zeros."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0x80 | 126]) + len(payload).to_bytes(2, "big")
    return bytes([(0x80 if fin else 0) | opcode]) + size + bytes(4) + payload


@pytest.fixture(autouse=True)
def several_servers_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sanic, "test_mode", True)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> List[Any]:
    """What channels were given, message by message."""
    messages: List[Any] = []

    async def take(call: Any, message: Any) -> None:
        messages.append(message)

    monkeypatch.setattr(voice._Call, "take", take)
    return messages


def talk(*pieces: bytes, until: Any) -> None:
    """Sends bytes as they are, as soon as the server has taken the connection, and waits."""

    async def main() -> None:
        async with serving(VoiceInput(SETTINGS), rasa=None, ear=ScriptedRecognizer()) as app:
            client = socket.create_connection(("127.0.0.1", app.ctx.port))
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            try:
                await loop.sock_sendall(client, UPGRADE)
                assert b" 101 " in await loop.sock_recv(client, 4096)
                for piece in pieces:
                    await loop.sock_sendall(client, piece)
                    await asyncio.sleep(0)
                deadline = loop.time() + PATIENCE_S
                while not until():
                    assert loop.time() < deadline
                    await asyncio.sleep(0.001)
            finally:
                client.close()

    asyncio.run(main())


def test_messages_right_behind_the_handshake_are_taken_and_in_order(taken: List[Any]) -> None:
    messages = [f"{number}" for number in range(200)]
    talk(*(frame(message.encode()) for message in messages), until=lambda: len(taken) == 200)
    assert taken == messages


def test_parts_are_put_together_and_a_ping_may_come_between(taken: List[Any]) -> None:
    parts = frame("grü".encode()[:3], 1, False) + frame(b"", 9) + frame("grü".encode()[3:], 0, False) + frame("ß".encode(), 0)
    binary = frame(b"\x01", 2, False) + frame(b"\x02", 0)
    talk(parts, binary, frame(b"whole", 2), until=lambda: len(taken) == 3)
    assert taken == ["grüß", b"\x01\x02", b"whole"]


def test_a_client_that_is_faster_than_us_is_not_read_any_further(taken: List[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """And its messages are all taken in the end."""
    monkeypatch.setattr(inbox, "FULL_BYTES", 10_000)
    go_on, largest = asyncio.Event(), 0

    async def take(call: Any, message: Any) -> None:
        nonlocal largest
        largest = max(largest, call._inbox._bytes)
        await go_on.wait()
        taken.append(message)

    monkeypatch.setattr(voice._Call, "take", take)

    async def main() -> None:
        async with serving(VoiceInput(SETTINGS), rasa=None, ear=ScriptedRecognizer()) as app, aiohttp.ClientSession() as http:
            async with http.ws_connect(f"ws://127.0.0.1:{app.ctx.port}/webhooks/voice/websocket") as client:
                sending = asyncio.create_task(send(client))
                await asyncio.sleep(0.2)
                go_on.set()
                await asyncio.wait_for(sending, PATIENCE_S)
                while len(taken) < 3000:
                    await asyncio.sleep(0.001)

    async def send(client: Any) -> None:
        for number in range(3000):
            await client.send_bytes(number.to_bytes(2, "big") + bytes(998))

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    assert [int.from_bytes(message[:2], "big") for message in taken] == list(range(3000))
    assert largest < 1_000_000  # of three million: what had been read when it was full


def test_messages_without_anything_in_them_count_too(taken: List[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, calls = asyncio.Event(), []

    async def take(call: Any, message: Any) -> None:
        calls.append(call)
        await go_on.wait()
        taken.append(message)

    monkeypatch.setattr(voice._Call, "take", take)

    def until() -> bool:
        if calls and not calls[0]._transport.is_reading():
            go_on.set()
        return len(taken) == 5000

    talk(frame(b"", 2) * 5000, until=until)
    assert go_on.is_set() and set(taken) == {b""}


def test_a_message_in_parts_may_be_larger_than_what_waits(taken: List[Any]) -> None:
    part = bytes(60_000)
    talk(frame(part, 2, False), *[frame(part, 0, False)] * 9, frame(part, 0), until=lambda: taken)
    assert taken == [part * 11]


def test_text_that_is_none_ends_the_connection(taken: List[Any]) -> None:
    async def main() -> Any:
        async with serving(VoiceInput(SETTINGS), rasa=None, ear=ScriptedRecognizer()) as app:
            reader, writer = await asyncio.open_connection("127.0.0.1", app.ctx.port)
            writer.write(UPGRADE)
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            writer.write(frame(b"good") + frame(b"\xff\xfe") + frame(b"never"))
            await asyncio.wait_for(reader.read(), PATIENCE_S)  # to its end
            writer.close()

    asyncio.run(main())
    assert taken == ["good"]


def test_a_flood_is_told_why_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has sent behind that is read, too: left unread, the system would reset the connection."""
    monkeypatch.setattr(inbox, "FULL_BYTES", 1000)

    async def main() -> bytes:
        channel = VoiceInput(replace(SETTINGS, max_messages_per_second=100))
        async with serving(channel, rasa=None, ear=ScriptedRecognizer()) as app:
            reader, writer = await asyncio.open_connection("127.0.0.1", app.ctx.port)
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(20_000 * frame(bytes(2), 2))
            await writer.drain()
            told = await asyncio.wait_for(reader.readuntil((4429).to_bytes(2, "big")), PATIENCE_S)
            await asyncio.sleep(0.2)
            writer.write(frame((1000).to_bytes(2, "big"), 8))
            await writer.drain()  # raises on a connection that was reset
            writer.close()
            return told

    assert b"too_many_messages" in asyncio.run(main())
