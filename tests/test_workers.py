"""Turns before speculations, and what is dropped when models are slower than callers. Nothing here depends on time."""

import asyncio
import threading
from typing import Any, Callable, Iterator, List, Tuple

import numpy as np
import pytest
from test_session import PATIENCE_S, WINDOW, Caller, ScriptedRecognizer, intent_of, opened, said, settle
from test_turn_taking import CALM, Unsure, silence

from counted import Counted
from spoken_intents.ahead import Ahead
from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.segmenter import SpeechPaused, Utterance
from spoken_intents.workers import Workers

pytestmark = pytest.mark.filterwarnings("error")


class Gate:
    """A job that is under way until it is opened; holds one thread."""

    def __init__(self, workers: Workers) -> None:
        self._began, self._go_on = threading.Event(), threading.Event()
        self.done = workers.submit(self)
        assert self._began.wait(PATIENCE_S)

    def __call__(self) -> None:
        self._began.set()
        assert self._go_on.wait(PATIENCE_S)

    def open(self) -> None:
        self._go_on.set()


@pytest.fixture
def workers() -> Iterator[Workers]:
    """One thread, and room for four."""
    with Workers(1, most_waiting=4) as pool:
        yield pool


@pytest.fixture
def done() -> List[Any]:
    """What was done, in order."""
    return []


def test_turns_go_before_speculations_and_both_in_order(workers: Workers, done: List[Any]) -> None:
    gate = Gate(workers)
    futures = [workers.speculate(done.append, "s1"), workers.submit(done.append, "t1")]
    futures += [workers.speculate(done.append, "s2"), workers.submit(done.append, "t2")]
    gate.open()
    assert [future.result(PATIENCE_S) for future in futures] == [None] * 4
    assert done == ["t1", "t2", "s1", "s2"]


def test_when_too_much_waits_the_oldest_speculation_is_dropped_and_no_turn_ever(workers: Workers, done: List[Any]) -> None:
    counted = Counted()
    gate = Gate(workers)
    speculations = [workers.speculate(done.append, f"s{number}") for number in range(5)]
    assert [future.cancelled() for future in speculations] == [True, False, False, False, False]
    turns = [workers.submit(done.append, f"t{number}") for number in range(2)]
    assert [future.cancelled() for future in speculations] == [True, True, True, False, False]
    assert counted("spoken_intents_recognizer_waiting") == 4
    turns += [workers.submit(done.append, f"t{number}") for number in range(2, 12)]
    assert all(future.cancelled() for future in speculations)
    assert workers.speculate(done.append, "hopeless").cancelled()
    gate.open()
    for turn in turns:
        turn.result(PATIENCE_S)
    assert done == [f"t{number}" for number in range(12)]
    assert counted("spoken_intents_recognizer_waiting") == 0
    assert counted("spoken_intents_speculations_dropped_total") == 6


def test_a_speculation_that_was_right_is_a_turn(workers: Workers, done: List[Any]) -> None:
    gate = Gate(workers)
    right = workers.speculate(done.append, "right")
    others = [workers.speculate(done.append, f"s{number}") for number in range(3)]
    assert workers.promote(right)
    others += [workers.speculate(done.append, f"s{number}") for number in range(3, 6)]
    assert not right.cancelled() and [other.cancelled() for other in others] == [True, True, True, False, False, False]
    assert not workers.promote(others[0]), "nobody will answer it"
    gate.open()
    others[-1].result(PATIENCE_S)
    assert done == ["right", "s3", "s4", "s5"]
    assert workers.promote(right), "done is as good"


def test_what_is_cancelled_makes_room(workers: Workers, done: List[Any]) -> None:
    gate = Gate(workers)
    speculations = [workers.speculate(done.append, number) for number in range(4)]
    speculations[1].cancel()
    last = workers.speculate(done.append, 4)
    assert [future.cancelled() for future in speculations] == [False, True, False, False]
    gate.open()
    last.result(PATIENCE_S)
    assert done == [0, 2, 3, 4]


def test_one_stuck_thread_loses_no_turn(done: List[Any]) -> None:
    with Workers(2) as workers:
        stuck = Gate(workers)
        for number in range(40):
            workers.submit(done.append, number).result(PATIENCE_S)
        assert done == [*range(40)] and not stuck.done.done()
        stuck.open()


