"""Many callers at once, in real time: what an assistant does under load. aiohttp and NumPy only.

    recordings ──▶ said alone, over HTTP: what each is heard as ──▶ callers, each on its own clock ──▶ Report

Callers speak by the clock, whether they were answered or not: a server that is behind gets no rest, and what that costs is
measured. They share the machine with whoever is measured, so a recording's messages are made once, and the bot's audio is
counted, not decoded.
"""

import asyncio
import base64
import io
import itertools
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Sequence, Set, Tuple
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import numpy as np
import soundfile
import soxr

from spoken_intents.audio import SAMPLE_RATE, SUFFIXES, float_to_pcm16, read_audio
from spoken_intents.client import Message, dial, end_of_speech, error_of, parsed, reaching, showing
from spoken_intents.errors import DataError, ProtocolError, SpokenIntentsError
from spoken_intents.load_report import LoadSettings, Report, Said, Take, Wire

SPEAKING = 0.3  # of the time: 3 s in every 10
PAUSE_S = 5.0  # at least, about, behind each utterance: people hear the answer before they go on
GAINS_DB = (0.0, -6.0, -12.0)  # how loud a caller is
NOISE = 1e-3  # of full scale: what a quiet line sounds like
NOISE_S = 5.0  # then it begins again
TAKES = 60  # recordings, each at some gain, at most
PATIENCE_S = 10.0  # for answers, when time is up
LINGER_S = 1.0  # behind the last answer: a second turn of the same utterance would come by then
ANSWER_S = 60.0  # in which a server has to accept a call, and to answer a recording


async def run(
    settings: LoadSettings,
    recordings: Sequence[Tuple[str, np.ndarray]],
    progress: Callable[[float, Report], None],
    token: str = "",
) -> Report:
    """Has the callers call, and says what came of it.

    Args:
        recordings: Name and samples (float32, 16 kHz) of each; one utterance each is best.
        progress: Called every now and then with the seconds gone, and the report so far.
        token: Shows who calls, to a server that takes calls with a token only.

    Raises:
        SpokenIntentsError: Nobody listens there, or nothing of the recordings is one turn when it is said alone.
        ProtocolError: The server refuses a recording, such as for its token.
    """
    rng = np.random.default_rng(settings.seed)
    noise = _noise(settings.wire, rng)
    report = Report(settings)
    connector, patience = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=ANSWER_S)
    async with aiohttp.ClientSession(connector=connector, timeout=patience, headers=showing(token)) as http:
        takes = await _takes(http, settings, recordings, noise, rng)
        silence = _messages(noise)
        callers = [_Caller(report, takes, silence, seed) for seed in rng.integers(2**32, size=settings.callers)]
        calls = [
            asyncio.create_task(caller.live(http, settings.ramp_s * number / settings.callers))
            for number, caller in enumerate(callers)
        ]
        began, going = time.perf_counter(), set(calls)
        try:
            while going:
                ended, going = await asyncio.wait(going, timeout=0.5, return_when=asyncio.FIRST_EXCEPTION)
                for call in ended:
                    call.result()  # raises what is wrong with a caller, not with the server
                progress(time.perf_counter() - began, report)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
    return report


# ------------------------------------------------ what is said


