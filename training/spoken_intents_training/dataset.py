"""Spoken examples: which clip has which intent, read from nlu.yml or a CSV, and their log-mels."""

import csv
import math
import os
import random
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence, Tuple

import numpy as np
import yaml

from spoken_intents.audio import SAMPLE_RATE, SUFFIXES, read_audio
from spoken_intents.errors import AudioError, DataError
from spoken_intents.features import MAX_SAMPLES, MIN_SAMPLES
from spoken_intents.files import is_file
from spoken_intents.recognizer import NON_SPEECH
from spoken_intents.utterances import is_audio_reference

SILENCE = 1e-4  # a peak of -80 dB: nothing was recorded
FEW = 10  # clips an intent
MOST_TIMES = 5  # that a clip of a call is learnt in an epoch
LARGEST_PART = 3  # at most one of so many clips of an intent is held out
SHOWN = 10  # problems listed before "and n more"


@dataclass(frozen=True)
class Clip:
    """One spoken example.

    Attributes:
        name: What its author calls it, for messages and reports.
        heard: What the bot heard in it, where it is a turn of a call that somebody has reviewed.
    """

    path: Path
    intent: str
    name: str
    speaker: str = ""
    transcript: str = ""
    split: str = ""
    heard: str = ""

    @property
    def told(self) -> str:
        """For messages: its name, and its intent where it has one."""
        return f"{self.name} (intent {self.intent})" if self.intent else self.name


def read_clips(file: Path, require: bool = True) -> List[Clip]:
    """The spoken examples of an nlu.yml or a CSV (columns path, intent; optional speaker, transcript, split, heard), or of test stories.

    Args:
        require: Whether every clip has to be there.

    Raises:
        DataError: It is a folder, cannot be read, lists no clip, or a clip is missing.
    """
    if os.path.isdir(file):
        raise DataError(f"{file}: a folder. With one folder for each intent in it, first: spoken-intents import folder {file}")
    if not is_file(file):
        raise DataError(f"{file}: no such file.")
    try:
        clips = list(_from_csv(file) if file.suffix.lower() == ".csv" else _from_nlu(file))
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error}).") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}).") from None
    if not clips:
        raise DataError(
            f"{file}: lists no clip. In nlu.yml the text of a spoken example is its path, such as audio/balance/1.wav; "
            "in a CSV the columns are path,intent."
        )
    if require:
        require_files(clips)
    return clips


def _from_csv(file: Path) -> Iterator[Clip]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = csv.DictReader(lines)
        try:
            yield from _from_rows(file, rows)
        except csv.Error as error:  # NUL, a field of more than 131,072 characters
            raise DataError(f"{file}, after line {rows.line_num}: not CSV ({error}).") from None


def _from_rows(file: Path, rows: "csv.DictReader[str]") -> Iterator[Clip]:
    missing = {"path", "intent"} - set(rows.fieldnames or ())
    if missing:
        raise DataError(f"{file}: the column {' and '.join(sorted(missing))} is missing; found {rows.fieldnames}.")
    for row in rows:
        if not row["path"] or not row["intent"]:
            raise DataError(f"{file}, line {rows.line_num}: path and intent must both be given.")
        extra = {key: row.get(key) or "" for key in ("speaker", "transcript", "split", "heard")}
        yield Clip(file.parent / row["path"], row["intent"], row["path"], **extra)


def _from_nlu(file: Path) -> Iterator[Clip]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # not UTF-8; a date such as 2024-99-99
        raise DataError(f"{file}: not YAML ({error}).") from None
    blocks = content.get("nlu") if isinstance(content, dict) else None
    if not isinstance(blocks or [], list):
        raise DataError(f"{file}: `nlu` takes a list of `- intent:` with `examples:`, got {blocks!r:.80}.")
    for block in blocks or []:
        if not isinstance(block, dict) or "intent" not in block:
            continue
        for text, metadata in each_example(block.get("examples") or [], f"{file}, intent {block['intent']}"):
            if is_audio_reference(text):
                extra = {key: str(metadata.get(key) or "") for key in ("speaker", "transcript", "heard")}
                yield Clip(_beside(file, text), str(block["intent"]), text, **extra)
    yield from _from_stories(file, content.get("stories") if isinstance(content, dict) else None)


