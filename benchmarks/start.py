"""Seconds from `rasa run` until the banking assistant hears, and what imports take of them: python benchmarks/start.py

The assistant is trained first when there is no model of it.
"""

import asyncio
import os
import re
import subprocess
import sys
import time
from collections import Counter
from typing import Any, Dict, List, Tuple

import numpy as np
import typer
from bench import HERE, PROJECT, console, save
from rich.table import Table

from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.client import VoiceClient

sys.path.append(str(HERE.parent / "scripts"))
from assistant import QUIET, Assistant, train

CLIP = PROJECT / "audio/demo/cake.ogg"  # its answer needs no action server, and ends no call
# What `rasa run` imports, and then what the two components and the channels bring.
RASA = "import rasa.core.run, rasa.server, rasa.core.agent, rasa.engine.recipes.default_components"
OURS = "import spoken_intents.nlu, spoken_intents.channels.voice, spoken_intents.channels.twilio"
MARK = "-- ours"
LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)")  # of -X importtime: microseconds of the module alone, its name
SHOWN = 12


def main(repeats: int = typer.Option(3, help="Starts; each takes half a minute.")) -> None:
    """Start, first turn, imports."""
    if not [*(PROJECT / "models").glob("*.tar.gz")]:
        train()
    imports = [imported() for _ in range(repeats)]
    starts = [asyncio.run(started()) for _ in range(repeats)]
    figures = {name: float(np.median([start[name] for start in starts])) for name in starts[0]}
    console.print(f"`rasa run` hears after {figures['ready_s']:.1f} s (median of {repeats}).")
    console.print(
        f"From the end of the turn to the bot's first message: {figures['first_turn_ms']:.0f} ms in the first turn, "
        f"{figures['second_turn_ms']:.0f} ms in the second."
    )
    rasa, ours = (median([found[part] for found in imports]) for part in (0, 1))
    table = Table("package", "Rasa's imports, s", "ours on top, s", title="seconds importing, each package's own modules")
    for package in sorted({**rasa, **ours}, key=lambda package: -rasa.get(package, 0) - ours.get(package, 0))[:SHOWN]:
        table.add_row(package, f"{rasa.get(package, 0):.2f}", f"{ours.get(package, 0):.2f}")
    table.add_row("all", f"{sum(rasa.values()):.2f}", f"{sum(ours.values()):.2f}")
    console.print(table)
    console.print("On top: " + ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in [*ours.items()][:SHOWN]))
    save("start", {"repeats": repeats, "medians": figures, "starts": starts, "imports_s": {"rasa": rasa, "ours_on_top": ours}})


async def started() -> Dict[str, float]:
    """Seconds until the recognizer answers, and milliseconds from the end of the first two turns to the bot's first message."""
    clip = read_audio(CLIP, 30)
    finals: List[Dict[str, Any]] = []
    began = time.monotonic()
    with Assistant(actions=False) as assistant:
        ready = time.monotonic() - began
        async with VoiceClient(
            assistant.voice, lambda message: finals.append(message) if message.get("final") else None
        ) as client:
            for _ in range(2):
                await client.say(clip)
    spoken = [final["latency"]["first_response_latency_ms"] for final in finals if "intent" in final.get("turn", {})]
    if len(spoken) < 2:
        raise RuntimeError(f"{len(spoken)} of 2 turns were answered; {CLIP.name} is {len(clip) / SAMPLE_RATE:.1f} s long.")
    return {"ready_s": ready, "first_turn_ms": spoken[0], "second_turn_ms": spoken[1]}


def imported(rasa: str = RASA, ours: str = OURS) -> Tuple[Dict[str, float], Dict[str, float]]:
    """Seconds that importing takes by top-level package, the longest first: Rasa's, and what ours adds to that.

    Python counts while it imports, which makes importing slower by some tenths.
    """
    code = f"{rasa}\nimport sys; print({MARK!r}, file=sys.stderr)\n{ours}"
    command = [sys.executable, "-W", "ignore", "-X", "importtime", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **QUIET})
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    before, _, behind = done.stderr.partition(MARK)
    return by_package(before), by_package(behind)


def by_package(log: str) -> Dict[str, float]:
    """Seconds of each top-level package in what -X importtime wrote, the longest first."""
    microseconds: Counter = Counter()
    for took, module in LINE.findall(log):
        microseconds[module.split(".")[0]] += int(took)
    return {package: took / 1e6 for package, took in microseconds.most_common()}


def median(found: List[Dict[str, float]]) -> Dict[str, float]:
    """Of each package's seconds, the longest first."""
    medians = {package: float(np.median([times.get(package, 0) for times in found])) for package in found[0]}
    return dict(sorted(medians.items(), key=lambda pair: -pair[1]))


if __name__ == "__main__":
    typer.run(main)
