"""`spoken-intents compare`: what it says of two models on the same clips, and what it refuses. The models are fakes."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest
import soundfile
from test_cli import called, words

from spoken_intents.archives import Fallback
from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.recognizer import NON_SPEECH, Recognition
from spoken_intents_training.compare import Comparison, Ear, compare
from spoken_intents_training.dataset import Clip
from spoken_intents_training.metrics import mcnemar
from spoken_intents_training.sources import file_digest

Answer = Tuple[str, float]


class Scripted:
    """Hears in a clip what a dictionary says of its pitch, and no speech in all else."""

    precision = "int8"

    def __init__(self, answers: Dict[int, Answer], name: str, labels: Tuple[str, ...] = ("deny", "freeze")) -> None:
        self.labels = [*labels, NON_SPEECH]
        self.answers = answers
        self.fingerprint = name
        self.description: Dict[str, Any] = {"base_model": "a fake", "data": {"clips": {"deny": 3}, "learnt": []}}
        self.order: List[str] = []

    def classify(self, samples: np.ndarray) -> Recognition:
        spectrum = np.abs(np.fft.rfft(samples, SAMPLE_RATE))
        pitch = int(spectrum.argmax())
        intent, confidence = self.answers.get(pitch, ("", 0.0)) if spectrum.max() > 100 else ("", 0.0)
        others = [label for label in self.labels[:-1] if label != intent]
        ranking = ([(intent, confidence)] if intent else []) + [(other, 0.05) for other in others]
        return Recognition(tuple(ranking), 0.01 if intent else 0.9, self.fingerprint, 7.0 if self.fingerprint == "old" else 14.0)


def recorded(folder: Path, pitch: int) -> Path:
    file = folder / f"{pitch}.wav"
    soundfile.write(file, 0.5 * np.sin(2 * np.pi * pitch * np.arange(SAMPLE_RATE) / SAMPLE_RATE), SAMPLE_RATE)
    return file


@pytest.fixture(autouse=True)
def few_noises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spoken_intents_training.compare.NOISES", 2)


@pytest.fixture
def heard(tmp_path: Path) -> Callable[..., Comparison]:
    """Has two models compared whose answers are given clip by clip: (said, OLD's, NEW's)."""

    def run(*rows: Tuple[str, Answer, Answer], **more: Any) -> Comparison:
        clips = [Clip(recorded(tmp_path, 200 + i), said, f"audio/{200 + i}.wav") for i, (said, _, _) in enumerate(rows)]
        ears = [
            Ear(name, Scripted({200 + i: row[side] for i, row in enumerate(rows)}, name), None, size)  # type: ignore[arg-type]
            for side, (name, size) in enumerate((("old", 8), ("new", 16)), 1)
        ]
        return compare(ears[0], ears[1], clips, **more)

    return run


RIGHT, WRONG = ("deny", 0.9), ("freeze", 0.6)


@pytest.mark.parametrize(
    ("right", "wrong", "p"), [(0, 0, 1), (1, 0, 1), (6, 0, 2 / 64), (0, 6, 2 / 64), (5, 1, 14 / 64), (3, 3, 1), (500, 400, None)]
)
def test_mcnemar_by_hand(right: int, wrong: int, p: Any) -> None:
    if p is None:  # the sum that the definition asks for
        p = 2 * sum(math.comb(900, k) for k in range(401)) / 2**900
    assert mcnemar(right, wrong) == pytest.approx(p)


def test_what_became_of_each_clip(heard: Any) -> None:
    result = heard(("deny", RIGHT, WRONG), ("deny", WRONG, RIGHT), ("deny", WRONG, ("freeze", 0.7)), ("deny", RIGHT, RIGHT))
    assert result.changes() == ["newly_wrong", "newly_right", "still_wrong", "still_right"]
    figures = result.as_json()
    assert json.loads(json.dumps(figures)) == figures
    row = figures["heard_right"]
    assert (row["n"], row["old"], row["new"], row["p"]) == (4, 2, 2, 1)
    assert row["old_95"] == pytest.approx([0.150, 0.850], abs=0.001)
    assert figures["newly_wrong"] == [
        {
            "clip": "audio/200.wav",
            "intent": "deny",
            "transcript": "",
            "old": {"heard": "deny", "confidence": 0.9, "outcome": "answered_right"},
            "new": {"heard": "freeze", "confidence": 0.6, "outcome": "answered_wrong"},
        }
    ]
    assert [told["clip"] for told in figures["still_wrong"]] == ["audio/202.wav"]
    assert figures["verdict"] == "same" and figures["times_as_slow"] == 2 and figures["times_as_large"] == 2
    assert figures["old"]["noises_stopped"] == figures["noises"] > 0


@pytest.mark.parametrize(("old", "new", "verdict"), [(RIGHT, WRONG, "worse"), (WRONG, RIGHT, "better")])
def test_six_clips_in_one_direction_are_no_chance_and_five_may_be(heard: Any, old: Answer, new: Answer, verdict: str) -> None:
    assert heard(*[("deny", old, new)] * 6).verdict() == verdict
    assert heard(*[("deny", old, new)] * 5).verdict() == "same"


def test_one_intent_may_be_worse_while_the_others_gain(heard: Any) -> None:
    lost = [("deny", RIGHT, WRONG)] * 8
    gained = [("freeze", ("deny", 0.6), ("freeze", 0.9))] * 12
    result = heard(*lost, *gained)
    assert list(result.by_intent()) == ["deny", "freeze"], "the worst first"
    assert result.worse() == ["Fewer clips of deny are heard right: 8 newly wrong, 0 newly right (p = 0.016)."], (
        "times two intents"
    )
    assert heard(*lost[:6], *gained).worse() == [], "1 / 32 is no longer rare where two intents are looked at"


def test_a_model_that_is_never_sure_is_worse(tmp_path: Path, heard: Any) -> None:
    unsure = [("deny", RIGHT, ("deny", 0.4))] * 6
    assert heard(*unsure).verdict() == "same", "where no threshold is known"
    result = heard(*unsure)
    at_threshold = Comparison(*(replace(s, ear=replace(s.ear, fallback=Fallback(0.5))) for s in (result.old, result.new)), [])
    assert at_threshold.new.outcomes() == ["asked_back"] * 6
    assert (
        at_threshold.worse() == ["Fewer clips are heard right and answered: 6 newly wrong, 0 newly right (p = 0.031)."]
        and at_threshold.changes() == ["still_right"] * 6
    )


# ---------------------------------------------------------------- the command


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three clips in a project, of which NEW hears one better and one worse; the models are scripts in two directories."""
    scripts = {
        "old": Scripted({200: ("deny", 0.9), 210: ("deny", 0.6), 220: ("freeze", 0.7), 230: ("freeze", 0.9)}, "old"),
        "new": Scripted({200: ("freeze", 0.6), 210: ("freeze", 0.9), 220: ("freeze", 0.9), 230: ("freeze", 0.3)}, "new"),
    }
    monkeypatch.setattr("spoken_intents_training.cli_compare.Recognizer", lambda directory: scripts[directory.name])
    for name in scripts:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.json").write_text("{}")
        (tmp_path / name / "model.onnx").write_bytes(bytes(8))
    rows = ["path,intent,split,transcript"]
    for pitch, intent in ((200, "deny"), (210, "freeze"), (220, "freeze")):
        rows.append(f"{recorded(tmp_path, pitch).name},{intent},test,words")
    recorded(tmp_path, 230)
    (tmp_path / "data.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data_scripts, "of", scripts, raising=False)
    return tmp_path / "data.csv"


class data_scripts:
    """The models of the fixture `data`."""

    of: Dict[str, Scripted]


def told(capsys: pytest.CaptureFixture, *arguments: object, code: int = 0) -> str:
    assert called("compare", "old", "new", *arguments) == code
    return words(capsys.readouterr().out)


def test_the_first_screen(data: Path, capsys: pytest.CaptureFixture) -> None:
    out = told(capsys, "--data", data)
    assert (
        "No difference can be shown: of 3 clips that neither learnt OLD hears 2 right, NEW 2; 1 newly right, 1 newly wrong" in out
    )
    assert out.index("No difference") < out.index("heard right (95 %)") < out.index("Newly wrong")
    assert "66.7% (21–94%) 66.7% (21–94%) +0.0 points, p = 1.000" in out
    assert "time a clip (median) 7.0 ms 14.0 ms times 2.00" in out
    assert "200.wav: deny; OLD deny 90%; NEW freeze 60%" in out
    assert "210.wav: freeze; OLD deny 60%; NEW freeze 90%" in out


def test_at_a_threshold_what_is_asked_back_is_told(data: Path, capsys: pytest.CaptureFixture) -> None:
    out = told(capsys, "--data", data, "--threshold", "0.65")
    assert "200.wav: deny; OLD deny 90%; NEW freeze 60%, asked back" in out
    assert "asked back 33.3% 33.3% +0.0 points" in out and "threshold 0.65" in out


def test_what_it_writes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    recorded(outside, 230)
    told(capsys, "--data", data, "--out-of-scope", outside, "--threshold", "0.5", "--json", "out.json", "--report", "out.html")
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["verdict"] == "same" and figures["newly_right"][0]["clip"] == "210.wav"
    assert (figures["old"]["out_of_scope_stopped"], figures["new"]["out_of_scope_stopped"]) == (0, 1)
    page = (tmp_path / "out.html").read_text()
    assert page.count("<audio") == 2, "of what became better or worse"
    assert "No difference can be shown" in page and "spoken-intents compare old new" in page and "words" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page), "it needs nothing else"


