"""Typed sentences -> spoken clips, by many voices, in rooms, in noise and over the telephone.

    families = [espeak_family()]
    wanted = plan([("balance", "what is my balance"), ...], families, per_sentence=8, seed=0)
    for utterance, samples in speak(wanted, processes=2):   # in the order of `wanted`; float32, 16 kHz
        utterance.intent, utterance.words, utterance.voice.speaker

Everything random about an utterance comes from its own seed, so it is the same whatever else is spoken, in whatever order and by
however many processes. The processes are started by ``spawn``: a script that calls `speak` does so under
``if __name__ == "__main__":``.
"""

import hashlib
import multiprocessing
import os
import pickle
import threading
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Callable, Deque, Iterable, Iterator, Sequence, Tuple

import numpy as np
import soxr

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents_training.augment import Elsewhere, Surroundings
from spoken_intents_training.voices import Family, Voice, draw_voices, make_engine

SURROUNDINGS = Surroundings(room=0.4, noise=1.0, snr_db=(12, 40), telephone=0.3)
NOISE_SEED = 0
AHEAD = 8  # utterances on their way, for each process


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
    surroundings: "Surroundings | None" = SURROUNDINGS


def plan(
    sentences: Iterable[Tuple[str, str]],
    families: Sequence[Family],
    per_sentence: int = 8,
    seed: int = 0,
    surroundings: "Surroundings | None" = SURROUNDINGS,
    read: Callable[[str, np.random.Generator], str] = lambda text, rng: text,
) -> Iterator[Utterance]:
    """What to speak: each (intent, text) by `per_sentence` voices.

    Args:
        read: A text as somebody would say it.
    """
    for intent, text in sentences:
        voices = draw_voices(families, np.random.default_rng(_number(seed, intent, text)))
        for number in range(per_sentence):
            own = _number(seed, intent, text, number)
            words = read(text, np.random.default_rng((own, 1)))
            yield Utterance(intent, text, words, voices(number), own, surroundings)


def _number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(map(str, parts)).encode()).digest()[:8], "little")


def speak(utterances: Iterable[Utterance], processes: int = os.cpu_count() or 1) -> Iterator[Tuple[Utterance, np.ndarray]]:
    """The utterances, spoken, in their order; float32 at 16 kHz. Takes them one by one, and holds few at a time.

    Raises:
        RuntimeError: An engine failed; the message says with what.
    """
    yield from in_processes(samples_of, utterances, processes)


def in_processes(work: Callable[[Utterance], Any], utterances: Iterable[Utterance], processes: int) -> Iterator[Tuple[Utterance, Any]]:
    """Each utterance and what `work` makes of it, in order; `work` is a function of a module."""
    rest = iter(utterances)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_begin)
    try:
        waiting: "Deque[Tuple[Utterance, Future[Any]]]" = deque()
        for utterance in islice(rest, AHEAD * processes):
            waiting.append((utterance, pool.submit(_apart, work, utterance)))
        while waiting:
            utterance, job = waiting.popleft()
            yield utterance, job.result()
            for another in islice(rest, 1):
                waiting.append((another, pool.submit(_apart, work, another)))
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """A worker ends with the process that started it, also when that is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _apart(work: Callable[[Utterance], Any], utterance: Utterance) -> Any:
    """What `work` returns, for espeak in a process of its own: only its first sentence is always the same."""
    engine = _engine(utterance.voice)  # in this process, so that it is there in the next one's copy
    _elsewhere(utterance.surroundings)
    if utterance.voice.engine != "espeak":
        return work(utterance)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            result: Any = work(utterance)
        except BaseException as error:
            result = RuntimeError(str(error) or type(error).__name__)
        try:
            with os.fdopen(writer, "wb") as answer:
                pickle.dump(result, answer)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    if not said:
        raise RuntimeError(f"{utterance.voice} broke down at {utterance.words!r:.80}.")
    result = pickle.loads(said)
    if isinstance(result, BaseException):
        raise result
    del engine
    return result


@lru_cache(maxsize=32)
def _engine(voice: Voice) -> Any:
    return make_engine(voice)


@lru_cache(maxsize=4)
def _elsewhere(surroundings: "Surroundings | None") -> "Elsewhere | None":
    return Elsewhere(NOISE_SEED, surroundings) if surroundings else None


def samples_of(utterance: Utterance) -> np.ndarray:
    """The utterance, spoken; float32, 16 kHz."""
    engine = _engine(utterance.voice)
    samples = np.asarray(engine.synthesize(utterance.words), np.float32)
    if not len(samples):
        raise RuntimeError(f"{utterance.voice} says nothing for {utterance.words!r:.80}.")
    if engine.sample_rate != SAMPLE_RATE:
        samples = soxr.resample(samples, engine.sample_rate, SAMPLE_RATE)
    elsewhere = _elsewhere(utterance.surroundings)
    return elsewhere.roughened(samples, np.random.default_rng(utterance.seed)) if elsewhere else samples
