"""Spoken examples that commands add to a project: whole or not at all, by several at once, readable by Rasa and by us."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spoken_intents.errors import DataError
from spoken_intents_training import examples as module
from spoken_intents_training.dataset import read_clips
from spoken_intents_training.examples import ExampleFile, listed_examples, project_intents, without_annotations

TONE = (0.3 * np.sin(np.arange(8_000) / 10)).astype(np.float32)


@pytest.fixture
def taught(tmp_path: Path) -> ExampleFile:
    return ExampleFile(tmp_path, "taught")


def test_an_example_is_a_clip_and_a_line_with_all_that_is_known(taught: ExampleFile, tmp_path: Path) -> None:
    added = taught.add("balance", TONE, "what's \\ my ${balance}", "anna", device="headset")
    assert taught.examples() == [added] and added.date and added.more == {"device": "headset"}
    heard, rate = soundfile.read(tmp_path / added.reference, dtype="float32")
    assert rate == 16_000 and np.abs(heard - TONE).max() < 1e-4
    (clip,) = read_clips(taught.nlu)
    assert (clip.intent, clip.speaker, clip.transcript) == ("balance", "anna", "what's \\ my ${balance}")


def test_rasa_reads_what_is_written(taught: ExampleFile) -> None:
    from rasa.shared.nlu.training_data.loading import load_data

    added = taught.add("balance", TONE, "what's \\ my balance", "anna")
    (read,) = load_data(str(taught.nlu)).nlu_examples
    assert read.get("text") == added.reference and read.get("intent") == "balance"
    assert read.get("metadata")["example"]["transcript"] == "what's \\ my balance"


def test_several_may_add_at_once(tmp_path: Path) -> None:
    def add(number: int) -> None:
        ExampleFile(tmp_path, "taught").add(f"intent_{number % 3}", TONE, speaker=f"speaker {number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    found = ExampleFile(tmp_path, "taught").examples()
    assert sorted(one.speaker for one in found) == sorted(f"speaker {number}" for number in range(24))
    assert {path.name for path in (tmp_path / "audio/taught").iterdir()} == {Path(one.reference).name for one in found}


def test_removed_and_moved(taught: ExampleFile, tmp_path: Path) -> None:
    first, second = taught.add_all([("balance", TONE, {}), ("freeze", TONE, {"speaker": "ben"})])
    assert taught.move(second.reference, "balance") and taught.remove(first.reference)
    (left,) = taught.examples()
    assert (left.reference, left.intent, left.speaker) == (second.reference, "balance", "ben")
    assert [path.name for path in (tmp_path / "audio/taught").iterdir()] == [Path(left.reference).name]
    assert not taught.remove(first.reference) and not taught.move(first.reference, "freeze")


def test_a_full_disk_leaves_all_as_it_was(taught: ExampleFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = taught.add("balance", TONE)
    before = taught.nlu.read_bytes()
    written = module.write_whole

    def full(file: Path, *arguments: object, **options: object) -> None:
        if file == taught.nlu:
            raise OSError(28, "No space left on device", str(file))
        written(file, *arguments, **options)

    monkeypatch.setattr(module, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        taught.add_all([("balance", TONE, {}), ("freeze", TONE, {})])
    assert taught.nlu.read_bytes() == before
    assert [path.name for path in (tmp_path / "audio/taught").iterdir()] == [Path(kept.reference).name]


@pytest.mark.parametrize(
    "content, told",
    [
        ("nlu: [{synonym: credit, examples: '- loan'}]", "without an intent"),
        ("nlu: [{intent: balance, examples: '- what is my balance'}]", "is no clip"),
        ("nlu: [balance]", "takes a list"),
        ("- balance", "no settings by name"),
        ("nlu: {", "not YAML"),
    ],
)
def test_what_somebody_else_wrote_is_not_written_over(taught: ExampleFile, content: str, told: str) -> None:
    taught.nlu.parent.mkdir()
    taught.nlu.write_text(content)
    with pytest.raises(DataError, match=told):
        taught.add("balance", TONE)
    assert taught.nlu.read_text() == content


def test_examples_moved_by_hand_stay_moved(taught: ExampleFile) -> None:
    first = taught.add("balance", TONE, speaker="anna")
    taught.nlu.write_text(taught.nlu.read_text().replace("intent: balance", "intent: freeze"))
    taught.add("balance", TONE)
    assert {(one.reference, one.intent) for one in taught.examples()} > {(first.reference, "freeze")}


def test_the_projects_intents_and_sentences(tmp_path: Path) -> None:
    (tmp_path / "domain").mkdir()
    (tmp_path / "domain/a.yml").write_text("intents: [greet, {balance: {use_entities: true}}]")
    (tmp_path / "domain/b.yml").write_text("intents: [greet, freeze]")
    (tmp_path / "data/more").mkdir(parents=True)
    examples = (
        'nlu:\n- intent: balance\n  examples: |\n    - to [Rome](city) by [air]{"entity": "by", "role": "x"}\n    - audio/1.wav\n'
    )
    (tmp_path / "data/more/nlu.yml").write_text(examples)
    (tmp_path / "data/stories.yml").write_text("stories: []")
    assert project_intents(tmp_path) == ["greet", "balance", "freeze"]
    listed = list(listed_examples(tmp_path))
    assert [(intent, without_annotations(text)) for intent, text in listed] == [
        ("balance", "to Rome by air"),
        ("balance", "audio/1.wav"),
    ]
    with pytest.raises(DataError, match="no Rasa project"):
        project_intents(tmp_path / "data")


def test_annotations_are_taken_off() -> None:
    text = 'from [the capital]{"entity": "city", "value": "Berlin"} to [Rome](city:rome), [a][{"entity": "b"}, {"entity": "c"}] [sic]'
    assert without_annotations(text) == "from the capital to Rome, a [sic]"
