"""A conversation in which anything may happen at any time: what has to hold all the same.

Hypothesis chooses what happens next: the caller speaks, presses keys, types, leaves; the model answers, late or not at all; Rasa
answers, fails, hangs up; the voice speaks. Threads, time and the loudspeaker are scripted, so what was found happens again.
"""

import asyncio
import logging
import time
from collections import deque
from types import SimpleNamespace
from typing import Any, Callable, Coroutine, Deque, List, NamedTuple, Optional, Tuple

import numpy as np
from fuzzing import fuzz
from hypothesis import strategies as st
from test_session import WINDOW, LoudVad

from spoken_intents import speaking
from spoken_intents.recognizer import Recognition
from spoken_intents.segmenter import Segmenter, Utterance
from spoken_intents.session import SessionSettings, SpokenSession
from spoken_intents.turns import Backchannel, NotSpeech, Turn, TurnFailed, TurnOver, TurnStarted
from spoken_intents.utterances import hand_off
from spoken_intents.workers import Workers

SURE, UNFINISHED, UNSURE, UH_HUH, NOISE = 0.6, 0.62, 0.65, 0.7, 0.75  # what somebody says, by its loudness
NEVER = ("A failed turn could not be told.", "A call could not be ended.", "Something could not be spoken.")
LONGEST_TEXT = 2**15  # samples of a text that is spoken


class Jobs:
    """In place of threads: what they are given is done when a test says so."""

    def __init__(self) -> None:
        self.waiting: Deque[Callable[[], None]] = deque()

    def submit(self, job: Callable[[], None]) -> None:
        self.waiting.append(job)

    def shutdown(self, wait: bool) -> None:
        pass


class Ear:
    """A recognizer that knows what is meant by how loud it is."""

    def __init__(self, number: int) -> None:
        self.fingerprint = f"model {number}"
        self.failing = False

    def classify(self, samples: np.ndarray) -> Recognition:
        if self.failing:
            raise RuntimeError("broken model")
        loud = round(float(samples.max()), 2)
        intent = "uh-huh" if loud == UH_HUH else "other"
        confidence = {UNSURE: 0.3, NOISE: 0.1}.get(loud, 0.9)
        complete = None if loud == UH_HUH else float(loud != UNFINISHED)
        return Recognition(((intent, confidence), ("rest", 0.05)), 0.8 if loud == NOISE else 0.0, self.fingerprint, 1.0, complete)


class Voice:
    """Speaks each text in two halves, each when a test says so; a sample says which text it is of, and where in it."""

    def __init__(self, length: int) -> None:
        self._half = length // 2
        self.gate = asyncio.Semaphore(0)
        self.texts: List[str] = []
        self.broken = False

    async def speak(self, text: str) -> Any:
        self.texts.append(text)
        number = len(self.texts) - 1
        for half in range(2):
            await self.gate.acquire()
            if self.broken:
                return
            yield np.arange(half * self._half, (half + 1) * self._half, dtype=np.float32) + number * LONGEST_TEXT


