"""Speech flags -> SpeechStarted, SpeechSustained, SpeechPaused, Undecided, Utterance. Pure: no clock, no input or output.

    QUIET ──enough speech in the last windows──▶ SPEAKING ──▶ silence long enough ──▶ Utterance, QUIET
                                                   │  ▲
                                      short silence▼  │speech
                                                  PAUSED

Time is counted in samples since the stream began, so any split of the same audio into chunks gives the same
utterances. Who decides how much silence ends an utterance is asked at a sample, too: `Undecided`.
"""

from collections import deque
from dataclasses import dataclass
from typing import Deque, Iterator, List, Optional, Union

import numpy as np

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.config import require
from spoken_intents.vad import Vad, make_vad, require_vad

# Probabilities of being complete up to which a caller surely goes on, and from which he surely is done. In between the
# silence needed falls evenly; falling evenly from 0 to 1 cut off twice as many turns and was slower.
UNSURE, SURE = 0.5, 0.8


@dataclass(frozen=True)
class SegmenterSettings:
    """When an utterance starts and ends, in milliseconds of audio; Silero's names.

    Attributes:
        vad: Which detector: ``webrtcvad`` or ``silero``.
        vad_mode: webrtcvad's strictness, 0 to 3.
        threshold: Silero's probability of speech from which a window is speech.
        start_window_ms: Speech starts when `min_speech_duration_ms` of this long a stretch is speech, so that
            a click does not start one and a stutter of the detector does not prevent one.
        min_speech_duration_ms: See above; a "yes" is about 200 ms of speech.
        turn_end: ``adaptive``: a model that has learnt it says from what was said how likely it is all, and the
            silence needed lies between the two below; ``fixed``: always `min_silence_duration_ms`.
        min_silence_duration_ms: Silence that ends the utterance where it is fixed, and where the model cannot say.
        sure_silence_ms: Silence that ends what is surely complete.
        unsure_silence_ms: Silence that ends what surely is not.
        pause_ms: Silence that is reported as a pause, before the end, to classify in advance.
        interruption_ms: Speech in one utterance from which it is sustained: no cough, no "uh-huh".
        speech_pad_ms: Audio kept before the first speech, so that no soft consonant is lost, and after the last
            (there at most `pause_ms`).
        max_speech_duration_ms: Longest utterance; it is ended here and a new one begins at once.
    """

    vad: str = "webrtcvad"
    vad_mode: int = 2
    threshold: float = 0.5
    start_window_ms: int = 240
    min_speech_duration_ms: int = 140
    turn_end: str = "adaptive"
    min_silence_duration_ms: int = 600
    sure_silence_ms: int = 200
    unsure_silence_ms: int = 1200
    pause_ms: int = 120
    interruption_ms: int = 400
    speech_pad_ms: int = 300
    max_speech_duration_ms: int = 20_000

    def __post_init__(self) -> None:
        require_vad(self.vad, self.vad_mode, self.threshold)
        require(
            20 <= self.min_speech_duration_ms <= self.start_window_ms,
            f"min_speech_duration_ms ({self.min_speech_duration_ms}) takes 20 to start_window_ms ({self.start_window_ms}).",
        )
        require(self.start_window_ms <= 2000, f"start_window_ms takes up to 2000, got {self.start_window_ms}.")
        require(self.turn_end in ("adaptive", "fixed"), f"turn_end takes adaptive or fixed, got {self.turn_end!r}.")
        require(
            20 <= self.pause_ms <= self.min_silence_duration_ms <= 10_000,
            f"pause_ms ({self.pause_ms}) takes 20 to min_silence_duration_ms ({self.min_silence_duration_ms}), and that up to 10000.",
        )
        require(
            self.turn_end == "fixed" or self.pause_ms <= self.sure_silence_ms <= self.unsure_silence_ms <= 10_000,
            f"sure_silence_ms ({self.sure_silence_ms}) takes pause_ms ({self.pause_ms}) to unsure_silence_ms "
            f"({self.unsure_silence_ms}), and that up to 10000.",
        )
        require(
            self.turn_end == "fixed" or self.sure_silence_ms <= self.min_silence_duration_ms,
            f"sure_silence_ms ({self.sure_silence_ms}) takes up to min_silence_duration_ms ({self.min_silence_duration_ms}), which "
            "would end every turn before the model is asked.",
        )
        require(100 <= self.interruption_ms <= 5000, f"interruption_ms takes 100 to 5000, got {self.interruption_ms}.")
        require(0 <= self.speech_pad_ms <= 2000, f"speech_pad_ms takes 0 to 2000, got {self.speech_pad_ms}.")
        require(
            1000 <= self.max_speech_duration_ms <= 25_000,
            f"max_speech_duration_ms takes 1000 to 25000 (the model hears at most 30 s), got {self.max_speech_duration_ms}.",
        )

    def silence_for(self, complete: Optional[float]) -> float:
        """Silence that ends an utterance, in milliseconds.

        Args:
            complete: Probability that it is all the caller wants to say; None from a model that did not learn it.
        """
        if complete is None or self.turn_end == "fixed":
            return self.min_silence_duration_ms
        sureness = min(1.0, max(0.0, (complete - UNSURE) / (SURE - UNSURE)))
        return self.unsure_silence_ms + sureness * (self.sure_silence_ms - self.unsure_silence_ms)