def read_recordings(paths: Sequence[Path], seed: int = 0) -> List[Tuple[str, np.ndarray]]:
    """Name and samples (float32, 16 kHz) of recordings, those in folders included: at most `TAKES`, drawn by `seed`.

    Raises:
        DataError: None is there, or no such file.
        AudioError: One cannot be read, or is longer than 30 s.
    """
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise DataError(f"{', '.join(missing)}: no such file or folder.")
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    files = [file for file in files if file in paths or file.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{', '.join(map(str, paths))}: no recording there. Recordings end in {', '.join(SUFFIXES)}.")
    drawn = np.random.default_rng(seed).permutation(len(files))[:TAKES]
    return [(str(files[place]), read_audio(files[place], 30)) for place in sorted(drawn)]


def _noise(wire: Wire, rng: np.random.Generator) -> np.ndarray:
    """What is heard while nobody speaks, shape (messages, samples a message)."""
    return NOISE * rng.standard_normal((round(NOISE_S / wire.seconds), wire.samples)).astype(np.float32)


def _messages(audio: np.ndarray) -> List[str]:
    """The wire messages of audio, shape (messages, samples a message)."""
    return [json.dumps({"audio": base64.b64encode(float_to_pcm16(part)).decode()}) for part in audio]


async def _takes(
    http: aiohttp.ClientSession,
    settings: LoadSettings,
    recordings: Sequence[Tuple[str, np.ndarray]],
    noise: np.ndarray,
    rng: np.random.Generator,
) -> List[Take]:
    """Recordings, each at some gain, that are one turn when they are said alone."""
    wire, takes = settings.wire, []
    chosen = [(number % len(recordings), rng.choice(GAINS_DB)) for number in range(min(TAKES, 3 * len(recordings)))]
    for number, gain in chosen:
        name, samples = recordings[number]
        quiet = samples * np.float32(10 ** (gain / 20) / max(1e-9, np.abs(samples).max()) / 2)
        resampled = soxr.resample(quiet, SAMPLE_RATE, wire.sample_rate)
        padded = np.pad(resampled, (0, -len(resampled) % wire.samples)).reshape(-1, wire.samples)
        silence = noise[: round(2 / wire.seconds)]
        intents = await _alone(http, settings.url, np.concatenate([silence, padded, silence]).ravel(), wire.sample_rate)
        if len(intents) == 1:
            ends = end_of_speech(samples) / SAMPLE_RATE / wire.seconds
            takes.append(Take(name, _messages(padded), min(int(ends), len(padded) - 1), intents[0]))
    if not takes:
        raise SpokenIntentsError("None of the recordings is one turn for this assistant. Take recordings of one utterance each.")
    return takes


async def _alone(http: aiohttp.ClientSession, url: str, samples: np.ndarray, sample_rate: int) -> List[str]:
    """The intent of each turn in a recording, as the assistant hears it when nobody else calls."""
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="WAV", subtype="PCM_16")
    parts = urlsplit(url)
    there = urlunsplit((parts.scheme.replace("ws", "http"), parts.netloc, parts.path.rpartition("/")[0] + "/webhook", "", ""))
    with reaching(there):
        async with http.post(there, data=file.getvalue(), headers={"content-type": "audio/wav"}) as response:
            answer = await response.json(content_type=None)
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        raise error_of(answer["error"])
    if not isinstance(answer, list):
        raise SpokenIntentsError(f"{there} is no voice channel, or refuses recordings: {json.dumps(answer)[:200]}")
    spoken = [message["custom"]["spoken"] for message in answer if "spoken" in (message.get("custom") or {})]
    return [turn["intent"] for turn in spoken if turn]


# ------------------------------------------------ who says it


class _Caller:
    """Speaks by the clock, in one call after the other where the bot hangs up. Never raises what the server does."""

    def __init__(self, report: Report, takes: Sequence[Take], silence: Sequence[str], seed: int) -> None:
        self._report = report
        self._settings = report.settings
        self._takes = takes
        self._silence = silence
        self._rng = np.random.default_rng(seed)

    async def live(self, http: aiohttp.ClientSession, after_s: float) -> None:
        """Waits, calls, and hangs up when everything is answered."""
        await asyncio.sleep(after_s)
        until = time.perf_counter() + self._settings.seconds
        while time.perf_counter() < until:
            try:
                socket = await dial(http, self._settings.url)
            except SpokenIntentsError:
                self._report.dropped["refused"] += 1
                return
            call = _Call(self._report)
            if not await call.run(socket, self._line(call, until)):
                return

    def _line(self, call: "_Call", until: float) -> Iterator[str]:
        """What goes over the wire, message by message: silence, an utterance, silence and so on, until all is answered."""
        seconds, rng = self._settings.wire.seconds, self._rng
        last = int((until - time.perf_counter()) / seconds)
        silence = itertools.cycle(self._silence)
        end, quiet = 0, int(rng.uniform(0.1, 1) * len(self._silence))  # nobody begins at the same time
        while True:
            take = self._takes[rng.integers(len(self._takes))]
            begin, before = end + quiet, end
            end = begin + len(take.messages)
            if end > last:
                break
            yield from itertools.islice(silence, quiet)
            begin_ms, speech_end_ms, end_ms = (1000 * seconds * at for at in (begin, begin + take.speech_ends + 1, end))
            call.say(Said(take, begin_ms, speech_end_ms, end_ms))
            yield from take.messages
            quiet = int(max(PAUSE_S / seconds, len(take.messages) * (1 / SPEAKING - 1)) * rng.uniform(0.7, 1.3))
        patience = itertools.islice(silence, max(0, last - before) + int(PATIENCE_S / seconds))
        yield from itertools.takewhile(lambda message: not call.answered, patience)
        yield from itertools.islice(silence, int(LINGER_S / seconds))


