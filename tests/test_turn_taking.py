"""Who speaks when: turn ends, interruptions, silences, keys and hanging up, with a scripted recognizer, voice and Rasa."""

import asyncio
import json
import threading
import time
from dataclasses import replace
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
import pytest
from test_session import PATIENCE_S, SETTINGS, WINDOW, Caller, ScriptedRecognizer, opened, said, settle

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import ConfigError
from spoken_intents.recognizer import Recognition
from spoken_intents.session import SessionSettings, SpokenSession
from spoken_intents.speech import Speech, SpeechSettings
from spoken_intents.turns import Interruption, Turn
from spoken_intents.workers import Workers

pytestmark = pytest.mark.filterwarnings("error")

CALM = replace(SETTINGS, interruption_ms=160, silence_timeout_ms=0)
LONG = 20 * WINDOW  # of speech: sustained


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers() as pool:
        yield pool


class ScriptedSpeech:
    """Speaks each text as so many samples as `seconds` says, all of the value that the text's place gives."""

    def __init__(self, seconds: float = 2.0) -> None:
        self._samples = int(seconds * SAMPLE_RATE)
        self.spoken: List[str] = []

    async def speak(self, text: str) -> AsyncIterator[np.ndarray]:
        self.spoken.append(text)
        yield np.full(self._samples, len(self.spoken) / 100, dtype=np.float32)


class Bot(Caller):
    """Answers each turn by saying `answers[turn]`, or nothing."""

    def __init__(self, answers: Dict[str, Any], intents: Tuple[str, ...] = (), marks: bool = False) -> None:
        super().__init__(None, intents, marks)
        self._answers = answers
        self.session: SpokenSession

    async def converse(self, turn: Turn) -> None:
        await super().converse(turn)
        answer = self._answers.get(self._name(turn))
        if callable(answer):
            answer(self.session)
        elif answer is not None:
            await self.session.say(answer.strip("!"), may_interrupt=not answer.endswith("!"))

    @property
    def played_samples(self) -> int:
        return sum(map(len, self.heard("play")))


def converse(
    scenario: Callable[["Bot", SpokenSession], Awaitable[None]],
    bot: Bot,
    workers: Workers,
    settings: SessionSettings = CALM,
    recognizer: Any = None,
    speech: Optional[Any] = None,
) -> Bot:
    async def main() -> None:
        scripted = recognizer or ScriptedRecognizer()
        bot.find = lambda: scripted
        bot.session = opened(bot, workers, settings, speech or ScriptedSpeech())
        await asyncio.wait_for(scenario(bot, bot.session), PATIENCE_S)
        await asyncio.wait_for(bot.session.close(), PATIENCE_S)

    asyncio.run(main())
    return bot


