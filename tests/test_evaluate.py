"""The figures of an evaluation, on an example small enough to count by hand."""

import io
import json
from pathlib import Path
from typing import Any, List, Sequence, Tuple

import numpy as np
import pytest
import soundfile
from rich.console import Console

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import AudioError, DataError
from spoken_intents.recognizer import NON_SPEECH, Recognition
from spoken_intents_training.dataset import Clip
from spoken_intents_training.evaluate import NO_SPEECH, Evaluation, evaluate, out_of_scope_clips, recordings, summary
from spoken_intents_training.metrics import auroc, wilson_interval

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
    assert figures["intents"]["affirm"] == {
        "precision": 1.0,
        "recall": 2 / 3,
        "recall_95": pytest.approx(wilson_interval(2, 3)),
        "f1": pytest.approx(0.8),
        "n": 3,
    }
    assert figures["intents"]["balance"]["f1"] == figures["intents"]["deny"]["f1"] == pytest.approx(2 / 3)
    assert figures["intents"]["freeze"]["n"] == 0
    assert figures["macro_f1"] == pytest.approx((0.8 + 2 / 3 + 2 / 3) / 3), "of the intents that were said"
    assert figures["rejected"] == 1
    assert figures["confusion"]["heard"] == ["affirm", "balance", "deny", "freeze", NO_SPEECH]
    assert figures["confusion"]["matrix"] == [[2, 0, 1, 0, 0], [0, 1, 0, 0, 1], [0, 0, 2, 1, 0]]
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


def sure_of(said: str, heard_as: str, confidence: float) -> Tuple[Clip, Recognition]:
    return Clip(Path("x.wav"), said, f"{said} {confidence}"), heard(heard_as, confidence)


def test_what_no_caller_sees_is_not_calibrated() -> None:
    """The rejected clip has a confidence in the ranking, which nobody gets to see."""
    figures = evaluation([("affirm", "affirm"), ("deny", "deny"), ("deny", "")]).as_json()["calibration"]
    assert figures["n"] == 2
    assert figures["confidence"] == pytest.approx(0.7)
    assert figures["error"] == pytest.approx(0.3)
    assert evaluation([("deny", ""), ("deny", "")]).as_json()["calibration"] is None


def test_the_worst_are_the_surest_mistakes_and_then_the_least_sure() -> None:
    clips, recognitions = zip(
        sure_of("affirm", "affirm", 0.9),
        sure_of("affirm", "deny", 0.6),
        sure_of("deny", "deny", 0.4),
        sure_of("deny", "freeze", 0.8),
        sure_of("deny", "", 0),  # no speech, by 0.7
    )
    result = Evaluation(list(clips), list(recognitions))
    assert result.worst(10) == [3, 4, 1, 2, 0]
    assert result.worst(2) == [3, 4]
    assert result.told(4)["confidence"] == 0.7, "in what was heard, not in the ranking's first"


def test_the_threshold_is_told_with_what_it_does() -> None:
    clips, recognitions = zip(
        *[sure_of("affirm", "affirm", 0.9)] * 9,
        sure_of("affirm", "affirm", 0.6),
        sure_of("affirm", "deny", 0.3),
        sure_of("affirm", "deny", 0.95),
        sure_of("deny", "", 0),
    )
    outside = [heard("deny", 0.4), heard("deny", 0.88), heard("")]
    figures = Evaluation(list(clips), list(recognitions), outside).as_json()
    threshold = figures["suggested_threshold"]
    assert 0.88 < threshold <= 0.9
    assert figures["at_threshold"] == {
        "right_kept": 0.9,
        "wrong_rejected": pytest.approx(2 / 3),  # what was taken for no speech is rejected by any threshold
        "out_of_scope_rejected": 1.0,
    }


def test_without_anything_right_there_is_no_threshold() -> None:
    figures = evaluation([("affirm", "deny"), ("deny", "affirm")]).as_json()
    assert figures["suggested_threshold"] is None and figures["at_threshold"] is None
    json.dumps(figures)
    assert not any("threshold" in line for line in summary(figures))


