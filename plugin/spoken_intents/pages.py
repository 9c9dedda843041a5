"""Pages for browsers, whoever serves them: their files, as they are, and the headers that keep them to themselves."""

import re
from pathlib import Path
from typing import Dict

PAGE = Path(__file__).resolve().parent / "page"
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


def page_files(folder: Path = PAGE) -> Dict[str, Path]:
    """The files of a page's folder by name: nothing else in it is ever served."""
    return {path.name: path for path in sorted(folder.iterdir()) if path.suffix in TYPES}
