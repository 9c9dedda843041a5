"""The voice channel's page for browsers: the files of ``spoken_intents/page``, as they are."""

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
# A newer plugin's files must not meet an older one's in a browser's cache. The rest of the policy is in index.html: which
# pages may show this one in a frame can only be said here.
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
}


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
        return _file(files["index.html"])

    @blueprint.get("/page/<name>")
    async def file(request: Request, name: str) -> HTTPResponse:
        if name not in files:
            raise NotFound(f"The page has no file {name}.")
        return _file(files[name])


def _file(path: Path) -> HTTPResponse:
    return raw(path.read_bytes(), content_type=TYPES[path.suffix], headers=HEADERS)