class Loudspeaker:
    """Plays by the caller's clock what it is given."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._line: List[Tuple[int, np.ndarray]] = []  # when, what
        self.marks: List[Tuple[int, str]] = []  # when it is reached
        self.heard: List[np.ndarray] = []

    @property
    def end(self) -> int:
        """When all will have been played."""
        return max([self._clock(), *(at + len(samples) for at, samples in self._line)])

    def play(self, samples: np.ndarray) -> None:
        self._line.append((self.end, samples))

    def clear(self) -> None:
        self.advance()
        self._line = []
        self.marks = [(self._clock(), name) for _, name in self.marks]  # some say at once that they were reached

    def advance(self) -> None:
        now, left = self._clock(), []
        for at, samples in self._line:
            played = samples[: max(0, now - at)]
            if len(played):
                self.heard.append(played)
            if len(played) < len(samples):
                left.append((at + len(played), samples[len(played) :]))
        self._line = left

    def reached(self) -> List[str]:
        """The marks that were reached since this was asked last."""
        now, before = self._clock(), self.marks
        self.marks = [mark for mark in before if mark[0] > now]
        return [name for at, name in before if at <= now]


class Call:
    """The caller's side and Rasa; writes down what happens, and says at once what must not."""

    def __init__(self, machine: "Conversation") -> None:
        self.machine = machine
        self.model: Optional[Ear] = Ear(0)
        self.utterances: List[Utterance] = []
        self.typed: List[str] = []
        self.rejected = 0
        self.started: List[Turn] = []
        self.failed: List[Turn] = []
        self.ended: List[Turn] = []
        self.over: List[Turn] = []
        self.texts: List[Tuple[str, bool]] = []  # what the bot said, and whether it may be interrupted
        self.dropped = 0  # of them, by the last turn that interrupted
        self.hung_up = False
        self.asked: "Optional[asyncio.Queue[Any]]" = None  # what Rasa does with the turn it has
        self.known = {"dtmf", "silence"} if machine.knows_intents else set()
        self.names = 0

    def check(self, holds: bool, otherwise: str) -> None:
        """For what is called by the session, which survives what goes wrong here: an `assert` would only be logged."""
        if not holds:
            self.machine.problems.append(otherwise)

    def says(self) -> None:
        """Something is about to be told or played: nobody listens any more behind the end."""
        self.check(not self.hung_up, "something is said behind the end of the call")
        self.check(not self.machine.closed, "something is said when all is over")

    def recognizer(self) -> Any:
        return self.model

    def has_intent(self, name: str) -> bool:
        return name in self.known

    async def tell(self, happening: Any) -> None:
        if isinstance(happening, TurnOver):
            known = among(happening.turn, self.started + self.failed)
            self.check(known and not among(happening.turn, self.over), "a turn is over that never was, or again")
            self.over.append(happening.turn)
            return
        self.says()
        if isinstance(happening, Utterance):
            self.utterances.append(happening)
        elif isinstance(happening, (NotSpeech, Backchannel)):
            self.rejected += 1
        elif isinstance(happening, TurnStarted):
            self.check(len(self.started) == len([turn for turn in self.started if among(turn, self.ended)]), "two turns at once")
            self.started.append(happening.turn)
            if happening.turn.interrupted:
                self.dropped = len(self.texts)
        elif isinstance(happening, TurnFailed):
            self.check(not among(happening.turn, self.failed), "a turn fails twice")
            self.failed.append(happening.turn)

    async def converse(self, turn: Turn) -> None:
        self.check(self.asked is None, "Rasa has two turns at once")
        self.check(not self.machine.closing_began_idle, "Rasa gets a turn that nobody is there for")
        if turn.utterance is not None and self.machine.rasa_listens:
            self.check(hand_off.take(turn.text).samples is turn.utterance.samples, "Rasa hears something else")
        self.asked = asyncio.Queue()
        try:
            while True:
                act = await self.asked.get()
                if act == "done":
                    return
                if act == "fail":
                    raise ConnectionError("the action server is gone")
                if act == "hang up":
                    self.machine.session.hang_up()
                else:
                    await self.speak(may_interrupt=act == "say")
        finally:
            self.asked = None

    async def speak(self, may_interrupt: bool) -> None:
        text = f"text {len(self.texts)}"
        self.texts.append((text, may_interrupt and self.machine.settings.barge_in))
        await self.machine.session.say(text, may_interrupt)
        await self.machine.session.then(self.send_mark)

    def mark(self) -> Optional[str]:
        self.names += 1
        if not self.machine.marks:
            return None
        self.machine.loudspeaker.marks.append((self.machine.loudspeaker.end, f"mark {self.names}"))
        return f"mark {self.names}"

    async def turn_ended(self, turn: Turn) -> Optional[str]:
        self.check(among(turn, self.started) or among(turn, self.failed), "a turn ends that never began")
        if not among(turn, self.ended):  # else told again, behind speech that was broken off by mistake
            self.ended.append(turn)
        return self.mark()

    async def send_mark(self) -> Optional[str]:
        return self.mark()

    async def play(self, samples: np.ndarray) -> None:
        self.says()
        self.check(not self.machine.closing, "something is played to nobody")
        text = self.machine.voice.texts[int(samples[0]) // LONGEST_TEXT]
        last, may_interrupt = [(number, may) for number, (said, may) in enumerate(self.texts) if said == text][-1]
        self.check(last >= self.dropped or not may_interrupt, "what was broken off is heard again")
        self.machine.loudspeaker.play(samples)

    async def clear(self) -> None:
        self.says()
        self.machine.loudspeaker.clear()

    async def show(self, text: str) -> None:
        self.says()
        self.texts.append((text, self.machine.settings.barge_in))

    async def hang_up(self) -> None:
        self.check(not self.hung_up and not self.machine.closing, "hung up twice, or behind the end")
        self.check(self.asked is None, "hung up while Rasa has a turn")
        self.check(self.machine.loudspeaker.end <= self.machine.clock() or self.machine.over_by_our_clock, "hung up in mid-word")
        self.hung_up = True


def among(turn: Turn, turns: List[Turn]) -> bool:
    """Whether it is one of them; to compare them would be to compare what they hold."""
    return any(turn is other for other in turns)


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time passes when a test says so."""

    now = 0.0

    def time(self) -> float:
        return self.now


class Kind(NamedTuple):
    """What is settled before a call."""

    adaptive: bool
    barge_in: bool
    timeout: int  # in milliseconds, of silence
    keys: int  # that make a turn
    voice: int  # samples of each text; 0: nothing is spoken
    marks: bool  # whether the caller's side tells what it has played
    knows_intents: bool
    rasa_listens: bool
    most_waiting: int


class Conversation:
    def __init__(self, kind: Kind) -> None:
        self.loop = Clock()
        self.problems: List[Any] = []
        self.loop.set_exception_handler(lambda loop, context: self.problems.append(context))
        self.log = logging.Handler()
        self.log.emit = lambda record: self.problems.append(record) if record.msg in NEVER else None  # type: ignore[method-assign]
        logging.getLogger("spoken_intents").addHandler(self.log)
        speaking.time = SimpleNamespace(monotonic=self.loop.time, perf_counter=time.perf_counter)  # type: ignore[attr-defined]
        self.settings = SessionSettings(
            start_window_ms=60, min_speech_duration_ms=60, pause_ms=60, min_silence_duration_ms=160, speech_pad_ms=0,
            max_speech_duration_ms=1000, interruption_ms=160, turn_end="adaptive" if kind.adaptive else "fixed", sure_silence_ms=80,
            unsure_silence_ms=240, barge_in=kind.barge_in, backchannel_intents=("uh-huh",), silence_timeout_ms=kind.timeout, max_silences=2,
            dtmf_length=kind.keys, dtmf_pause_ms=200,
        )  # fmt: skip
        self.marks, self.knows_intents, self.rasa_listens = kind.marks, kind.knows_intents, kind.rasa_listens
        self.closing = self.closed = self.finishing = self.closing_began_idle = self.over_by_our_clock = False
        self.workers = Workers(1, kind.most_waiting)
        self.workers._threads.shutdown()
        self.jobs = self.workers._threads = Jobs()  # type: ignore[assignment]
        self.acts: Deque[Callable[[], Coroutine[Any, Any, Any]]] = deque()  # of the caller, one after the other
        self.acting: "Optional[asyncio.Task[Any]]" = None
        self.call = Call(self)
        self.segmenter = Segmenter(self.settings, LoudVad())
        self.loudspeaker = Loudspeaker(self.clock)

        async def open() -> None:
            self.voice = Voice(kind.voice)
            self.session = SpokenSession(
                self.settings, self.call, self.call, self.workers, self.voice if kind.voice else None, self.segmenter  # type: ignore
            )  # fmt: skip

        self.loop.run_until_complete(open())

    def clock(self) -> int:
        return self.segmenter.now

    def settle(self) -> None:
        """Lets everything happen that can without time, threads or anybody's doing."""
        for _ in range(1000):
            if (self.acting is None or self.acting.done()) and self.acts and not self.closing:
                if self.acting is not None:
                    self.acting.result()
                self.acting = self.loop.create_task(self.acts.popleft()())
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            if not self.loop._ready and not (self.acts and not self.closing and (self.acting is None or self.acting.done())):
                self.loudspeaker.advance()
                return
        raise AssertionError("it never comes to rest")

    # ------------------------------------------------ the caller

    def act(self, act: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        if not self.closing and not self.finishing:
            self.acts.append(act)
            self.settle()

    def speak(self, loud: float, speech: int, pause: int) -> None:
        samples = np.zeros((speech + pause) * WINDOW, dtype=np.float32)
        samples[: speech * WINDOW] = loud
        self.act(lambda: self.session.hear(samples))

    def be_silent(self, windows: int) -> None:
        self.act(lambda: self.session.hear(np.zeros(windows * WINDOW, dtype=np.float32)))

    def commit(self) -> None:
        self.act(self.session.commit)

    def hold(self) -> None:
        async def hold() -> None:
            self.session.hold()

        self.act(hold)

    def type(self) -> None:
        async def type() -> None:
            text = f"typed {len(self.call.typed)}"
            if not self.session._hanging_up:
                self.call.typed.append(text)
            await self.session.type(text)

        self.act(type)

    def press(self, keys: str) -> None:
        self.act(lambda: self.session.dtmf(keys))

    def marks_come_back(self) -> None:
        async def played() -> None:
            for name in self.loudspeaker.reached():
                await self.session.played(name)

        self.act(played)

    def a_mark(self, name: str) -> None:
        self.act(lambda: self.session.played(name))

    # ------------------------------------------------ the bot

    def rasa(self, act: str) -> None:
        if self.call.asked is not None:
            self.call.asked.put_nowait(act)
            self.settle()

    def the_model_answers(self) -> None:
        if self.jobs.waiting:
            self.jobs.waiting.popleft()()
            self.settle()

    def the_model_is_replaced(self, kind: str) -> None:
        if kind in ("another", "none"):
            self.call.model = Ear(int(time.perf_counter_ns())) if kind == "another" else None
        elif self.call.model is not None:
            self.call.model.failing = kind == "failing"

    def the_voice_speaks(self) -> None:
        if self.voice.gate._waiters:
            self.voice.gate.release()
            self.settle()

    def the_voice_breaks(self, broken: bool) -> None:
        self.voice.broken = broken

    def time_passes(self, seconds: float) -> None:
        """By our clock; the caller's stands still, as far as that is allowed."""
        self.loop.now += seconds
        self.over_by_our_clock = self.over_by_our_clock or seconds > 1
        self.settle()

    # ------------------------------------------------ the end

    def leave(self, cancelled: bool) -> None:
        """At any time; the handler is cancelled, or at something yet."""
        if self.closing:
            return
        if cancelled and self.acting is not None:
            self.acting.cancel()
        self.closing = True
        self.closing_began_idle = self.call.asked is None
        self.ending = self.loop.create_task(self.session.close())
        self.settle()

    def finish(self) -> None:
        self.act(self.session.finish)
        self.finishing = self.finishing or not self.closing

    def nothing_goes_wrong_unseen(self) -> None:
        assert self.problems == []
        self.every_sample_is_heard_once()
        turns = [turn.utterance for turn in self.call.started + self.call.failed if turn.utterance is not None]
        turns = list({id(utterance): utterance for utterance in turns}.values())
        assert len(turns) + self.call.rejected <= len(self.call.utterances)
        ends = [utterance.end_sample for utterance in turns]
        assert ends == sorted(ends) or self.call.failed
        typed = [turn.text for turn in self.call.started if turn.text in self.call.typed]
        assert typed == self.call.typed[: len(typed)]

    def every_sample_is_heard_once(self) -> None:
        if self.loudspeaker.heard:
            heard = np.concatenate(self.loudspeaker.heard).astype(int)
            steps = np.diff(heard, prepend=-1)
            begins = heard % LONGEST_TEXT == 0
            assert begins[0] and np.all((steps == 1) | begins), "a text is torn, or something of it is heard twice"
            assert np.all(np.diff(heard) > 0), "texts are heard out of order"

    def end(self) -> None:
        """Everybody does what they still have to; then the caller leaves, if that was not before."""
        if self.finishing and not self.closing:
            self.until(lambda: not self.acts and self.acting is not None and self.acting.done())
            self.all_is_answered()
        if not self.closing:
            self.leave(False)
        self.until(self.ending.done)
        self.ending.result()
        self.closed = True
        if self.acting is not None:
            self.until(self.acting.done)
            if not self.acting.cancelled():
                self.acting.result()
        assert [task for task in asyncio.all_tasks(self.loop) if not task.done()] == []
        assert len(hand_off) == 0
        over = set(map(id, self.call.over))
        assert over == set(map(id, self.call.started + self.call.failed)) >= set(map(id, self.call.ended)), "a turn has no end"
        self.nothing_goes_wrong_unseen()

    def clean_up(self) -> None:
        logging.getLogger("spoken_intents").removeHandler(self.log)
        speaking.time = time  # type: ignore[attr-defined]
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        self.loop.close()
        hand_off._held.clear()

    def until(self, condition: Callable[[], Any]) -> None:
        """Lets the bot answer whatever it is asked, until the condition holds."""
        for _ in range(2000):
            self.settle()
            if condition():
                return
            if self.jobs.waiting:
                self.jobs.waiting.popleft()()
            elif self.call.asked is not None:
                self.call.asked.put_nowait("done")
            elif self.voice.gate._waiters:
                self.voice.gate.release()
            else:
                self.over_by_our_clock = True
                self.loop.now += 1
        raise AssertionError("it never ends")

    def all_is_answered(self) -> None:
        """Nothing was lost of what was accepted."""
        turns = {id(turn.utterance) for turn in self.call.started + self.call.failed if turn.utterance is not None}
        assert len(turns) + self.call.rejected == len(self.call.utterances)
        assert [turn.text for turn in self.call.started if turn.text.startswith("typed")] == self.call.typed


# What may happen next, how often, and with what: numbers are drawn from 0 to 99.
LOUD = (SURE, SURE, SURE, UNFINISHED, UNSURE, UH_HUH, NOISE, NOISE)
RASA = ("done", "say", "say", "say", "announce", "done", "done", "fail", "hang up", "done")
ACTS: List[Tuple[int, Callable[[Conversation, int], None]]] = [
    (8, lambda call, n: call.speak(LOUD[n % 8], 3 + n // 8, 10)),  # and the silence behind it
    (4, lambda call, n: call.speak(LOUD[n % 8], 1 + n // 8, n % 3)),
    (6, lambda call, n: call.be_silent(n // 2)),
    (2, lambda call, n: call.commit()),
    (1, lambda call, n: call.hold()),
    (3, lambda call, n: call.type()),
    (2, lambda call, n: call.press("1#2121"[n % 5 : n % 5 + 2])),
    (4, lambda call, n: call.marks_come_back()),
    (1, lambda call, n: call.a_mark(f"mark {n // 9}" if not call.marks else "")),
    (12, lambda call, n: call.rasa(RASA[n % 10])),
    (12, lambda call, n: call.the_model_answers()),
    (2, lambda call, n: call.the_model_is_replaced(("another", "none", "failing", "well", "another")[n % 5])),
    (12, lambda call, n: call.the_voice_speaks()),
    (1, lambda call, n: call.the_voice_breaks(n < 20)),
    (3, lambda call, n: call.time_passes((0.05, 0.2, 0.2, 5.0)[n % 4])),
    (1, lambda call, n: call.leave(n < 50) if n % 3 == 0 else None),
    (1, lambda call, n: call.finish() if n % 3 == 0 else None),
]
acts = st.sampled_from([act for often, act in ACTS for _ in range(often)])
kinds = st.builds(
    Kind,
    adaptive=st.booleans(),
    barge_in=st.sampled_from([True, True, True, False]),
    timeout=st.sampled_from([0, 1000]),
    keys=st.sampled_from([0, 3]),
    voice=st.sampled_from([6_000, 20_000, 0]),
    marks=st.booleans(),
    knows_intents=st.booleans(),
    rasa_listens=st.sampled_from([True, True, False]),
    most_waiting=st.sampled_from([16, 2, 1]),
)


@fuzz(share=0.5, kind=kinds, happens=st.lists(st.tuples(acts, st.integers(0, 99)), min_size=30, max_size=120))
def test_any_conversation(kind: Kind, happens: Any) -> None:
    call = Conversation(kind)
    try:
        for act, number in happens:
            act(call, number)
            call.nothing_goes_wrong_unseen()
        call.end()
    finally:
        call.clean_up()
