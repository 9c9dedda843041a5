"""How well a model hears a data set: accuracy, macro-F1, and a table by intent. Needs no torch."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np
from rich.table import Table

from spoken_intents.errors import DataError
from spoken_intents.recognizer import Recognition, Recognizer
from spoken_intents_training.dataset import Clip, read_samples


@dataclass(frozen=True)
class Evaluation:
    """What was heard of each clip, and the figures that follow."""

    clips: List[Clip]
    heard: List[Recognition]

    @property
    def right(self) -> np.ndarray:
        """Whether each clip was heard right, shape (clips,)."""
        return np.array([self.heard_intent(i) == clip.intent for i, clip in enumerate(self.clips)])

    def heard_intent(self, index: int) -> str:
        """The intent heard; empty when the clip was taken for no speech."""
        return self.heard[index].intent if self.heard[index].is_speech else ""

    def by_intent(self) -> Dict[str, Dict[str, float]]:
        """Precision, recall, F1 and clips of every intent that was said or heard."""
        said = [clip.intent for clip in self.clips]
        heard = [self.heard_intent(i) for i in range(len(said))]
        rows = {}
        for intent in sorted(set(said) | set(heard) - {""}):
            both = sum(s == h == intent for s, h in zip(said, heard))
            precision = both / max(1, heard.count(intent))
            recall = both / max(1, said.count(intent))
            f1 = 2 * precision * recall / (precision + recall) if both else 0.0
            rows[intent] = {"precision": precision, "recall": recall, "f1": f1, "n": said.count(intent)}
        return rows

    def as_json(self) -> Dict[str, Any]:
        """The figures, and every clip that was heard wrong."""
        by_intent = self.by_intent()
        low, high = wilson_interval(int(self.right.sum()), len(self.clips))
        return {
            "accuracy": float(self.right.mean()),
            "accuracy_95": [low, high],
            "macro_f1": float(np.mean([row["f1"] for row in by_intent.values()])),
            "n": len(self.clips),
            "milliseconds_per_clip": float(np.median([recognition.milliseconds for recognition in self.heard])),
            "intents": by_intent,
            "wrong": [
                {
                    "clip": clip.name,
                    "intent": clip.intent,
                    "heard": self.heard_intent(i) or None,
                    "confidence": round(self.heard[i].confidence, 4),
                    "transcript": clip.transcript,
                }
                for i, clip in enumerate(self.clips)
                if not self.right[i]
            ],
        }

    def table(self) -> Table:
        """By intent, for a terminal."""
        table = Table("intent", box=None)
        for name in ("clips", "precision", "recall", "F1"):
            table.add_column(name, justify="right")
        for intent, row in self.by_intent().items():
            table.add_row(intent, str(row["n"]), *(f"{row[name]:.1%}" for name in ("precision", "recall", "f1")))
        return table


def evaluate(
    recognizer: Recognizer, clips: Sequence[Clip], progress: Callable[[Sequence[Clip]], Any] = lambda clips: clips
) -> Evaluation:
    """Classifies every clip, one by one, as serving does.

    Raises:
        DataError: No clip.
        AudioError: A clip that cannot be used.
    """
    if not clips:
        raise DataError("No clip to evaluate on.")
    return Evaluation(list(clips), [recognizer.classify(read_samples(clip)) for clip in progress(clips)])


def wilson_interval(right: int, n: int) -> Tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(middle - half), float(middle + half)
