"""A day of calls in minutes: nothing is lost, nothing is left behind; a table, and JSON in results/.

    python benchmarks/soak.py                 # 24 hours of calls
    python benchmarks/soak.py --hours 1 --seed 7

Both channels on a real socket of this process, callers faster than real time; recognizer, voice and Rasa are scripted, so
that what came in can be compared with what came out. Callers speak, type, cough, interrupt, make the recognizer or Rasa
fail, break the protocol, hang up and vanish, by chance.
"""

import asyncio
import base64
import ctypes
import gc
import json
import logging
import os
import sys
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, AsyncIterator, Callable, Dict, List, Optional, Set

import aiohttp
import numpy as np
import psutil
import typer
from bench import HERE, console, save
from prometheus_client import REGISTRY
from rich.table import Table
from sanic import Sanic

from spoken_intents import recognizer as recognizers
from spoken_intents import segmenter
from spoken_intents.audio import SAMPLE_RATE, float_to_mulaw, float_to_pcm16
from spoken_intents.channels import connection
from spoken_intents.channels.twilio import TwilioInput, TwilioSettings
from spoken_intents.channels.voice import VoiceInput, VoiceSettings
from spoken_intents.recognizer import Recognition
from spoken_intents.utterances import hand_off, is_audio_reference
from spoken_intents.workers import THREADS

sys.path.append(str(HERE.parent / "scripts"))
from assistant import free_port

WINDOW = 320
INTENTS = 10
SOFTEST, LOUDER = 0.55, 0.04  # of utterances, by number: µ-law tells so much apart
COUGH, NO_MEMORY, RASA_FAILS = 0, 1, 2  # of the utterances, by number; the others are answered
SETTINGS: Dict[str, Any] = {
    "start_window_ms": 60, "min_speech_duration_ms": 60, "pause_ms": 60, "min_silence_duration_ms": 100, "speech_pad_ms": 0,
    "turn_end": "fixed", "interruption_ms": 160, "silence_timeout_ms": 600_000, "speech": "none", "max_ahead_ms": 86_400_000,
    "max_messages_per_second": 1_000_000, "idle_timeout_ms": 600_000, "intent_timeout_ms": 60_000, "sorry": "",
}  # fmt: skip
GOODBYE = "99"  # keys
AT_ONCE = 16  # calls
PATIENCE_S = 120


class Loud:
    """A detector by loudness: the real ones are not what is tested here, and would take most of the time."""

    window_samples = WINDOW

    def is_speech(self, window: np.ndarray) -> bool:
        return bool(window.max() > 0.5)


def said(number: int, windows: int = 10) -> np.ndarray:
    """An utterance that its loudness tells from others, and the silence that ends it."""
    return np.concatenate([np.full(windows * WINDOW, SOFTEST + LOUDER * number), np.zeros(10 * WINDOW)]).astype(np.float32)


class Ear:
    """Hears what `said` says."""

    fingerprint, remote = "soak", None

    def classify(self, samples: np.ndarray) -> Recognition:
        number = round((float(np.median(samples[samples > 0.5])) - SOFTEST) / LOUDER)
        if number == NO_MEMORY:
            raise MemoryError
        none = 0.9 if number == COUGH else 0.02
        return Recognition(((f"intent_{number}", 0.95 - none), ("other", 0.01)), none, self.fingerprint, 1.0)


class Tone:
    """A voice that speaks everything for a second."""

    name = "tone"

    async def speak(self, text: str) -> AsyncIterator[np.ndarray]:
        yield np.full(SAMPLE_RATE, 0.1, dtype=np.float32)

    def close(self) -> None: ...


@dataclass
class Rasa:
    """Says what it heard, sometimes late."""

    random: np.random.Generator
    counts: "Counter[str]" = field(default_factory=Counter)
    left: Set[str] = field(default_factory=set)  # conversations whose caller said goodbye, and had all before it answered

    async def __call__(self, message: Any) -> None:
        self.counts["given"] += 1
        heard = hand_off.take(message.text).recognition.intent if is_audio_reference(message.text) else message.text
        if self.random.random() < 0.1:
            await asyncio.sleep(0.02)
        if heard == f"intent_{RASA_FAILS}":
            self.counts["failed"] += 1
            raise ConnectionError("scripted")
        await message.output_channel.send_text_message(message.sender_id, heard)
        self.counts["answered"] += 1
        if heard == GOODBYE:
            self.left.add(message.sender_id)