@dataclass(frozen=True)
class SpeechStarted:
    """Somebody speaks, first at `at_sample`."""

    at_sample: int


@dataclass(frozen=True)
class SpeechPaused:
    """Nobody speaks any more since `at_sample`; whether the utterance is over is not known yet.

    `samples` is what the `Utterance` will hold, sample for sample, unless the speech goes on.
    """

    at_sample: int
    samples: np.ndarray


@dataclass(frozen=True)
class SpeechSustained:
    """The utterance under way holds `interruption_ms` of speech by now."""

    at_sample: int


@dataclass(frozen=True)
class SpeechResumed:
    """After a pause that was told, somebody speaks again, since `at_sample`: it was not the end."""

    at_sample: int


@dataclass(frozen=True)
class Undecided:
    """The silence since `at_sample` would end something surely complete: `Segmenter.settle` says now what is needed.

    Unless it does, `min_silence_duration_ms` is.
    """

    at_sample: int


@dataclass(frozen=True)
class Utterance:
    """One stretch of speech, with its padding.

    Attributes:
        samples: float32, 16 kHz, mono; not to be written to.
        start_sample: Where `samples` begins in the stream.
        speech_end_sample: Where the last speech ended.
        end_sample: Where it was decided that the utterance is over.
        reason: ``silence``, ``commit``, ``max_duration`` or ``end_of_stream``.
    """

    samples: np.ndarray
    start_sample: int
    speech_end_sample: int
    end_sample: int
    reason: str

    @property
    def endpoint_delay_ms(self) -> float:
        """From the end of speech to the decision that the utterance is over."""
        return (self.end_sample - self.speech_end_sample) * 1000 / SAMPLE_RATE


Event = Union[SpeechStarted, SpeechSustained, SpeechPaused, SpeechResumed, Undecided, Utterance]


