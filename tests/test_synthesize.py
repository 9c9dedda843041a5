"""Typed examples become spoken ones: all of them, the same whoever speaks them, and nothing of it is lost or spoken twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Dict, List

import numpy as np
import pytest
import soundfile
import yaml
from rasa.shared.nlu.training_data.formats.rasa_yaml import RasaYAMLReader
from typer.testing import CliRunner

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import ConfigError, DataError, SpeechError
from spoken_intents_training import synthetic
from spoken_intents_training.check import check
from spoken_intents_training.cli import typed as command
from spoken_intents_training.dataset import read_clips
from spoken_intents_training.examples import read_examples
from spoken_intents_training.spoken_text import Reader
from spoken_intents_training.synthesize import Director, plan, speak
from spoken_intents_training.synthetic import AUDIO, NLU, synthesize, wanted_clips
from spoken_intents_training.typed import read_typed
from spoken_intents_training.voices import CommandEngine, Family, Voice, draw_voices, espeak_family, families_of

pytestmark = pytest.mark.filterwarnings("error")

TYPED = """
version: "3.1"
common: &hello |
  - hello
  - good morning
nlu:
- intent: greet
  examples: *hello
- intent: faq/ask_price
  examples: |
    - what is a ticket to [London](city) for £23.10
    - audio/spoken/1.wav
    - 👍
- intent: greet
  examples:
  - text: |
      hi there
    metadata: {source: chat}
  - text: hello
- intent: empty
  examples: |
- lookup: city
  examples: |
    - Paris
- synonym: London
  examples: |
    - the capital
- regex: number
  examples: |
    - \\d+
