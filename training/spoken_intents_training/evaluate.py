"""How well a model hears a data set: accuracy, confusion, calibration, what is out of scope. Needs no torch."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
from rich.markup import escape
from rich.table import Table

from spoken_intents.audio import SUFFIXES
from spoken_intents.errors import DataError
from spoken_intents.recognizer import NON_SPEECH, Recognition, Recognizer
from spoken_intents_training.dataset import Clip, read_clips, read_samples
from spoken_intents_training.metrics import (
    auroc,
    by_intent,
    calibration_error,
    confusion,
    macro_f1,
    suggest_threshold,
    wilson_interval,
)

NO_SPEECH = "no speech"  # what reports call an utterance that was taken for noise
WORST_SHOWN = 5
Progress = Callable[[Sequence[Clip]], Any]  # yields the clips, and shows how many are done


@dataclass(frozen=True)
class Evaluation:
    """What was heard of each clip, and the figures that follow.

    Attributes:
        clips: At least one.
        heard: What was heard of each.
        out_of_scope: What was heard of clips that belong to no intent; may be empty.
        conditions: Rows of `conditions.measure_conditions`; may be empty.
    """

    clips: List[Clip]
    heard: List[Recognition]
    out_of_scope: List[Recognition] = field(default_factory=list)
    conditions: List[Dict[str, Any]] = field(default_factory=list)

    @property
    def right(self) -> np.ndarray:
        """Whether each clip was heard right, shape (clips,)."""
        return np.array([self.heard_intent(i) == clip.intent for i, clip in enumerate(self.clips)])

    @property
    def confidences(self) -> np.ndarray:
        """How sure the model was of what it heard, no speech included, shape (clips,)."""
        return np.array([heard.confidence if heard.is_speech else heard.non_speech for heard in self.heard])

    @property
    def accepted(self) -> np.ndarray:
        """Whether each clip was heard as some intent, shape (clips,)."""
        return np.array([heard.is_speech for heard in self.heard])

    def heard_intent(self, index: int) -> str:
        """The intent heard; empty when the clip was taken for no speech."""
        return self.heard[index].intent if self.heard[index].is_speech else ""

    def by_intent(self) -> Dict[str, Dict[str, Any]]:
        """Precision, recall, F1 and clips of every intent that was said or heard."""
        return by_intent(*self._said_and_heard())

    def calibration(self) -> Optional[Dict[str, Any]]:
        """`metrics.calibration_error` of what was heard as some intent: nobody gets to see the others' confidence."""
        accepted = self.accepted
        return calibration_error(self.confidences[accepted], self.right[accepted]) if accepted.any() else None

    def suggested_threshold(self) -> Optional[float]:
        """The threshold to give Rasa's FallbackClassifier; None when no clip was heard right."""
        right, confidences = self.right, self.confidences
        if not right.any():
            return None
        return suggest_threshold(
            confidences[right],
            confidences[self.accepted & ~right],
            [heard.confidence for heard in self.out_of_scope if heard.is_speech],
        )

    def worst(self, n: int) -> List[int]:
        """Up to `n` clips to listen to: the wrong ones, the surest first; then the right ones, the least sure first."""
        right, confidences = self.right, self.confidences
        return sorted(range(len(right)), key=lambda i: (right[i], confidences[i] if right[i] else -confidences[i]))[:n]

    def as_json(self) -> Dict[str, Any]:
        """The figures, and every clip that was heard wrong."""
        right, rows = self.right, self.by_intent()
        return {
            "accuracy": float(right.mean()),
            "accuracy_95": list(wilson_interval(int(right.sum()), len(right))),
            "macro_f1": macro_f1(rows),
            "n": len(self.clips),
            "rejected": int((~self.accepted).sum()),
            "milliseconds_per_clip": float(np.median([heard.milliseconds for heard in self.heard])),
            "intents": rows,
            "confusion": confusion(*self._said_and_heard(), NO_SPEECH),
            "calibration": self.calibration(),
            "suggested_threshold": self.suggested_threshold(),
            "at_threshold": self._at_threshold(),
            "out_of_scope": self._out_of_scope(),
            "conditions": self.conditions,
            "wrong": [self.told(i) for i in np.flatnonzero(~right)],
        }

    def told(self, index: int) -> Dict[str, Any]:
        """One clip: what was said, what was heard, and how surely."""
        clip = self.clips[index]
        return {
            "clip": clip.name,
            "intent": clip.intent,
            "heard": self.heard_intent(index) or None,
            "confidence": round(float(self.confidences[index]), 4),
            "transcript": clip.transcript,
        }

    def table(self) -> Table:
        """By intent, for a terminal."""
        table = Table("intent", box=None)
        for name in ("clips", "precision", "recall", "F1"):
            table.add_column(name, justify="right")
        for intent, row in self.by_intent().items():
            table.add_row(escape(intent), str(row["n"]), *(f"{row[name]:.1%}" for name in ("precision", "recall", "f1")))
        return table

    def _said_and_heard(self) -> "tuple[List[str], List[str]]":
        return [clip.intent for clip in self.clips], [self.heard_intent(i) for i in range(len(self.clips))]

    def _scores(self) -> np.ndarray:
        """What a threshold is compared with; below any threshold for what was rejected anyway."""
        return np.where(self.accepted, self.confidences, 0.0)

    def _outside_scores(self) -> np.ndarray:
        return np.array([heard.confidence if heard.is_speech else 0.0 for heard in self.out_of_scope])

    def _at_threshold(self) -> Optional[Dict[str, Optional[float]]]:
        """What the suggested threshold does: shares, None of what there is none of."""
        threshold = self.suggested_threshold()
        if threshold is None:
            return None
        right, scores = self.right, self._scores()
        groups = {"right_kept": scores[right] >= threshold, "wrong_rejected": scores[~right] < threshold}
        groups["out_of_scope_rejected"] = self._outside_scores() < threshold
        return {name: float(group.mean()) if len(group) else None for name, group in groups.items()}

    def _out_of_scope(self) -> Optional[Dict[str, Any]]:
        if not self.out_of_scope:
            return None
        heard_as = Counter(heard.intent if heard.is_speech else NO_SPEECH for heard in self.out_of_scope)
        return {
            "n": len(self.out_of_scope),
            "auroc": auroc(self._scores(), self._outside_scores()),
            "heard_as": dict(heard_as.most_common()),
        }


