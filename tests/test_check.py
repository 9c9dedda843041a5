"""What `spoken-intents check` says of data sets: healthy ones, and each kind of broken one."""

import io
import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import soundfile
from rich.console import Console
from test_cli import called, words

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import AudioError, DataError
from spoken_intents.recognizer import NON_SPEECH
from spoken_intents_training.check import check, read_data, similar
from spoken_intents_training.dataset import Clip, hold_out, read_samples
from spoken_intents_training.findings import KINDS, CheckReport, Finding
from spoken_intents_training.sound import measure

pytestmark = pytest.mark.filterwarnings("error")
SPOKEN = 0.3  # seconds


def voice(seed: int = 0, seconds: float = SPOKEN, peak: float = 0.5, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Noise: as many high peaks as speech has, and never the same twice."""
    samples = np.random.default_rng(seed).normal(size=round(seconds * rate))
    return samples * peak / max(np.abs(samples).max(initial=0), 1e-9)


def record(file: Path, samples: np.ndarray, rate: int = SAMPLE_RATE) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, samples, rate)
    return file


@pytest.fixture
def healthy(tmp_path: Path) -> List[Clip]:
    """Two intents with ten clips to train on and two to test on, said by different people in different words."""
    clips = []
    for intent in ("balance", "freeze"):
        for number in range(12):
            file = record(tmp_path / intent / f"{number}.wav", voice(len(clips)))
            split = "test" if number >= 10 else "train"
            name = f"{intent}/{number}.wav"
            clips.append(Clip(file, intent, name, f"{split} speaker", f"{intent} in my {split} words", split))
    return clips


def found(clips: List[Clip]) -> Dict[str, Finding]:
    """The findings by kind, apart from what is said of every data set."""
    report = check(clips)
    kinds = [finding.kind for finding in report.findings]
    assert len(set(kinds)) == len(kinds), "one line for each kind"
    return {finding.kind: finding for finding in report.findings if finding.kind != "memory"}


def added(clips: List[Clip], file: Path, **other: Any) -> List[Clip]:
    """The clips, and `file` as one more of `balance` to train on, said by somebody new."""
    return [*clips, Clip(file, **{"intent": "balance", "name": file.name, "speaker": "new", **other})]


def renamed(clips: List[Clip], number: int, **other: Any) -> List[Clip]:
    return [Clip(**{**vars(clip), **other}) if index == number else clip for index, clip in enumerate(clips)]


def test_healthy_data_has_no_finding(healthy: List[Clip]) -> None:
    report = check(healthy)
    assert [(finding.kind, finding.severity) for finding in report.findings] == [("memory", "info")]
    assert not report.failed() and not report.failed(strict=True)


# ---------------------------------------------------------------- clips that cannot be used


def broken(folder: Path, kind: str) -> Path:
    file = folder / "broken.wav"
    if kind == "unreadable":
        file.write_text("no audio")
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "silent":
        record(file, voice(99, peak=5e-5))
    elif kind != "missing":
        record(file, voice(99, {"too_short": 0.01, "too_long": 30.1}[kind]))
    return file


@pytest.mark.parametrize("kind", ["missing", "unreadable", "empty", "too_short", "silent", "too_long"])
def test_a_clip_that_cannot_be_used(kind: str, healthy: List[Clip], tmp_path: Path) -> None:
    report = check(added(healthy, broken(tmp_path, kind)))
    (finding,) = [finding for finding in report.findings if finding.severity == "error"]
    assert (finding.kind, finding.clips) == (kind, ["broken.wav"])
    assert report.failed()
    assert report.summary()["clips"] == 25
    assert report.summary()["minutes"] == pytest.approx(24 * SPOKEN / 60), "what cannot be used does not count"


def test_what_cannot_be_read_is_said_why(healthy: List[Clip], tmp_path: Path) -> None:
    finding = found(added(healthy, broken(tmp_path, "unreadable")))["unreadable"]
    assert len(finding.examples) == 1
    assert finding.examples[0].startswith("broken.wav: cannot be read as audio (")


def test_a_file_without_a_sample_is_empty(tmp_path: Path) -> None:
    assert measure(Clip(record(tmp_path / "none.wav", np.zeros(0)), "a", "")).problem == "empty"
    assert measure(Clip(record(tmp_path / "one.wav", voice()[:1], 192_000), "a", "")).problem == "too_short"


def test_a_file_at_an_odd_rate_is_unreadable(tmp_path: Path) -> None:
    sound = measure(Clip(record(tmp_path / "slow.wav", voice(), 2_000), "a", "slow.wav"))
    assert sound.problem == "unreadable"
    assert "2,000 Hz" in sound.reason


def test_a_name_that_no_file_can_have_is_missing(tmp_path: Path) -> None:
    assert measure(Clip(tmp_path / ("x" * 300), "a", "")).problem == "missing"


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize(
    ("seconds", "peak"), [(0.0, 0.5), (0.019, 0.5), (0.02, 0.5), (30.0, 0.5), (30.01, 0.5), (0.3, 9e-5), (0.3, 1.2e-4)]
)
def test_training_takes_what_check_takes(rate: int, seconds: float, peak: float, tmp_path: Path) -> None:
    tone = peak * np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * 500 / rate)
    clip = Clip(tmp_path / "clip.flac", "a", "")
    soundfile.write(clip.path, tone, rate, subtype="PCM_24")
    try:
        assert len(read_samples(clip)) == round(measure(clip).seconds * SAMPLE_RATE)
        assert not measure(clip).problem
    except AudioError:
        assert measure(clip).problem


# ---------------------------------------------------------------- clips that are not as they should be


@pytest.mark.parametrize(("gain_db", "clipped"), [(-6, False), (0, False), (6, True), (20, True)])
@pytest.mark.parametrize(("suffix", "rate"), [("wav", 16_000), ("wav", 44_100), ("ogg", 16_000), ("mp3", 44_100)])
def test_clipped(gain_db: int, clipped: bool, suffix: str, rate: int, healthy: List[Clip], tmp_path: Path) -> None:
    """A codec and a resampler bend what was cut flat. The voice is of pulses, 20 dB above what is between them."""
    pulses = np.exp(-(np.arange(rate) % (rate // 100)) / (rate / 1000)) * np.sin(np.arange(rate) * 2 * np.pi * 700 / rate)
    pulses *= np.linspace(0.2, 1, rate)
    loud = np.clip(pulses / np.abs(pulses).max() * 10 ** (gain_db / 20), -1, 32767 / 32768)
    findings = found(added(healthy, record(tmp_path / f"loud.{suffix}", loud, rate)))
    assert ("clipped" in findings) == clipped
    if clipped:
        assert findings["clipped"].clips == [f"loud.{suffix}"]


@pytest.mark.parametrize(("peak", "quiet"), [(0.003, True), (0.03, False)])
def test_very_quiet(peak: float, quiet: bool, healthy: List[Clip], tmp_path: Path) -> None:
    assert ("quiet" in found(added(healthy, record(tmp_path / "far.wav", voice(99, peak=peak))))) == quiet


def test_a_click_is_no_speech(tmp_path: Path) -> None:
    faint = voice(1, 2.0, 0.003)
    faint[8_000:8_300] = 0.9
    assert measure(Clip(record(tmp_path / "click.wav", faint), "a", "")).speech_db < -50


def test_one_word_in_a_quiet_room_is_not_quiet(tmp_path: Path) -> None:
    word = np.concatenate([voice(1, 4.5, 1e-4), voice(2, 0.2), voice(3, 3.0, 1e-4)])
    assert measure(Clip(record(tmp_path / "word.wav", word), "a", "")).speech_db > -30


@pytest.mark.parametrize(("seconds", "long"), [(25.1, True), (24.9, False)])
def test_longer_than_an_utterance(seconds: float, long: bool, healthy: List[Clip], tmp_path: Path) -> None:
    assert ("long" in found(added(healthy, record(tmp_path / "long.wav", voice(99, seconds))))) == long


@pytest.mark.parametrize(
    ("spoken", "silence", "silent"), [(0.5, 4.0, True), (0.2, 8.0, True), (0.3, 2.5, False), (2.0, 4.0, False), (0.5, 0.0, False)]
)
def test_mostly_silence(spoken: float, silence: float, silent: bool, healthy: List[Clip], tmp_path: Path) -> None:
    samples = np.concatenate([voice(98, silence / 2, 1e-3), voice(99, spoken), voice(97, silence / 2, 1e-3)])
    assert ("pauses" in found(added(healthy, record(tmp_path / "pauses.wav", samples)))) == silent


# ---------------------------------------------------------------- the same audio again


def test_the_same_audio_under_two_intents(healthy: List[Clip], tmp_path: Path) -> None:
    copy = record(tmp_path / "copy.flac", soundfile.read(healthy[0].path)[0])
    findings = found(added(healthy, copy, intent="freeze"))
    assert findings["conflicting_intents"].clips == ["balance/0.wav", "copy.flac"]
    assert findings["conflicting_intents"].examples == ["balance/0.wav (balance) = copy.flac (freeze)"]
    assert {finding.severity for finding in findings.values()} == {"error"}


def test_the_same_audio_in_training_and_test(healthy: List[Clip], tmp_path: Path) -> None:
    copy = record(tmp_path / "copy.flac", soundfile.read(healthy[0].path)[0])
    findings = found(added(healthy, copy, split="test"))
    assert list(findings) == ["audio_across_splits"]
    assert findings["audio_across_splits"].clips == ["balance/0.wav", "copy.flac"]


def test_the_same_audio_twice_in_an_intent(healthy: List[Clip], tmp_path: Path) -> None:
    copy = record(tmp_path / "copy.flac", soundfile.read(healthy[0].path)[0])
    findings = found(added(healthy, copy))
    assert [(finding.kind, finding.severity) for finding in findings.values()] == [("duplicates", "warning")]
    assert findings["duplicates"].clips == ["balance/0.wav", "copy.flac"]


# ---------------------------------------------------------------- what training and test share


def test_speakers_of_training_in_the_test(healthy: List[Clip]) -> None:
    findings = found(renamed(healthy, 10, speaker="train speaker"))
    assert list(findings) == ["speakers_across_splits"]
    assert findings["speakers_across_splits"].clips == ["balance/10.wav"]
    assert "(25% of the test)" in findings["speakers_across_splits"].what


def test_sentences_of_training_in_the_test(healthy: List[Clip]) -> None:
    findings = found(renamed(healthy, 10, transcript="Balance, in my TRAIN words!"))
    finding = findings.pop("transcripts_across_splits")
    assert not findings
    assert (finding.severity, finding.clips) == ("warning", ["balance/10.wav"])
    assert "25% of the test; 25% have more than two words" in finding.what
    assert finding.examples == ["balance/10.wav “Balance, in my TRAIN words!”"]


def test_commands_recur_by_nature(healthy: List[Clip]) -> None:
    clips = renamed(renamed(healthy, 0, transcript="turn off"), 10, transcript="Turn off.")
    finding = found(clips)["transcripts_across_splits"]
    assert finding.severity == "info"
    assert "25% of the test; 0% have more" in finding.what
    assert not check(clips).failed(strict=True)


def test_a_split_of_another_name_is_trained_on(healthy: List[Clip]) -> None:
    findings = found(renamed(renamed(healthy, 0, split="Test"), 1, split="dev"))
    assert list(findings) == ["other_splits"]
    assert findings["other_splits"].what == "clips of a split that is neither train nor test: Test, dev"
    assert findings["other_splits"].clips == ["balance/0.wav", "balance/1.wav"]


def test_who_is_not_named_is_not_the_same_person(healthy: List[Clip]) -> None:
    nameless = [Clip(**{**vars(clip), "speaker": "", "transcript": ""}) for clip in healthy]
    findings = found(nameless)
    assert list(findings) == ["no_speakers"]
    assert findings["no_speakers"].what == "no speaker is named: 24 of 24 clips"


# ---------------------------------------------------------------- intents


def test_one_intent_is_not_enough(healthy: List[Clip]) -> None:
    findings = found([clip for clip in healthy if clip.intent == "freeze"])
    assert [(finding.kind, finding.severity) for finding in findings.values()] == [("one_intent", "error")]
    assert findings["one_intent"].examples == ["freeze"]


def test_the_name_of_noise_is_reserved(healthy: List[Clip]) -> None:
    findings = found([Clip(**{**vars(clip), "intent": clip.intent.replace("freeze", NON_SPEECH)}) for clip in healthy])
    assert list(findings) == ["reserved_intent"]
    assert findings["reserved_intent"].examples == [NON_SPEECH]


def test_an_intent_in_the_test_alone_cannot_be_learnt(healthy: List[Clip]) -> None:
    findings = found(renamed(healthy, 10, intent="address"))
    assert list(findings) == ["unlearnt_intents"] and findings["unlearnt_intents"].severity == "error", "evaluate refuses it"
    assert findings["unlearnt_intents"].examples == ["address"]


def test_an_intent_that_is_not_in_the_test_is_not_measured(healthy: List[Clip]) -> None:
    findings = found([clip for clip in healthy if clip.intent == "balance" or clip.split == "train"])
    assert findings["unmeasured_intents"].examples == ["freeze"]
    assert list(findings) == ["unmeasured_intents"]


@pytest.mark.parametrize(
    ("clips", "kinds"), [(1, ["unmeasured_intents", "few_clips"]), (9, ["unmeasured_intents", "few_clips"]), (10, [])]
)
def test_intents_with_too_few_clips(clips: int, kinds: List[str], healthy: List[Clip]) -> None:
    """Without a test, some of ten or more an intent are held out, and none where there are fewer."""
    learnt = [clip for clip in healthy if clip.split == "train"][: 10 + clips]
    findings = found(learnt)
    assert list(findings) == kinds
    unmeasured = set(findings["unmeasured_intents"].examples) if kinds else set()
    assert unmeasured == {"balance", "freeze"} - {clip.intent for clip in hold_out(learnt, 0.1, 0)[1]}
    if kinds:
        assert findings["few_clips"].examples == [f"freeze ({clips})"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("freeze_card", "freeze-card", True),
        ("freeze_card", "FreezeCard", True),
        ("balance", "Balance", True),
        ("balance", "balence", True),
        ("balance", "balances", True),
        ("card", "cards", True),
        ("deny", "denny", True),
        ("pay_bill", "pay_bills", True),
        ("latest_transactions", "latest_trasnactions", True),
        ("transfer", "trasnfer", True),
        ("balance", "freeze", False),
        ("mocha", "iced_mocha", False),
        ("lights_on", "lights_off", False),
        ("volume_increase", "volume_decrease", False),
        ("activate", "deactivate", False),
        ("lock", "unlock", False),
        ("step_1", "step_2", False),
        ("step1", "step12", False),
        ("card", "cart", False),
        ("ask_faq/card", "ask_faq/loan", False),
    ],
)
def test_names_that_may_be_meant_as_one(one: str, other: str, same: bool) -> None:
    assert similar(one, other) == similar(other, one) == same


def test_a_misspelt_intent_is_found(healthy: List[Clip]) -> None:
    finding = found(renamed(healthy, 0, intent="balence"))["similar_names"]
    assert finding.examples == ["balance / balence"]


@pytest.mark.parametrize(("largest", "reported"), [(100, False), (101, True)])
def test_imbalance(largest: int, reported: bool, healthy: List[Clip]) -> None:
    learnt = [clip for clip in healthy if clip.split == "train"]
    findings = found([*learnt, *[learnt[0]] * (largest - 10)])
    assert ("imbalance" in findings) == reported
    if reported:
        assert findings["imbalance"].what == "intents with less than a tenth of the clips of balance (101)"
        assert findings["imbalance"].examples == ["freeze (10)"]


# ---------------------------------------------------------------- to know


def test_sample_rates_are_told_where_they_differ(healthy: List[Clip], tmp_path: Path) -> None:
    clips = added(healthy, record(tmp_path / "phone.wav", voice(99, rate=8_000), 8_000))
    findings = found(clips)
    assert list(findings) == ["sample_rates"]
    assert findings["sample_rates"].what == "sample rates: 8 kHz (1), 16 kHz (24)"
    assert not check(clips).failed(strict=True)


def test_memory_is_that_of_the_clips_to_train_on(healthy: List[Clip], tmp_path: Path) -> None:
    clips = added(healthy, record(tmp_path / "long.wav", voice(99, 25)))
    megabytes = (25 + 20 * SPOKEN) * 32_000 / 1e6
    (memory,) = [finding for finding in check(clips).findings if finding.kind == "memory"]
    assert memory.what == f"training holds {megabytes:.0f} MB of samples in memory"


# ---------------------------------------------------------------- the report


@pytest.fixture
def ill(healthy: List[Clip], tmp_path: Path) -> CheckReport:
    """Six clips are missing, one is quiet."""
    clips = added(healthy, record(tmp_path / "far.wav", voice(99, peak=0.003)))
    return check([*clips, *(Clip(tmp_path / "gone", "[b]new", f"[i]gone/{i}.wav") for i in range(6))])


def test_the_gravest_comes_first(ill: CheckReport) -> None:
    severities = [finding.severity for finding in ill.findings]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    assert len(set(severities)) == 3


def test_a_report_as_json_names_every_clip(ill: CheckReport) -> None:
    content = json.loads(json.dumps(ill.as_json()))
    missing = next(finding for finding in content["findings"] if finding["kind"] == "missing")
    assert missing["clips"] == [f"[i]gone/{i}.wav" for i in range(6)]
    assert (missing["severity"], missing["what"]) == ("error", "clips that are not there")
    assert missing["advice"]
    assert content["summary"]["seconds"] == pytest.approx({"shortest": SPOKEN, "median": SPOKEN, "longest": SPOKEN})
    assert content["summary"]["clips"] == 31
    assert content["intents"]["balance"] == {"clips": 13, "speakers": 3, "minutes": pytest.approx(13 * SPOKEN / 60)}
    assert content["intents"]["[b]new"] == {"clips": 6, "speakers": 0, "minutes": 0}


def test_tables_name_the_first_clips(ill: CheckReport) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    for table in ill.tables():
        console.print(table)
    text = words(console.export_text())
    assert "error 6 clips that are not there [i]gone/0.wav, [i]gone/1.wav, [i]gone/2.wav and 3 more Correct the path" in text
    assert "warning 1 very quiet clips (speech below -50 dBFS) far.wav Record closer" in text
    assert "balance 13 3 0.1" in text
    assert "[b]new 6 ? 0.0" in text


def test_the_summary_counts(ill: CheckReport) -> None:
    assert str(ill).startswith("31 clips, 3 intents, 3 speakers, 0.1 min; shortest 0.3 s, median 0.3 s, longest 0.3 s.\n")
    assert str(ill).endswith("1 error(s), 3 warning(s).")


def test_no_clip_at_all_is_an_error_and_no_crash() -> None:
    report = check([])
    assert [finding.kind for finding in report.findings if finding.severity == "error"] == ["one_intent"]
    assert str(report).startswith("0 clips, 0 intents, ? speakers")


def test_every_clip_is_decoded_once_and_progress_sees_it(healthy: List[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: List[str] = []
    decoded: List[str] = []

    def progress(clips: Any) -> Any:
        for clip in clips:
            seen.append(clip.name)
            yield clip

    def listen(path: Path, *arguments: Any) -> np.ndarray:
        decoded.append(str(path))
        return voice(len(decoded))

    monkeypatch.setattr("spoken_intents_training.sound.read_audio", listen)
    check(healthy, progress)
    assert seen == [clip.name for clip in healthy]
    assert sorted(decoded) == sorted(str(clip.path) for clip in healthy)


def test_every_kind_is_said_in_words_that_can_be_filled_in() -> None:
    figures = {
        "share": 0.1,
        "sentences": 0.1,
        "largest": "x",
        "most": 1,
        "rates": "",
        "splits": "",
        "n": 1,
        "of": 1,
        "megabytes": 1.0,
    }
    for kind in KINDS:
        finding = Finding.of(kind, **figures)
        assert "{" not in finding.what
        assert finding.severity in ("error", "warning", "info")


# ---------------------------------------------------------------- the command


def listed(clips: List[Clip], file: Path) -> Path:
    rows = [f"{clip.path.relative_to(file.parent)},{clip.intent},{clip.speaker},{clip.transcript},{clip.split}" for clip in clips]
    file.write_text("path,intent,speaker,transcript,split\n" + "".join(f"{row}\n" for row in rows))
    return file


def test_the_command_ends_with_0_for_healthy_data(healthy: List[Clip], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert called("check", listed(healthy, tmp_path / "clips.csv"), "--strict") == 0
    out = words(capsys.readouterr().out)
    assert "24 clips, 2 intents, 2 speakers" in out
    assert out.endswith("0 error(s), 0 warning(s).")


def test_warnings_end_it_with_1_where_that_is_wanted(healthy: List[Clip], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = listed(renamed(healthy, 10, speaker="train speaker"), tmp_path / "clips.csv")
    assert called("check", file) == 0
    assert "warning 1 test clips of people who are trained on (25% of the test)" in words(capsys.readouterr().out)
    assert called("check", file, "--strict") == 1


def test_errors_end_it_with_1_and_are_written(healthy: List[Clip], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    healthy[3].path.unlink()
    healthy[15].path.unlink()
    file = listed(healthy, tmp_path / "clips.csv")
    assert called("check", file, "--json", tmp_path / "out.json") == 1
    captured = capsys.readouterr()
    assert "error 2 clips that are not there balance/3.wav, freeze/3.wav" in words(captured.out)
    assert "Traceback" not in captured.err
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["findings"][0]["clips"] == ["balance/3.wav", "freeze/3.wav"]


@pytest.mark.parametrize("name", ["missing/out.json", "."])
def test_the_command_wants_a_file_it_can_write(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert called("check", tmp_path / "no_such_data.csv", "--json", tmp_path / name) == 1
    assert f"--json {tmp_path / name}: takes a file's name in a directory that is there" in words(capsys.readouterr().err)


def test_the_command_says_what_to_do_with_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert called("check", tmp_path) == 1
    error = words(capsys.readouterr().err)
    assert f"{tmp_path}: a folder." in error and error.endswith(f"spoken-intents import folder {tmp_path}")


def test_several_files_are_one_data_set_and_another_is_its_test(healthy: List[Clip], tmp_path: Path) -> None:
    nlu = tmp_path / "nlu.yml"
    lines = "".join(f"    - {clip.name}\n" for clip in healthy[:10])
    nlu.write_text(f"nlu:\n- intent: balance\n  examples: |\n{lines}")
    freeze = listed(healthy[12:22], tmp_path / "freeze.csv")
    manifest = listed(healthy, tmp_path / "all.csv")
    clips = read_data([nlu, freeze], manifest)
    assert [clip.name for clip in clips] == [
        clip.name for clip in [*healthy[:10], *healthy[12:22], *healthy[10:12], *healthy[22:]]
    ]
    assert [clip.split for clip in clips] == [""] * 10 + ["train"] * 10 + ["test"] * 4
    unsplit = listed([Clip(**{**vars(clip), "split": ""}) for clip in healthy[10:12]], tmp_path / "test.csv")
    assert {clip.split for clip in read_data([freeze], unsplit)} == {"train", "test"}
    with pytest.raises(DataError, match=r"freeze\.csv: no row has the split test"):
        read_data([nlu], freeze)
