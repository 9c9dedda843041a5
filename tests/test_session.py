"""One spoken conversation with a scripted recognizer and Rasa: order, dropping, closing, failing."""

import asyncio
import gc
import threading
from typing import Any, AsyncIterator, Awaitable, Callable, Iterator, List, Optional, Tuple

import numpy as np
import pytest

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.recognizer import Recognition
from spoken_intents.segmenter import Segmenter, SpeechPaused, SpeechResumed, SpeechStarted, Utterance
from spoken_intents.session import QUEUED_TURNS, SessionSettings, SpokenSession
from spoken_intents.turns import Backchannel, Happening, HeardAhead, NotSpeech, Silence, Turn, TurnFailed, TurnOver, TurnStarted
from spoken_intents.utterances import hand_off, is_audio_reference
from spoken_intents.workers import Workers

pytestmark = pytest.mark.filterwarnings("error")

WINDOW = 320
SETTINGS = SessionSettings(
    start_window_ms=60, min_speech_duration_ms=60, pause_ms=60, min_silence_duration_ms=100, speech_pad_ms=0, turn_end="fixed"
)
NOISE = 0.75  # what is this loud, the scripted recognizer takes for no speech
PATIENCE_S = 20  # how long a wait may take before it counts as hanging


class LoudVad:
    """Loud is speech."""

    window_samples = WINDOW

    def is_speech(self, window: np.ndarray) -> bool:
        return bool(window.max() > 0.5)


def said(number: int, level: Optional[float] = None) -> np.ndarray:
    """An utterance that can be told from others by its loudness, and the silence that ends it."""
    level = 0.6 + number / 1000 if level is None else level
    return np.concatenate([np.full(5 * WINDOW, level, dtype=np.float32), np.zeros(10 * WINDOW, dtype=np.float32)])


def intent_of(number: int) -> str:
    return f"intent_{number}"


class ScriptedRecognizer:
    """Hears `intent_<number>` in `said(number)`, and no speech in anything as loud as NOISE."""

    fingerprint = "scripted"

    def __init__(self, before: Callable[[], Any] = lambda: None) -> None:
        self._before = before
        self.threads: List[str] = []

    def classify(self, samples: np.ndarray) -> Recognition:
        self._before()
        self.threads.append(threading.current_thread().name)
        level = float(samples.max())
        if level == NOISE:
            return Recognition((("intent_0", 0.1), ("other", 0.1)), 0.8, self.fingerprint, 1.0)
        return Recognition(((intent_of(round((level - 0.6) * 1000)), 0.9), ("other", 0.05)), 0.05, self.fingerprint, 1.0)