async def until(condition: Callable[[], bool]) -> None:
    """Waits until the worker and its threads have got there; fails when they never do."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")


def silence(milliseconds: int) -> np.ndarray:
    return np.zeros(milliseconds * SAMPLE_RATE // 1000, dtype=np.float32)


def lasting(number: int, samples: int = LONG) -> np.ndarray:
    """As `said`, and sustained."""
    return np.concatenate([np.full(samples, 0.6 + number / 1000, dtype=np.float32), silence(200)])


# ---------------------------------------------------------------- the end of a turn


class Unsure(ScriptedRecognizer):
    """Says of `intent_1` that it is complete, of everything else that it is not."""

    def classify(self, samples: np.ndarray) -> Recognition:
        heard = super().classify(samples)
        return replace(heard, complete=1.0 if heard.intent == "intent_1" else 0.0)


def test_what_is_complete_needs_less_silence_than_what_is_not(workers: Workers) -> None:
    settings = replace(CALM, turn_end="adaptive", sure_silence_ms=80, unsure_silence_ms=400)

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        for number in (1, 2):
            await session.hear(np.concatenate([said(number), silence(500)]))
        await session.finish()

    bot = converse(scenario, Bot({}), workers, settings, Unsure())
    assert [(turn.recognition.intent, turn.endpoint_delay_ms) for turn in bot.turns] == [("intent_1", 80), ("intent_2", 400)]


def test_a_late_answer_delays_a_turn_and_changes_none_of_its_samples(workers: Workers) -> None:
    """The caller goes on right after the silence that was enough: a slow model must not join the two."""
    settings = replace(CALM, turn_end="adaptive", sure_silence_ms=80, unsure_silence_ms=400)
    line = np.concatenate([said(1)[: 9 * WINDOW], said(1)[: 5 * WINDOW], silence(600)])

    def turns(recognizer: Any, chunk: int) -> List[Tuple[int, int]]:
        async def scenario(bot: Bot, session: SpokenSession) -> None:
            for start in range(0, len(line), chunk):
                await session.hear(line[start : start + chunk])
            await session.finish()

        found = converse(scenario, Bot({}), workers, settings, recognizer).turns
        return [(turn.utterance.start_sample, turn.utterance.end_sample) for turn in found if turn.utterance]

    slow = Unsure(lambda: time.sleep(0.05))
    assert len(turns(Unsure(), len(line))) == 2
    assert turns(slow, len(line)) == turns(slow, WINDOW) == turns(Unsure(), 100) == turns(Unsure(), len(line))


def test_an_answer_that_had_to_be_waited_for_is_not_in_advance(workers: Workers) -> None:
    """And what the wait took is in the figures."""
    settings = replace(CALM, turn_end="adaptive", sure_silence_ms=80, unsure_silence_ms=400)
    asked = threading.Event()

    def slow() -> None:
        asked.set()
        time.sleep(0.05)

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(np.concatenate([said(1), silence(500)]))
        await session.finish()

    (turn,) = converse(scenario, Bot({}), workers, settings, Unsure(slow)).turns
    assert asked.is_set() and turn.ahead is False and turn.asr_latency_ms >= 50


def test_a_button_that_is_held_lets_nobody_be_cut_off(workers: Workers) -> None:
    for turn_end in ("fixed", "adaptive"):

        async def scenario(bot: Bot, session: SpokenSession) -> None:
            session.hold()
            await session.hear(np.concatenate([said(1), silence(3000), said(2)]))
            await settle()
            assert not bot.heard("rasa")
            await session.commit()
            await session.hear(np.concatenate([said(3), silence(500)]))  # not held any more
            await session.finish()

        settings = replace(CALM, turn_end=turn_end, sure_silence_ms=80, unsure_silence_ms=400)
        assert converse(scenario, Bot({}), workers, settings).heard() == ["intent_2", "intent_3"]


def test_a_caller_who_leaves_while_the_model_is_asked_breaks_nothing(workers: Workers) -> None:
    settings = replace(CALM, turn_end="adaptive", sure_silence_ms=80, unsure_silence_ms=400)
    release = threading.Event()

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        hearing = asyncio.create_task(session.hear(np.concatenate([said(1), silence(500)])))
        await settle()
        closing = asyncio.create_task(session.close())
        await settle()
        release.set()
        await hearing
        await closing

    bot = converse(scenario, Bot({}), workers, settings, Unsure(lambda: release.wait(PATIENCE_S)))
    assert bot.heard("started") == []


def test_an_answer_that_was_there_before_the_end_is_counted(workers: Workers) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1)[: 8 * WINDOW])  # the pause is known, the end not yet
        while not bot.heard("ahead"):
            await session.hear(np.zeros(0, dtype=np.float32))
            await asyncio.sleep(0.001)
        await session.hear(silence(200))
        await session.hear(said(2)[: 5 * WINDOW])
        await session.commit()
        await session.finish()

    bot = converse(scenario, Bot({}), workers)
    assert [turn.ahead for turn in bot.turns] == [True, False]
    assert bot.heard("ahead") == ["intent_1"]
    assert bot.turns[0].record()["ahead"] is True


def test_ten_minutes_without_a_breath_are_many_turns_and_nothing_is_lost(workers: Workers) -> None:
    line = np.full(600 * SAMPLE_RATE, 0.6, dtype=np.float32)

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(line)
        await session.finish()

    heard = [turn.utterance for turn in converse(scenario, Bot({}), workers).turns if turn.utterance]
    assert len(heard) == 30 and all(utterance.reason == "max_duration" for utterance in heard[:-1])
    assert sum(len(utterance.samples) for utterance in heard) == len(line)


# ---------------------------------------------------------------- interruptions


def test_a_caller_who_interrupts_stops_the_bot_and_is_answered(workers: Workers) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1))
        await until(lambda: bot.played_samples == 2 * SAMPLE_RATE)
        await session.hear(silence(500))
        await session.hear(lasting(2))
        await until(lambda: len(bot.turns) == 2)

    bot = Bot({"intent_1": "A long answer.", "intent_2": "Another."})
    converse(scenario, bot, workers)
    first, second = bot.turns
    assert bot.events.index(("clear", None)) < bot.events.index(("started", "intent_2"))
    assert first.interrupted is None and second.interrupted is not None
    # From the answer to 160 ms of the caller's speech.
    assert second.interrupted.of_ms == 2000 and 600 <= second.interrupted.heard_ms <= 700
    assert second.record()["interrupted"] == {"heard_ms": round(second.interrupted.heard_ms), "of_ms": 2000}


def test_a_cough_does_not_end_the_bots_sentence(workers: Workers) -> None:
    """Sustained, it stops playback; heard to be no speech, the rest is played from where it was."""
    noise = lasting(0)
    noise[noise > 0] = 0.75

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1))
        await until(lambda: bot.played_samples == 2 * SAMPLE_RATE)
        await session.hear(silence(500))
        await session.hear(noise)
        await until(lambda: bool(bot.heard("non_speech")))
        await settle()

    bot = converse(scenario, Bot({"intent_1": "A long answer."}), workers)
    assert bot.heard("clear") == [None]
    again = bot.played_samples - 2 * SAMPLE_RATE
    assert 1300 <= again * 1000 / SAMPLE_RATE <= 1400  # of 2 s, some 650 ms were heard
    assert len(bot.turns) == 1 and bot.over == bot.turns


def test_a_model_that_fails_on_an_interruption_lets_the_bot_go_on(workers: Workers) -> None:
    failing = iter([False, True])

    def before() -> None:
        if next(failing):
            raise RuntimeError("broken model")

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1))
        await until(lambda: bot.played_samples == 2 * SAMPLE_RATE)
        await session.hear(lasting(2))
        await until(lambda: len(bot.turns) == 2)

    bot = converse(scenario, Bot({"intent_1": "A long answer."}), workers, recognizer=ScriptedRecognizer(before))
    assert bot.failures and bot.played_samples > 2 * SAMPLE_RATE


def test_an_uh_huh_is_no_turn_while_the_bot_speaks(workers: Workers) -> None:
    settings = replace(CALM, backchannel_intents=("intent_7",))

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(7))  # nobody speaks: an answer like any other
        await until(lambda: bot.played_samples == 2 * SAMPLE_RATE)
        await session.hear(said(7))
        await until(lambda: bool(bot.heard("ignored")))

    bot = converse(scenario, Bot({"intent_7": "A long answer."}), workers, settings)
    assert bot.heard() == ["intent_7"] and bot.heard("ignored") == ["intent_7"]
    assert bot.played_samples == 2 * SAMPLE_RATE, "too short to have stopped anything"


def test_what_is_said_over_the_bot_is_heard_once(workers: Workers) -> None:
    """Also where no pause was classified in advance."""
    recognizer = ScriptedRecognizer()

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1))
        await until(lambda: bot.played_samples == 2 * SAMPLE_RATE)
        await session.hear(lasting(2)[:LONG])
        await session.commit()
        await until(lambda: len(bot.turns) == 2)

    bot = converse(scenario, Bot({"intent_1": "A long answer."}), workers, CALM, recognizer)
    assert bot.heard() == ["intent_1", "intent_2"] and len(recognizer.threads) == 2


def test_what_is_short_and_unsure_is_no_interruption(workers: Workers) -> None:
    """The recognizer is 0.9 sure: enough for 0.9, not for 0.95; sustained speech counts in any case."""

    def turns(confidence: float, caller: np.ndarray) -> List[str]:
        async def scenario(bot: Bot, session: SpokenSession) -> None:
            await session.hear(said(1))
            await until(lambda: bot.played_samples == 2 * SAMPLE_RATE)
            await session.hear(caller)
            await until(lambda: len(bot.turns) == 2 or bool(bot.heard("ignored")))

        bot = Bot({"intent_1": "A long answer."})
        return converse(scenario, bot, workers, replace(CALM, interruption_confidence=confidence)).heard()

    assert turns(0.9, said(2)) == ["intent_1", "intent_2"]
    assert turns(0.95, said(2)) == ["intent_1"]
    assert turns(0.95, lasting(2)) == ["intent_1", "intent_2"]


@pytest.mark.parametrize(("channel", "answer"), [(False, "A long answer."), (True, "A long answer.!")])
def test_an_answer_that_may_not_be_interrupted_is_played_to_its_end(workers: Workers, channel: bool, answer: str) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1))
        await until(lambda: bot.played_samples == 2 * SAMPLE_RATE)
        await session.hear(lasting(2))
        await until(lambda: len(bot.turns) == 2)
        assert bot.heard("clear") == []

    bot = Bot({"intent_1": answer, "intent_2": "Afterwards."})
    converse(scenario, bot, workers, replace(CALM, barge_in=channel))
    assert bot.turns[1].interrupted is None and bot.played_samples == 4 * SAMPLE_RATE


def test_what_is_to_be_heard_to_its_end_is_said_though_the_caller_interrupted_what_was_before(workers: Workers) -> None:
    """Held before it was there: the bot would say nothing any more, for the rest of the call."""
    interrupted, spoken = asyncio.Event(), asyncio.Event()

    class Announcing(Bot):
        async def converse(self, turn: Turn) -> None:
            await super().converse(turn)
            if self._name(turn) == "intent_1":
                await interrupted.wait()
                await self.session.say("This call is recorded.", may_interrupt=False)

    class Slow(ScriptedSpeech):
        async def speak(self, text: str) -> AsyncIterator[np.ndarray]:
            await spoken.wait()
            async for samples in super().speak(text):
                yield samples

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1))
        await until(lambda: bool(bot.heard("rasa")))
        await session.hear(lasting(2)[:LONG])
        assert bot.heard("clear") == [None]
        interrupted.set()
        await session.hear(silence(200))
        await settle()
        spoken.set()
        await until(lambda: len(bot.turns) == 2)

    speech = Slow()
    bot = converse(scenario, Announcing({"intent_1": "A long answer.", "intent_2": "Afterwards."}), workers, speech=speech)
    assert speech.spoken == ["A long answer.", "This call is recorded.", "Afterwards."]
    assert bot.heard() == ["intent_1", "intent_2"]


def test_what_was_still_to_be_said_is_dropped_with_the_rest(workers: Workers) -> None:
    """The engine is at the second sentence when the caller interrupts the first."""
    go_on = asyncio.Event()

    class Slow:
        async def speak(self, text: str) -> AsyncIterator[np.ndarray]:
            yield np.full(SAMPLE_RATE, 0.1, dtype=np.float32)
            await go_on.wait()
            yield np.full(SAMPLE_RATE, 0.2, dtype=np.float32)

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1))
        await until(lambda: bot.played_samples == SAMPLE_RATE)
        await session.hear(lasting(2))
        await until(lambda: bool(bot.heard("clear")))
        go_on.set()
        await until(lambda: len(bot.turns) == 2)

    bot = converse(scenario, Bot({"intent_1": "One. Two."}), workers, speech=Slow())
    assert bot.played_samples == SAMPLE_RATE
    assert bot.heard() == ["intent_1", "intent_2"]


def test_a_typed_turn_interrupts_too(workers: Workers) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.type("one")
        await until(lambda: bot.played_samples == 2 * SAMPLE_RATE)
        await session.type("two")
        await until(lambda: len(bot.turns) == 2)

    bot = converse(scenario, Bot({"one": "A long answer."}), workers)
    assert bot.turns[1].interrupted == Interruption(0.0, 2000.0)


def test_a_caller_who_goes_on_while_rasa_thinks_is_not_talked_over(workers: Workers) -> None:
    """The bot's answer begins in the middle of what the caller says next."""
    think = asyncio.Event()

    class Thinking(Bot):
        async def converse(self, turn: Turn) -> None:
            if self._name(turn) == "intent_1":
                await think.wait()
            await super().converse(turn)

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1))
        await until(lambda: bool(bot.heard("started")))
        await session.hear(np.full(LONG, 0.602, dtype=np.float32))
        think.set()
        await until(lambda: bot.played_samples > 0)
        await session.hear(np.full(WINDOW, 0.602, dtype=np.float32))
        assert bot.heard("clear") == [None]
        await session.hear(silence(200))
        await until(lambda: len(bot.turns) == 2)

    bot = converse(scenario, Thinking({"intent_1": "A long answer."}), workers)
    assert bot.turns[1].interrupted is not None