class _Call:
    """One connection."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._said: List[Said] = []
        self._began = 0.0  # when the first sample was spoken
        self._hung_up_ms: Optional[float] = None  # where in the caller's audio the bot has ended the call
        self._refusal = ""
        self._ends: Set[str] = set()  # the markers that have come
        self._failed = False  # whether the turn under way has
        self._intent: Optional[float] = None  # when it came, of the turn under way, and so on
        self._message: Optional[float] = None
        self._audio: Optional[float] = None

    def say(self, said: Said) -> None:
        """Another utterance begins."""
        self._said.append(said)
        self._report.said.append(said)

    @property
    def answered(self) -> bool:
        """Whether every utterance was."""
        return all(said.turns for said in self._said)

    async def run(self, socket: aiohttp.ClientWebSocketResponse, line: Iterator[str]) -> bool:
        """Sends the line's messages in time and hears what comes back. Whether the bot has ended the call, on purpose."""
        reader = asyncio.create_task(self._read(socket))
        try:
            await self._speak(socket, line, reader)
        except (ConnectionError, aiohttp.ClientError):
            await asyncio.wait({reader}, timeout=1)  # the server's reason may still be on its way
        finally:
            broken = reader.done()
            reason = self._refusal or f"closed {socket.close_code}"
            await socket.close()
            await asyncio.wait({reader})
        with suppress(ConnectionError, aiohttp.ClientError):  # a line that broke; anything else is a mistake of ours
            reader.result()
        hung_up_ms = self._hung_up_ms
        if hung_up_ms is not None:
            self._report.unsay([said for said in self._said if not said.turns and said.end_ms > hung_up_ms])
        elif broken:
            self._report.dropped[reason] += 1
        return hung_up_ms is not None

    async def _speak(self, socket: aiohttp.ClientWebSocketResponse, line: Iterator[str], reader: "asyncio.Task[None]") -> None:
        wire = self._report.settings.wire
        await socket.send_str(json.dumps({"sample_rate": wire.sample_rate}))
        self._began = time.perf_counter()
        late, second = 0.0, round(1 / wire.seconds)
        for number, message in enumerate(line, 1):
            due = self._began + number * wire.seconds  # a message exists once its last sample was spoken
            ahead = due - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
            if reader.done():
                return
            late = max(late, time.perf_counter() - due)
            if number % second == 0:
                self._report.lag_ms.append(1000 * late)
                late = 0.0
            await socket.send_str(message)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for received in socket:
            now = time.perf_counter()
            if received.type is not aiohttp.WSMsgType.TEXT:
                continue
            if received.data.startswith('{"audio"'):  # who only measures need not listen
                self._audio = self._audio or now
                continue
            try:
                message = parsed(received.data)
            except ProtocolError as error:
                self._refusal = error.code
                return
            if message.get("final"):
                if message["marker"] not in self._ends:  # else told again, behind speech that was broken off by mistake
                    self._ends.add(message["marker"])
                    self._end(message)
                with suppress(ConnectionError, aiohttp.ClientError):  # what came before the end of the line still counts
                    await socket.send_str(json.dumps({"marker": message["marker"]}))
            elif message.get("trace_event") == "transcript":
                self._forget()
                self._intent = now
            elif {"response", "custom", "image"} & set(message):
                self._message = self._message or now
            elif "error" in message and message["error"]["code"] == "turn_failed":
                self._failed = True
                self._report.failed += 1
            elif "error" in message:
                self._refusal = message["error"]["code"]
            elif message.get("hangup"):
                self._hung_up_ms = (now - self._began) * 1000
            elif message.get("trace_event") in ("non_speech", "ignored"):
                self._report.rejected += 1

    def _end(self, final: Message) -> None:
        """The end of a turn: which utterance it was made of, and how long that took."""
        turn = final.get("turn", {})
        if "start_ms" in turn:  # else it was nobody's: the bot asks whether somebody is still there
            for said in reversed(self._said):
                if turn["start_ms"] < said.end_ms and turn["speech_end_ms"] > said.begin_ms:
                    self._take(said, turn, final)
                    break
            else:
                self._report.uncalled += 1
        self._forget()

    def _take(self, said: Said, turn: Message, final: Message) -> None:
        if not said.turns:
            turn_end = self._began + turn["end_ms"] / 1000
            said.failed = self._failed
            said.latency = final["latency"]
            said.intent_ms = _since(turn_end, self._intent)
            said.message_ms = _since(turn_end, self._message)
            said.audio_ms = _since(turn_end, self._audio)
            said.answered_ms = _since(self._began + said.speech_end_ms / 1000, self._message)
        said.turns.append(turn)

    def _forget(self) -> None:
        """What came before belongs to no turn that is still to come, nor does what the bot said by itself."""
        self._intent = self._message = self._audio = None
        self._failed = False


def _since(began: float, came: Optional[float]) -> Optional[float]:
    return None if came is None else (came - began) * 1000
