"""The server of ``spoken-intents teach``: one WebSocket for each person who teaches, all about one project.

A client sends its microphone as binary messages (16-bit PCM, mono), and JSON:

    {"speaker": "Anna", "sample_rate": 48000}        first
    {"do": "listen" | "stop" | "finish" | "keep" | "skip" | "own_words" | "undo"}
    {"do": "choose", "intent": "greet"}              "": whichever has the fewest recordings
    {"do": "remove", "reference": "audio/taught/...flac"}

and is told, in JSON, what the page draws: ``progress`` and ``clips``, ``prompt``, ``speech``, ``take`` (the take's samples
follow as one binary message, 16 kHz), ``kept``, ``removed``, ``nothing``, ``error``.
"""

import asyncio
import json
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Dict, Optional

from aiohttp import WSMsgType, web

from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16, pcm16_to_float
from spoken_intents.channels.protocol import SAMPLE_RATES, Allowance
from spoken_intents.errors import ConfigError, ProtocolError, SpokenIntentsError, sentence_of
from spoken_intents.segmenter import SpeechPaused
from spoken_intents_training.examples import Example
from spoken_intents_training.local_page import LocalPage
from spoken_intents_training.teach import NAME, Heard, Lesson, Prompt, Take, Teaching, speaker_name

MOST_PEOPLE = 20  # at the same time
SHOWN_CLIPS = 100  # of one person's, the last ones
FIRST_WORD_S = 10  # in which a connection says who it is
AHEAD_S = 30  # of audio that may come faster than it was said
PATIENCE_S = 2.0  # with a browser that reads nothing
MESSAGES_A_SECOND, MESSAGES_AT_ONCE = 20, 100