def test_a_cough_is_judged_while_rasa_is_busy(workers: Workers) -> None:
    """The bot has said "one moment" and an action runs: a cough must not silence it until the action is over."""
    over = asyncio.Event()
    noise = lasting(0)
    noise[noise > 0] = 0.75

    class Busy(Bot):
        async def converse(self, turn: Turn) -> None:
            await super().converse(turn)
            await over.wait()

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1))
        await until(lambda: bot.played_samples == 2 * SAMPLE_RATE)
        await session.hear(noise)
        assert bot.heard("non_speech") and bot.played_samples > 2 * SAMPLE_RATE and not bot.turns
        over.set()
        await until(lambda: len(bot.turns) == 1)

    converse(scenario, Busy({"intent_1": "One moment."}), workers)


def test_what_may_not_be_interrupted_survives_what_may(workers: Workers) -> None:
    class Both(Bot):
        async def converse(self, turn: Turn) -> None:
            await Caller.converse(self, turn)
            if self._name(turn) == "intent_1":
                await self.session.say("Hello.")
                await self.session.say("A legal notice.", may_interrupt=False)

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1))
        await until(lambda: len(bot.turns) == 1)
        await session.hear(lasting(2))
        await until(lambda: len(bot.turns) == 2)

    bot = converse(scenario, Both({}), workers)
    played = np.concatenate(bot.heard("play"))
    notice = played[played > 0.015]
    assert bot.turns[1].interrupted is not None and len(notice) == 4 * SAMPLE_RATE, "2 s of it, and from its beginning again"


