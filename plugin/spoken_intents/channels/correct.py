"""Turns corrected from the page, while they are fresh: what each was, said by a developer, kept at once. Sanic glue only.

Only where the channel's setting `correct` is true. A label changes files of the project, so not every caller may say one: where
callers have to show a token, its holder is an operator (see `access`); where they have not, it is who sits at this computer.
"""

import asyncio
import ipaddress
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Dict, List
from urllib.parse import urlsplit

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse
from sanic.response import json as json_response

from spoken_intents.channels.access import AccessSettings, token_in_header
from spoken_intents.channels.upload import hang_up_behind, read_body
from spoken_intents.errors import AudioError, ProtocolError, SpokenIntentsError
from spoken_intents.labels import OUT_OF_SCOPE, seen_label
from spoken_intents.recognizer import NON_SPEECH
from spoken_intents.recordings import Recorder, read_recording

BY = "the talking page"  # whose labels these are
MOST_BYTES = 4_096
WRITTEN_WITHIN_S = 3.0  # a recording is written behind the answer
LOOK_S = 0.05
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")  # what proxies add


def add_corrections(blueprint: Blueprint, recorder: Recorder, access: AccessSettings) -> None:
    """Adds ``/correct``: GET tells which labels there are, POST says what a turn was.

    ``{"call": id, "turn": number, "intent": label or null, "before": the label that was seen, or null}`` is answered by
    ``{"label": as it is now, "said": what was done with the turn}``.
    """

    @blueprint.get("/correct")
    async def labels(request: Request) -> HTTPResponse:
        try:
            _admit(request, access)
            intents = await asyncio.to_thread(lambda: _reviewed().intents)
        except SpokenIntentsError as error:
            return _refusal(error)
        return json_response({"intents": intents, "noise": NON_SPEECH, "out_of_scope": OUT_OF_SCOPE})

    @blueprint.post("/correct", stream=True)
    async def correct(request: Request) -> HTTPResponse:
        try:
            _admit(request, access)
            asked = _asked(await read_body(request, MOST_BYTES))
            file = await _written(recorder, asked["call"], asked["turn"])
            return json_response(await asyncio.to_thread(_label, file, recorder.of_call(asked["call"]), asked))
        except SpokenIntentsError as error:
            hang_up_behind(request)
            return _refusal(error)


def _admit(request: Request, access: AccessSettings) -> None:
    """Raises a ProtocolError unless who asks may correct turns."""
    host = request.headers.get("host", "")
    AccessSettings().check_origin(request.headers.get("origin"), host)  # pages of allowed_origins may talk, and no more
    grant = access.grant(token_in_header(request.headers.get("authorization", "")))
    if access.is_guarded and not grant.is_operator:
        raise ProtocolError("forbidden", "Turns are corrected with the auth_token, or a token of the role admin.", 4403)
    if not access.is_guarded and not _is_here(request, host):
        raise ProtocolError(
            "forbidden", "Without auth_token or jwt_secret, turns are corrected on this computer only, at http://localhost.", 4403
        )


def _is_here(request: Request, host: str) -> bool:
    """Whether a request comes from this computer, by no proxy, and by a name that only this computer has."""
    try:
        named = urlsplit(f"http://{host}").hostname
        return (
            ipaddress.ip_address(request.ip).is_loopback
            and named in ("127.0.0.1", "localhost", "::1")
            and not any(name in request.headers for name in FORWARDED)
        )
    except ValueError:
        return False


def _asked(body: bytes) -> Dict[str, Any]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        asked = None
    known = {"call": (str,), "turn": (int,), "intent": (str, type(None)), "before": (dict, type(None))}
    if not isinstance(asked, dict) or set(asked) != set(known) or not all(type(asked[key]) in known[key] for key in known):
        raise ProtocolError(
            "bad_label", 'A label takes {"call": id, "turn": number, "intent": label or null, "before": label or null}.'
        )
    return asked


async def _written(recorder: Recorder, call: str, turn: int) -> Path:
    """The turn's recording, once it is there."""
    for _ in range(round(WRITTEN_WITHIN_S / LOOK_S)):
        file = recorder.file_of(call, turn)
        if file is not None:
            return file
        await asyncio.sleep(LOOK_S)
    raise ProtocolError("not_recorded", "This turn is not recorded, or too long ago: see `spoken-intents review`.", 4404)


def _label(file: Path, of_call: List[Path], asked: Dict[str, Any]) -> Dict[str, Any]:
    reviewed = _reviewed()
    call = [read_recording(one) for one in of_call if one.exists()]
    if not file.exists():
        raise AudioError(f"{file}: is gone: somebody removed it, or it was too old, or there was no room.")
    turn = read_recording(file)
    turn = replace(turn, about=replace(turn.about, label=seen_label(asked["before"])))
    taken = reviewed.label(turn, asked["intent"], BY, call)
    label = taken.turn.about.label
    return {"label": asdict(label) if label else None, "said": taken.said}


def _reviewed() -> Any:
    from spoken_intents_training.reviewed import Reviewed  # what the project learns of is the training package's

    return Reviewed(Path.cwd())


def _refusal(error: SpokenIntentsError) -> HTTPResponse:
    code, status = (error.code, error.close_code - 4000) if isinstance(error, ProtocolError) else ("not_labelled", 409)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return json_response({"error": {"code": code, "message": str(error)}}, status=status, headers=headers)
