"""Typed sentences -> spoken clips, by many voices, in rooms, in noise and over the telephone.

    families = [espeak_family()]
    wanted = plan([("balance", "what is my balance"), ...], families, per_sentence=8, seed=0)
    for utterance, samples in speak(wanted, processes=2):   # in the order of `wanted`; float32, 16 kHz
        utterance.intent, utterance.words, utterance.voice.speaker

Everything random about an utterance comes from its own seed, so it is the same whatever else is spoken, in whatever order and by
however many processes. What becomes of a project's sentences is in `synthetic`.
"""

import hashlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from types import ModuleType
from typing import Any, Callable, Deque, Iterable, Iterator, Optional, Sequence, Tuple

import numpy as np
import soxr

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import SpeechError, SpokenIntentsError
from spoken_intents.speech import Engine
from spoken_intents_training.augment import Elsewhere, Surroundings
from spoken_intents_training.dataset import SILENCE
from spoken_intents_training.voices import Family, Voice, draw_voices, make_engine

SURROUNDINGS = Surroundings(room=0.4, noise=1.0, snr_db=(12, 40), telephone=0.3)
NOISE_SEED = 0
AHEAD = 8  # utterances on their way, for each process
Read = Callable[[str, np.random.Generator, bool], str]


@dataclass(frozen=True)
class Utterance:
    """One sentence to be spoken once.

    Attributes:
        text: The example as it was typed.
        words: What is said.
        seed: Of everything random about how it sounds.
        surroundings: Where it is heard; None: the synthesizer's samples as they are.
    """

    intent: str
    text: str
    words: str
    voice: Voice
    seed: int
    surroundings: Optional[Surroundings] = SURROUNDINGS


def plan(
    sentences: Iterable[Tuple[str, str]],
    families: Sequence[Family],
    per_sentence: int = 8,
    seed: int = 0,
    surroundings: Optional[Surroundings] = SURROUNDINGS,
) -> Iterator[Utterance]:
    """What to speak: each (intent, text) by `per_sentence` voices, word by word as it is."""
    director = Director(families, seed, surroundings)
    return (director.utterance(intent, text, number) for intent, text in sentences for number in range(per_sentence))


class Director:
    """Says who speaks a sentence, and how.

    Args:
        read: A text as somebody would say it; the last argument is whether it is the first time that the sentence is spoken.
    """

    def __init__(
        self,
        families: Sequence[Family],
        seed: int = 0,
        surroundings: Optional[Surroundings] = SURROUNDINGS,
        read: Read = lambda text, rng, first: text,
    ) -> None:
        self._families, self._seed, self._surroundings, self._read = families, seed, surroundings, read

    def utterance(self, intent: str, text: str, number: int) -> Utterance:
        """A sentence as it is spoken for the `number`-th time. Depends on nothing else."""
        sentence = _number(self._seed, intent, text)
        own = _number(sentence, number)
        words = self._read(text, np.random.default_rng((own, 1)), number == 0)
        voice = draw_voices(self._families, np.random.default_rng(sentence))(number)
        return Utterance(intent, text, words, voice, own, self._surroundings)


def _number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(map(str, parts)).encode()).digest()[:8], "little")


def speak(utterances: Iterable[Utterance], processes: int = os.cpu_count() or 1) -> Iterator[Tuple[Utterance, np.ndarray]]:
    """The utterances, spoken, in their order; float32 at 16 kHz. Takes them one by one, and holds few at a time.

    Raises:
        ConfigError: An engine or a voice that is not there.
        SpeechError: An engine fails; the message says at what.
    """
    for utterance, job in in_processes(samples_of, utterances, processes):
        yield utterance, job.result()


def in_processes(
    work: Callable[[Utterance], Any], utterances: Iterable[Utterance], processes: int
) -> Iterator[Tuple[Utterance, "Future[Any]"]]:
    """Each utterance, in order, and its job that is done: what `work` (a function of a module) has made of it, or an error."""
    rest = iter(utterances)
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_begin)
    waiting: "Deque[Tuple[Utterance, Future[Any]]]" = deque()

    def take(count: int) -> None:
        with _nameless_program():
            waiting.extend((one, pool.submit(_apart, work, one)) for one in islice(rest, count))

    try:
        take(AHEAD * processes)
        while waiting:
            utterance, job = waiting.popleft()
            if isinstance(job.exception(), BrokenProcessPool):
                raise SpeechError(
                    f"A process ended while it spoke, at {utterance.words!r:.80} by {utterance.voice} or one of the next."
                )
            yield utterance, job
            take(1)
    except BrokenProcessPool:
        raise SpeechError("A process ended while it spoke.") from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _nameless_program() -> Iterator[None]:
    """So that processes which start now do not load the program that starts them, of which they need nothing."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def _begin() -> None:
    """A worker ends with the process that started it, also when that is killed, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _apart(work: Callable[[Utterance], Any], utterance: Utterance) -> Any:
    """What `work` returns. For espeak in a copy of this process, which has not loaded it yet: only what it says first is always the same."""
    _elsewhere(utterance.surroundings)  # once, for all copies
    if utterance.voice.engine != "espeak":
        return _result(work, utterance)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            with os.fdopen(writer, "wb") as answer:
                pickle.dump(_result_or_error(work, utterance), answer)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    result = pickle.loads(said) if said else SpeechError(f"{utterance.voice} broke down at {utterance.words!r:.80}.")
    if isinstance(result, Exception):
        raise result
    return result


def _result(work: Callable[[Utterance], Any], utterance: Utterance) -> Any:
    try:
        return work(utterance)
    except (SpokenIntentsError, OSError):
        raise
    except Exception as error:  # an engine's may be any, and need not travel to another process
        raise SpeechError(f"{utterance.voice} failed at {utterance.words!r:.80}: {error or type(error).__name__}") from None


def _result_or_error(work: Callable[[Utterance], Any], utterance: Utterance) -> Any:
    try:
        return _result(work, utterance)
    except Exception as error:
        return error


@lru_cache(maxsize=64)
def _engine(voice: Voice) -> Engine:
    return make_engine(voice)


@lru_cache(maxsize=4)
def _elsewhere(surroundings: Optional[Surroundings]) -> Optional[Elsewhere]:
    return Elsewhere(NOISE_SEED, surroundings) if surroundings else None


def samples_of(utterance: Utterance) -> np.ndarray:
    """The utterance, spoken; float32, 16 kHz.

    Raises:
        SpeechError: The engine says nothing.
    """
    engine = _engine(utterance.voice)
    samples = np.asarray(engine.synthesize(utterance.words), np.float32)
    if np.abs(samples).max(initial=0) < SILENCE:
        raise SpeechError(f"{utterance.voice} says nothing for {utterance.words!r:.80}.")
    if engine.sample_rate != SAMPLE_RATE:
        samples = soxr.resample(samples, engine.sample_rate, SAMPLE_RATE)
    elsewhere = _elsewhere(utterance.surroundings)
    return elsewhere.roughened(samples, np.random.default_rng(utterance.seed)) if elsewhere else samples
