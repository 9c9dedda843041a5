"""What benchmarks/ adds to the package: the variants that were tried, and the tables made from results."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, List, Tuple

import bench
import calls
import classify
import endpoints
import front_end
import limit
import numpy as np
import peers
import pytest
import shapes
import start
import synthetic
import tables
import timing
import torch
import trials
import typer
from torch.utils.flop_counter import FlopCounterMode
from transformers import WhisperConfig
from variants import VARIANTS, VARIATIONS, _Varied, blank_out, poolings, tried

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.features import log_mel
from spoken_intents.recognizer import Recognition, Recognizer
from spoken_intents.segmenter import SegmenterSettings
from spoken_intents_training import finetune, loop
from spoken_intents_training.batches import Examples
from spoken_intents_training.dataset import Clip, read_samples
from spoken_intents_training.distill import save_base
from spoken_intents_training.modeling import ShortContextClassifier
from spoken_intents_training.recipe import Recipe, load_recipe

RECIPE = load_recipe("reference-short", epochs=2, batch_size=8, learning_rate=1e-3, head_learning_rate=1e-3, pooling="statistics")


def trained(clips: List[Clip], base: str, out: Path) -> np.ndarray:
    finetune.train(clips, base, RECIPE, out)
    recognizer = Recognizer(out, "fp32")
    return np.array([recognizer.logits(read_samples(clip)) for clip in clips])


@pytest.mark.usefixtures("one_thread")
def test_every_variant_trains_in_its_own_way(clips: List[Clip], tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"encoder_layers": 2, "num_hidden_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 128}
    save_base(ShortContextClassifier(WhisperConfig(d_model=64, **sizes)), tmp_path / "base")
    seen = [trained(clips[:8], str(tmp_path / "base"), tmp_path / "plain")]
    create_optimizer = loop._Trainer.create_optimizer
    for name, run in VARIANTS.items():
        if name.startswith("every variation but"):
            continue
        with tried(run):
            seen.append(trained(clips[:8], str(tmp_path / "base"), tmp_path / name))
        assert np.isfinite(seen[-1]).all() and np.ptp(seen[-1], axis=0).min() > 0, name
    assert finetune.run is loop.run and loop._Trainer.create_optimizer is create_optimizer
    different = [not np.allclose(one, other, atol=1e-5) for i, one in enumerate(seen) for other in seen[:i]]
    assert len(different) == 21 and all(different)


def test_blanks_are_of_the_lowest_value_and_bounded() -> None:
    picture, most = log_mel((0.05 * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32)), 0
    before = picture.copy()
    for seed in range(30):
        blanked = blank_out(picture, np.random.default_rng(seed))
        assert blanked.shape == picture.shape
        touched = blanked != picture
        assert (blanked[touched] == picture.min()).all()
        times, bands = touched.all(axis=0).sum(), touched.all(axis=1).sum()
        assert times <= 2 * 25 and bands <= 2 * 11
        most = max(most, int(times))
    assert most > 25  # two stretches
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("name", VARIATIONS)
def test_each_variation_changes_clips_anew_in_every_epoch(name: str) -> None:
    tone = (0.3 * np.sin(np.arange(16_000) / 5)).astype(np.float32)
    data = Examples([tone], [0], ["tone"], RECIPE, 80)
    first, again = (_Varied(data, (name,), 0) for _ in range(2))
    pictures = [first[0]["input_features"] for _ in range(8)]
    assert len({picture.tobytes() for picture in pictures}) >= 2
    assert all(np.isfinite(picture).all() and picture.dtype == np.float32 for picture in pictures)
    np.testing.assert_array_equal(again[0]["input_features"], pictures[0])
    np.testing.assert_array_equal(data[0]["input_features"], log_mel(data.samples(0)))


def test_poolings() -> None:
    layers = [torch.randn(1, 20, 8) for _ in range(3)]
    given = poolings(layers, torch.nn.LayerNorm(8))
    assert {name: row.shape[1] for name, row in given.items()} == {
        "mean": 8, "mean and deviation": 16, "statistics": 32, "statistics of layer 1": 32, "statistics of layer 2": 32,
        "statistics of the last two layers": 64,
    }  # fmt: skip


def test_results_are_gone_on_with_by_the_same_recipe_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "results").mkdir()
    for module in (bench, trials):
        monkeypatch.setattr(module, "HERE", tmp_path / "results" / "..")
    other = replace(RECIPE, epochs=9)

    def results(*recipes: Recipe, task: str = "a", **named: bool) -> trials.Results:
        return trials.Results("some", [*recipes], task=task, **named)

    first = results(RECIPE)
    first.add({"row": "trained"}, {"clean": 0.5, "recipe": trials.identity(RECIPE)})
    first.add({"row": "probe"}, {"clean": 0.4})
    again = results(replace(RECIPE, seed=3), other)
    assert again.find(row="trained", recipe=trials.identity(RECIPE)) and again.find(row="probe", recipe=None)
    assert not again.find(row="trained", recipe=trials.identity(other))
    assert "left out" not in capsys.readouterr().out
    assert results(other).find(row="trained") is None and results(other).find(row="probe")
    assert "left out 1 row(s) of other recipes" in capsys.readouterr().out.replace("\n", " ")
    before = (tmp_path / "results/some.json").read_text()
    with pytest.raises(
        typer.BadParameter, match=r"some\.json holds figures of another task, .*'a'.*, not of .*'b'.* Move it away"
    ):
        results(RECIPE, task="b")
    assert results(RECIPE, task="b", look_up=True).find(row="probe") is None
    assert results(RECIPE, look_up=True).find(row="probe")
    assert (tmp_path / "results/some.json").read_text() == before and not capsys.readouterr().out


def test_tables_from_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(tables, "HERE", tmp_path)
    (tmp_path / "results").mkdir()
    few = [{"set": "an4", "an_intent": "5", "draw": draw, "method": "default", "clean": 0.8 + draw / 10} for draw in range(3)]
    bases = [{"set": "an4", "base": base, "clean": clean} for base, clean in (("random", 0.5), ("mini", 0.8), ("teacher", 0.9))]
    ablation = [
        {"row": row, "seed": seed, "clean": clean, "telephone": 0.5 if row == "default" else 0.6}
        for row, seed, clean in (
            ("default", 0, 0.9),
            ("default", 1, 0.8),
            ("no noise", 1, 0.75),
            ("fp32", 0, 0.9),
            ("fp32", 1, 0.9),
        )
    ]
    probes = [{"set": "an4", "head": "mean", "clean": [0.5, 0.7]}]
    turn_ends = [
        {"condition": "as recorded", "method": method, "group": group, **endpoints.row(delays)}
        for method, group, delays in (
            ("adaptive", "coffee", [-200.0, 250.0, 270.0, float("inf")]),
            ("fixed 500 ms", "coffee", [500.0, 550.0, 600.0, 650.0]),
            ("adaptive", "an4, words", [None]),
        )
    ]
    alone = {"an_intent": "0", "draw": 0, "all": 0.75, "tested": {"clean": 4, "all": 8}}
    spoken = [{"voices": "espeak", "clean": 0.5, **alone}, {"voices": "none", "clean": 0.25, "an_intent": "10", "draw": 0}]
    made = {
        "synthetic_coffee": spoken,
        "few_an4": few,
        "bases_an4": bases,
        "ablation_an4": ablation,
        "probes": probes,
        "endpoints": turn_ends,
    }
    for name, rows in made.items():
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps({"rows": rows}))
    tables.main()
    said = capsys.readouterr().out
    assert "| 5 | 90.0% ± 24.8% |" in said
    assert "| an4 | 50.0% | 80.0% | 90.0% | 75% |" in said
    assert "| 0 | – | 50.0% | – |\n| 10 | 25.0% | – | – |\nespeak, draw 0: 75.0% of all 8" in said
    assert "| mean | 60.0% |" in said
    assert "| default | 85.0% (2) | 50.0% (2) |" in said
    assert "| no noise | -5.0 | +10.0 |" in said, "from the default with the same seed"
    assert "| fp32 | +5.0 (2) | +10.0 (2) |" in said
    assert "| as recorded | coffee (4) | an4, words (1) |" in said
    assert "| adaptive | 25.0%, 260 (269), 1 never | – |" in said
    assert "| fixed 500 ms | 0.0%, 575 (642) | – |" in said


@pytest.mark.parametrize(("measured", "table"), [(1, "| an4 | 50.0% |  |"), (2, "| an4 | 50.0% | 80.0% |  |"), (0, "")])
def test_a_table_of_bases_that_are_not_all_measured(
    measured: int, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(tables, "HERE", tmp_path)
    (tmp_path / "results").mkdir()
    rows = [{"set": "an4", "base": base, "clean": clean} for base, clean in (("random", 0.5), ("mini", 0.8))][:measured]
    (tmp_path / "results/bases_an4.json").write_text(json.dumps({"rows": rows}))
    tables.bases()
    assert table in capsys.readouterr().out


# ---------------------------------------------------------------- turn ends


def test_orders_are_made_of_what_the_train_part_has_only(tmp_path: Path) -> None:
    slots = {"coffeeDrink": "iced tea", "size": "huge", "roast": "pale roast", "numberOfShots": "no shot"}
    rows = [
        ("iced_tea", {**slots, "milkAmount": " oat milk", "sugarAmount": "salt"}, "train"),
        ("iced_tea", {**slots, "size": "secret"}, "test"),
        ("secret", {"coffeeDrink": "secret"}, "test"),
    ]
    manifest = tmp_path / "manifest.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([("intent", "slots", "split"), *((name, json.dumps(said), part) for name, said, part in rows)])
    orders = synthetic.orders(manifest, 50, 0)
    texts = [text for _, text in orders]
    assert len(set(orders)) == 50 and {intent for intent, _ in orders} == {"iced_tea"}
    assert all("iced tea" in text for text in texts) and not any("secret" in text or "  " in text for text in texts)
    assert all(any(said in text for text in texts) for said in ("huge", "pale roast", "no shot", "oat milk", "salt"))
    assert orders == synthetic.orders(manifest, 50, 0) != synthetic.orders(manifest, 50, 1)


def test_the_end_of_turn_output_leaves_results_their_recipe() -> None:
    recipe = load_recipe("default")
    assert trials.identity(replace(recipe, turn_end=False)) == trials.identity(recipe) == "7f03859c"
    assert trials.identity(replace(recipe, epochs=4)) != trials.identity(recipe)


class Answers:
    """A recognizer that is as sure as the script says, pause after pause."""

    def __init__(self, *complete: float) -> None:
        self._complete = list(complete)

    def classify(self, samples: np.ndarray) -> Recognition:
        return Recognition((("a", 1.0),), 0.0, "", 0.0, self._complete.pop(0))


class Flags:
    """A detector that says what the script says, window after window of 20 ms."""

    window_samples = 320

    def __init__(self, script: str) -> None:
        self._flags = iter(script)

    def is_speech(self, window: np.ndarray) -> bool:
        return next(self._flags) == "s"


@pytest.mark.parametrize(
    ("answers", "settings", "wanted_ms"),
    [
        ((1.0,), endpoints.ADAPTIVE, 500 + 200),  # cut off in the pause
        ((0.0, 1.0), endpoints.ADAPTIVE, 1500 + 200),
        ((0.0, 0.0), endpoints.ADAPTIVE, 1500 + 1200),
        ((), endpoints.METHODS["fixed 300 ms"], 500 + 300),
        ((), endpoints.METHODS["fixed 800 ms"], 1500 + 800),
    ],
)
def test_where_a_turn_ends(answers: Tuple[float, ...], settings: SegmenterSettings, wanted_ms: int) -> None:
    script = "s" * 25 + "." * 25 + "s" * 25 + "." * 75  # speech from 0 to 500 and from 1000 to 1500 ms
    line = endpoints.Line("", "", np.zeros(len(script) * 320, dtype=np.float32), 0, 75 * 320)
    vad: Any = Flags(script)
    recognizer: Any = Answers(*answers)
    assert endpoints.ended_at(line, settings, vad, recognizer, {}) == wanted_ms * 16
    endless = endpoints.Line("", "", np.zeros(50 * 320, dtype=np.float32), 0, 50 * 320)
    assert endpoints.ended_at(endless, settings, Flags("s" * 50), recognizer, {}) == np.inf  # type: ignore[arg-type]


def test_a_row_tells_turns_cut_off_from_the_delay_of_the_others() -> None:
    assert endpoints.row([-20.0, 100.0, 300.0, None, np.inf]) == {
        "n": 5, "missed": 1, "never_ended": 1, "cut_off": 1 / 4, "median_ms": 200.0, "p95_ms": pytest.approx(290.0),
    }  # fmt: skip


def test_phantoms_are_what_is_taken_for_a_turn_where_nobody_speaks() -> None:
    """Two sounds of half a second; the second is somebody's, the first the model takes for speech or for none."""
    rng = np.random.default_rng(0)
    sound = (0.3 * rng.standard_normal(SAMPLE_RATE // 2)).astype(np.float32)
    line = np.zeros(6 * SAMPLE_RATE, dtype=np.float32)
    line[SAMPLE_RATE : SAMPLE_RATE * 3 // 2] = line[4 * SAMPLE_RATE : SAMPLE_RATE * 9 // 2] = sound

    class Hears:
        def __init__(self, speech: float) -> None:
            self._speech = speech

        def classify(self, samples: np.ndarray) -> Recognition:
            return Recognition((("a", self._speech),), 1 - self._speech, "", 0.0)

    def found(speech: float) -> Any:
        recognizer: Any = Hears(speech)
        return calls._phantoms(recognizer, SegmenterSettings(vad_mode=0), [(line, [(4.0, 4.5)])], 0.7)

    assert found(0.9) == {"seconds": 5.5, "begun": 1, "turns": 1, "an_hour": round(3600 / 5.5, 1), "sure": 1}
    assert found(0.6) == {"seconds": 5.5, "begun": 1, "turns": 1, "an_hour": round(3600 / 5.5, 1), "sure": 0}
    assert found(0.1) == {"seconds": 5.5, "begun": 1, "turns": 0, "an_hour": 0.0, "sure": 0}


# ------------------------------------------------------------ one utterance


def test_classifying_is_measured_in_the_same_rounds_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "SIZES", [(16, 16, 16)])
    monkeypatch.setattr(limit, "SECONDS", 0.0005)
    monkeypatch.setattr(classify, "SHAPES", {"small": (64, 1, 2)})
    monkeypatch.setattr(classify, "PROFILED", 2)
    figures = json.loads(json.dumps(classify.measured(["small"], (0.5, 1), repeats=3)))
    assert [(row["shape"], row["seconds"]) for row in figures["rows"]] == [("small", 0.5), ("small", 1)]
    for row in figures["rows"]:
        assert set(row["times"]) == {"int8", "fp32", "pipeline", "sliced", "int8 matrices", "fp32 matrices"}
        assert all(times["n"] == 3 and 0 < times["median_ms"] <= times["p95_ms"] for times in row["times"].values())
        median = row["times"]["int8"]["median_ms"]
        assert row["int8_faster_than"]["pipeline"] == pytest.approx(row["times"]["pipeline"]["median_ms"] / median)
        assert row["share_of_limit"]["int8"] == pytest.approx(row["limit_ms"]["int8"] / median)
    assert {(found["shape"], found["precision"]) for found in figures["profiles"]} == {("small", "int8"), ("small", "fp32")}
    for found in figures["profiles"]:
        shares = [*found["by_operator"].values()]
        assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True) and "Conv" in found["by_operator"]
    assert figures["limits"]["fp32"]["billions_a_second"] > 0 and figures["limits"]["int8"]["library"]


def test_multiply_adds_are_those_of_torchs_own_count() -> None:
    config = shapes.config_of((64, 2, 2))
    model = shapes.sliced(shapes.stock_model(config), 2 * SAMPLE_RATE).encoder
    model.config._attn_implementation = "eager"  # whose products the counter sees
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 80, 200))
    assert shapes.multiply_adds(config, 2 * SAMPLE_RATE) == counter.get_total_flops() // 2


