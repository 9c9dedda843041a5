"""What in a data set will hurt, said before any training. Needs no torch.

An error makes training fail or a figure wrong, a warning makes a model or a figure worse, information is for knowing.
Rows of the split `test` are tested on; all others are trained on, as `train` does.
"""

import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence, Set, Tuple

import numpy as np
import soundfile
from rich.markup import escape
from rich.table import Table

from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16, read_audio
from spoken_intents.errors import AudioError
from spoken_intents.features import MAX_SAMPLES, MIN_SAMPLES
from spoken_intents.recognizer import NON_SPEECH
from spoken_intents_training.dataset import SILENCE, Clip, missing_clips

WINDOW_SAMPLES = SAMPLE_RATE // 50  # 20 ms, over which a level is measured
QUIET_DB = -50  # relative to full scale; a telephone across the room is at about -40
PAUSE_DB = -30  # relative to the speech of the same clip: nobody speaks so far below himself
PAUSE_SHARE, PAUSE_SECONDS = 0.85, 3.0  # both, so that one word in a recorder's usual three seconds is no problem
# Samples at full scale, of all: clipping by 6 dB leaves 0.5 % there, also behind Ogg, MP3 and a resampler, which bend
# flat tops and so rule out looking for equal neighbours. A clip that is merely normalized leaves less than 0.05 %.
FULL_SCALE, CLIPPED_SHARE = 0.99, 0.002
UTTERANCE_SECONDS = 25  # where the channel ends an utterance at the latest
MEASURABLE, ENOUGH, IMBALANCE = 4, 10, 10  # clips of an intent, twice; largest to smallest intent
BYTES_PER_SECOND = 2 * SAMPLE_RATE  # training holds 16-bit samples
SHOWN = 3

KINDS = {  # kind: (severity, what, what to do about it)
    "missing": ("error", "missing", "Correct the path, or remove the example."),
    "unreadable": ("error", "cannot be read as audio", "Record or convert it again: WAV, FLAC, Ogg and MP3 are understood."),
    "empty": ("error", "empty", "Record it again, or remove the example."),
    "too_short": ("error", "shorter than 20 ms", "Record it again, or remove the example."),
    "silent": ("error", "silent (peak below -80 dB)", "Check microphone and export, or remove the example."),
    "too_long": ("error", "longer than 30 s", "Cut it into utterances."),
    "one_intent": ("error", "fewer than two intents to train on", "Add clips of another intent."),
    "reserved_intent": ("error", "the name of an intent is reserved", "Rename it; examples of noise need not be recorded."),
    "conflicting_intents": ("error", "the same audio under two intents", "Keep it under the intent it belongs to."),
    "audio_across_splits": (
        "error",
        "the same audio in training and test",
        "Remove it from one: a test on what was learnt measures nothing.",
    ),
    "clipped": ("warning", "clipped (0.2 % of the samples or more at full scale)", "Record with less gain."),
    "quiet": ("warning", "very quiet (speech below -50 dBFS)", "Record closer or with more gain: noise is as loud as this."),
    "long": ("warning", "longer than 25 s", "Cut it: the channel ends an utterance there at the latest."),
    "pauses": (
        "warning",
        "mostly silence (85 % or more, and 3 s or more)",
        "Cut it: the channel cuts callers' speech out of the silence around it.",
    ),
    "duplicates": ("warning", "the same audio more than once in an intent", "Keep one: copies count more, but teach no more."),
    "speakers_across_splits": (
        "warning",
        "tested on speakers who are trained on too: {share:.0%} of the test clips",
        "Test on other people: figures look better than they will be for strangers.",
    ),
    "transcripts_across_splits": (
        "warning",
        "tested on words that are trained on too: {share:.0%} of the test clips, {sentences:.0%} are sentences",
        "Test on other sentences: figures look better than they will be for new words. Commands of one or two words recur.",
    ),
    "unlearnt_intents": ("warning", "intents in the test alone", "Add clips to train on, or correct the name: all are heard wrong."),
    "unmeasured_intents": (
        "warning",
        "intents that are not measured",
        "Add clips to the test; or four or more to train on where there is no test: from three, none is held out.",
    ),
    "few_clips": ("warning", "intents with fewer than 10 clips to train on", "Record more, by several people: a few dozen are good."),
    "similar_names": ("warning", "intents of nearly one name", "If one is misspelt, correct it: it is an intent of its own."),
    "imbalance": ("warning", "largest intent more than 10 times the smallest", "Record more of the small ones: they are heard less."),
    "sample_rates": ("info", "sample rates: {rates}", "Nothing: all become 16 kHz. What was 8 kHz sounds like a telephone."),
    "no_speakers": ("info", "no speaker is named: {n} of {of} clips", "Name speakers, to test on people who were not trained on."),
    "memory": ("info", "memory for samples in training: {megabytes:.0f} MB", "Nothing, if the machine has that."),
}