"""


class Beeps:
    """An engine that beeps once for each letter, fails at what is bad, falls silent at hush, and crashes at die."""

    sample_rate = 8_000
    language = "en"

    def __init__(self, voice: str) -> None:
        self._pitch = 0.2 + len(voice) / 100

    def synthesize(self, sentence: str) -> np.ndarray:
        if "bad" in sentence:
            raise ValueError("it is bad")
        if "die" in sentence:
            os.kill(os.getpid(), signal.SIGKILL)
        level = 0 if "hush" in sentence else 0.5
        return level * np.sin(np.arange(1_000 * len(sentence)) * self._pitch).astype(np.float32)


BEEPS = [Family("test_synthesize.Beeps", ["a", "bb", "ccc"])]
BARE = Director(BEEPS, surroundings=None)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose examples are spoken by espeak, by one command."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "data").mkdir()
    (folder / "data/nlu.yml").write_text(TYPED, encoding="utf-8")
    (folder / "domain.yml").write_text("intents: [greet, faq, empty, never_typed, nlu_fallback]\n")
    (folder / "config.yml").write_text("language: en\n")
    return folder


@pytest.fixture(scope="module")
def said(project: Path) -> str:
    """What the command says."""
    return run(project, "data", "--limit", "8")


def run(project: Path, *arguments: str, code: int = 0) -> str:
    places = [str(project / word) if word == "data" else word for word in arguments]
    result = CliRunner().invoke(command, ["synthesize", *places, "--project", str(project), "--processes", "2"])
    if code == 0 and result.exception:
        raise result.exception
    return " ".join(result.output.split())


def files(project: Path) -> Dict[str, bytes]:
    return {str(file.relative_to(project)): file.read_bytes() for file in sorted((project / AUDIO).rglob("*")) if file.is_file()}


def wanted(project: Path, per_sentence: int = 1, limit: int = 1_000) -> synthetic.Wanted:
    return wanted_clips(read_typed([project / "data"]).sentences, per_sentence, limit, seed=0)


# ---------------------------------------------------------------- what the command makes


def test_every_intent_is_spoken_and_what_could_not_be_is_said(project: Path, said: str) -> None:
    assert "faq/ask_price 1 2 2 greet 3 4 4 in all 4 6 6" in said
    assert "1 example(s) hold nothing to say, or too much to be said at once: 👍" in said
    assert "No typed example to speak of 2 intent(s): empty never_typed" in said
    assert "6 clips, 6 of them spoken now. Next: rasa train" in said


def test_rasa_and_the_commands_read_what_is_written(project: Path, said: str) -> None:
    clips = read_clips(project / NLU)
    assert Counter(clip.intent for clip in clips) == {"greet": 4, "faq/ask_price": 2}
    assert {clip.path.parent.name for clip in clips} == {"greet", "faq_ask_price"}
    voices = [example.more["voice"] for example in read_examples(project / NLU)]
    assert all(voice.startswith("espeak en") for voice in voices) and len({*voices}) > 3
    assert not any(clip.speaker for clip in clips), "held out by what they say"
    assert {clip.transcript for clip in clips if clip.intent == "greet"} == {"hello", "good morning", "hi there"}
    prices = [clip.transcript for clip in clips if clip.intent == "faq/ask_price"]
    assert all(words.startswith("what is a ticket to ") and "twenty three" in words for words in prices)
    assert {finding.severity for finding in check(clips).findings} <= {"warning", "info"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what Rasa's reader loads
        messages = RasaYAMLReader().read(project / NLU).training_examples
    assert [message.get("text") for message in messages] == [clip.name for clip in clips]
    for clip in clips:
        info = soundfile.info(clip.path)
        assert (info.samplerate, info.channels, info.format) == (SAMPLE_RATE, 1, "FLAC") and 0.3 < info.duration < 8


def test_the_same_clips_come_of_one_process_as_of_two(project: Path, said: str, tmp_path: Path) -> None:
    shutil.copytree(project / "data", tmp_path / "data", ignore=shutil.ignore_patterns("nlu_synthetic.yml"))
    found = read_typed([tmp_path / "data"])
    director = Director([espeak_family()], read=Reader("en", found.values, found.synonyms).words)
    made = synthesize(tmp_path, director, wanted_clips(found.sentences, synthetic.PER_SENTENCE, 8, 0), processes=1)
    assert made.spoken == 6 and files(tmp_path) == files(project)
    assert (tmp_path / NLU).read_bytes() == (project / NLU).read_bytes()


def test_what_is_there_is_not_spoken_again(project: Path, said: str) -> None:
    before = files(project)
    assert "6 clips, 0 of them spoken now" in run(project, "data", "--limit", "8")
    assert files(project) == before


# ---------------------------------------------------------------- going on, and what goes wrong


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which each sentence is spoken once."""
    monkeypatch.setattr(synthetic, "FEWEST_CLIPS", 1)
    type_in(tmp_path, "one", "two", "three", "four")
    return tmp_path


def type_in(project: Path, *sentences: str) -> None:
    (project / "data").mkdir(exist_ok=True)
    nlu = [{"intent": "a", "examples": "".join(f"- {text}\n" for text in sentences)}]
    (project / "data/nlu.yml").write_text(yaml.safe_dump({"nlu": nlu}))


def test_one_sentence_more_is_one_clip_more_and_one_less_goes(small: Path) -> None:
    assert synthesize(small, BARE, wanted(small), 1).spoken == 4
    before = files(small)
    type_in(small, "one", "two", "four", "five")
    (small / AUDIO / "a/.0123456789abcdef.flac.1.part").touch()
    (small / AUDIO / "a/mine.flac").touch()
    assert synthesize(small, BARE, wanted(small), 1).spoken == 1
    after = files(small)
    assert len(set(after) - set(before)) == 2, "the new one, and what nobody here made"
    assert f"{AUDIO}/a/mine.flac" in after and len(set(before) - set(after)) == 1
    assert {clip.transcript for clip in read_clips(small / NLU)} == {"one", "two", "four", "five"}
    assert synthesize(small, Director(BEEPS, seed=1, surroundings=None), wanted(small), 1).spoken == 4, (
        "another seed, other clips"
    )


