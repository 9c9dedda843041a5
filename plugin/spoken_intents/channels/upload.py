"""A recording on its way here by HTTP: read up to a limit, whole or as a form. Sanic glue only.

Sanic would read the whole body before anybody is asked, and cut a form into as many parts as its sender likes.
"""

import asyncio
from typing import List, Tuple

from sanic.headers import parse_content_header
from sanic.request import Request

from spoken_intents.errors import ProtocolError

FORM_BYTES = 65_536  # of a form, beside the recording in it
MAX_PARTS = 16
MAX_BOUNDARY = 70  # characters; RFC 2046


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request whose route has ``stream=True``, within the time that Sanic gives requests (REQUEST_TIMEOUT).

    Raises:
        ProtocolError: (``no_length``, ``too_large``, ``too_slow``) Nothing more of it is read.
    """
    length = request.headers.get("content-length", "0")
    if "transfer-encoding" in request.headers or not (length.isascii() and length.isdecimal()):
        _read_no_more(request)  # a body in chunks costs the more the smaller they are
        raise ProtocolError("no_length", "Say the recording's Content-Length; a body in chunks is not taken.", 4411)
    if int(length) > max_bytes:
        raise ProtocolError("too_large", f"{length} bytes: at most {max_bytes} are taken.", 4413)
    body = bytearray()

    async def read() -> None:
        async for piece in request.stream:  # type: ignore[union-attr]
            body.extend(piece)

    within_s = request.app.config.REQUEST_TIMEOUT
    try:
        await asyncio.wait_for(read(), within_s)
    except asyncio.TimeoutError:
        _read_no_more(request)
        raise ProtocolError("too_slow", f"The recording did not arrive within {within_s} s.", 4408) from None
    return bytes(body)


def hang_up_behind(request: Request) -> None:
    """Where the answer comes before the body was read, the connection is of no use for another request: some clients send the
    rest, which Sanic reads and throws away, and some do not."""
    request.stream.keep_alive = False  # type: ignore[union-attr]


def _read_no_more(request: Request) -> None:
    """Nor is the rest of the body thrown away."""
    request.stream.request_max_size = 0  # type: ignore[union-attr]


def form_of(body: bytes, content_type: str) -> List[Tuple[str, bytes]]:
    """The fields of a ``multipart/form-data`` body (RFC 7578), files and others: names, which may come again, and contents.

    Raises:
        ProtocolError: (``bad_form``) It is none, or has more than `MAX_PARTS` parts.
    """
    boundary = str(parse_content_header(content_type)[1].get("boundary", "")).encode(errors="replace")
    if not 0 < len(boundary) <= MAX_BOUNDARY:
        raise ProtocolError("bad_form", f"A form's content type names a boundary of 1 to {MAX_BOUNDARY} characters.")
    first, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary, MAX_PARTS + 1)
    if len(parts) > MAX_PARTS or not parts or not parts[-1].startswith(b"--"):
        raise ProtocolError("bad_form", f"A form has 1 to {MAX_PARTS - 1} parts, and ends with its boundary and --.")
    fields: List[Tuple[str, bytes]] = []
    for part in parts[:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        for line in head[:FORM_BYTES].decode(errors="replace").split("\r\n"):
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-disposition":
                fields.append((str(parse_content_header(value)[1].get("name", "")), content))
    return fields