# ---------------------------------------------------------------- callers


class Line:
    """One call, whichever channel: `say`, `type`, `silence`, and what came back."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.answers: List[str] = []
        self.last = ""  # final marker
        self.finals = self.failures = self.no_speech = 0
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for frame in self.socket:
            if frame.type is aiohttp.WSMsgType.TEXT:
                await self.take(json.loads(frame.data))

    async def take(self, message: Dict[str, Any]) -> None:
        raise NotImplementedError

    async def send(self, samples: np.ndarray) -> None:
        raise NotImplementedError

    async def vanish(self) -> None:
        self.socket._response.connection.transport.abort()
        await self.reader


class VoiceLine(Line):
    path = "/webhooks/voice/websocket"

    async def take(self, message: Dict[str, Any]) -> None:
        if "response" in message:
            self.answers.append(message["response"])
        self.failures += message.get("error", {}).get("code") == "turn_failed"
        self.no_speech += message.get("trace_event") == "non_speech"
        if message.get("final"):
            self.finals += message["marker"] != self.last  # else it is told again, behind speech that a cough had held
            self.last = message["marker"]
            await self.socket.send_json({"marker": message["marker"]})

    async def send(self, samples: np.ndarray) -> None:
        await self.socket.send_bytes(float_to_pcm16(samples))

    async def type(self, text: str) -> None:
        await self.socket.send_json({"text": text})

    async def misbehave(self) -> None:
        await self.socket.send_str("not json")


class TelephoneLine(Line):
    path = "/webhooks/twilio_media_streams/websocket"

    async def begin(self) -> None:
        self.call_id = f"CA{uuid.uuid4().hex}"
        form = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
        start = {"accountSid": "AC", "streamSid": "MZ", "callSid": self.call_id, "tracks": ["inbound"], "mediaFormat": form}
        await self._event("start", start={**start, "customParameters": {}})

    async def take(self, message: Dict[str, Any]) -> None:
        if message["event"] == "mark":
            self.finals += 1
            await self._event("mark", mark={"name": message["mark"]["name"]})

    async def send(self, samples: np.ndarray) -> None:
        audio = base64.b64encode(float_to_mulaw(samples[::2])).decode()
        await self._event("media", media={"track": "inbound", "chunk": "1", "timestamp": "1", "payload": audio})

    async def type(self, text: str) -> None:
        for key in f"{text}#":
            await self._event("dtmf", dtmf={"track": "inbound_track", "digit": key})

    async def misbehave(self) -> None:
        await self.socket.send_str("not json")

    async def _event(self, event: str, **fields: Any) -> None:
        await self.socket.send_json({"event": event, "sequenceNumber": "1", "streamSid": "MZ", **fields})


@dataclass
class Tally:
    """What callers did, and what came of it on calls that they ended themselves."""

    calls: int = 0
    audio_s: float = 0.0
    said: "Counter[str]" = field(default_factory=Counter)  # by what it is to become; of calls that were seen to their end
    left: "Counter[str]" = field(default_factory=Counter)  # likewise, of calls that were left at some moment
    ends: "Counter[str]" = field(default_factory=Counter)
    wrong: List[str] = field(default_factory=list)


class Caller:
    """One call by chance: things to say, and how it ends."""

    def __init__(self, http: aiohttp.ClientSession, port: int, rasa: Rasa, tally: Tally) -> None:
        self._http, self._port, self._rasa, self._tally = http, port, rasa, tally
        self._random = rasa.random
        self._counts: "Counter[str]" = Counter()
        self._expected: List[str] = []

    async def call(self, turns: int) -> None:
        kind = VoiceLine if self._random.random() < 0.6 else TelephoneLine
        end = str(self._random.choice(["goodbye", "goodbye", "goodbye", "mid-word", "mid-turn", "vanish", "misbehave"]))
        async with self._http.ws_connect(f"ws://127.0.0.1:{self._port}{kind.path}") as socket:
            self._line: Any = kind(socket)
            if isinstance(self._line, TelephoneLine):
                await self._line.begin()
            for _ in range(turns):
                await self._turn()
                await self._listen(float(self._random.uniform(2, 12)))
            await self._end(end)
            await socket.close()
            await self._line.reader
        self._tally.calls += 1
        self._tally.ends[end] += 1
        (self._tally.said if end == "goodbye" else self._tally.left).update(self._counts)

    async def _turn(self) -> None:
        before = self._done
        if self._random.random() < 0.15:
            self._counts["typed"] += 1
            await self._line.type("12")
            self._expected.append("12")
        else:
            number = int(self._random.integers(INTENTS))
            await self._send(said(number, int(self._random.integers(8, 60))))
            kinds = {COUGH: "cough", NO_MEMORY: "no_memory", RASA_FAILS: "rasa_fails"}
            self._counts[kinds.get(number, "spoken")] += 1
            if number > RASA_FAILS:
                self._expected.append(f"intent_{number}")
        if isinstance(self._line, TelephoneLine):
            await self._send(np.zeros(SAMPLE_RATE, dtype=np.float32))
            await asyncio.sleep(0.002)
            return
        if self._random.random() < 0.7:  # else the next one interrupts, or overtakes, the answer
            await self._until(lambda: self._done > before)

    @property
    def _done(self) -> int:
        return self._line.finals + self._line.no_speech

    async def _listen(self, seconds: float) -> None:
        """While the bot speaks, and behind that."""
        await self._send(np.zeros(int(seconds * SAMPLE_RATE), dtype=np.float32))

    async def _send(self, samples: np.ndarray) -> None:
        for start in range(0, len(samples), SAMPLE_RATE):
            await self._line.send(samples[start : start + SAMPLE_RATE])
        self._tally.audio_s += len(samples) / SAMPLE_RATE

    async def _end(self, end: str) -> None:
        line = self._line
        if end == "mid-word":
            await self._send(said(5)[: 5 * WINDOW])
        elif end == "mid-turn":
            self._counts["spoken"] += 1
            await self._send(said(5))
        elif end == "vanish":
            await line.vanish()
        elif end == "misbehave":
            await line.misbehave()
            await line.reader
        elif isinstance(line, VoiceLine):
            await self._until(lambda: self._done == sum(self._counts.values()))
            if line.answers != self._expected:
                self._tally.wrong.append(f"{self._expected} was answered {line.answers}")
            if line.failures != self._counts["no_memory"] + self._counts["rasa_fails"]:
                self._tally.wrong.append(f"{self._counts}: {line.failures} failures were told")
        else:  # a telephone is told of its answers only
            self._counts["typed"] += 1
            await line.type(GOODBYE)
            await self._until(lambda: line.call_id in self._rasa.left)

    async def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            gone = self._line.reader.done()
            assert not gone and time.monotonic() < deadline, (
                f"{self._counts}: {self._done} were answered; close code {self._line.socket.close_code}; refusals {refusals()}"
            )
            await self._send(np.zeros(SAMPLE_RATE // 10, dtype=np.float32))
            await asyncio.sleep(0.002)


# ---------------------------------------------------------------- the server, and what it holds


def resources() -> Dict[str, float]:
    """What this process has open, once what nobody needs is gone."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system
    return {
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "file_handles": len(os.listdir("/proc/self/fd")),
        "hand_off": len(hand_off),
        "objects": len(gc.get_objects()),
        "memory_mb": round(psutil.Process().memory_info().rss / 2**20, 1),
    }