def test_playback_that_goes_on_is_marked_again(workers: Workers) -> None:
    noise = lasting(0)
    noise[noise > 0] = 0.75

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1))
        await until(lambda: len(bot.turns) == 1)
        await settle()
        await session.hear(noise)
        await until(lambda: len(bot.turns) == 2)  # the end of the same turn, told again
        await session.played("mark 1")  # forgotten
        await session.type("two")
        await until(lambda: len(bot.turns) == 3)
        assert bot.turns[2].interrupted is not None

    converse(scenario, Bot({"intent_1": "A long answer."}, marks=True), workers)


def test_an_interruption_does_not_wait_for_a_stale_sentence(workers: Workers) -> None:
    """The engine never finishes the second sentence; a mark is waiting behind it."""
    never = asyncio.Event()

    class Hanging:
        async def speak(self, text: str) -> AsyncIterator[np.ndarray]:
            yield np.full(SAMPLE_RATE, 0.1, dtype=np.float32)
            await never.wait()

    class Marking(Bot):
        async def converse(self, turn: Turn) -> None:
            await super().converse(turn)
            await self.session.then(self.send_mark)

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1))
        await until(lambda: bot.played_samples == SAMPLE_RATE)
        await session.hear(lasting(2))
        await until(lambda: len(bot.turns) == 2)

    assert converse(scenario, Marking({"intent_1": "One. Two."}), workers, speech=Hanging()).failures == []