def test_stock_torch_with_its_window_cut_is_the_same_model() -> None:
    """On a clip of a whole window, the only length at which both can be asked."""
    config = shapes.config_of((64, 1, 2))
    stock = shapes.stock_model(config)
    features = torch.from_numpy(log_mel(shapes.speech_like(30)))[None]
    with torch.no_grad():
        assert torch.equal(shapes.sliced(stock, 30 * SAMPLE_RATE)(features).logits, stock(features).logits)


def test_rounds_that_warm_up_do_not_count_and_everybody_has_his_turn_in_each() -> None:
    calls: List[str] = []

    def contender(name: str) -> Any:
        def once() -> float:
            calls.append(name)
            return 1000.0 if calls.count(name) <= timing.WARM else 1.0 + calls.count(name) % 2

        return once

    times = timing.interleaved({name: contender(name) for name in "abc"}, repeats=5)
    assert all(found == {"median_ms": pytest.approx(2.0), "p95_ms": pytest.approx(2.0), "n": 5} for found in times.values())
    rounds = ["".join(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert len(rounds) == 5 + timing.WARM and all(sorted(order) == ["a", "b", "c"] for order in rounds) and len(set(rounds)) > 1


def test_a_peers_environment_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "FOLDER", tmp_path / "peers")
    monkeypatch.setattr(peers, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(peers.PeersMissing, match="needs uv"):
        peers.environment()
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho the registry does not answer >&2\nexit 2\n")
    uv.chmod(0o755)
    with pytest.raises(peers.PeersMissing, match="uv venv failed: the registry does not answer"):
        peers.environment()
    (tmp_path / "peers/venv").mkdir(parents=True)
    (tmp_path / "peers/venv/made-from.txt").write_text(peers.PINNED.read_text())
    assert peers.environment() == tmp_path / "peers/venv/bin/python"


def test_the_front_ends_microseconds_are_for_one_second_of_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_end, "interleaved", lambda steps, _: {name: {**TOOK, "n": bool(steps[name]())} for name in steps})
    figures = front_end.measured(4, 1)
    median = {row["step"]: row["median_us"] for row in figures["rows"]}
    assert median["webrtcvad"] == median["message: JSON, base64"] == median["log-mel"] == 2.0 * 1000 / 4
    assert all(row["n"] and row["p95_us"] == 2 * row["median_us"] for row in figures["rows"])
    longer = {row["step"]: row["median_us"] for row in front_end.measured(8, 1)["rows"]}
    assert longer["webrtcvad"] == 2.0 * 1000 / 8, "all of the 8 s are given in pieces"
    assert longer["log-mel"] == 2.0 * 1000 / 4, "utterances are of 4 s"


TOOK = {"median_ms": 2.0, "p95_ms": 4.0}


def test_imports_are_told_apart_by_who_brings_them() -> None:
    """json stands for Rasa; wave and json are ours, of which json is there already."""
    rasa, ours = start.imported("import json.tool", "import wave, json")
    assert {"json", "argparse"} <= rasa.keys() and "wave" not in rasa
    assert "wave" in ours and "json" not in ours
    assert start.by_package("import time:  300 |  900 | a.b\nimport time: 1000 | 1000 |   c\nimport time:  50 | 2 | a\n") == {
        "c": 0.001, "a": 0.00035,
    }  # fmt: skip
    assert start.median([{"a": 1.0, "b": 5.0}, {"a": 3.0}, {"a": 2.0, "b": 6.0}]) == {"b": 5.0, "a": 2.0}
    with pytest.raises(RuntimeError, match="no_such_package"):
        start.imported("import no_such_package", "")


def test_tables_of_performance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(tables, "HERE", tmp_path)
    (tmp_path / "results").mkdir()
    times = {
        name: {"median_ms": took, "p95_ms": 2 * took} for name, took in (("int8", 40.0), ("fp32", 70.0), ("pipeline", 1000.0))
    }
    row = {
        "shape": "whisper-base.en", "seconds": 4, "times": {**times, "sliced": times["fp32"]},
        "int8_faster_than": {"pipeline": 25.0, "sliced": 1.75}, "limit_ms": {"int8": 10.0, "fp32": 35.0},
        "share_of_limit": {"int8": 0.25, "fp32": 0.5},
    }  # fmt: skip
    profiles = [{"shape": "whisper-base.en", "precision": "int8", "seconds": 4, "by_operator": {"MatMul": 0.7, "Gelu": 0.3}}]
    files = {
        "classify": {"rows": [row], "profiles": profiles, "left_out": {"transcribing": "no uv"}},
        "front_end": {"rows": [{"step": "log-mel", "pieces": "4 s", "median_us": 1234.0, "p95_us": 2000.0}]},
        "start": {
            "medians": {"ready_s": 20.0, "first_turn_ms": 90.0, "second_turn_ms": 30.0},
            "imports_s": {"rasa": {"tensorflow": 5.0, "rasa": 1.0}, "ours_on_top": {"onnxruntime": 0.1}},
        },
    }
    for name, found in files.items():
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(found))
    tables.main()
    said = capsys.readouterr().out
    assert (
        "| base.en | 4 | 40.0 (80.0) | 70.0 (140.0) | 1000.0 (2000.0) | 70.0 (140.0) | 25.0 | 1.8 | 10.0 ms, 25% | 35.0 ms, 50% |"
        in said
    )
    assert "transcribing" not in said and "- base.en, int8, 4 s: MatMul 70%, Gelu 30%" in said
    assert "| log-mel | 4 s | 1,234 (2,000) |" in said
    assert "Ready after 20.0 s; first turn 90 ms" in said and "| all of Rasa's | 6.00 |\n| ours on top | 0.10 |" in said