def test_a_job_that_fails_says_so_and_the_thread_goes_on(workers: Workers) -> None:
    with pytest.raises(ZeroDivisionError):
        workers.submit(lambda: 1 / 0).result(PATIENCE_S)
    assert workers.speculate(lambda number: number + 1, 1).result(PATIENCE_S) == 2


def test_the_end_lets_what_waits_be_done_unless_it_is_cancelled(done: List[Any]) -> None:
    for cancel, expected in ((False, ["t", "s"]), (True, [])):
        workers = Workers(1)
        gate = Gate(workers)
        futures = [workers.speculate(done.append, "s"), workers.submit(done.append, "t")]
        workers.shutdown(wait=False, cancel_futures=cancel)
        gate.open()
        workers.shutdown()
        assert done == expected and all(future.cancelled() == cancel for future in futures)
        done.clear()


def test_nothing_waits_for_threads_that_have_ended() -> None:
    counted = Counted()
    workers = Workers(1)
    workers.shutdown()
    with pytest.raises(RuntimeError):
        workers.submit(len, ())
    assert counted("spoken_intents_recognizer_waiting") == 0


# ---------------------------------------------------------------- and a session


class Pauses:
    """One pause after another of one caller."""

    def __init__(self) -> None:
        self.at = 0

    def __call__(self, number: int) -> SpeechPaused:
        self.at += SAMPLE_RATE
        return SpeechPaused(self.at, said(number))


def utterance(pause: SpeechPaused) -> Utterance:
    return Utterance(pause.samples, 0, pause.at_sample, pause.at_sample, "silence")


def test_what_is_dropped_in_the_moment_of_its_end_is_asked_for_anew(workers: Workers) -> None:
    """The event loop hears of the drop later than the session that ends its utterance."""

    async def main() -> None:
        gate = Gate(workers)
        ahead, pause = Ahead(workers), Pauses()(1)
        ahead.begin(ScriptedRecognizer(), pause)  # type: ignore[arg-type]
        for _ in range(4):
            workers.submit(len, ())
        assert ahead.take(utterance(pause)) is None
        gate.open()

    asyncio.run(main())


def test_a_caller_who_waits_for_an_answer_waits_behind_no_later_turn(workers: Workers, done: List[Any]) -> None:
    """And gets one, also where it was dropped before it was waited for."""

    async def main(others: int) -> None:
        gate, recognizer = Gate(workers), ScriptedRecognizer(lambda: done.append("ours"))
        ahead, pause = Ahead(workers), Pauses()(1)
        ahead.begin(recognizer, pause)  # type: ignore[arg-type]
        before = [workers.submit(done.append, "before") for _ in range(others)]
        waiting = asyncio.create_task(ahead.heard(pause.at_sample, PATIENCE_S))
        await asyncio.sleep(0)
        after = [workers.submit(done.append, "after") for _ in range(10)]
        gate.open()
        recognition = await asyncio.wait_for(waiting, PATIENCE_S)
        assert recognition is not None and recognition.intent == intent_of(1)
        for turn in [*before, *after]:
            turn.result(PATIENCE_S)
        assert done == ["before"] * others + ["ours"] + ["after"] * 10
        done.clear()

    for others in (0, 4):  # with four it is dropped
        asyncio.run(main(others))


def test_an_answer_that_is_not_needed_any_more_makes_room_at_once(workers: Workers) -> None:
    async def main() -> None:
        gate, pauses = Gate(workers), Pauses()
        anothers = workers.speculate(len, ())
        for _ in range(2):
            workers.submit(len, ())
        ahead = Ahead(workers)
        for number in range(3):  # each instead of the one before
            ahead.begin(ScriptedRecognizer(), pauses(number))  # type: ignore[arg-type]
        assert not anothers.cancelled()
        gate.open()

    asyncio.run(main())