# ---------------------------------------------------------------- playback


def test_a_mark_tells_better_than_the_clock_how_far_playback_is(workers: Workers) -> None:
    class Two(Bot):
        async def converse(self, turn: Turn) -> None:
            await Caller.converse(self, turn)
            if turn.text == "one":
                for text in ("First.", "Second."):
                    await self.session.say(text)
                    await self.session.then(self.send_mark)

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.type("one")
        await until(lambda: len(bot.turns) == 1)
        await settle()
        await session.hear(silence(500))
        await session.played("mark 1s")  # the client plays faster than its clock says
        await session.hear(silence(100))
        await session.type("two")
        await until(lambda: len(bot.turns) == 2)

    bot = converse(scenario, Two({}, marks=True), workers)
    assert bot.turns[1].interrupted == Interruption(2100.0, 4000.0)


def test_a_mark_may_come_back_before_it_is_known_to_be_sent(workers: Workers) -> None:
    class Quick(Bot):
        async def turn_ended(self, turn: Turn) -> Optional[str]:
            await self.session.played(f"mark {len(self.turns) + 1}")
            return await super().turn_ended(turn)

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        for number, text in enumerate(("one", "two"), 1):
            await session.type(text)
            await until(lambda number=number: len(bot.turns) == number)
            await settle()

    bot = converse(scenario, Quick({"one": "A long answer."}, marks=True), workers)
    assert bot.turns[1].interrupted is None


def test_going_on_that_is_cancelled_jams_nothing(workers: Workers) -> None:
    stuck = asyncio.Event()

    class Slow(Bot):
        async def play(self, samples: np.ndarray) -> None:
            await super().play(samples)
            if stuck.is_set():
                await asyncio.sleep(PATIENCE_S)

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.type("one")
        await until(lambda: len(bot.turns) == 1)
        await session._speaker.hold()
        stuck.set()
        going = asyncio.create_task(session._speaker.go_on())
        await settle()
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
        stuck.clear()
        await session.type("two")
        await until(lambda: len(bot.turns) == 2)

    converse(scenario, Slow({"one": "A long answer.", "two": "Another."}), workers)


