"""Teaching by voice: who reads which sentence next, what was kept of it, how much is left. No server and no sound card.

Teaching   the project: its sentences, and what all who teach have kept
Lesson     one of them: a sentence ──▶ speech ──▶ a take ──▶ kept, or once more
"""

import random
import threading
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Collection, Dict, Iterable, List, Optional, Set, Tuple, Union

import numpy as np

from spoken_intents.audio import SAMPLE_RATE, StreamingResampler
from spoken_intents.errors import ConfigError, DataError, one_line
from spoken_intents.init.pipeline import MESSAGES
from spoken_intents.segmenter import Segmenter, SegmenterSettings, SpeechPaused, SpeechResumed, SpeechStarted, Utterance
from spoken_intents.utterances import is_audio_reference
from spoken_intents_training.examples import Example, ExampleFile, listed_examples, project_intents, without_annotations
from spoken_intents_training.takes import LEAD_SAMPLES, Fault, faults

NAME = "taught"  # of the file and the folder
GOAL = 10  # recordings of an intent; docs/training.md has what so many bring
SENTENCES = 200  # of an intent that are kept of those typed, by chance
LONGEST_SENTENCE = 250  # letters; said in 20 s
SHOWN_EXAMPLES = 3  # of an intent that is said freely
MOST_NAME = 60
# People who read pause in the middle of a sentence, longer than callers do.
SETTINGS = SegmenterSettings(turn_end="fixed", min_silence_duration_ms=900)


@dataclass(frozen=True)
class Prompt:
    """What somebody is asked to say.

    Attributes:
        sentence: To be read aloud; empty where the intent is to be said freely.
        examples: Of how others say it.
    """

    intent: str
    sentence: str = ""
    examples: Tuple[str, ...] = ()

    @property
    def key(self) -> Tuple[str, str]:
        """By which it is known again."""
        return self.intent, self.sentence


@dataclass(frozen=True)
class Progress:
    """How far an intent is: recordings by one person, and by all."""

    intent: str
    own: int
    total: int
    asked: bool  # whether it comes by itself; if not, only to who chooses it


@dataclass(frozen=True)
class Take:
    """A recording that is not kept yet: float32, 16 kHz."""

    samples: np.ndarray
    faults: List[Fault]

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


Heard = Union[SpeechStarted, SpeechPaused, SpeechResumed, Take]


