"""One whole telephone call against a real `rasa run`: real recognizer, real voice, Twilio's side independent."""

import asyncio
from typing import Any, Dict

import aiohttp
import numpy as np
import soxr
from conftest import TELEPHONE
from telephone import SILENT, Telephone, mulaw

from assistant import PROJECT, Assistant
from spoken_intents.audio import SAMPLE_RATE, read_audio

GREET, GOODBYE = (PROJECT / f"audio/train/{intent}/0010.ogg" for intent in ("greet", "goodbye"))


def clip(path: Any) -> bytes:
    return mulaw(soxr.resample(read_audio(path, 30), SAMPLE_RATE, 8000))


async def tracker(server: Assistant, sender: str) -> Dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.get(f"{server.http}/conversations/{sender}/tracker") as answer:
        return await answer.json()


def test_a_whole_call(server: Assistant) -> None:
    """Greeted first; a spoken turn, keys, a goodbye to which the bot replies and hangs up. Everything is in the tracker."""

    async def call() -> Dict[str, Any]:
        async with Telephone(server.port) as phone:
            url, parameters = await phone.dial(TELEPHONE["auth_token"], "?branch=Leeds", TELEPHONE["public_url"])
            assert url == "wss://bot.example/webhooks/twilio_media_streams/websocket"
            await phone.connect(parameters, url)
            await phone.listen(lambda: phone.echoed == ["1"])
            greeting = phone.heard
            await phone.send(clip(GREET))
            await phone.listen(lambda: len(phone.echoed) == 2)
            assert phone.heard == greeting + greeting, "the same words, kept from the first time"
            for key in "42#":
                await phone.press(key)
            await phone.listen(lambda: len(phone.echoed) == 3)
            await phone.send(clip(GOODBYE))
            await phone.listen(lambda: phone.closed)
            assert phone.closed == 1000 and phone.all_played
            assert len(phone.echoed) == 4, "the last word was played before the call was hung up"
            spoken = np.frombuffer(greeting, np.uint8)
            assert 0.5 * 8000 < len(spoken) < 5 * 8000 and np.mean(spoken != SILENT[0]) > 0.5
            return await tracker(server, phone.call_sid)

    told = asyncio.run(asyncio.wait_for(call(), 90))
    turns = [event for event in told["events"] if event["event"] == "user"]
    assert [turn["parse_data"]["intent"]["name"] for turn in turns] == ["greet", "greet", "dtmf", "goodbye"]
    assert {turn["input_channel"] for turn in turns} == {"twilio_media_streams"}
    assert [event["text"] for event in told["events"] if event["event"] == "bot" and event["text"]] == [
        *["Hey! How are you?"] * 2,
        "Keys.",
        "Bye. Thank you for calling.",
    ]
    assert turns[2]["parse_data"]["entities"][0]["value"] == "42"
    known = told["slots"]["session_started_metadata"]
    assert known["parameters"] == {"branch": "Leeds"}
    assert (known["caller"], known["callee"], known["direction"]) == ("+442071838750", "+441514960000", "inbound")
    assert known["call_id"] == told["sender_id"] and known["stream_id"].startswith("MZ")
    assert told["slots"]["branch"] == "Leeds", "an ordinary slot, filled from an entity"
    assert TELEPHONE["auth_token"] not in str(told) and "spoken_intents_token" not in str(told)