def test_every_turn_is_in_the_log_once_with_the_end_of_its_playback(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1))  # 300 ms
        await until(lambda: len(bot.turns) == 1)
        await settle()
        await session.hear(silence(500))
        await session.hear(lasting(2))  # holds at 800 + 160
        await until(lambda: len(bot.turns) == 2)
        await settle()
        await session.finish()

    with caplog.at_level("INFO", "spoken_intents.session"):
        converse(scenario, Bot({"intent_1": "A long answer."}), workers)
    logged = [json.loads(message) for message in caplog.messages if '"turn_over"' in message]
    assert [turn["number"] for turn in logged] == [1, 2]
    assert [turn["intent"] for turn in logged] == ["intent_1", "intent_2"]
    assert logged[0]["playback_end_ms"] == 960 and logged[0]["tts_first_byte_latency_ms"] > 0
    assert "playback_end_ms" not in logged[1] and "tts_first_byte_latency_ms" not in logged[1]


def test_playback_is_over_by_its_mark_or_by_the_callers_clock(workers: Workers) -> None:
    def interrupted(marks: bool, echo: bool, wait_ms: int) -> bool:
        async def scenario(bot: Bot, session: SpokenSession) -> None:
            await session.type("one")
            await until(lambda: len(bot.turns) == 1)
            await session.played("never sent")
            if echo:
                await session.played("mark 1")
            await session.hear(silence(wait_ms))
            await session.type("two")
            await until(lambda: len(bot.turns) == 2)

        bot = Bot({"one": "A long answer."}, marks=marks)
        return converse(scenario, bot, workers).turns[1].interrupted is not None

    assert interrupted(marks=True, echo=False, wait_ms=1900)
    assert not interrupted(marks=True, echo=True, wait_ms=0), "the mark came back"
    assert interrupted(marks=True, echo=False, wait_ms=2900), "a mark may come late"
    assert not interrupted(marks=True, echo=False, wait_ms=3100), "this one never comes"
    assert not interrupted(marks=False, echo=False, wait_ms=2100), "nobody marks: the clock alone"


def test_where_nothing_is_spoken_nothing_is_played(workers: Workers) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.type("one")
        await session.type("two")
        await session.finish()

    async def main() -> None:
        bot.session = opened(bot, workers, CALM)
        await asyncio.wait_for(scenario(bot, bot.session), PATIENCE_S)

    bot = Bot({"one": "A long answer."})
    asyncio.run(main())
    assert bot.heard() == ["one", "two"] and bot.played_samples == 0 and bot.turns[1].interrupted is None


class Failing:
    """An engine that hangs, or raises, on everything but "Fine."."""

    sample_rate, language = SAMPLE_RATE, "en"

    def __init__(self, fail: Callable[[], Any]) -> None:
        self._fail = fail

    def synthesize(self, sentence: str) -> np.ndarray:
        return np.ones(SAMPLE_RATE, dtype=np.float32) if sentence == "Fine." else self._fail()


@pytest.mark.parametrize("hangs", [True, False])
def test_a_voice_that_fails_costs_no_turn(workers: Workers, hangs: bool, caplog: pytest.LogCaptureFixture) -> None:
    """What hangs is left alone until it is through; then the voice is back."""
    release = threading.Event()

    def fail() -> Any:
        if not hangs:
            raise RuntimeError("no such phoneme")
        assert release.wait(PATIENCE_S)
        return np.zeros(0, dtype=np.float32)

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.type("one")
        await session.type("two")
        await until(lambda: len(bot.turns) == 2)
        release.set()
        await until(lambda: speech._hanging is None or speech._hanging.done())
        await session.type("three")
        await until(lambda: len(bot.turns) == 3)

    speech = Speech(Failing(fail), "failing", SpeechSettings(speech_timeout_ms=100, speech_cache_mb=0))
    bot = converse(scenario, Bot({"one": "Broken.", "two": "Broken.", "three": "Fine."}), workers, speech=speech)
    speech.close()
    assert bot.failures == [] and bot.played_samples == SAMPLE_RATE
    assert "is not spoken" in caplog.text


# ---------------------------------------------------------------- silence


QUIET = replace(CALM, silence_timeout_ms=3000, still_there="Hello?", goodbye="Bye.")


def test_on_nobody_the_bot_repeats_asks_and_hangs_up(workers: Workers) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.type("one")
        await until(lambda: len(bot.turns) == 1)
        for _ in range(200):
            await session.hear(silence(100))
            await settle()

    speech = ScriptedSpeech()
    bot = converse(scenario, Bot({"one": "Your balance?"}), workers, QUIET, speech=speech)
    assert speech.spoken == ["Your balance?", "Your balance?", "Hello?", "Bye."]
    assert bot.heard("silence") == [1, 2, 3] and bot.heard("show") == ["Hello?", "Bye."]
    assert bot.heard("hangup") == [None]
    # The last word is played before that: three silences of 3 s, each after 2 s of speech.
    assert [name for name, _ in bot.events if name != "clear"][-1] == "hangup"