def refusals() -> "Counter[str]":
    """How many calls were refused, by why."""
    samples = (sample for family in REGISTRY.collect() for sample in family.samples)
    found: "Counter[str]" = Counter()
    for sample in samples:
        if sample.name == "spoken_intents_refusals_total":
            found[sample.labels["code"]] += int(sample.value)
    return found


def counted() -> Dict[str, int]:
    """The metrics that are compared."""

    def total(name: str, **labels: str) -> int:
        samples = (sample for family in REGISTRY.collect() for sample in family.samples if sample.name == name)
        return int(sum(sample.value for sample in samples if labels.items() <= sample.labels.items()))

    turns = "spoken_intents_turns_total"
    return {
        "utterances": total("spoken_intents_utterances_total"),
        **{outcome: total(turns, outcome=outcome) for outcome in ("answered", "failed", "non_speech", "backchannel")},
        "failed_unheard": total(turns, outcome="failed", intent=""),
        "calls_open": total("spoken_intents_calls_open"),
        "waiting": total("spoken_intents_recognizer_waiting"),
    }


async def soak(hours: float, seed: int = 0, progress: Callable[[float], None] = lambda hours: None) -> Dict[str, Any]:
    """Calls until so much audio was sent; what was counted, and what there was before and after.

    Before is when a twentieth is over: caches are full then.
    """
    random = np.random.default_rng(seed)
    rasa, tally = Rasa(random), Tally()
    app, ear, model = Sanic(f"soak_{uuid.uuid4().hex}"), Ear(), uuid.uuid4().hex
    recognizers.register(model, ear)  # type: ignore[arg-type]

    async def knows(sender: str) -> bool:
        return False

    app.config.WEBSOCKET_PING_INTERVAL = app.config.WEBSOCKET_PING_TIMEOUT = 3600.0  # both ends may wait for a processor for long
    app.ctx.agent = SimpleNamespace(model_id=model, domain=None, tracker_store=SimpleNamespace(exists=knows))
    channels = [VoiceInput(VoiceSettings(**SETTINGS)), TwilioInput(TwilioSettings(**SETTINGS))]
    for channel in channels:
        channel.speech = Tone()  # type: ignore[assignment]
        app.blueprint(channel.blueprint(rasa), url_prefix=f"/webhooks/{channel.name()}")
    port = free_port()
    server = await app.create_server(host="127.0.0.1", port=port, return_asyncio_server=True, access_log=False)
    await server.startup()
    await server.after_start()
    await server.start_serving()
    at_first, refused_before, began = counted(), refusals(), time.monotonic()
    threads_at_most = threading.active_count() + THREADS * len(channels)

    async def quiet() -> None:
        """Until every call is over, and Rasa has nothing to do."""
        deadline = time.monotonic() + PATIENCE_S
        while counted()["calls_open"] or any(channel._ending for channel in channels) or len(server.connections):
            assert time.monotonic() < deadline, f"left behind: {counted()}, {asyncio.all_tasks()}"
            await asyncio.sleep(0.05)

    async def calls(until_s: float) -> None:
        async def one_after_the_other() -> None:
            while tally.audio_s < until_s:
                await Caller(http, port, rasa, tally).call(int(random.integers(1, 9)))
                progress(tally.audio_s / 3600)

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))
        await quiet()

    try:
        await calls(hours * 3600 / 20)
        before = resources()
        await calls(hours * 3600 / 2)
        midway = resources()
        await calls(hours * 3600)
        after = resources()
    finally:
        await server.before_stop()
        await server.close()
        await server.after_stop()
    metrics = {name: value - at_first[name] for name, value in counted().items()}
    return {
        "hours": round(tally.audio_s / 3600, 2),
        "seconds": round(time.monotonic() - began, 1),
        "seed": seed,
        "calls": tally.calls,
        "ends": dict(tally.ends),
        "said": dict(tally.said),
        "said_on_calls_left": dict(tally.left),
        "rasa": dict(rasa.counts),
        "metrics": metrics,
        "refusals": dict(refusals() - refused_before),
        "wrong": tally.wrong[:10],
        "threads_at_most": threads_at_most,
        "before": before,
        "midway": midway,
        "after": after,
    }


