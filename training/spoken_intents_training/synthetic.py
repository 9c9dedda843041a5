"""A project's typed examples become spoken ones: clips in ``audio/synthetic/``, listed in ``data/nlu_synthetic.yml``.

A clip's name says what is in it (a digest of the words, the voice and the rest), so what is there need not be spoken again:
after a sentence is added, after the command was interrupted or killed. Only when all are there, the list is written, whole, and
clips that are listed no more are removed.
"""

import hashlib
import io
import re
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import soundfile

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import ConfigError, DataError, SpeechError
from spoken_intents.features import MAX_SAMPLES
from spoken_intents.files import locked, write_whole
from spoken_intents_training.examples import Example, nlu_text
from spoken_intents_training.project import LONGEST_NAME, safe_name
from spoken_intents_training.synthesize import Director, Utterance, in_processes, samples_of

NLU, AUDIO = "data/nlu_synthetic.yml", "audio/synthetic"
FORMAT = 1  # counts up when the same utterance comes to sound different: then all are spoken anew
PER_SENTENCE, LIMIT = 6, 3_000
FEWEST_CLIPS = 40  # an intent is given by more voices where it has few sentences
MOST_VOICES = 24  # for one sentence; more of them teach little
LONGEST = 200  # characters; what takes 20 s to say nobody says at once
IN_A_ROW = 5  # so many sentences one after the other fail when the engine does
Wanted = Dict[str, List[Tuple[str, int]]]
Outcome = Tuple[Utterance, "Future[None]"]
Progress = Callable[[Iterable[Outcome], int], Iterable[Outcome]]
HEAD = "Written by `spoken-intents synthesize`, anew each time"
_OURS = re.compile(r"[0-9a-f]{16}\.flac|\.[0-9a-f]{16}\.flac\.\d+\.part")


@dataclass
class Made:
    """What the project holds now.

    Attributes:
        examples: All that are listed.
        spoken: How many clips were made for it; the others were there.
        unsaid: Sentences without anything to say, or too long to be said at once.
        failed: What the engine said of sentences that it could not speak.
    """

    examples: List[Example] = field(default_factory=list)
    spoken: int = 0
    unsaid: List[str] = field(default_factory=list)
    failed: List[str] = field(default_factory=list)