def test_silence_is_counted_from_the_end_of_playback(workers: Workers) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.type("one")
        await until(lambda: len(bot.turns) == 1)
        await settle()
        for _ in range(48):
            await session.hear(silence(100))
        assert bot.heard("silence") == []  # 4.8 s, of which the bot speaks for 2
        await session.hear(silence(200))
        assert bot.heard("silence") == [1]

    converse(scenario, Bot({"one": "Your balance?"}), workers, QUIET)


def test_stories_hear_of_a_silence_and_the_last_one_ends_the_call(workers: Workers) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        for _ in range(200):
            await session.hear(silence(100))
            await settle()

    speech = ScriptedSpeech(0.5)
    bot = converse(scenario, Bot({"/silence": "Speak up."}, intents=("silence",)), workers, QUIET, speech=speech)
    assert bot.heard() == ["/silence", "/silence"] and speech.spoken == ["Speak up.", "Speak up.", "Bye."]
    assert bot.heard("hangup") == [None]


def test_a_caller_who_answers_begins_anew(workers: Workers) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        for number in range(6):
            for _ in range(35):
                await session.hear(silence(100))
                await settle()
            await session.hear(said(number))
            await until(lambda number=number: len(bot.turns) == number + 1)

    bot = converse(scenario, Bot({}), workers, QUIET, speech=ScriptedSpeech(0.1))
    assert bot.heard("silence") == [1] * 6 and bot.heard("hangup") == []


def test_whoever_answers_the_goodbye_is_kept(workers: Workers) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        while "Bye." not in speech.spoken:
            await session.hear(silence(100))
            await settle()
        await session.hear(said(1))
        await until(lambda: len(bot.turns) == 1)
        await session.hear(silence(1000))
        assert bot.heard("hangup") == []

    speech = ScriptedSpeech()
    assert converse(scenario, Bot({}), workers, QUIET, speech=speech).heard() == ["intent_1"]


def test_what_the_bot_says_by_itself_is_marked_too(workers: Workers) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        while not bot.heard("hangup"):
            await session.hear(silence(100))
            await settle()
            if "Bye." in speech.spoken and bot.heard("mark"):
                await session.played(f"mark {len(bot.heard('mark'))}s")

    speech = ScriptedSpeech(60.0)
    bot = converse(scenario, Bot({}, marks=True), workers, replace(QUIET, max_silences=1), speech=speech)
    assert bot.heard("mark") == [None] and bot.played_samples == 60 * SAMPLE_RATE  # nobody waited for a minute


def test_an_unsure_answer_right_behind_the_question_is_a_turn(workers: Workers) -> None:
    """The question's mark is late: the bot is not speaking all the same."""

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.type("one")
        await until(lambda: len(bot.turns) == 1)
        await session.hear(silence(2300))
        await session.hear(said(2))
        await until(lambda: len(bot.turns) == 2)

    bot = Bot({"one": "A question?"}, marks=True)
    assert converse(scenario, bot, workers, replace(CALM, interruption_confidence=0.95)).heard() == ["one", "intent_2"]


def test_nobody_is_asked_while_they_speak_or_wait_for_rasa(workers: Workers) -> None:
    busy = asyncio.Event()

    class Thinking(Bot):
        async def converse(self, turn: Turn) -> None:
            await super().converse(turn)
            await busy.wait()

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(np.full(4 * SAMPLE_RATE, 0.6, dtype=np.float32))  # speaks for longer than the silence may last
        await session.hear(silence(200))
        for _ in range(50):
            await session.hear(silence(100))
            await settle()
        assert bot.heard("silence") == []
        busy.set()
        await until(lambda: len(bot.turns) == 1)

    bot = Thinking({})
    converse(scenario, bot, workers, QUIET)


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("length", "keys", "wait_ms", "turns"),
    [
        (0, ["12", "3#"], 0, ["123"]),
        (0, ["1", "2"], 2100, ["12"]),
        (0, ["1", "2"], 1900, []),
        (4, ["1234", "56"], 2100, ["1234", "56"]),
        (0, ["#", "*#"], 0, ["*"]),
        (0, ["7" * 40], 2100, ["7" * 32, "7" * 8]),
    ],
)
def test_keys_are_a_turn(workers: Workers, length: int, keys: List[str], wait_ms: int, turns: List[str]) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        for some in keys:
            await session.dtmf(some)
            await session.hear(silence(20))
        await session.hear(silence(wait_ms))
        await until(lambda: len(bot.turns) == len(turns))
        await settle()

    for intents, wanted in (((), turns), (("dtmf",), [f'/dtmf{{"digits": "{digits}"}}' for digits in turns])):
        bot = converse(scenario, Bot({}, intents), workers, replace(CALM, dtmf_length=length))
        assert bot.heard() == wanted


