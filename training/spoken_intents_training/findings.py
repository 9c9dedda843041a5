"""What a check of a data set says: each kind of problem in words, and the report of all that were found."""

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Dict, Iterable, List, Sequence, Tuple

from rich.markup import escape
from rich.table import Table

from spoken_intents_training.dataset import Clip
from spoken_intents_training.sound import Sound

SHOWN = 3  # clips named in a table

COLOURS = {"error": "bold red", "warning": "yellow", "info": "cyan"}  # in the order of severity
KINDS = {  # kind: (severity, what, what to do about it)
    "missing": ("error", "clips that are not there", "Correct the path, or remove the example."),
    "unreadable": ("error", "clips that cannot be read as audio", "Record or convert them again."),
    "empty": ("error", "clips without audio", "Record them again, or remove the example."),
    "too_short": ("error", "clips shorter than 20 ms", "Record them again, or remove the example."),
    "silent": ("error", "silent clips (peak below -80 dB)", "Check the microphone and the export, or remove the example."),
    "too_long": ("error", "clips longer than 30 s", "Cut them into utterances."),
    "one_intent": ("error", "fewer than two intents to train on", "Add clips of another intent."),
    "reserved_intent": ("error", "an intent has a reserved name", "Rename it. Examples of noise need not be recorded."),
    "conflicting_intents": ("error", "clips with the same audio under another intent", "Keep them under the one that was meant."),
    "audio_across_splits": (
        "error",
        "clips with the same audio in training and test",
        "Remove them from one of both: what was learnt by heart proves nothing.",
    ),
    "clipped": ("warning", "clipped (0.2 % of the samples at full scale)", "Record with less gain."),
    "quiet": ("warning", "very quiet clips (speech below -50 dBFS)", "Record closer or with more gain: noise is as loud."),
    "long": ("warning", "clips longer than 25 s", "Cut them into utterances: in a call one ends there at the latest."),
    "pauses": (
        "warning",
        "clips that are mostly silence (85 %, and 3 s)",
        "Cut it off: in a call, an utterance ends where silence begins.",
    ),
    "duplicates": (
        "warning",
        "clips with the same audio as another of their intent",
        "Keep one of each: a copy counts, but teaches nothing.",
    ),
    "speakers_across_splits": (
        "warning",
        "test clips of people who are trained on ({share:.0%} of the test)",
        "Test on other people: figures look better than they will be for strangers.",
    ),
    "transcripts_across_splits": (
        "warning",
        "test clips with words that are trained on ({share:.0%} of the test; {sentences:.0%} have more than two words)",
        "Test on other sentences: figures look better than they will be for other words. Short commands recur by nature.",
    ),
    "other_splits": (
        "warning",
        "clips of a split that is neither train nor test: {splits}",
        "Call it test, or remove them: training leaves out test alone.",
    ),
    "unlearnt_intents": (
        "error",
        "intents in the test alone",
        "Add clips to train on, or correct the name: a model can be measured only on what it knows.",
    ),
    "unmeasured_intents": (
        "warning",
        "intents that will not be measured",
        "Add clips to the test. Where there is none, training holds out some of ten or more an intent.",
    ),
    "few_clips": (
        "warning",
        "intents with fewer than 10 clips to train on",
        "Record more, by several people: a few dozen are good.",
    ),
    "similar_names": ("warning", "intents of nearly the same name", "If one is misspelt, correct it: now it is another intent."),
    "imbalance": (
        "warning",
        "intents with less than a tenth of the clips of {largest} ({most})",
        "Record more of them: what is rare in training is rarely heard.",
    ),
    "sample_rates": ("info", "sample rates: {rates}", "Nothing: all become 16 kHz. 8 kHz sounds like a telephone."),
    "no_speakers": ("info", "no speaker is named: {n} of {of} clips", "Name them, to know whether strangers are understood."),
    "memory": ("info", "training holds {megabytes:.0f} MB of samples in memory", "Nothing, where there is that much."),
}


