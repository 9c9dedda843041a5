"""What people say recorded turns were: in the recording, in training examples, noises and test stories, whole or not at all."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import pytest
import soundfile
import yaml
from conftest import disk_that_takes

from spoken_intents import recordings as recordings_module
from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.cli import typed
from spoken_intents.cli_recordings import REVIEWED as FOLDER
from spoken_intents.cli_recordings import shown_as
from spoken_intents.errors import AudioError, DataError
from spoken_intents.labels import OUT_OF_SCOPE, label_recording
from spoken_intents.recognizer import NON_SPEECH
from spoken_intents.recordings import About, Label, Recorder, Recording, RecordingSettings, read_recording, recording_files
from spoken_intents_training.answers import answer_to
from spoken_intents_training.examples import read_examples
from spoken_intents_training.reviewed import STORIES, Reviewed, went_wrong

ABOUT = About("anna", "5c1e", "voice", 1, "2026-05-12T14:25:01.000+00:00", "balance", 0.98)
SAMPLES = (0.1 * np.sin(np.arange(SAMPLE_RATE) / 5)).astype(np.float32)
LABEL = Label("freeze", "rita", "2026-05-13T09:00:00+00:00")
DOMAIN = """
version: "3.1"
intents: [balance, freeze, {affirm: {use_entities: true}}]
responses: {utter_balance: [{text: "Your balance is {balance}."}]}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "domain.yml").write_text(DOMAIN)
    return Path()


def recorded(*abouts: About, samples: np.ndarray = SAMPLES) -> List[Recording]:
    """What is in recordings/ when these were recorded, too."""
    recorder = Recorder(RecordingSettings("recordings"))
    recorder.start()
    for about in abouts:
        recorder.record(samples, about)
    recorder.close()
    return [read_recording(file) for file in recording_files(Path("recordings"))]


def turns(sender: str, *heard: str, call: str = "") -> List[About]:
    """A call: each turn heard as that, and answered by an action."""
    return [
        replace(
            ABOUT, sender=sender, call_id=call or f"call of {sender}", turn=number, intent=intent, reference=f"live/{number}.wav",
            steps=[{"user": f"live/{number}.wav", "intent": intent}, {"action": f"utter_{intent}"}],
        )
        for number, intent in enumerate(heard, 1)
    ]  # fmt: skip


def stories() -> List[Dict[str, Any]]:
    return yaml.safe_load(Path(STORIES).read_text())["stories"]


def examples() -> Dict[str, str]:
    """Intents by the recordings that they are of."""
    file = Path("data/nlu_reviewed.yml")
    return {one.more["recording"]: one.intent for one in read_examples(file)} if file.exists() else {}


def all_files() -> Dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(Path().rglob("*")) if file.is_file()}


def who_is_tested(reviewed: Reviewed) -> List[Recording]:
    """A call of somebody who is tested with: three others were learnt from before."""
    for sender in ("a", "b", "c"):
        (turn,) = recorded(*turns(sender, "balance"))[-1:]
        reviewed.label(turn, "freeze", "rita")
    return recorded(*turns("dora", "balance", "affirm", "balance", "balance"))[-4:]


# ------------------------------------------------------------------ in the recording


def test_a_label_is_written_into_the_recording_and_its_samples_stay(project: Path) -> None:
    (turn,) = recorded(ABOUT)
    before, _ = soundfile.read(turn.file, dtype="int16")
    labelled = label_recording(turn.file, LABEL, None)
    assert labelled == read_recording(turn.file) and labelled.about == replace(turn.about, label=LABEL)
    after, _ = soundfile.read(turn.file, dtype="int16")
    np.testing.assert_array_equal(before, after)
    assert turn.file.stat().st_mode & 0o777 == 0o600
    assert label_recording(turn.file, None, LABEL) == turn


