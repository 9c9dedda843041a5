"""Cross-validation: every clip is heard once, by a model that learnt from others than its speaker or its words."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import List, Sequence, Tuple

import numpy as np
import pytest
import soundfile
from test_cli import called, words

from spoken_intents.errors import ConfigError, DataError
from spoken_intents_training import conditions, crossvalidate
from spoken_intents_training.crossvalidate import GROUPINGS, cross_validate, folds
from spoken_intents_training.dataset import Clip, read_clips
from spoken_intents_training.recipe import load_recipe


def made_up(rng: random.Random, speakers: int, transcripts: int) -> List[Clip]:
    return [
        Clip(
            Path(f"{i}.wav"),
            rng.choice("abc"),
            f"{i}.wav",
            f"speaker {rng.randrange(speakers)}",
            f"Words {rng.randrange(transcripts)}",
        )
        for i in range(rng.randint(40, 90))
    ]


def shared(clips: Sequence[Clip], tested: Sequence[Sequence[int]], name: str) -> List[str]:
    """What clips in different folds have in common."""
    seen: dict = {}
    both = set()
    for number, fold in enumerate(tested):
        for index in fold:
            value = getattr(clips[index], name).strip().lower()
            if seen.setdefault(value, number) != number:
                both.add(value)
    return sorted(both)


# ---------------------------------------------------------------- the folds


@pytest.mark.parametrize(
    ("group_by", "apart"),
    [("speaker", ("speaker",)), ("transcript", ("transcript",)), ("both", ("speaker", "transcript")), ("none", ())],
)
def test_every_clip_is_tested_once_and_groups_stay_together(group_by: str, apart: Tuple[str, ...]) -> None:
    checked = 0
    for seed in range(60):
        rng = random.Random(seed)
        clips, k = made_up(rng, rng.randint(8, 60), 400 if group_by == "both" else 25), rng.randint(2, 4)
        try:
            tested, by = folds(clips, k, group_by, seed)
        except DataError as error:
            assert group_by == "both" and "belong together" in str(error)
            continue
        assert by == group_by and len(tested) == k
        assert sorted(index for fold in tested for index in fold) == list(range(len(clips)))
        assert all(fold for fold in tested)
        for name in apart:
            assert not shared(clips, tested, name)
        assert folds(clips, k, group_by, seed) == (tested, by)
        checked += 1
    assert checked > 40


def test_grouping_by_speaker_alone_lets_words_be_shared() -> None:
    clips = made_up(random.Random(0), 12, 6)
    tested, _ = folds(clips, 3, "speaker")
    assert not shared(clips, tested, "speaker") and shared(clips, tested, "transcript")


def test_what_hangs_together_by_speaker_and_words_is_one_group() -> None:
    chain = [("ann", "yes"), ("ann", "no"), ("bob", "No "), ("bob", "maybe"), ("cid", "maybe")]  # ann's yes to cid's maybe
    others = [(f"speaker {i}", f"words {i}") for i in range(10)]
    clips = [Clip(Path(f"{i}.wav"), "ab"[i % 2], f"{i}.wav", *said) for i, said in enumerate(chain + others)]
    for seed in range(5):
        tested, _ = folds(clips, 3, "both", seed)
        assert sum(bool(set(fold) & set(range(len(chain)))) for fold in tested) == 1


def test_another_seed_makes_other_folds() -> None:
    clips = made_up(random.Random(0), 20, 20)
    first, second = (folds(clips, 4, "speaker", seed)[0] for seed in (0, 1))
    assert first != second


def test_folds_hold_about_the_same_of_every_intent() -> None:
    clips = [Clip(Path(f"{i}.wav"), "abcd"[i % 4], f"{i}.wav", f"speaker {i // 4}") for i in range(160)]
    tested, _ = folds(clips, 5)
    for fold in tested:
        counts = [sum(clips[index].intent == intent for index in fold) for intent in "abcd"]
        assert 6 <= min(counts) and max(counts) <= 10


def test_auto_takes_speakers_then_transcripts_then_nothing() -> None:
    clips = made_up(random.Random(0), 20, 20)
    assert folds(clips, 3)[1] == folds(clips, 3, "auto")[1] == "speaker"
    few_known = [replace(clip, speaker="") if index % 3 else clip for index, clip in enumerate(clips)]
    assert folds(few_known, 3)[1] == "transcript"
    assert folds([replace(clip, transcript="") for clip in few_known], 3)[1] == "none"
    assert set(GROUPINGS) == {"auto", "speaker", "transcript", "both", "none"}


def test_one_clip_without_a_speaker_leaves_the_others_together() -> None:
    clips = made_up(random.Random(0), 30, 10)
    unnamed = [replace(clip, speaker="") if index in (3, 7) else clip for index, clip in enumerate(clips)]
    tested, grouped_by = folds(unnamed, 3)
    assert grouped_by == "speaker" and sorted(index for fold in tested for index in fold) == list(range(len(clips)))
    sides = [{unnamed[index].speaker for index in fold} - {""} for fold in tested]
    assert sum(map(len, sides)) == len(set.union(*sides)), "nobody is on two sides"


# ---------------------------------------------------------------- what is refused


def test_a_grouping_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="--group-by accent: takes auto, speaker, transcript, both, none"):
        folds(made_up(random.Random(0), 12, 6), 3, "accent")


def listed(speakers: Sequence[str]) -> List[Clip]:
    return [Clip(Path(f"{i}.wav"), "ab"[i % 2], f"{i}.wav", speaker) for i, speaker in enumerate(speakers)]


@pytest.mark.parametrize("group_by", ["speaker", "transcript", "both"])
def test_clips_without_what_they_are_grouped_by_are_named(group_by: str) -> None:
    clips = [*listed(["ann", "bob"]), Clip(Path("x.wav"), "a", "x.wav"), Clip(Path("y.wav"), "a", "y.wav")]
    name, example, count = ("transcript", "0.wav", 4) if group_by == "transcript" else ("speaker", "x.wav", 2)
    with pytest.raises(DataError, match=rf"{count} clip\(s\) have no {name} to group by, such as {example}"):
        folds(clips, 2, group_by)


def test_fewer_groups_than_folds_are_refused() -> None:
    with pytest.raises(DataError, match=r"4 folds need 4 groups by speaker; the clips make 3\. Take fewer folds"):
        folds(listed(["ann", "bob", "cid"] * 5), 4)


def test_fewer_clips_of_every_intent_than_folds_are_refused() -> None:
    with pytest.raises(DataError, match=r"5 folds need 5 clips of some intent; a has the most, 4\. Take fewer folds"):
        folds(listed([f"speaker {i}" for i in range(8)]), 5)


def test_a_group_that_is_too_large_for_a_fold_is_refused() -> None:
    clips = listed(["ann"] * 15 + ["bob", "cid", "dan", "eve", "fay"])
    with pytest.raises(
        DataError, match=r"Grouped by speaker, 15 of 20 clips belong together: no 5 folds .*Group by something else"
    ):
        folds(clips, 5)


# ---------------------------------------------------------------- the models


def test_every_clip_gets_one_recognition(tiny_base: str, buzzes: Path) -> None:
    recipe = load_recipe("reference-short", epochs=2, batch_size=4, learning_rate=2e-3, pooling="statistics")
    clips = [replace(clip, speaker=f"speaker {i // 2}") for i, clip in enumerate(read_clips(buzzes))]
    tested, _ = folds(clips, 2)
    also: List[Tuple[str, List[Clip]]] = []
    by_fold = list(cross_validate(clips, tiny_base, recipe, tested, lambda model, heard: also.append((model.fingerprint, heard))))
    assert [sorted(recognitions) for recognitions in by_fold] == [sorted(fold) for fold in tested]
    models = [{recognition.model for recognition in recognitions.values()} for recognitions in by_fold]
    assert [len(of_fold) for of_fold in models] == [1, 1] and models[0] != models[1]
    assert [({model}, heard) for model, heard in also] == [
        (of_fold, [clips[index] for index in fold]) for of_fold, fold in zip(models, tested)
    ]
    heard = {index: recognition.intent for recognitions in by_fold for index, recognition in recognitions.items()}
    assert sum(heard[index] == clip.intent for index, clip in enumerate(clips)) >= 20


def test_a_fold_that_leaves_one_intent_cannot_be_learnt_from(tiny_base: str, buzzes: Path) -> None:
    clips = read_clips(buzzes)
    every_low = [index for index, clip in enumerate(clips) if clip.intent == "low"]
    with pytest.raises(DataError, match="at least two are needed"):
        next(cross_validate(clips, tiny_base, load_recipe("reference-short"), [every_low]))


# ---------------------------------------------------------------- the command


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yml").write_text(
        "context: short\nepochs: 7\nmin_steps: 0\nbatch_size: 4\nlearning_rate: 0.002\npooling: statistics\n"
    )
    return tmp_path / "recipe.yml"


def test_the_command_measures_what_evaluate_does(
    tiny_base: str, buzzes: Path, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "NOISES", 2)
    outside, out = tmp_path / "outside", tmp_path / "out.json"
    outside.mkdir()
    for number in range(3):
        soundfile.write(outside / f"{number}.wav", np.random.default_rng(number).standard_normal(8000) * 0.05, 16_000)
    arguments = ("--base-model", tiny_base, "--recipe", recipe_file, "--folds", 2, "--epochs", 2, "--json", out)
    assert called("cross-validate", buzzes, *arguments, "--conditions", "--out-of-scope", outside) == 0
    figures = json.loads(out.read_text())
    assert figures["recipe"]["epochs"] == 2 and figures["n"] == 24 and len(figures["folds"]) == 2
    assert figures["out_of_scope"]["n"] == 2 * 3, "each is heard by each fold's model"
    clean, *noisy = figures["conditions"]
    assert clean["accuracy"] == pytest.approx(figures["accuracy"]) and clean["n"] == 24
    assert [row["condition"] for row in noisy] == ["20 dB", "15 dB", "10 dB", "5 dB", "0 dB", "telephone"]


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (("--group-by", "accent"), "--group-by accent: takes auto, speaker"),
        (("--noise", "missing"), "missing: no such directory"),
        (("--out-of-scope", "missing.csv"), "missing.csv: no such file"),
        (("--epochs", "0"), "epochs takes 1 to 1000"),
        (("--out-of-scope", "broken"), "broken.wav: cannot be read as audio"),
    ],
)
def test_the_command_refuses_before_it_trains(
    option: Tuple[str, str], reason: str, buzzes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/broken.wav").write_text("no audio")
    assert called("cross-validate", buzzes, "--base-model", "never/looked/for", *option) == 1
    assert reason in words(capsys.readouterr().err)


def test_the_folds_have_a_seed_of_their_own(buzzes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def shared_out(clips: List[Clip], k: int, group_by: str, seed: int) -> None:
        raise DataError(f"{k} folds by {group_by}, seed {seed}.")

    monkeypatch.setattr(crossvalidate, "folds", shared_out)
    assert called("cross-validate", buzzes, "--folds", 3, "--fold-seed", 7) == 1
    assert "3 folds by auto, seed 7." in words(capsys.readouterr().err)
    assert called("cross-validate", buzzes, "--seed", 7) == 2, "that is the recipe's, in train"