class Teaching:
    """A project that is being taught. Safe to use in several threads.

    Args:
        goal: Recordings of each intent, by all together, after which others come first.
        seed: Of the order in which sentences come.

    Attributes:
        folder: Where recordings are kept, and `nlu`, where they are listed; both relative to `project`.
        intents: What can be taught, with those that come by themselves first.
        notices: What in the project keeps it, or some of it, from being taught.

    Raises:
        DataError: No Rasa project, no intents in it, or a file that cannot be read.
    """

    def __init__(self, project: Path, goal: int = GOAL, seed: int = 0) -> None:
        self.project, self.goal = project, goal
        self.folder, self.nlu = f"audio/{NAME}", f"data/nlu_{NAME}.yml"
        self._file = ExampleFile(project, NAME)
        self._lock = threading.RLock()
        self._kept: Dict[str, Example] = {}  # by reference, the last one last
        self._reading: Dict[Any, Prompt] = {}  # who reads what at the moment
        domain = project_intents(project)
        self._sentences, unknown = _sample(listed_examples(project), domain, random.Random(seed))
        self.notices = [*_deaf(project), *([_unknown(unknown)] if unknown else [])]
        parents = {intent.partition("/")[0] for intent in self._sentences if "/" in intent}
        others = [intent for intent in domain if intent not in self._sentences and intent not in parents]
        self.asked = list(self._sentences) or others  # without any example everything is said freely
        self.intents = list(dict.fromkeys([*self.asked, *others]))
        if not self.intents:
            raise DataError(f"{project}: its domain lists no intents, so there is nothing to teach.")
        self.read_again()

    def read_again(self) -> None:
        """Takes notice of what others have added or removed: another process, or somebody in an editor.

        Raises:
            DataError, OSError: The file cannot be read.
        """
        with self._lock:
            listed = sorted(self._file.examples(), key=lambda one: (one.date, one.reference))
            self._kept = {one.reference: one for one in listed}

    def people(self) -> List[str]:
        """Who has recordings, who recorded last first."""
        with self._lock:
            return list(dict.fromkeys(one.speaker for one in reversed(self._kept.values()) if one.speaker))

    def clips(self, speaker: str) -> List[Example]:
        """What somebody has recorded, the last first."""
        with self._lock:
            return [one for one in reversed(self._kept.values()) if one.speaker == speaker]

    def progress(self, speaker: str) -> List[Progress]:
        """Of every intent."""
        own, total = self._counts(speaker)
        return [Progress(intent, own[intent], total[intent], intent in self.asked) for intent in self.intents]

    def next(self, reader: Any, speaker: str, passed: Collection[Tuple[str, str]] = (), only: str = "") -> Prompt:
        """What `speaker` had best say now: of the intent with the fewest recordings, by this person, then in all.

        Intents that have reached the goal come last. Nobody reads what another `reader` reads at the moment, or twice
        the same; who has read all of an intent says it freely.

        Args:
            reader: Any object, one for each who reads at the same time.
            passed: Keys of what is not wanted; what all is passed over begins anew.
            only: An intent, instead of the one that has the fewest.
        """
        with self._lock:
            own, total = self._counts(speaker)
            wanted = [only] if only else sorted(self.asked, key=lambda i: (total[i] >= self.goal, own[i], total[i]))
            others = {prompt.key for other, prompt in self._reading.items() if other is not reader}
            prompts = (self._prompt(intent, speaker, others, tried) for tried in (passed, ()) for intent in wanted)
            prompt = next((one for one in prompts if one is not None), None) or self.freely(wanted[0])
            self._reading[reader] = prompt
            return prompt

    def freely(self, intent: str, sentence: str = "") -> Prompt:
        """The intent in one's own words; `sentence` is among the examples."""
        rest = [one for one in self._sentences.get(intent, ()) if one != sentence]
        return Prompt(intent, "", tuple([sentence, *rest] if sentence else rest)[:SHOWN_EXAMPLES])

    def leave(self, reader: Any) -> None:
        """`reader` reads nothing any more."""
        with self._lock:
            self._reading.pop(reader, None)

    def keep(self, prompt: Prompt, speaker: str, samples: np.ndarray) -> Example:
        """Writes a recording (float32, 16 kHz) and its entry; it is on the disk when this returns.

        Raises:
            OSError, DataError: It could not be written, and nothing is.
        """
        example = self._file.add(prompt.intent, samples, prompt.sentence, speaker)
        with self._lock:  # not before: others may go on while the disk is slow
            self._kept[example.reference] = example
        return example

    def remove(self, reference: str, speaker: str) -> Optional[Example]:
        """Takes away a recording of `speaker`; None where there is none such."""
        with self._lock:
            example = self._kept.get(reference)
        if example is None or example.speaker != speaker:
            return None
        self._file.remove(reference)
        with self._lock:
            return self._kept.pop(reference, None)

    def clip(self, reference: str) -> bytes:
        """The file of a recording.

        Raises:
            DataError: It was not made here.
            OSError: It is gone.
        """
        if reference not in self._kept:
            raise DataError("There is no such recording (any more).")
        return (self.project / reference).read_bytes()

    def _counts(self, speaker: str) -> Tuple["Counter[str]", "Counter[str]"]:
        with self._lock:
            kept = list(self._kept.values())
        return Counter(one.intent for one in kept if one.speaker == speaker), Counter(one.intent for one in kept)

    def _prompt(
        self, intent: str, speaker: str, others: Set[Tuple[str, str]], passed: Collection[Tuple[str, str]]
    ) -> Optional[Prompt]:
        said = [one for one in self._kept.values() if one.intent == intent]
        by_all = Counter(one.transcript for one in said)
        own = {one.transcript for one in said if one.speaker == speaker}
        left = [one for one in self._sentences.get(intent, ()) if one not in own and (intent, one) not in passed]
        free = [one for one in left if (intent, one) not in others]
        if free:
            return Prompt(intent, min(free, key=lambda sentence: by_all[sentence]))
        return None if left or (intent, "") in passed else self.freely(intent)