def test_recordings_of_earlier_versions_are_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = recordings_module.asdict
    new = ("ranking", "non_speech", "interrupted", "label")
    monkeypatch.setattr(recordings_module, "asdict", lambda about: {k: v for k, v in written(about).items() if k not in new})
    (turn,) = recorded(ABOUT)
    monkeypatch.undo()
    assert turn.about == ABOUT and turn.about.label is None and turn.about.ranking == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"ranking": "x"}, {"ranking": [["a"]]}, {"ranking": [[1, 2]]}, {"ranking": [["a", float("nan")]]}, {"steps": [1]},
        {"confidence": "1"}, {"confidence": float("nan")}, {"confidence": 1e308}, {"non_speech": -0.1}, {"interrupted": "x"},
        {"sender": None}, {"call_id": 7}, {"time": 5}, {"intent": None}, {"turn": "1"}, {"label": {"intent": 5, "by": "", "time": ""}},
    ],
)  # fmt: skip
def test_what_nobody_wrote_is_no_recording(project: Path, wrong: Dict[str, Any]) -> None:
    with pytest.raises(AudioError, match="is no recording of a call, or damaged"):
        recorded(replace(ABOUT, **wrong))


@pytest.mark.parametrize("comment", ["5", "null", '"x"', "[" * 100_000], ids=["number", "null", "text", "deep"])
def test_a_file_with_another_comment_is_no_recording(tmp_path: Path, comment: str) -> None:
    with soundfile.SoundFile(tmp_path / "a.flac", "w", SAMPLE_RATE, 1) as flac:
        flac.comment = comment
        flac.write(SAMPLES)
    with pytest.raises(AudioError, match="is no recording of a call, or damaged"):
        read_recording(tmp_path / "a.flac")


def test_of_two_who_label_a_turn_the_second_is_told(project: Path) -> None:
    (turn,) = recorded(ABOUT)
    label_recording(turn.file, LABEL, None)
    with pytest.raises(DataError, match="rita labelled this turn freeze meanwhile"):
        label_recording(turn.file, replace(LABEL, by="otto", intent="balance"), None)
    assert read_recording(turn.file).about.label == LABEL
    label_recording(turn.file, None, LABEL)
    with pytest.raises(DataError, match="Somebody took the label away meanwhile"):
        label_recording(turn.file, None, LABEL)


