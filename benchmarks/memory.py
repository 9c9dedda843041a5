"""Memory of `rasa run`: after load, and over thousands of turns, which come faster than people speak; JSON in results/.

    python benchmarks/memory.py my_project               # a trained banking assistant, such as benchmarks/base_shaped.py makes
    python benchmarks/memory.py my_project --trackers memory

Every call is a conversation of its own. Rasa's tracker store in memory keeps them all, so what it takes is Rasa's to answer for;
in a database (the default here) nothing of them stays in the process.
"""

import asyncio
import json
import shutil
import sys
import tempfile
import time
from enum import Enum
from pathlib import Path
from typing import Any, Dict, List, Tuple

import aiohttp
import numpy as np
import psutil
import typer
import yaml
from bench import HERE, PROJECT, console, save
from rich.progress import track

from spoken_intents.audio import float_to_pcm16, read_audio
from spoken_intents.client import dial

sys.path.append(str(HERE.parent / "scripts"))
from assistant import Assistant

CALLS, TURNS = 4, 10  # at the same time; in each call
EVERY = 200  # turns between two looks at the memory
CLIP = PROJECT / "audio/train/greet/0010.ogg"
UNBOUNDED = {"max_ahead_ms": 3_600_000, "max_messages_per_second": 100_000, "silence_timeout_ms": 0}


class Trackers(str, Enum):
    SQL = "sql"
    MEMORY = "memory"


def prepared(project: Path, folder: Path, trackers: Trackers) -> Path:
    """A copy of the project whose voice channel takes audio faster than real time, and whose trackers are kept as said."""
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns(".rasa", "audio", "base"))
    (folder / "credentials.yml").write_text(yaml.safe_dump({"spoken_intents.channels.voice.VoiceInput": UNBOUNDED}))
    store = (
        {"tracker_store": {"type": "SQL", "dialect": "sqlite", "db": str(folder / "trackers.db")}}
        if trackers is Trackers.SQL
        else {}
    )
    (folder / "endpoints.yml").write_text(yaml.safe_dump(store))
    return folder


async def one_call(http: aiohttp.ClientSession, url: str, clip: bytes, done: List[int]) -> None:
    """Typed and spoken turns, one after the other, each said at once and waited for."""
    socket = await dial(http, url)
    try:
        for turn in range(TURNS):
            if turn % 2:
                await socket.send_str(json.dumps({"text": "hello"}))
            else:
                await socket.send_bytes(clip)
                await socket.send_str(json.dumps({"commit": True}))
            while True:
                message = json.loads((await socket.receive(30)).data)
                if message.get("final"):
                    await socket.send_str(json.dumps({"marker": message["marker"]}))
                    done.append(turn)
                    break
    finally:
        await socket.close()


async def taken(assistant: Assistant, turns: int, until: float) -> List[Tuple[int, float]]:
    """Turns so far and MB, again and again, until there were `turns`, or it is `until`."""
    rasa, clip = psutil.Process(assistant.pid), float_to_pcm16(read_audio(CLIP, 30))
    done: List[int] = []  # turns, in their calls
    looks: List[Tuple[int, float]] = []
    async with aiohttp.ClientSession() as http:
        for _ in track(range(0, turns, EVERY), f"{turns} turns"):
            for _ in range(EVERY // (CALLS * TURNS)):
                await asyncio.gather(*(one_call(http, assistant.voice, clip, done) for _ in range(CALLS)))
            looks.append((len(done), rasa.memory_info().rss / 2**20))
            if time.monotonic() > until:
                break
    return looks


def slope(looks: List[Tuple[int, float]]) -> float:
    """MB for each 1,000 turns."""
    turns, megabytes = np.array(looks).T
    return round(float(np.polyfit(turns / 1000, megabytes, 1)[0]), 2)


def main(
    project: Path = typer.Argument(..., exists=True, file_okay=False, help="A trained banking assistant."),
    turns: int = typer.Option(10_000, min=4 * EVERY, help="At most so many turns."),
    minutes: float = typer.Option(8, help="At most about so long."),
    trackers: Trackers = typer.Option(Trackers.SQL, help="Where Rasa keeps conversations."),
) -> None:
    """Memory of the server after load and over many turns, typed and spoken."""
    with tempfile.TemporaryDirectory() as folder:
        with Assistant(prepared(project, Path(folder) / "project", trackers), actions=False) as assistant:
            loaded = psutil.Process(assistant.pid).memory_info().rss / 2**20
            looks = asyncio.run(taken(assistant, turns, time.monotonic() + 60 * minutes))
    half = len(looks) // 2
    figures: Dict[str, Any] = {
        "trackers": trackers.value,
        "loaded_mb": round(loaded),
        "turns": looks[-1][0],
        "last_mb": round(looks[-1][1]),
        "mb_a_1000_turns": {"first_half": slope(looks[:half]), "second_half": slope(looks[half:])},
        "looks": [(count, round(megabytes, 1)) for count, megabytes in looks],
    }
    growth = figures["mb_a_1000_turns"]
    console.print(
        f"{figures['loaded_mb']} MB after load, {figures['last_mb']} MB after {figures['turns']} turns; "
        f"{growth['first_half']} MB for 1,000 turns in the first half, {growth['second_half']} MB in the second."
    )
    save(f"memory_{trackers.value}", figures)


if __name__ == "__main__":
    typer.run(main)
