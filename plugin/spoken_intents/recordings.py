"""What callers said, kept on disk where that is wanted: a file for each turn, with what is known of it in its comment.

    <recordings>/2026-05-12/142501120385-3f9a2c44d01b6e87.flac

A recording is one file, so it is there with all that is known of it, or not at all. It is written in a thread: a disk that is
full, slow or gone costs recordings, never a turn.
"""

import io
import json
import logging
import queue
import re
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import soundfile

from spoken_intents import metrics
from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16
from spoken_intents.config import require
from spoken_intents.errors import AudioError, one_line
from spoken_intents.files import PART, open_regular, require_directory, write_whole

logger = logging.getLogger(__name__)

WAITING = 64  # turns; a disk that is further behind loses the next ones
SWEEP_S = 3600  # how often it is looked for what is too old
PART_S = 60  # a file that is not whole by then was left by a process that was killed
KNOWN = 1_000  # of the last recordings it is known where they are, by call and turn
RANKED = 5  # intents of a ranking that are kept
FINISH_S = 5  # how long the end of a server waits for what is still to be written
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_NAME = re.compile(r"\d{12}-[0-9a-f]{16}\.flac")
_RANKED_AS = ([str, float], [str, int])
_PART = re.compile(rf"\.{_NAME.pattern}\.\d+{re.escape(PART)}")


@dataclass(frozen=True)
class RecordingSettings:
    """Whether callers are recorded.

    Attributes:
        recordings: Directory for what callers said; empty: nothing is kept.
        recordings_mb: Most it may hold; the oldest go first.
        recordings_days: How long recordings are kept at most.
    """

    recordings: str = ""
    recordings_mb: int = 1_000
    recordings_days: int = 30

    def __post_init__(self) -> None:
        require(1 <= self.recordings_mb <= 10_000_000, f"recordings_mb takes 1 to 10000000, got {self.recordings_mb}.")
        require(1 <= self.recordings_days <= 3650, f"recordings_days takes 1 to 3650, got {self.recordings_days}.")


@dataclass(frozen=True)
class Label:
    """What somebody says a turn was: an intent, or a name of `labels`; who, and when (ISO 8601, UTC)."""

    intent: str
    by: str
    time: str


@dataclass(frozen=True)
class About:
    """What is known of a recording.

    Attributes:
        turn: Its number among the call's turns, typed ones included, from 1.
        time: When the turn was answered: ISO 8601, UTC.
        intent: What was heard, with `confidence`.
        reference: What Rasa was given, which `steps` calls it.
        steps: What happened in the call since the recording before, in the steps of a Rasa test story, this turn and its
            answer included.
        ranking: The likeliest intents, with confidence, descending; not in recordings of earlier versions.
        non_speech: Probability that it was no speech.
        interrupted: Whether the caller broke off what the bot was saying by it.
        label: What somebody says it was; None as long as nobody has.
    """

    sender: str
    call_id: str
    channel: str
    turn: int
    time: str
    intent: str
    confidence: float
    reference: str = ""
    steps: List[Dict[str, Any]] = field(default_factory=list)
    ranking: List[List[Any]] = field(default_factory=list)
    non_speech: float = 0.0
    interrupted: bool = False
    label: Optional[Label] = None

    @property
    def acted_on(self) -> str:
        """The intent that Rasa went by, such as nlu_fallback; what was heard, where the steps do not say."""
        return next(
            (str(step["intent"]) for step in self.steps if step.get("user") == self.reference and "intent" in step), self.intent
        )


@dataclass(frozen=True)
class Recording:
    """One that was found."""

    file: Path
    about: About
    seconds: float


def recording_files(directory: Path) -> List[Path]:
    """Every recording in `directory`, the oldest first. Other files are nobody's business here."""
    return sorted(file for day in _days(directory) for file in _inside(day) if _NAME.fullmatch(file.name))


def recording_file(directory: Path, name: str) -> Path:
    """The file of a recording that is called so in `directory`, such as ``2026-05-12/142501120385-3f9a2c44d01b6e87.flac``.

    Raises:
        AudioError: No recording is called so, whether or not there is such a file.
    """
    day, _, file = name.partition("/")
    if not (_DAY.fullmatch(day) and _NAME.fullmatch(file)):
        raise AudioError(f"{one_line(name[:100])}: no recording is called so.")
    return directory / day / file


def remove_parts(directory: Path) -> None:
    """Removes what processes left in `directory` that were killed while they wrote; they may be half a recording."""
    for day in _days(directory):
        for file in _inside(day):
            with suppress(FileNotFoundError):  # it has become whole
                if _PART.fullmatch(file.name) and time.time() - file.stat().st_mtime > PART_S:
                    file.unlink()


def _days(directory: Path) -> List[Path]:
    return [folder for folder in _inside(directory) if _DAY.fullmatch(folder.name) and folder.is_dir()]


def _inside(folder: Path) -> List[Path]:
    """What is there; nothing where somebody has removed the folder meanwhile, or there never was one."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _size(file: Path) -> int:
    """Its bytes; none where somebody has removed it meanwhile."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def read_recording(file: Path) -> Recording:
    """What is known of a recording; its audio is not decoded.

    Raises:
        AudioError: It is none, or damaged.
    """
    try:
        with open_regular(file) as opened, soundfile.SoundFile(opened) as flac:
            return Recording(file, _about(flac.comment), flac.frames / flac.samplerate)
    except (OSError, soundfile.LibsndfileError, ValueError, TypeError, RecursionError) as error:
        raise AudioError(f"{file}: is no recording of a call, or damaged ({error}).") from None