def test_out_of_scope_is_told_apart_by_confidence() -> None:
    inside = evaluation([("affirm", "affirm"), ("deny", "deny"), ("deny", "")])
    assert inside.as_json()["out_of_scope"] is None
    outside = [heard("deny", 0.75), heard("deny", 0.4), heard("")]
    figures = Evaluation(inside.clips, inside.heard, outside).as_json()["out_of_scope"]
    assert figures["n"] == 3
    assert figures["heard_as"] == {"deny": 2, NO_SPEECH: 1}
    assert figures["auroc"] == pytest.approx(auroc([0.7, 0.7, 0], [0.75, 0.4, 0])), "what is rejected is sure of nothing"


def test_the_figures_are_json() -> None:
    figures = evaluation(BY_HAND).as_json()
    assert json.loads(json.dumps(figures)) == figures


def test_the_summary_names_the_surest_mistakes() -> None:
    lines = summary(evaluation(BY_HAND).as_json())
    assert lines[0].startswith("Accuracy [bold]62.5%[/] (95 % interval 30.6% to 86.3%), macro-F1 [bold]71.1%[/], 8 clips, 4 ms")
    assert "Taken for no speech: 1 clip(s), counted as wrong." in lines
    assert lines[-3:] == [
        "  audio/2.wav: affirm heard as deny, 70%",
        "  audio/4.wav: balance heard as no speech, 70%",
        "  audio/6.wav: deny heard as freeze, 70%",
    ]


def test_the_table_has_a_row_for_each_intent() -> None:
    shown = io.StringIO()
    Console(width=100, file=shown).print(evaluation(BY_HAND).table())
    rows = {line.split()[0]: line.split()[1:] for line in shown.getvalue().splitlines()}
    assert rows["intent"] == ["clips", "precision", "recall", "F1"]
    assert rows["affirm"] == ["3", "100.0%", "66.7%", "80.0%"]
    assert set(rows) == {"intent", *INTENTS}


class Loudness:
    """Hears "freeze" in loud clips and "deny" in quiet ones."""

    labels = [*INTENTS, NON_SPEECH]

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


def test_intents_the_model_does_not_know_are_refused_before_listening(tmp_path: Path) -> None:
    clips = [Clip(tmp_path / "no.wav", intent, "no.wav") for intent in ("deny", "opening_hours", "opening_hours", "smalltalk")]
    recognizer = Loudness()
    with pytest.raises(
        DataError,
        match=r"knows nothing of opening_hours \(2 clip\(s\)\), smalltalk \(1 clip\(s\)\).*knows affirm, .*--out-of-scope",
    ) as error:
        evaluate(recognizer, clips)  # type: ignore[arg-type]
    assert NON_SPEECH not in str(error.value)
    assert recognizer.calls == []


def test_clips_out_of_scope_are_heard_but_not_counted(tmp_path: Path) -> None:
    clips = [Clip(recorded(tmp_path, "a.wav", 0.9), "freeze", "a.wav")]
    outside = [Clip(recorded(tmp_path, "b.wav", 0.1), "smalltalk", "b.wav")]
    result = evaluate(Loudness(), clips, out_of_scope=outside)  # type: ignore[arg-type]
    assert [recognition.intent for recognition in result.out_of_scope] == ["deny"]
    assert result.as_json()["n"] == 1 and result.as_json()["accuracy"] == 1


def test_a_folder_is_a_list_of_recordings(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    recorded(tmp_path, "b.WAV", 0.1)
    recorded(tmp_path / "below", "a.flac", 0.1)
    (tmp_path / "notes.txt").write_text("no audio")
    assert [path.name for path in recordings(tmp_path)] == ["b.WAV", "a.flac"]
    assert [clip.name for clip in out_of_scope_clips(tmp_path)] == ["b.WAV", "below/a.flac"]
    (tmp_path / "list.csv").write_text("path,intent\nb.WAV,anything\n")
    assert [clip.name for clip in out_of_scope_clips(tmp_path / "list.csv")] == ["b.WAV"]


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no recording \(\.wav, "):
        out_of_scope_clips(tmp_path)
    with pytest.raises(DataError, match="nowhere: no such directory"):
        recordings(tmp_path / "nowhere")
