"""The end-of-turn output: where clips are cut, what fills the pauses, that it tells complete from not, and what is served."""

import json
from pathlib import Path
from typing import List, Tuple

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import ConfigError
from spoken_intents.features import log_mel
from spoken_intents.recognizer import COMPLETE, FP32, INT8, Recognizer
from spoken_intents_training import turn_end
from spoken_intents_training.dataset import Clip, read_clips
from spoken_intents_training.export import export_onnx
from spoken_intents_training.finetune import train
from spoken_intents_training.modeling import encode, load_base
from spoken_intents_training.pauses import background, gaps, heard_at_pauses, speech_span, stream
from spoken_intents_training.recipe import load_recipe
from spoken_intents_training.turn_end import HEARD, TurnEnd, add_turn_end, copies

pytestmark = pytest.mark.usefixtures("one_thread")
QUIET = 10 ** (-60 / 20)  # the background's level
RECIPE = load_recipe("default", epochs=1, min_steps=0, pooling="statistics", frozen_layers=0, held_out_share=0.3)


def seconds(*times: float) -> List[int]:
    return [round(time * SAMPLE_RATE) for time in times]


def phrase(words: List[float], pitches: List[float], gap: float, seed: int = 0) -> np.ndarray:
    """Vowel-like buzzes of so many seconds, `gap` seconds apart, 0.4 s of a hissing background around them."""
    rng = np.random.default_rng(seed)
    parts = [np.zeros(seconds(0.4)[0])]
    for word, pitch in zip(words, pitches):
        time = np.arange(seconds(word)[0]) / SAMPLE_RATE
        shape = np.minimum(1, np.minimum(time, word - time) / 0.02)
        parts += [0.1 * shape * sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12)), np.zeros(seconds(gap)[0])]
    whole = np.concatenate([*parts, np.zeros(seconds(0.4 - gap)[0])])
    return (whole + QUIET * rng.standard_normal(len(whole))).astype(np.float32)


THREE = phrase([0.4, 0.5, 0.3], [110, 140, 120], 0.15)  # words at 0.4 to 0.8, 0.95 to 1.45, 1.6 to 1.9 s


# ---------------------------------------------------------------- cuts and pauses


def test_words_part_in_the_silences_between_bursts_only() -> None:
    (first, second), (a, b, c, d) = gaps(THREE), seconds(0.8, 0.95, 1.45, 1.6)
    assert a <= first <= b and c <= second <= d
    begin, end = speech_span(THREE)
    assert (begin, end) == pytest.approx(seconds(0.4, 1.9), abs=SAMPLE_RATE * 0.03)


def with_click(at: float) -> np.ndarray:
    """`THREE` with 30 ms as loud as its words where a key was pressed, or where a "t" bursts."""
    clicked = np.concatenate([np.resize(THREE[: seconds(0.3)[0]], seconds(1)[0]), THREE, np.resize(THREE[-4000:], seconds(1)[0])])
    place = slice(seconds(at)[0], seconds(at + 0.03)[0])
    clicked[place] += 0.3 * np.random.default_rng(1).standard_normal(len(clicked[place]))
    return clicked


@pytest.mark.parametrize(
    ("at", "wanted"),
    [(0.5, (1.4, 2.9)), (3.5, (1.4, 2.9)), (3.05, (1.4, 3.08)), (1.2, (1.2, 2.9))],
    ids=["a key before it", "a key behind it", "a final stop", "a first stop"],
)
def test_speech_begins_and_ends_with_speech_and_not_with_the_press_of_a_key(at: float, wanted: Tuple[float, float]) -> None:
    assert speech_span(with_click(at)) == pytest.approx(seconds(*wanted), abs=SAMPLE_RATE * 0.03)


def test_a_clip_of_clicks_only_ends_with_its_last_one() -> None:
    clicks = (QUIET * np.random.default_rng(0).standard_normal(SAMPLE_RATE)).astype(np.float32)
    for at in (0.2, 0.8):
        clicks[seconds(at)[0] : seconds(at + 0.03)[0]] += 0.1
    assert speech_span(clicks) == pytest.approx(seconds(0.2, 0.83), abs=SAMPLE_RATE * 0.03)


def test_a_closure_within_a_word_is_no_gap() -> None:
    assert gaps(phrase([0.4, 0.4], [110, 110], 0.06)) == []
    assert len(gaps(phrase([0.4, 0.4], [110, 110], 0.15))) == 1  # the same, further apart


def test_one_word_is_never_truncated() -> None:
    word = phrase([0.7], [120], 0.1)
    assert gaps(word) == []
    made = copies([word] * 4, HEARD, 0)
    assert made and all(complete for _, complete in made)


def test_background_is_the_clips_own_and_never_zero() -> None:
    made = background(THREE, SAMPLE_RATE, np.random.default_rng(0))
    assert made.dtype == np.float32 and len(made) == SAMPLE_RATE
    assert made.std() == pytest.approx(QUIET, rel=0.15)
    silent = THREE.copy()
    silent[: seconds(0.35)[0]] = silent[seconds(1.95)[0] :] = 0.0  # a synthesizer's
    assert not (background(silent, SAMPLE_RATE, np.random.default_rng(0)) == 0).any()