def test_nobody_hears_what_a_caller_said_who_is_gone(workers: Workers) -> None:
    """Turns behind the one that Rasa has are for nobody any more; others wait for the threads."""
    recognizer, busy, go_on = ScriptedRecognizer(), asyncio.Event(), asyncio.Event()

    async def answer(turn: Any) -> None:
        busy.set()
        await go_on.wait()

    async def main() -> None:
        caller = Caller(answer)
        caller.find = lambda: recognizer
        session = opened(caller, workers)
        await session.hear(said(1))
        await asyncio.wait_for(busy.wait(), PATIENCE_S)
        gate = Gate(workers)
        for number in range(2, 5):
            await session.hear(said(number))
        closing = asyncio.create_task(session.close())
        await settle()
        go_on.set()
        gate.open()
        await asyncio.wait_for(closing, PATIENCE_S)
        workers.submit(len, ()).result(PATIENCE_S)

    asyncio.run(main())
    assert len(recognizer.threads) == 1


def test_an_answer_that_was_taken_is_never_dropped(workers: Workers) -> None:
    async def main() -> str:
        gate = Gate(workers)
        ahead, pause = Ahead(workers), Pauses()(1)
        ahead.begin(ScriptedRecognizer(), pause)  # type: ignore[arg-type]
        answer = ahead.take(utterance(pause))
        assert answer is not None
        for _ in range(40):
            workers.speculate(len, ())
        gate.open()
        return (await asyncio.wait_for(answer, PATIENCE_S)).intent

    assert asyncio.run(main()) == intent_of(1)


def test_busy_threads_move_no_end_of_a_turn() -> None:
    """A model that is not sure asks for a longer silence, whatever else there is to do: the caller is not cut off in it."""
    settings = type(CALM)(**{**vars(CALM), "turn_end": "adaptive", "sure_silence_ms": 80, "unsure_silence_ms": 400})
    line = np.concatenate([said(2)[: 5 * WINDOW], silence(300), said(2)[: 5 * WINDOW], silence(500)])

    def turns(others: int) -> List[Tuple[int, int]]:
        caller, recognizer = Caller(), Unsure()
        caller.find = lambda: recognizer

        async def main() -> None:
            with Workers(1, most_waiting=4) as workers:
                gate = Gate(workers)
                for _ in range(others):
                    workers.submit(len, ())
                session = opened(caller, workers, settings)
                hearing = asyncio.create_task(session.hear(line))
                await settle()
                gate.open()
                await asyncio.wait_for(hearing, PATIENCE_S)
                await session.finish()

        asyncio.run(main())
        return [(turn.utterance.start_sample, turn.utterance.end_sample) for turn in caller.turns if turn.utterance]

    assert len(turns(0)) == 1 and turns(0) == turns(40)


@pytest.mark.parametrize("turn_end", ["fixed", "adaptive"])
def test_a_recognizer_slower_than_its_callers_loses_no_turn(turn_end: str) -> None:
    """Thirty callers speak while both threads are busy: most pauses are never classified in advance, every turn is answered."""
    counted = Counted()
    callers = [Caller() for _ in range(30)]
    heard: List[int] = []
    recognizer = ScriptedRecognizer()
    settings = type(CALM)(**{**vars(CALM), "turn_end": turn_end, "sure_silence_ms": 80, "unsure_silence_ms": 400})

    async def main() -> None:
        with Workers(2, most_waiting=4) as workers:
            gates = [Gate(workers), Gate(workers)]
            calls = [asyncio.create_task(call(caller, number, workers)) for number, caller in enumerate(callers)]
            await until(lambda: counted("spoken_intents_speculations_dropped_total") >= 26)
            for gate in gates:
                gate.open()
            await asyncio.wait_for(asyncio.gather(*calls), PATIENCE_S)

    async def call(caller: Caller, number: int, workers: Workers) -> None:
        caller.find = lambda: recognizer
        session = opened(caller, workers, settings)
        await session.hear(np.concatenate([said(number), silence(500)]))
        await session.finish()
        heard.extend(len(turn.utterance.samples) for turn in caller.turns if turn.utterance)

    asyncio.run(main())
    assert [caller.heard() for caller in callers] == [[intent_of(number)] for number in range(30)]
    assert len(heard) == 30 and len(set(heard)) == 1, "the same samples, classified in advance or not"


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await settle()
