"""Recordings over HTTP, byte by byte: what is refused before it is read, what is read no further, what is not decoded whole."""

import asyncio
import gc
import io
import json
import threading
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
from spoken_intents.channels.upload import MAX_PARTS, form_of, read_body
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

    async def told_to_go_on(self) -> None:
        """Where it expects to be told before it sends the body."""
        assert (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE_S)).startswith(b"HTTP/1.1 100")

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


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"max_uploads": 3}, 2),
        ({"max_uploads": 3, "max_connections_per_address": 1}, 1),
        ({"max_uploads": 3, "max_connections_per_address": 0}, 3),
    ],
)
def test_one_address_cannot_have_all_places(settings: Dict[str, int], most: int) -> None:
    """However slowly its recordings come."""
    counted = Counted()
    code = "too_many_of_address" if most < 3 else "too_many_uploads"

    async def main() -> None:
        async with serving(VoiceInput(VoiceSettings(**{**QUICK, **settings})), rasa=rasa, ear=EAR) as app:
            app.config.PROXIES_COUNT = 1

            async def begin(address: str, body: bytes = b"") -> Post:
                headers = f"Content-Length: {len(wav(7))}\r\nX-Forwarded-For: {address}"
                return await Post().begin(app.ctx.port, f"{headers}\r\nExpect: 100-continue", body)

            slow = [await begin(f"203.0.113.9:{port}") for port in range(most)]
            for post in slow:
                await post.told_to_go_on()  # it has its place
            refused = await begin("203.0.113.9:50000")
            status, told, _ = await refused.answer()
            refused.end()
            assert (status, told["error"]["code"]) == (503 if most == 3 else 429, code)
            if most < 3:
                assert told["error"]["message"] == f"{most} connections are open from your address, and no more are taken."
                other = await begin("198.51.100.7", wav(7))
                assert (await other.answer())[1][-1]["text"] == intent_of(7)
                other.end()
            for post in slow:
                await post.send(wav(7))
                assert (await post.answer())[0] == 200
            again = await begin("203.0.113.9:50001", wav(7))
            assert (await again.answer())[0] == 200
            for post in (*slow, again):
                post.end()

    run(main())
    assert counted("spoken_intents_refusals_total", channel="recording", code=code) == 1


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
        assert fields == [("sender", "Änne".encode()), ("audio", audio), ("audio", b"a second one")]
    assert form_of(form((field("audio"), b"")), 'multipart/form-data; boundary="XX"') == [("audio", b"")]


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


def test_a_form_is_one_in_whatever_case_it_says_so() -> None:
    async def scenario(port: int) -> None:
        body = form((field("sender"), b"anna"), (field("audio"), wav(7)))
        kind = "Multipart/Form-Data; Boundary=XX"
        post = await Post().begin(port, f"Content-Length: {len(body)}\r\nContent-Type: {kind}", body)
        status, messages, _ = await post.answer()
        assert (status, messages[-1]["text"], messages[-1]["recipient_id"]) == (200, intent_of(7), "anna")
        post.end()

    served(scenario)


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


def test_whose_sender_hangs_up_is_decoded_beside_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread cannot be stopped: until it has ended it keeps the place. What no thread has begun is not decoded at all."""
    arrived = 0
    begun: List[bytes] = []
    go_on = threading.Event()

    async def noted(*arguments: Any) -> bytes:
        nonlocal arrived
        body = await read_body(*arguments)
        arrived += 1
        return body

    def decoded(file: io.BytesIO, *arguments: Any) -> np.ndarray:
        begun.append(file.getvalue())
        assert go_on.wait(PATIENCE_S)
        return read_audio(file, *arguments)

    monkeypatch.setattr(voice, "read_body", noted)
    monkeypatch.setattr(voice, "read_audio", decoded)
    nonsense = bytes(1000)

    async def main() -> None:
        async with serving(VoiceInput(VoiceSettings(**QUICK, max_uploads=2)), rasa=rasa, ear=EAR) as app:

            async def begin(body: bytes) -> Post:
                before, post = arrived, await Post().begin(app.ctx.port, f"Content-Length: {len(body)}", body)
                while arrived == before:
                    await asyncio.sleep(0.001)
                return post

            async def hang_up(*posts: Post) -> None:
                left = len(app.ctx.connections) - len(posts)
                for post in posts:
                    post.end()
                while len(app.ctx.connections) > left:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.01)

            first, second = await begin(nonsense), await begin(wav(2))
            await hang_up(first, second)
            third = await begin(wav(3))
            assert begun == [nonsense], "one at a time"
            fourth = await Post().begin(app.ctx.port, f"Content-Length: {len(wav(4))}")
            status, told, _ = await fourth.answer()
            assert (status, told["error"]["code"]) == (503, "too_many_uploads"), "the one whose sender left has a place still"
            fourth.end()
            go_on.set()
            assert (await third.answer())[1][-1]["text"] == intent_of(3)
            assert begun == [nonsense, wav(3)], "nobody waits for the second"
            both = [await begin(wav(number)) for number in (5, 6)]
            for number, post in enumerate(both, 5):
                assert (await post.answer())[1][-1]["text"] == intent_of(number), "its place is given back"
            for post in (third, *both):
                post.end()

    try:
        run(main())
    finally:
        go_on.set()
    gc.collect()
    assert "never retrieved" not in caplog.text
    while any(thread.name.startswith("decoder") for thread in threading.enumerate()):
        time.sleep(0.001)  # it ends with its channel


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


# ---------------------------------------------------------------- many turns in one


def test_a_recording_has_as_many_turns_as_a_minute_may_have() -> None:
    counted = Counted()
    given: List[str] = []

    async def listed(message: Any) -> None:
        given.append(message.sender_id)
        await rasa(message)

    def turns(most: int) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, np.concatenate([said(number) for number in range(most)]), SAMPLE_RATE, format="WAV")
        return file.getvalue()

    async def main() -> None:
        channel = VoiceInput(VoiceSettings(**{**QUICK, "max_turns_per_minute": 5}))
        async with serving(channel, rasa=listed, ear=EAR) as app, aiohttp.ClientSession() as http:

            async def upload(sender: str, body: bytes) -> Tuple[int, Any]:
                url = f"http://127.0.0.1:{app.ctx.port}/webhooks/voice/webhook?sender={sender}"
                async with http.post(url, data=body) as answer:
                    return answer.status, await answer.json()

            for sender in ("anna", "berta"):
                status, messages = await upload(sender, turns(5))
                assert (status, [message["text"] for message in messages]) == (200, [intent_of(number) for number in range(5)])
            status, told = await upload("carla", turns(40))
            assert (status, told["error"]["code"]) == (429, "too_many_turns")
            assert told["error"]["message"] == "More than 5 turns a minute."

    run(main())
    assert [given.count(sender) for sender in ("anna", "berta", "carla")] == [5, 5, 5]
    assert counted("spoken_intents_refusals_total", channel="recording", code="too_many_turns") == 1
