"""One whole telephone call against a real `rasa run`: real recognizer, real voice, Twilio's side independent."""

import asyncio
from typing import Any, Dict

import aiohttp
import numpy as np
import soxr
from conftest import TELEPHONE
from telephone import SILENT, Telephone

from assistant import PROJECT, Assistant
from spoken_intents.audio import SAMPLE_RATE, read_audio

GOODBYE = PROJECT / "audio/train/goodbye/0010.ogg"
ANNOUNCED = "This call is recorded for as long as it lasts, and kept for ninety days."


async def tracker(server: Assistant, sender: str) -> Dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.get(f"{server.http}/conversations/{sender}/tracker") as answer:
        return await answer.json()


def test_a_whole_call(server: Assistant) -> None:
    """The bot speaks first; then keys, and a spoken goodbye, which it returns and hangs up. All of it is in the tracker."""

    async def call() -> Dict[str, Any]:
        async with Telephone(server.port) as phone:
            url, parameters = await phone.dial(TELEPHONE["auth_token"], "?branch=Leeds", TELEPHONE["public_url"])
            assert url == "wss://bot.example/webhooks/twilio_media_streams/websocket"
            await phone.connect(parameters, url)
            await phone.listen(lambda: phone.echoed == ["1"])
            announced = np.frombuffer(phone.heard, np.uint8)
            assert 2 * 8000 < len(announced) < 10 * 8000 and np.mean(announced != SILENT[0]) > 0.5
            for key in "42#":
                await phone.press(key)
            await phone.listen(lambda: len(phone.echoed) == 2)
            await phone.say(soxr.resample(read_audio(GOODBYE, 30), SAMPLE_RATE, 8000))
            await phone.listen(lambda: phone.closed)
            assert phone.closed == 1000 and phone.all_played
            assert len(phone.echoed) == 3, "the last word was played before the call was hung up"
            return await tracker(server, phone.call_sid)

    told = asyncio.run(asyncio.wait_for(call(), 90))
    turns = [event for event in told["events"] if event["event"] == "user"]
    assert [turn["parse_data"]["intent"]["name"] for turn in turns] == ["announce", "dtmf", "goodbye"]
    assert {turn["input_channel"] for turn in turns} == {"twilio_media_streams"}
    assert [event["text"] for event in told["events"] if event["event"] == "bot" and event["text"]] == [
        ANNOUNCED,
        "Keys.",
        "Bye. Thank you for calling.",
    ]
    assert turns[1]["parse_data"]["entities"][0]["value"] == "42"
    known = told["slots"]["session_started_metadata"]
    assert known["parameters"] == {"branch": "Leeds"}
    assert (known["caller"], known["callee"], known["direction"]) == ("+442071838750", "+441514960000", "inbound")
    assert known["call_id"] == told["sender_id"] and known["stream_id"].startswith("MZ")
    assert told["slots"]["branch"] == "Leeds", "an ordinary slot, filled from an entity"
    assert turns[2]["metadata"]["spoken"]["intent"] == "goodbye"
    assert TELEPHONE["auth_token"] not in str(told) and "spoken_intents_token" not in str(told)
