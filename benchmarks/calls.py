"""Figures of calls: what noise is taken for, and how soon the bot answers; tables on the terminal and JSON in results/.

    python benchmarks/calls.py phantoms --model my_model    # wrong turns in an hour of noise
    python benchmarks/calls.py answers                      # from the end of a turn to the bot's first message and first sound

`phantoms` hears the recordings under --speech, which no user needs; `answers` talks to the trained banking assistant.
"""

import asyncio
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import typer
from base_shaped import base_shaped
from bench import HERE, PROJECT, console, save
from rich.table import Table
from turns import SPEECH, speech_marks

from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.client import VoiceClient
from spoken_intents.recognizer import Recognizer
from spoken_intents.segmenter import SegmenterSettings, segment
from spoken_intents_training.augment import telephone
from spoken_intents_training.evaluate import recordings

sys.path.append(str(HERE.parent / "scripts"))
from assistant import Assistant

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)
THRESHOLD = typer.Option(0.45, help="Of the assistant's FallbackClassifier.")
FIGURES = ("endpoint_delay_ms", "asr_latency_ms", "first_response_latency_ms", "tts_first_byte_latency_ms")
CHANNEL = "spoken_intents.channels.voice.VoiceInput"
# A pause that is told when it is as long as the silence that ends a turn leaves no time to classify in.
WAYS = {"in advance": {"turn_end": "fixed"}, "when the turn is over": {"turn_end": "fixed", "pause_ms": 600}}
SHORTEST_SAMPLES = SAMPLE_RATE // 10  # of marked speech in an utterance, for it to be somebody's


@app.command()
def phantoms(
    model: Path = typer.Option(..., help="A model's directory."), speech: Path = SPEECH, threshold: float = THRESHOLD
) -> None:
    """Utterances that the detector begins where nobody speaks, and what becomes of them."""
    recognizer = Recognizer(model)
    marked = speech_marks(speech / "vad/speech.rttm")
    rows: List[Dict[str, Any]] = []
    for vad in ("webrtcvad", "silero"):
        settings = SegmenterSettings(vad=vad)
        for name, line in (("16 kHz", lambda samples: samples), ("telephone", telephone)):
            noise = [(line(read_audio(file, 600)), []) for file in recordings(speech / "noise")]
            meetings = [(line(read_audio(file, 600)), marked[file.stem]) for file in sorted((speech / "vad").glob("*.flac"))]
            for kind, heard in (("noise", noise), ("meetings, where nobody speaks", meetings)):
                rows.append({"vad": vad, "line": name, "kind": kind, **_phantoms(recognizer, settings, heard, threshold)})
    table = Table("detector", "line", "what", "minutes", "begun", "wrong turns", "an hour", "above the fallback threshold")
    for row in rows:
        counts = [str(row[key]) for key in ("begun", "turns", "an_hour", "sure")]
        table.add_row(row["vad"], row["line"], row["kind"], f"{row['seconds'] / 60:.1f}", *counts)
    console.print(table)
    save("phantoms", {"threshold": threshold, "base_model": recognizer.description["base_model"], "rows": rows})


def _phantoms(recognizer: Recognizer, settings: SegmenterSettings, heard: Any, threshold: float) -> Dict[str, Any]:
    begun = turns = sure = 0
    quiet_samples = 0
    for samples, marks in heard:
        spoken = np.zeros(len(samples), dtype=bool)
        for start, end in marks:
            spoken[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)] = True
        quiet_samples += int((~spoken).sum())
        for utterance in segment(samples, settings):
            if spoken[utterance.start_sample : utterance.speech_end_sample].sum() >= SHORTEST_SAMPLES:
                continue
            begun += 1
            recognition = recognizer.classify(utterance.samples)
            turns += recognition.is_speech
            sure += recognition.is_speech and recognition.confidence >= threshold
    seconds = quiet_samples / SAMPLE_RATE
    return {
        "seconds": round(seconds, 1),
        "begun": begun,
        "turns": turns,
        "an_hour": round(turns * 3600 / seconds, 1),
        "sure": sure,
    }


@app.command()
def answers(
    project: Path = typer.Option(
        PROJECT, help="The assistant, or a folder where base_shaped.py makes one of whisper-base.en's shape."
    ),
    times: int = typer.Option(4, help="How often each clip is said."),
    name: str = typer.Option("answers", help="What to call the results."),
) -> None:
    """Says the demo's clips to the banking assistant in real time, each in a call of its own.

    To two servers in turn: one classifies in the silence that it waits for, the other when that is over.
    """
    trained = project if project == PROJECT else base_shaped(project.resolve())
    clips = [read_audio(file, 30) for file in sorted((PROJECT / "audio/demo").glob("*.ogg")) if file.stem != "noise"]
    finals: Dict[str, List[Dict[str, Any]]] = {way: [] for way in WAYS}

    async def call(way: str, voice: str, clip: np.ndarray) -> None:
        async with VoiceClient(voice, lambda message: finals[way].append(message) if message.get("final") else None) as client:
            await client.say(clip)

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {}
        for way, settings in WAYS.items():
            credentials = Path(folder) / f"{len(servers)}.yml"
            credentials.write_text(json.dumps({CHANNEL: settings}))
            servers[way] = stack.enter_context(Assistant(trained, credentials=credentials))
        for way, assistant in servers.items():
            asyncio.run(call(way, assistant.voice, clips[0]))  # warms up
            finals[way].clear()
        for clip in clips * times:
            for way, assistant in servers.items():
                asyncio.run(call(way, assistant.voice, clip))
    ways = {way: _figures(way, [final for final in finals[way] if "intent" in final["turn"]]) for way in WAYS}
    save(name, {"ways": ways})


def _figures(way: str, finals: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Prints and returns the median and the 95th percentile of each figure of these turns."""
    ahead = float(np.mean([final["turn"]["ahead"] for final in finals]))
    rows = {}
    table = Table("from the end of the turn, ms", "median", "95 %", title=f"{way}: {len(finals)} turns, {ahead:.0%} in advance")
    for figure in FIGURES:
        values = [final["latency"][figure] for final in finals if figure in final["latency"]]
        if values:
            rows[figure] = {"median": float(np.median(values)), "p95": float(np.percentile(values, 95)), "n": len(values)}
            table.add_row(figure, f"{rows[figure]['median']:.1f}", f"{rows[figure]['p95']:.1f}")
    console.print(table)
    return {"turns": len(finals), "ahead": ahead, "latency": rows}


if __name__ == "__main__":
    app()
