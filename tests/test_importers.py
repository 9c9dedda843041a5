"""Recordings from elsewhere: reading a CSV, folders and MInDS-14, and putting them into a project, all or nothing."""

import csv
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import minds14_layout
import numpy as np
import pytest
import soundfile
from conftest import run_rasa
from test_cli import called, words

from assistant import PROJECT
from spoken_intents.errors import ConfigError, DataError
from spoken_intents.utterances import is_audio_reference, resolve
from spoken_intents_training import project as project_module
from spoken_intents_training.dataset import Clip, read_clips
from spoken_intents_training.examples import ExampleFile
from spoken_intents_training.importers import INTENTS, from_csv, from_folder, from_minds14
from spoken_intents_training.project import MANIFEST, NLU, Recording, fit_intent, import_recordings

AWKWARD = (
    "what's my balance?",
    'He said: "- no", #1 [card](x) {a}',
    "C:\\users \\N{DASH}",
    "pay ${AMOUNT} now",
    "two\nlines",
    "42",
    "yes",
    "größer 余额 शेष 😀",
)


def record(file: Path, seconds: float = 0.1, rate: int = 8_000, pitch: float = 0.1) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, 0.5 * np.sin(np.arange(round(seconds * rate)) * pitch), rate)
    return file


def write_csv(file: Path, *rows: Tuple[str, ...]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows(rows)
    return file


def tree(folder: Path) -> Dict[str, bytes]:
    """Every file's content by its path, and every directory."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"(directory)"
        for path in sorted(folder.rglob("*"))
    }


def said(clips: List[Clip]) -> List[Tuple[str, str, str, str]]:
    return sorted((clip.path.name, clip.intent, clip.speaker, clip.transcript) for clip in clips)


def rasa_examples(file: Path) -> List[Any]:
    from rasa.shared.nlu.training_data.formats.rasa_yaml import RasaYAMLReader

    return RasaYAMLReader().read(str(file)).training_examples


@pytest.fixture
def clips_csv(tmp_path: Path) -> Path:
    """Five clips of three intents in four formats, one of them to test with."""
    folder = tmp_path / "calls"
    for number, name in enumerate(("a/1.wav", "a/2.flac", "b/1.ogg", "b/2.mp3", "b/3.WAV")):
        record(folder / name, pitch=0.1 + number / 50)
    return write_csv(
        folder / "list.csv",
        ("split", "path", "intent", "speaker", "transcript"),
        ("train", "a/1.wav", "Card issues", "ann", "my card, it's broken"),
        ("TEST", "a/2.flac", "Card issues", "bob", "card"),
        ("", "b/1.ogg", "balance", "ann", ""),
        ("dev", "b/2.mp3", "balance", "", "how much"),
        ("train", "b/3.WAV", "FAQ/hours", "", ""),
    )


# ---------------------------------------------------------------- a round trip


def test_a_csv_becomes_a_project_that_both_readers_read(clips_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "bot"
    imported = import_recordings(from_csv(clips_csv, {}), out)
    assert imported.written and imported.unlisted == []
    assert sorted(tree(out)) == [
        *("audio", "audio/balance", "audio/balance/1.ogg", "audio/balance/2.mp3"),
        *("audio/card_issues", "audio/card_issues/1.wav", "audio/card_issues/2.flac"),
        *("audio/faq_hours", "audio/faq_hours/3.wav", MANIFEST, "data", NLU),
    ]
    assert (out / "audio/balance/2.mp3").read_bytes() == (clips_csv.parent / "b/2.mp3").read_bytes()

    manifest = read_clips(out / MANIFEST)
    assert manifest == [Clip(**{**vars(clip), "name": clip.name[len("audio/") :]}) for clip in imported.clips]
    assert [clip.split for clip in manifest] == ["train", "test", "", "dev", "train"]
    learnt = read_clips(out / NLU)
    assert said(learnt) == said([clip for clip in manifest if clip.split != "test"])
    assert [(example.get("text"), example.get("intent")) for example in rasa_examples(out / NLU)] == [
        (clip.name, clip.intent) for clip in learnt
    ]
    assert (out / NLU).read_text(encoding="utf-8").endswith("- intent: faq_hours\n  examples: |\n    - audio/faq_hours/3.wav\n")
    rows = list(csv.DictReader((out / MANIFEST).open()))
    assert [row["seconds"] for row in rows[:3]] == ["0.100"] * 3


def test_awkward_transcripts_are_the_same_for_rasa_and_for_us(tmp_path: Path) -> None:
    audio = record(tmp_path / "1.wav").read_bytes()
    recordings = [Recording(f"{i}.wav", "a", audio, text, text) for i, text in enumerate(AWKWARD)]
    import_recordings(recordings, tmp_path / "bot")
    for file in (MANIFEST, NLU):
        assert [(clip.transcript, clip.speaker) for clip in read_clips(tmp_path / "bot" / file)] == [(t, t) for t in AWKWARD]
    found = [example.get("metadata")["example"] for example in rasa_examples(tmp_path / "bot" / NLU)]
    assert found == [{"transcript": text, "speaker": text} for text in AWKWARD]


@pytest.mark.parametrize("text", AWKWARD[:3])
def test_a_file_with_one_ascii_transcript_keeps_it(text: str, tmp_path: Path) -> None:
    audio = record(tmp_path / "1.wav").read_bytes()
    import_recordings([Recording("1.wav", "a", audio, transcript=text)], tmp_path / "bot")
    assert rasa_examples(tmp_path / "bot" / NLU)[0].get("metadata")["example"]["transcript"] == text


def test_a_projects_other_files_stay(clips_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "bot"
    (out / "data").mkdir(parents=True)
    (out / "audio").mkdir()
    (out / "data/nlu.yml").write_text("nlu: []\n")
    (out / "domain.yml").write_text("intents:\n- balance\n- card_issues:\n    use_entities: true\n")
    imported = import_recordings(from_csv(clips_csv, {}), out)
    assert imported.unlisted == ["faq_hours"]
    assert (out / "data/nlu.yml").read_text() == "nlu: []\n"
    assert (out / "domain.yml").read_text().startswith("intents:\n- balance")


def test_the_summary_counts_by_intent_and_in_all(clips_csv: Path, tmp_path: Path) -> None:
    columns = import_recordings(from_csv(clips_csv, {}), tmp_path / "bot").table().columns
    cells = [list(column.cells) for column in columns]
    assert cells[0] == ["balance", "card_issues", "faq_hours", "in all"]
    assert cells[1] == ["2", "2", "1", "5"]
    assert cells[2] == ["0.0"] * 4
    assert cells[3] == ["1", "2", "unknown", "2"]


# ---------------------------------------------------------------- CSV


def test_columns_of_other_names(tmp_path: Path) -> None:
    record(tmp_path / "1.wav")
    file = write_csv(
        tmp_path / "list.csv", ("wav", "label", "who", "said", "part"), ("1.wav", "a", "ann", "hello", "Test"), ("1.wav", "b")
    )
    columns = {"path": "wav", "intent": "label", "speaker": "who", "transcript": "said", "split": "part"}
    assert from_csv(file, columns) == [
        Recording("1.wav", "a", tmp_path / "1.wav", "ann", "hello", "test"),
        Recording("1.wav", "b", tmp_path / "1.wav"),
    ]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (
            [("file", "intent"), ("1.wav", "a")],
            {},
            r"list\.csv: the column path is missing; found file, intent\. .* --path-column",
        ),
        ([("path;intent",)], {}, "the column path and intent is missing; found path;intent"),
        ([], {}, "the column path and intent is missing; found none"),
        ([("path", "intent"), ("1.wav", "a")], {"speaker": "who"}, "the column who is missing"),
        ([("path", "intent")], {}, r"list\.csv: lists no clip"),
        ([("path", "intent"), ("1.wav", "a"), ("2.wav", " ")], {}, r"list\.csv, line 3: path and intent must both be given"),
        ([("path", "label"), ("", "a")], {"intent": "label"}, "line 2: path and label must both be given"),
        ([("path", "intent"), *[("1.wav", "a")] * 3], {}, r"list\.csv: 3 recording\(s\), all of a; at least two intents"),
    ],
)
def test_a_csv_that_cannot_be_used(rows: Any, columns: Dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        from_csv(write_csv(tmp_path / "list.csv", *rows), columns)


def test_a_csv_that_is_none(tmp_path: Path) -> None:
    for text, reason in (("path,intent\né.wav,a\n", "'utf-8' codec"), ("path,intent\n1.wav,a\0\n", "line contains NUL")):
        (tmp_path / "list.csv").write_bytes(text.encode("latin-1"))
        with pytest.raises(DataError, match=rf"list\.csv: not CSV in UTF-8 \({reason}"):
            from_csv(tmp_path / "list.csv", {})
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        from_csv(tmp_path / "none.csv", {})
    with pytest.raises(DataError, match=r": a folder\. With one folder for each intent in it: spoken-intents import folder"):
        from_csv(tmp_path, {})


# ---------------------------------------------------------------- folders


def test_one_folder_for_each_intent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "recordings"
    for name in ("balance/ann/1.wav", "balance/bob/1.WAV", "freeze/1.ogg", ".hidden/1.wav", "freeze/.cache/1.wav"):
        record(folder / name)
    for name in ("freeze/notes.txt", "freeze/other.m4a", "empty/x.txt", "README"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    recordings = from_folder(folder)
    assert [(one.name, one.intent) for one in recordings] == [
        ("balance/ann/1.wav", "balance"),
        ("balance/bob/1.WAV", "balance"),
        ("freeze/1.ogg", "freeze"),
    ]
    assert caplog.messages == [
        "Left out what is not read: 1 .m4a, 2 .txt, 1 README.",
        "Left out the intent empty: no audio in its folder.",
    ]
    clips = import_recordings(recordings, tmp_path / "bot").clips
    assert [clip.name for clip in clips] == ["audio/balance/1.wav", "audio/balance/1-2.wav", "audio/freeze/1.ogg"]


def test_the_wrong_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text/a").mkdir(parents=True)
    (tmp_path / "text/a/1.txt").write_text("")
    expected = r"Expected one folder for each intent, such as FOLDER/balance/1\.wav"
    with pytest.raises(DataError, match=f"empty: no audio; found nothing. {expected}"):
        from_folder(tmp_path / "empty")
    with pytest.raises(DataError, match=rf"text: no audio; found a/\. {expected}. Read are .wav, .flac"):
        from_folder(tmp_path / "text")
    with pytest.raises(DataError, match=f"none: no such folder. {expected}"):
        from_folder(tmp_path / "none")
    with pytest.raises(DataError, match=rf"1\.txt: a file\. {expected}. A list of clips is read by: spoken-intents import csv"):
        from_folder(tmp_path / "text/a/1.txt")
    for number in range(12):
        record(tmp_path / f"loose/{number:02}.wav")
    with pytest.raises(
        DataError, match=r"loose: 12 recording\(s\) in no intent's folder:\n  00.wav\n(  .*\n){9}  and 2 more\nExp"
    ):
        from_folder(tmp_path / "loose")


@pytest.mark.parametrize(
    ("names", "hint"),
    [(("1.wav", "2.wav"), ""), (("balance/1.wav", "freeze/2.wav"), " Did you mean {}/speech?"), (("ann/1.wav",), None)],
)
def test_one_folder_too_high(names: Tuple[str, ...], hint: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in names:
        record(tmp_path / "data/speech" / name)
    (tmp_path / "data/notes").mkdir()
    hint = " Did you mean {}/speech?" if hint is None else hint
    assert called("import", "folder", tmp_path / "data", "--out", tmp_path / "bot") == 1
    message = f"{tmp_path}/data: {len(names)} recording(s), all of speech; at least two intents are needed." + hint
    assert words(capsys.readouterr().err).endswith(f"Error: {message.format(tmp_path / 'data')}")
    assert not (tmp_path / "bot").exists()


def test_what_was_imported_into_the_folder_itself_is_no_intent(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("balance/1.wav", "freeze/1.wav"):
        record(tmp_path / name)
    for out in ("", "bot"):
        for said in ("in all 2", "Everything was there already"):
            assert called("import", "folder", tmp_path, "--out", tmp_path / out) == 0
            assert said in words(capsys.readouterr().out)
        shutil.rmtree(tmp_path / out / "audio")


# ---------------------------------------------------------------- recordings that cannot be used


def refused(recordings: List[Recording], out: Path) -> str:
    """The message; nothing was made."""
    with pytest.raises(DataError) as caught:
        import_recordings(recordings, out)
    assert not out.exists()
    return str(caught.value)


def test_missing_recordings_are_named(tmp_path: Path) -> None:
    there = Recording("there.wav", "a", record(tmp_path / "there.wav"))
    missing = [Recording(f"{i}.wav", "a", tmp_path / f"{i}.wav") for i in range(12)]
    missing.append(Recording("long.wav", "a", tmp_path / ("x" * 300)))
    message = refused([there, *missing], tmp_path / "bot")
    assert message.startswith("13 recording(s) missing; nothing was imported:\n  0.wav\n  1.wav\n")
    assert message.endswith("  9.wav\n  and 3 more")


@pytest.mark.parametrize("name", ["clip.m4a", "clip", ".wav"])
def test_recordings_of_another_kind_are_refused(name: str, tmp_path: Path) -> None:
    message = refused([Recording(name, "a", record(tmp_path / "1.wav"))], tmp_path / "bot")
    assert message.startswith(f"1 recording(s) of a kind that is not read; nothing was imported:\n  {name}\nRead are .wav, .flac")
    assert "ffmpeg" in message


def test_recordings_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    message = refused(
        [
            Recording("good.wav", "a", record(tmp_path / "good.wav")),
            Recording("calls/text.wav", "a", tmp_path / "text.wav"),
            Recording("bytes.wav", "a", b""),
        ],
        tmp_path / "bot",
    )
    assert message.startswith("2 recording(s) cannot be read as audio; nothing was imported:\n  calls/text.wav (Format not rec")
    assert "\n  bytes.wav (" in message


def test_recordings_too_short_or_long_to_be_heard_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seconds = {"short": 0.019, "shortest": 0.02, "longest": 30.0, "long": 30.1, "none": 0.0}
    recordings = [Recording(f"{name}.wav", "a", record(tmp_path / f"{name}.wav", s)) for name, s in seconds.items()]
    imported = import_recordings(recordings, tmp_path / "bot")
    assert [clip.path.stem for clip in imported.clips] == ["shortest", "longest"]
    assert imported.seconds == [0.02, 30.0]
    assert caplog.messages == [
        "Left out 3 recording(s) that do not last 20 ms to 30 s:\n  short.wav (0.02 s)\n  long.wav (30.10 s)\n  none.wav (0.00 s)"
    ]


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    audio = record(tmp_path / "1.wav")
    long = record(tmp_path / "long.wav", 31)
    recordings = [Recording("1.wav", "a", audio, split="test"), Recording("long.wav", "b", long, split="train")]
    for given in (recordings, []):
        assert (
            refused(given, tmp_path / "bot") == f"None of {len(given)} recording(s) is left to learn from; nothing was imported."
        )


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "fit"),
    [
        ("balance", "balance"),
        ("Card Issues", "card_issues"),
        ("APP_ERROR", "app_error"),
        ("checkBalance2Go", "check_balance2go"),
        ("faq/ask - name", "faq_ask_name"),
        ("../../etc/passwd", "etc_passwd"),
        ("pay+bill.now!", "pay_bill_now"),
        ("Größe", "größe"),
        ("余额", "余额"),
        ("शेष राशि", "शेष_राशि"),
        ("7", "7"),
        ("x" * 300, "x" * 72),
    ],
)
def test_intents_are_made_fit(name: str, fit: str, tmp_path: Path) -> None:
    assert fit_intent(name) == fit == fit_intent(fit)
    audio = record(tmp_path / "1.wav").read_bytes()
    imported = import_recordings([Recording("1.wav", name, audio)], tmp_path / "bot")
    assert imported.clips[0].path == tmp_path / "bot/audio" / fit / "1.wav"
    assert [clip.intent for clip in read_clips(tmp_path / "bot" / NLU)] == [fit]
    assert [example.get("intent") for example in rasa_examples(tmp_path / "bot" / NLU)] == [fit]


def test_intents_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    audio = record(tmp_path / "1.wav")
    message = refused([Recording("1.wav", name, audio) for name in ("pay bill", "balance", "PAY_BILL")], tmp_path / "bot")
    assert message.startswith("The intents 'PAY_BILL' and 'pay bill' would both be called pay_bill. Rename one")
    with pytest.raises(DataError, match=r"An intent is called '\.\./!', without a letter or digit"):
        fit_intent("../!")


def test_files_get_names_that_are_safe_and_their_own(tmp_path: Path) -> None:
    audio = record(tmp_path / "1.wav").read_bytes()
    names = [
        "a b.wav",
        "a_b.wav",
        "A B.WAV",
        "a-b.wav",
        "a_b-2.wav",
        "x/../a b.wav",
        "[1](x).wav",
        "-rf.wav",
        "…wav.wav",
        "!.wav",
    ]
    names += ["a_b.ogg", "余额.wav", "é.wav", "e\u0301.wav", f"{'余' * 300}.wav", f"{'余' * 301}.wav", "/abs/ö.wav", "a\\b\n.wav"]
    clips = import_recordings([Recording(name, "i", audio) for name in names], tmp_path / "bot").clips
    made = [clip.name for clip in clips]
    assert made[:6] == [f"audio/i/{name}.wav" for name in ("a_b", "a_b-2", "A_B-3", "a-b", "a_b-2-2", "a_b-4")]
    assert len({name.lower() for name in made}) == len(names)
    for clip in clips:
        assert len(clip.path.name) <= 80 and len(clip.path.name.encode()) <= 255
        assert is_audio_reference(clip.name) and not set(clip.name) & set(" \\[](){}\n\"'!#:")
        assert resolve(clip.name, ["audio"], tmp_path / "bot").read_bytes() == audio
    assert [example.get("text") for example in rasa_examples(tmp_path / "bot" / NLU)] == made


def test_many_recordings_of_one_name(tmp_path: Path) -> None:
    audio = record(tmp_path / "1.wav").read_bytes()
    clips = import_recordings([Recording(f"{i}/audio.wav", "a", audio) for i in range(300)], tmp_path / "bot").clips
    assert clips[299].name == "audio/a/audio-300.wav"
    assert len(read_clips(tmp_path / "bot" / NLU)) == 300


# ---------------------------------------------------------------- twice, onto others, cut short


def test_the_same_again_changes_nothing(clips_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "bot"
    import_recordings(from_csv(clips_csv, {}), out)
    before = {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))}
    again = import_recordings(from_csv(clips_csv, {}), out)
    assert not again.written
    assert {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))} == before


@pytest.mark.parametrize("change", ["another clip", "another sound", "another transcript", "own audio", "own nlu"])
def test_onto_others_is_refused_and_changes_nothing(change: str, clips_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "bot"
    if change.startswith("own"):
        place = out / ("audio/balance/9.wav" if change == "own audio" else NLU)
        place.parent.mkdir(parents=True)
        place.write_text("mine")
    else:
        import_recordings(from_csv(clips_csv, {}), out)
    before = tree(out)
    if change == "another clip":
        record(clips_csv.parent / "new.wav")
        clips_csv.write_text(clips_csv.read_text() + ",new.wav,balance,,\n")
    elif change == "another sound":
        record(clips_csv.parent / "b/1.ogg", pitch=0.7)
    elif change == "another transcript":
        clips_csv.write_text(clips_csv.read_text().replace("how much", "how little"))
    with pytest.raises(
        DataError, match=r"bot/(audio/[a-z.]+|data/nlu_spoken\.yml) holds something else; nothing was changed\. Choose another"
    ):
        import_recordings(from_csv(clips_csv, {}), out)
    assert tree(out) == before


def test_out_is_a_file(clips_csv: Path) -> None:
    with pytest.raises(ConfigError, match=r"--out .*list\.csv: a file\. Name a Rasa project"):
        import_recordings(from_csv(clips_csv, {}), clips_csv)


@pytest.mark.parametrize("text", ["intents: [", "- a\n- b\n", "\xff\xfe"])
def test_a_domain_that_cannot_be_read(text: str, clips_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "domain.yml").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"domain\.yml: no domain that can be read (.|\n)*; nothing was imported"):
        import_recordings(from_csv(clips_csv, {}), tmp_path)
    assert not (tmp_path / "audio").exists()


def test_beside_clips_of_other_commands(clips_csv: Path, tmp_path: Path) -> None:
    ExampleFile(tmp_path, "taught").add("balance", np.zeros(8_000, np.float32))
    import_recordings(from_csv(clips_csv, {}), tmp_path)
    assert len(ExampleFile(tmp_path, "taught").examples()) == 1 and (tmp_path / NLU).is_file()


def killed_at(moment: int, work: Callable[[], Any]) -> bool:
    """Runs `work` in a child that is killed as it is about to touch the file system for the `moment`-th time."""
    child = os.fork()
    if child == 0:
        touched = 0

        def count(event: str, arguments: Any) -> None:
            nonlocal touched
            if event in ("open", "os.mkdir", "os.rename", "os.rmdir", "os.remove"):
                touched += 1
                if touched == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status != 0


def test_killed_at_any_moment_nothing_looks_finished_and_the_next_run_completes(clips_csv: Path, tmp_path: Path) -> None:
    recordings = from_csv(clips_csv, {})
    import_recordings(recordings, tmp_path / "whole")
    whole = tree(tmp_path / "whole")
    moments, staged, between = 0, 0, 0
    while True:
        out = tmp_path / f"bot{moments}"
        moments += 1
        if not killed_at(moments, lambda out=out: import_recordings(recordings, out)):
            break
        left = tree(out) if out.exists() else {}
        done = {name: content for name, content in left.items() if not name.startswith(".importing-")}
        assert NLU not in done or done == whole
        for part in [MANIFEST, "audio/balance", "audio/faq_hours"]:
            if part in done:  # moved in as a whole
                assert {name: content for name, content in whole.items() if name.startswith(part)}.items() <= done.items()
        staged += "audio" not in done and bool(left)
        between += MANIFEST in done and NLU not in done
        import_recordings(recordings, out)
        assert tree(out) == whole
    assert tree(out) == whole
    assert moments > 20 and staged > 10 and between >= 1


def test_a_full_disk_leaves_no_rest(clips_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "bot").mkdir()
    monkeypatch.setattr(project_module.os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        import_recordings(from_csv(clips_csv, {}), tmp_path / "bot")
    assert [path for path in (tmp_path / "bot").rglob("*") if path.name != "audio"] == []  # which is empty, as before any import


# ---------------------------------------------------------------- MInDS-14


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both layouts, made by the script of the bundled clips: PolyAI/minds14 and MInDS-14."""
    folder = tmp_path_factory.mktemp("minds14")
    arguments = [PROJECT / "audio/manifest.csv", "--hub", folder / "PolyAI/minds14", "--original", folder, "--clips", 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["minds14_layout.py", *map(str, arguments)])
        minds14_layout.main()
    return folder


def test_both_layouts_of_minds14_give_the_same_project(layouts: Path, tmp_path: Path) -> None:
    sources = {"hub": layouts / "PolyAI/minds14", "release": layouts / "MInDS-14", "outside": layouts}
    for name, source in sources.items():
        import_recordings(from_minds14("en-US", source), tmp_path / name)
    clips = read_clips(tmp_path / "hub" / NLU)
    assert [clip.intent for clip in clips] == sorted(2 * INTENTS)
    assert clips[0].transcript == "can I use my card abroad"
    assert soundfile.info(clips[0].path).samplerate == 8_000
    assert [clip.transcript for clip in clips[:2]] == [
        clip.transcript for clip in read_clips(PROJECT / "audio/manifest.csv") if clip.intent == "abroad"
    ][:2]
    assert tree(tmp_path / "hub") == tree(tmp_path / "release") == tree(tmp_path / "outside")


def test_the_hubs_loader_gives_the_same(layouts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(layouts)  # load_dataset prefers a folder of that name
    assert from_minds14("en-US") == from_minds14("en-US", layouts / "PolyAI/minds14")


@pytest.mark.parametrize("offline", [False, True])
def test_the_hub_cannot_be_reached(offline: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(DataError, match=r"MInDS-14 cannot be had from the hub \(.+\)\. Take a copy of .*: --source DIR"):
        from_minds14("de-DE")


def test_what_is_no_minds14(layouts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--language en: MInDS-14 has cs-CZ, de-DE"):
        from_minds14("en", layouts)
    found = r"no MInDS-14 in de-DE; found MInDS-14/, PolyAI/\. Expected the hub's de-DE/train-\*\.parquet, or .* text/de-DE\.csv"
    with pytest.raises(DataError, match=found):
        from_minds14("de-DE", layouts)
    for number in range(7):
        (tmp_path / f"{number}.txt").write_text("")
    for source, said_of_it in (
        (tmp_path, "0.txt, .* 4.txt and 2 more"),
        (tmp_path / "0.txt", "a file"),
        (tmp_path / "x", "no such f"),
    ):
        with pytest.raises(DataError, match=f"found {said_of_it}"):
            from_minds14("en-US", source)
    hub, release = layouts / "PolyAI/minds14", layouts / "MInDS-14"
    for source, meant in ((hub / "en-US", hub), (release / "text", release), (release / "text/en-US.csv", None)):
        with pytest.raises(DataError) as caught:
            from_minds14("en-US", source)
        assert str(caught.value).endswith(f" Did you mean --source {meant}?" if meant else "those names).")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert from_minds14("en-US", layouts / "MInDS-14")  # needs no extra
    with pytest.raises(ConfigError, match=r"This needs the extra: pip install 'rasa-spoken-intents\[train\]'"):
        from_minds14("en-US", layouts / "PolyAI/minds14")


def test_parquet_that_is_broken_or_other_or_without_labels(layouts: Path, tmp_path: Path) -> None:
    import pyarrow.parquet

    whole = layouts / "PolyAI/minds14/en-US/train-00000-of-00001.parquet"
    file = tmp_path / "en-US/train-00000-of-00001.parquet"
    file.parent.mkdir()
    file.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(DataError, match="en-US: cannot be read as parquet"):
        from_minds14("en-US", tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"path": ["1.wav"], "text": ["x"]}), file)
    with pytest.raises(DataError, match="no MInDS-14, as audio and transcription and intent_class is missing; found path, text"):
        from_minds14("en-US", tmp_path)
    table = pyarrow.parquet.read_table(whole)
    for part in range(2):  # several files, and nothing said about what the numbers mean
        half = table.slice(part * 14, 14).replace_schema_metadata(None)
        pyarrow.parquet.write_table(half, file.with_name(f"train-0000{part}-of-00002.parquet"))
    file.unlink()
    assert from_minds14("en-US", tmp_path) == from_minds14("en-US", layouts / "PolyAI/minds14")


def test_the_layout_script_gives_other_intents_minds14s_names(clips_csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [clip for clip in read_clips(clips_csv) if clip.intent != "balance"]
    rows = minds14_layout.minds14_rows(clips, 1, "fr-FR")
    assert [(INTENTS[row["intent_class"]], row["path"].split("/")[0]) for row in rows] == [
        ("abroad", "fr-FR~ABROAD"),
        ("address", "fr-FR~ADDRESS"),
    ]
    monkeypatch.setattr(sys, "argv", ["minds14_layout.py", str(clips_csv)])
    with pytest.raises(SystemExit):
        minds14_layout.main()


# ---------------------------------------------------------------- the command


def test_the_command_imports_and_says_what_comes_next(clips_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ("import", "csv", clips_csv, "--out", tmp_path / "bot")
    assert called(*arguments) == 0
    out = words(capsys.readouterr().out)
    assert "balance 2 0.0 1 card_issues 2 0.0 2 faq_hours 1 0.0 unknown in all 5 0.0 2" in out
    assert "No domain.yml there yet" in out
    assert out.endswith("spoken-intents check data/nlu_spoken.yml, then rasa train.")
    (tmp_path / "bot/domain.yml").write_text("intents:\n- balance\n")
    assert called(*arguments) == 0
    out = words(capsys.readouterr().out)
    assert "Everything was there already; nothing was changed." in out
    assert "domain.yml lacks intents; add to it: intents: - card_issues - faq_hours Next" in out
    clips_csv.write_text(clips_csv.read_text().replace("how much", "how little"))
    assert called(*arguments) == 1
    assert "holds something else; nothing was changed" in words(capsys.readouterr().err)


def test_the_command_takes_folders_columns_and_minds14(layouts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [(f"recordings/{intent}/1.wav", intent) for intent in "ab"]
    for name, _ in rows:
        record(tmp_path / name)
    list_file = write_csv(tmp_path / "list.csv", ("wav", "label"), *rows)
    assert called("import", "folder", tmp_path / "recordings", "--out", tmp_path / "folder") == 0
    assert called("import", "csv", list_file, "--path-column", "wav", "--intent-column", "label", "--out", tmp_path / "csv") == 0
    assert tree(tmp_path / "folder") == tree(tmp_path / "csv")
    split_file = write_csv(
        tmp_path / "split.csv", ("path", "intent", "part"), *((*row, part) for row in rows for part in ("", "test"))
    )
    assert called("import", "csv", split_file, "--split-column", "part", "--out", tmp_path / "split") == 0
    clips = read_clips(tmp_path / "split/audio/manifest.csv")
    assert sorted((clip.intent, clip.split) for clip in clips) == [("a", ""), ("a", "test"), ("b", ""), ("b", "test")]
    assert called("import", "minds14", "--source", layouts, "--out", tmp_path / "minds14") == 0
    assert "in all 28" in words(capsys.readouterr().out)
    assert called("import", "folder", list_file, "--out", tmp_path / "x") == 1
    assert "Expected one folder for each intent" in words(capsys.readouterr().err)


@pytest.mark.slow
def test_rasa_trains_on_what_was_imported_as_it_is(layouts: Path, tmp_path: Path) -> None:
    intents = "".join(f"- {intent}\n" for intent in INTENTS)
    (tmp_path / "domain.yml").write_text(f'version: "3.1"\nintents:\n{intents}')
    (tmp_path / "config.yml").write_text(
        "assistant_id: bot\nrecipe: default.v1\nlanguage: en\npipeline:\n- name: spoken_intents.nlu.SpokenMessages\n"
        "- name: spoken_intents.nlu.SpokenIntentClassifier\n  base_model: whisper-mini\n"
        "  recipe: {context: short, batch_size: 8, epochs: 1}\n"
    )
    assert import_recordings(from_minds14("en-US", layouts), tmp_path).unlisted == []
    run_rasa(tmp_path, "train", "nlu")
    assert len(list((tmp_path / "models").glob("*.tar.gz"))) == 1