def problems(figures: Dict[str, Any]) -> List[str]:
    """What does not add up, in words; empty when all does."""
    said, left, rasa, metrics = (Counter(figures[name]) for name in ("said", "said_on_calls_left", "rasa", "metrics"))
    turns = metrics["answered"] + metrics["failed"]
    found = [f"an answer was wrong: {wrong}" for wrong in figures["wrong"]]

    def expect(what: str, is_so: bool) -> None:
        if not is_so:
            found.append(what)

    expect("Rasa answered another number of turns than it was given", rasa["given"] == rasa["answered"] + rasa["failed"])
    expect("answers are not turns", rasa["answered"] == metrics["answered"])
    expect("failures are not turns", rasa["failed"] == metrics["failed"] - metrics["failed_unheard"])
    expect("there are more turns than were said", turns <= sum(said.values()) + sum(left.values()))
    for kind, outcome in (("cough", "non_speech"), ("no_memory", "failed_unheard")):
        expect(f"{kind}: more were said than counted", said[kind] <= metrics[outcome] <= said[kind] + left[kind])
    answered = said["spoken"] + said["typed"]
    expect("turns were lost", answered <= metrics["answered"] <= answered + left["spoken"] + left["typed"])
    misbehaved = figures["ends"].get("misbehave", 0)
    expect(f"{figures['refusals']} were refused, of {misbehaved}", figures["refusals"].get("bad_json", 0) == misbehaved)
    expect("others were refused, too", set(figures["refusals"]) <= {"bad_json"})
    expect("calls or utterances stay", metrics["calls_open"] == metrics["waiting"] == 0)
    before, after = figures["before"], figures["after"]
    before = {**before, "threads": max(before["threads"], figures["threads_at_most"])}  # each begins when it is needed first
    for name in ("tasks", "threads", "file_handles", "hand_off"):
        expect(f"{name}: {before[name]} before, {after[name]} after", after[name] <= before[name])
    # What one call leaves behind would be there for each: of a session alone it is hundreds of objects, and its audio.
    grown = after["objects"] - before["objects"]
    expect(f"objects: {grown} more in {figures['calls']} calls", grown < 5_000 + 5 * figures["calls"])
    grown = round(after["memory_mb"] - before["memory_mb"], 1)
    expect(f"memory: {grown} MB more in {figures['calls']} calls", grown < 20 + 0.02 * figures["calls"])
    return found


