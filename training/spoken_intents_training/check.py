"""What in a data set will hurt, said before any training. Needs no torch.

An error makes training fail or a figure wrong, a warning makes a model or a figure worse, info is for knowing.
Clips of the split `test` are tested on; all others are trained on, as `train` does.
"""

import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import DataError
from spoken_intents.recognizer import NON_SPEECH
from spoken_intents_training.dataset import FEW, Clip, read_clips
from spoken_intents_training.findings import COLOURS, KINDS, CheckReport, Finding
from spoken_intents_training.sound import Sound, measure

IMBALANCE = 10  # how often the smallest intent may go into the largest
COMMAND_WORDS = 2  # what is longer is a sentence, which people say in many ways


def read_data(files: Iterable[Path], test: Optional[Path] = None) -> List[Clip]:
    """The clips of all files, missing ones too; those of `test` are for the test, but its rows of other splits are not read.

    Raises:
        DataError: A file cannot be read or lists no clip, or none to test on.
    """
    clips = [clip for file in files for clip in read_clips(file, require=False)]
    if test:
        tested = [replace(clip, split="test") for clip in read_clips(test, require=False) if clip.split in ("", "test")]
        if not tested:
            raise DataError(f"{test}: no row has the split test.")
        clips += tested
    return clips


def check(clips: Sequence[Clip], progress: Callable[[Sequence[Clip]], Iterable[Clip]] = lambda clips: clips) -> CheckReport:
    """What will hurt in these clips. Decodes each once, four at a time, and keeps nothing but figures."""
    with ThreadPoolExecutor(4) as pool:
        sounds = [sound for _, sound in zip(progress(clips), pool.map(measure, clips))]
    learnt, tested = [clip for clip in clips if not _is_test(clip)], [clip for clip in clips if _is_test(clip)]
    found = [
        *_of_sound(clips, sounds),
        *_of_content(clips, sounds),
        *_of_splits(learnt, tested),
        *_of_intents(Counter(clip.intent for clip in learnt), Counter(clip.intent for clip in tested)),
        *_to_know(clips, sounds),
    ]
    return CheckReport(clips, sounds, sorted(found, key=lambda finding: list(COLOURS).index(finding.severity)))


def _is_test(clip: Clip) -> bool:
    return clip.split == "test"


def _of_sound(clips: Sequence[Clip], sounds: Sequence[Sound]) -> Iterator[Finding]:
    concerned: Dict[str, List[Tuple[Clip, Sound]]] = defaultdict(list)
    for clip, sound in zip(clips, sounds):
        for kind in sound.kinds():
            concerned[kind].append((clip, sound))
    for kind in KINDS:
        if kind in concerned:
            reasons = [sound.reason for _, sound in concerned[kind]] if kind == "unreadable" else []
            yield Finding.of(kind, [clip for clip, _ in concerned[kind]], reasons)


def _of_content(clips: Sequence[Clip], sounds: Sequence[Sound]) -> Iterator[Finding]:
    """Compares what was recorded, not how it is stored: a FLAC and the WAV it was made from are the same."""
    same: Dict[bytes, List[Clip]] = defaultdict(list)
    for clip, sound in zip(clips, sounds):
        if not sound.problem:
            same[sound.content].append(clip)
    groups: Dict[str, List[List[Clip]]] = defaultdict(list)
    for group in same.values():
        if len({clip.intent for clip in group}) > 1:
            groups["conflicting_intents"].append(group)
        if len({_is_test(clip) for clip in group}) > 1:
            groups["audio_across_splits"].append(group)
        places = Counter((clip.intent, _is_test(clip)) for clip in group)
        if max(places.values()) > 1:
            groups["duplicates"].append([clip for clip in group if places[clip.intent, _is_test(clip)] > 1])
    for kind, found in groups.items():
        examples = [" = ".join(f"{clip.name} ({clip.intent})" for clip in group) for group in found]
        yield Finding.of(kind, [clip for group in found for clip in group], examples)