def _from_stories(file: Path, stories: Any) -> Iterator[Clip]:
    """The spoken turns of test stories, which name their clip and their intent."""
    for story in stories if isinstance(stories, list) else []:
        steps = story.get("steps") if isinstance(story, dict) else None
        for step in steps if isinstance(steps, list) else []:
            text = str(step.get("user", "")).strip() if isinstance(step, dict) else ""
            if is_audio_reference(text) and step.get("intent"):
                yield Clip(_beside(file, text), str(step["intent"]), text)


def each_example(examples: Any, where: str) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """Text and metadata of each example of an intent's `examples`, in either of Rasa's forms; `where` is for messages."""
    if isinstance(examples, str):
        for line in examples.splitlines():
            if line.lstrip().startswith("-"):
                yield line.lstrip()[1:].strip(), {}
    elif not isinstance(examples, list):
        raise DataError(f"{where}: `examples` takes one `|` block of lines or a list of `- text:`, got {examples!r:.80}.")
    else:
        for example in examples:
            if not isinstance(example, dict) or "text" not in example:
                raise DataError(
                    f"{where}: an example without text: {example!r:.80}. It takes `- text: audio/balance/1.wav`, or one `|` block of lines."
                )
            metadata = example.get("metadata")
            yield str(example["text"]).strip(), metadata if isinstance(metadata, dict) else {}


def _beside(file: Path, reference: str) -> Path:
    """A reference starts at the project: the working directory, or a folder that holds the NLU file."""
    for root in (Path.cwd(), *file.resolve().parents):
        if is_file(root / reference):
            return root / reference
    return Path.cwd() / reference


def noise_clips(directories: Iterable[str]) -> List[Clip]:
    """Recordings of what is no speech: all that lie in a folder called ``__non_speech__``, anywhere in `directories`."""
    found = [path for directory in directories for path in sorted(Path(directory).rglob(f"{NON_SPEECH}/*"))]
    return [Clip(path, NON_SPEECH, path.as_posix()) for path in found if path.suffix.lower() in SUFFIXES]


def missing_clips(clips: Iterable[Clip]) -> List[Clip]:
    """The clips that are not there."""
    return [clip for clip in clips if not is_file(clip.path)]


def require_files(clips: Iterable[Clip]) -> None:
    """Raises DataError, naming clips and intents, unless every clip is there."""
    _refuse([clip.told for clip in missing_clips(clips)], "missing")


def _refuse(problems: Sequence[str], what: str) -> None:
    if problems:
        shown = "\n  ".join(problems[:SHOWN])
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DataError(f"{len(problems)} clip(s) {what}; nothing was trained:\n  {shown}{more}")


def read_samples(clip: Clip) -> np.ndarray:
    """The clip's audio, float32, 16 kHz.

    Raises:
        AudioError: Unreadable, empty, silent, too short, or longer than 30 s.
    """
    samples = read_audio(clip.path, MAX_SAMPLES / SAMPLE_RATE, clip.told)
    if len(samples) < MIN_SAMPLES:
        raise AudioError(f"{clip.told}: shorter than 20 ms, too short to be heard.")
    if np.abs(samples).max() < SILENCE:
        raise AudioError(f"{clip.told}: holds only silence.")
    return samples


def read_all_samples(clips: Sequence[Clip]) -> List[np.ndarray]:
    """The audio of all clips, in order.

    Raises:
        DataError: Some clips cannot be used; all of them are named.
    """

    def read(clip: Clip) -> Any:
        try:
            return read_samples(clip)
        except AudioError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(read, clips))
    _refuse([str(result) for result in results if isinstance(result, AudioError)], "cannot be used")
    return results


