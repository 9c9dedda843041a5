"""Which labelled clips sound to a model most like another clip.

A clip is known by the model's logits, each label's less its mean over the labelled clips: what sounds alike to the model has
the same labels high and low, also where the best is wrong. They are computed once for each clip.
"""

import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Tuple

import numpy as np

from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.errors import AudioError
from spoken_intents.features import MAX_SAMPLES
from spoken_intents.recognizer import Recognizer

OF_AN_INTENT = 20  # labelled clips that are compared with, at most: the newest


@dataclass(frozen=True)
class Neighbour:
    """A labelled clip, and how like it is: the cosine between it and the other, 1 at most."""

    clip: str
    intent: str
    likeness: float


class Nearest:
    """Labelled clips by how a model hears them. Thread-safe; a clip is heard when it is first needed."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._heard: Dict[str, Optional[np.ndarray]] = {}  # None: it cannot be heard
        self._labelled: Dict[str, str] = {}
        self._lock = threading.Lock()

    def compare_with(self, labelled: Iterable[Tuple[str, str]]) -> List[str]:
        """Takes these clips, and their intents, the oldest first; returns those that are new, and are to be heard."""
        of_intent: "Counter[str]" = Counter()
        chosen = {}
        for clip, intent in reversed(list(labelled)):
            of_intent[intent] += 1
            if of_intent[intent] <= OF_AN_INTENT:
                chosen[clip] = intent
        with self._lock:
            self._labelled = chosen
            return [clip for clip in chosen if clip not in self._heard]

    def hear(self, clip: str) -> Optional[np.ndarray]:
        """The logits of a clip by its path, shape (labels,); None where it cannot be heard."""
        if clip not in self._heard:
            try:
                logits = self._recognizer.logits(read_audio(Path(clip), MAX_SAMPLES / SAMPLE_RATE))
            except AudioError:
                logits = None
            self._heard[clip] = logits
        return self._heard[clip]

    def to(self, clip: str, count: int) -> List[Neighbour]:
        """The labelled clips most like this one, the most like first, of those that have been heard."""
        logits = self.hear(clip)
        with self._lock:
            known = [(other, intent, self._heard.get(other)) for other, intent in self._labelled.items() if other != clip]
        heard = [(other, intent, vector) for other, intent, vector in known if vector is not None]
        if logits is None or not heard:
            return []
        rows = np.stack([vector for _, _, vector in heard])
        mean = rows.mean(axis=0)
        likeness = _unit(rows - mean) @ _unit(logits - mean)
        order = np.argsort(-likeness, kind="stable")[:count]
        return [Neighbour(heard[row][0], heard[row][1], round(float(likeness[row]), 4)) for row in order]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