def _about(comment: str) -> About:
    known = json.loads(comment)
    if not isinstance(known, dict):
        raise ValueError("its comment holds nothing by name")
    label = known.pop("label", None)
    about = About(**known, label=None if label is None else Label(**label))
    texts = [about.sender, about.call_id, about.channel, about.time, about.intent, about.reference]
    texts += [] if about.label is None else [about.label.intent, about.label.by, about.label.time]
    as_written = (
        all(isinstance(text, str) for text in texts)
        and type(about.turn) is int
        and isinstance(about.interrupted, bool)
        and all(isinstance(step, dict) for step in about.steps)
        and all(isinstance(one, list) and [type(value) for value in one] in _RANKED_AS for one in about.ranking)
        and all(0 <= value <= 1 for value in (about.confidence, about.non_speech, *(value for _, value in about.ranking)))
    )
    if not as_written:
        raise ValueError("its comment is not what was written")
    return about


class Recorder:
    """Keeps what callers said. `record` may be called from any thread, and costs it nothing.

    Raises:
        ConfigError: The directory cannot be written to.
    """

    def __init__(self, settings: RecordingSettings) -> None:
        self.directory = Path(settings.recordings)
        require_directory("recordings", self.directory)
        self._most_bytes = settings.recordings_mb * 2**20
        self._days = settings.recordings_days
        self._room = 0  # bytes that may be written before it is looked how many there are
        self._failing = False
        self._written: Dict[Tuple[str, int], Path] = {}  # by call and turn; the thread writes, others read
        self._waiting: "queue.Queue[Optional[Tuple[np.ndarray, About]]]" = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="recordings", daemon=True)  # a disk that hangs keeps nobody

    def start(self) -> None:
        """Begins to write, and to remove what is too old."""
        self._thread.start()

    def record(self, samples: np.ndarray, about: About) -> None:
        """Has the samples (float32, 16 kHz) written; when too many wait already, they are not."""
        try:
            self._waiting.put_nowait((samples, about))
        except queue.Full:
            metrics.RECORDINGS.labels("dropped").inc()

    def file_of(self, call_id: str, turn: int) -> Optional[Path]:
        """Where a turn is recorded; None as long as it is not written, and when it is one of the last `KNOWN` no more."""
        return self._written.get((call_id, turn))

    def of_call(self, call_id: str) -> List[Path]:
        """Where a call's turns are recorded, likewise, in their order."""
        return [file for (call, _), file in sorted(dict(self._written).items()) if call == call_id]

    def close(self) -> None:
        """Writes what waits, for a few seconds at most, and ends."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=FINISH_S)
        if self._thread.is_alive():
            self._thread.join(FINISH_S)

    # ------------------------------------------------ in the thread

    def _work(self) -> None:
        look_at = time.monotonic()
        while True:
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + SWEEP_S
                self._try(self._sweep)
            try:
                item = self._waiting.get(timeout=max(0.0, look_at - time.monotonic()))
            except queue.Empty:
                continue
            if item is None:
                return
            metrics.RECORDINGS.labels("written" if self._try(self._write, *item) else "failed").inc()

    def _try(self, work: Any, *arguments: Any) -> bool:
        try:
            work(*arguments)
        except Exception as error:  # also what libsndfile says: nothing here is worth a thread that ends
            if not self._failing:
                logger.error(
                    "Calls are not recorded in %s (%s). They go on; until it works again this is said once.",
                    self.directory,
                    error,
                )
            self._failing = True
            return False
        return True

    def _write(self, samples: np.ndarray, about: About) -> None:
        content = encoded(np.frombuffer(float_to_pcm16(samples), dtype="<i2"), about)
        if len(content) > self._room:
            self._sweep(len(content))
        now = datetime.now(timezone.utc)
        folder = self.directory / f"{now:%Y-%m-%d}"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = folder / f"{now:%H%M%S%f}-{secrets.token_hex(8)}.flac"
        write_whole(file, content, private=True, durable=True)
        self._written[about.call_id, about.turn] = file
        if len(self._written) > KNOWN:
            del self._written[next(iter(self._written))]
        self._room -= len(content)
        self._failing = False

    def _sweep(self, needed: int = 0) -> None:
        """Removes what is too old, what killed processes left, and the oldest where there is no room for `needed` bytes more."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        today = datetime.now(timezone.utc).date()
        remove_parts(self.directory)
        for day in _days(self.directory):
            if day.name <= str(today - timedelta(days=self._days)):
                for file in _inside(day):
                    if _NAME.fullmatch(file.name):
                        file.unlink(missing_ok=True)
            if day.name < str(today - timedelta(days=1)):
                with suppress(OSError):  # it is not empty
                    day.rmdir()
        files = recording_files(self.directory)
        sizes = [_size(file) for file in files]
        held = sum(sizes)
        if held + needed > self._most_bytes:
            for file, size in zip(files, sizes):
                if held + needed <= 0.9 * self._most_bytes:
                    break
                file.unlink(missing_ok=True)
                held -= size
        # Other processes write there, too: so it is looked now and then.
        self._room = max(needed, min(self._most_bytes - held, self._most_bytes // 20))


def encoded(samples: np.ndarray, about: About) -> bytes:
    """A FLAC of samples (int16, 16 kHz)."""
    held = io.BytesIO()
    with soundfile.SoundFile(held, "w", SAMPLE_RATE, 1, format="FLAC", subtype="PCM_16") as flac:
        flac.comment = json.dumps(asdict(about))
        flac.write(samples)
    return held.getvalue()
