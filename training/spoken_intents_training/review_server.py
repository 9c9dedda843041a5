"""The server of ``spoken-intents review``: what the page asks, below ``/api/``, all of one project.

GET about                       who reviews what: {by, project, intents, reserved, model}
GET turns                       {turns, not_shown, damaged, heard: [clips that can be found as alike, of so many]}
GET turns/<day>/<file>          {lines, nearest}
GET turns/<day>/<file>/audio    FLAC
GET clip?reference=...          a labelled clip
POST label                      {id, intent, before}: {turn, said}
"""

import asyncio
import json
import logging
import threading
from typing import Any, Callable, Dict, Tuple

from aiohttp import web

from spoken_intents.errors import DataError
from spoken_intents.labels import OUT_OF_SCOPE, seen_label
from spoken_intents.recognizer import NON_SPEECH
from spoken_intents_training.local_page import LocalPage
from spoken_intents_training.review import Review

UNCACHED = {"Cache-Control": "no-store"}

logger = logging.getLogger(__name__)


class ReviewServer:
    """What `LocalPage` serves for a project under review."""

    def __init__(self, review: Review) -> None:
        self.review = review
        self.page = LocalPage("review.html")
        self.heard: Tuple[int, int] = (0, 0)  # so many of so many labelled clips can be found
        routes = self.page.app.router
        routes.add_get("/api/about", self._about)
        routes.add_get("/api/turns", self._turns)
        routes.add_get("/api/turns/{day}/{file}", self._turn)
        routes.add_get("/api/turns/{day}/{file}/audio", self._audio)
        routes.add_get("/api/clip", self._clip)
        routes.add_post("/api/label", self._label)

    def run(self, port: int, browser: bool, say: Callable[[str], None]) -> None:
        """Serves until Ctrl-C (see `LocalPage.run`); meanwhile hears what is labelled."""
        if self.review.nearest is not None:
            threading.Thread(target=self.listen, name="listening", daemon=True).start()
        self.page.run(port, browser, say)

    def listen(self) -> None:
        """Hears the labelled clips, one after the other."""
        assert self.review.nearest is not None
        try:
            clips = self.review.listen()
            for number, clip in enumerate(clips, 1):
                self.review.nearest.hear(clip)
                self.heard = (number, len(clips))
        except Exception:  # of a thread nobody would be told
            logger.exception("The labelled clips could not be heard: none will be shown as alike.")

    async def _about(self, request: web.Request) -> web.Response:
        review = self.review
        return _json(
            {
                "by": review.by,
                "project": review.project.name,
                "folder": str(review.directory),
                "intents": review.reviewed.intents,
                "noise": NON_SPEECH,
                "out_of_scope": OUT_OF_SCOPE,
                "hears": review.nearest is not None,
            }
        )

    async def _turns(self, request: web.Request) -> web.Response:
        turns = await asyncio.to_thread(self.review.turns)
        return _json({"turns": turns, "not_shown": self.review.not_shown, "damaged": self.review.damaged, "heard": self.heard})

    async def _turn(self, request: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(self.review.more_of, _name(request)))

    async def _audio(self, request: web.Request) -> web.Response:
        return _flac(await asyncio.to_thread(self.review.audio, _name(request)))

    async def _clip(self, request: web.Request) -> web.Response:
        return _flac(await asyncio.to_thread(self.review.clip, request.query.get("reference", "")))

    async def _label(self, request: web.Request) -> web.Response:
        asked = _asked(await request.text())
        told = await asyncio.to_thread(self.review.label, asked["id"], asked["intent"], seen_label(asked["before"]))
        return _json(told)


def _name(request: web.Request) -> str:
    return f"{request.match_info['day']}/{request.match_info['file']}"


def _asked(text: str) -> Dict[str, Any]:
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError):
        asked = None
    known = {"id": (str,), "intent": (str, type(None)), "before": (dict, type(None))}
    if not isinstance(asked, dict) or set(asked) != set(known) or not all(isinstance(asked[key], known[key]) for key in known):
        raise DataError(
            'A label takes {"id": "<day>/<file>", "intent": "..." or null, "before": the label that was seen, or null}.'
        )
    return asked


def _json(content: Any) -> web.Response:
    return web.json_response(content, headers=UNCACHED)


def _flac(content: bytes) -> web.Response:
    return web.Response(body=content, content_type="audio/flac", headers=UNCACHED)