@dataclass(frozen=True)
class Finding:
    """One kind of problem. `clips` names all it is about; `examples` tell people more, or name what is no clip."""

    kind: str
    severity: str
    what: str
    advice: str
    clips: List[str]
    examples: List[str]

    @classmethod
    def of(
        cls, kind: str, clips: Iterable[Clip] = (), examples: Iterable[str] = (), severity: str = "", **figures: Any
    ) -> "Finding":
        """A finding in its kind's words, with figures filled in; `severity` where it is not the kind's own."""
        usual, what, advice = KINDS[kind]
        return cls(kind, severity or usual, what.format(**figures), advice, [clip.name for clip in clips], list(examples))

    def row(self) -> Tuple[str, str, str]:
        """For a terminal: severity; how many; what, the first of them, and what to do."""
        named = self.examples or self.clips
        more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        lines = [f"[bold]{escape(self.what)}[/]", escape(", ".join(named[:SHOWN]) + more), f"[dim]{self.advice}[/]"]
        colour = COLOURS[self.severity]
        return f"[{colour}]{self.severity}[/]", str(len(self.clips or named) or ""), "\n".join(filter(None, lines))


@dataclass(frozen=True)
class CheckReport:
    """What was found, and what the data set holds."""

    clips: Sequence[Clip] = field(repr=False)
    sounds: Sequence[Sound] = field(repr=False)
    findings: List[Finding]

    def count(self, severity: str) -> int:
        """How many kinds of problem are that severe."""
        return sum(finding.severity == severity for finding in self.findings)

    def failed(self, strict: bool = False) -> bool:
        """Whether there is an error; when `strict`, or a warning."""
        return bool(self.count("error") or (strict and self.count("warning")))

    def summary(self) -> Dict[str, Any]:
        """Clips, intents, speakers, minutes and lengths; those are 0 when no clip can be used."""
        seconds = [sound.seconds for sound in self.sounds if not sound.problem] or [0.0]
        return {
            "clips": len(self.clips),
            "intents": len({clip.intent for clip in self.clips}),
            "speakers": len({clip.speaker for clip in self.clips} - {""}),
            "minutes": sum(seconds) / 60,
            "seconds": {"shortest": min(seconds), "median": median(seconds), "longest": max(seconds)},
        }

    def by_intent(self) -> Dict[str, Dict[str, Any]]:
        """Clips, speakers and minutes of every intent, in alphabetical order."""
        spoken: Dict[str, List[Tuple[Clip, Sound]]] = defaultdict(list)
        for clip, sound in zip(self.clips, self.sounds):
            spoken[clip.intent].append((clip, sound))
        return {
            intent: {
                "clips": len(examples),
                "speakers": len({clip.speaker for clip, _ in examples} - {""}),
                "minutes": sum(sound.seconds for _, sound in examples) / 60,
            }
            for intent, examples in sorted(spoken.items())
        }

    def as_json(self) -> Dict[str, Any]:
        """Everything, with the names of all clips, and why each that cannot be read cannot."""
        return {
            "summary": self.summary(),
            "intents": self.by_intent(),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def __str__(self) -> str:
        """Two lines: what the data set holds, and how much was found."""
        held = self.summary()
        lengths = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in held["seconds"].items())
        sizes = f"{held['clips']} clips, {held['intents']} intents, {held['speakers'] or '?'} speakers, {held['minutes']:.1f} min"
        return f"{sizes}; {lengths}.\nKinds of problem: {self.count('error')} error(s), {self.count('warning')} warning(s)."

    def tables(self) -> List[Table]:
        """For a terminal: the intents, and the findings, which are last to be in sight."""
        found = Table("", "", "", box=None, show_header=False, padding=(1, 2, 0, 0))
        found.columns[1].justify = "right"
        for finding in self.findings:
            found.add_row(*finding.row())
        intents = Table("intent", box=None)
        for name in ("clips", "speakers", "minutes"):
            intents.add_column(name, justify="right")
        for intent, figures in self.by_intent().items():
            speakers = str(figures["speakers"] or "?")
            intents.add_row(escape(intent), str(figures["clips"]), speakers, f"{figures['minutes']:.1f}")
        return [intents, found]
