"""The voice channel's page for browsers: the files of ``spoken_intents/page``, as they are."""

from pathlib import Path

from sanic import Blueprint
from sanic.exceptions import NotFound
from sanic.request import Request
from sanic.response import HTTPResponse, raw, redirect

from spoken_intents.pages import TYPES, headers, page_files


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
