"""A page of ours for a browser on this computer: an aiohttp application on 127.0.0.1 that no other site can talk to.

A browser lets any site send requests to this computer, and any name of the web may lead to 127.0.0.1. So the request's
Host has to name this computer, its Origin has to be the page's own, and all but the page's files ask for a token, which
is made anew at each start and told only in the address that the terminal shows. It stands behind a #, where no server's
log, no other page and no other server of this computer ever sees it.
"""

import asyncio
import hmac
import logging
import os
import secrets
import socket
import sys
import weakref
import webbrowser
from pathlib import Path
from typing import Any, Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import WSCloseCode, web

from spoken_intents.channels.access import BEARER, token_in_header, token_in_subprotocols
from spoken_intents.errors import SpokenIntentsError, sentence_of
from spoken_intents.pages import TYPES, headers, page_files

PAGES = Path(__file__).resolve().parent / "pages"
HOSTS = ("127.0.0.1", "localhost")
MAX_BODY_BYTES = 64 * 1024
MAX_MESSAGE_BYTES = 64 * 1024  # of a WebSocket
SECONDS_TO_CLOSE = 2  # for who is connected, when it ends

logger = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LocalPage:
    """An application that serves one page and, below ``/api/``, what the caller adds to `app`.

    The page is at ``/``; all files of the talking page and of ``pages/`` are at ``/page/<name>``. What a handler raises
    on purpose, or because of a file, is answered by ``{"error": "a sentence"}`` with status 400 or 500.

    Args:
        html: The page's name in ``pages/``.

    Attributes:
        app: Add routes below ``/api/`` to it.
        token: What requests below ``/api/`` show: ``Authorization: Bearer <token>``, or as a WebSocket's subprotocol.
    """

    def __init__(self, html: str) -> None:
        self.token = secrets.token_urlsafe(24)
        self.app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY_BYTES)
        self._files = {**page_files(), **page_files(PAGES)}
        self._html = html
        self._sockets: "weakref.WeakSet[web.WebSocketResponse]" = weakref.WeakSet()
        self.app.router.add_get("/", self._file)
        self.app.router.add_get("/page/{name}", self._file)
        self.app.on_shutdown.append(self._hang_up)  # type: ignore[arg-type]  # aiosignal describes another aiohttp

    async def websocket(self, request: web.Request) -> web.WebSocketResponse:
        """The request's WebSocket, accepted. One whose browser is gone is noticed within a minute."""
        accepted = web.WebSocketResponse(protocols=(BEARER,), heartbeat=30, max_msg_size=MAX_MESSAGE_BYTES)
        await accepted.prepare(request)
        self._sockets.add(accepted)
        return accepted

    def run(self, port: int, browser: bool, say: Callable[[str], None]) -> None:
        """Serves until Ctrl-C, at `port`, or at a free one where that is taken.

        Args:
            browser: Whether to open it in the browser, where there is a screen.
            say: Told the address.
        """
        with _listening(port) as listening:
            address = f"http://127.0.0.1:{listening.getsockname()[1]}/#token={self.token}"
            say(address)
            if browser and _has_screen():

                async def open_it(app: web.Application) -> None:
                    await asyncio.to_thread(_opened, address)

                self.app.on_startup.append(open_it)  # type: ignore[arg-type]
            web.run_app(self.app, sock=listening, print=None, access_log=None, shutdown_timeout=SECONDS_TO_CLOSE)

    async def _hang_up(self, app: web.Application) -> None:
        """Or the end would wait for everybody who is connected."""
        await asyncio.gather(*(one.close(code=WSCloseCode.GOING_AWAY) for one in list(self._sockets)), return_exceptions=True)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        try:
            return await handler(request)
        except (SpokenIntentsError, OSError) as error:
            if isinstance(error, OSError):
                logger.warning("%s", sentence_of(error))
            return _error(400 if isinstance(error, SpokenIntentsError) else 500, sentence_of(error))

    def _refusal(self, request: web.Request) -> "web.Response | None":
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        try:
            named = urlsplit(f"http://{host}").hostname
        except ValueError:
            named = None
        if named not in HOSTS:
            return _error(403, f"This page is at http://127.0.0.1 or http://localhost only, not at {host!r:.100}.")
        if origin is not None and origin != f"http://{host}":
            return _error(403, f"Pages of {origin!r:.100} may not use this one.")
        if not request.path.startswith("/api/"):
            return None
        shown = token_in_header(request.headers.get("Authorization", ""))
        shown = shown or token_in_subprotocols(request.headers.get("Sec-WebSocket-Protocol", "")) or ""
        if not hmac.compare_digest(shown.encode(errors="replace"), self.token.encode()):
            return _error(401, "This page was opened without the token of its address: open the address that the terminal shows.")
        return None

    async def _file(self, request: web.Request) -> web.Response:
        path = self._files.get(request.match_info.get("name", self._html))
        if path is None:
            return _error(404, "The page has no such file.")
        sent = {**headers(request.headers.get("Host", "")), "Content-Type": TYPES[path.suffix]}
        return web.Response(body=path.read_bytes(), headers=sent)


def _error(status: int, words: str) -> web.Response:
    return web.json_response({"error": words}, status=status, headers={"Cache-Control": "no-store"})


def _listening(port: int) -> socket.socket:
    """A socket that listens on 127.0.0.1, at `port` or, where that is taken, at one that is free.

    Raises:
        OSError: None is free.
    """
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or the port of a run that just ended is not free
        try:
            listening.bind(("127.0.0.1", port))
        except OSError:
            listening.bind(("127.0.0.1", 0))
        listening.listen()
    except BaseException:
        listening.close()
        raise
    return listening


def _has_screen() -> bool:
    """Whether a browser opens a window, and not itself in the terminal, as text browsers do."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _opened(address: str) -> Any:
    try:
        return webbrowser.open(address)
    except webbrowser.Error:  # the address is in the terminal
        return False