class Lesson:
    """One person's part: what is asked for, listened to, waits to be kept. Not thread-safe.

    Args:
        sample_rate: Of what `hear` gets.

    Attributes:
        prompt: What is asked for.
        take: What was said, and is neither kept nor forgotten.
        listening: Whether the next utterance becomes a take.
        only: The intent that was chosen; empty: whichever has the fewest recordings.

    Raises:
        DataError, OSError: What was recorded before cannot be read.
    """

    def __init__(self, teaching: Teaching, speaker: str, sample_rate: int = SAMPLE_RATE) -> None:
        self.teaching, self.speaker, self.sample_rate = teaching, speaker, sample_rate
        self.take: Optional[Take] = None
        self.listening = False
        self.only = ""
        self._passed: Set[Tuple[str, str]] = set()
        self._kept: List[Tuple[str, Prompt]] = []  # to be undone
        self._resampler = StreamingResampler(sample_rate, SAMPLE_RATE)
        self._segmenter = Segmenter(SETTINGS)  # one all along: it follows the background
        self._quiet_from = 0  # sample since which it is known that nobody spoke before
        self._started = 0
        teaching.read_again()
        self.prompt = self._next()

    def hear(self, samples: np.ndarray) -> List[Heard]:
        """Takes what the microphone hears; what becomes known by it. Speech that nobody listens to is no news."""
        return self._follow(self._segmenter.push(self._resampler.push(samples)))

    def listen(self) -> None:
        """Forgets the take; what is said from now on becomes the next one."""
        self.take = None
        if self._segmenter.speaking:  # in the middle of which no recording can begin
            self._segmenter.flush()
            self._quiet_from = self._segmenter.now
        self.listening = True

    def stop(self) -> None:
        """Listens no more, and forgets what is being said."""
        self.listening = False

    def finish(self) -> List[Heard]:
        """That was all: what was said so far becomes the take. Without any speech it goes on listening."""
        return self._follow(self._segmenter.flush("commit")) if self.listening else []

    def keep(self) -> Optional[Example]:
        """Keeps the take, and goes on to the next sentence; None without a take.

        Raises:
            OSError, DataError: It could not be written. The take is still there.
        """
        if self.take is None:
            return None
        example = self.teaching.keep(self.prompt, self.speaker, self.take.samples)
        self._kept.append((example.reference, self.prompt))
        self.go_on()
        return example

    def skip(self) -> None:
        """Another sentence; this one does not come again, unless all others were skipped, too."""
        self._passed.add(self.prompt.key)
        self.go_on()

    def choose(self, intent: str) -> None:
        """From now on sentences of this intent; empty: of whichever has the fewest recordings.

        Raises:
            DataError: It cannot be taught.
        """
        if intent and intent not in self.teaching.intents:
            raise DataError(f"The intent {one_line(intent)!r} is not in the domain.")
        self.only = intent
        self.go_on()

    def own_words(self) -> None:
        """The same intent, said freely."""
        self.prompt = self.teaching.freely(self.prompt.intent, self.prompt.sentence)
        self._forget()

    def undo(self) -> Optional[Example]:
        """Takes away what was kept last in this lesson, and asks for it again; None where nothing (more) was."""
        while self._kept:
            reference, prompt = self._kept[-1]
            removed = self.teaching.remove(reference, self.speaker)
            self._kept.pop()  # only now: the disk may refuse
            if removed is not None:
                self.prompt = prompt
                self._forget()
                return removed
        return None

    def go_on(self) -> None:
        """The next sentence."""
        self.prompt = self._next()
        self._forget()

    def end(self) -> None:
        """Nobody reads here any more."""
        self.teaching.leave(self)

    def _next(self) -> Prompt:
        return self.teaching.next(self, self.speaker, self._passed, self.only)

    def _forget(self) -> None:
        self.take, self.listening = None, False

    def _follow(self, events: Iterable[Any]) -> List[Heard]:
        news: List[Heard] = []
        for event in events:
            if isinstance(event, SpeechStarted):
                self._started = event.at_sample
            if not self.listening:
                continue
            if isinstance(event, Utterance):
                lead = min(self._started - self._quiet_from, LEAD_SAMPLES)
                self.take = Take(event.samples, faults(event, self.prompt.sentence, lead))
                self.listening = False
                news.append(self.take)
            elif isinstance(event, (SpeechStarted, SpeechPaused, SpeechResumed)):
                news.append(event)
        return news


