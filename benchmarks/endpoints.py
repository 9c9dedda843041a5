"""When a turn is found to be over, against when it is: lines whose true end is known, and what each method makes of them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.recognizer import Recognizer
from spoken_intents.segmenter import Segmenter, SegmenterSettings, SpeechPaused, Undecided, Utterance
from spoken_intents.vad import make_vad
from spoken_intents_training.augment import add_noise
from spoken_intents_training.dataset import Clip, read_samples
from spoken_intents_training.evaluate import recordings
from spoken_intents_training.pauses import BEFORE, speech_span, stream

BEHIND = 2 * SAMPLE_RATE  # background behind the clip
PAUSES = 3  # opened between words, at most
SNR_DB = 10.0  # of the speech, without the silence around it
MILLISECOND = SAMPLE_RATE // 1000
CONDITIONS = ("as recorded", "pauses opened", "10 dB noise")
WORDS = ("affirm", "deny", "go", "help", "repeat", "start", "stop")
COMMANDS = ("enter", "erase", "rubout")
ADAPTIVE = SegmenterSettings()
# What was tried of the silence that ends a turn surely complete and one surely not.
PAIRS = ((160, 1200), (240, 1200), (200, 800), (200, 1600))


def _fixed(milliseconds: int, **changes: Any) -> SegmenterSettings:
    return SegmenterSettings(turn_end="fixed", min_silence_duration_ms=milliseconds, **changes)


METHODS: Dict[str, SegmenterSettings] = {
    "adaptive": ADAPTIVE,
    "adaptive, Silero": replace(ADAPTIVE, vad="silero"),
    **{f"fixed {milliseconds} ms": _fixed(milliseconds) for milliseconds in (300, 500, 800)},
    # silero-vad's VADIterator: threshold 0.5 to begin and 0.35 to go on, 100 ms of silence (three windows of 32 ms).
    "Silero's defaults": _fixed(100, pause_ms=96, vad="silero"),
    **{
        f"adaptive {sure} to {unsure} ms": replace(ADAPTIVE, sure_silence_ms=sure, unsure_silence_ms=unsure)
        for sure, unsure in PAIRS
    },
}


@dataclass(frozen=True)
class Line:
    """What a line brings of one clip, and the samples between which it is spoken."""

    group: str
    condition: str
    samples: np.ndarray
    begin: int
    end: int


class _Heard:
    """A detector's answers for the windows of one line, given once more to each segmenter."""

    def __init__(self, kind: str, samples: np.ndarray) -> None:
        detector = make_vad(kind, ADAPTIVE.vad_mode, ADAPTIVE.threshold)
        self.window_samples = detector.window_samples
        whole = len(samples) // self.window_samples * self.window_samples
        self._flags = [detector.is_speech(window) for window in samples[:whole].reshape(-1, self.window_samples)]
        self._next = iter(self._flags)

    def again(self) -> "_Heard":
        self._next = iter(self._flags)
        return self

    def is_speech(self, window: np.ndarray) -> bool:
        return next(self._next)


def group_of(dataset: str, clip: Clip) -> str:
    """Under which name a clip is reported."""
    if dataset != "an4":
        return dataset
    kind = "words" if clip.intent in WORDS else "commands" if clip.intent in COMMANDS else "spelled, numbers"
    return f"an4, {kind}"


def lines(dataset: str, clips: Sequence[Clip], speech: Path) -> Iterator[Line]:
    """Every clip in each of `CONDITIONS`; with pauses opened only those with words that part."""
    noises = [read_audio(path, 120) for path in recordings(speech / "noise")]
    for index, clip in enumerate(clips):
        rng = np.random.default_rng((11, index))
        samples, group = read_samples(clip), group_of(dataset, clip)
        begin = BEFORE + speech_span(samples)[0]
        plain, end = stream(samples, 0, BEHIND, rng)
        yield Line(group, CONDITIONS[0], plain, begin, end)
        paused, late = stream(samples, PAUSES, BEHIND, rng)
        if late > end:  # else words part nowhere in the clip
            yield Line(group, CONDITIONS[1], paused, begin, late)
        silent_db = 10 * np.log10(np.mean(plain[begin:end] ** 2) / np.mean(plain**2))
        yield Line(group, CONDITIONS[2], add_noise(plain, noises[index % len(noises)], SNR_DB - silent_db, rng), begin, end)


def ended_at(
    line: Line, settings: SegmenterSettings, vad: _Heard, recognizer: Recognizer, known: Dict[int, Optional[float]]
) -> Optional[float]:
    """The sample at which the turn was found to be over; infinite where it was not, None where nothing was heard.

    Args:
        known: The model's answers so far, by where in the line a pause began.
    """
    segmenter = Segmenter(settings, vad)
    probability: Optional[float] = None
    for event in segmenter.push(line.samples):
        if isinstance(event, SpeechPaused) and settings.turn_end == "adaptive":
            if event.at_sample not in known:
                known[event.at_sample] = recognizer.classify(event.samples).complete
            probability = known[event.at_sample]
        elif isinstance(event, Undecided):
            segmenter.settle(settings.silence_for(probability))
        elif isinstance(event, Utterance) and event.speech_end_sample > line.begin:
            return event.end_sample
    return np.inf if segmenter.speaking else None


def measure(recognizer: Recognizer, heard: Iterator[Line]) -> Dict[Tuple[str, str, str], List[Optional[float]]]:
    """Milliseconds from the end of speech to the end of the turn: negative where it was cut off, infinite or None as `ended_at`.

    By group, condition and method. Each detector and the model hear a line once.
    """
    found: Dict[Tuple[str, str, str], List[Optional[float]]] = {}
    for line in heard:
        vads = {kind: _Heard(kind, line.samples) for kind in ("webrtcvad", "silero")}
        known: Dict[str, Dict[int, Optional[float]]] = {kind: {} for kind in vads}
        for method, settings in METHODS.items():
            end = ended_at(line, settings, vads[settings.vad].again(), recognizer, known[settings.vad])
            delay = None if end is None else (end - line.end) / MILLISECOND
            found.setdefault((line.group, line.condition, method), []).append(delay)
    return found


def row(delays: Sequence[Optional[float]]) -> Dict[str, Any]:
    """Turns, those nothing was heard of or that did not end, the share cut off, and the delay of the others in milliseconds."""
    known = np.array([delay for delay in delays if delay is not None])
    late = known[(known >= 0) & np.isfinite(known)]
    return {
        "n": len(delays),
        "missed": len(delays) - len(known),
        "never_ended": int(np.isinf(known).sum()),
        "cut_off": float(np.mean(known < 0)) if len(known) else None,
        "median_ms": float(np.median(late)) if len(late) else None,
        "p95_ms": float(np.percentile(late, 95)) if len(late) else None,
    }