def tables(figures: Dict[str, Any]) -> List[Table]:
    """What came in and what came out; what the process held."""
    flow = Table("", "", title=f"{figures['calls']} calls, {figures['hours']:.1f} hours of them, in {figures['seconds']:.0f} s")
    for name in ("ends", "said", "said_on_calls_left", "rasa", "metrics", "refusals"):
        flow.add_row(name, ", ".join(f"{key} {value}" for key, value in figures[name].items()))
    held = Table("", "after a twentieth", "after a half", "at the end")
    for name in figures["before"]:
        held.add_row(name, *(f"{figures[when][name]:,}" for when in ("before", "midway", "after")))
    return [flow, held]


def main(hours: float = typer.Option(24.0, min=0.01), seed: int = typer.Option(0, min=0), name: Optional[str] = None) -> None:
    """Run it, print what came of it, and end with 1 when something does not add up."""
    logging.disable(logging.CRITICAL)  # thousands of failures that are meant
    connection.SEND_TIMEOUT_MS = 3_600_000  # as with the pings: who shares a processor with its own callers may find them late
    segmenter.make_vad = lambda *_: Loud()  # type: ignore[assignment]
    told = [0.0]

    def progress(done: float) -> None:
        if done >= told[0] + hours / 20:
            told[0] = done
            console.print(f"[dim]{done:.1f} h[/]")

    figures = asyncio.run(soak(hours, seed, progress))
    for table in tables(figures):
        console.print(table)
    wrong = problems(figures)
    for problem in wrong:
        console.print(f"[bold red]{problem}[/]")
    save(name or "soak", {**figures, "problems": wrong})
    raise typer.Exit(bool(wrong))


if __name__ == "__main__":
    typer.run(main)