class Caller:
    """The caller's side and Rasa in one; writes down what happens, in order.

    `answer` is awaited while Rasa has a turn; `intents` are those of the domain.
    """

    def __init__(
        self, answer: Optional[Callable[[Turn], Awaitable[None]]] = None, intents: Tuple[str, ...] = (), marks: bool = False
    ) -> None:
        self._answer = answer
        self._intents = intents
        self._marks = marks
        self.find: Callable[[], Any] = ScriptedRecognizer
        self.events: List[Tuple[str, Any]] = []
        self.turns: List[Turn] = []
        self.over: List[Turn] = []
        self.failures: List[str] = []

    def heard(self, event: str = "ended") -> List[Any]:
        return [what for name, what in self.events if name == event]

    def recognizer(self) -> Any:
        return self.find()

    def has_intent(self, name: str) -> bool:
        return name in self._intents

    async def converse(self, turn: Turn) -> None:
        if turn.utterance is not None:  # what the NLU component does
            assert is_audio_reference(turn.text)
            taken = hand_off.take(turn.text)
            assert taken.recognition is turn.recognition and taken.samples is turn.utterance.samples
        self.events.append(("rasa", self._name(turn)))
        if self._answer:
            await self._answer(turn)

    async def tell(self, happening: Happening) -> None:
        if isinstance(happening, SpeechStarted):
            self.events.append(("speech", None))
        elif isinstance(happening, NotSpeech):
            self.events.append(("non_speech", happening.recognition.non_speech))
        elif isinstance(happening, Backchannel):
            self.events.append(("ignored", happening.recognition.intent))
        elif isinstance(happening, HeardAhead):
            self.events.append(("ahead", happening.recognition.intent))
        elif isinstance(happening, Silence):
            self.events.append(("silence", happening.count))
        elif isinstance(happening, TurnStarted):
            self.events.append(("started", self._name(happening.turn)))
        elif isinstance(happening, TurnFailed):
            self.events.append(("failed", self._name(happening.turn)))
            self.failures.append(happening.message)
        elif isinstance(happening, TurnOver):
            self.over.append(happening.turn)
        else:
            assert isinstance(happening, (SpeechPaused, SpeechResumed, Utterance))

    async def turn_ended(self, turn: Turn) -> Optional[str]:
        self.events.append(("ended", self._name(turn)))
        self.turns.append(turn)
        return f"mark {len(self.turns)}" if self._marks else None

    async def play(self, samples: np.ndarray) -> None:
        self.events.append(("play", samples))

    async def clear(self) -> None:
        self.events.append(("clear", None))

    async def send_mark(self) -> Optional[str]:
        self.events.append(("mark", None))
        return f"mark {len(self.heard('mark'))}s" if self._marks else None

    async def show(self, text: str) -> None:
        self.events.append(("show", text))

    async def hang_up(self) -> None:
        self.events.append(("hangup", None))

    @staticmethod
    def _name(turn: Turn) -> str:
        return turn.recognition.intent if turn.recognition else turn.text


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers() as pool:
        yield pool


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Whatever happened to its turns, no session leaves audio in memory."""
    yield
    assert len(hand_off) == 0


def opened(caller: Caller, workers: Workers, settings: SessionSettings = SETTINGS, speech: Any = None) -> SpokenSession:
    return SpokenSession(settings, caller, caller, workers, speech, Segmenter(settings, LoudVad()))


def run(scenario: Callable[[SpokenSession], Awaitable[None]], caller: Caller, recognizer: Any, workers: Workers) -> Caller:
    """Runs `scenario` with a new session, and gives up when it hangs."""

    async def main() -> None:
        caller.find = lambda: recognizer
        await asyncio.wait_for(scenario(opened(caller, workers)), PATIENCE_S)

    asyncio.run(main())
    return caller


async def settle() -> None:
    """Lets every task that can go on do so."""
    for _ in range(200):
        await asyncio.sleep(0)


# ---------------------------------------------------------------- turns


@pytest.mark.parametrize("chunk", [100, WINDOW, 1_000, 10**9])
def test_every_utterance_is_one_turn_in_order(workers: Workers, chunk: int) -> None:
    line = np.concatenate([said(number) for number in range(20)])

    async def scenario(session: SpokenSession) -> None:
        for start in range(0, len(line), chunk):
            await session.hear(line[start : start + chunk])
        await session.finish()

    caller = run(scenario, Caller(), ScriptedRecognizer(), workers)
    assert caller.heard() == caller.heard("started") == caller.heard("rasa") == [intent_of(number) for number in range(20)]
    assert len(caller.heard("speech")) == 20
    assert caller.failures == []


def test_turns_are_one_at_a_time(workers: Workers) -> None:
    async def answer(turn: Turn) -> None:
        await settle()  # whatever could overtake this turn has the time to

    async def scenario(session: SpokenSession) -> None:
        await session.hear(np.concatenate([said(number) for number in range(5)]))
        await session.finish()

    caller = run(scenario, Caller(answer), ScriptedRecognizer(), workers)
    order = [event for event in caller.events if event[0] not in ("speech", "ahead")]
    assert order == [(name, intent_of(number)) for number in range(5) for name in ("started", "rasa", "ended")]


def test_audio_much_faster_than_the_answers_waits_and_loses_nothing(workers: Workers) -> None:
    count = 3 * QUEUED_TURNS

    async def scenario(session: SpokenSession) -> None:
        hearing = asyncio.create_task(session.hear(np.concatenate([said(number) for number in range(count)])))
        await asyncio.wait_for(busy.wait(), PATIENCE_S)
        await settle()
        assert not hearing.done()  # the caller is not read any further
        assert caller.heard("rasa") == [intent_of(0)]
        assert len(caller.heard("speech")) <= QUEUED_TURNS + 2
        go_on.set()
        await hearing
        await session.finish()

    async def answer(turn: Turn) -> None:
        busy.set()
        await go_on.wait()

    busy, go_on = asyncio.Event(), asyncio.Event()
    caller = Caller(answer)
    run(scenario, caller, ScriptedRecognizer(), workers)
    assert caller.heard() == [intent_of(number) for number in range(count)]


def test_typed_and_spoken_turns_keep_their_order(workers: Workers) -> None:
    async def scenario(session: SpokenSession) -> None:
        await session.hear(said(1))
        await session.type("hello")
        await session.hear(said(2))
        await session.type("/affirm")
        await session.finish()

    caller = run(scenario, Caller(), ScriptedRecognizer(), workers)
    assert caller.heard() == ["intent_1", "hello", "intent_2", "/affirm"]


def test_no_speech_is_told_and_makes_no_turn(workers: Workers) -> None:
    async def scenario(session: SpokenSession) -> None:
        await session.hear(np.concatenate([said(1), said(0, NOISE), said(2)]))
        await session.finish()

    caller = run(scenario, Caller(), ScriptedRecognizer(), workers)
    assert [event for event in caller.events if event[0] in ("ended", "non_speech")] == [
        ("ended", "intent_1"),
        ("non_speech", 0.8),
        ("ended", "intent_2"),
    ]
    assert len(caller.heard("started")) == len(caller.heard("rasa")) == 2


def test_commit_ends_the_utterance_without_waiting_for_silence(workers: Workers) -> None:
    async def scenario(session: SpokenSession) -> None:
        await session.commit()  # nobody speaks: nothing happens
        await session.hear(said(7)[: 5 * WINDOW])
        await session.commit()
        await session.commit()
        await session.finish()

    caller = run(scenario, Caller(), ScriptedRecognizer(), workers)
    assert caller.heard() == ["intent_7"]
    assert caller.turns[0].utterance is not None and caller.turns[0].utterance.reason == "commit"


def test_finish_answers_what_was_still_being_said(workers: Workers) -> None:
    async def scenario(session: SpokenSession) -> None:
        await session.hear(np.concatenate([said(1), said(2), said(3)[: 5 * WINDOW]]))
        await session.finish()
        assert caller.heard() == ["intent_1", "intent_2", "intent_3"]  # before finish returned

    caller = Caller()
    run(scenario, caller, ScriptedRecognizer(), workers)


def test_without_a_recognizer_rasa_gets_the_audio_all_the_same(workers: Workers) -> None:
    async def scenario(session: SpokenSession) -> None:
        await session.hear(said(1))
        await session.finish()

    (turn,) = run(scenario, Caller(), None, workers).turns
    assert turn.recognition is None and turn.spoken() is None


def test_the_recognizer_is_asked_for_anew_at_each_turn(workers: Workers) -> None:
    newer = ScriptedRecognizer()
    newer.fingerprint = "newer"
    caller = Caller()
    current: List[Any] = [None]

    async def main() -> None:
        caller.find = lambda: current[0]
        session = opened(caller, workers)
        for number, current[0] in enumerate((ScriptedRecognizer(), None, newer), 1):
            await session.hear(said(number))
            while len(caller.turns) < number:
                await asyncio.sleep(0)
        await session.finish()

    asyncio.run(main())
    assert [turn.recognition and turn.recognition.model for turn in caller.turns] == ["scripted", None, "newer"]


def test_a_pause_is_classified_once_and_that_answer_is_used(workers: Workers) -> None:
    recognizer = ScriptedRecognizer()

    async def scenario(session: SpokenSession) -> None:
        await session.hear(np.concatenate([said(number) for number in range(5)]))
        await session.finish()

    assert run(scenario, Caller(), recognizer, workers).heard() == [intent_of(number) for number in range(5)]
    assert len(recognizer.threads) == 5


def test_speech_that_goes_on_after_a_pause_is_heard_whole(workers: Workers) -> None:
    """What was classified in the pause held less: its answer is not the turn's."""
    lengths: List[int] = []

    class Measuring(ScriptedRecognizer):
        def classify(self, samples: np.ndarray) -> Recognition:
            lengths.append(len(samples))
            return super().classify(samples)

    first, second = said(1), said(2)
    pause = SETTINGS.pause_ms * SAMPLE_RATE // 1000
    speech = np.flatnonzero(first)
    line = np.concatenate([first[speech[0] : speech[-1] + 1], np.zeros(pause, dtype=np.float32), second])

    async def scenario(session: SpokenSession) -> None:
        await session.hear(line)
        await session.finish()

    caller = run(scenario, Caller(), Measuring(), workers)
    assert caller.heard() == [intent_of(2)], "the louder half decides, so both were heard together"
    assert lengths[-1] == len(caller.turns[0].utterance.samples) == max(lengths)