def test_an_opened_pause_moves_what_is_behind_it_and_touches_no_word() -> None:
    line, end = stream(THREE, 2, SAMPLE_RATE, np.random.default_rng(1))
    assert not (np.convolve(line == 0, np.ones(160), "valid") == 160).any()
    level = np.abs(line[: len(line) // 160 * 160]).reshape(-1, 160).max(axis=1) > 20 * QUIET
    edges = np.flatnonzero(np.diff(level.astype(int))) + 1
    starts, ends = edges[::2] / 100, edges[1::2] / 100
    assert (ends - starts) == pytest.approx([0.4, 0.5, 0.3], abs=0.03)  # no word is cut
    pauses = starts[1:] - ends[:-1]
    assert (pauses >= 0.15 + 0.3 - 0.03).all() and (pauses <= 0.15 + 0.9 + 0.03).all()
    assert end / SAMPLE_RATE == pytest.approx(ends[-1], abs=0.04)


def test_each_pause_gives_what_was_said_so_far_and_the_last_one_all() -> None:
    line, end = stream(THREE, 2, SAMPLE_RATE, np.random.default_rng(1))
    heard = heard_at_pauses(line, end, line)
    assert [complete for _, complete in heard] == [False, False, True]
    assert [len(samples) for samples, _ in heard] == sorted(len(samples) for samples, _ in heard)


def test_copies_follow_from_the_seed_and_are_not_more_than_asked_for() -> None:
    at_most = 30 * SAMPLE_RATE
    first, second, other = (copies([THREE] * 2, at_most, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(first, second))
    assert not all(len(a[0]) == len(b[0]) and np.array_equal(a[0], b[0]) for a, b in zip(first, other))
    few = copies([THREE] * 2, 5 * SAMPLE_RATE, 0)
    assert 0 < sum(len(samples) for samples, _ in few) <= 5 * SAMPLE_RATE < sum(len(samples) for samples, _ in first)


# ---------------------------------------------------------------- the output


@pytest.fixture(scope="module")
def phrases() -> List[np.ndarray]:
    """Two words of a low voice, then one of a high voice, which ends every phrase."""
    rng = np.random.default_rng(3)
    return [phrase([*rng.uniform(0.3, 0.5, 3)], [110, 120, rng.uniform(280, 330)], 0.15, seed) for seed in range(40)]


@pytest.fixture(scope="module")
def artefact(tiny_base: str, phrases: List[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phrases")
    for number, samples in enumerate(phrases):
        soundfile.write(folder / f"{number}.wav", samples, SAMPLE_RATE)
    rows = "".join(f"{number}.wav,{'ab'[number % 2]}\n" for number in range(len(phrases)))
    (folder / "clips.csv").write_text(f"path,intent\n{rows}")
    train(read_clips(folder / "clips.csv"), tiny_base, RECIPE, folder / "model")
    return folder / "model"


def test_it_tells_a_constructed_end(artefact: Path, phrases: List[np.ndarray]) -> None:
    told = json.loads((artefact / "model.json").read_text())["turn_end"]
    assert told["copies"] > told["complete"] > 0 and told["held_out"]["auroc"] > 0.9
    recognizer = Recognizer(artefact)
    right = []
    for number in range(40, 48):  # others than it learnt from
        line, end = stream(phrase([0.4, 0.35, 0.4], [110, 120, 300], 0.15, number), 2, SAMPLE_RATE, np.random.default_rng(number))
        for samples, complete in heard_at_pauses(line, end, line):
            probability = recognizer.classify(samples).complete
            assert probability is not None and 0 <= probability <= 1
            right.append((probability > 0.5) == complete)
    assert len(right) > 16 and np.mean(right) > 0.9


def test_onnx_computes_what_torch_does(tiny_base: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = load_base(tiny_base, ["a", "b"])
    model.turn_end = TurnEnd(model.config.d_model)
    export_onnx(model.eval(), tmp_path)
    compared = 0
    for length in (0.1, 0.45, 1.0, 3.0):  # shorter and longer than what is averaged
        spectrogram = log_mel(THREE[: seconds(length)[0]], 80)[None]
        with torch.inference_mode():
            wanted = float(model.turn_end(encode(model.encoder, torch.from_numpy(spectrogram))[0]))
        for name, tolerance in ((FP32, 1e-4), (INT8, 0.1)):
            session = onnxruntime.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"])
            (got,) = session.run([COMPLETE], {"input_features": spectrogram})
            assert got.shape == (1, 1) and float(got[0, 0]) == pytest.approx(wanted, abs=tolerance)
            compared += 1
    assert compared == 8


def test_without_it_no_model_says_anything(tiny_base: str, clips: List[Clip], tmp_path: Path) -> None:
    described = train(clips, tiny_base, load_recipe("reference-short", epochs=1, batch_size=8), tmp_path)
    assert described["turn_end"] is None
    assert Recognizer(tmp_path).classify(THREE).complete is None


def test_clips_without_pauses_give_no_output(tiny_base: str, capsys: pytest.CaptureFixture) -> None:
    model = load_base(tiny_base, ["a", "b"])
    assert add_turn_end(model, [phrase([0.5], [120], 0.1)] * 4, [], RECIPE) is None
    assert model.turn_end is None
    assert "No end-of-turn output: too few clips have pauses" in capsys.readouterr().out


def test_what_cannot_be_measured_or_tells_nothing_is_not_given_out(
    tiny_base: str, phrases: List[np.ndarray], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_base(tiny_base, ["a", "b"])
    assert add_turn_end(model, phrases[:20], phrases[20:21], RECIPE) is None
    assert "No end-of-turn output: too few such clips are held out" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(turn_end, "WORTH_AUROC", 1.1)  # whatever it tells is not enough
    assert add_turn_end(model, phrases[:20], phrases[20:30], RECIPE) is None
    assert "on held-out clips it tells too little (AUROC 0." in " ".join(capsys.readouterr().out.split())
    assert model.turn_end is None


def test_thirty_seconds_windows_cannot_have_it() -> None:
    with pytest.raises(ConfigError, match="context: padded takes turn_end: false only, got true"):
        load_recipe("reference", turn_end=True)