def test_sentences_that_fail_are_left_out_and_named(small: Path) -> None:
    type_in(small, "one", "a bad one", "hush", "two")
    made = synthesize(small, BARE, wanted(small), 1)
    assert made.spoken == 2 and {clip.transcript for clip in read_clips(small / NLU)} == {"one", "two"}
    assert sorted(error.split(" ", 1)[1] for error in made.failed) == [
        "failed at 'a bad one': it is bad",
        "says nothing for 'hush'.",
    ]
    type_in(small, "bad")
    with pytest.raises(SpeechError, match="failed at 'bad': it is bad"):
        synthesize(small, BARE, wanted(small), 1)


def test_an_engine_that_fails_half_way_leaves_what_it_made(small: Path) -> None:
    many = [
        f"{'bad ' if number > 3 else ''}{cardinal}"
        for number, cardinal in enumerate(["one", "two", "three", "four", *"abcdefgh"])
    ]
    type_in(small, *many)
    order = {"a": sorted([(text, 0) for text in many], key=lambda place: "bad" in place[0])}
    with pytest.raises(SpeechError, match="it is bad So do 5 sentences in a row, after 4 that were spoken"):
        synthesize(small, BARE, order, 1)
    assert len(files(small)) == 4 and not (small / NLU).exists()
    type_in(small, "one", "two", "three", "four")
    assert synthesize(small, BARE, wanted(small), 1).spoken == 0, "all four are there"


def test_a_process_that_dies_is_said(small: Path) -> None:
    type_in(small, "one", "die")
    with pytest.raises(SpeechError, match="A process ended while it spoke"):
        synthesize(small, BARE, wanted(small), 1)
    assert not (small / NLU).exists()


def test_a_folder_that_cannot_be_written_to_is_said(small: Path) -> None:
    (small / AUDIO).mkdir(parents=True)
    (small / AUDIO / "a").write_text("a file")
    result = CliRunner().invoke(
        command, ["synthesize", str(small / "data"), "--project", str(small), "--limit", "2", "--processes", "1"]
    )
    assert isinstance(result.exception, SpeechError)
    assert "The clips that are made stay, data/nlu_synthetic.yml is as it was" in str(result.exception)


def test_who_is_killed_goes_on_where_it_was(small: Path) -> None:
    """And takes its processes along: nobody speaks on."""
    beep = small / "beep.wav"
    soundfile.write(beep, 0.5 * np.sin(np.arange(8_000) * 0.3), 16_000)
    (small / "say.sh").write_text(f'echo $$ $PPID >> {small}/who; sleep 0.3; cp {beep} "$1"\n')
    engine = f"sh {small}/say.sh {{wav}}"
    arguments = [
        "synthesize",
        str(small / "data"),
        "--project",
        str(small),
        "--engine",
        engine,
        "--processes",
        "1",
        "--limit",
        "10",
    ]
    program = f"from spoken_intents_training.cli import typed; typed({arguments!r})"
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    while not list((small / AUDIO).glob("a/*.flac")) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    workers = {int(line.split()[1]) for line in (small / "who").read_text().splitlines()}
    until = time.monotonic() + 20
    while any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers)
    made = len(list((small / AUDIO).glob("a/*.flac")))
    assert 0 < made < 10 and not (small / NLU).exists()
    result = CliRunner().invoke(command, arguments)
    assert f"10 clips, {10 - made} of them spoken now" in " ".join(result.output.split())
    assert len(read_clips(small / NLU)) == 10


def test_only_one_at_a_time(small: Path) -> None:
    (small / AUDIO).mkdir(parents=True)
    with synthetic._alone(small / AUDIO), pytest.raises(ConfigError, match="another `spoken-intents synthesize` is at work"):
        synthesize(small, BARE, wanted(small), 1)


# ---------------------------------------------------------------- what is read