def test_a_model_replaced_after_the_pause_hears_the_utterance_itself(workers: Workers) -> None:
    newer, caller = ScriptedRecognizer(), Caller()
    newer.fingerprint = "newer"
    asked: List[Any] = [ScriptedRecognizer()]  # in the pause; later ones get the newer

    async def main() -> None:
        caller.find = lambda: asked.pop() if asked else newer
        session = opened(caller, workers)
        await session.hear(said(3))
        await session.finish()

    asyncio.run(main())
    assert [turn.recognition.model for turn in caller.turns if turn.recognition] == ["newer"]


# ---------------------------------------------------------------- figures


def test_a_turn_knows_what_was_heard_when_and_how_long_it_took(workers: Workers) -> None:
    async def scenario(session: SpokenSession) -> None:
        await session.hear(np.concatenate([np.zeros(SAMPLE_RATE, dtype=np.float32), said(4)]))
        await session.type("hello")
        await session.finish()

    spoken, typed = run(scenario, Caller(), ScriptedRecognizer(), workers).turns
    assert spoken.spoken() == {"intent": "intent_4", "confidence": 0.9, "start_ms": 1000, "end_ms": 1100}
    assert spoken.endpoint_delay_ms == 100
    assert 0 < spoken.asr_latency_ms < PATIENCE_S * 1000
    assert 0 < spoken.rasa_processing_latency_ms < PATIENCE_S * 1000
    assert set(spoken.latency()) == {"asr_latency_ms", "rasa_processing_latency_ms", "endpoint_delay_ms"}
    assert typed.spoken() is None and typed.recognition is None
    assert typed.asr_latency_ms == 0


