"""The figures of an evaluation, on an example small enough to count by hand."""

import io
from pathlib import Path
from typing import Any, List, Sequence, Tuple

import numpy as np
import pytest
import soundfile
from rich.console import Console
from sklearn.metrics import precision_recall_fscore_support

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import AudioError, DataError
from spoken_intents.recognizer import Recognition
from spoken_intents_training.dataset import Clip
from spoken_intents_training.evaluate import Evaluation, evaluate, wilson_interval

pytestmark = pytest.mark.filterwarnings("error")

INTENTS = ("affirm", "balance", "deny", "freeze")


def heard(intent: str, confidence: float = 0.7, non_speech: float = 0.01, milliseconds: float = 5.0) -> Recognition:
    """What a model that is that sure of `intent` would say; no intent: it heard no speech."""
    if not intent:
        intent, confidence, non_speech = INTENTS[0], 0.2, 0.7
    others = [(other, (1 - confidence - non_speech) / 3) for other in INTENTS if other != intent]
    return Recognition(((intent, confidence), *others), non_speech, "model", milliseconds)


def evaluation(pairs: Sequence[Tuple[str, str]]) -> Evaluation:
    """Of (said, heard)."""
    clips = [Clip(Path(f"{i}.wav"), said, f"audio/{i}.wav", transcript=f"words {i}") for i, (said, _) in enumerate(pairs)]
    return Evaluation(clips, [heard(intent, milliseconds=float(i)) for i, (_, intent) in enumerate(pairs)])


BY_HAND = [
    ("affirm", "affirm"),
    ("affirm", "affirm"),
    ("affirm", "deny"),
    ("balance", "balance"),
    ("balance", ""),  # taken for noise
    ("deny", "deny"),
    ("deny", "freeze"),  # an intent nobody said
    ("deny", "deny"),
]


def test_figures_by_hand() -> None:
    figures = evaluation(BY_HAND).as_json()
    assert figures["n"] == 8
    assert figures["accuracy"] == 5 / 8
    assert figures["intents"]["affirm"] == {"precision": 1.0, "recall": 2 / 3, "f1": pytest.approx(0.8), "n": 3}
    assert figures["intents"]["balance"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "n": 2}
    assert figures["intents"]["deny"] == {"precision": 2 / 3, "recall": 2 / 3, "f1": pytest.approx(2 / 3), "n": 3}
    assert figures["intents"]["freeze"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "n": 0}
    assert figures["macro_f1"] == pytest.approx((0.8 + 2 / 3 + 2 / 3 + 0) / 4)
    assert figures["accuracy_95"] == pytest.approx(wilson_interval(5, 8))
    assert figures["milliseconds_per_clip"] == 3.5


def test_what_was_heard_wrong_is_listed() -> None:
    wrong = evaluation(BY_HAND).as_json()["wrong"]
    assert [(entry["clip"], entry["intent"], entry["heard"]) for entry in wrong] == [
        ("audio/2.wav", "affirm", "deny"),
        ("audio/4.wav", "balance", None),
        ("audio/6.wav", "deny", "freeze"),
    ]
    assert wrong[0]["confidence"] == 0.7 and wrong[0]["transcript"] == "words 2"


def test_no_speech_counts_as_wrong_whatever_the_ranking_says() -> None:
    silent = evaluation([("affirm", ""), ("deny", "deny")])
    assert silent.heard[0].intent == "affirm"  # the ranking would be right
    assert silent.heard_intent(0) == "" and silent.right.tolist() == [False, True]
    assert "" not in silent.by_intent()
    assert silent.by_intent()["affirm"]["recall"] == 0.0


def test_figures_equal_scikit_learns() -> None:
    rng, compared = np.random.default_rng(8), 0
    for _ in range(50):
        size = int(rng.integers(1, 40))
        pairs = [(str(rng.choice(INTENTS)), str(rng.choice([*INTENTS, ""]))) for _ in range(size)]
        mine = evaluation(pairs).as_json()
        said, got = zip(*pairs)
        labels = sorted(set(said) | set(got) - {""})
        precision, recall, f1, n = precision_recall_fscore_support(said, got, labels=labels, zero_division=0)
        assert sorted(mine["intents"]) == labels
        assert mine["macro_f1"] == pytest.approx(f1.mean())
        for index, label in enumerate(labels):
            row = mine["intents"][label]
            assert (row["precision"], row["recall"], row["f1"], row["n"]) == pytest.approx(
                (precision[index], recall[index], f1[index], n[index])
            )
            compared += 1
    assert compared > 150


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962), (1, 1, 0.2065, 1.0)],
)
def test_wilson_interval(right: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=1e-4)


def test_the_table_has_a_row_for_each_intent() -> None:
    shown = io.StringIO()
    Console(width=100, file=shown).print(evaluation(BY_HAND).table())
    rows = {line.split()[0]: line.split()[1:] for line in shown.getvalue().splitlines()}
    assert rows["intent"] == ["clips", "precision", "recall", "F1"]
    assert rows["affirm"] == ["3", "100.0%", "66.7%", "80.0%"]
    assert set(rows) == {"intent", *INTENTS}


class Loudness:
    """Hears "freeze" in loud clips and "deny" in quiet ones."""

    def __init__(self) -> None:
        self.calls: List[int] = []

    def classify(self, samples: np.ndarray) -> Recognition:
        self.calls.append(len(samples))
        return heard("freeze" if np.abs(samples).max() > 0.5 else "deny")


def recorded(folder: Path, name: str, peak: float, samples: int = SAMPLE_RATE) -> Path:
    soundfile.write(folder / name, peak * np.sin(np.arange(samples) / 10), SAMPLE_RATE)
    return folder / name


def test_every_clip_is_classified_once_and_alone(tmp_path: Path) -> None:
    clips = [
        Clip(recorded(tmp_path, "a.wav", 0.9), "freeze", "a.wav"),
        Clip(recorded(tmp_path, "b.wav", 0.1, 8_000), "deny", "b.wav"),
        Clip(recorded(tmp_path, "c.wav", 0.1, 9_000), "freeze", "c.wav"),
    ]
    recognizer, seen = Loudness(), []

    def progress(clips: Sequence[Clip]) -> Any:
        for clip in clips:
            seen.append(clip.name)
            yield clip

    result = evaluate(recognizer, clips, progress)  # type: ignore[arg-type]
    assert recognizer.calls == [16_000, 8_000, 9_000]
    assert seen == ["a.wav", "b.wav", "c.wav"]
    assert result.right.tolist() == [True, True, False]


def test_nothing_to_evaluate_is_refused() -> None:
    with pytest.raises(DataError, match="No clip to evaluate on"):
        evaluate(Loudness(), [])  # type: ignore[arg-type]


def test_a_clip_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_text("no audio")
    with pytest.raises(AudioError, match=r"audio/x\.wav \(intent deny\): cannot be read as audio"):
        evaluate(Loudness(), [Clip(tmp_path / "x.wav", "deny", "audio/x.wav")])  # type: ignore[arg-type]
