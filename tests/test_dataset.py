"""Spoken examples: reading them, refusing them by name, holding some out; and noticing that they changed."""

import math
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
import soundfile

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import AudioError, DataError
from spoken_intents.features import log_mel
from spoken_intents.recognizer import NON_SPEECH
from spoken_intents_training.dataset import (
    Clip,
    held_out_by,
    hold_out,
    intent_counts,
    of_calls_again,
    read_all_samples,
    read_clips,
    read_samples,
    require_files,
)
from spoken_intents_training.sources import base_model_source, bundled_base_models, files_fingerprint, training_fingerprint

pytestmark = pytest.mark.filterwarnings("error")


def record(file: Path, seconds: float = 0.3, peak: float = 0.5, rate: int = SAMPLE_RATE) -> Path:
    """A clip with a tone in it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, peak * np.sin(np.arange(round(seconds * rate)) / 10), rate)
    return file


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with three clips, as the working directory."""
    for name in ("audio/balance/1.wav", "audio/balance/2.wav", "audio/freeze/1.wav"):
        record(tmp_path / name)
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(file: Path, text: str, encoding: str = "utf-8") -> Path:
    file.write_bytes(text.encode(encoding))
    return file


def names(clips: List[Clip]) -> List[Any]:
    return [(clip.name, clip.intent) for clip in clips]


# ---------------------------------------------------------------- nlu.yml

BOTH_FORMS = """
version: "3.1"
nlu:
- intent: balance
  examples: |
    - audio/balance/1.wav
    - what is my balance
    - audio/balance/2.wav
- intent: freeze
  examples:
  - text: |
      audio/freeze/1.wav
    metadata:
      transcript: freeze my card
      speaker: espeak-ng en-us
  - text: please freeze my card
- intent: typed_only
  examples: |
    - hello there
- synonym: card
  examples: |
    - audio/balance/1.wav
- lookup: banks
  examples: |
    - audio/balance/1.wav
- regex: number
  examples: |
    - \\d+
"""


def test_nlu_in_both_forms_of_examples(project: Path) -> None:
    clips = read_clips(write(project / "data/nlu.yml", BOTH_FORMS))
    assert names(clips) == [
        ("audio/balance/1.wav", "balance"),
        ("audio/balance/2.wav", "balance"),
        ("audio/freeze/1.wav", "freeze"),
    ]
    assert [clip.path.resolve() for clip in clips] == [(project / clip.name).resolve() for clip in clips]
    assert (clips[2].transcript, clips[2].speaker) == ("freeze my card", "espeak-ng en-us")
    assert (clips[0].transcript, clips[0].speaker, clips[0].split) == ("", "", "")


def test_references_start_at_a_folder_that_holds_the_nlu_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(project / "data/nlu.yml", BOTH_FORMS)
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert all(clip.path.is_file() for clip in read_clips(file))