def test_the_first_response_is_a_figure_once_there_is_one() -> None:
    turn = Turn("hello", first_response_latency_ms=12.34, rasa_processing_latency_ms=56.78)
    assert turn.latency() == {
        "asr_latency_ms": 0.0,
        "first_response_latency_ms": 12.3,
        "rasa_processing_latency_ms": 56.8,
        "endpoint_delay_ms": 0.0,
    }


# ---------------------------------------------------------------- closing


def test_close_lets_rasa_finish_its_turn_and_drops_the_rest(workers: Workers) -> None:
    async def answer(turn: Turn) -> None:
        busy.set()
        await go_on.wait()

    async def scenario(session: SpokenSession) -> None:
        await session.hear(np.concatenate([said(number) for number in range(4)]))
        await busy.wait()
        closing = asyncio.create_task(session.close())
        await settle()
        assert not closing.done() and caller.heard() == []
        go_on.set()
        await closing
        assert caller.heard() == [intent_of(0)]
        await session.hear(said(9))  # after the end, nothing is taken and nothing hangs
        await session.type("hello")
        await session.commit()
        await session.close()

    busy, go_on = asyncio.Event(), asyncio.Event()
    caller = Caller(answer)
    run(scenario, caller, ScriptedRecognizer(), workers)
    assert caller.heard("rasa") == caller.heard() == [intent_of(0)]
    assert caller.failures == []


