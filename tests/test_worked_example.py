"""docs/worked-example.md: its commands do what it says, and what it says of them is what was measured."""

import csv
import json
import re
from pathlib import Path
from typing import Any, Dict

import pytest
import worked_example
from worked_example import CALLS, INTENTS, NEW_VOICE

from assistant import ROOT
from spoken_intents_training.dataset import read_clips

PAGE = (ROOT / "docs/worked-example.md").read_text()
MEASURED: Dict[str, Any] = json.loads((ROOT / "benchmarks/results/worked_example.json").read_text())


def of(compared: Dict[str, Any], *words: str) -> Dict[str, Any]:
    """The figures of the one comparison that was called with these words."""
    (figures,) = [figures for command, figures in compared.items() if all(word in command for word in words)]
    return figures


def test_nothing_is_learnt_and_tested_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "bot"
    worked_example.bot(project)
    monkeypatch.chdir(project)
    learnt = {clip.path.read_bytes() for clip in read_clips(Path("data/nlu_spoken.yml"))}
    said = {
        row["transcript"]
        for row in csv.DictReader((ROOT / "assistant_project/audio/manifest.csv").open())
        if row["split"] == "train"
    }
    for file, clips in (("old_voices.csv", 96), ("new_voice.csv", 48)):
        tested = read_clips(Path(file))
        assert len(tested) == clips and {clip.intent for clip in tested} == set(INTENTS)
        assert not [clip for clip in tested if clip.path.read_bytes() in learnt or clip.transcript in said]
        assert ({clip.speaker for clip in tested} == {NEW_VOICE}) == (file == "new_voice.csv")
    calls = sorted(path.stem.partition("-")[2] for path in Path("calls").iterdir())
    assert calls == sorted(INTENTS * CALLS)


def test_the_page_tells_what_was_measured() -> None:
    assert MEASURED["commands"] == worked_example.commands()
    told = re.findall(
        r"^\| (new voice|old voices), ([^|]+?) \| (\d+) \| (\d+) of (\d+) \| (\d+) of \d+ \| (\d+) \| (\d+) \|", PAGE, re.M
    )
    assert len(told) == len(MEASURED["compared"]) == 4
    for voices, model, n, old, of_n, new, newly_right, newly_wrong in told:
        file = voices.replace(" ", "_") + ".csv"
        row = of(MEASURED["compared"], file, "finetuned.tar.gz" if "finetune" in model else "new.tar.gz")["heard_right"]
        assert [row[key] for key in ("n", "old", "n", "new", "newly_right", "newly_wrong")] == [
            int(number) for number in (n, old, of_n, new, newly_right, newly_wrong)
        ]


@pytest.mark.slow
def test_corrected_calls_make_the_bot_hear_the_new_voice(tmp_path: Path) -> None:
    compared = worked_example.run(tmp_path)
    assert len(compared) == 4
    new = of(compared, "new_voice.csv", "new.tar.gz")
    assert new["verdict"] == "better", "on other sentences than those that were corrected"
    assert new["heard_right"]["old"] < 0.7 * new["n"], "it did badly"
    old = of(compared, "old_voices.csv", "new.tar.gz")
    assert old["verdict"] != "worse" and old["heard_right"]["new"] > 0.8 * old["n"], "nothing is forgotten"
    assert new["learnt"] == old["learnt"] == 0
    examples = read_clips(tmp_path / "bot/data/nlu_reviewed.yml")
    assert len(examples) == CALLS * len(INTENTS) and {clip.speaker for clip in examples} == {"ann"}
