"""The banking sentences keep their rules, and the clips are those that the NLU files list."""

import csv
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import numpy as np
import pytest
import soundfile
import yaml

import generate
from spoken_intents_training.dataset import hold_out, read_clips

pytestmark = pytest.mark.filterwarnings("error")

PROJECT = generate.PROJECT
FLITE_VOICES = {voice for family in generate.FLITE for voice in family.names}
SENTENCES = generate.sentences()
INTENTS = sorted(SENTENCES)
CONVERSATIONAL = {"affirm", "deny", "greet", "goodbye", "repeat", "agent"}  # short sayings, which differ little
FILLERS = [
    "i would like to", "i want to", "i'd like to", "could you", "can you", "thank you", "um", "uh", "well", "so", "please",
    "hi", "hello", "thanks", "okay", "hey", "just", "actually",
]  # fmt: skip
FILES = {"train": "data/nlu_spoken.yml", "test": "tests/nlu_spoken.yml"}


def words_of(sentence: str) -> Tuple[str, ...]:
    return tuple(re.sub(r"[^a-z' ]", " ", sentence.lower()).split())


def essence(sentence: str) -> str:
    """The words without fillers and politeness; all of them where nothing else is said."""
    words = " ".join(words_of(sentence))
    left = " ".join(re.sub(rf"\b({'|'.join(FILLERS)})\b", " ", words).split())
    return left or words


def all_of(intent: str) -> List[str]:
    return SENTENCES[intent]["train"] + SENTENCES[intent]["test"]


def too_often(keys: Iterator[Tuple[str, ...]]) -> Dict[str, int]:
    return {" ".join(key): count for key, count in Counter(keys).items() if count > 3}


# ---------------------------------------------------------------- the sentences


def test_there_are_21_intents() -> None:
    assert INTENTS == [
        "abroad", "address", "affirm", "agent", "app_error", "atm_limit", "balance", "business_loan", "card_issues",
        "cash_deposit", "deny", "direct_debit", "freeze", "goodbye", "greet", "high_value_payment", "joint_account",
        "latest_transactions", "out_of_scope", "pay_bill", "repeat",
    ]  # fmt: skip


@pytest.mark.parametrize("intent", INTENTS)
def test_format(intent: str) -> None:
    lines = (generate.HERE / "sentences" / f"{intent}.txt").read_bytes().decode("ascii").split("\n")
    assert lines.pop() == ""  # ends with a newline
    assert [line for line in lines if line.startswith("#")] == ["# train", "# test"] and lines[0] == "# train"
    said = [line for line in lines if not line.startswith("#")]
    assert all(line and line == " ".join(line.split()) for line in said)
    assert [line for line in said if re.search(r"[^A-Za-z',.?! -]", line)] == []  # no digits, symbols, brackets, quotes
    assert [line for line in said if not 1 <= len(words_of(line)) <= 16] == []
    assert intent in CONVERSATIONAL or min(len(line.split()) for line in said) >= 2
    assert [line for line in said if re.search(r"\b(?!I\b|ATM\b|PIN\b)[A-Z]{2,}", line)] == []


@pytest.mark.parametrize("intent", INTENTS)
def test_at_least_40_different_sentences(intent: str) -> None:
    assert len(set(all_of(intent))) >= 40
    assert len(SENTENCES[intent]["test"]) >= 10


@pytest.mark.parametrize("intent", INTENTS)
def test_sentences_differ_in_more_than_fillers(intent: str) -> None:
    part = SENTENCES[intent]["test"] if intent in CONVERSATIONAL else all_of(intent)
    count = Counter(map(essence, part))
    assert {saying: n for saying, n in count.items() if n > 1} == {}


@pytest.mark.parametrize("intent", INTENTS)
def test_no_test_sentence_is_learnt_from(intent: str) -> None:
    learnt = {essence(line): line for line in SENTENCES[intent]["train"]}
    assert [(line, learnt[essence(line)]) for line in SENTENCES[intent]["test"] if essence(line) in learnt] == []


def test_no_sentence_belongs_to_two_intents() -> None:
    owners: Dict[Tuple[str, ...], Set[str]] = defaultdict(set)
    for intent in INTENTS:
        for line in all_of(intent):
            owners[words_of(line)].add(intent)
    assert {saying: of for saying, of in owners.items() if len(of) > 1} == {}


@pytest.mark.parametrize("intent", INTENTS)
def test_no_frame_more_than_three_times(intent: str) -> None:
    said = [words for words in map(words_of, all_of(intent)) if len(words) > 3]
    assert too_often(words[:3] for words in said) == {}
    assert too_often(words[-3:] for words in said) == {}


@pytest.mark.parametrize("intent", INTENTS)
def test_at_most_three_sentences_differ_by_one_word(intent: str) -> None:
    """Sentences of one length that differ in one place share everything but that place."""
    frames: Dict[Tuple[str, ...], Set[str]] = defaultdict(set)
    for line in all_of(intent):
        words = words_of(line)
        for place in range(len(words) if len(words) > 2 else 0):
            frames[(*words[:place], "_", *words[place + 1 :])].add(" ".join(words))
    assert {" ".join(frame): lines for frame, lines in frames.items() if len(lines) > 3} == {}


def test_demo_sentences_are_neither_learnt_nor_tested() -> None:
    corpus = {essence(line) for intent in INTENTS for line in all_of(intent)}
    said = [turn["say"] for turn in yaml.safe_load((PROJECT / "demo.yml").read_text(encoding="utf-8")) if "say" in turn]
    assert len(said) >= 5
    assert [line for line in said if essence(line) in corpus] == []


