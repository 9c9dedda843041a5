"""What this server has done and does, counted for Prometheus: `exposition` is what the channels serve at ``/metrics``.

Everything is in prometheus-client's own registry, beside what the process tells of itself and what an assistant's author
counts there. Labels come from a model's intents and from our own words, never from a client, so there are only so many.
"""

import asyncio
import glob
import os
import time
from contextlib import suppress
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from spoken_intents.segmenter import Utterance
from spoken_intents.turns import Backchannel, Happening, NotSpeech, Turn, TurnOver

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's variable: where several processes count together
LAG_EVERY_S = 0.1  # so that most stalls of a tenth of a second are seen
LATENCY_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10)
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

CALLS_OPEN = Gauge(
    "spoken_intents_calls_open", "Connections that are a call at the moment.", ["channel"], multiprocess_mode="livesum"
)
REFUSALS = Counter("spoken_intents_refusals", "Input that was refused, and calls ended for it, by reason.", ["channel", "code"])
UTTERANCES = Counter("spoken_intents_utterances", "Utterances that were heard, by what ended them.", ["channel", "reason"])
TURNS = Counter(
    "spoken_intents_turns",
    "Turns by what was heard (empty: typed, or nothing) and what became of them: answered, failed, non_speech, backchannel.",
    ["channel", "intent", "outcome"],
)
AHEAD = Counter("spoken_intents_turns_ahead", "Spoken turns whose intent was there before they were over.", ["channel"])
WAITING = Gauge(
    "spoken_intents_recognizer_waiting", "Utterances that wait for a thread that classifies.", multiprocess_mode="livesum"
)
SPECULATIONS_DROPPED = Counter(
    "spoken_intents_speculations_dropped", "Pauses that were not classified in advance, as too much waited already."
)
RECOGNITIONS = Counter(
    "spoken_intents_recognitions",
    "With inference servers: what was heard by the first that was asked (server), by a second (retried), by this process (local).",
    ["where"],
)
RECORDINGS = Counter(
    "spoken_intents_recordings", "Turns that were to be recorded, by what became of them: written, dropped, failed.", ["outcome"]
)
LAG = Histogram("spoken_intents_event_loop_lag_seconds", "How late the server's event loop is.", buckets=LAG_S)


def _latency(name: str, about: str) -> Histogram:
    return Histogram(f"spoken_intents_{name}_seconds", about, ["channel"], buckets=LATENCY_S)


CLASSIFICATION = _latency("classification", "What the model took for a turn.")
LATENCIES = {  # of a `Turn`, by attribute
    "endpoint_delay_ms": _latency("endpoint_delay", "From the end of speech to the end of the turn, in the audio's time."),
    "asr_latency_ms": _latency("intent_latency", "From the end of a spoken turn to its intent."),
    "rasa_processing_latency_ms": _latency("rasa_processing", "What Rasa took for a turn."),
    "first_response_latency_ms": _latency("first_response_latency", "From the end of a turn to the bot's first message."),
    "tts_first_byte_latency_ms": _latency("first_audio_latency", "From the end of a turn to the bot's first audio."),
    "tts_complete_latency_ms": _latency("last_audio_latency", "From the end of a turn to the bot's last audio."),
}
OF_SPEECH = ("endpoint_delay_ms", "asr_latency_ms")  # which are 0 for a typed turn


def count(channel: str, happening: Happening) -> None:
    """Counts what happened in a call of `channel`."""
    if isinstance(happening, Utterance):
        UTTERANCES.labels(channel, happening.reason).inc()
    elif isinstance(happening, NotSpeech):
        TURNS.labels(channel, "", "non_speech").inc()
    elif isinstance(happening, Backchannel):
        TURNS.labels(channel, happening.recognition.intent, "backchannel").inc()
    elif isinstance(happening, TurnOver):
        _count_turn(channel, happening.turn)


def _count_turn(channel: str, turn: Turn) -> None:
    heard = turn.recognition
    TURNS.labels(channel, heard.intent if heard else "", "failed" if turn.failed else "answered").inc()
    if heard is not None:
        AHEAD.labels(channel).inc(turn.ahead)
        CLASSIFICATION.labels(channel).observe(heard.milliseconds / 1000)
    for name, histogram in LATENCIES.items():
        milliseconds = getattr(turn, name)
        if milliseconds is not None and not turn.failed and (heard is not None or name not in OF_SPEECH):
            histogram.labels(channel).observe(milliseconds / 1000)


def refused(channel: str, code: str) -> None:
    """Counts a refusal by its word, which is one of ours."""
    REFUSALS.labels(channel, code).inc()


async def watch_event_loop() -> None:
    """Measures, until it is cancelled, how late the event loop is."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(LAG_EVERY_S)
        LAG.observe(max(0.0, time.perf_counter() - began - LAG_EVERY_S))


def exposition() -> bytes:
    """Everything that was counted, in Prometheus' text format (`CONTENT_TYPE`).

    With several processes, where the variable PROMETHEUS_MULTIPROC_DIR names a directory, of all of them.
    """
    registry = REGISTRY
    if DIRECTORY in os.environ:
        _forget_calls_of_the_dead(os.environ[DIRECTORY])
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return generate_latest(registry)


def _forget_calls_of_the_dead(directory: str) -> None:
    """A worker that was killed leaves its open calls behind."""
    for file in glob.glob(f"{glob.escape(directory)}/gauge_live*.db"):
        pid = Path(file).stem.rpartition("_")[2]
        if pid.isdecimal() and not _lives(int(pid)):  # else it is nobody's
            with suppress(FileNotFoundError):  # another scrape was faster
                mark_process_dead(int(pid), directory)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, but alive
    return True
