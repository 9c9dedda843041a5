"""The pages that commands serve on this computer: for its own browser, and for nobody else."""

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator, Awaitable, Callable, Dict

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from spoken_intents.errors import DataError
from spoken_intents.pages import headers
from spoken_intents_training import local_page
from spoken_intents_training.local_page import LocalPage


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))


@asynccontextmanager
async def served() -> AsyncIterator["tuple[LocalPage, TestClient]"]:
    """A page with an address that answers, two that fail and a WebSocket."""
    page = LocalPage("index.html")

    async def greet(request: web.Request) -> web.Response:
        return web.json_response({"said": "hello"})

    async def fails(request: web.Request) -> web.Response:
        raise DataError("This cannot be learnt from.")

    async def full(request: web.Request) -> web.Response:
        raise OSError(28, "No space left on device", "audio/1.flac")

    async def echo(request: web.Request) -> web.WebSocketResponse:
        accepted = await page.websocket(request)
        async for message in accepted:
            await accepted.send_str(message.data)
        return accepted

    page.app.router.add_get("/api/greet", greet)
    page.app.router.add_post("/api/greet", greet)
    page.app.router.add_get("/api/fails", fails)
    page.app.router.add_get("/api/full", full)
    page.app.router.add_get("/api/echo", echo)
    async with TestClient(TestServer(page.app)) as client:
        yield page, client


def bearer(page: LocalPage, **more: str) -> Dict[str, str]:
    return {"Authorization": f"Bearer {page.token}", **more}


def test_the_files_need_no_token_and_all_else_does() -> None:
    async def body() -> None:
        async with served() as (page, client):
            for path in ("/", "/page/style.css", "/page/local.js", "/page/icon.svg"):
                answer = await client.get(path)
                assert answer.status == 200
                assert headers(f"127.0.0.1:{client.port}").items() <= dict(answer.headers).items()
            for name in ("nothing.js", "..%2flocal_page.py", "%2e%2e/local_page.py"):
                assert (await client.get(f"/page/{name}")).status == 404
            for shown in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer ä"}, {"Cookie": page.token}):
                answer = await client.get("/api/greet", headers=shown)
                assert answer.status == 401
                assert "open the address that the terminal shows" in (await answer.json())["error"]
            assert (await client.get("/api/nothing", headers={})).status == 401, "nor is it told what there is"
            assert await (await client.get("/api/greet", headers=bearer(page))).json() == {"said": "hello"}

    run(body)


def test_tokens_are_made_anew() -> None:
    tokens = {LocalPage("index.html").token for _ in range(3)}
    assert len(tokens) == 3 and min(map(len, tokens)) >= 32


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "192.168.0.7:8000", "127.0.0.1.evil.example", "localhost.evil", "[::1", ""]
)
def test_a_name_of_the_web_that_leads_here_is_refused(host: str) -> None:
    async def body() -> None:
        async with served() as (page, client):
            for path in ("/", "/api/greet"):
                answer = await client.get(path, headers=bearer(page, Host=host))
                assert answer.status in (400, 403)
                assert (await client.get(path, headers=bearer(page, Host=f"localhost:{client.port}"))).status == 200

    run(body)


def test_other_pages_are_refused_even_with_the_token() -> None:
    async def body() -> None:
        async with served() as (page, client):
            for origin in ("https://evil.example", "null", "http://localhost:3000", f"https://127.0.0.1:{client.port}", ""):
                assert (await client.post("/api/greet", headers=bearer(page, Origin=origin))).status == 403
            own = bearer(page, Origin=f"http://127.0.0.1:{client.port}")
            assert (await client.post("/api/greet", headers=own)).status == 200

    run(body)


def test_a_websocket_shows_the_token_as_its_subprotocol() -> None:
    async def body() -> None:
        async with served() as (page, client):
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await client.ws_connect("/api/echo", protocols=("bearer", "wrong"))
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await client.ws_connect("/api/echo", protocols=("bearer", page.token), headers={"Origin": "https://evil.example"})
            async with client.ws_connect("/api/echo", protocols=("bearer", page.token)) as socket:
                assert socket.protocol == "bearer", "or a browser closes it"
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"
                await socket.send_str("x" * (local_page.MAX_MESSAGE_BYTES + 1))
                assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)

    run(body)


def test_what_fails_is_told_in_a_sentence() -> None:
    async def body() -> None:
        async with served() as (page, client):
            answer = await client.get("/api/fails", headers=bearer(page))
            assert (answer.status, await answer.json()) == (400, {"error": "This cannot be learnt from."})
            answer = await client.get("/api/full", headers=bearer(page))
            assert (answer.status, await answer.json()) == (500, {"error": "audio/1.flac: No space left on device."})

    run(body)


def test_it_listens_on_this_computer_only_at_a_free_port_and_opens_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: "list[str]" = []
    monkeypatch.setattr(local_page.webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    said: "list[str]" = []
    page = LocalPage("index.html")

    def runs_briefly(app: web.Application, sock: socket.socket, **rest: Any) -> None:
        async def start() -> None:
            runner = web.AppRunner(app)
            await runner.setup()
            await runner.cleanup()

        assert sock.getsockname()[0] == "127.0.0.1"
        with socket.create_connection(sock.getsockname()):
            pass
        asyncio.run(start())

    monkeypatch.setattr(local_page.web, "run_app", runs_briefly)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        page.run(taken.getsockname()[1], True, said.append)
        assert said[0].endswith(f"/#token={page.token}") and f":{taken.getsockname()[1]}/" not in said[0]
    assert opened == said
    page = LocalPage("index.html")
    page.run(0, False, said.append)
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(local_page.sys, "platform", "linux")
    LocalPage("index.html").run(0, True, said.append)
    assert len(said) == 3 and len(opened) == 1, "without a screen a text browser would take the terminal"
