"""The benchmark of the reference task, with a tiny base model, on a few clips in MInDS-14's two layouts."""

import csv
import json
import sys
from pathlib import Path
from typing import Any, Dict

import bench
import minds14_layout
import numpy as np
import pytest
import reproduce
import soundfile

from assistant import PROJECT
from spoken_intents.audio import SAMPLE_RATE
from spoken_intents_training.dataset import read_clips

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

INTENTS = ("abroad", "balance", "freeze")
CLIPS = 6  # an intent


@pytest.fixture
def layouts(tmp_path: Path) -> Dict[str, Path]:
    """18 bundled clips and one that is too long to be of use, as the hub has them and as the first release does."""
    soundfile.write(tmp_path / "long.wav", np.zeros(31 * SAMPLE_RATE), SAMPLE_RATE)
    bundled = read_clips(PROJECT / "audio/manifest.csv")
    chosen = [clip for intent in INTENTS for clip in [clip for clip in bundled if clip.intent == intent][:CLIPS]]
    with (tmp_path / "clips.csv").open("w", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(["path", "intent", "transcript"])
        table.writerows([clip.path.resolve(), clip.intent, clip.transcript] for clip in chosen)
        table.writerow([tmp_path / "long.wav", "balance", "well"])
    places = {"hub": tmp_path / "hub", "release": tmp_path / "release"}
    arguments = [tmp_path / "clips.csv", "--hub", places["hub"], "--original", places["release"], "--clips", CLIPS + 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["minds14_layout.py", *map(str, arguments)])
        minds14_layout.main()
    return places


def test_the_reference_task_is_measured_from_either_layout_and_gone_on_with(
    layouts: Dict[str, Path], tiny_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for module in (bench, reproduce):
        monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("small.yml").write_text("epochs: 1\nmin_steps: 0\npooling: statistics\n")

    def measured(layout: str) -> Dict[str, Any]:
        """What lies in the file of results when the benchmark has ended."""
        reproduce.main(tiny_base, layouts[layout], recipes="small.yml", results="small", data=tmp_path / layout / "imported")
        return json.loads(Path("results/small.json").read_text())

    first = measured("hub")
    assert first["task"] == {"clips": 18, "left_out": 1}
    assert {row["experiment"]: row["n"] for row in first["rows"]} == {"5-fold": 18, "random split 14/4": 4}
    assert all(row["recipe"] == "small.yml" and 0 <= row["accuracy"] <= 1 for row in first["rows"])
    assert "measured before" not in capsys.readouterr().out
    assert measured("release") == first, "the same task"
    assert capsys.readouterr().out.count("measured before") == 2

    Path("results/small.json").write_text(json.dumps({**first, "rows": first["rows"][:1]}))  # as if killed between them
    again = measured("release")
    assert "small.yml, 5-fold: measured before." in capsys.readouterr().out
    assert [row["n"] for row in again["rows"]] == [18, 4]
    assert again["rows"][1]["accuracy"] == first["rows"][1]["accuracy"]


def test_the_split_of_the_whole_task_is_the_usual_one() -> None:
    assert reproduce.split_sizes(563) == (450, 113)