class Segmenter:
    """Cuts one stream into utterances; one instance for each stream, not thread-safe.

    Args:
        vad: Instead of the one that `settings` name.

    Raises:
        ConfigError: `settings` name a detector that is not installed.
    """

    def __init__(self, settings: SegmenterSettings, vad: Optional[Vad] = None) -> None:
        self._vad = vad or make_vad(settings.vad, settings.vad_mode, settings.threshold)
        self._size = self._vad.window_samples

        def windows(milliseconds: int) -> int:
            return max(1, milliseconds * SAMPLE_RATE // 1000 // self._size)

        self._min_speech = windows(settings.min_speech_duration_ms)
        self._min_silence = windows(settings.min_silence_duration_ms)
        self._needed = self._min_silence  # of the silence under way
        self._undecided = windows(settings.sure_silence_ms) if settings.turn_end == "adaptive" else 0
        self._pause = windows(settings.pause_ms)
        self._sustained = windows(settings.interruption_ms)
        self._pad = windows(settings.speech_pad_ms) if settings.speech_pad_ms else 0
        self._tail = min(self._pad, self._pause)  # what a pause shows is all there will be
        self._max_speech = windows(settings.max_speech_duration_ms)
        start_window = windows(settings.start_window_ms)
        self._flags: Deque[bool] = deque(maxlen=start_window)
        self._before: Deque[np.ndarray] = deque(maxlen=start_window + self._pad)
        self._rest = np.zeros(0, dtype=np.float32)
        self._seen = 0  # windows so far
        self._windows: List[np.ndarray] = []  # of the utterance being spoken
        self._start: Optional[int] = None  # its first window; None: nobody speaks
        self._speech_end = 0  # the window behind its last speech
        self._speech = 0  # windows of speech in it
        self.held = False  # no silence ends the utterance, only `flush` and its greatest length

    @property
    def speaking(self) -> bool:
        """Whether an utterance is under way (a pause in it included)."""
        return self._start is not None

    @property
    def now(self) -> int:
        """How many samples of the stream are decided on."""
        return self._seen * self._size

    def push(self, samples: np.ndarray) -> Iterator[Event]:
        """Takes samples (float32, 16 kHz, any number) and gives what becomes known by them, one after the other.

        Lazy, and to be read to its end: what is done between two events (`settle`) counts for the second.
        """
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) - len(samples) % self._size
        self._rest = samples[whole:].copy()  # a view would keep the whole chunk alive
        for position in range(0, whole, self._size):
            yield from self._window(samples[position : position + self._size])

    def settle(self, silence_ms: float) -> None:
        """How long the silence under way has to be to end the utterance; forgotten when the speech goes on."""
        self._needed = max(1, int(silence_ms) * SAMPLE_RATE // 1000 // self._size)

    def flush(self, reason: str = "end_of_stream") -> List[Event]:
        """Ends the utterance under way now, if there is one. The stream may go on.

        A `commit` also takes speech too short to have started an utterance by itself: somebody says it was one.
        """
        if self.speaking:
            return [self._end(reason)]
        recent = list(self._flags)[-len(self._before) :] if self._before else []  # flags whose windows are at hand
        if reason == "commit" and any(recent):
            return [self._begin(), self._end(reason)]
        return []

    def _window(self, window: np.ndarray) -> Iterator[Event]:
        is_speech = self._vad.is_speech(window)
        self._seen += 1
        if self._start is None:
            yield from self._quiet(window, is_speech)
            return
        self._windows.append(window)
        if is_speech:
            if self._seen - 1 - self._speech_end >= self._pause:
                yield SpeechResumed((self._seen - 1) * self._size)
            self._speech_end = self._seen
            self._needed = self._min_silence
            self._speech += 1
            if self._speech == self._sustained:
                yield SpeechSustained(self.now)
        silence = self._seen - self._speech_end
        if silence == self._pause:
            yield SpeechPaused(self._speech_end * self._size, self._spoken())
        if silence and silence == self._undecided:
            yield Undecided(self._speech_end * self._size)
        if silence >= self._needed and not self.held:
            yield self._end("silence")
        elif len(self._windows) >= self._max_speech:
            yield self._end_at_limit()

    def _quiet(self, window: np.ndarray, is_speech: bool) -> Iterator[Event]:
        self._before.append(window)
        self._flags.append(is_speech)
        if sum(self._flags) >= self._min_speech:
            yield self._begin()
            if self._speech >= self._sustained:  # `min_speech_duration_ms` may be the longer one
                yield SpeechSustained(self.now)

    def _begin(self) -> SpeechStarted:
        """Opens an utterance at the first speech among the last windows."""
        first = min(len(self._flags) - list(self._flags).index(True), len(self._before))
        last = list(reversed(self._flags)).index(True)  # windows since the last speech
        self._speech = sum(self._flags)
        self._needed = self._min_silence
        self._windows = list(self._before)[-(first + self._pad) :]
        self._start = self._seen - len(self._windows)
        self._speech_end = self._seen - last
        self._before.clear()
        self._flags.clear()
        return SpeechStarted((self._seen - first) * self._size)

    def _end(self, reason: str) -> Utterance:
        assert self._start is not None
        utterance = Utterance(
            samples=self._spoken(),
            start_sample=self._start * self._size,
            speech_end_sample=self._speech_end * self._size,
            end_sample=self._seen * self._size,
            reason=reason,
        )
        self._before.extend(self._windows[self._kept() :])
        self._windows, self._start = [], None
        return utterance

    def _kept(self) -> int:
        """How many of `_windows` belong to the utterance, were it over now."""
        assert self._start is not None
        return self._speech_end - self._start + self._tail

    def _spoken(self) -> np.ndarray:
        return np.concatenate(self._windows[: self._kept()])

    def _end_at_limit(self) -> Utterance:
        """Cuts without losing a window; one more window of speech behind the cut opens the next utterance."""
        if self._speech_end == self._seen:
            self._flags.extend([True] * (self._min_speech - 1))
        return self._end("max_duration")


def segment(samples: np.ndarray, settings: SegmenterSettings) -> List[Utterance]:
    """The utterances of a whole recording."""
    segmenter = Segmenter(settings)
    events = [*segmenter.push(samples), *segmenter.flush()]
    return [event for event in events if isinstance(event, Utterance)]