class TeachServer:
    """What `LocalPage` serves for a project that is being taught."""

    def __init__(self, teaching: Teaching) -> None:
        self.teaching = teaching
        self.page = LocalPage("teach.html")
        self._people: Dict[web.WebSocketResponse, Lesson] = {}
        self.page.app.router.add_get("/api/about", self._about)
        self.page.app.router.add_get("/api/lesson", self._lesson)
        self.page.app.router.add_get("/api/clip/{file}", self._clip)

    async def _about(self, request: web.Request) -> web.Response:
        """What the page says before anybody is recorded."""
        about = {
            "project": self.teaching.project.resolve().name,
            "folder": str(self.teaching.folder),
            "nlu": str(self.teaching.nlu),
            "people": self.teaching.people(),
            "goal": self.teaching.goal,
            "notices": self.teaching.notices,
        }
        return web.json_response(about, headers={"Cache-Control": "no-store"})

    async def _clip(self, request: web.Request) -> web.Response:
        clip = await asyncio.to_thread(self.teaching.clip, f"audio/{NAME}/{request.match_info['file']}")
        return web.Response(body=clip, content_type="audio/flac", headers={"Cache-Control": "no-store"})

    async def _lesson(self, request: web.Request) -> web.WebSocketResponse:
        socket = await self.page.websocket(request)
        lesson: Optional[Lesson] = None
        try:
            lesson = await self._begin(socket)
            await self._tell_all()
            await socket.send_json(_prompt(lesson.prompt))
            await self._follow(socket, lesson)
        except ConnectionError:
            pass  # its browser is gone; what was kept is kept
        except (SpokenIntentsError, OSError) as error:
            await _send(socket, {"error": sentence_of(error), "over": True})
        finally:
            self._people.pop(socket, None)
            if lesson is not None:
                lesson.end()
            await socket.close()
        return socket

    async def _begin(self, socket: web.WebSocketResponse) -> Lesson:
        if len(self._people) >= MOST_PEOPLE:
            raise ConfigError(f"{MOST_PEOPLE} people are teaching at the moment, and no more can. Close one of the other pages.")
        try:
            first = _fields(await socket.receive_str(timeout=FIRST_WORD_S))
        except (TypeError, asyncio.TimeoutError):
            raise ProtocolError("no_speaker", "The first message says who speaks, as JSON.") from None
        rate, speaker = first.get("sample_rate"), first.get("speaker")
        if rate not in SAMPLE_RATES or isinstance(rate, bool) or not isinstance(speaker, str):
            raise ProtocolError("bad_message", f"The first message takes a speaker, and a sample_rate of {SAMPLE_RATES}.")
        lesson = await asyncio.to_thread(Lesson, self.teaching, speaker_name(speaker), rate)
        self._people[socket] = lesson
        return lesson

    async def _follow(self, socket: web.WebSocketResponse, lesson: Lesson) -> None:
        sound = Allowance(lesson.sample_rate * 2, lesson.sample_rate * 2 * AHEAD_S)
        messages = Allowance(MESSAGES_A_SECOND, MESSAGES_AT_ONCE)
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                if not sound.spend(len(message.data)):
                    raise ProtocolError("too_fast", "Sound comes faster than anybody speaks.")
                for news in lesson.hear(pcm16_to_float(message.data)):
                    await _tell(socket, news)
            elif message.type is WSMsgType.TEXT:
                if not messages.spend(1):
                    raise ProtocolError("too_many_messages", "Too many messages at once.")
                await self._do(socket, lesson, _fields(message.data))

    async def _do(self, socket: web.WebSocketResponse, lesson: Lesson, message: Dict[str, Any]) -> None:
        """Does what a message asks for. What the disk refuses is told, and may be tried again."""
        do, before = message.get("do"), lesson.prompt
        try:
            if do == "finish":
                news = lesson.finish()
                for one in news:
                    await _tell(socket, one)
                if not news:
                    await socket.send_json({"nothing": True})
            elif do == "keep":
                kept = await asyncio.to_thread(lesson.keep)
                if kept is not None:
                    await socket.send_json({"kept": kept.reference})
                    await self._tell_all()
            elif do in ("undo", "remove"):
                removed = await asyncio.to_thread(self._removed, lesson, message)
                await socket.send_json({"removed": removed.reference if removed else None})
                await self._tell_all()
            elif do == "choose":
                lesson.choose(str(message.get("intent", "")))
            elif do in ("listen", "stop", "skip", "own_words"):
                getattr(lesson, do)()
            else:
                raise ProtocolError("bad_message", "A message says what to do.")
        except ProtocolError:
            raise
        except (SpokenIntentsError, OSError) as error:
            await socket.send_json({"error": f"That was not done, and nothing was changed. {sentence_of(error)}"})
        if lesson.prompt is not before:
            await socket.send_json(_prompt(lesson.prompt))

    def _removed(self, lesson: Lesson, message: Dict[str, Any]) -> Optional[Example]:
        if message["do"] == "undo":
            return lesson.undo()
        return self.teaching.remove(str(message.get("reference", "")), lesson.speaker)

    async def _tell_all(self) -> None:
        """How far everybody is, which what one keeps changes for all."""
        people = list(self._people.items())
        await asyncio.gather(*(_send(socket, self._state(lesson)) for socket, lesson in people))

    def _state(self, lesson: Lesson) -> Dict[str, Any]:
        clips = self.teaching.clips(lesson.speaker)
        shown = [{"reference": one.reference, "intent": one.intent, "sentence": one.transcript} for one in clips[:SHOWN_CLIPS]]
        return {"progress": [asdict(one) for one in self.teaching.progress(lesson.speaker)], "clips": shown, "own": len(clips)}


def _fields(text: str) -> Dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise ProtocolError("bad_message", "A message is a JSON object.")
    return fields


async def _send(socket: web.WebSocketResponse, message: Dict[str, Any]) -> None:
    """Sends to who may be gone, or read nothing."""
    with suppress(ConnectionError, RuntimeError, asyncio.TimeoutError):
        await asyncio.wait_for(socket.send_json(message), PATIENCE_S)


async def _tell(socket: web.WebSocketResponse, news: Heard) -> None:
    """Speech as the waveform shows it, or the take, of which the samples follow."""
    if isinstance(news, Take):
        faults = [{"code": fault.code, "words": fault.words, "spoils": fault.spoils} for fault in news.faults]
        await socket.send_json({"take": {"seconds": news.seconds, "faults": faults}})
        await socket.send_bytes(float_to_pcm16(news.samples))
    else:
        kind = "pause" if isinstance(news, SpeechPaused) else "speech"
        await socket.send_json({"speech": kind, "at_ms": news.at_sample * 1000 / SAMPLE_RATE})


def _prompt(prompt: Prompt) -> Dict[str, Any]:
    return {"prompt": asdict(prompt)}
