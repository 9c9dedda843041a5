"""Recordings over HTTP, byte by byte: what is refused before it is read, what is read no further, what is not decoded whole."""

import asyncio
import io
import json
import time
import tracemalloc
from typing import Any, Dict, List, Optional, Tuple

import aiohttp
import numpy as np
import pytest
import soundfile
from sanic import Sanic
from test_limits import EAR, QUICK, Caller, rasa
from test_session import LoudVad, intent_of, said

from counted import Counted
from in_process import PATIENCE_S, run, serving
from spoken_intents import segmenter
from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.channels import voice
from spoken_intents.channels.upload import MAX_PARTS, form_of
from spoken_intents.channels.voice import VoiceInput, VoiceSettings
from spoken_intents.errors import AudioError, ProtocolError

MULTIPART = "multipart/form-data; boundary=XX"


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "make_vad", lambda *_: LoudVad())
    monkeypatch.setattr(Sanic, "test_mode", True)


def wav(number: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, said(number), SAMPLE_RATE, format="WAV")
    return file.getvalue()


class Post:
    """A request by hand, so that a test says when which byte of it is sent."""

    async def begin(self, port: int, headers: str, body: bytes = b"") -> "Post":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        await self.send(f"POST /webhooks/voice/webhook HTTP/1.1\r\nHost: here\r\n{headers}\r\n\r\n".encode() + body)
        return self

    async def send(self, body: bytes) -> None:
        self._writer.write(body)
        await self._writer.drain()

    async def answer(self) -> Tuple[int, Any, str]:
        """Status, JSON and headers; the body needs not have been sent."""
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE_S)).decode().lower()
        if head.startswith("http/1.1 100"):
            return await self.answer()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        return int(head.split()[1]), json.loads(await self._reader.readexactly(length)), head

    async def closed(self) -> bool:
        """Whether the server closes the connection."""
        return await asyncio.wait_for(self._reader.read(), PATIENCE_S) == b""

    def end(self) -> None:
        self._writer.close()


def served(scenario: Any, **settings: Any) -> Any:
    """`scenario`, given the port, on a channel with these settings."""

    async def main() -> Any:
        channel = VoiceInput(VoiceSettings(**{**QUICK, **settings}))
        async with serving(channel, rasa=rasa, ear=EAR) as app:
            app.config.REQUEST_TIMEOUT = 1.5
            return await scenario(app.ctx.port)

    return run(main())


# ---------------------------------------------------------------- before and while the body comes


@pytest.mark.parametrize(
    ("headers", "status", "code", "words"),
    [
        ("Content-Length: 1001", 413, "too_large", "1001 bytes: at most 1000 are taken"),
        ("Content-Length: 99999999999999", 413, "too_large", "at most 1000"),
        (f"Content-Length: 70000\r\nContent-Type: {MULTIPART}", 413, "too_large", "at most 66536"),
        ("Transfer-Encoding: chunked", 411, "no_length", "a body in chunks is not taken"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 10", 411, "no_length", "a body in chunks is not taken"),
        ("Content-Length: -1", 411, "no_length", "Say the recording's Content-Length"),
        ("Content-Length: 1_0", 411, "no_length", "Say the recording's Content-Length"),
        ("Content-Length: 0", 400, "no_audio", "Send a WAV"),
        ("Content-Type: audio/wav", 400, "no_audio", "Send a WAV"),
    ],
)
def test_what_is_not_taken_is_refused_before_it_comes(headers: str, status: int, code: str, words: str) -> None:
    """None of the body is sent; Sanic itself would wait for all of it, up to 100 MB."""
    counted = Counted()

    async def scenario(port: int) -> None:
        post = await Post().begin(port, headers)
        got, told, head = await post.answer()
        assert (got, told["error"]["code"]) == (status, code)
        assert words in told["error"]["message"]
        assert "connection: close" in head, "what follows on this connection could be the body, or another request"
        post.end()

    served(scenario, max_upload_bytes=1000)
    assert counted("spoken_intents_refusals_total", channel="recording", code=code) == 1


def test_a_recording_that_is_too_large_may_be_sent_to_its_end_all_the_same() -> None:
    """Its sender gets to read why not; nothing of it is kept."""

    async def scenario(port: int) -> None:
        async with aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{port}/webhooks/voice/webhook"
            async with http.post(url, data=bytes(8 * 2**20)) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (413, "too_large")

    tracemalloc.start()
    try:
        served(scenario, max_upload_bytes=1000)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20, "the 8 MB of its sender, and little more"
    finally:
        tracemalloc.stop()


def test_one_that_comes_too_slowly_gives_its_place_back() -> None:
    counted = Counted()

    async def scenario(port: int) -> None:
        async with aiohttp.ClientSession() as http, Caller(http, port) as caller:
            slow = await Post().begin(port, f"Content-Length: {len(wav(7))}", wav(7)[:100])
            while not counted("spoken_intents_refusals_total", channel="recording", code="too_many_uploads"):
                other = await Post().begin(port, f"Content-Length: {len(wav(7))}")
                status, told, _ = await other.answer()
                assert (status, told["error"]["code"]) == (503, "too_many_uploads"), "it has the place before its body is there"
                other.end()
            assert await caller.say(1) == intent_of(1)
            status, told, _ = await slow.answer()
            assert (status, told["error"]["code"]) == (408, "too_slow")
            assert "did not arrive within 1.5 s" in told["error"]["message"]
            assert await slow.closed()
            slow.end()
            again = await Post().begin(port, f"Content-Length: {len(wav(7))}", wav(7))
            assert (await again.answer())[0] == 200
            again.end()

    served(scenario, max_uploads=1)


def test_a_sender_who_hangs_up_halfway_gives_its_place_back() -> None:
    async def scenario(port: int) -> None:
        for _ in range(3):
            post = await Post().begin(port, "Content-Length: 100000", bytes(50_000))
            post.end()
        for _ in range(1000):
            post = await Post().begin(port, f"Content-Length: {len(wav(7))}", wav(7))
            status, _, _ = await post.answer()
            post.end()
            if status == 200:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("its place is not given back")

    served(scenario, max_uploads=1)


def test_a_recording_may_come_byte_by_byte_and_the_connection_is_kept() -> None:
    async def scenario(port: int) -> None:
        body = wav(7)
        post = await Post().begin(port, f"Content-Length: {len(body)}\r\nExpect: 100-continue")
        for start in range(0, len(body), 997):
            await post.send(body[start : start + 997])
            await asyncio.sleep(0)
        status, messages, head = await post.answer()
        assert (status, messages[-1]["text"]) == (200, intent_of(7)) and "connection: keep-alive" in head
        post.end()

    served(scenario)


# ---------------------------------------------------------------- forms


def form(*parts: Tuple[str, bytes], end: bytes = b"--XX--\r\n") -> bytes:
    """A form by hand; each part's disposition and content."""
    return b"".join(b"--XX\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n" for head, content in parts) + end


def field(name: str, more: str = "") -> str:
    return f'Content-Disposition: form-data; name="{name}"{more}'


def test_a_form_has_fields() -> None:
    audio = bytes(range(256)) * 2 + b"\r\n--X\r\n\r\n--X"  # whatever bytes there are
    body = form(
        (field("sender"), "Änne".encode()),
        ("content-type: audio/wav\r\n" + field("audio", '; filename="a \\"b\\".wav"').replace("Content", "CONTENT"), audio),
        (field("audio"), b"a second one"),
        ("X-Nothing: named", b"nothing"),
    )
    for prologue in (b"", b"to be ignored\r\n"):
        fields = form_of(prologue + body, MULTIPART)
        assert fields["audio"] == audio and fields["sender"].decode() == "Änne"
    assert form_of(form((field("audio"), b"")), 'multipart/form-data; boundary="XX"') == {"audio": b""}


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("multipart/form-data", form((field("audio"), b"x")), "names a boundary"),
        ("multipart/form-data; boundary=", form((field("audio"), b"x")), "names a boundary"),
        (f"multipart/form-data; boundary={'X' * 71}", form((field("audio"), b"x")), "boundary of 1 to 70 characters"),
        (MULTIPART, b"", "ends with its boundary"),
        (MULTIPART, b"no form at all", "ends with its boundary"),
        (MULTIPART, form((field("audio"), b"x"), end=b""), "ends with its boundary"),
        (MULTIPART, form(*[(field(f"f{i}"), b"") for i in range(MAX_PARTS)]), "1 to 15 parts"),
    ],
)
def test_what_is_no_form_is_refused(content_type: str, body: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words) as caught:
        form_of(body, content_type)
    assert (caught.value.code, caught.value.close_code) == ("bad_form", 4400)