@dataclass(frozen=True)
class Finding:
    """One kind of problem. `clips` are all it concerns; `examples` say it for a person, where names do not."""

    kind: str
    severity: str
    what: str
    advice: str
    clips: List[str] = field(default_factory=list)
    examples: List[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sound:
    """What was measured of a clip. `problem` is the kind of error; without one, all figures are given."""

    problem: str = ""
    reason: str = ""
    seconds: float = 0.0
    sample_rate: int = 0  # the file's
    content: bytes = b""  # a digest of the samples
    speech_db: float = 0.0
    pause_seconds: float = 0.0
    full_scale_share: float = 0.0

    def warnings(self) -> Iterator[str]:
        """The kinds of warning that are due."""
        if self.full_scale_share >= CLIPPED_SHARE:
            yield "clipped"
        if self.speech_db < QUIET_DB:
            yield "quiet"
        if self.seconds > UTTERANCE_SECONDS:
            yield "long"
        if self.pause_seconds >= max(PAUSE_SHARE * self.seconds, PAUSE_SECONDS):
            yield "pauses"


Examples = Sequence[Tuple[Clip, Sound]]


@dataclass(frozen=True)
class CheckReport:
    """What was found, and what the data set holds."""

    examples: Examples = field(repr=False)
    findings: List[Finding]

    def count(self, severity: str) -> int:
        """How many findings are that severe."""
        return sum(finding.severity == severity for finding in self.findings)

    def failed(self, strict: bool = False) -> bool:
        """Whether there is an error; when `strict`, or a warning."""
        return bool(self.count("error") or strict and self.count("warning"))

    def summary(self) -> Dict[str, Any]:
        """Clips, intents, speakers and lengths; a length is 0 when no clip can be used."""
        seconds = sorted(sound.seconds for _, sound in self.examples if not sound.problem) or [0.0]
        return {
            **_figures(self.examples),
            "intents": len({clip.intent for clip, _ in self.examples}),
            "shortest_seconds": seconds[0],
            "median_seconds": median(seconds),
            "longest_seconds": seconds[-1],
        }

    def by_intent(self) -> Dict[str, Dict[str, Any]]:
        """Clips, speakers and minutes of every intent, in alphabetical order."""
        intents: Dict[str, List[Tuple[Clip, Sound]]] = defaultdict(list)
        for clip, sound in self.examples:
            intents[clip.intent].append((clip, sound))
        return {intent: _figures(examples) for intent, examples in sorted(intents.items())}

    def as_json(self) -> Dict[str, Any]:
        """Everything, with the names of all clips."""
        findings = [asdict(finding) for finding in self.findings]
        return {"summary": self.summary(), "intents": self.by_intent(), "findings": findings}

    def tables(self) -> List[Table]:
        """For a terminal: what was found (left out when nothing was), and the intents."""
        found = Table(box=None, show_header=False, padding=(0, 2, 1, 0))
        for finding in self.findings:
            named = [escape(text) for text in finding.examples or finding.clips]
            more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
            lines = [f"[bold]{escape(finding.what)}[/]", ", ".join(named[:SHOWN]) + more, f"[dim]{finding.advice}[/]"]
            style = {"error": "bold red", "warning": "yellow", "info": "cyan"}[finding.severity]
            found.add_row(f"[{style}]{finding.severity}[/]", str(len(named) or ""), "\n".join(line for line in lines if line))
        intents = Table("intent", box=None)
        for name in ("clips", "speakers", "minutes"):
            intents.add_column(name, justify="right")
        for intent, figures in self.by_intent().items():
            speakers = str(figures["speakers"] or "?")
            intents.add_row(escape(intent), str(figures["clips"]), speakers, f"{figures['minutes']:.1f}")
        return [found, intents] if self.findings else [intents]


def _figures(examples: Examples) -> Dict[str, Any]:
    return {
        "clips": len(examples),
        "speakers": len({clip.speaker for clip, _ in examples if clip.speaker}),
        "minutes": sum(sound.seconds for _, sound in examples) / 60,
    }


def check(clips: Sequence[Clip], progress: Callable[[Sequence[Clip]], Iterable[Clip]] = lambda clips: clips) -> CheckReport:
    """What will hurt in these clips. Decodes each once, four at a time, and keeps figures alone."""
    with ThreadPoolExecutor(4) as pool:
        examples = list(zip(progress(clips), pool.map(measure, clips)))
    usable = [(clip, sound) for clip, sound in examples if not sound.problem]
    learnt = [clip for clip in clips if clip.split != "test"]
    tested = [clip for clip in clips if clip.split == "test"]
    findings = [
        *_of_sound(examples),
        *_of_content(usable),
        *_of_splits(learnt, tested),
        *_of_intents(learnt, tested),
        *_to_know(usable, clips),
    ]
    return CheckReport(examples, sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def measure(clip: Clip) -> Sound:
    """How a clip sounds, or why it cannot be used: for the same reasons as `read_samples`."""
    if missing_clips([clip]):
        return Sound("missing")
    try:
        samples = read_audio(clip.path, MAX_SAMPLES / SAMPLE_RATE, clip.name)
        sample_rate = soundfile.info(clip.path).samplerate
    except AudioError as error:
        return Sound(_why_refused(clip.path), str(error))
    if len(samples) < MIN_SAMPLES:
        return Sound("too_short")
    magnitudes = np.abs(samples)
    if magnitudes.max() < SILENCE:
        return Sound("silent")
    windows = samples[: len(samples) // WINDOW_SAMPLES * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)
    levels = 10 * np.log10(np.maximum((windows**2).mean(axis=1), 1e-12))
    speech_db = float(np.percentile(levels, 95))  # of the loudest twentieth: a click is shorter, a vowel is not
    return Sound(
        seconds=len(samples) / SAMPLE_RATE,
        sample_rate=sample_rate,
        content=blake2b(float_to_pcm16(samples), digest_size=16).digest(),
        speech_db=speech_db,
        pause_seconds=int((levels < speech_db + PAUSE_DB).sum()) * WINDOW_SAMPLES / SAMPLE_RATE,
        full_scale_share=float((magnitudes >= FULL_SCALE).mean()),
    )


def _why_refused(path: Path) -> str:
    """The kind of error of a file that `read_audio` refuses."""
    try:
        header = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError):
        return "unreadable" if path.stat().st_size else "empty"
    if not header.frames:
        return "empty"
    if header.duration * SAMPLE_RATE < MIN_SAMPLES:
        return "too_short"
    return "too_long" if header.duration * SAMPLE_RATE > MAX_SAMPLES else "unreadable"


def _finding(kind: str, clips: Iterable[Clip] = (), examples: Iterable[str] = (), **figures: Any) -> Iterator[Finding]:
    """That finding, unless it is about nothing."""
    severity, what, advice = KINDS[kind]
    names, texts = [clip.name for clip in clips], list(examples)
    if names or texts or figures:
        yield Finding(kind, severity, what.format(**figures), advice, names, texts)