def test_examples_without_metadata_or_with_an_odd_one(project: Path) -> None:
    text = "nlu:\n- intent: a\n  examples:\n  - text: audio/balance/1.wav\n    metadata: note\n  - text: audio/balance/2.wav\n"
    assert len(read_clips(write(project / "nlu.yml", text))) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nlu:\n",
        "- intent: a\n",
        "rules: []\n",
        "nlu:\n- intent: a\n  examples:\n",
        "nlu:\n- intent: a\n",
        "nlu:\n- intent: a\n  examples: |\n    - hello\n",
    ],
)
def test_a_file_that_lists_no_clip_is_refused(project: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"nlu\.yml: lists no clip\. In nlu\.yml the text of a spoken example is its path"):
        read_clips(write(project / "nlu.yml", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nlu: 7\n", r"nlu\.yml: `nlu` takes a list of `- intent:` with `examples:`, got 7"),
        ("nlu: words\n", r"nlu\.yml: `nlu` takes a list of .*, got 'words'"),
        ("nlu:\n- intent: a\n  examples: 7\n", r"nlu\.yml, intent a: `examples` takes one `|` block .*, got 7"),
        ("nlu:\n- intent: a\n  examples: {text: x}\n", r"nlu\.yml, intent a: `examples` takes .*, got {'text': 'x'}"),
    ],
)
def test_nlu_of_another_shape_is_refused(project: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_clips(write(project / "nlu.yml", text))


@pytest.mark.parametrize(
    "content", [b"nlu: [\n", b"nlu: \xff\xfe\n", b"nlu: 2024-99-99\n"], ids=["not YAML", "not UTF-8", "no date"]
)
def test_a_file_that_is_no_yaml_is_refused(project: Path, content: bytes) -> None:
    (project / "nlu.yml").write_bytes(content)
    with pytest.raises(DataError, match=r"nlu\.yml: not YAML"):
        read_clips(project / "nlu.yml")


@pytest.mark.parametrize("example", ["- audio/balance/1.wav", "- metadata: {transcript: x}", "- 7"])
def test_a_list_of_examples_in_another_form_is_understood_or_refused(project: Path, example: str) -> None:
    file = write(project / "nlu.yml", f"nlu:\n- intent: a\n  examples:\n  {example}\n")
    try:
        assert names(read_clips(file)) == [("audio/balance/1.wav", "a")]
    except DataError as error:
        assert "nlu.yml" in str(error)


def test_a_file_that_is_not_there(project: Path) -> None:
    with pytest.raises(DataError, match=r"none\.yml: no such file"):
        read_clips(project / "none.yml")


@pytest.mark.parametrize("name", ["nlu.yml", "clips.csv"])
def test_a_path_too_long_for_a_file_is_a_missing_clip(project: Path, name: str) -> None:
    path = f"audio/{'x' * 300}.wav"
    text = {"nlu.yml": f"nlu:\n- intent: a\n  examples: |\n    - {path}\n", "clips.csv": f"path,intent\n{path},a\n"}[name]
    with pytest.raises(DataError, match=rf"1 clip\(s\) missing; nothing was trained:\n  {path} \(intent a\)"):
        read_clips(write(project / name, text))
    with pytest.raises(DataError, match="x: no such file"):
        read_clips(project / ("x" * 300))


def test_a_folder_is_to_be_imported_first(project: Path) -> None:
    with pytest.raises(
        DataError, match=r"audio: a folder\. With one folder for each intent .*: spoken-intents import folder .*audio"
    ):
        read_clips(project / "audio")


def test_a_file_that_may_not_be_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    file = write(project / "nlu.yml", BOTH_FORMS)
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(DataError, match=r"nlu\.yml: cannot be read \(Permission denied\)"):
        read_clips(file)


def test_a_missing_clip_is_named_with_its_intent(project: Path) -> None:
    lines = "".join(f"    - audio/freeze/{i}.wav\n" for i in range(1, 15))
    with pytest.raises(DataError) as caught:
        read_clips(write(project / "nlu.yml", f"nlu:\n- intent: freeze\n  examples: |\n{lines}"))
    assert str(caught.value).startswith("13 clip(s) missing; nothing was trained:\n  audio/freeze/2.wav (intent freeze)")
    assert str(caught.value).endswith("audio/freeze/11.wav (intent freeze)\n  and 3 more")


# ---------------------------------------------------------------- CSV


def test_a_csv_with_every_column(project: Path) -> None:
    text = 'speaker,path,intent,transcript,split\nann,audio/balance/1.wav,balance,"how much, please",train\n,audio/freeze/1.wav,freeze,,\n'
    clips = read_clips(write(project / "clips.csv", text))
    assert clips == [
        Clip(project / "audio/balance/1.wav", "balance", "audio/balance/1.wav", "ann", "how much, please", "train"),
        Clip(project / "audio/freeze/1.wav", "freeze", "audio/freeze/1.wav"),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_with_the_two_columns_it_needs(project: Path, encoding: str) -> None:
    file = write(project / "clips.CSV", "path,intent\r\naudio/balance/1.wav,balance\r\n", encoding)
    assert names(read_clips(file)) == [("audio/balance/1.wav", "balance")]


def test_paths_of_a_csv_start_beside_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(project / "audio/clips.csv", "path,intent\nbalance/1.wav,balance\n")
    monkeypatch.chdir("/")
    assert read_clips(file)[0].path == project / "audio/balance/1.wav"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.wav,b\n", r"clips\.csv: the column intent is missing; found \['path', 'label'\]"),
        ("file;intent\na.wav;b\n", "the column intent and path is missing"),
        ("", "the column intent and path is missing"),
        ("path,intent\naudio/balance/1.wav,balance\naudio/balance/2.wav\n", r"clips\.csv, line 3: path and intent must both"),
        ("path,intent\n,balance\n", "line 2: path and intent must both be given"),
        ("path,intent\n", "lists no clip"),
        ("path,intent\na.wav,b\0\n", r"clips\.csv, after line 1: not CSV \(line contains NUL\)"),
        ("path,intent\n" + "x" * 140_000 + ",b\n", r"clips\.csv, after line \d: not CSV \(field larger than field limit"),
        ("path\0,intent\n", r"clips\.csv, after line 0: not CSV"),
        ("path,intent\naudio/none.wav,balance\n", r"1 clip\(s\) missing; .*\n  audio/none\.wav \(intent balance\)"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_csv_that_cannot_be_used(project: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_clips(write(project / "clips.csv", text))


def test_a_csv_in_another_encoding_is_refused_not_crashed_on(project: Path) -> None:
    file = write(project / "clips.csv", "path,intent,transcript\naudio/balance/1.wav,balance,au café\n", "latin-1")
    with pytest.raises(DataError, match=r"clips\.csv"):
        read_clips(file)


# ---------------------------------------------------------------- audio


def clip(path: Path, intent: str = "freeze") -> Clip:
    return Clip(path, intent, f"audio/{path.name}")


def test_samples_come_in_order_and_equal_those_read_one_by_one(tmp_path: Path) -> None:
    lengths = [0.5, 0.1, 1.0, 0.3, 0.02]
    clips = [clip(record(tmp_path / f"{i}.wav", seconds)) for i, seconds in enumerate(lengths)]
    samples = read_all_samples(clips)
    assert [len(read) for read in samples] == [round(SAMPLE_RATE * seconds) for seconds in lengths]
    for read, one in zip(samples, clips):
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, read_samples(one))


def test_every_clip_that_cannot_be_used_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    clips = [
        clip(record(tmp_path / "good.wav")),
        clip(tmp_path / "text.wav"),
        clip(tmp_path / "empty.wav", "balance"),
        clip(record(tmp_path / "silent.wav", peak=0.0)),
        clip(record(tmp_path / "hiss.wav", peak=5e-5)),
        clip(record(tmp_path / "long.wav", 31, rate=8_000)),
        clip(record(tmp_path / "none.wav", 0)),
        clip(record(tmp_path / "short.wav", 0.01)),
    ]
    with pytest.raises(DataError) as caught:
        read_all_samples(clips)
    head, *problems = str(caught.value).split("\n  ")
    assert head == "7 clip(s) cannot be used; nothing was trained:"
    expected = [
        "audio/text.wav (intent freeze): cannot be read as audio",
        "audio/empty.wav (intent balance): cannot be read as audio",
        "audio/silent.wav (intent freeze): holds only silence",
        "audio/hiss.wav (intent freeze): holds only silence",
        "audio/long.wav (intent freeze): longer than",
        "audio/none.wav (intent freeze): holds no audio (0 samples)",
    ]
    assert all(problem.startswith(wanted) for problem, wanted in zip(problems, expected)), problems
    assert len(problems) == 7  # the last: too short, below


def test_a_clip_that_is_too_short_is_named_too(tmp_path: Path) -> None:
    short = clip(record(tmp_path / "short.wav", 0.01))
    with pytest.raises(DataError, match=r"audio/short\.wav \(intent freeze\)"):
        read_all_samples([short])
    with pytest.raises(AudioError, match=r"audio/short\.wav \(intent freeze\)"):
        read_samples(short)  # as its docstring says


def test_the_longest_clip_can_be_used_at_any_rate(tmp_path: Path) -> None:
    for rate in (8_000, 16_000, 44_100):
        (samples,) = read_all_samples([clip(record(tmp_path / f"{rate}.wav", 30, rate=rate))])
        assert log_mel(samples).shape == (80, 3000)


# ---------------------------------------------------------------- holding out


def made_up(rng: random.Random) -> List[Clip]:
    """Clips of some intents, some of them with transcripts that occur several times."""
    clips = []
    for intent in "abcde"[: rng.randint(1, 5)]:
        for index in range(rng.randint(1, 40)):
            words = rng.choice(["", "Yes please", "yes please ", "no", f"words {index}", f"words {index % 7}"])
            clips.append(Clip(Path(f"{intent}/{index}.wav"), intent, f"{intent}/{index}.wav", transcript=words))
    rng.shuffle(clips)
    return clips


def test_holding_out_keeps_its_promises() -> None:
    checked = 0
    for seed in range(150):
        rng = random.Random(seed)
        clips, share = made_up(rng), rng.choice([0.05, 0.1, 0.2, 0.5, 0.9])
        kept, held = hold_out(clips, share, seed)
        assert not set(kept) & set(held) and len(set(kept) | set(held)) == len(clips) == len(kept) + len(held)
        assert kept == [one for one in clips if one in set(kept)]  # in the order given
        total, given = Counter(one.intent for one in clips), Counter(one.intent for one in held)
        for intent, count in total.items():
            assert given[intent] <= count // 3
            assert count >= 10 or given[intent] == 0
        learnt = {(one.intent, one.transcript.strip().lower()) for one in kept if one.transcript}
        for intent in {one.intent for one in held if (one.intent, one.transcript.strip().lower()) in learnt}:
            wanted = min(max(1, round(total[intent] * share)), total[intent] // 3)
            words = Counter(one.transcript.strip().lower() or one.name for one in clips if one.intent == intent)
            assert 2 * sum(count for count in words.values() if count <= max(1, wanted / 2)) < wanted, "no whole transcripts did"
            assert given[intent] == wanted
        assert hold_out(clips, share, seed) == (kept, held)
        checked += len(held)
    assert checked > 500


def test_every_intent_gives_its_share() -> None:
    clips = [Clip(Path(f"{intent}{i}.wav"), intent, "") for intent in "abc" for i in range(40)]
    kept, held = hold_out(clips, 0.1, 0)
    assert Counter(one.intent for one in held) == {"a": 4, "b": 4, "c": 4}
    assert len(kept) == 108


def test_what_is_held_out_depends_on_the_seed_and_not_on_the_order() -> None:
    clips = [Clip(Path(f"{i}.wav"), "a", "") for i in range(100)]
    assert set(hold_out(clips, 0.1, 0)[1]) == set(hold_out(clips[::-1], 0.1, 0)[1])
    assert set(hold_out(clips, 0.1, 0)[1]) != set(hold_out(clips, 0.1, 1)[1])


def test_speakers_who_are_heard_in_training_are_not_held_out_unless_they_are_few() -> None:
    held_out, familiar = 0, 0
    for seed in range(100):
        rng = random.Random(seed)
        speakers, share = rng.randint(1, 20), rng.choice([0.05, 0.1, 0.2])
        clips = [
            Clip(
                Path(f"{i}.wav"),
                rng.choice("abc"),
                "",
                speaker=f"speaker {rng.randrange(speakers)}",
                transcript=rng.choice(["yes", ""]),
            )
            for i in range(rng.randint(1, 120))
        ]
        kept, held = hold_out(clips, share, seed)
        assert sorted([*kept, *held], key=clips.index) == clips
        if {one.speaker for one in kept} & {one.speaker for one in held}:
            quietest = min(Counter(one.speaker for one in clips).values())
            assert speakers <= 10 and quietest > round(len(clips) * share) / 2
            familiar += 1
        else:
            assert len(held) <= math.ceil(1.5 * round(len(clips) * share))
        total, given = Counter(one.intent for one in clips), Counter(one.intent for one in held)
        assert all(given[intent] <= count // 3 for intent, count in total.items())
        assert hold_out(clips, share, seed) == (kept, held)
        held_out += len(held)
    assert held_out > 300 and familiar < 30


def test_speakers_count_where_at_least_half_of_the_clips_name_one() -> None:
    named = [Clip(Path(f"{i}.wav"), "ab"[i % 2], "", speaker=f"speaker {i % 10}", transcript=f"words {i % 7}") for i in range(40)]
    for unnamed, by in ((0, "speaker"), (1, "speaker"), (40, "speaker"), (41, "transcript")):
        clips = [*named, *(Clip(Path(f"x{i}.wav"), "ab"[i % 2], "", transcript=f"words {i % 7}") for i in range(unnamed))]
        alone = 0
        for seed in range(8):
            kept, held = hold_out(clips, 0.1, seed)
            assert held and held_out_by(kept, held) == by
            alone += sum(not one.speaker for one in held)
        assert unnamed == 1 or bool(alone) == bool(unnamed), "clips that name no speaker are held out one by one"


@pytest.mark.parametrize(
    ("speakers", "transcripts", "by"),
    [("abcd", "pqrs", "speaker"), ("abca", "pqrs", "transcript"), ("abca", "pqrp", "none"), ("    ", "pqrs", "transcript")],
)
def test_what_was_held_out_by_is_what_is_not_shared(speakers: str, transcripts: str, by: str) -> None:
    clips = [Clip(Path("x.wav"), "a", "", one.strip(), words) for one, words in zip(speakers, transcripts)]
    assert held_out_by(clips[:3], clips[3:]) == by
    assert held_out_by(clips, []) == ""


def test_about_the_share_is_held_out_whole_speakers_at_a_time() -> None:
    clips = [Clip(Path(f"{i}.wav"), "ab"[i % 2], "", speaker=f"speaker {i % 20}") for i in range(200)]
    kept, held = hold_out(clips, 0.1, 0)
    assert len(held) == 20 and len({one.speaker for one in held}) == 2
    assert hold_out(clips, 0.0, 0) == (clips, [])


@pytest.mark.parametrize(
    ("speakers", "transcripts"),
    [(0, 1), (0, 3), (0, 0), (1, 1), (1, 0), (2, 1), (3, 1), (3, 40), (5, 0)],
    ids=lambda number: str(number),
)
def test_few_speakers_or_transcripts_give_the_share_of_every_intent_all_the_same(speakers: int, transcripts: int) -> None:
    """0: unknown. Spoken commands: 14 intents of 40 clips, everybody words them alike."""
    clips = [
        Clip(
            Path(f"{intent}/{i}.wav"),
            f"intent {intent}",
            "",
            speaker=f"speaker {i % speakers}" if speakers else "",
            transcript=f"words {intent} {i % transcripts}" if transcripts else "",
        )
        for intent in range(14)
        for i in range(40)
    ]
    for seed in range(5):
        kept, held = hold_out(clips, 0.1, seed)
        assert Counter(one.intent for one in held) == {f"intent {intent}": 4 for intent in range(14)}
        assert len(kept) == 504 and set(held) != set(hold_out(clips, 0.1, seed + 1)[1])


def test_a_speaker_of_too_many_clips_is_passed_over_for_another() -> None:
    speakers = ["ann"] * 90 + ["bob"] * 90 + ["cid"] * 14 + ["dan"] * 6  # 20 are wanted, up to 30 taken
    clips = [Clip(Path(f"{i}.wav"), "ab"[i % 2], "", speaker=speaker) for i, speaker in enumerate(speakers)]
    for seed in range(10):
        assert {one.speaker for one in hold_out(clips, 0.1, seed)[1]} == {"cid", "dan"}


def test_where_transcripts_are_too_few_in_one_intent_those_of_the_others_stay_whole() -> None:
    clips = [Clip(Path(f"a{i}.wav"), "a", "", transcript="yes") for i in range(40)]
    clips += [Clip(Path(f"b{i}.wav"), "b", "", transcript=f"words {i % 20}") for i in range(40)]
    kept, held = hold_out(clips, 0.1, 0)
    assert Counter(one.intent for one in held) == {"a": 4, "b": 4}
    assert {one.transcript for one in held} & {one.transcript for one in kept} == {"yes"}


def test_no_share_holds_nothing_out_and_few_clips_are_all_learnt() -> None:
    clips = [Clip(Path(f"{i}.wav"), "a", "") for i in range(30)]
    assert hold_out(clips, 0.0, 0) == (clips, [])
    assert hold_out(clips[:9], 0.5, 0) == (clips[:9], [])
    assert len(hold_out(clips[:10], 0.05, 0)[1]) == 1
    assert hold_out([], 0.1, 0) == ([], [])


# ---------------------------------------------------------------- counts and files


def test_intents_are_counted_in_alphabetical_order() -> None:
    clips = [Clip(Path("x.wav"), intent, "") for intent in ("freeze", "balance", "freeze")]
    assert list(intent_counts(clips).items()) == [("balance", 1), ("freeze", 2)]


def test_the_label_of_noise_is_no_name_for_an_intent() -> None:
    clips = [Clip(Path("x.wav"), intent, "") for intent in ("balance", NON_SPEECH)]
    with pytest.raises(DataError, match=f"An intent is called {NON_SPEECH}, which is reserved"):
        intent_counts(clips)


@pytest.mark.parametrize(
    ("intents", "message"), [([], r"0 spoken intent\(s\) \(none\)"), (["a", "a"], r"1 spoken intent\(s\) \(a\)")]
)
def test_fewer_than_two_intents_cannot_be_told_apart(intents: List[str], message: str) -> None:
    with pytest.raises(DataError, match=f"{message}: at least two are needed"):
        intent_counts(Clip(Path("x.wav"), intent, "") for intent in intents)


def test_required_files_are_there_or_named(tmp_path: Path) -> None:
    here = clip(record(tmp_path / "here.wav"))
    require_files([here])
    with pytest.raises(DataError, match=r"1 clip\(s\) missing; nothing was trained:\n  audio/gone\.wav \(intent freeze\)$"):
        require_files([here, clip(tmp_path / "gone.wav")])


# ---------------------------------------------------------------- noticing a change


def test_the_fingerprint_changes_with_clips_recipe_and_base_model(project: Path) -> None:
    base = project / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")

    def fingerprint(recipe: Any = "reference") -> str:
        return training_fingerprint(str(base), recipe, ["audio"])

    seen = [fingerprint()]
    (project / "audio/notes.txt").write_text("not audio")
    os.utime(project / "audio/balance/1.wav", (1, 1))
    assert fingerprint() == seen[0]
    for change in (
        lambda: record(project / "audio/balance/1.wav", peak=0.4),
        lambda: record(project / "audio/balance/3.FLAC"),
        lambda: (project / "audio/freeze/1.wav").unlink(),
        lambda: (base / "config.json").write_text("{ }"),
        lambda: (base / "model.safetensors").write_bytes(b"weights"),
    ):
        change()
        seen.append(fingerprint())
    seen += [fingerprint({"epochs": 2}), fingerprint({"epochs": 4}), fingerprint("default")]
    assert len(set(seen)) == len(seen)
    assert fingerprint({}) == seen[-1]  # what a recipe leaves out is as in default
    assert fingerprint({"epochs": 2, "seed": 1}) == fingerprint({"seed": 1, "epochs": 2})


def test_the_fingerprint_of_files_is_of_bytes_and_names(tmp_path: Path) -> None:
    first, second = record(tmp_path / "a.wav"), record(tmp_path / "b.wav", peak=0.3)
    both = files_fingerprint([first, second])
    assert files_fingerprint([second, first, first]) == both
    assert files_fingerprint([first]) != both != files_fingerprint([])
    second.rename(tmp_path / "c.wav")
    assert files_fingerprint([first, tmp_path / "c.wav"]) != both


def test_a_bundled_base_model_is_found_by_name() -> None:
    assert "whisper-mini" in bundled_base_models()
    assert (Path(base_model_source("whisper-mini")) / "model.safetensors").is_file()
    assert base_model_source("openai/whisper-base.en") == "openai/whisper-base.en"


# ---------------------------------------------------------------- of reviewed calls


def test_what_the_bot_heard_is_read(project: Path) -> None:
    listed = "nlu:\n- intent: balance\n  examples:\n  - {text: audio/balance/1.wav, metadata: {heard: freeze}}\n"
    assert [one.heard for one in read_clips(write(project / "data/nlu_reviewed.yml", listed))] == ["freeze"]
    table = "path,intent,heard\naudio/balance/1.wav,balance,freeze\naudio/freeze/1.wav,freeze,\n"
    assert [one.heard for one in read_clips(write(project / "clips.csv", table))] == ["freeze", ""]


@pytest.mark.parametrize(
    ("others", "calls", "share", "times"),
    [
        (500, 20, 0.2, 5),
        (500, 50, 0.2, 2),
        (500, 3, 0.2, 5),
        (500, 400, 0.2, 1),
        (0, 20, 0.2, 1),
        (500, 20, 0.0, 1),
        (500, 0, 0.2, 1),
    ],
)
def test_few_calls_are_learnt_more_often(others: int, calls: int, share: float, times: int) -> None:
    clips = [Clip(Path(f"{i}.wav"), "a", str(i), heard="" if i < others else "b") for i in range(others + calls)]
    again = of_calls_again(clips, share)
    assert Counter(again) == {clip: times - 1 for clip in clips if clip.heard and times > 1}
    assert len(again) + calls <= max(calls, share * others)