def test_clips_that_were_learnt_do_not_count(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    learnt = data_scripts.of["new"].description["data"]["learnt"]
    learnt.append(file_digest(tmp_path / "200.wav"))
    out = told(capsys, "--data", data)
    assert "1 of 3 clips do not count, as they were learnt (by OLD 0, by NEW 1)" in out
    assert "of 2 clips that neither learnt OLD hears 1 right, NEW 2" in out
    assert "learnt, heard right 1 of 1 0 of 1" in out
    learnt += [file_digest(tmp_path / f"{pitch}.wav") for pitch in (210, 220)]
    assert called("compare", "old", "new", "--data", data) == 1
    assert "Of 3 clip(s) none says which model is better: 3 were learnt by one of them" in words(capsys.readouterr().err)


def test_models_that_do_not_say_what_they_learnt(data: Path, capsys: pytest.CaptureFixture) -> None:
    del data_scripts.of["old"].description["data"]["learnt"]
    assert "old does not say which clips it learnt; it may have learnt these." in told(capsys, "--data", data)


def test_intents_that_one_does_not_know(data: Path, capsys: pytest.CaptureFixture) -> None:
    data_scripts.of["new"].labels.insert(0, "balance")
    with data.open("a") as file:
        file.write("230.wav,balance,test,\n")
    out = told(capsys, "--data", data)
    assert "Only NEW knows balance: 1 clip(s) of them do not count." in out and "of 3 clips" in out
    data.write_text(data.read_text().replace("balance", "blance"))
    assert "Neither knows blance: 1 clip(s) do not count." in told(capsys, "--data", data)


def test_what_is_out_of_scope_is_not_counted_as_wrong(data: Path, capsys: pytest.CaptureFixture) -> None:
    data.write_text(data.read_text() + "230.wav,nlu_fallback,test,\n")
    out = told(capsys, "--data", data, "--threshold", "0.5")
    assert "of 3 clips" in out and "out of scope, stopped 0 of 1 1 of 1" in out, "NEW is only 30 % sure"


def test_the_same_model_twice_is_told(data: Path, capsys: pytest.CaptureFixture) -> None:
    assert called("compare", "old", "old", "--data", data) == 0
    assert "OLD and NEW hear by the same model." in words(capsys.readouterr().out)


def test_ci_fails_only_for_what_is_no_chance(data: Path, capsys: pytest.CaptureFixture) -> None:
    told(capsys, "--data", data, "--fail-if-worse")
    with data.open("a") as file:
        for pitch in range(240, 246):
            data_scripts.of["old"].answers[pitch], data_scripts.of["new"].answers[pitch] = ("deny", 0.9), ("freeze", 0.9)
            file.write(f"{recorded(data.parent, pitch).name},deny,test,\n")
    assert "NEW is worse: of 9 clips" in told(capsys, "--data", data), "without the option it is only said"
    out = told(capsys, "--data", data, "--fail-if-worse", code=1)
    assert "Fewer clips are heard right: 7 newly wrong, 1 newly right" not in out
    assert "Fewer clips of deny are heard right: 7 newly wrong, 0 newly right" in out


def test_in_a_project_the_clips_are_found(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert called("compare", "old", "new") == 1
    assert "Nothing here to compare on: audio/manifest.csv with rows marked test, clips in tests/" in words(
        capsys.readouterr().err
    )
    for folder in ("audio", "tests", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "audio/manifest.csv").write_text("path,intent,split\n200.wav,deny,test\n230.wav,deny,train\n")
    for pitch in (200, 210, 220, 230):
        recorded(tmp_path / "audio", pitch)
    (tmp_path / "tests/typed.yml").write_text("nlu:\n- intent: deny\n  examples: |\n    - no thanks\n")
    steps = "[{intent: freeze, user: audio/210.wav}, {action: utter_x}, {user: hello, intent: greet}]"
    (tmp_path / "tests/call.yml").write_text(f"stories:\n- {{story: a call, steps: {steps}}}\n- not a story\n")
    reviewed = tmp_path / "data/nlu_reviewed.yml"
    reviewed.write_text("nlu:\n- intent: freeze\n  examples: |\n    - audio/220.wav\n    - audio/200.wav\n")
    for name, pitch in (("__out_of_scope__", 230), ("__non_speech__", 250)):
        (tmp_path / "audio/reviewed" / name).mkdir(parents=True)
        recorded(tmp_path / "audio/reviewed" / name, pitch)
    out = told(capsys)
    assert "out of scope, stopped 0 of 1 0 of 1" in out and "noises told apart 3 of 3 3 of 3" in out
    assert "Clips of audio/manifest.csv, tests/call.yml, data/nlu_reviewed.yml." in out
    assert "of 3 clips that neither learnt OLD hears 1 right, NEW 3" in out, "audio/200.wav was corrected to freeze"


REFUSED = [
    (("--report", "missing/out.html"), "--report missing/out.html: takes a file's name in a directory that is there"),
    (("--json", "missing/out.json"), "--json missing/out.json: takes a file's name"),
    (("--out-of-scope", "missing.csv"), "missing.csv: no such file"),
    (("--data", "missing.yml"), "missing.yml: no such file"),
    (("--split", "Test"), "data.csv: no clip has the split Test; splits found: test."),
]


@pytest.mark.parametrize(("option", "reason"), REFUSED, ids=[" ".join(option) for option, _ in REFUSED])
def test_refused_before_it_listens(option: Tuple[str, str], reason: str, data: Path, capsys: pytest.CaptureFixture) -> None:
    before = sorted(data.parent.iterdir())
    assert called("compare", "old", "new", "--data", data, *option) == 1
    assert reason in words(capsys.readouterr().err).replace(f"{data.parent}/", "")
    assert all(not script.order for script in data_scripts.of.values()) and sorted(data.parent.iterdir()) == before
