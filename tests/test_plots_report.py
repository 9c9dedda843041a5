"""Pictures and the page: that they show what was measured, stand alone, and let nothing in."""

import base64
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import pytest
import soundfile
from PIL import Image

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import AudioError, DataError
from spoken_intents.files import write_whole
from spoken_intents.recognizer import Recognition
from spoken_intents_training import report as report_module
from spoken_intents_training.dataset import Clip
from spoken_intents_training.evaluate import Evaluation
from spoken_intents_training.metrics import wilson_interval
from spoken_intents_training.plots import DPI, RIGHT, WRONG, confusion_matrix, evaluation_plots, png, training_curves
from spoken_intents_training.report import report

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

ROWS = [
    {
        "condition": name,
        "snr_db": snr_db,
        "noise": None if snr_db is None else "made-up noise",
        "accuracy": accuracy,
        "accuracy_95": list(wilson_interval(round(100 * accuracy), 100)),
        "difference": accuracy - 0.9,
        "n": 100,
    }
    for name, snr_db, accuracy in (("clean", None, 0.9), ("20 dB", 20, 0.85), ("0 dB", 0, 0.4), ("telephone", None, 0.8))
]
DESCRIPTION = {
    "base_model": "whisper-mini",
    "temperature": 0.8,
    "recipe": {"epochs": 1, "pooling": "auto", "frozen_layers": 0, "head_learning_rate": None},
    "data": {"clips": {"affirm": 30, "deny": 40}},
    "metrics": {"held_out": True, "n": 7, "accuracy": 6 / 7},
    "log": [{"epoch": step / 10, "step": step, "loss": 2 / step, "learning_rate": 1e-4} for step in range(1, 11)],
}