def test_close_frees_a_caller_who_waits_for_the_bot(workers: Workers) -> None:
    async def answer(turn: Turn) -> None:
        busy.set()
        await go_on.wait()

    async def scenario(session: SpokenSession) -> None:
        hearing = asyncio.create_task(session.hear(np.concatenate([said(number) for number in range(3 * QUEUED_TURNS)])))
        await busy.wait()
        await settle()
        assert not hearing.done()
        closing = asyncio.create_task(session.close())
        await settle()
        go_on.set()
        await closing
        await hearing

    busy, go_on = asyncio.Event(), asyncio.Event()
    caller = run(scenario, Caller(answer), ScriptedRecognizer(), workers)
    assert caller.heard() == [intent_of(0)]


def test_close_while_a_model_listens_gives_rasa_no_turn(workers: Workers) -> None:
    listening, go_on = threading.Event(), threading.Event()

    def before() -> None:
        listening.set()
        assert go_on.wait(PATIENCE_S)

    async def scenario(session: SpokenSession) -> None:
        await session.hear(np.concatenate([said(1), said(2)]))
        await asyncio.get_running_loop().run_in_executor(None, listening.wait, PATIENCE_S)
        closing = asyncio.create_task(session.close())
        await settle()
        go_on.set()
        await closing

    recognizer = ScriptedRecognizer(before)
    caller = run(scenario, Caller(), recognizer, workers)
    assert caller.heard("started") == caller.heard("rasa") == caller.heard() == []


def test_close_while_a_turn_waits_for_the_bots_last_word_gives_rasa_no_turn(workers: Workers) -> None:
    class Mute:
        async def speak(self, text: str) -> AsyncIterator[np.ndarray]:
            await asyncio.Event().wait()
            yield np.zeros(0, dtype=np.float32)

    async def main() -> None:
        caller = Caller()
        session = opened(caller, workers, speech=Mute())
        await session.say("This call is recorded.", may_interrupt=False)
        await session.type("hello")
        await settle()
        assert caller.heard("started") == []
        await asyncio.wait_for(session.close(), PATIENCE_S)
        assert caller.heard("started") == caller.heard("rasa") == []

    asyncio.run(main())


def test_an_uploader_who_leaves_while_waiting_does_not_tear_rasas_turn(workers: Workers) -> None:
    answered = []

    async def main() -> None:
        with_rasa, go_on = asyncio.Event(), asyncio.Event()

        async def answer(turn: Turn) -> None:
            with_rasa.set()
            await go_on.wait()
            answered.append(turn.text)

        session = opened(Caller(answer), workers)
        await session.hear(said(1))
        handler = asyncio.create_task(session.finish())
        await with_rasa.wait()
        handler.cancel()
        await asyncio.wait([handler])
        assert handler.cancelled()
        closing = asyncio.create_task(session.close())
        await settle()
        go_on.set()
        await closing

    asyncio.run(main())
    assert len(answered) == 1


def test_close_of_an_idle_session_returns_at_once(workers: Workers) -> None:
    async def scenario(session: SpokenSession) -> None:
        await session.close()

    assert run(scenario, Caller(), ScriptedRecognizer(), workers).events == []


# ---------------------------------------------------------------- failing