# ---------------------------------------------------------------- the clips


@pytest.fixture(scope="module")
def listed() -> Dict[str, List[Tuple[str, str]]]:
    """{part: [(intent, clip)]} of the NLU files."""
    return {part: [(clip.intent, clip.name) for clip in read_clips(PROJECT / file)] for part, file in FILES.items()}


@pytest.fixture(scope="module")
def manifest() -> List[Dict[str, str]]:
    with (PROJECT / "audio/manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("part", FILES)
def test_every_sentence_is_listed_and_its_clip_is_there(
    listed: Dict[str, List[Tuple[str, str]]], manifest: List[Dict[str, str]], part: str
) -> None:
    wanted = sorted((clip.intent, clip.path, clip.text) for clip in generate.clips() if clip.part == part)
    rows = [(row["intent"], f"audio/{row['path']}", row["transcript"]) for row in manifest if row["split"] == part]
    assert sorted(rows) == wanted
    assert sorted(listed[part]) == [(intent, path) for intent, path, _ in wanted]
    missing = [path for _, path in listed[part] if (PROJECT / path).stat().st_size < 1_000]
    assert missing == [] and len(wanted) > 250


@pytest.mark.parametrize("part", FILES)
def test_no_clip_is_left_over(listed: Dict[str, List[Tuple[str, str]]], part: str) -> None:
    there = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "audio" / part).rglob("*") if path.is_file()}
    assert there == {path for _, path in listed[part]}


def test_voices_that_say_the_same_are_held_out_together() -> None:
    """Several voices share a sentence only where the NLU file says which, so that none tests what another taught."""
    clips = read_clips(PROJECT / FILES["train"])
    text = {clip.path: clip.text for clip in generate.clips()}
    learnt, held_out = hold_out(clips, 0.1, seed=0)
    assert len(held_out) > 200
    assert not {text[clip.name] for clip in learnt} & {text[clip.name] for clip in held_out}


def test_nobody_who_speaks_the_test_part_speaks_the_train_part(manifest: List[Dict[str, str]]) -> None:
    train, test = ({row["speaker"] for row in manifest if row["split"] == part} for part in ("train", "test"))
    assert test == {f"flite {voice}" for voice in FLITE_VOICES}
    assert not any(speaker.startswith("flite") for speaker in train) and len(train) > 50
    people = {voice.split("_")[0] for voice in generate.FESTIVAL.names}
    assert not people & FLITE_VOICES  # the same people recorded for several synthesizers


def test_the_typed_examples_are_the_train_sentences() -> None:
    blocks = yaml.safe_load((PROJECT / "data/nlu_typed.yml").read_text(encoding="utf-8"))["nlu"]
    typed = {block["intent"]: [line[2:] for line in block["examples"].splitlines()] for block in blocks}
    assert typed == {intent: parts["train"] for intent, parts in SENTENCES.items()}


def test_every_clip_of_the_demo_is_there() -> None:
    turns = yaml.safe_load((PROJECT / "demo.yml").read_text(encoding="utf-8"))
    assert [turn["clip"] for turn in turns if not (PROJECT / "audio/demo" / f"{turn['clip']}.ogg").is_file()] == []
    assert generate.DEMO_NOISE in {turn["clip"] for turn in turns if turn.get("noise")}


def test_paths_and_seeds_of_clips_are_all_different() -> None:
    clips, extra = list(generate.clips()), list(generate.extra_clips(2))
    seeds = {generate.utterance(clip).seed for clip in [*clips, *extra]}
    assert len({clip.path for clip in clips}) == len(clips) and len({clip.path for clip in extra}) == len(extra)
    assert len(seeds) == len(clips) + len(extra)
    assert {clip.text for clip in extra} == {line for parts in SENTENCES.values() for line in parts["train"]}


def test_each_part_has_its_synthesizers() -> None:
    engines = {part: {Path(family.engine.split()[0]).name for family in generate.VOICES[part]} for part in ("train", "test")}
    assert engines == {"train": {"espeak", "text2wave"}, "test": {"flite"}}
    spoken = [generate.utterance(clip) for clip in generate.clips() if clip.part == "train"]
    share = sum(said.voice.engine == "espeak" for said in spoken) / len(spoken)
    assert 0.6 < share < 0.73 and len({said.voice.name for said in spoken}) > 250


# ---------------------------------------------------------------- what makes them


def test_the_demo_noise_is_three_seconds_and_always_the_same() -> None:
    noise = generate.demo_noise(np.random.default_rng(7))
    assert len(noise) == 3 * generate.RATE and noise.dtype == np.float32
    assert np.abs(noise).max() == pytest.approx(0.4)
    np.testing.assert_array_equal(noise, generate.demo_noise(np.random.default_rng(7)))


@pytest.mark.parametrize("suffix", [".ogg", ".flac"])
def test_clips_are_saved_in_the_form_of_their_name(tmp_path: Path, suffix: str) -> None:
    generate.save(tmp_path / f"clip{suffix}", generate.demo_noise(np.random.default_rng(7), 1.0))
    info = soundfile.info(tmp_path / f"clip{suffix}")
    assert (info.samplerate, info.channels, info.frames) == (generate.RATE, 1, generate.RATE)
    assert info.format == {".ogg": "OGG", ".flac": "FLAC"}[suffix]