def hold_out(clips: Sequence[Clip], share: float, seed: int) -> Tuple[List[Clip], List[Clip]]:
    """Clips to train on and clips held out: of other speakers where at least half have one, else of other transcripts.

    Where whole speakers do not make about the share, as there are few, transcripts decide, intent by intent; where whole
    transcripts do not either, as with commands that everybody words alike, clips of the intent at random. An intent keeps
    at least two thirds of its clips. Where there are fewer than `FEW` of an intent on average, none is given away: each is needed
    to learn from.
    """
    if len(clips) < FEW * len({clip.intent for clip in clips}):
        return list(clips), []
    held_out: List[Clip] = []
    if mostly_known([clip.speaker for clip in clips]):
        wanted = min(round(len(clips) * share), len(clips) // LARGEST_PART)
        held_out = _take(clips, lambda clip: clip.speaker or str(clip.path), wanted, random.Random(seed))
    if not held_out:
        held_out = _take_of_each_intent(clips, share, random.Random(seed))
    chosen = set(map(id, held_out))
    return [clip for clip in clips if id(clip) not in chosen], held_out


def held_out_by(learnt: Sequence[Clip], held_out: Sequence[Clip]) -> str:
    """What the held-out clips do not share with any that is learnt: ``speaker``, else ``transcript``, else ``none``.

    A transcript counts as shared within an intent, where it would give the answer away. Empty where none are held out.
    """
    if not held_out:
        return ""
    keys: Dict[str, Callable[[Clip], Any]] = {
        "speaker": lambda clip: clip.speaker,
        "transcript": lambda clip: clip.transcript.strip().lower() and (clip.intent, clip.transcript.strip().lower()),
    }
    for name, key in keys.items():
        known = mostly_known([getattr(clip, name) for clip in (*learnt, *held_out)])
        if known and not {*map(key, learnt)} & {*map(key, held_out)} - {""}:
            return name
    return "none"


def mostly_known(names: Sequence[str]) -> bool:
    """Whether at least half are not empty: enough to keep what belongs together on one side."""
    return 2 * sum(map(bool, names)) >= len(names)


def _take_of_each_intent(clips: Sequence[Clip], share: float, rng: random.Random) -> List[Clip]:
    by_intent: Dict[str, List[Clip]] = defaultdict(list)
    for clip in clips:
        by_intent[clip.intent].append(clip)
    taken: List[Clip] = []
    for _, said in sorted(by_intent.items()):
        total = len(said)
        wanted = min(max(1, round(total * share)), total // LARGEST_PART) if share and total >= FEW else 0
        taken += _take(said, lambda clip: clip.transcript.strip().lower() or str(clip.path), wanted, rng) or _take(
            said, lambda clip: str(clip.path), wanted, rng
        )
    return taken


def _take(clips: Sequence[Clip], group_of: Callable[[Clip], str], wanted: int, rng: random.Random) -> List[Clip]:
    """Whole groups, at random, that make about `wanted` clips: from half of it to half more; none where they do not."""
    totals = Counter(clip.intent for clip in clips)
    groups: Dict[str, List[Clip]] = defaultdict(list)
    for clip in clips:
        groups[group_of(clip)].append(clip)
    keys = sorted(groups)
    rng.shuffle(keys)
    taken: List[Clip] = []
    for key in keys:
        more = taken + groups[key]
        spared = all(count <= totals[intent] // LARGEST_PART for intent, count in Counter(clip.intent for clip in more).items())
        if len(taken) < wanted and len(more) <= math.ceil(1.5 * wanted) and spared:
            taken = more
    return taken if 2 * len(taken) >= wanted else []


def of_calls_again(clips: Sequence[Clip], share: float) -> List[Clip]:
    """Clips of reviewed calls, as often as they are to be learnt beside the one time that they are among `clips`.

    They are few beside what the bot began with, and of those who really call: learnt once an epoch as all others, twenty of them
    taught a bot of 500 clips nothing. In all they make up at most `share` of the others, and none is learnt more than
    `MOST_TIMES` times.
    """
    calls = [clip for clip in clips if clip.heard]
    times = min(MOST_TIMES, int(share * (len(clips) - len(calls)) / len(calls))) if calls else 1
    return calls * max(0, times - 1)


def intent_counts(clips: Iterable[Clip]) -> Dict[str, int]:
    """{intent: clips}, intents in alphabetical order.

    Raises:
        DataError: Fewer than two intents, or one with the name that is kept for what is not speech.
    """
    counts = dict(sorted(Counter(clip.intent for clip in clips).items()))
    if NON_SPEECH in counts:
        raise DataError(
            f"An intent is called {NON_SPEECH}, which is reserved for what is no speech at all. Give it another name; "
            f"noises need not be recorded, and those that are belong in a folder audio/{NON_SPEECH}."
        )
    if len(counts) < 2:
        raise DataError(f"{len(counts)} spoken intent(s) ({', '.join(counts) or 'none'}): at least two are needed to tell apart.")
    return counts