def test_a_turn_that_fails_is_told_and_the_next_one_works(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    async def answer(turn: Turn) -> None:
        if turn.recognition and turn.recognition.intent == "intent_1":
            raise ConnectionError("the secret address of the database")

    async def scenario(session: SpokenSession) -> None:
        await session.hear(np.concatenate([said(0), said(1), said(2)]))
        await session.finish()

    caller = run(scenario, Caller(answer), ScriptedRecognizer(), workers)
    assert caller.heard() == ["intent_0", "intent_1", "intent_2"]
    assert caller.heard("failed") == ["intent_1"]
    assert caller.over == caller.turns and [turn.failed for turn in caller.over] == [False, True, False]
    assert caller.failures == ["This turn could not be answered (ConnectionError)."]  # no inner detail to the caller
    assert "the secret address" in caplog.text  # all of it to the operator


def test_a_model_that_fails_is_told_too(workers: Workers) -> None:
    failures = iter([True, False])

    def before() -> None:
        if next(failures):
            raise RuntimeError("broken model")

    async def scenario(session: SpokenSession) -> None:
        await session.hear(np.concatenate([said(0), said(1)]))
        await session.finish()

    caller = run(scenario, Caller(), ScriptedRecognizer(before), workers)
    assert caller.failures == ["This turn could not be answered (RuntimeError)."]
    assert caller.heard() == ["", "intent_1"]  # what failed is over, too


def test_a_model_that_failed_in_a_pause_that_was_none_is_no_news(workers: Workers) -> None:
    """Nobody waits for that answer: the log would have its exception without a turn, as never retrieved."""
    told: List[Any] = []

    def broken() -> None:
        raise RuntimeError("broken model")

    async def scenario(session: SpokenSession) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        await session.hear(said(1)[: 8 * WINDOW])
        while not session._ahead.done:
            await asyncio.sleep(0.001)
        await session.hear(said(1)[: 5 * WINDOW])
        await session.close()

    run(scenario, Caller(), ScriptedRecognizer(broken), workers)
    gc.collect()
    assert told == []


def test_an_utterance_that_rasa_did_not_take_is_let_go(workers: Workers) -> None:
    held: List[int] = []

    class Untaking(Caller):
        async def converse(self, turn: Turn) -> None:
            held.append(len(hand_off))

    async def scenario(session: SpokenSession) -> None:
        await session.hear(np.concatenate([said(0), said(1)]))
        await session.finish()

    run(scenario, Untaking(), ScriptedRecognizer(), workers)
    assert held == [1, 1]  # the first was gone when the second came


# ---------------------------------------------------------------- the event loop


def test_the_event_loop_goes_on_while_a_model_listens(workers: Workers) -> None:
    """The model does not return before the loop has turned 50 times: a loop that waits for it would hang."""
    turned, in_time = threading.Event(), []

    def before() -> None:
        in_time.append(turned.wait(PATIENCE_S / 2))

    async def scenario(session: SpokenSession) -> None:
        await session.hear(said(1))
        for _ in range(50):
            await asyncio.sleep(0)
        turned.set()
        await session.finish()

    recognizer = ScriptedRecognizer(before)
    caller = run(scenario, Caller(), recognizer, workers)
    assert in_time == [True] and caller.heard() == ["intent_1"]
    assert recognizer.threads[0].startswith("recognizer")


def test_two_callers_do_not_wait_for_each_other(workers: Workers) -> None:
    """Each model call returns only when both are under way."""
    together = threading.Barrier(2, timeout=PATIENCE_S)
    recognizer = ScriptedRecognizer(together.wait)
    callers = [Caller(), Caller()]

    async def call(number: int) -> None:
        caller = callers[number]
        caller.find = lambda: recognizer
        session = opened(caller, workers)
        await session.hear(said(number))
        await session.finish()

    async def main() -> None:
        await asyncio.gather(call(0), call(1))

    asyncio.run(main())
    assert [caller.heard() for caller in callers] == [["intent_0"], ["intent_1"]]