def evaluate(
    recognizer: Recognizer,
    clips: Sequence[Clip],
    progress: Progress = lambda clips: clips,
    out_of_scope: Sequence[Clip] = (),
) -> Evaluation:
    """Classifies every clip, one by one, as serving does.

    Args:
        out_of_scope: Clips that belong to no intent, whatever theirs is called.

    Raises:
        DataError: No clip, or one whose intent the model does not know.
        AudioError: A clip that cannot be used.
    """
    if not clips:
        raise DataError("No clip to evaluate on.")
    _require_known(clips, recognizer.labels)
    return Evaluation(list(clips), hear(recognizer, clips, progress), hear(recognizer, out_of_scope, progress))


def hear(recognizer: Recognizer, clips: Sequence[Clip], progress: Progress = lambda clips: clips) -> List[Recognition]:
    """What was heard of every clip, in order.

    Raises:
        AudioError: A clip that cannot be used.
    """
    return [recognizer.classify(read_samples(clip)) for clip in progress(clips)] if clips else []


def summary(figures: Dict[str, Any]) -> List[str]:
    """What `Evaluation.as_json` says, a line each, for a terminal."""
    low, high = figures["accuracy_95"]
    lines = [
        f"Accuracy [bold]{figures['accuracy']:.1%}[/] (95 % interval {low:.1%} to {high:.1%}), macro-F1 "
        f"[bold]{figures['macro_f1']:.1%}[/], {figures['n']} clips, {figures['milliseconds_per_clip']:.0f} ms each."
    ]
    if figures["rejected"]:
        lines.append(f"Taken for no speech: {figures['rejected']} clip(s), counted as wrong.")
    if figures["calibration"]:
        error, (low, high) = figures["calibration"]["error"], figures["calibration"]["error_95"]
        lines.append(f"Calibration error [bold]{error:.1%}[/] (95 % interval {low:.1%} to {high:.1%}).")
    if figures["out_of_scope"]:
        outside = figures["out_of_scope"]
        lines.append(f"Out of scope: AUROC [bold]{outside['auroc']:.1%}[/], heard {outside['n']} times.")
    if figures["suggested_threshold"] is not None:
        effect = (
            f"{name} {figures['at_threshold'][key]:.1%} of what {what}"
            for key, name, what in _AT_THRESHOLD
            if figures["at_threshold"][key] is not None
        )
        lines.append(
            f"Suggested threshold for FallbackClassifier: [bold]{figures['suggested_threshold']:.2f}[/] ({', '.join(effect)})."
        )
    if figures["conditions"]:
        source = next(row["noise"] for row in figures["conditions"] if row["noise"])
        lines.append(f"With {source}: " + ", ".join(f"{row['condition']} {row['accuracy']:.1%}" for row in figures["conditions"]))
    worst = sorted(figures["wrong"], key=lambda told: -told["confidence"])[:WORST_SHOWN]
    lines += ["Heard wrong, the surest first:"] if worst else []
    return lines + [
        f"  {escape(told['clip'])}: {escape(told['intent'])} heard as {escape(told['heard'] or NO_SPEECH)}, {told['confidence']:.0%}"
        for told in worst
    ]


_AT_THRESHOLD = (
    ("right_kept", "keeps", "was heard right"),
    ("wrong_rejected", "stops", "was heard wrong"),
    ("out_of_scope_rejected", "stops", "is out of scope"),
)


def _require_known(clips: Sequence[Clip], labels: Sequence[str]) -> None:
    known = [label for label in labels if label != NON_SPEECH]
    unknown = Counter(clip.intent for clip in clips if clip.intent not in known)
    if unknown:
        raise DataError(
            f"The model knows nothing of {', '.join(f'{intent} ({n} clip(s))' for intent, n in sorted(unknown.items()))}. "
            f"It knows {', '.join(known)}. Clips that belong to no intent are for --out-of-scope."
        )


def recordings(folder: Path) -> List[Path]:
    """The recordings in a folder and in those below it, in alphabetical order.

    Raises:
        DataError: No such folder, or no recording in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such directory.")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise DataError(f"{folder}: holds no recording ({', '.join(SUFFIXES)}).")
    return found


def out_of_scope_clips(source: Path) -> List[Clip]:
    """Clips that belong to no intent: what an nlu.yml or CSV lists, or every recording in a folder.

    Raises:
        DataError: Nothing of the kind.
    """
    if source.is_dir():
        return [Clip(path, "", str(path.relative_to(source))) for path in recordings(source)]
    return read_clips(source)
