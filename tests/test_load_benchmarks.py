"""What the benchmarks of many calls and of memory are made of."""

import importlib.util
from pathlib import Path
from typing import Any, Dict

import base_shaped
import memory
import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import cosine_similarity

from assistant import PROJECT, ROOT
from spoken_intents.audio import read_audio
from spoken_intents.features import log_mel
from spoken_intents_training.modeling import encode, load_base

CLIP = PROJECT / "audio/demo/freeze.ogg"


def test_the_base_shaped_assistant_hears_what_whisper_mini_hears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    monkeypatch.setattr(base_shaped, "train", lambda project: trained.append(project))
    project = base_shaped.base_shaped(tmp_path / "bank")
    assert trained == [project]
    pipeline = yaml.safe_load((project / "config.yml").read_text())["pipeline"]
    recognizer = next(component for component in pipeline if component["name"].endswith("SpokenIntentClassifier"))
    assert (recognizer["base_model"], recognizer["epochs"]) == ("base", 1)
    for block in yaml.safe_load((project / "data/nlu_spoken.yml").read_text())["nlu"]:
        examples = block["examples"]
        assert 0 < len(examples if isinstance(examples, list) else examples.splitlines()) <= base_shaped.CLIPS
    features = torch.from_numpy(log_mel(read_audio(CLIP, 30)))[None]
    models = [load_base(str(name), ["-"]).eval() for name in ("whisper-mini", project / "base")]
    assert {key: getattr(models[1].config, key) for key in base_shaped.BASE_EN} == base_shaped.BASE_EN
    with torch.no_grad():
        narrow, wide = (encode(model.encoder, features)[0][0] for model in models)
    assert cosine_similarity(narrow, wide[:, : narrow.shape[1]], dim=-1).mean() > 0.98


def test_what_is_trained_already_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_shaped, "train", lambda project: pytest.fail("trained again"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models/one.tar.gz").touch()
    assert base_shaped.base_shaped(tmp_path) == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_where_it_bends() -> None:
    # `load` is also the package's module: this one is the benchmark.
    spec = importlib.util.spec_from_file_location("load_benchmark", ROOT / "benchmarks/load.py")
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)

    def row(callers: int, lost: int, p95: float, messages: str = "telephone") -> Dict[str, Any]:
        latency = {"caller_message": {"p95": p95}}
        return {
            "callers": callers,
            "messages": messages,
            "counts": {"lost": lost + 2, "failed": 0},
            "rejected": 2,
            "dropped_calls": {},
            "latency_ms": latency,
        }

    rows = [row(10, 0, 90.0), row(25, 0, 390.0), row(50, 0, 410.0), row(100, 3, 100.0), row(5, 9, 9000.0, "browser")]
    assert benchmark.bends(rows) == "Nothing lost and 95 % under 400 ms with 25 callers; not with 50."
    assert benchmark.bends(rows[:2]) == "Nothing lost and 95 % under 400 ms with 25 callers; not with any tried."
    assert benchmark.bends(rows[3:]) == "Nothing lost and 95 % under 400 ms with 0 callers; not with 100."


def test_growth_is_for_a_thousand_turns() -> None:
    assert memory.slope([(turns, 900.0 + turns / 500) for turns in range(0, 2000, 200)]) == pytest.approx(2.0)
    assert memory.slope([(turns, 900.0) for turns in range(0, 2000, 200)]) == 0.0
    assert np.isfinite(memory.slope([(0, 1.0), (200, 1.0)]))


def test_memorys_project_takes_audio_at_once(tmp_path: Path) -> None:
    project = memory.prepared(PROJECT, tmp_path / "copy", memory.Trackers.SQL)
    assert not (project / "audio").exists()
    (settings,) = yaml.safe_load((project / "credentials.yml").read_text()).values()
    assert settings["max_ahead_ms"] == 3_600_000
    assert yaml.safe_load((project / "endpoints.yml").read_text())["tracker_store"]["dialect"] == "sqlite"
    project = memory.prepared(PROJECT, tmp_path / "other", memory.Trackers.MEMORY)
    assert not yaml.safe_load((project / "endpoints.yml").read_text())