def test_of_many_who_label_at_once_one_has_labelled(project: Path) -> None:
    (turn,) = recorded(ABOUT)
    told: List[Any] = []

    def label(number: int) -> None:
        try:
            told.append(label_recording(turn.file, replace(LABEL, by=str(number)), None).about.label)
        except DataError as error:
            told.append(str(error))

    threads = [threading.Thread(target=label, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (labelled,) = [one for one in told if isinstance(one, Label)]
    assert read_recording(turn.file).about.label == labelled and len(told) == 8


@pytest.mark.parametrize("gone", ["file", "directory"])
def test_a_recording_that_was_deleted_is_told_and_does_not_come_back(project: Path, gone: str) -> None:
    (turn,) = recorded(ABOUT)
    turn.file.unlink()
    if gone == "directory":
        turn.file.parent.rmdir()
        turn.file.parent.parent.rmdir()
    with pytest.raises(AudioError, match="is gone: somebody removed it"):
        Reviewed(project).label(turn, "freeze", "rita")
    assert not turn.file.exists() and examples() == {}


def test_on_a_full_disk_a_recording_stays_as_it_was(project: Path) -> None:
    (turn,) = recorded(ABOUT)
    before = all_files()
    with disk_that_takes(1_000), pytest.raises(DataError, match="could not be labelled .* It is as it was"):
        Reviewed(project).label(turn, "freeze", "rita")
    assert all_files() == before


# ------------------------------------------------------------------ to learn from


def test_a_labelled_turn_is_an_example_with_its_speaker_and_date(project: Path) -> None:
    (turn,) = recorded(ABOUT)
    taken = Reviewed(project).label(turn, "freeze", "rita")
    assert taken.said == "Learnt as freeze by the next rasa train."
    assert taken.turn.about.label and (taken.turn.about.label.intent, taken.turn.about.label.by) == ("freeze", "rita")
    (example,) = read_examples(Path("data/nlu_reviewed.yml"))
    assert (example.intent, example.speaker, example.date) == ("freeze", "anna", ABOUT.time)
    assert example.more == {"recording": turn.file.stem, "heard": "balance", "labelled": taken.turn.about.label.time}
    np.testing.assert_allclose(read_audio(Path(example.reference), 30), SAMPLES, atol=1 / 32768)
    turn.file.unlink()
    assert Path(example.reference).exists(), "retention takes the recording, not the example"


def test_another_label_moves_the_example_and_undoing_removes_it(project: Path) -> None:
    (turn,), reviewed = recorded(ABOUT), Reviewed(project)
    turn = reviewed.label(turn, "freeze", "rita").turn
    turn = reviewed.label(turn, "balance", "rita").turn
    assert examples() == {turn.file.stem: "balance"} and len(list(Path(FOLDER).glob("*.flac"))) == 1
    turn = reviewed.label(turn, NON_SPEECH, "rita").turn
    assert examples() == {} and [file.name for file in Path(FOLDER).rglob("*.flac")] == [turn.file.name]
    turn = reviewed.label(turn, None, "rita").turn
    assert turn.about.label is None and not list(Path(FOLDER).rglob("*.flac"))


@pytest.mark.parametrize("name", ["blance", "", "__tested__", "nlu_fallback", "freeze\n"])
def test_a_label_that_is_not_in_the_domain_is_refused_with_the_list(project: Path, name: str) -> None:
    (turn,) = recorded(ABOUT)
    with pytest.raises(DataError, match="is no intent of the domain. Take one of: balance, freeze, affirm;"):
        Reviewed(project).label(turn, name, "rita")
    assert read_recording(turn.file) == turn and examples() == {}


def test_without_a_domain_nothing_is_labelled(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "recordings" / "2026-05-12" / "1.flac", ABOUT, 1)
    with pytest.raises(DataError, match="no domain.yml"):
        Reviewed(tmp_path).label(recording, "balance", "rita")


def test_noise_is_kept_as_noise(project: Path) -> None:
    (turn,) = recorded(ABOUT)
    assert "Learnt as a noise" in Reviewed(project).label(turn, NON_SPEECH, "rita").said
    copy = Path(FOLDER) / NON_SPEECH / turn.file.name
    assert read_recording(copy).about.sender == "anna" and examples() == {}


@pytest.mark.parametrize("has_intent", [False, True])
def test_out_of_scope_is_the_projects_intent_where_it_has_one(project: Path, has_intent: bool) -> None:
    if has_intent:
        Path("domain.yml").write_text("intents: [balance, out_of_scope]")
    (turn,) = recorded(ABOUT)
    said = Reviewed(project).label(turn, OUT_OF_SCOPE, "rita").said
    assert examples() == ({turn.file.stem: "out_of_scope"} if has_intent else {})
    assert [file.name for file in (Path(FOLDER) / OUT_OF_SCOPE).glob("*")] == ([] if has_intent else [turn.file.name])
    assert ("Learnt as out_of_scope" if has_intent else "has no intent out_of_scope") in said


def test_what_a_full_disk_left_out_is_taken_again(project: Path) -> None:
    loud = np.random.default_rng(0).uniform(-0.9, 0.9, SAMPLE_RATE).astype(np.float32)
    (turn,) = recorded(ABOUT, samples=loud)
    reviewed, size = Reviewed(project), turn.file.stat().st_size
    label_recording(turn.file, LABEL, None)
    turn = read_recording(turn.file)
    before = all_files()
    with disk_that_takes(size // 2), pytest.raises(OSError):
        reviewed.take(turn)
    assert all_files() == before and reviewed.not_taken([turn]) == [turn]
    reviewed.take(turn)
    assert examples() == {turn.file.stem: "freeze"} and reviewed.not_taken([turn]) == []
    after = all_files()
    reviewed.take(turn)
    assert all_files() == after, "once is enough"
    turn = label_recording(turn.file, None, LABEL)
    assert reviewed.not_taken([turn]) == [turn]
    reviewed.take(turn)
    assert examples() == {}


@pytest.mark.parametrize(("first", "then"), [("freeze", "balance"), ("freeze", NON_SPEECH), (NON_SPEECH, "freeze")])
def test_another_label_that_was_not_taken_is_taken(project: Path, first: str, then: str) -> None:
    (turn,) = recorded(ABOUT)
    reviewed = Reviewed(project)
    taken = reviewed.label(turn, first, "rita").turn
    later = Label(then, "rita", "2099-01-01T00:00:00+00:00")
    relabelled = label_recording(turn.file, later, taken.about.label)  # as far as a full disk lets it come
    assert reviewed.not_taken([relabelled]) == [relabelled]
    reviewed.take(relabelled)
    assert reviewed.not_taken([relabelled]) == []
    assert examples() == ({} if then == NON_SPEECH else {turn.file.stem: then})
    assert len(list((Path(FOLDER) / NON_SPEECH).glob("*"))) == (then == NON_SPEECH)


def test_an_example_moved_by_hand_stays_there(project: Path) -> None:
    (turn,) = recorded(ABOUT)
    reviewed = Reviewed(project)
    taken = reviewed.label(turn, "freeze", "rita").turn
    file = Path("data/nlu_reviewed.yml")
    file.write_text(file.read_text().replace("intent: freeze", "intent: balance"))
    assert reviewed.not_taken([taken]) == []


def test_an_error_behind_the_label_says_that_the_label_is_kept(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (turn,) = recorded(ABOUT)
    Path("data").mkdir()
    Path("data/nlu_reviewed.yml").mkdir()  # cannot be read, nor replaced
    with pytest.raises(DataError, match="The label is in the recording, but .* could not be written"):
        Reviewed(project).label(turn, "freeze", "rita")
    assert read_recording(turn.file).about.label is not None and not list(Path(FOLDER).rglob("*.flac"))


# ------------------------------------------------------------------ to test with


@pytest.mark.parametrize(
    ("heard", "acted_on", "label", "wrong"),
    [
        ("balance", "balance", "balance", False), ("balance", "balance", "freeze", True), ("balance", "nlu_fallback", "balance", True),
        ("balance", "balance", NON_SPEECH, True), ("balance", "nlu_fallback", OUT_OF_SCOPE, False),
        ("balance", "out_of_scope", OUT_OF_SCOPE, False), ("balance", "balance", OUT_OF_SCOPE, True), ("balance", "balance", None, False),
    ],
)  # fmt: skip
def test_a_turn_went_wrong_where_the_bot_went_by_something_else(
    heard: str, acted_on: str, label: Optional[str], wrong: bool
) -> None:
    steps = [{"user": "live/1.wav", "intent": acted_on}]
    named = None if label is None else replace(LABEL, intent=label)
    assert (
        went_wrong(Recording(Path("1.flac"), replace(ABOUT, intent=heard, reference="live/1.wav", steps=steps, label=named), 1))
        is wrong
    )


def test_each_fourth_caller_whose_turn_went_wrong_is_tested_with(project: Path) -> None:
    reviewed = Reviewed(project)
    call = who_is_tested(reviewed)
    assert len(examples()) == 3 and not Path(STORIES).exists()
    Path("data/rules.yml").write_text("rules: [{rule: freeze, steps: [{intent: freeze}, {action: utter_frozen}]}]")
    said = reviewed.label(call[2], "freeze", "rita", call).said
    assert said == f"A test story in {STORIES}." and len(examples()) == 3
    (story,) = stories()
    copies = [f"{FOLDER}/__tested__/{turn.file.name}" for turn in call[:3]]
    assert story["steps"] == [
        {"user": f"{copies[0]}\n", "intent": "balance"},
        {"action": "utter_balance"},
        {"user": f"{copies[1]}\n", "intent": "affirm"},
        {"action": "utter_affirm"},
        {"user": f"{copies[2]}\n", "intent": "freeze"},
        {"action": "utter_frozen"},
    ], "what the bot did then was for another intent"
    assert story["story"] == "call call of dora, turn 3: balance was freeze"
    for copy, turn in zip(copies, call):
        assert Path(copy).read_bytes() == turn.file.read_bytes()
    assert "nothing of theirs is learnt" in reviewed.label(call[1], "affirm", "rita", call).said
    assert len(examples()) == 3, "a caller is on one side"
    (next_one,) = recorded(*turns("emma", "balance"))[-1:]
    assert "Learnt as" in reviewed.label(next_one, "freeze", "rita").said


def test_a_story_begins_behind_what_went_wrong_before(project: Path) -> None:
    reviewed = Reviewed(project)
    call = who_is_tested(reviewed)
    call[3] = reviewed.label(call[3], "freeze", "rita", call).turn
    assert len(stories()[0]["steps"]) == 7
    call[1] = reviewed.label(call[1], "balance", "rita", call).turn
    own = {turn.about.turn: f"{FOLDER}/__tested__/{turn.file.name}" for turn in call}
    first, second = stories()
    assert first["steps"] == [{"user": f"{own[4]}\n", "intent": "freeze"}], "the bot had taken another way"
    assert [step.get("user", "").strip() for step in second["steps"]] == [own[1], "", own[2]]
    assert sorted(map(str, Path(FOLDER, "__tested__").glob("*"))) == sorted(own[turn] for turn in (1, 2, 4))
    call[2] = reviewed.label(call[2], "freeze", "rita", call).turn
    assert stories()[2]["steps"] == [{"user": f"{own[3]}\n", "intent": "freeze"}]


def test_what_people_wrote_into_the_stories_stays(project: Path) -> None:
    reviewed = Reviewed(project)
    call = who_is_tested(reviewed)
    call[0] = reviewed.label(call[0], "freeze", "rita", call).turn
    Path(STORIES).write_text(
        Path(STORIES).read_text() + "  - action: utter_frozen  # of ours\n- story: ours\n  steps:\n  - intent: balance\n"
    )
    call[1] = reviewed.label(call[1], "freeze", "rita", call).turn
    assert "- action: utter_frozen  # of ours\n" in Path(STORIES).read_text()
    assert [len(story["steps"]) for story in stories()] == [2, 1, 1]
    for number in (0, 1):
        call[number] = reviewed.label(call[number], None, "rita", call).turn
    assert [story["story"] for story in stories()] == ["ours"] and not list(Path(FOLDER, "__tested__").glob("*"))


def test_stories_that_cannot_be_read_are_left_alone(project: Path) -> None:
    reviewed = Reviewed(project)
    call = who_is_tested(reviewed)
    Path("tests").mkdir()
    for text in ("stories: [", "stories: {}", "- a list"):
        Path(STORIES).write_text(text)
        with pytest.raises(DataError, match="not YAML|takes `stories`"):
            reviewed.label(call[0], "freeze", "rita", call)
        assert Path(STORIES).read_text() == text
        call[0] = label_recording(call[0].file, None, read_recording(call[0].file).about.label)


def test_without_the_rest_of_its_call_a_story_is_the_turn_alone(project: Path) -> None:
    reviewed = Reviewed(project)
    call = who_is_tested(reviewed)
    call[0].file.unlink()
    reviewed.label(call[2], OUT_OF_SCOPE, "rita", call[1:])
    (story,) = stories()
    assert story["steps"] == [{"user": f"{FOLDER}/__tested__/{call[2].file.name}\n", "intent": "nlu_fallback"}]


def test_rasa_reads_the_stories(project: Path) -> None:
    from rasa.shared.core.domain import Domain
    from rasa.shared.core.events import ActionExecuted, UserUttered
    from rasa.shared.core.training_data.story_reader.yaml_story_reader import YAMLStoryReader

    reviewed = Reviewed(project)
    call = who_is_tested(reviewed)
    Path("data/rules.yml").write_text("rules: [{rule: freeze, steps: [{intent: freeze}, {action: utter_balance}]}]")
    reviewed.label(call[1], "freeze", "rita", call)
    assert YAMLStoryReader.is_stories_file(STORIES) and YAMLStoryReader.is_test_stories_file(STORIES)
    (story,) = YAMLStoryReader(Domain.load("domain.yml")).read_from_file(STORIES)
    told = [event.text if isinstance(event, UserUttered) else event.action_name for event in story.events]
    copies = [f"{FOLDER}/__tested__/{turn.file.name}" for turn in call[:2]]
    assert told == [copies[0], "utter_balance", copies[1], "utter_balance"]
    assert [event.intent_name for event in story.events if isinstance(event, UserUttered)] == ["balance", "freeze"]
    assert isinstance(story.events[-1], ActionExecuted)


def test_in_a_form_a_story_is_the_turn_alone(project: Path) -> None:
    reviewed = Reviewed(project)
    call = who_is_tested(reviewed)
    about = call[0].about
    asked = replace(about, sender="eve", call_id="form", steps=[*about.steps, {"active_loop": "freeze_form"}])
    answered = replace(turns("eve", "balance", "balance", call="form")[1])
    first, second = recorded(asked, answered)[-2:]
    for number in range(3, 7):
        reviewed.label(recorded(*turns(str(number), "balance"))[-1], "freeze", "rita")
    said = reviewed.label(second, "affirm", "rita", [first, second]).said
    assert said == f"A test story in {STORIES}. Add to it what the bot ought to do: neither a rule nor a story says."
    assert [step.get("intent") for step in stories()[-1]["steps"]] == ["affirm"]


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        ("rules: [{rule: a, steps: [{intent: freeze}, {action: x}, {active_loop: f}]}]", [{"action": "x"}, {"active_loop": "f"}]),
        ("rules: [{rule: a, condition: [{active_loop: f}], steps: [{intent: freeze}, {action: x}]}]", []),
        ("rules: [{rule: a, steps: [{active_loop: f}, {intent: freeze}, {action: x}]}]", []),
        ("rules: [{rule: a, steps: [{intent: freeze, entities: [card]}, {action: x}]}]", []),
        ("rules: [{rule: a, steps: [{intent: freeze}, {action: x}]}, {rule: b, steps: [{intent: freeze}, {action: y}]}]", []),
        ("stories: [{story: a, steps: [{intent: greet}, {action: y}, {intent: freeze}, {action: x}, {intent: greet}]},"
         " {story: b, steps: [{intent: freeze}, {action: x}]}, {story: c, steps: [{intent: freeze}, {action: z}]},"
         " {story: d, steps: [{intent: freeze}]}]", [{"action": "x"}]),
        ("rules: [{rule: a, steps: [{intent: freeze}, {action: x}]}]\nstories: [{story: a, steps: [{intent: freeze}, {action: y}]}]",
         [{"action": "x"}]),
        ("rules: [", []), ("- a list", []), ("rules: [{rule: a}, 3, {rule: b, steps: [3]}]", []),
    ],
)  # fmt: skip
def test_what_the_bot_ought_to_do_is_what_its_rules_and_stories_say(project: Path, data: str, answer: Any) -> None:
    Path("data").mkdir()
    Path("data/rules.yml").write_text(data)
    assert answer_to(project, "freeze") == answer


# ------------------------------------------------------------------ to forget


def test_everything_of_a_caller_is_forgotten(project: Path) -> None:
    reviewed = Reviewed(project)
    call = who_is_tested(reviewed)
    reviewed.label(call[1], "freeze", "rita", call)
    for sender, label in (("a", NON_SPEECH), ("a", OUT_OF_SCOPE), ("zoe", NON_SPEECH)):
        (turn,) = recorded(*turns(sender, "balance"))[-1:]
        reviewed.label(turn, label, "rita")
    assert len(reviewed.forget("a")) == 3
    assert {one.speaker for one in read_examples(Path("data/nlu_reviewed.yml"))} == {"b", "c"}
    assert len(stories()) == 1
    assert len(reviewed.forget("dora")) == 2
    assert stories() == [] and len(list(Path(FOLDER).rglob("*.flac"))) == 3, "of b, c and zoe"
    assert reviewed.forget("nobody") == []


@pytest.mark.parametrize(
    "sender", ["\ud800x", "back\\slash", "${HOME}", "- a: b\n# c", "<img src=x onerror=alert(1)>", "x\0\x85\u2028", ""]
)
def test_a_name_may_be_anything(project: Path, sender: str) -> None:
    from rasa.shared.core.domain import Domain
    from rasa.shared.core.training_data.story_reader.yaml_story_reader import YAMLStoryReader
    from rasa.shared.nlu.training_data.loading import load_data

    reviewed = Reviewed(project)
    who_is_tested(reviewed)
    first, second = turns(sender, "balance", "freeze", call=f"CA {sender}")
    typed_words = {"user": f"${{NOWHERE}} {sender}", "intent": "balance"}
    second = replace(second, turn=3, steps=[typed_words, {"action": "utter_balance"}, *second.steps])
    theirs = [one for one in recorded(first, second) if one.about.sender == sender]
    assert "A test story" in reviewed.label(theirs[1], "balance", "rita", theirs).said
    assert len(YAMLStoryReader(Domain.load("domain.yml")).read_from_file(STORIES)) == 1
    assert reviewed.not_taken(recorded()) == []
    assert len(reviewed.forget(shown_as(sender))) == 2 and stories() == []
    learnt = next(one for one in recorded(replace(ABOUT, sender=sender, call_id="x")) if one.about.call_id == "x")
    reviewed.label(learnt, "balance", "rita")
    assert len(load_data("data/nlu_reviewed.yml").training_examples) == 4
    assert len(reviewed.forget(shown_as(sender))) == 1 and len(examples()) == 3


def test_with_a_senders_recordings_goes_what_was_learnt_of_them(project: Path, capsys: pytest.CaptureFixture) -> None:
    reviewed = Reviewed(project)
    for sender in ("anna", "back\\slash", "otto"):
        turn = next(one for one in recorded(*turns(sender, "balance")) if one.about.sender == sender)
        reviewed.label(turn, "freeze", "rita")

    def called(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            typed(["recordings", *arguments])
        assert not ended.value.code
        return capsys.readouterr().out

    assert called("list").count("labelled freeze by rita") == 3
    Path("domain.yml").unlink()  # whatever else is wrong with the project
    told = called("delete", "--sender", "back\\\\slash")
    assert "1 recordings removed." in told and "1 reviewed clips removed" in told and "train again" in told
    assert "1 reviewed clips removed" in called("delete", "--sender", "anna", "--project", str(project.resolve()))
    assert {one.speaker for one in read_examples(Path("data/nlu_reviewed.yml"))} == {"otto"}
    assert len(list(Path(FOLDER).rglob("*.flac"))) == 1
    told = called("delete", "--sender", "nobody")
    assert "0 reviewed clips removed" in told and "train again" not in told
    elsewhere = called("delete", "--sender", "nobody", "--project", "audio")
    assert "No reviewed clips in" in elsewhere and "--project" in elsewhere
