"""The voice channel's page for browsers: the files of ``spoken_intents/page``, as they are."""

import re
from pathlib import Path
from typing import Dict

from sanic import Blueprint
from sanic.exceptions import NotFound
from sanic.request import Request
from sanic.response import HTTPResponse, raw, redirect

PAGE = Path(__file__).resolve().parent.parent / "page"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'",
    "script-src 'self'",  # no inline script: what a bot says, or somebody types, is never run
    "style-src 'self'",
    "img-src 'self' https:",  # bots show pictures from anywhere
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'self'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
HEADERS = {
    "Cache-Control": "no-cache",  # a newer plugin's files must not meet an older one's in a browser's cache
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), display-capture=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
HOST = re.compile(r"[\w.:\[\]-]{1,255}", re.ASCII)


def headers(host: str) -> Dict[str, str]:
    """What every file is sent with.

    Args:
        host: As the request names it. Not every browser counts a WebSocket of the page's own server as ``'self'``.
    """
    sockets = f" ws://{host} wss://{host}" if HOST.fullmatch(host) else ""  # a header may hold anything
    return {**HEADERS, "Content-Security-Policy": "; ".join((*POLICY, f"connect-src 'self'{sockets}"))}


def page_files() -> Dict[str, Path]:
    """The page's files by name: nothing else is ever served."""
    return {path.name: path for path in sorted(PAGE.iterdir()) if path.suffix in TYPES}


def add_page(blueprint: Blueprint) -> None:
    """Adds the page at ``/`` and its files at ``/page/<name>``."""
    files = page_files()

    @blueprint.get("/")
    async def index(request: Request) -> HTTPResponse:
        if not request.path.endswith("/"):  # its files are named relative to the folder
            return redirect(request.path + "/")
        return _file(request, files["index.html"])

    @blueprint.get("/page/<name>")
    async def file(request: Request, name: str) -> HTTPResponse:
        if name not in files:
            raise NotFound(f"The page has no file {name}.")
        return _file(request, files[name])


def _file(request: Request, path: Path) -> HTTPResponse:
    return raw(path.read_bytes(), content_type=TYPES[path.suffix], headers=headers(request.headers.get("host", "")))