def speaker_name(text: str) -> str:
    """A person's name as recordings hold it.

    Raises:
        ConfigError: None, or one that is too long or cannot be printed.
    """
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not name or len(name) > MOST_NAME or not name.isprintable():
        raise ConfigError(f"A name takes 1 to {MOST_NAME} letters; {one_line(name, 20) if name else 'nothing'} is none.")
    return name


def _sample(
    examples: Iterable[Tuple[str, str]], domain: Collection[str], rng: random.Random
) -> Tuple[Dict[str, List[str]], List[str]]:
    """The sentences of each intent that has examples, in any order; intents that the domain lacks.

    Of many up to `SENTENCES` are kept, each as likely; none of an intent that has spoken examples only.
    """
    known = set(domain)
    unknown: Dict[str, None] = {}
    kept: Dict[str, Dict[str, str]] = {}  # by the sentence in small letters
    seen: "Counter[str]" = Counter()
    for intent, text in examples:
        if intent.partition("/")[0] not in known:  # of a retrieval intent, faq/opening_hours, the domain names the first part
            unknown[intent] = None
            continue
        of_intent = kept.setdefault(intent, {})
        sentence = " ".join(without_annotations(text).split())
        if not _can_be_read(sentence) or sentence.casefold() in of_intent:
            continue
        seen[intent] += 1
        if len(of_intent) >= SENTENCES:
            place = rng.randrange(seen[intent])
            if place >= SENTENCES:
                continue
            del of_intent[list(of_intent)[place]]
        of_intent[sentence.casefold()] = sentence
    order = {intent: place for place, intent in enumerate(domain)}
    sentences = {intent: list(kept[intent].values()) for intent in sorted(kept, key=lambda i: order[i.partition("/")[0]])}
    for found in sentences.values():
        rng.shuffle(found)
    return sentences, list(unknown)


def _can_be_read(sentence: str) -> bool:
    """Not what is a clip, an intent typed as such (/greet), or more than fits into a recording."""
    if is_audio_reference(sentence) or sentence.startswith("/"):
        return False
    return any(map(str.isalnum, sentence)) and len(sentence) <= LONGEST_SENTENCE


def _deaf(project: Path) -> List[str]:
    """A warning where text classifiers would take the recordings' names for what people type."""
    config = project / "config.yml"
    if not config.is_file() or MESSAGES.encode() in config.read_bytes():
        return []
    return [
        "This project cannot hear yet: run `spoken-intents init` in it before `rasa train`, or it learns the recordings' file names."
    ]


def _unknown(intents: List[str]) -> str:
    named = ", ".join(one_line(intent, 40) for intent in intents[:5]) + (" and others" if len(intents) > 5 else "")
    return f"Typed examples of {named} are not asked for: add the intent to the domain, or correct its name in data/."
