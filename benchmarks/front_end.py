"""Microseconds that one second of a caller's audio costs before any model hears it: python benchmarks/front_end.py

What comes in pieces is done piece by piece, 20 ms each, as calls bring them.
"""

import base64
import json
from typing import Any, Callable, Dict, List

import numpy as np
import typer
from bench import PROJECT, console, save
from rich.table import Table
from timing import interleaved, timed

from spoken_intents.audio import (
    SAMPLE_RATE,
    StreamingResampler,
    float_to_mulaw,
    float_to_pcm16,
    mulaw_to_float,
    pcm16_to_float,
    read_audio,
)
from spoken_intents.channels.protocol import parse
from spoken_intents.errors import ConfigError
from spoken_intents.features import log_mel
from spoken_intents.segmenter import Segmenter, SegmenterSettings
from spoken_intents.vad import VADS, make_vad

MESSAGES = 50  # a second: one for each 20 ms
TELEPHONE, SYNTHESIZED = 8_000, 24_000  # Hz


def main(
    quick: bool = typer.Option(False, help="Less audio and fewer rounds."),
    seconds: int = typer.Option(10, help="Of audio, a clip of the corpus again and again."),
    repeats: int = typer.Option(15, help="Rounds that count."),
) -> None:
    """Log-mel, detectors of speech, resampling, µ-law, messages and the segmenter."""
    figures = measured(4, 5) if quick else measured(seconds, repeats)
    table = Table("step", "in pieces of", "µs for 1 s of audio, median", "95 %", title="front end")
    for row in figures["rows"]:
        table.add_row(row["step"], row["pieces"], f"{row['median_us']:,.0f}", f"{row['p95_us']:,.0f}")
    console.print(table)
    for step, reason in figures["left_out"].items():
        console.print(f"Left out: {step}: {reason}")
    save("front_end_quick" if quick else "front_end", figures)


def measured(seconds: int, repeats: int) -> Dict[str, Any]:
    """Every step's microseconds for a second of audio."""
    clip = read_audio(PROJECT / "audio/demo/balance.ogg", 30)
    speech = np.resize(clip, seconds * SAMPLE_RATE).astype(np.float32)
    steps: Dict[str, Callable[[], Any]] = {}
    pieces: Dict[str, str] = {}
    left_out: Dict[str, str] = {}

    def step(name: str, in_pieces_of: str, work: Callable[[], Any]) -> None:
        steps[name], pieces[name] = work, in_pieces_of

    utterance = speech[: min(seconds, 4) * SAMPLE_RATE]
    times = len(speech) / len(utterance)
    for padded in (False, True):
        name = f"log-mel{', padded to 30 s' if padded else ''}"
        step(name, f"{len(utterance) // SAMPLE_RATE} s", lambda padded=padded: log_mel(utterance, padded=padded))
    for vad in VADS:
        try:
            detector = make_vad(vad, 2, 0.5)
        except ConfigError as reason:
            left_out[vad] = str(reason)
            continue
        windows = cut(speech, detector.window_samples)
        size = f"{detector.window_samples * 1000 // SAMPLE_RATE} ms"
        step(vad, size, lambda detector=detector, windows=windows: [detector.is_speech(window) for window in windows])
        settings = SegmenterSettings(vad=vad)
        step(f"segmenter with {vad}", "20 ms", lambda settings=settings: pushed(settings, speech))
    for name, samples, rates in (
        ("8 to 16 kHz", speech[::2], (TELEPHONE, SAMPLE_RATE)),
        ("24 to 16 kHz", np.resize(speech, seconds * SYNTHESIZED), (SYNTHESIZED, SAMPLE_RATE)),
        ("48 to 16 kHz", np.resize(speech, seconds * 48_000), (48_000, SAMPLE_RATE)),
        ("16 to 24 kHz", speech, (SAMPLE_RATE, SYNTHESIZED)),
    ):
        chunks = cut(samples, rates[0] // MESSAGES)
        step(f"resampling {name}", "20 ms", lambda chunks=chunks, rates=rates: resampled(chunks, *rates))
    narrow = cut(speech[::2], TELEPHONE // MESSAGES)
    mulaw = [float_to_mulaw(chunk) for chunk in narrow]
    step("µ-law to float, 8 kHz", "20 ms", lambda: [mulaw_to_float(chunk) for chunk in mulaw])
    step("float to µ-law, 8 kHz", "20 ms", lambda: [float_to_mulaw(chunk) for chunk in narrow])
    chunks = cut(speech, SAMPLE_RATE // MESSAGES)
    pcm = [float_to_pcm16(chunk) for chunk in chunks]
    step("PCM to float", "20 ms", lambda: [pcm16_to_float(chunk) for chunk in pcm])
    step("float to PCM", "20 ms", lambda: [float_to_pcm16(chunk) for chunk in chunks])
    messages = [json.dumps({"audio": base64.b64encode(chunk).decode()}) for chunk in pcm]
    step("message: JSON, base64", "20 ms", lambda: [parse(message) for message in messages])
    step("message: bytes", "20 ms", lambda: [parse(message) for message in pcm])

    found = interleaved({name: timed(work) for name, work in steps.items()}, repeats)
    rows: List[Dict[str, Any]] = []
    for name, figures in found.items():
        thousandths = 1000 / seconds * (times if name.startswith("log-mel") else 1)
        rows.append(
            {
                "step": name,
                "pieces": pieces[name],
                "median_us": figures["median_ms"] * thousandths,
                "p95_us": figures["p95_ms"] * thousandths,
                "n": figures["n"],
            }
        )
    return {"seconds": seconds, "rows": rows, "left_out": left_out}


def cut(samples: np.ndarray, size: int) -> List[np.ndarray]:
    """Whole pieces of `size` samples."""
    return [samples[start : start + size] for start in range(0, len(samples) - size + 1, size)]


def pushed(settings: SegmenterSettings, samples: np.ndarray) -> int:
    """How many events a new segmenter tells of the samples, 20 ms at a time; its detector is part of it."""
    segmenter = Segmenter(settings)
    return sum(len([*segmenter.push(chunk)]) for chunk in cut(samples, SAMPLE_RATE // MESSAGES))


def resampled(chunks: List[np.ndarray], from_rate: int, to_rate: int) -> int:
    """How many samples come out of the chunks, one after the other."""
    resampler = StreamingResampler(from_rate, to_rate)
    return sum(len(resampler.push(chunk)) for chunk in chunks) + len(resampler.flush())


if __name__ == "__main__":
    typer.run(main)