def test_what_is_no_yaml_of_rasas_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file. Name the files or folders"):
        read_typed([tmp_path / "nlu.yml"])
    (tmp_path / "nlu.json").write_text(json.dumps({"rasa_nlu_data": {"common_examples": []}}))
    for place in (tmp_path, tmp_path / "nlu.json"):
        with pytest.raises(
            DataError, match="rasa data convert nlu -f yaml --data .*nlu.json --out .*nlu.yml, then take nlu.json out"
        ):
            read_typed([place])
    (tmp_path / "nlu.json").unlink()
    for text, message in (
        ("nlu: [", "not YAML"),
        ("nlu: words", "takes a list"),
        ("stories: []", "no typed examples"),
        ("nlu:\n- intent: a\n  examples: |\n    - audio/a/1.wav\n", "no typed examples"),
        ("nlu:\n- intent: a\n  examples: 3\n", "takes one `|` block"),
    ):
        (tmp_path / "nlu.yml").write_text(text)
        with pytest.raises(DataError, match=message.replace("|", r"\|")):
            read_typed([tmp_path])


def test_many_examples_are_read_and_cut_down_evenly(tmp_path: Path) -> None:
    lines = "".join(f"    - sentence number {number}\n" for number in range(50_000))
    (tmp_path / "nlu.yml").write_text(
        f"nlu:\n- intent: many\n  examples: |\n{lines}- intent: few\n  examples: |\n    - one\n    - two\n"
    )
    chosen = wanted_clips(read_typed([tmp_path]).sentences, 6, 3_000, seed=0)
    assert len(chosen["few"]) == 2 * synthetic.MOST_VOICES and len(chosen["many"]) == 3_000 - len(chosen["few"])
    assert len({text for text, _ in chosen["many"]}) == len(chosen["many"]), "many sentences before many voices"


# ---------------------------------------------------------------- how many of what


def test_intents_with_few_sentences_get_more_voices() -> None:
    chosen = wanted_clips({"a": ["yes"], "b": list("abcdefghij"), "c": list("klmnopqrst"), "none": []}, 6, 3_000, 0)
    assert {intent: len(places) for intent, places in chosen.items()} == {"a": synthetic.MOST_VOICES, "b": 60, "c": 60}
    assert Counter(text for text, _ in chosen["b"]) == dict.fromkeys("abcdefghij", 6)


def test_a_limit_is_shared_evenly_and_never_leaves_an_intent_out() -> None:
    sentences = {"a": list("ab"), "b": list("abcdefghij"), "c": list("klmnopqrst")}
    for limit, counts in ((9, [3, 3, 3]), (1, [1, 1, 1]), (10**6, [48, 60, 60]), (120, [40, 40, 40]), (150, [48, 51, 51])):
        assert [len(places) for places in wanted_clips(sentences, 6, limit, 0).values()] == counts


def test_a_sentence_more_leaves_the_others_as_they_are() -> None:
    before = wanted_clips({"a": list("abcdefghij")}, 6, 3_000, 0)
    after = wanted_clips({"a": list("abcdefghijk")}, 6, 3_000, 0)
    assert set(before["a"]) < set(after["a"])
    director = Director([espeak_family()])
    one = {director.utterance("a", text, number) for text, number in before["a"]}
    assert one <= {director.utterance("a", text, number) for text, number in after["a"]}


# ---------------------------------------------------------------- who speaks


def test_no_voice_comes_again_before_all_have_been() -> None:
    families = [
        Family("espeak", [f"v{number}" for number in range(10)]),
        Family("piper", ["a.onnx", "b.onnx"], {"length": (1, 2)}),
    ]
    voices = draw_voices(families, np.random.default_rng(3))
    row = [voices(number) for number in range(20)]
    assert len({voice.name for voice in row if voice.engine == "espeak"}) == 10
    assert Counter(voice.engine for voice in row) == {"espeak": 10, "piper": 10}
    assert {voice.name for voice in row if voice.engine == "piper"} == {"a.onnx", "b.onnx"}
    lengths = [dict(voice.settings)["length"] for voice in row if voice.engine == "piper"]
    assert len(set(lengths)) > 7 and 1 <= min(lengths) and max(lengths) <= 2
    assert row == [draw_voices(families, np.random.default_rng(3))(number) for number in range(20)]