def test_nobody_is_asked_while_more_keys_may_follow(workers: Workers) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.dtmf("1")
        for _ in range(50):
            await session.hear(silence(100))
            await settle()
        assert bot.heard("silence") == []
        await session.dtmf("2#")
        await until(lambda: len(bot.turns) == 1)

    assert converse(scenario, Bot({}), workers, replace(QUIET, dtmf_pause_ms=10_000)).heard() == ["12"]


def test_keys_pressed_while_speaking_lose_neither(workers: Workers) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.hear(said(1)[: 3 * WINDOW])
        await session.dtmf("5#")
        await session.hear(said(1)[3 * WINDOW :])
        await until(lambda: len(bot.turns) == 2)

    bot = converse(scenario, Bot({}, ("dtmf",)), workers)
    assert bot.heard() == ['/dtmf{"digits": "5"}', "intent_1"]


# ---------------------------------------------------------------- hanging up


def test_the_call_ends_after_the_last_word_was_played(workers: Workers) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.type("bye")
        await until(lambda: len(bot.turns) == 1)
        await settle()
        await session.hear(silence(1000))
        await session.hear(said(2))  # too late
        assert bot.heard("hangup") == []
        await session.played("mark 1")
        assert bot.heard("hangup") == [None]
        await session.played("mark 1")
        await session.hear(silence(5000))

    class Leaving(Bot):
        async def converse(self, turn: Turn) -> None:
            await super().converse(turn)
            self.session.hang_up()

    bot = Leaving({"bye": "Goodbye."}, marks=True)
    converse(scenario, bot, workers)
    assert bot.heard("hangup") == [None] and bot.heard() == ["bye"]


def test_what_is_typed_behind_the_goodbye_is_not_answered(workers: Workers) -> None:
    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.type("bye")
        await until(lambda: len(bot.turns) == 1)
        await session.type("wait")
        await session.dtmf("1#")
        await session.played("mark 1")
        await until(lambda: bool(bot.heard("hangup")))
        await settle()

    bot = Bot({"bye": lambda session: session.hang_up()}, marks=True)
    assert converse(scenario, bot, workers).heard() == ["bye"]


def test_a_client_that_neither_sends_nor_marks_is_hung_up_on(workers: Workers) -> None:
    """Its clock stands still: ours says when the last word must be over."""

    class Leaving(Bot):
        async def converse(self, turn: Turn) -> None:
            await super().converse(turn)
            self.session.hang_up()

    async def scenario(bot: Bot, session: SpokenSession) -> None:
        await session.type("bye")
        await until(lambda: bool(bot.heard("hangup")))

    bot = converse(scenario, Leaving({"bye": "Bye."}, marks=True), workers, speech=ScriptedSpeech(0.05))
    assert bot.played_samples == 800


def test_without_a_voice_the_call_ends_with_the_turn(workers: Workers) -> None:
    async def main() -> None:
        bot.session = opened(bot, workers, CALM)
        await bot.session.type("bye")
        await until(lambda: bool(bot.heard("hangup")))
        await bot.session.close()

    bot = Bot({"bye": lambda session: session.hang_up()})
    asyncio.run(main())
    assert bot.heard() == ["bye"]


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interruption_confidence": 1.5}, r"interruption_confidence takes a number from 0 to 1, got 1\.5\."),
        ({"silence_timeout_ms": 10}, r"silence_timeout_ms takes 0 or 1000 to 600000, got 10\."),
        ({"max_silences": 0}, r"max_silences takes 1 to 100, got 0\."),
        ({"dtmf_length": 33}, r"dtmf_length takes 0 to 32, got 33\."),
        ({"dtmf_pause_ms": 10}, r"dtmf_pause_ms takes 200 to 60000, got 10\."),
        ({"interruption_ms": 10}, r"interruption_ms takes 100 to 5000, got 10\."),
        ({"turn_end": "never"}, r"turn_end takes adaptive or fixed, got 'never'\."),
        (
            {"min_silence_duration_ms": 150},
            r"sure_silence_ms \(200\) takes up to min_silence_duration_ms \(150\), which would end",
        ),
        ({"sure_silence_ms": 100}, r"sure_silence_ms \(100\) takes pause_ms \(120\) to unsure_silence_ms \(1200\)"),
    ],
)
def test_settings_out_of_range_are_refused(change: Dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SessionSettings(**change)
