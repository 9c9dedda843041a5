"""A real `rasa run` that is told to end, killed, given another model, or has no disk: conversations go on."""

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import tarfile
from pathlib import Path
from typing import Any, Dict, List

import aiohttp
import numpy as np
import psutil
import pytest
import yaml

from assistant import Assistant, free_port
from spoken_intents.audio import read_audio
from spoken_intents.client import VoiceClient
from spoken_intents.errors import ProtocolError
from spoken_intents.seal import ITSELF, SEAL, sealed

pytestmark = pytest.mark.slow  # a server is started three times

GREETING = ["Hey! How are you?"]
CHEERING = ["Here is something to cheer you up:", "Did that help you?"]
HAPPY = ["Great, carry on!"]  # the answer to a yes, where it is known what was asked
EXPLAINED = ["You may ask me anything you like, at any time, and in your own words."]
START_S = 600


@pytest.fixture(scope="module")
def folder(spoken_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that a server needs: the model, and conversations on disk."""
    folder = tmp_path_factory.mktemp("restarted")
    (folder / "models").mkdir()
    newest = max((spoken_project / "models").glob("*.tar.gz"), key=os.path.getmtime)
    shutil.copy(newest, folder / "models")
    voice = {"speech": "none", "shutdown_timeout_ms": 20_000}
    (folder / "credentials.yml").write_text(yaml.safe_dump({"spoken_intents.channels.voice.VoiceInput": voice}))
    store = {"type": "SQL", "dialect": "sqlite", "db": "conversations.db"}
    (folder / "endpoints.yml").write_text(yaml.safe_dump({"tracker_store": store}))
    return folder


@pytest.fixture(scope="module")
def clips(spoken_project: Path) -> Dict[str, np.ndarray]:
    return {intent: read_audio(spoken_project / "audio" / intent / "1.ogg", 30) for intent in ("greet", "deny")}


async def texts(call: VoiceClient, text: str) -> List[str]:
    answer = await call.type(text, patience_s=60)
    return answer.texts if answer else []


async def until(condition: Any, seconds: float = 60) -> None:
    for _ in range(int(seconds * 50)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came to that")


def another(folder: Path, port: int) -> Assistant:
    """A server at an address whose last connections the system still remembers."""
    server = Assistant(folder, actions=False, api=True)
    server.port = port
    return server


def with_labels_swapped(model: Path, to: Path) -> Path:
    """Another model: it hears "deny" where this one hears "greet", and the other way round."""
    with tarfile.open(model) as archive:
        archive.extractall(to / "unpacked")
    (described,) = (to / "unpacked").rglob("model.json")
    content = json.loads(described.read_text())
    other = {"greet": "deny", "deny": "greet"}
    content["labels"] = [other.get(label, label) for label in content["labels"]]
    described.write_text(json.dumps(sealed(content, [described.with_name(name) for name in content[SEAL] if name != ITSELF])))
    metadata = to / "unpacked" / "metadata.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "model_id": "swapped"}))
    with tarfile.open(to / "swapped.tar.gz", "w:gz") as archive:
        for file in (to / "unpacked").iterdir():
            archive.add(file, file.name)
    return to / "swapped.tar.gz"


def test_conversations_outlive_their_servers(folder: Path, clips: Dict[str, np.ndarray], tmp_path: Path) -> None:
    port, events = free_port(), []

    async def told_to_end(server: Assistant, anna: VoiceClient) -> None:
        """Whoever waits for an answer gets it; then all are sent away, and the process ends."""
        process = psutil.Process(server.pid)
        async with VoiceClient(server.voice, events.append, sender="berta") as berta:
            answer = asyncio.create_task(berta.say(clips["greet"], patience_s=60))
            await until(lambda: any(event.get("trace_event") == "user_speaking_start" for event in events))
            process.send_signal(signal.SIGTERM)
            answered = await answer
            assert answered and answered.heard["intent"] == "greet" and answered.texts == GREETING
            await until(lambda: berta.is_lost and anna.is_lost)
            assert events[-1]["error"]["code"] == "going_down"
        await asyncio.to_thread(process.wait, 60)

    async def without_its_database(server: Assistant) -> None:
        """SQLite is locked by somebody else for longer than Rasa waits for it: the bot answers a stranger meanwhile."""
        async with VoiceClient(server.voice, sender="dora") as dora:
            assert await texts(dora, "/greet") == GREETING
            blocker = sqlite3.connect(folder / "conversations.db")
            blocker.execute("BEGIN EXCLUSIVE")
            try:
                assert await texts(dora, "/explain") == EXPLAINED
            finally:
                blocker.rollback()
                blocker.close()
            assert await texts(dora, "/mood_unhappy") == CHEERING, "as the turn in between never was"

    async def killed(server: Assistant) -> None:
        async with VoiceClient(server.voice, sender="emil") as emil:
            assert await texts(emil, "/greet") == GREETING
            assert await texts(emil, "/mood_unhappy") == CHEERING
            psutil.Process(server.pid).kill()
            with pytest.raises(ProtocolError, match="hung up"):
                await texts(emil, "/affirm")
            assert emil.is_lost
            with another(folder, port):
                await emil.dial_again(START_S)
                assert await texts(emil, "/affirm") == HAPPY

    async def given_another_model(server: Assistant) -> None:
        """Each turn is one model's: what the caller is told is what Rasa has, though answers in advance were the old one's."""
        swapped = with_labels_swapped(next((folder / "models").glob("*.tar.gz")), tmp_path)
        seen: List[Any] = []
        async with VoiceClient(server.voice, seen.append, sender="clara") as clara, aiohttp.ClientSession() as http:
            await clara.say(clips["greet"], patience_s=60)
            loading = asyncio.create_task(http.put(f"{server.http}/model", json={"model_file": str(swapped)}))
            while not loading.done():  # it takes some seconds, in which nobody is heard, and then all that was said
                await clara.say(clips["greet"], patience_s=60)
            assert (await loading).status == 204
            await clara.say(clips["greet"], patience_s=60)
            heard = [event["intent"] for event in seen if event.get("trace_event") == "transcript"]
            async with http.get(f"{server.http}/conversations/clara/tracker") as answer:
                turns = [event for event in (await answer.json())["events"] if event["event"] == "user"]
            assert heard[0] == "greet" and heard[-1] == "deny", heard
            assert [turn["metadata"]["spoken"]["intent"] for turn in turns] == heard
            assert [turn["parse_data"]["intent"]["name"] for turn in turns] == heard

    async def main() -> None:
        with another(folder, port) as server:
            async with VoiceClient(server.voice, sender="anna") as anna:
                assert await texts(anna, "/greet") == GREETING
                assert await texts(anna, "/mood_unhappy") == CHEERING
                await told_to_end(server, anna)
                with another(folder, port) as again:
                    await anna.dial_again(START_S)
                    assert await texts(anna, "/affirm") == HAPPY
                    await without_its_database(again)
                    await given_another_model(again)
                    await killed(again)

    asyncio.run(main())