def measured(pairs: Sequence[Tuple[str, str]], folder: Path = Path("nowhere"), transcript: str = "", **others: Any) -> Evaluation:
    """Of (said, heard); the surer, the earlier. Only what is heard wrong has a file."""
    intents = sorted({intent for pair in pairs for intent in pair} - {""}) + ["never"]
    clips, heard = [], []
    for index, (said, got) in enumerate(pairs):
        clips.append(Clip(folder / f"{index}.wav", said, f"audio/{index}.wav", transcript=transcript))
        if said != got and folder.is_dir():
            soundfile.write(folder / f"{index}.wav", 0.1 * np.sin(np.arange(SAMPLE_RATE // 2) / (5 + index)), SAMPLE_RATE)
        confidence = 0.95 - 0.3 * index / len(pairs)
        first = got or intents[0]
        sure, noise = (confidence, 0.01) if got else (1 - confidence, confidence)
        rest = tuple((intent, 0.0) for intent in intents if intent != first)
        heard.append(Recognition(((first, sure), *rest), noise, "model", 10.0))
    return Evaluation(clips, heard, **others)


def many(count: int) -> Evaluation:
    """`count` intents, eight clips each, of which the last is taken for the next intent."""
    names = [f"intent_number_{number}" for number in range(count)]
    pairs = [(name, names[(i + (clip == 7)) % count]) for i, name in enumerate(names) for clip in range(8)]
    return measured(pairs, conditions=ROWS)


def pixels(picture: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(picture))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


def share_of(colour: str, picture: np.ndarray) -> float:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return float((np.abs(picture - wanted).sum(axis=-1) < 12).mean())


# ------------------------------------------------------------------ pictures


@pytest.mark.parametrize("intents", [2, 60])
def test_pictures_are_of_their_size_and_show_something(intents: int) -> None:
    drawn = evaluation_plots(many(intents).as_json())
    assert set(drawn) == {"confusion", "intents", "reliability", "conditions"}
    for name, figure in drawn.items():
        picture = pixels(png(figure))
        height, width = picture.shape[:2]
        assert (width, height) == pytest.approx(figure.get_size_inches() * DPI, abs=1)
        assert picture.std() > 10, name
        for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
            assert (edge == 255).all(), f"{name}: something is cut off"


def test_pictures_grow_with_the_intents() -> None:
    small, large = (evaluation_plots(many(intents).as_json()) for intents in (2, 60))
    for name in ("confusion", "intents"):
        assert large[name].get_size_inches()[1] > 3 * small[name].get_size_inches()[1]
    assert large["confusion"].get_size_inches()[0] < 26


def test_mistakes_have_their_own_colour() -> None:
    names = ("affirm", "deny")
    right = pixels(png(confusion_matrix(measured([(name, name) for name in names] * 4).as_json()["confusion"])))
    wrong = pixels(png(confusion_matrix(measured(list(zip(names, names[::-1])) * 4).as_json()["confusion"])))
    assert share_of(RIGHT, right) > 0.05 and share_of(WRONG, right) == 0
    assert share_of(WRONG, wrong) > 0.05 and share_of(RIGHT, wrong) == 0


def test_only_what_was_measured_is_drawn() -> None:
    rejected = measured([("affirm", ""), ("deny", "")])
    assert set(evaluation_plots(rejected.as_json())) == {"confusion", "intents"}
    for figure in evaluation_plots(rejected.as_json()).values():
        assert pixels(png(figure)).std() > 5


def test_any_name_can_be_drawn() -> None:
    names = ("$x^{", "a" * 300, "दिशा", "$a$b")
    for figure in evaluation_plots(measured([(name, name) for name in names]).as_json()).values():
        assert max(pixels(png(figure)).shape) < 20 * DPI


@pytest.mark.parametrize("entries", [1, 10, 500])
def test_training_curves_draw_what_is_logged(entries: int) -> None:
    log: List[Dict[str, Any]] = [{"step": step, "epoch": step / 100, "loss": 1 / (step + 1)} for step in range(entries)]
    one = training_curves(log)
    log.append({"step": entries, "epoch": entries / 100, "learning_rate": 0.9})
    two = training_curves(log)
    assert len(one.axes) == 1 and len(two.axes) == 2
    assert two.get_size_inches()[1] > one.get_size_inches()[1]
    assert pixels(png(two)).std() > 5
    x, y = two.axes[0].lines[0].get_data()
    assert list(x) == [step / 100 for step in range(entries)] and y[0] == 1


def test_training_curves_are_over_steps_where_epochs_are_unknown() -> None:
    assert training_curves([{"step": 1, "loss": 1.0}, {"step": 5, "loss": 0.5}]).axes[-1].get_xlabel() == "step"


@pytest.mark.parametrize("log", [[], [{"epoch": 1}]])
def test_a_log_of_nothing_is_refused(log: List[Dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="has none of loss, learning_rate"):
        training_curves(log)


def test_no_global_state_of_matplotlib_is_touched() -> None:
    before = "matplotlib.pyplot" in sys.modules
    png(evaluation_plots(many(2).as_json())["intents"])
    assert ("matplotlib.pyplot" in sys.modules) == before


# ------------------------------------------------------------------ the page


class Page(HTMLParser):
    """Tags with their attributes, in order; the text; and whether every tag was closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: List[Tuple[str, Dict[str, Any]]] = []
        self.text, self.open = "", []  # type: ignore[var-annotated]
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> List[Dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]


WRONG_PAIRS = [("affirm", "affirm"), ("affirm", "deny"), ("deny", "deny"), ("deny", ""), ("deny", "freeze")]


@pytest.fixture
def unpictured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of a page's time."""
    monkeypatch.setattr(report_module, "png", lambda figure: b"a picture")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    outside = [measured([("deny", "deny")]).heard[0]] * 3
    evaluation = measured(WRONG_PAIRS, tmp_path_factory.mktemp("page"), "cancel it & <go>", conditions=ROWS, out_of_scope=outside)
    return report(evaluation, DESCRIPTION, "spoken-intents evaluate --data 'my clips.csv'")


def test_the_page_needs_nothing_else(page: str) -> None:
    assert "http://" not in page and "https://" not in page and "//" not in re.sub(r"base64,[^\"]*", "", page)
    sources = [attributes["src"] for _, attributes in Page(page).tags if "src" in attributes]
    assert len(sources) == 5 + 3
    assert all(source.startswith(("data:image/png;base64,", "data:audio/ogg;base64,")) for source in sources)
    links = [attributes["href"] for attributes in Page(page).all("a")]
    assert links and set(links) <= {f"#{attributes['id']}" for attributes in Page(page).all("h2")}
    assert not Page(page).all("script") and not Page(page).all("link")


def test_the_page_shows_the_figures(page: str) -> None:
    text = " ".join(Page(page).text.split())
    low, high = wilson_interval(2, 5)
    for told in (
        f"Accuracy40.0%95 % interval {low:.1%} to {high:.1%}",
        "5 clips, 2 intents",
        "telephone80.0%",
        "-50.0",
        "AUROC",
        "threshold: 0.",
        "whisper-mini",
        "70 clips of 2 intents, 30 to 40 each",
        "epochs 1, pooling auto, frozen_layers 0, head_learning_rate none",
        "spoken-intents evaluate --data 'my clips.csv'",
    ):
        assert told in text, told


def test_the_page_can_be_used_without_eyes(page: str) -> None:
    parsed = Page(page)
    assert parsed.all("html") == [{"lang": "en"}]
    assert all(len(picture["alt"]) > 20 for picture in parsed.all("img"))
    assert [attributes["aria-label"] for attributes in parsed.all("audio")] == ["audio/1.wav", "audio/3.wav", "audio/4.wav"]
    assert all(attributes.get("scope") in ("col", "row") for attributes in parsed.all("th"))
    assert "prefers-color-scheme: dark" in page


def test_every_clip_heard_wrong_can_be_played(page: str) -> None:
    for number, attributes in zip((1, 3, 4), Page(page).all("audio")):
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(attributes["src"].split(",")[1])))
        assert rate == SAMPLE_RATE
        assert np.corrcoef(samples, np.sin(np.arange(SAMPLE_RATE // 2) / (5 + number)))[0, 1] > 0.95
    rows = re.findall(r"</audio></td><td>(\w+)</td><td class=\"wrong\">([\w ]+)</td>", page)
    assert rows == [("affirm", "deny"), ("deny", "no speech"), ("deny", "freeze")]


@pytest.mark.usefixtures("unpictured")
def test_what_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    evaluation = measured([(evil, "b"), ("b", evil), ("b", "b")], tmp_path, evil)
    evaluation.clips[0] = Clip(evaluation.clips[0].path, evil, evil, transcript=evil)
    parsed = Page(report(evaluation, {"base_model": evil, "recipe": {evil: evil}}, evil))
    assert not parsed.all("script")
    assert all("onerror" not in attributes for _, attributes in parsed.tags)
    assert parsed.all("audio")[0]["aria-label"] == evil
    assert parsed.text.count(evil) >= 8


@pytest.mark.usefixtures("unpictured")
def test_at_most_so_many_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = measured([("affirm", "deny")] * 5, tmp_path)
    monkeypatch.setattr(report_module, "MOST_CLIPS", 3)
    page = report(evaluation, {})
    assert [attributes["aria-label"] for attributes in Page(page).all("audio")] == ["audio/0.wav", "audio/1.wav", "audio/2.wav"]
    assert "2 more were heard wrong" in page


@pytest.mark.usefixtures("unpictured")
def test_at_most_so_much_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = measured([("affirm", "deny")] * 5, tmp_path)
    whole = [len(attributes["src"]) for attributes in Page(report(evaluation, {})).all("audio")]
    monkeypatch.setattr(report_module, "MOST_BYTES", sum(whole[:3]) + 10)
    page = report(evaluation, {})
    assert len(Page(page).all("audio")) == 3
    assert "2 more were heard wrong" in page
    monkeypatch.setattr(report_module, "MOST_BYTES", 10)
    assert "None fits on this page" in report(evaluation, {})


def test_half_a_minute_of_noise_is_embedded_from_a_small_stack(tmp_path: Path) -> None:
    """libsndfile's Vorbis encoder copies each write to the stack, which threads have little of."""
    import threading

    samples = np.random.default_rng(0).standard_normal(30 * SAMPLE_RATE).astype(np.float32)
    done: List[bytes] = []
    before = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(target=lambda: done.append(report_module._ogg(samples)))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert soundfile.info(io.BytesIO(done[0])).frames == len(samples)


@pytest.mark.usefixtures("unpictured")
def test_with_everything_right_and_nothing_known_there_is_still_a_page() -> None:
    parsed = Page(report(measured([("affirm", "affirm"), ("deny", "deny")]), {}))
    assert not parsed.all("audio")
    assert "None." in parsed.text
    assert "telephone" not in parsed.text and "AUROC" not in parsed.text and "Measured by" not in parsed.text


@pytest.mark.usefixtures("unpictured")
def test_with_nothing_heard_there_is_still_a_page(tmp_path: Path) -> None:
    parsed = Page(report(measured([("affirm", ""), ("deny", "")], tmp_path), {}))
    assert len(parsed.all("audio")) == 2
    assert "Suggested threshold" not in parsed.text and "Calibration" not in parsed.text


@pytest.mark.usefixtures("unpictured")
def test_cross_validation_is_told() -> None:
    folds = [{"n": 5, "accuracy": 0.8}, {"n": 5, "accuracy": 1.0}]
    text = Page(report(measured([("a", "a"), ("b", "b")]), {"folds": folds, "grouped_by": "speaker"})).text
    assert "2 folds by speaker, 80.0% to 100.0% heard right" in text


def test_a_clip_that_is_gone_is_named() -> None:
    with pytest.raises(AudioError, match=r"audio/0\.wav \(intent affirm\)"):
        report(measured([("affirm", "deny")]), {})


# ------------------------------------------------------------------ whole or not at all


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.html"
    write_whole(file, b"first")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, b"second")
    assert file.read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