def _of_splits(learnt: Sequence[Clip], tested: Sequence[Clip]) -> Iterator[Finding]:
    other = [clip for clip in learnt if clip.split not in ("", "train")]
    if other:
        yield Finding.of("other_splits", other, splits=", ".join(sorted({clip.split for clip in other})))
    speakers = {clip.speaker for clip in learnt} - {""}
    familiar = [clip for clip in tested if clip.speaker in speakers]
    if familiar:
        yield Finding.of("speakers_across_splits", familiar, share=len(familiar) / len(tested))
    words = {clip: tuple(re.findall(r"\w+", clip.transcript.casefold())) for clip in (*learnt, *tested)}
    known = {words[clip] for clip in learnt} - {()}
    recurring = [clip for clip in tested if words[clip] in known]
    sentences = [clip for clip in recurring if len(words[clip]) > COMMAND_WORDS]
    if recurring:
        examples = [f"{clip.name} “{clip.transcript}”" for clip in sentences or recurring]
        shares = {"share": len(recurring) / len(tested), "sentences": len(sentences) / len(tested)}
        yield Finding.of("transcripts_across_splits", recurring, examples, "" if sentences else "info", **shares)


def _of_intents(learnt: "Counter[str]", tested: "Counter[str]") -> Iterator[Finding]:
    counts = learnt or tested
    largest, most = max(counts.items(), key=lambda item: item[1], default=("", 0))
    # Without a test, some clips are held out: of intents that have enough, when there are enough in all.
    measured_from = FEW if sum(learnt.values()) >= FEW * len(learnt) else most + 1
    texts = {
        "one_intent": [", ".join(counts) or "none"] if len(counts) < 2 else [],
        "reserved_intent": {NON_SPEECH} & {*learnt, *tested},
        "unlearnt_intents": [intent for intent in tested if learnt and intent not in learnt],
        "unmeasured_intents": [name for name, n in learnt.items() if (name not in tested if tested else n < measured_from)],
        "few_clips": [f"{intent} ({n})" for intent, n in learnt.items() if n < FEW],
        "similar_names": [f"{one} / {other}" for one, other in combinations(sorted(learnt | tested), 2) if similar(one, other)],
        "imbalance": [f"{intent} ({n})" for intent, n in counts.items() if n * IMBALANCE < most],
    }
    for kind, examples in texts.items():
        if examples:
            yield Finding.of(kind, examples=sorted(examples), largest=largest, most=most)


def similar(one: str, other: str) -> bool:
    """Whether two names may be meant as one: they differ in case, separators, a plural or a slip in one word.

    A slip is one letter of five or two of eight, not the first: `increase` and `decrease` are meant to differ.
    """
    first, second = (re.findall(r"[^\W\d_]+|\d+", intent.casefold()) for intent in (one, other))
    if "".join(first) == "".join(second):
        return True
    differing = [words for words in zip(first, second) if words[0] != words[1]]
    if len(first) != len(second) or len(differing) > 1 or any(word.isdigit() for word in differing[0]):
        return False
    shorter, longer = sorted(differing[0], key=len)
    slips = 0 if len(longer) < 5 else 1 if len(longer) < 8 else 2
    return shorter + "s" == longer or (shorter[0] == longer[0] and _edits(shorter, longer) <= slips)


def _edits(one: str, other: str) -> int:
    """How many letters to insert, leave out or replace (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        above, row = row, [i]
        for j, candidate in enumerate(other):
            row.append(min(above[j + 1] + 1, row[j] + 1, above[j] + (letter != candidate)))
    return row[-1]


def _to_know(clips: Sequence[Clip], sounds: Sequence[Sound]) -> Iterator[Finding]:
    rates = Counter(sound.sample_rate for sound in sounds if not sound.problem)
    if len(rates) > 1 or any(rate < SAMPLE_RATE for rate in rates):
        yield Finding.of("sample_rates", rates=", ".join(f"{rate / 1000:g} kHz ({n})" for rate, n in sorted(rates.items())))
    nameless = sum(not clip.speaker for clip in clips)
    if nameless:
        yield Finding.of("no_speakers", n=nameless, of=len(clips))
    seconds = sum(sound.seconds for clip, sound in zip(clips, sounds) if not _is_test(clip))
    yield Finding.of("memory", megabytes=seconds * 2 * SAMPLE_RATE / 1e6)  # 16-bit samples