def test_a_form_of_a_million_parts_is_not_cut_into_them() -> None:
    body = b"--X\r\n" * 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="15 parts"):
            form_of(body, "multipart/form-data; boundary=X")
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body)
    finally:
        tracemalloc.stop()


def test_a_forms_recording_has_the_same_limit() -> None:
    async def scenario(port: int) -> List[Tuple[int, Optional[str]]]:
        results: List[Tuple[int, Optional[str]]] = []
        for size in (1000, 1001):
            body = form((field("sender"), b"anna"), (field("audio"), bytes(size)))
            post = await Post().begin(port, f"Content-Length: {len(body)}\r\nContent-Type: {MULTIPART}", body)
            status, told, _ = await post.answer()
            results.append((status, told["error"]["code"]))
            post.end()
        return results

    assert served(scenario, max_upload_bytes=1000) == [(400, "bad_audio"), (413, "too_large")]


# ---------------------------------------------------------------- small files with much in them


def test_recordings_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On its way to 16 kHz one of five minutes may take half a gigabyte, and its file next to nothing."""
    at_once: List[int] = []
    most = 0

    def decoded(*arguments: Any) -> np.ndarray:
        nonlocal most
        at_once.append(1)
        most = max(most, len(at_once))
        time.sleep(0.05)
        at_once.pop()
        return read_audio(*arguments)

    monkeypatch.setattr(voice, "read_audio", decoded)

    async def scenario(port: int) -> None:
        posts = [await Post().begin(port, f"Content-Length: {len(wav(n))}", wav(n)) for n in range(1, 5)]
        for number, post in enumerate(posts, 1):
            assert (await post.answer())[1][-1]["text"] == intent_of(number)
            post.end()

    served(scenario)
    assert most == 1


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"samples": np.zeros(3600 * 4_000, np.int16), "samplerate": 4_000}, "longer than 60 s"),
        ({"samples": np.zeros((600 * 8_000, 8), np.int16), "samplerate": 8_000}, "longer than 60 s"),
        ({"samples": np.zeros((8_000, 9), np.int16), "samplerate": 8_000, "format": "WAV"}, "has 9 channels; 1 to 8 are taken"),
    ],
    ids=["an hour", "eight channels", "nine"],
)
def test_much_in_little_is_not_decoded_whole(made: Dict[str, Any], words: str) -> None:
    """Silence packs well: an hour of it is a file of some kilobytes, and 58 MB of samples at 4 kHz alone."""
    file = io.BytesIO()
    soundfile.write(file, made["samples"], made["samplerate"], format=made.get("format", "FLAC"))
    assert len(file.getvalue()) < 2**18
    file.seek(0)
    tracemalloc.start()
    try:
        with pytest.raises(AudioError, match=words):
            read_audio(file, 60, "The recording")
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()
