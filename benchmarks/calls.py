"""Figures of calls: what noise is taken for, and how soon the bot answers; tables on the terminal and JSON in results/.

    python benchmarks/calls.py phantoms --model my_model    # wrong turns in an hour of noise
    python benchmarks/calls.py answers                      # from the end of a turn to the bot's first message and first sound

`phantoms` hears the recordings under --speech, which no user needs; `answers` talks to the trained banking assistant.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import typer
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
def answers(times: int = typer.Option(3, help="How often each clip is said."), name: str = typer.Option("answers")) -> None:
    """Says the demo's clips to the banking assistant, each in a call of its own, in real time."""
    clips = [read_audio(file, 30) for file in sorted((PROJECT / "audio/demo").glob("*.ogg")) if file.stem != "noise"]

    async def call(voice: str) -> List[Dict[str, Any]]:
        finals: List[Dict[str, Any]] = []
        for clip in clips * times:
            async with VoiceClient(voice, lambda message: finals.append(message) if message.get("final") else None) as client:
                await client.say(clip)
        return finals

    with Assistant() as assistant:
        finals = [final for final in asyncio.run(call(assistant.voice))[1:] if "intent" in final["turn"]]  # the first warms up
    ahead = float(np.mean([final["turn"]["ahead"] for final in finals]))
    rows = {}
    table = Table("from the end of the turn, ms", "median", "95 %", title=f"{len(finals)} turns, {ahead:.0%} answered in advance")
    for figure in FIGURES:
        values = [final["latency"][figure] for final in finals if figure in final["latency"]]
        if values:
            rows[figure] = {"median": float(np.median(values)), "p95": float(np.percentile(values, 95)), "n": len(values)}
            table.add_row(figure, f"{rows[figure]['median']:.1f}", f"{rows[figure]['p95']:.1f}")
    console.print(table)
    save(name, {"turns": len(finals), "ahead": ahead, "latency": rows})


if __name__ == "__main__":
    app()