def wanted_clips(sentences: Mapping[str, Sequence[str]], per_sentence: int, limit: int, seed: int) -> Wanted:
    """Of each intent: which sentences to speak, and each for the how many-th time, in an order that `seed` draws.

    An intent that has few sentences gets more voices for each, up to what the median intent has; `limit` is shared evenly. First all
    sentences are spoken once, then all twice: where a limit cuts, it cuts voices before sentences.
    """
    counts = {intent: len(texts) * per_sentence for intent, texts in sentences.items() if texts}
    middle = max(FEWEST_CLIPS, int(median(counts.values()))) if counts else 0
    for intent, count in counts.items():
        counts[intent] = max(count, min(middle, len(sentences[intent]) * MOST_VOICES))
    most = _level(list(counts.values()), limit)
    wanted: Wanted = {}
    for intent, count in counts.items():
        texts = sorted(sentences[intent], key=lambda text: hashlib.sha256(f"{seed}\n{text}".encode()).digest())
        places = range(min(count, most))
        wanted[intent] = [(texts[place % len(texts)], place // len(texts)) for place in places]
    return wanted


def _level(counts: Sequence[int], limit: int) -> int:
    """The most of each that makes no more than `limit` of all; one at least."""
    left, rest = limit, sorted(counts)
    for index, count in enumerate(rest):
        share = left // (len(rest) - index)
        if count > share:
            return max(1, share)
        left -= count
    return max(rest, default=1)


def synthesize(
    project: Path, director: Director, wanted: Wanted, processes: int, progress: Progress = lambda done, of: done
) -> Made:
    """Speaks what is not spoken yet, then lists everything.

    Args:
        progress: Goes through what is done, of so many in all.

    Raises:
        ConfigError: An engine or a voice that is not there, or another one is at work in this project.
        DataError: There is nothing to say.
        SpeechError: The engine fails at one sentence after the other. The clips it has made stay, the list is as it was.
        OSError: The disk is full, or not to be written to. As with SpeechError.
    """
    (project / AUDIO).mkdir(parents=True, exist_ok=True)
    with _alone(project / AUDIO):
        made = Made()
        examples: Dict[str, Example] = {}
        missing: Set[str] = set()
        for utterance in _utterances(director, wanted, made):
            reference = reference_of(utterance)
            # No speaker: clips are held out by what they say, as the same sentence by another voice is heard too easily.
            more = {"voice": utterance.voice.speaker}
            examples[reference] = Example(reference, utterance.intent, utterance.words, more=more)
            if not (project / reference).is_file():
                missing.add(reference)
        if not examples:
            raise DataError("No typed example holds anything that can be said.")
        todo = (one for one in _utterances(director, wanted) if reference_of(one) in missing)
        for failed in _speak(project, todo, len(missing), made, processes, progress):
            del examples[failed]
        if not examples:
            raise SpeechError(made.failed[0])
        made.examples = list(examples.values())
        (project / NLU).parent.mkdir(exist_ok=True)
        write_whole(project / NLU, nlu_text(made.examples, HEAD).encode(), durable=True)
        _remove_others(project, examples)
    return made


def _utterances(director: Director, wanted: Wanted, made: Optional[Made] = None) -> Iterator[Utterance]:
    for intent, places in wanted.items():
        for text, number in places:
            utterance = director.utterance(intent, text, number)
            if 0 < len(utterance.words) <= LONGEST:
                yield utterance
            elif made and number == 0:
                made.unsaid.append(text)


def _speak(project: Path, todo: Iterable[Utterance], of: int, made: Made, processes: int, progress: Progress) -> Iterator[str]:
    """Makes the clips; the references of those that could not be made."""
    in_a_row = 0
    for utterance, job in progress(in_processes(partial(_make_clip, project), todo, processes) if of else (), of):
        try:
            job.result()
            made.spoken, in_a_row = made.spoken + 1, 0
        except SpeechError as error:
            made.failed.append(str(error))
            in_a_row += 1
            if in_a_row == IN_A_ROW:
                raise SpeechError(f"{error} So do {IN_A_ROW} sentences in a row, after {made.spoken} that were spoken.") from None
            yield reference_of(utterance)


def reference_of(utterance: Utterance) -> str:
    """The clip of an utterance; another one if anything about it were another."""
    told = repr((FORMAT, utterance.words, utterance.voice, utterance.seed, utterance.surroundings))
    return (
        f"{AUDIO}/{safe_name(utterance.intent)[:LONGEST_NAME] or 'intent'}/{hashlib.sha256(told.encode()).hexdigest()[:16]}.flac"
    )


def _make_clip(project: Path, utterance: Utterance) -> None:
    samples = samples_of(utterance)
    if len(samples) > MAX_SAMPLES:
        raise SpeechError(f"{utterance.voice} takes {len(samples) / SAMPLE_RATE:.0f} s to say {utterance.words!r:.80}.")
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    target = project / reference_of(utterance)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, file.getvalue())


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one at a time: another one would remove what this one makes."""
    try:
        with locked(folder, wait=False):
            yield
    except BlockingIOError:
        raise ConfigError(f"{folder}: another `spoken-intents synthesize` is at work there. Wait until it is done.") from None


def _remove_others(project: Path, examples: Mapping[str, Example]) -> None:
    """Removes clips of earlier runs that are not listed any more, and what a killed one has left; nothing else."""
    kept = {project / reference for reference in examples}
    for file in (project / AUDIO).glob("*/*"):
        if file not in kept and _OURS.fullmatch(file.name):
            file.unlink(missing_ok=True)
    for folder in (project / AUDIO).glob("*/"):
        with suppress(OSError):  # it is not empty
            folder.rmdir()