def test_voices_are_named_for_people_and_for_engines() -> None:
    assert str(Voice("espeak", "en-us+f3", (("rate", 150.0), ("pitch", 40.5)))) == "en-us+f3 rate=150 pitch=40.5"
    assert Voice("espeak", "en-us+f3", (("rate", 150.0),)).speaker == "espeak en-us+f3"
    assert Voice("/usr/bin/flite -o {wav}", "slt").speaker == "flite slt"
    assert Voice("piper", "voices/en_GB-alba-medium.onnx").speaker == "piper en_GB-alba-medium"


@pytest.mark.parametrize(
    ("engines", "voices", "message"),
    [
        (["piper"], [], "--engine piper needs voices"),
        (["espeak"], ["a.onnx"], "--voice a.onnx: a file for --engine piper"),
        (["piper"], ["a.onnx", "en-gb"], "--voice en-gb: of which engine"),
        (["espeak", "flite -voice {voice} -o {wav}"], ["slt"], "--voice slt: of which engine"),
        (["flite -o {wav}"], ["slt"], "--voice slt: of which engine"),
    ],
)
def test_voices_that_are_nobodys_are_refused(engines: List[str], voices: List[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        families_of(engines, voices, "en")


def test_engines_can_be_mixed() -> None:
    families = families_of(["espeak", "piper", "flite -o {wav}"], ["en-gb", "a.onnx", "b.onnx"], "en")
    assert [(family.engine.split()[0], len(family.names)) for family in families] == [("espeak", 40), ("piper", 2), ("flite", 1)]
    assert [family.names[0] for family in families_of(["espeak"], [], "fr")] == ["fr-fr"]
    assert families_of(["espeak"], ["de+f1"], "en")[0].names == ["de+f1"]


def test_a_missing_engine_or_language_is_said_before_anything_is_begun(small: Path) -> None:
    for arguments, message in (
        (["--language", "tlh-x"], "espeak has no 'tlh-x'"),
        (["--engine", "no.such.Engine"], "no.such.Engine cannot be imported"),
        (["--engine", "piper", "--voice", "none.onnx"], "none.onnx is none"),
        (["--engine", "say {words} {wav}"], "takes {text}, {wav}, {voice}, {rate} and {pitch}"),
        (["--engine", "flite -t {text}"], "has to say where the sound goes, by {wav}"),
        (["--engine", "no-such-program -o {wav}"], "no-such-program: cannot be run"),
    ):
        result = CliRunner().invoke(
            command, ["synthesize", str(small / "data"), "--project", str(small), "--processes", "1", *arguments]
        )
        assert isinstance(result.exception, (ConfigError, SpeechError)) and message in str(result.exception), result.output
        assert not (small / NLU).exists()


def test_a_program_speaks_what_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "say.py").write_text(
        "import sys, numpy, soundfile\n"
        "text = sys.argv[2] if len(sys.argv) > 2 else sys.stdin.read()\n"
        "if 'fail' in text: sys.exit('no voice')\n"
        "soundfile.write(sys.argv[1], numpy.full((len(text), 2), 0.25), 8000) if 'mute' not in text else None\n"
    )
    told = CommandEngine(f"{sys.executable} {tmp_path}/say.py {{wav}} '{{text}} {{voice}} {{rate}}'", "slt rate=1.1")
    assert len(told.synthesize("it's $HOME; `ls`")) == len("it's $HOME; `ls` slt 1.1") and told.sample_rate == 8_000
    piped = CommandEngine(f"{sys.executable} {tmp_path}/say.py {{wav}}", "")
    np.testing.assert_array_equal(piped.synthesize("hello"), np.full(5, 0.25, np.float32))
    with pytest.raises(SpeechError, match="ended with 1: no voice"):
        piped.synthesize("fail")
    with pytest.raises(SpeechError, match="wrote no sound"):
        piped.synthesize("mute")


def test_speaking_without_surroundings_gives_the_synthesizers_samples() -> None:
    ((utterance, samples),) = speak(plan([("a", "one")], BEEPS, per_sentence=1, surroundings=None), processes=1)
    assert utterance.words == "one" and len(samples) == 3_000 * SAMPLE_RATE / 8_000
